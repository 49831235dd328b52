"""Pretraining objectives: Document → Example. `OBJECTIVES` maps the name of a recipe to the class of its options."""

from typing import Any

from blankfill.errors import ConfigError, UserError
from blankfill.objectives.albert import Albert
from blankfill.objectives.bart import Bart
from blankfill.objectives.base import Layout, Objective
from blankfill.objectives.bert import Bert
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
from blankfill.system.reading import field, of_kind, shown
from blankfill.system.values import build

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (Bert, Mlm, Albert, SpanBert, Ernie, Unilm, Unilm2, Glm, Gpt, Xlnet, T5, Bart)
}


def objective_from_values(values: object, where: object) -> Objective:
    """The objective saved as JSON values, its name among them, such as in a checkpoint's state.

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
    "Ernie",
    "Format",
    "FramedRow",
    "Glm",
    "Gpt",
    "Layout",
    "MaskWriter",
    "Mlm",
    "Objective",
    "SourceRow",
    "SpanBert",
    "TargetNoise",
    "Unilm",
    "Unilm2",
    "Xlnet",
    "objective_from_values",
]
