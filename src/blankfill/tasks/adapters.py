"""Which adapter a kind of task has."""

from __future__ import annotations

from blankfill.tasks.adapter import Adapter
from blankfill.tasks.answer_adapters import Answer
from blankfill.tasks.cloze_adapters import ClozeChoices, ClozeTexts
from blankfill.tasks.seq2seq_adapter import Write
from blankfill.tasks.tag_adapters import Tag
from blankfill.tasks.text_adapters import Choose, Classify, Multilabel, Regress

ADAPTERS: dict[str, type[Adapter]] = {
    "classify": Classify, "regress": Regress, "multilabel": Multilabel, "choice": Choose, "tag": Tag,
    "answer": Answer, "generate": Write,
}  # fmt: skip
"""Kinds of tasks that a head on an encoder can answer, or a model that writes."""

CLOZE: dict[str, type[ClozeTexts | ClozeChoices]] = {"classify": ClozeTexts, "choice": ClozeChoices}
"""Kinds of tasks that can be put as a sentence with a blank."""
