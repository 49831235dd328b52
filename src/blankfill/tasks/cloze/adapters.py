"""Tasks as sentences with a blank: texts with labels, and items with their own choices.

Predictions, metrics and analyses are those of the adapters of heads; only the encoding of items and the sums of scores
are the cloze's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blankfill.errors import ConfigError
from blankfill.model.transformer import Transformer
from blankfill.tasks.adapter import EncodedSet, LMHeadAdapter, Prediction, Scores
from blankfill.tasks.cloze.items import ClozeItem, ClozeReader
from blankfill.tasks.cloze.model import ClozeModel
from blankfill.tasks.cloze.pattern import Pattern, Piece, item_fields, numbered, pattern_text, read_patterns
from blankfill.tasks.cloze.targets import ClozeTargets
from blankfill.tasks.heads.texts import Choose, Classify, chosen, classified
from blankfill.tasks.items import ChoiceItem, Item, TextItem

MOST_CHOICES = 10
"""Largest number of choices of a training item, with the right one, as PET draws them for ReCoRD."""


class Cloze(LMHeadAdapter):
    """The base of both kinds: a pattern, its reader, and a model that predicts with its language-model head."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        labels = None if self.task.kind == "choice" else self.labels
        text, origin = pattern_text(self.options.patterns, self.task.name)
        self.pattern: Pattern = numbered(read_patterns(text, origin, labels), self.options.pattern, origin)
        vocabulary = self.input_format.vocabulary
        self.reader = ClozeReader(self.tokenizer, self.input_format, vocabulary, False)
        self.reader.single = self.single = labels is not None and self._one_token()

    def patterns(self) -> str:
        """Return the patterns and their words."""
        return pattern_text(self.options.patterns, self.task.name)[0]

    @property
    def hinge(self) -> bool:
        """Whether words may take several masks: see `cloze.model`."""
        return not self.single and self.input_format.objective.cloze == "masks"

    def model(self, encoder: Transformer) -> ClozeModel:
        """Return the model that is trained."""
        return ClozeModel(encoder, self.single, self.hinge, self.options.mlm_weight)

    def _one_token(self) -> bool:
        """Return whether every word is one token; ConfigError for words that are the same to the tokenizer."""
        names = {part.name for part in self.pattern.parts if not isinstance(part, str)}
        space = next(p.text for p in self.pattern.pieces(dict.fromkeys(names, "a")) if p.kind == "mask")
        words = {
            (label, word): self.reader.word(space + word) for label, ws in self.pattern.words.items() for word in ws
        }
        owners: dict[tuple[int, ...], str] = {}
        for (label, word), ids in words.items():
            if (owner := owners.setdefault(tuple(ids.tolist()), label)) != label:
                raise ConfigError(
                    [f"{self.pattern.name}: {word}, the word of {label}, is to the tokenizer one of {owner} too"]
                )
        return all(len(ids) == 1 for ids in words.values())

    def read(self, cloze_items: Sequence[ClozeItem], items: Sequence[Item], learn: bool) -> EncodedSet:
        """Encode cloze items, for training or for predictions."""
        in_turn = self.hinge and not learn and self.options.multi_token == "surest-first"
        encoded = self.reader.read(cloze_items, in_turn)
        self.cut = self.reader.cut
        return EncodedSet(items, encoded)

    def added(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Scores]:
        """Return the score of each label of each item."""
        return [
            np.bincount(ClozeTargets.from_table(encoded.answers).label, scores_K1[:, 0]).astype(np.float32)
            for encoded, scores_K1 in zip(encoded_set.encoded, scores, strict=True)
        ]


class ClozeTexts(Cloze, Classify):
    """Texts with labels, each of which is one word or several."""

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode each item with the pattern."""
        words = [self.pattern.words[label] for label in self.labels]
        cloze = [ClozeItem(self._pieces(item), words, item.label) for item in items if isinstance(item, TextItem)]
        return self.read(cloze, items, learn)

    def _pieces(self, item: TextItem) -> list[Piece]:
        return self.pattern.pieces(item_fields(item))

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the label with the highest score, and the probabilities of all."""
        return [classified(scores_C, self.labels) for scores_C in self.added(encoded_set, scores)]


class ClozeChoices(Cloze, Choose):
    """Items with choices of their own, each written into the blank."""

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode each item with the pattern. learn: with at most `MOST_CHOICES` choices, and only the first of several
        right ones."""
        rng = np.random.Generator(np.random.Philox(self.options.seed))
        cloze = []
        for item in items:
            assert isinstance(item, ChoiceItem)
            fields = item_fields(item)
            names = item.names or item.choices
            places = self._learnt(item, rng) if learn else range(len(item.choices))
            words = [[self.pattern.filler({**fields, "choice": item.choices[k], "name": names[k]})] for k in places]
            right = None if item.label is None else list(places).index(item.label)
            cloze.append(ClozeItem(self.pattern.pieces(fields), words, right))
        return self.read(cloze, items, learn)

    def _learnt(self, item: ChoiceItem, rng: np.random.Generator) -> list[int]:
        label = item.label or 0
        others = [k for k in range(len(item.choices)) if k != label and k not in item.right]
        if len(others) >= MOST_CHOICES:
            others = sorted(rng.choice(others, MOST_CHOICES - 1, replace=False).tolist())
        return sorted([label, *others])

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the choice with the highest score, counted from 0, its text, and the probabilities of all."""
        return [
            chosen(item, scores_C)
            for item, scores_C in zip(encoded_set.items, self.added(encoded_set, scores), strict=True)
        ]
