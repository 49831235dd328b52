"""The adapter of each kind of task."""

from __future__ import annotations

from blankfill.tasks.adapter import Adapter
from blankfill.tasks.chat.adapter import Converse
from blankfill.tasks.cloze.adapters import ClozeChoices, ClozeTexts
from blankfill.tasks.heads.questions import Answer
from blankfill.tasks.heads.tags import Tag
from blankfill.tasks.heads.texts import Choose, Classify, Multilabel, Regress
from blankfill.tasks.text.seq2seq_adapter import Write

ADAPTERS: dict[str, type[Adapter]] = {
    "classify": Classify, "regress": Regress, "multilabel": Multilabel, "choice": Choose, "tag": Tag,
    "answer": Answer, "generate": Write, "chat": Converse,
}  # fmt: skip
"""Kinds of tasks for a head on an encoder, or for a model that generates text."""

CLOZE: dict[str, type[ClozeTexts | ClozeChoices]] = {"classify": ClozeTexts, "choice": ClozeChoices}
"""Kinds of tasks that can be expressed as a sentence with a blank."""
