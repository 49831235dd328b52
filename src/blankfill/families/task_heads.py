"""The names of fine-tuned heads in transformers' classes, such as `BertForSequenceClassification`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blankfill.model.config import ClassifierTransform

HeadKind = Literal["text", "choice", "token", "span"]
"""Units that a fine-tuned head scores: texts (classes, labels, a number), choices of an item, tokens, ends of an
answer."""
CLASSES: dict[HeadKind, str] = {
    "text": "ForSequenceClassification", "choice": "ForMultipleChoice",
    "token": "ForTokenClassification", "span": "ForQuestionAnswering",
}  # fmt: skip
"""Ends of the names of transformers' classes."""


@dataclass(frozen=True)
class HeadNames:
    """A class of transformers with a head, and the names of the head's layers in it, each without `.weight`."""

    architecture: str
    output: str
    """The layer that gives the scores."""
    dense: str = ""
    """The layer before it, such as BERT's pooler; empty where the class has none."""
    norm: str = ""
    """The norm after that layer."""


@dataclass(frozen=True)
class TaskHeads:
    """The classes of a family with heads. title: the beginning of the names of the classes."""

    title: str
    encoder: str
    """Prefix of the encoder's weights in all classes, with its dot."""
    dense: str
    """The layer before the scores of texts and choices, such as BERT's pooler; with lm_head, of all."""
    transform: ClassifierTransform = "tanh"
    """The function of that layer (`TransformerConfig.classifier_transform`)."""
    norm: str = ""
    """The norm after this layer."""
    text: tuple[str, str] = ("", "")
    """For texts, the layer before the scores and the layer of the scores, if their names are not the usual ones."""
    span: str = "qa_outputs"
    """The layer that scores the ends of an answer."""

    def names(self, kind: HeadKind) -> HeadNames:
        """Return the class for a kind of head, and its names."""
        dense, output = self.dense, self.span if kind == "span" else "classifier"
        if kind == "text" and self.text[0]:
            dense, output = self.text
        elif kind in ("token", "span") and self.transform != "lm_head":
            dense = ""
        return HeadNames(self.title + CLASSES[kind], output, dense, self.norm)
