"""Running a template that may come from somewhere, with a model or a data set: Jinja's sandbox, with limits.

The sandbox keeps a template from files, from the network and from Python's internals. The limits end one that computes
for ever or fills the memory: steps of loops, calls, and the characters that are written or joined are counted
(`Limits`). Filters that count are put into the tree of the template before it is compiled. A single `replace` or `join`
may still make a text longer than the limit, since a text is counted when it is written.

Not here: what a template gets and what its text becomes (`chatting.templates`, `prompts.templates`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.filters import do_format
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from blankfill.errors import UserError

STEPS = 2_000_000
"""Largest number of steps of a template that writes a text once; they take some seconds."""
CALL = 10
"""Steps of a call, which takes longer than one of a loop."""
CHARACTERS = 1 << 27
"""Largest number of characters that it writes and joins."""
REPEATED = 1 << 20
"""Largest size of what `*` repeats, and largest width of a text that is filled up."""
FILLING = ("center", "indent", "batch", "format")
"""Filters that fill a text or a list up to a size."""


class Limits:
    """What a template has used of its limits."""

    def __init__(self) -> None:
        self.steps = self.characters = 0

    def count(self, steps: int = 0, characters: int = 0) -> None:
        """Count steps and characters. Raises SecurityError beyond a limit."""
        self.steps += steps
        self.characters += characters
        if self.steps > STEPS:
            raise SecurityError(f"it takes more than {STEPS:,} steps")
        if self.characters > CHARACTERS:
            raise SecurityError(f"it writes more than {CHARACTERS:,} characters")


_limits: ContextVar[Limits] = ContextVar("limits")


@contextmanager
def limited() -> Iterator[None]:
    """Count what a template uses in the block from zero."""
    token = _limits.set(Limits())
    try:
        yield
    finally:
        _limits.reset(token)


# `pass_context` keeps Jinja from computing the filters when it compiles.
@pass_context
def _counted(_: object, values: Iterable[Any]) -> Iterator[Any]:
    """Yield what a loop goes through."""
    limits = _limits.get()
    for value in values:
        limits.count(steps=1)
        yield value


@pass_context
def _written(_: object, value: Any) -> str:
    """Return a value as the text that is written."""
    text = value if isinstance(value, str) else str(value)
    _limits.get().count(characters=len(text))
    return text


class _Counting(NodeTransformer):
    """Puts the filters that count into the tree of a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # jinja2's name
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802  # jinja2's name
        self.generic_visit(node)
        node.nodes = [_filtered(child, "_written") for child in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # jinja2's name
        self.generic_visit(node)
        return _filtered(node, "_written")


def _filtered(node: nodes.Node, name: str) -> nodes.Expr:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of templates; blocks leave no white space, as in transformers. Texts are written within
    `limited`."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, **options)
        self.filters.update({name: _at_most(self.filters[name]) for name in FILLING})
        self.filters |= {"_counted": _counted, "_written": _written}
        del self.globals["lipsum"]

    def compiled(self, source: str, where: str, remedy: str = "") -> Template:
        """Return a template, which counts its steps.

        where: its file. remedy: for a template that is not Jinja. Raises UserError for one that cannot be read.
        """
        try:
            tree = _Counting().visit(self.parse(source, filename=where))
            code: Any = self.compile(tree, filename=where)
        except TemplateSyntaxError as error:
            what = " ".join(str(error.message).split())
            remedy = f"; {remedy}" if remedy else ""
            raise UserError(f"{where}, line {error.lineno}: the template cannot be read ({what}){remedy}") from None
        except (RecursionError, MemoryError, OverflowError, ValueError) as error:
            raise UserError(f"{where}: the template cannot be read ({error or type(error).__name__})") from None
        return Template.from_code(self, code, self.globals)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as in its base
        """Call a function or a method of the template."""
        inner = isinstance(__obj, LoopContext)  # of a recursive loop, which is called with what it goes through
        _limits.get().count(steps=CALL + (sum(len(arg) for arg in args if hasattr(arg, "__len__")) if inner else 0))
        if isinstance(getattr(__obj, "__self__", None), str):
            _check_sizes((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation whose result may be large."""
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if hasattr(sized, "__len__") and isinstance(times, int) and len(sized) * times > REPEATED:
                    raise SecurityError(f"it repeats a value to more than {REPEATED:,} parts")
        elif operator == "**":
            _check_sizes((right,), 1000)
        elif operator == "%":
            _check_widths(left)
        elif hasattr(left, "__len__") and hasattr(right, "__len__"):
            _limits.get().count(characters=len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return the method `format` of a text, within the sandbox; None for another value."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped


def _at_most(fill: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses large sizes."""

    def filled(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_sizes((*args, *kwargs.values()))
        if fill is do_format:
            _check_widths(value)
        return fill(value, *args, **kwargs)

    return filled


def _check_widths(text: Any) -> None:
    """Raise SecurityError for a format with a large number, which is a width."""
    if isinstance(text, str):
        _check_sizes(int(number[:20]) for number in re.findall(r"\d+", text))


def _check_sizes(values: Iterable[Any], most: int = REPEATED) -> None:
    """Raise SecurityError for a number that is too large for a size."""
    if any(isinstance(value, int) and value > most for value in values):
        raise SecurityError(f"it has a number above {most:,} where a size is wanted")
