"""A source and the text written from it, as UniLM reads and learns them (Dong et al. 2019; Bao et al. 2020).

`[CLS] source [SEP] target [SEP]`: the source sees itself both ways, a token of the target sees the source and what
stands before it. Every token is asked for at a mask of its own position. How it is *learnt* differs:

unilm   as many columns as 70% of the target's tokens, drawn anew for each step from these and the end, are masked where
        they stand; of these 80% become [MASK], 10% a random token, 10% stay (the released code, seq2seq_loader.py)
unilm2  the target stays whole, and behind it a pseudo mask for each token sees the source and the tokens before it;
        with `Noise` some of both is something else, drawn anew for each step (the released code, s2s-ft)

How well a target is *written* is measured the second way for both: no mask is seen by another, as in writing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from blankfill.objectives import MaskWriter
from blankfill.objectives.base import replacements
from blankfill.objectives.format import join
from blankfill.objectives.query_tokens import query_input, step_rule
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.input_format import NOTHING, truncate_pair
from blankfill.tasks.text.seq2seq import QUIET, Noise, Source, Writing
from blankfill.types import AttentionRule, DecoderInput, Example, Vocabulary

MASKED = 0.7
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
DRAWS = 1 << 40
"""Where the keys of the draws of masks begin, beyond those of the orders of epochs."""

Change = Callable[[EncodedItem, np.random.Generator], EncodedItem]


class UnilmWriting(Writing):
    """Makes sources and targets into what a UniLM reads."""

    @property
    def objective(self) -> MaskWriter:
        """The model's objective."""
        assert isinstance(self.input_format.objective, MaskWriter)
        return self.input_format.objective

    @property
    def end_role(self) -> str:
        """What ends a target."""
        return "sep"

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """A source, and what is given beside it, as tokens without special ones."""
        pair = second is not None
        a, b = np.asarray(first, np.int32), np.asarray(second if pair else (), np.int32)
        keep_a, keep_b = truncate_pair(len(a), len(b), self.input_format.length - self._fixed(pair) - self.longest)
        cls, sep = [self.roles["cls"]], [self.roles["sep"]]
        ids = join(cls, a[:keep_a], sep)
        if pair:
            ids = join(ids, b[:keep_b], sep)
        return Source(ids, -1, len(a) - keep_a + len(b) - keep_b)

    def learnt(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """A source and its target as they are learnt from: for UniLM v1 in one row, to be masked."""
        if self.objective.has_pseudo_masks:
            return self.encoded(source, target)
        answers = np.array(self.whole(target), np.int32)
        first, size = len(source.ids), len(source.ids) + len(answers)
        positions = self._positions(first, np.arange(size))
        rule = AttentionRule.prefix(first, size)
        example = Example(join(source.ids, answers), positions, rule, NOTHING, NOTHING)
        return EncodedItem((example,), (np.arange(first, size, dtype=np.int32),), answers.astype(np.int64))

    def encoded(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """A source and its target, given whole; each token of it and its end is asked for at a mask behind them."""
        answers = np.array(self.whole(target), np.int32)
        count, first = len(answers), len(source.ids)
        ids = join(source.ids, answers, np.full(count, self.roles[self.objective.query_role], np.int32))
        places = np.arange(first, first + count, dtype=np.int32)
        positions = self._positions(first, join(np.arange(first, dtype=np.int32), places, places))
        rule = step_rule(first, np.arange(1, count + 1, dtype=np.int32))
        columns = np.arange(first + count, len(ids), dtype=np.int32)
        example = Example(ids, positions, rule, NOTHING, NOTHING)
        return EncodedItem((example,), (columns,), answers.astype(np.int64))

    def batches(
        self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int, noise: Noise = QUIET
    ) -> Batches:
        """The batches of a run: masks, or what `noise` asks of UniLM v2, drawn anew for each step."""
        vocabulary = self.input_format.vocabulary
        if not self.objective.has_pseudo_masks:
            return DrawnTargets(items, epochs, pad, micro, lambda item, rng: masked_target(item, vocabulary, rng))
        if noise == QUIET:
            return Batches(items, epochs, pad, micro)
        return DrawnTargets(items, epochs, pad, micro, lambda item, rng: noisy_target(item, vocabulary, noise, rng))

    def context(self, source: Source) -> DecoderInput:
        """What the decoder reads before it writes."""
        ids = source.ids.tolist()
        asks = self.roles[self.objective.query_role]
        return query_input(ids, len(ids) + self.longest + 1, asks, self.objective.target_types)

    def _positions(self, first: int, places: np.ndarray) -> np.ndarray:
        """int32[2, L]: places, and the token types of a row whose source has `first` columns."""
        types = np.full(len(places), self.objective.target_types[1], np.int32)
        types[:first] = self.objective.target_types[0]
        return np.stack([places.astype(np.int32), types])

    def _fixed(self, pair: bool) -> int:
        """Special tokens of a row, the end of the target among them."""
        return 4 if pair else 3


class DrawnTargets(Batches):
    """Batches in which targets are changed by draws: a function of (seed, step, place in the step)."""

    def __init__(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int, change: Change) -> None:
        super().__init__(items, epochs, pad, micro)
        self.change = change

    def chosen(self, step: int) -> list[EncodedItem]:
        """The items of a step."""
        return [self.change(item, self._rng(step, place)) for place, item in enumerate(super().chosen(step))]

    def _rng(self, step: int, place: int) -> np.random.Generator:
        number = DRAWS + step * self.epochs.size + place
        return np.random.Generator(np.random.Philox(key=[self.epochs.seed, number]))


def masked_target(item: EncodedItem, vocabulary: Vocabulary, rng: np.random.Generator) -> EncodedItem:
    """A copy in which some of the asked columns are asked, and masked as BERT masks: 70% of the number of the target's
    tokens, its end not counted, at least one; the end is as likely among them as any token."""
    (example,), (columns,) = item.examples, item.columns
    tokens = len(columns) - int(item.answers[-1] == vocabulary["sep"])
    index = rng.choice(columns, max(1, round(MASKED * tokens)), replace=False).astype(np.int64)
    choice = replacements(example.input_ids, index, vocabulary, rng, MASK_SHARE, RANDOM_SHARE, ordinary=False)
    ids = example.input_ids.copy()
    ids[choice.index] = choice.inputs
    answers = example.input_ids[choice.index].astype(np.int64)
    return EncodedItem((dataclasses.replace(example, input_ids=ids),), (choice.index,), answers)


def noisy_target(item: EncodedItem, vocabulary: Vocabulary, noise: Noise, rng: np.random.Generator) -> EncodedItem:
    """A copy in which some pseudo masks are a random token or the one that they ask for, and some tokens of the target
    (its end as well) are read as what stands at their pseudo mask. All are asked for as before."""
    (example,), (columns,) = item.examples, item.columns
    ids, count = example.input_ids.copy(), len(columns)
    draw = rng.random(count)
    shown = np.where(draw < noise.pseudo / 2, item.answers, ids[columns]).astype(np.int32)
    is_random = (draw >= noise.pseudo / 2) & (draw < noise.pseudo)
    shown[is_random] = rng.integers(0, vocabulary.size, np.count_nonzero(is_random))
    ids[columns] = shown
    read = rng.random(count) < noise.target
    ids[columns[read] - count] = shown[read]
    return dataclasses.replace(item, examples=(dataclasses.replace(example, input_ids=ids),))
