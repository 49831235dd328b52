"""The names of fine-tuned heads in transformers' classes, such as `BertForSequenceClassification`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """Prefix of the encoder's weights in the classes, with its dot."""
    dense: str
    """The layer before the scores of texts and choices, such as BERT's pooler; with lm_head, of all."""
    transform: ClassifierTransform = "tanh"
    """The function of that layer (`TransformerConfig.classifier_transform`)."""
    norm: str = ""
    """The norm after this layer."""
    text: tuple[str, str] = ("", "")
    """For texts, the layer before the scores and the layer of the scores, if their names are not the usual ones."""
    choice: str = "classifier"
    """The layer that scores choices."""
    span: str = "qa_outputs"
    """The layer that scores the ends of an answer."""
    ends: Mapping[HeadKind, str] = field(default_factory=dict)
    """Ends of the names of classes that differ from `CLASSES`."""
    kinds: tuple[HeadKind, ...] = ("text", "choice", "token", "span")
    """The kinds of heads for which the family has a class."""
    prefixes: Mapping[HeadKind, str] = field(default_factory=dict)
    """Prefixes of the encoder's weights that differ from `encoder`."""
    bare: str = ""
    """Prefix of the encoder's weights in the family's own format without a head."""
    encoder_only: tuple[HeadKind, ...] = ()
    """Of a family of two stacks, the kinds whose class has the encoder alone."""
    left_out: tuple[str, ...] = ()
    """Beginnings of the names of weights that the classes do not have, although the family's bare format has them."""

    def names(self, kind: HeadKind) -> HeadNames:
        """Return the class for a kind of head, and its names."""
        outputs = {"text": "classifier", "choice": self.choice, "token": "classifier", "span": self.span}
        dense, output = self.dense, outputs[kind]
        if kind == "text" and self.text[0]:
            dense, output = self.text
        elif kind in ("token", "span") and self.transform != "lm_head":
            dense = ""
        return HeadNames(self.title + self.ends.get(kind, CLASSES[kind]), output, dense, self.norm)

    def prefix(self, kind: HeadKind) -> str:
        """Return the prefix of the encoder's weights in the class for a kind of head, with its dot."""
        return self.prefixes.get(kind, self.encoder)
