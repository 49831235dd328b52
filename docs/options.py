"""A Sphinx directive that writes a table of options from the dataclass that holds them.

    ```{options} blankfill.objectives.glm.Glm --objective.
    ```

The name, the default and the string literal under each field become a row. Only `conf.py` uses it.
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import textwrap

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


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
    meanings = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            meanings |= field_docs(base)
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        if "Positional" in str(field.type):
            name = field.name.upper()
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        lines.append(f"| `{name}` | {shown(field.default)} | {meaning} |")
    return lines


def shown(value):
    """A default as it would be typed."""
    if value is dataclasses.MISSING or "MISSING" in repr(value):
        return "required"
    if value is None or value in ("", ()):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def field_docs(kind):
    """Return the docstring under each field of a class body: name → text in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    texts = {}
    for field, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts
