"""Pretraining objectives: Document → Example. `OBJECTIVES` maps the name of a recipe to the class of its options."""

from blankfill.objectives.albert import Albert
from blankfill.objectives.bart import Bart
from blankfill.objectives.base import Layout, Objective
from blankfill.objectives.bert import Bert
from blankfill.objectives.ernie import Ernie
from blankfill.objectives.glm import Glm
from blankfill.objectives.gpt import Gpt
from blankfill.objectives.mlm import Mlm
from blankfill.objectives.spanbert import SpanBert
from blankfill.objectives.t5 import T5
from blankfill.objectives.unilm import MaskWriter, Unilm
from blankfill.objectives.unilm2 import Unilm2
from blankfill.objectives.xlnet import Xlnet

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (Bert, Mlm, Albert, SpanBert, Ernie, Unilm, Unilm2, Glm, Gpt, Xlnet, T5, Bart)
}

__all__ = [
    "OBJECTIVES",
    "T5",
    "Albert",
    "Bart",
    "Bert",
    "Ernie",
    "Glm",
    "Gpt",
    "Layout",
    "MaskWriter",
    "Mlm",
    "Objective",
    "SpanBert",
    "Unilm",
    "Unilm2",
    "Xlnet",
]
