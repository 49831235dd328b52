"""A Sphinx directive that writes a table of options from the dataclass that holds them.

    ```{options} blankfill.objectives.glm.Glm --objective.
    ```

The name, the default and the string literal under each field become a row. Only `conf.py` uses it.
"""

import dataclasses
import importlib

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from blankfill.system.schema import fields_of


class Options(Directive):
    """`{options} MODULE.CLASS PREFIX`: the fields of a dataclass, those of its bases first."""

    required_arguments = 1
    optional_arguments = 1

    def run(self):
        """Parse a Markdown table in place."""
        module, _, name = self.arguments[0].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        prefix = self.arguments[1] if len(self.arguments) > 1 else "--"
        node = nodes.container()
        self.state.nested_parse(StringList(table(kind, prefix), self.arguments[0]), self.content_offset, node)
        return node.children


def table(kind, prefix):
    """The lines of a Markdown table of a dataclass's fields."""
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for field in fields_of(kind):
        if field.option.hidden:
            continue
        name = field.name.upper() if field.option.positional else prefix + field.flag
        meaning = field.help.replace("|", "\\|")
        lines.append(f"| `{name}` | {shown(field.default)} | {meaning} |")
    return lines


def shown(value):
    """A default as it would be typed."""
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value in ("", ()):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
