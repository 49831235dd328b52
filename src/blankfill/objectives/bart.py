"""BART: a text is corrupted in several ways at once, and a decoder generates the original (Lewis et al. 2020).

Encoder: <s> corrupted text </s>. Decoder: </s> <s> text, whose targets are the whole original row. The corruptions, in
order: sentences are permuted; spans of words become a single mask each (*infilling*), with lengths from Poisson(3),
until they hold 30% of the words, and a span of no words is a mask inserted between two tokens; more masks may be
inserted; the row may be rotated. A mask does not show the length of its span; spans may meet or overlap.
Code: facebookresearch/fairseq, denoising_dataset.py, whose defaults are not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, Objective, PackingSpec, share_problems
from blankfill.objectives.format import Format, Ids, SourceRow, join
from blankfill.objectives.two_stacks import StackFormat, two_sided
from blankfill.system.bounds import Bound, at_least
from blankfill.types import Bool, DecoderInput, Document, Example, Int32, Vocabulary

RAREST = 1e-7
"""Span lengths less likely than this are left out of the law, as in the released code; the first of them stays."""
LONGEST_MEAN = 100
"""Words that spans may have on average."""

Replace = Literal["span", "token", "delete"]


@dataclass(frozen=True)
class BartChoice:
    """The damage. order: the sentences as they come. spans: half-open, in the row with its sentences in that order, in
    any order. inserted: where masks are put in, int32[K], counted in the row that has them. offset: the column with
    which the rotated row begins; 1 leaves it as it is."""

    order: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()
    inserted: tuple[int, ...] = ()
    offset: int = 1


@dataclass(frozen=True)
class Bart(Objective):
    """Options of the BART objective."""

    name: ClassVar[str] = "bart"
    explanation: ClassVar[str] = (
        "Spans are replaced by one blank each and sentences change places; a decoder writes the whole original text."
    )
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"position_offset": at_least(0, LONGEST)}
    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "sep", "mask")
    decoder_start: ClassVar[str] = "sep"
    fill_option: ClassVar[str] = "replace"
    refuses_prompt_blanks: ClassVar[bool] = True
    doubles_separator: ClassVar[bool] = True
    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "pair"

    mask_ratio: float = 0.3
    """Share of the words that the drawn spans cover, rounded up; usually 0.3."""
    poisson: float = 3.0
    """Mean of the Poisson distribution of span lengths, in words; usually 3. 0: every span is one word (token
    masking)."""
    replace: Replace = "span"
    """Replacement of a span. span: one mask; token: a mask for each token; delete: nothing (token deletion)."""
    whole_word: bool = True
    """Count spans in words; off: in tokens."""
    insert_ratio: float = 0.0
    """Number of masks inserted at random places, as a share of the row."""
    permute: float = 1.0
    """Share of the sentences that are permuted, rounded up; 1: all."""
    rotate: float = 0.0
    """Share of the rows that are rotated to begin with a random token."""
    position_offset: int = 2
    """Number of the first position (BART: 2)."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(
            mask_ratio=self.mask_ratio, insert_ratio=self.insert_ratio, permute=self.permute, rotate=self.rotate
        )
        if not 0 <= self.poisson <= LONGEST_MEAN:
            problems.append(f"objective.poisson is {self.poisson}; it must be between 0 and {LONGEST_MEAN}")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: runs of whole sentences of one document, as long as possible."""
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True)

    def position_sizes(self) -> tuple[int, ...]:
        """One channel of positions, with room for the inserted masks."""
        share = min(1.0, max(0.0, self.insert_ratio))  # also called for options that are out of range
        return (self.position_offset + self.length + math.ceil(share * self.length),)

    def needs_words(self) -> bool:
        """Return whether spans are counted in words, which needs word starts."""
        return self.whole_word

    @property
    def fills(self) -> bool:
        """One mask for a span is a blank of unknown length."""
        return self.replace == "span"

    @property
    def writes(self) -> bool:
        """A text is continued in a blank at its end."""
        return self.fills

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return the encoder reads masks, the decoder writes all of the text."""
        return BartFormat(self, vocabulary, position_sizes)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> BartChoice:
        """Draw the damage, in the order in which it is done."""
        order = choose_order(len(document.sentences) - 1, self.permute, rng)
        begins = self._word_starts(document, order)
        words = np.flatnonzero(begins)
        lengths, empty = self._lengths(math.ceil(self.mask_ratio * len(words)), rng)
        first = rng.permutation(len(words))[: len(lengths)]
        ends = np.append(words, len(begins) - 1)[np.minimum(first + lengths, len(words))]
        spans = tuple(zip(words[first].tolist(), ends.tolist(), strict=True))
        size = int(np.count_nonzero(remaining(spans, len(begins), self.replace)[0]))
        # A longer row than the clean one may be is one that the model has no positions for.
        count = min(empty, max(0, self.length - size))
        count += math.ceil(self.insert_ratio * (size + count))
        inserted = np.sort(1 + rng.permutation(size + count - 2)[:count])
        size += count
        offset = int(rng.integers(1, size)) if rng.random() < self.rotate else 1
        return BartChoice(order, spans, tuple(inserted.tolist()), offset)

    def build(self, document: Document, vocabulary: Vocabulary, choice: BartChoice) -> Example:
        """Damage the row as chosen; the targets are all tokens of the clean row."""
        row = self.framed(document.ids, vocabulary)
        noised = self.framed(document.ids[sentence_order(document.sentences, choice.order)], vocabulary)
        noised = infilled(noised, choice.spans, self.replace, vocabulary["mask"])
        noised = rotated(with_inserted(noised, choice.inserted, vocabulary["mask"]), choice.offset)
        return two_sided(noised, row, vocabulary[self.decoder_start], self.position_offset)

    def _word_starts(self, document: Document, order: tuple[int, ...]) -> Bool:
        """Return where words begin in the row with its permuted sentences, bool[L]; special tokens do not begin
        words."""
        begins = np.ones(len(document), np.bool_)
        if self.whole_word:
            if document.words is None:
                raise ValueError("spans of whole words need word starts, which this tokenizer does not tell")
            begins = document.words.copy()
        begins[document.sentences[:-1]] = True
        return np.concatenate([[False], begins[sentence_order(document.sentences, order)], [False]])

    def _lengths(self, budget: int, rng: Generator) -> tuple[Int32, int]:
        """Draw the lengths of spans in words, int32[K], with the sum `budget`, and the number of spans without
        words."""
        if not self.poisson:
            return np.ones(budget, np.int32), 0
        law = _kept_law(self.poisson)
        draws = np.zeros(0, np.int64)
        while draws.sum() < budget:
            draws = np.concatenate([draws, np.searchsorted(law, rng.random(budget) * law[-1], side="right")])
        return trimmed(draws, budget)


