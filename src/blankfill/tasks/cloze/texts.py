"""Masked copies of texts for an auxiliary loss, so that the model does not forget how to fill blanks (PET).

Each step has as many texts as items, in an order of their own; 15% of their ordinary tokens are targets, masked like
BERT's. The masks are a function of (seed, step, place in the step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from blankfill.objectives.base import replacements
from blankfill.tasks.batching import ANSWER, Batches, EncodedItem, Epochs, pack
from blankfill.tasks.cloze.model import TEXT
from blankfill.types import Batch, Example, Vocabulary

MASKED = 0.15
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class WithTexts(Batches):
    """The batches of items; each step ends with a batch of masked texts."""

    def __init__(self, items: Batches, texts: Sequence[Example], vocabulary: Vocabulary) -> None:
        super().__init__(items.items, items.epochs, items.pad, items.micro)
        self.texts, self.vocabulary = texts, vocabulary
        self.order = Epochs(len(texts), min(items.epochs.size, len(texts)), items.epochs.seed)

    def step(self, step: int) -> list[Batch]:
        """Return the batches of a step."""
        return [*super().step(step), self._masked(step)[0]]

    def rows(self, step: int) -> list[int]:
        """Return the number of the first item in each row of a step's batches; texts are numbered after the items."""
        return [*super().rows(step), *self._masked(step)[1]]

    def _masked(self, step: int) -> tuple[Batch, list[int]]:
        chosen = self.order.items(step)
        copies = [masked(self.texts[k], self.vocabulary, self._rng(step, place)) for place, k in enumerate(chosen)]
        packed = pack(copies, self.pad)
        batch = dataclasses.replace(packed.batch, labels={TEXT: packed.batch.labels[ANSWER]})
        return batch, [len(self.items) + int(chosen[k]) for k in packed.rows]

    def _rng(self, step: int, place: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.epochs.seed, step * self.order.size + place]))


def masked(text: Example, vocabulary: Vocabulary, rng: np.random.Generator) -> EncodedItem:
    """Return a copy of a text in which some tokens are targets."""
    ids = text.input_ids
    ordinary = np.flatnonzero(~np.isin(ids, list(vocabulary.special)))
    count = min(len(ordinary), max(1, round(MASKED * len(ordinary))))
    index = rng.choice(ordinary, count, replace=False)
    choice = replacements(ids, index, vocabulary, rng, MASK_SHARE, RANDOM_SHARE, ordinary=True)
    copy = ids.copy()
    copy[choice.index] = choice.inputs
    answers = ids[choice.index].astype(np.int64)
    return EncodedItem((dataclasses.replace(text, input_ids=copy),), (choice.index,), answers)
