"""XLNet: permutation language modelling with two streams (Yang et al. 2019; zihangdai/xlnet).

Row: A [SEP] B [SEP] [CLS], followed by a *query column* for each target. A factorisation order is drawn. Words that are
not targets come first in it, all at once; then the targets, [SEP]s and [CLS] one after the other. The *content stream*,
the row itself, sees columns that come no later than itself; the query column of a target has the target's position and
no token, and sees columns that come strictly earlier. Both streams are columns of one row under one attention rule, and
the targets stay in the text: there is no [MASK] that fine-tuning would not see.

Targets are spans: a length n from 1 to 5 with probability in proportion to 1/n, somewhere in n/share tokens of context
(*partial prediction*, share = 1/K), until the budget is spent. The paper's spans are of n words; the released code's,
the default here, begin where a word does and are of n tokens.

Positions: the position in the row, the segment (A 0, B 1, [CLS] 2) and the stream. The model uses only distances and
whether two segments are equal. With `memory` a piece of a long document begins with the end of the piece before it,
which is read unchanged, without gradient and without targets (Transformer-XL's recurrence).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, FrameRoles, Objective, PackingSpec, inside_frame, share_problems
from blankfill.objectives.format import Format, Ids, join
from blankfill.system.bounds import Bound, at_least
from blankfill.types import MEMORY, QUERY, AttentionRule, Bool, Document, Example, Int32, Vocabulary

LONGEST_SPAN = 5
SPAN_LAW = np.cumsum(1 / np.arange(1, LONGEST_SPAN + 1)) / (1 / np.arange(1, LONGEST_SPAN + 1)).sum()
PARTS = 3
"""Segments of a row: A, B and [CLS]."""


@dataclass(frozen=True)
class XlnetChoice:
    """Which tokens of A and of B remain (half-open, in the Document), and the order.

    targets: int32[M], places in the row, ascending. order: int32[L], a permutation of each block of the row; only the
    numbers of targets, [SEP] and [CLS] matter, which come in their order.
    """

    a: tuple[int, int]
    b: tuple[int, int]
    targets: Int32
    order: Int32


@dataclass(frozen=True)
class Xlnet(Objective):
    """Options of XLNet's objective. `length` counts the content stream; query tokens and memory come on top."""

    name: ClassVar[str] = "xlnet"
    explanation: ClassVar[str] = (
        "Nothing is replaced: some tokens are predicted in a drawn order, each from the tokens before it in this "
        "order, on both sides."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type", "stream")
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "permuted": Bound(8, LONGEST, also=(0,)),
        "memory": at_least(0, LONGEST),
    }
    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "sep", "mask")
    relative_positions: ClassVar[bool] = True
    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "last"

    share: float = 1 / 6
    """Share of the row's tokens that are targets (1/K in the paper); usually 1/6."""
    whole_word: bool = False
    """Draw spans of n whole words, as in the paper; off: spans of n tokens that begin at the start of a word, as in the
    released code."""
    permuted: int = 0
    """Number of tokens in a block that is permuted as a whole; each block sees all earlier blocks (released code: 256
    of 512). 0: the whole row, as in the paper."""
    pairs: bool = True
    """Use two segments, of which the second is random in half of the rows (no label predicts which); off: one
    segment."""
    memory: int = 0
    """Number of memory tokens from the previous chunk of a document that is cut; requires pairs off. 0: no memory."""
    short: float = 0.0
    """Share of documents that are cut into shorter examples; released code: none."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(short=self.short)
        if not 0 < self.share <= 0.5:
            problems.append(f"objective.share is {self.share}; it must be above 0 and at most 0.5")
        if self.memory and self.pairs:
            problems.append("objective.memory goes with running text; turn objective.pairs off, or set memory to 0")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: pairs of sentence runs, or pieces of documents that begin with their memory."""
        if self.pairs:
            return PackingSpec("pairs", self.length - 3, chunk_overhead=3, whole_sentences=True, short=self.short)
        if self.memory:
            room = self.length - 2 + self.memory
            return PackingSpec("chunks", room, chunk_overhead=2, overlap=self.memory)
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True, short=self.short)

    def position_sizes(self) -> tuple[int, ...]:
        """Place, segment, stream."""
        return (self.length + self.memory, PARTS, PARTS)

    def needs_words(self) -> bool:
        """Whole words are found by where they begin."""
        return self.whole_word

    def reads_words(self) -> bool:
        """Return whether spans begin with words: always, if the tokenizer marks where words begin."""
        return True

    def remembered(self, document: Document) -> int:
        """Return the number of a Document's first tokens that are memory."""
        return 0 if document.first or not self.memory else min(self.memory, len(document) - 1)

    def frame_roles(self) -> FrameRoles:
        """Return the special tokens of a text; [CLS] is the last one."""
        return FrameRoles((), ("sep",), ("sep", "cls"))

    def row_positions(self, length: int, second: int | None = None) -> Int32:
        """Return positions and segments of a row; [CLS] is a segment of its own."""
        positions = super().row_positions(length)
        if second is not None:
            positions[1, second:] = 1
        positions[1, -1:] = PARTS - 1
        return positions

    @property
    def fills(self) -> bool:
        """Blanks are hidden tokens."""
        return True

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Hidden tokens are predicted at query columns."""
        return XlnetFormat(self, vocabulary, position_sizes)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> XlnetChoice:
        """Cut the pair to size, draw the order and the targets."""
        begin, total = self.remembered(document), len(document)
        a, b = (begin, total), (total, total)
        if self.pairs:
            middle = int(document.sentences[1])
            kept_a, kept_b = truncate_ends(middle, total - middle, self.packing().max_tokens)
            a, b = (begin, kept_a), (middle, middle + kept_b)
        row = self._row(document, vocabulary, a, b)
        ordinary = inside_frame(row, vocabulary)
        starts = self._starts(document, a, b, len(row))
        order = np.empty(len(row), np.int32)
        targets = np.zeros(len(row), np.bool_)
        goal = max(1, int(self.share * len(row)))
        blocks = self._blocks(len(row))
        for k, (low, high) in enumerate(blocks):
            at = slice(low, high)
            order[at] = rng.permutation(high - low)
            budget = -(-goal * (k + 1) // len(blocks)) + (-goal * k // len(blocks))
            targets[at] = self._targets(starts[at], ordinary[at], budget, rng)
        if not targets.any():  # a row of few tokens whose budget went to [SEP] and [CLS]
            targets[rng.choice(np.flatnonzero(ordinary))] = True
        return XlnetChoice(a, b, np.flatnonzero(targets).astype(np.int32), order)

    def _targets(self, starts: Bool, ordinary: Bool, budget: int, rng: Generator) -> Bool:
        """Choose the targets of a block, bool[L]; `starts` and `ordinary` as for `choose_words`."""
        spread = round(1 / self.share)
        if self.whole_word:
            return choose_words(starts, ordinary, budget, spread, rng)
        chosen = choose_spans(starts, budget, spread, lambda most: draw_span(spread, rng, most))
        rest = np.flatnonzero(~chosen)
        chosen[rng.permutation(rest)[: budget - int(chosen.sum())]] = True
        return chosen & ordinary

    def build(self, document: Document, vocabulary: Vocabulary, choice: XlnetChoice) -> Example:
        """Return the row, its memory before it and its query slots behind it."""
        row = self._row(document, vocabulary, choice.a, choice.b)
        segments = self.row_positions(len(row), choice.a[1] - choice.a[0] + 1)[1]
        loose = inside_frame(row, vocabulary)
        loose[choice.targets] = False
        example = two_streams(row, segments, loose, choice.targets, choice.order, self._blocks(len(row)), vocabulary)
        count = self.remembered(document)
        return example if not count else with_memory(example, document.ids[:count])

    def _blocks(self, length: int) -> list[tuple[int, int]]:
        """Return the blocks of a row that are permuted each on its own; a short rest goes with the block before it."""
        size = self.permuted or length
        edges = [*range(0, max(1, length - size // 2), size), length]
        return list(itertools.pairwise(edges))

    def _row(self, document: Document, vocabulary: Vocabulary, a: tuple[int, int], b: tuple[int, int]) -> Int32:
        return self.framed(document.ids[slice(*a)], vocabulary, document.ids[slice(*b)] if self.pairs else None)

    def _starts(self, document: Document, a: tuple[int, int], b: tuple[int, int], length: int) -> Bool:
        """Return where a unit of the spans begins, a word or a token, bool[L]."""
        starts = np.ones(length, np.bool_)
        if document.words is None:
            if self.whole_word:
                raise ValueError("whole-word spans need word starts, which this tokenizer does not tell")
        else:
            second = a[1] - a[0] + 1
            starts[1 : second - 1] = document.words[a[0] + 1 : a[1]]
            starts[second + 1 : second + b[1] - b[0]] = document.words[b[0] + 1 : b[1]]
        return starts


def truncate_ends(length_a: int, length_b: int, room: int) -> tuple[int, int]:
    """Return how much of the front of two runs is kept: the longer one (B on a tie) loses its end, token by token,
    until both fit."""
    while length_a + length_b > room:
        if length_a > length_b:
            length_a -= 1
        else:
            length_b -= 1
    return length_a, length_b


def draw_span(spread: int, rng: Generator, most: int = LONGEST_SPAN) -> tuple[int, int]:
    """Draw (n, l): units of a span, 1 to 5 in proportion to 1/n, cut to `most`, and the tokens before it, uniform on
    0 … spread·n − 1."""
    units = 1 + min(LONGEST_SPAN - 1, int(SPAN_LAW.searchsorted(rng.random(), side="right")))
    units = min(units, most)
    return units, int(rng.integers(0, spread * units))


def choose_spans(starts: Bool, budget: int, spread: int, draw: Callable[[int], tuple[int, int]]) -> Bool:
    """Draw the spans of a block of a row, bool[L], at most `budget` tokens; the released code's `_sample_mask`.

    starts: where words begin, [SEP] and [CLS] among them. spread: K; a span of n tokens has a context of K·n. draw:
    (n, l) for so much of the budget; l tokens of the context, and those up to the next word's first, stand before the
    span and the others behind it. [SEP] and [CLS] may be taken. A span that does not end before the block ends the
    search.
    """
    chosen = np.zeros(len(starts), np.bool_)
    unit_at = np.flatnonzero(starts)
    at, taken = 0, 0
    while at < len(starts) and taken < budget:
        size, before = draw(budget - taken)
        k = int(unit_at.searchsorted(at + before))
        if k == len(unit_at) or unit_at[k] + size >= len(starts):
            break
        end = int(unit_at[k]) + size
        chosen[end - size : end] = True
        taken += size
        at = end + spread * size - before
    return chosen


def choose_words(starts: Bool, ordinary: Bool, budget: int, spread: int, rng: Generator) -> Bool:
    """Choose the targets of a block by whole words, bool[L]: `budget` of them if there are enough ordinary tokens.

    starts: where units begin. spread: K; a span of n units has a context of K·n tokens, l of them before it, l uniform.
    A span that leaves the block, meets [SEP] or [CLS], or overshoots the budget is left out; single tokens then fill
    the rest of the budget.
    """
    chosen = np.zeros(len(starts), np.bool_)
    unit_at = np.append(np.flatnonzero(starts), len(starts))
    at, taken = 0, 0
    while at < len(starts) and taken < budget:
        units, before = draw_span(spread, rng)
        first = int(unit_at.searchsorted(at + before))
        if first + units >= len(unit_at):
            break
        begin, end = int(unit_at[first]), int(unit_at[first + units])
        if ordinary[begin:end].all() and taken + end - begin <= budget:
            chosen[begin:end] = True
            taken += end - begin
        at = end + spread * units - before
    rest = np.flatnonzero(ordinary & ~chosen)
    chosen[rng.permutation(rest)[: budget - taken]] = True
    return chosen


def two_streams(
    row: Int32,
    segments: Int32,
    loose: Bool,
    targets: Int32,
    order: Int32,
    blocks: list[tuple[int, int]],
    vocabulary: Vocabulary,
) -> Example:
    """Build the Example of a row from its targets and their order: content columns, then query columns.

    loose: bool[L], words that are not targets, visible to all of their block and of later ones. A block's ranks are
    above those of the blocks before it: loose words have its lowest rank, the others the next ones in their order.
    """
    rank = np.empty(len(row), np.int32)
    for k, (low, high) in enumerate(blocks):
        at = slice(low, high)
        rank[at] = low + k + np.where(loose[at], 0, 1 + order[at])
    count = len(targets)
    unreached = int(rank.max()) + 1
    places = np.arange(len(row), dtype=np.int32)
    positions = np.zeros((3, len(row) + count), np.int32)
    positions[0] = np.concatenate([places, targets])
    positions[1] = np.concatenate([segments, segments[targets]])
    positions[2, len(row) :] = QUERY
    rule = AttentionRule(
        np.zeros(len(row) + count, np.int32),
        np.concatenate([rank, np.full(count, unreached, np.int32)]),
        np.concatenate([rank, rank[targets] - 1]),
    )
    ids = join(row, np.full(count, vocabulary["mask"], np.int32))
    index = np.arange(len(row), len(row) + count, dtype=np.int32)
    return Example(ids, positions, rule, index, row[targets])


def with_memory(example: Example, ids: Int32) -> Example:
    """Return an Example that remembers the tokens before it: columns of their own, seen by all, that see one another
    only."""
    count = len(ids)
    before = np.zeros((3, count), np.int32)
    before[0], before[2] = np.arange(count), MEMORY
    after = example.positions.copy()
    after[0] += count
    zeros, rule = np.zeros(count, np.int32), example.rule
    return Example(
        join(ids, example.input_ids),
        np.concatenate([before, after], 1),
        AttentionRule(
            join(zeros, rule.segment), join(zeros, rule.rank + 1), join(zeros, rule.horizon + 1)
        ),
        example.target_index + np.int32(count),
        example.target_ids,
    )  # fmt: skip


class XlnetFormat(Format):
    """A hidden token has no column of its own: a query token with its position, after the row, predicts it.

    What is not hidden sees all of itself, [SEP] and [CLS] as well.
    """

    fill_method = "places"
    blank_length = "given"

    def _pooled(self, length: int) -> int:
        """Return the column of [CLS], the last one."""
        return length - 1

    def export_row(self, ids: Ids) -> Example:
        """Return a row that has lost its [CLS] has no segment for it."""
        row = super().export_row(ids)
        if len(ids) and int(ids[-1]) != self.vocabulary.roles.get("cls"):
            row.positions[1, -1] = 0
        return row

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """One row: each token is predicted from those to its left, which the text around the blank does not see, as in
        training."""
        places = range(len(before), len(before) + len(answer))
        return [self.hide(join(before, answer, after), places, len(answer))]

    def hide(self, text: Ids, places: Sequence[int], count: int) -> Example:
        """Hidden tokens come last in the order, as `places` has them, each target seeing those before it."""
        return self._ordered(text, places, np.arange(len(places)), count)

    def open_places(self, texts: Int32, places: Sequence[int]) -> list[Example]:
        """Open places have no columns beside their query slots."""
        example = self._ordered(texts[0], places, np.zeros(len(places), np.int64), len(places))
        L = len(example) - len(places)
        shown = np.ones(len(example), np.bool_)
        shown[np.asarray(places, np.int64)] = False  # a row begins with its text
        rule = AttentionRule(
            *(vector[shown] for vector in (example.rule.segment, example.rule.rank, example.rule.horizon))
        )
        index = np.arange(L - len(places), L, dtype=np.int32)
        ids, positions = np.tile(example.input_ids[shown], (len(texts), 1)), example.positions[:, shown]
        known = texts[:, shown[: texts.shape[1]]]
        ids[:, : known.shape[1]] = known
        return [
            Example(row, positions, rule, index, answers) for row, answers in zip(ids, texts[:, places], strict=True)
        ]

    def _ordered(self, text: Ids, places: Sequence[int], order: np.ndarray, count: int) -> Example:
        """Return the first `count` of the places as targets; order: int[K], when the hidden tokens come."""
        framed = self.frame(text)
        row = framed.example.input_ids
        columns = np.asarray(places, np.int32) + np.int32(framed.first[0])
        loose, steps = np.ones(len(row), np.bool_), np.zeros(len(row), np.int32)
        loose[columns] = False
        steps[columns] = order
        segments = framed.example.positions[1]
        return two_streams(row, segments, loose, columns[:count], steps, [(0, len(row))], self.vocabulary)