def span_law(mean: float) -> np.ndarray:
    """Return the law of span lengths 0, 1, …, float64[K]: Poisson(mean), up to the first above the mean rarer than
    1e-7.

    As in the released code, it is not scaled to a sum of 1; who draws from it does that.
    """
    law: list[float] = []
    while not law or law[-1] >= RAREST or len(law) <= mean:
        k = len(law)
        law.append(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)))
    return np.array(law)


@lru_cache(maxsize=8)
def _kept_law(mean: float) -> np.ndarray:
    """Return the cumulated `span_law`."""
    law = np.cumsum(span_law(mean))
    law.flags.writeable = False
    return law


def trimmed(draws: np.ndarray, budget: int) -> tuple[Int32, int]:
    """Return the drawn lengths up to the one that reaches the budget, that one cut to it exactly, without those of 0;
    and how many of 0 there were. draws: int64[K], their sum at least the budget."""
    if not budget:
        return np.zeros(0, np.int32), 0
    total = np.cumsum(draws)
    last = int(np.searchsorted(total, budget))
    lengths = draws[: last + 1].astype(np.int32)
    lengths[last] -= total[last] - budget
    return lengths[lengths > 0], int(np.count_nonzero(lengths == 0))


def choose_order(count: int, share: float, rng: Generator) -> tuple[int, ...]:
    """Return an order of `count` sentences, in which a share of them, drawn, have changed places among themselves."""
    order = np.arange(count)
    moved = rng.permutation(count)[: math.ceil(count * share)]
    order[moved] = rng.permutation(moved)
    return tuple(order.tolist())


