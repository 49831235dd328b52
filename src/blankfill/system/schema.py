"""The schema of recipes, command lines, grids and saved options: dataclasses of options.

The annotation of a field is its type, the string below the field its help, `BOUNDS` the range of its numbers
(`system.bounds`), `GROUPS` the headings of its help. `Annotated[..., Option(...)]` adds what an annotation cannot
express: a name that Python reserves, a positional argument, choices that are known only at run time. `system.loader`
reads values.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from blankfill.errors import Problem, setting

RENAMED: Mapping[str, str] = {
    "word_lr": "embedding_lr_multiplier", "hold": "constant_steps", "clip": "max_grad_norm",
    "keep": "save_total_limit", "short_length": "phase1_length", "short_steps": "phase1_steps",
    "batch_start": "batch_size_start", "batch_ramp": "batch_size_warmup", "restarts": "num_seeds",
    "train_items": "max_train_samples", "hold_out": "validation_split", "eval_items": "max_eval_samples",
    "longest_target": "max_target_length", "longest_question": "max_query_length",
    "longest_answer": "max_answer_length", "null_odds": "na_prob_file", "several_masks": "multi_token",
    "stack": "head_on", "top": "head",
    "text_field": "columns", "text_column": "columns", "label_column": "columns", "id_column": "columns",
}  # fmt: skip
"""Options that had another name in an earlier version, for suggestions."""
LONGEST_NAME = 100
"""Number of characters of an unknown name that are compared with known names; very long names would take seconds."""


@dataclass(frozen=True)
class Option:
    """Properties of a field that its annotation cannot express. name: name on the command line, if not the field's own.

    choices: returns the possible values of a text. metavar: placeholder for the value in the help. unless: the option
    without which this one is required, for a field that has a default for that case. suggestions: returns some of the
    values that a text may have, for the completion of command lines. repeats: whether a list gets the values of every
    use of the option, and not of the last one alone.
    """

    name: str = ""
    positional: bool = False
    hidden: bool = False
    choices: Callable[[], Collection[str]] | None = None
    metavar: str = ""
    unless: str = ""
    suggestions: Callable[[], Collection[str]] | None = None
    repeats: bool = False


@dataclass(frozen=True)
class Field:
    """A field of a class of options. name: as Python has it. hint: its type. help: the string below it."""

    name: str
    hint: Any
    default: Any
    help: str
    option: Option

    @property
    def flag(self) -> str:
        """Its name on the command line, without the dashes before it."""
        return (self.option.name or self.name).replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING


def fields_of(options: type[Any]) -> tuple[Field, ...]:
    """Return the fields of a dataclass that can be given, in their order."""
    return _fields_of(options)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _fields_of(options: type[Any]) -> tuple[Field, ...]:
    hints, texts = get_type_hints(options, include_extras=True), help_of(options)
    fields = []
    for field in dataclasses.fields(options):
        if not field.init:
            continue
        hint, option = hints[field.name], Option()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            option = next((extra for extra in extras if isinstance(extra, Option)), option)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields.append(Field(field.name, hint, default, texts.get(field.name, ""), option))
    return tuple(fields)


def help_of(options: type) -> dict[str, str]:
    """Return the string below each field of a class and of the classes that it extends, in one line."""
    texts: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        except (OSError, TypeError, SyntaxError):  # made at run time, or without its source
            continue
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                texts[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return texts


def groups_of(options: type) -> Mapping[str, Sequence[str]]:
    """Return the headings of a class's help, and the names of the fields below each; `GROUPS` has them with spaces
    between."""
    groups: Mapping[str, str] = getattr(options, "GROUPS", {})
    return {title: names.split() for title, names in groups.items()}


def expected(hint: Any) -> str:
    """Return a phrase for the values of a type, for a message: "a whole number"."""
    names: dict[Any, str] = {
        int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path",
        type(None): "null", None: "null",
    }  # fmt: skip
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join(expected(part) for part in parts)
    if origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
        return f"a list of {len(parts)} values"
    if origin in (tuple, list, Sequence):
        return "a list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "a section of options"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def optional(hint: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        if len(parts) == 1 and len(get_args(hint)) == 2:
            return parts[0], True
    return hint, False


def item_type(hint: Any) -> Any:
    """Return the type of the values of a list of any length; None for a type that is no such list."""
    parts = get_args(hint)
    if get_origin(hint) is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return parts[0]
    return parts[0] if get_origin(hint) in (list, Sequence) else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that someone who wrote `name` meant; "" when none is near. Known names are Python's."""
    names = list(known)
    renamed = RENAMED.get(name.replace("-", "_"))
    if renamed in names:
        return str(renamed)
    close = difflib.get_close_matches(name[:LONGEST_NAME].replace("-", "_"), names, 1)
    return close[0] if close else ""


def unknown(path: str, known: Sequence[str], where: str = "") -> Problem:
    """Return the sentence about a setting that does not exist. path: its name; known: those beside it, with their
    sections.

    where: what lists the settings, in place of the list itself.
    """
    section, _, name = path.rpartition(".")
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    wanted = RENAMED.get(name, name)
    elsewhere = [key for key in known if key.rpartition(".")[2] == wanted]
    close = [] if wanted in beside else elsewhere  # the right name in another section, such as lr for train.lr
    if not close and (near := nearest(name, beside)):
        close = [beside[near]]
    # Compared whole, names of one section resemble one another by its name alone.
    if not close and not (section and beside):
        close = difflib.get_close_matches(path[:LONGEST_NAME], known, 1)
    shown = path if len(path) <= LONGEST_NAME else f"{path[:40]}… of {len(path):,} characters"
    if close:
        hint = f"did you mean {' or '.join(map(setting, close))}?"
    else:
        hint = where or f"known: {', '.join(beside or known)}"
    return Problem(f"there is no option {setting(shown)}; {hint}")
