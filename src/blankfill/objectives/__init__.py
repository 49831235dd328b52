"""Pretraining objectives: Document → Example. `OBJECTIVES` maps the name of a recipe to the class of its options.

`register_objective` adds one of the user's own. An installed package offers its objectives by entry points of the group
`blankfill.objectives`: the name is the objective's, the object is its class.
"""

import dataclasses
from typing import Any

from blankfill.errors import ConfigError, UserError
from blankfill.objectives.albert import Albert
from blankfill.objectives.bart import Bart
from blankfill.objectives.base import ANY, Objective, PackingSpec, ShownColumn
from blankfill.objectives.bert import Bert
from blankfill.objectives.chatglm import ChatGlm, Glm130b
from blankfill.objectives.electra import Electra
from blankfill.objectives.ernie import Ernie
from blankfill.objectives.format import Format, FramedRow, SourceRow, TargetNoise
from blankfill.objectives.glm import Glm
from blankfill.objectives.gpt import Gpt
from blankfill.objectives.mlm import Mlm
from blankfill.objectives.query_tokens import MaskWriter
from blankfill.objectives.spanbert import SpanBert
from blankfill.objectives.t5 import T5
from blankfill.objectives.unilm import Unilm
from blankfill.objectives.unilm2 import Unilm2
from blankfill.objectives.xlnet import Xlnet
from blankfill.system.loader import build
from blankfill.system.reading import field, of_kind, shown
from blankfill.system.registry import Registry


def _check(name: str, kind: type[Objective]) -> None:
    """Raise TypeError or ValueError for what is no objective, or an objective of another name."""
    if not (isinstance(kind, type) and issubclass(kind, Objective) and dataclasses.is_dataclass(kind)):
        raise TypeError(f"an objective is a dataclass that extends Objective, which {kind!r} is not")
    if getattr(kind, "name", None) != name:
        raise ValueError(f"the objective {getattr(kind, 'name', kind.__name__)} cannot be registered as {name}")


_BUILT_IN = (Bert, Mlm, Albert, SpanBert, Ernie, Unilm, Unilm2, Glm, ChatGlm, Glm130b, Gpt, Xlnet, T5, Bart, Electra)

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective", "blankfill.objectives", {kind.name: kind for kind in _BUILT_IN}, _check
)


def register_objective(kind: type[Objective]) -> type[Objective]:
    """Make an objective of the user's own known under its name, for recipes and checkpoints of this process.

    Args:
        kind: The class: a frozen dataclass that extends `Objective`.

    Returns:
        The class, so that the function can be used as a decorator above `@dataclass`.

    Raises:
        ValueError: Another objective has the name.
        TypeError: The argument is not a dataclass that extends `Objective`.
    """
    OBJECTIVES.register(getattr(kind, "name", ""), kind)
    return kind


def label_meaning(name: str, value: int) -> str:
    """Return the meaning of a value of a whole-example label, "" if no objective defines it."""
    for kind in OBJECTIVES.values():
        if name in kind.label_meanings:
            meanings = kind.label_meanings[name]
            return meanings.get(value, meanings.get(ANY, ""))
    return ""


def objective_from_values(values: object, where: object) -> Objective:
    """Return the objective saved as JSON values, its name among them, such as in a checkpoint's state.

    where: the file, for messages. Raises UserError or ConfigError for options that no objective can have.
    """
    given: dict[str, Any] = dict(of_kind(values, dict, f"{where}: `objective`"))
    name = field(given, "name", str, f"{where}: `objective`")
    if name not in OBJECTIVES:
        raise UserError(f"{where}: the objective is {shown(name)}; the known ones are {', '.join(OBJECTIVES)}")
    del given["name"]
    objective = build(OBJECTIVES[name], given, f"{where}: `objective`")
    if problems := objective.problems():
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return objective


__all__ = [
    "OBJECTIVES",
    "T5",
    "Albert",
    "Bart",
    "Bert",
    "ChatGlm",
    "Electra",
    "Ernie",
    "Format",
    "FramedRow",
    "Glm",
    "Glm130b",
    "Gpt",
    "MaskWriter",
    "Mlm",
    "Objective",
    "PackingSpec",
    "ShownColumn",
    "SourceRow",
    "SpanBert",
    "TargetNoise",
    "Unilm",
    "Unilm2",
    "Xlnet",
    "label_meaning",
    "objective_from_values",
    "register_objective",
]