def sentence_order(sentences: Int32, order: tuple[int, ...]) -> np.ndarray:
    """Which token comes where when the sentences are in that order, int64[N]. sentences: int32[S+1], as in Document."""
    return np.concatenate([np.arange(sentences[k], sentences[k + 1]) for k in order])


def remaining(spans: tuple[tuple[int, int], ...], length: int, replace: Replace) -> tuple[Bool, Bool]:
    """Which columns of a row remain, and which of those are masks, bool[length] both.

    A span that begins inside another one has no mask of its own.
    """
    heads, inner = np.zeros(length, np.bool_), np.zeros(length, np.bool_)
    for begin, end in spans:
        heads[begin] = True
        inner[begin + 1 : end] = True
    if replace == "token":
        return np.ones(length, np.bool_), heads | inner
    if replace == "delete":
        return ~(heads | inner), np.zeros(length, np.bool_)
    return ~inner, heads & ~inner


def infilled(row: Int32, spans: tuple[tuple[int, int], ...], replace: Replace, mask: int) -> Int32:
    """Return the row with its spans replaced, int32. mask: the id of the mask."""
    copied, masks = remaining(spans, len(row), replace)
    return np.where(masks, mask, row)[copied].astype(np.int32)


def with_inserted(row: Int32, places: tuple[int, ...], mask: int) -> Int32:
    """Return the row with masks put in, int32. places: where they stand afterwards."""
    made = np.full(len(row) + len(places), mask, np.int32)
    made[np.setdiff1d(np.arange(len(made)), np.array(places, np.int64))] = row
    return made


def rotated(row: Int32, offset: int) -> Int32:
    """Return the row between its special tokens begun at column `offset`, int32[L]."""
    return join(row[:1], row[offset:-1], row[1:offset], row[-1:])


class BartFormat(StackFormat):
    """The encoder reads a text with a mask for each blank, and the decoder writes all of the text."""

    fill_method = "ranking"

    @property
    def begun(self) -> Int32:
        """Every text begins with <s>."""
        return self.ids_of("cls")

    @property
    def blank_room(self) -> int:
        """The decoder's row has its start and both ends besides, the encoder's both ends and the mask."""
        return self.max_columns - 4

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return the decoder has the text up to the blank; the targets are the answer and the token after it."""
        clean = self._row(join(before, answer, after))
        written = clean[: 1 + len(before) + len(answer) + 1]
        return [self.teacher_forced(self._with_masks([before, after]), written, len(answer) + 1)]

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """Raise UserError when the encoder's row is too long, or the decoder's, one token longer than the original
        row."""
        self.check_room(len(self._with_masks(runs)))
        self.check_room(3 + sum(map(len, runs)) + fill_tokens)

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Return the text up to the blank, with the fills in it."""
        known = [part for pair in zip(runs, fills, strict=False) for part in pair]
        source, written = self._with_masks(runs), join(self.begun, *known, runs[len(fills)])
        self.check_room(max(len(source), 1 + len(written)))
        return self.decoder_input(source, written)

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return the token behind the blank, where one is known."""
        return self.following(runs, k)[:1]

    def following(self, runs: Sequence[Ids], k: int) -> list[int]:
        """Return the text up to the next blank, or up to the end and the end token."""
        return [*runs[k + 1], *([self.vocabulary["sep"]] if k == len(runs) - 2 else [])]

    @property
    def end_ids(self) -> list[int]:
        """</s>."""
        return [self.vocabulary["sep"]]

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return a text with a blank at its end."""
        return self.blank_input([before, ()], [role], ())

    @property
    def target_end(self) -> int:
        """</s>."""
        return self.vocabulary["sep"]

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Lay out `<s> first </s> second </s>`."""
        return SourceRow(self._row(join(first) if second is None else join(first, [self.vocabulary["sep"]], second)))

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the largest and the usual number of tokens of a target: the positions after </s> and <s>."""
        return self.max_columns - 2, self.max_columns - 2

    def _with_masks(self, runs: Sequence[Ids]) -> Int32:
        mask = [self.vocabulary["mask"]]
        return self._row(join(runs[0], *(part for run in runs[1:] for part in (mask, run))))

    def _row(self, ids: Int32) -> Int32:
        return self.objective.framed(ids, self.vocabulary)
