"""A source and the text written from it, as UniLM reads and learns them (Dong et al. 2019; Bao et al. 2020).

`[CLS] source [SEP] target [SEP]`: the source sees itself both ways, a token of the target sees the source and what
stands before it. Every token is asked for at a mask of its own position. How it is *learnt* differs:

unilm   70% of the target's tokens, its end among them, are masked where they stand, drawn anew for each step; of these
        80% become [MASK], 10% a random token, 10% stay (the released code, seq2seq_loader.py)
unilm2  the target stays whole, and behind it a pseudo mask for each token sees the source and the tokens before it

How well a target is *written* is measured the second way for both: no mask is seen by another, as in writing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from blankfill.generate.engine import Context, asking_context
from blankfill.objectives import MaskWriter, Unilm
from blankfill.objectives.base import join, replacements
from blankfill.objectives.unilm2 import step_rule
from blankfill.tasks.batches import Batches, Encoded, Epochs
from blankfill.tasks.frames import NOTHING, fit
from blankfill.tasks.seq2seq import Source, Writing
from blankfill.types import AttentionRule, Example, Vocabulary

MASKED = 0.7
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
DRAWS = 1 << 40
"""Where the keys of the draws of masks begin, beyond those of the orders of epochs."""


class UnilmWriting(Writing):
    """Makes sources and targets into what a UniLM reads."""

    @property
    def objective(self) -> MaskWriter:
        """The model's objective."""
        assert isinstance(self.frames.objective, MaskWriter)
        return self.frames.objective

    @property
    def end_role(self) -> str:
        """What ends a target."""
        return "sep"

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """A source, and what is given beside it, as tokens without special ones."""
        pair = second is not None
        a, b = np.asarray(first, np.int32), np.asarray(second if pair else (), np.int32)
        keep_a, keep_b = fit(len(a), len(b), self.frames.length - self._fixed(pair) - self.longest)
        cls, sep = [self.roles["cls"]], [self.roles["sep"]]
        ids = join(cls, a[:keep_a], sep)
        if pair:
            ids = join(ids, b[:keep_b], sep)
        return Source(ids, -1, len(a) - keep_a + len(b) - keep_b)

    def learnt(self, source: Source, target: Sequence[int]) -> Encoded:
        """A source and its target as they are learnt from: for UniLM v1 in one row, to be masked."""
        if not isinstance(self.objective, Unilm):
            return self.encoded(source, target)
        answers = np.array(self.whole(target), np.int32)
        first, size = len(source.ids), len(source.ids) + len(answers)
        positions = self._positions(first, np.arange(size))
        rule = AttentionRule.prefix(first, size)
        example = Example(join(source.ids, answers), positions, rule, NOTHING, NOTHING)
        return Encoded((example,), (np.arange(first, size, dtype=np.int32),), answers.astype(np.int64))

    def encoded(self, source: Source, target: Sequence[int]) -> Encoded:
        """A source and its target, given whole; each token of it and its end is asked for at a mask behind them."""
        answers = np.array(self.whole(target), np.int32)
        count, first = len(answers), len(source.ids)
        ids = join(source.ids, answers, np.full(count, self.roles[self.objective.asks], np.int32))
        places = np.arange(first, first + count, dtype=np.int32)
        positions = self._positions(first, join(np.arange(first, dtype=np.int32), places, places))
        rule = step_rule(first, np.arange(1, count + 1, dtype=np.int32))
        columns = np.arange(first + count, len(ids), dtype=np.int32)
        example = Example(ids, positions, rule, NOTHING, NOTHING)
        return Encoded((example,), (columns,), answers.astype(np.int64))

    def batches(self, items: Sequence[Encoded], epochs: Epochs, pad: int, micro: int) -> Batches:
        """The batches of a run: for UniLM v1 with masks drawn anew for each step."""
        if not isinstance(self.objective, Unilm):
            return Batches(items, epochs, pad, micro)
        return MaskedTargets(items, epochs, pad, micro, self.frames.vocabulary)

    def context(self, source: Source) -> Context:
        """What the decoder reads before it writes."""
        ids = source.ids.tolist()
        asks = self.roles[self.objective.asks]
        return asking_context(ids, len(ids) + self.longest + 1, asks, self.objective.sides)

    def _positions(self, first: int, places: np.ndarray) -> np.ndarray:
        """int32[2, L]: places, and the token types of a row whose source has `first` columns."""
        types = np.full(len(places), self.objective.sides[1], np.int32)
        types[:first] = self.objective.sides[0]
        return np.stack([places.astype(np.int32), types])

    def _fixed(self, pair: bool) -> int:
        """Special tokens of a row, the end of the target among them."""
        return 4 if pair else 3


class MaskedTargets(Batches):
    """Batches in which targets are masked: a function of (seed, step, place in the step)."""

    def __init__(self, items: Sequence[Encoded], epochs: Epochs, pad: int, micro: int, vocabulary: Vocabulary) -> None:
        super().__init__(items, epochs, pad, micro)
        self.vocabulary = vocabulary

    def chosen(self, step: int) -> list[Encoded]:
        """The items of a step."""
        return [
            masked_target(item, self.vocabulary, self._rng(step, place))
            for place, item in enumerate(super().chosen(step))
        ]

    def _rng(self, step: int, place: int) -> np.random.Generator:
        number = DRAWS + step * self.epochs.size + place
        return np.random.Generator(np.random.Philox(key=[self.epochs.seed, number]))


def masked_target(item: Encoded, vocabulary: Vocabulary, rng: np.random.Generator) -> Encoded:
    """A copy in which 70% of the asked columns, at least one, are asked, and masked as BERT masks."""
    (example,), (columns,) = item.examples, item.columns
    index = rng.choice(columns, max(1, round(MASKED * len(columns))), replace=False).astype(np.int64)
    choice = replacements(example.input_ids, index, vocabulary, rng, MASK_SHARE, RANDOM_SHARE, ordinary=False)
    ids = example.input_ids.copy()
    ids[choice.index] = choice.inputs
    answers = example.input_ids[choice.index].astype(np.int64)
    return Encoded((dataclasses.replace(example, input_ids=ids),), (choice.index,), answers)
