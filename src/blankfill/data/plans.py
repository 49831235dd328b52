"""Plans: the tokens of the corpus in each row of an epoch.

A plan is computed once from (corpus, spec, seed, epoch) and holds, for every row, the runs of tokens in it. With a
plan, arithmetic gives the i-th row of a run: nothing is replayed on resume, the number of workers or ranks has no
effect, and an epoch contains every document once, in a new order each time.

Lengths are counted in *stream tokens*: a document's tokens and the special tokens that its objective writes before and
after it (see `objectives.base.PackingSpec`). A chunk is five numbers: its tokens [begin, end) in the corpus, for pairs
those of the second part, and flags. Cutting and the classic stream are vectorised; cutting at sentence ends, pairs and
best-fit packing walk in Python at a few microseconds a chunk, once an epoch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blankfill.data.packing import best_fit
from blankfill.objectives import PackingSpec

FIRST, LAST, RANDOM_NEXT = 1, 2, 4
"""Flags of a chunk: first of its document, last of it, second part does not follow the first."""

Int64 = NDArray[np.int64]


class Corpus(Protocol):
    """The interface of a corpus for plans: offsets into its flat tokens."""

    @property
    def sentence_starts(self) -> Int64:
        """int64[S+1]: where each sentence begins, and the end."""

    @property
    def document_starts(self) -> Int64:
        """int64[D+1]: the first sentence of each document, and their number."""


@dataclass(frozen=True)
class Plan:
    """chunks: int64[P, 5] = begin, end, begin_b, end_b, flags. rows: int64[R+1], the first chunk of each row.

    order: int64[R], the row that comes j-th in the epoch.
    """

    chunks: Int64
    rows: Int64
    order: Int64

    def __len__(self) -> int:
        return len(self.order)

    def fits(self, tokens: int) -> bool:
        """Return whether a plan that was read from a file can be one of a corpus of this many tokens."""
        R = len(self.order)
        if self.chunks.shape[1:] != (5,) or self.rows.shape != (R + 1,) or not R:
            return False
        if int(self.rows[0]) or int(self.rows[-1]) != len(self.chunks) or (np.diff(self.rows) < 0).any():
            return False
        ends = self.chunks[:, :4]
        return bool(
            self.order.min() >= 0
            and self.order.max() < R
            and ends.min(initial=0) >= 0
            and ends.max(initial=0) <= tokens
        )

    def row(self, j: int) -> Int64:
        """Return the chunks of the j-th row of the epoch, int64[K, 5]."""
        r = int(self.order[j])
        return self.chunks[int(self.rows[r]) : int(self.rows[r + 1])]


def make_plan(corpus: Corpus, spec: PackingSpec, rng: Generator) -> Plan:
    """Lay out one epoch: documents in a drawn order, cut, packed into rows, and the rows shuffled."""
    starts, document_starts = _without_empty(np.asarray(corpus.sentence_starts), np.asarray(corpus.document_starts))
    bounds = starts[document_starts]
    order = rng.permutation(np.flatnonzero(np.diff(bounds) > 0))
    begins, ends = bounds[:-1][order], bounds[1:][order]
    if spec.unit == "stream":
        cut = _stream_of_sentences if spec.whole_sentences else _stream
        chunks, rows = cut(starts, begins, ends, spec)
    elif spec.unit == "pairs":
        chunks = _pairs(starts, document_starts, order, spec, rng)
        sizes = np.minimum((chunks[:, 1] - chunks[:, 0]) + (chunks[:, 3] - chunks[:, 2]), spec.max_tokens)
        chunks, rows = _pack(chunks, sizes + spec.chunk_overhead, spec)
    else:
        rooms = np.full(len(order), spec.max_tokens)
        is_short = rng.random(len(order)) < spec.short
        rooms[is_short] = rng.integers(min(spec.short_min, spec.max_tokens), spec.max_tokens + 1, int(is_short.sum()))
        cut_chunks = _chunks_of_sentences if spec.whole_sentences else _chunks
        chunks, sizes = cut_chunks(starts, begins, ends, rooms, spec)
        if spec.merge_chunks:
            # a chunk with another one after it in its row is closed there, whether or not its document ends
            sizes = np.minimum(sizes + np.where(chunks[:, 4] & LAST, 0, spec.after), spec.max_tokens)
        chunks, rows = _pack(chunks, sizes + spec.chunk_overhead, spec)
    return Plan(chunks, rows, rng.permutation(len(rows) - 1))


def _without_empty(starts: Int64, document_starts: Int64) -> tuple[Int64, Int64]:
    """Return the same corpus without the sentences that hold no token (files made elsewhere may have them)."""
    full = starts[1:] > starts[:-1]
    if full.all():
        return starts, document_starts
    before = np.concatenate([[0], np.cumsum(full)])
    return np.append(starts[:-1][full], starts[-1]), before[document_starts]


def _chunks(starts: Int64, begins: Int64, ends: Int64, rooms: Int64, spec: PackingSpec) -> tuple[Int64, Int64]:
    """Cut each document every `room` stream tokens. Returns the chunks and their lengths in stream tokens."""
    totals = ends - begins + spec.before + spec.after
    steps = np.maximum(rooms - spec.overlap, 1)
    counts = np.maximum(1, -(-(totals - spec.overlap) // steps))
    which = np.repeat(np.arange(len(begins)), counts)
    number = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    low = number * steps[which]
    high = np.minimum(low + rooms[which], totals[which])
    return _trim(low, high, begins[which], ends[which], spec)


def _trim(low: Int64, high: Int64, begin: Int64, end: Int64, spec: PackingSpec) -> tuple[Int64, Int64]:
    """Convert stream offsets inside documents to corpus offsets and flags; chunks below the minimum are left out."""
    size = end - begin
    first = np.where(low == 0, FIRST, 0)
    last = np.where(high == size + spec.before + spec.after, LAST, 0)
    chunks = np.zeros((len(low), 5), np.int64)
    chunks[:, 0] = begin + np.clip(low - spec.before, 0, size)
    chunks[:, 1] = begin + np.clip(high - spec.before, 0, size)
    chunks[:, 4] = first | last
    keep = chunks[:, 1] - chunks[:, 0] >= max(1, spec.min_tokens - spec.before - spec.after)
    return chunks[keep], (high - low)[keep]


def _chunks_of_sentences(
    starts: Int64, begins: Int64, ends: Int64, rooms: Int64, spec: PackingSpec
) -> tuple[Int64, Int64]:
    """Cut each document after the last whole sentence that fits; a sentence longer than the room is cut itself."""
    rows: list[tuple[int, int, int, int, int]] = []
    for edges, room in zip(_edges(starts, begins, ends), rooms.tolist(), strict=True):
        at = begin = edges[0]
        end = edges[-1]
        while at < end:
            stop = _sentence_end(edges, at, min(at + room, end))
            rows.append((at, stop, 0, 0, (FIRST if at == begin else 0) | (LAST if stop == end else 0)))
            at = stop
    chunks = np.array(rows, np.int64).reshape(-1, 5)
    return chunks, chunks[:, 1] - chunks[:, 0]


def _edges(starts: Int64, begins: Int64, ends: Int64) -> Iterator[list[int]]:
    """Yield, for each document, where its sentences begin, and its end, as a short list."""
    for first, final in zip(starts.searchsorted(begins).tolist(), starts.searchsorted(ends).tolist(), strict=True):
        yield starts[first : final + 1].tolist()


def _sentence_end(edges: list[int], at: int, most: int) -> int:
    """Return the last sentence edge in (at, most], or `most` when a single sentence fills it."""
    stop = edges[bisect_right(edges, most) - 1]
    return stop if stop > at else most


def _stream(starts: Int64, begins: Int64, ends: Int64, spec: PackingSpec) -> tuple[Int64, Int64]:
    """Join documents end to end, and cut every `room` stream tokens."""
    totals = ends - begins + spec.before + spec.after
    edges = np.concatenate([[0], np.cumsum(totals)])
    step = spec.max_tokens - spec.overlap
    low = np.arange(0, max(int(edges[-1]) - spec.overlap, 1), step)
    high = np.minimum(low + spec.max_tokens, edges[-1])
    low, high = low[high - low >= spec.min_tokens], high[high - low >= spec.min_tokens]
    first = np.searchsorted(edges, low, side="right") - 1
    final = np.searchsorted(edges, high - 1, side="right") - 1
    counts = final - first + 1
    row = np.repeat(np.arange(len(low)), counts)
    which = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    inner_low = np.maximum(low[row] - edges[which], 0)
    inner_high = np.minimum(high[row] - edges[which], totals[which])
    size = ends[which] - begins[which]
    chunks = np.zeros((len(row), 5), np.int64)
    chunks[:, 0] = begins[which] + np.clip(inner_low - spec.before, 0, size)
    chunks[:, 1] = begins[which] + np.clip(inner_high - spec.before, 0, size)
    chunks[:, 4] = np.where(inner_low == 0, FIRST, 0) | np.where(inner_high == totals[which], LAST, 0)
    return chunks, np.concatenate([[0], np.cumsum(counts)])


def _stream_of_sentences(starts: Int64, begins: Int64, ends: Int64, spec: PackingSpec) -> tuple[Int64, Int64]:
    """Fill rows with whole sentences, continuing into the next document (RoBERTa's FULL-SENTENCES)."""
    chunks: list[tuple[int, int, int, int, int]] = []
    rows = [0]
    full = spec.row_tokens - spec.row_overhead
    left = full
    for edges in _edges(starts, begins, ends):
        at = begin = edges[0]
        end = edges[-1]
        while at < end:
            room = left - spec.chunk_overhead
            stop = _sentence_end(edges, at, min(at + room, end)) if room > 0 else at
            fresh = left == full
            whole = edges[bisect_left(edges, stop)] == stop
            if room <= 0 or not (fresh or whole):
                rows.append(len(chunks))
                left = full
                continue
            chunks.append((at, stop, 0, 0, (FIRST if at == begin else 0) | (LAST if stop == end else 0)))
            left -= stop - at + spec.chunk_overhead
            at = stop
            if at < end:
                rows.append(len(chunks))
                left = full
    if rows[-1] != len(chunks):
        rows.append(len(chunks))
    return np.array(chunks, np.int64).reshape(-1, 5), np.array(rows, np.int64)


def _pairs(starts: Int64, document_starts: Int64, order: Int64, spec: PackingSpec, rng: Generator) -> Int64:
    """Make pairs as BERT does (google-research/bert, create_pretraining_data.py): A ends at a drawn sentence, B follows
    it or not.

    Where `sole` is "none", a lone sentence has an empty second part.
    """
    pairs: list[tuple[int, int, int, int, int]] = []
    documents = len(order)
    most = spec.max_part_sentences or spec.max_tokens
    draw = rng.random
    for document in order.tolist():
        first, final = int(document_starts[document]), int(document_starts[document + 1])
        target = spec.max_tokens
        if draw() < spec.short:
            target = spec.short_min + int(draw() * (spec.max_tokens - spec.short_min + 1))
        edges = starts[first : final + 1].tolist()
        at, last = 0, final - first
        while at < last:
            stop = min(bisect_left(edges, edges[at] + target), last, at + 2 * most)
            count = stop - at
            middle = at + (1 + int(draw() * (count - 1)) if count >= 2 else 1)
            begin, end = edges[at], edges[middle]
            if count == 1 and spec.single_sentence == "none":
                pairs.append((begin, end, end, end, 0))
                at = stop
            elif count == 1 or draw() < spec.random_next:
                other = document
                for _ in range(10):
                    other = int(order[int(draw() * documents)])
                    if other != document:
                        break
                low, high = int(document_starts[other]), int(document_starts[other + 1])
                first_b = low + int(draw() * (high - low))
                rest = starts[first_b : min(first_b + target, high) + 1].tolist()
                stop_b = min(bisect_left(rest, rest[0] + max(1, target - (end - begin))), len(rest) - 1, most)
                pairs.append((begin, end, rest[0], rest[stop_b], RANDOM_NEXT))
                at = middle
            else:
                pairs.append((begin, end, end, edges[stop], 0))
                at = stop
    return np.array(pairs, np.int64).reshape(-1, 5)


def _pack(chunks: Int64, sizes: Int64, spec: PackingSpec) -> tuple[Int64, Int64]:
    """Pack chunks into rows; returns the chunks in the order of their rows, and where each row begins among them."""
    row_of, count = best_fit(sizes, spec.row_tokens - spec.row_overhead)
    by_row = np.argsort(row_of, kind="stable")
    return chunks[by_row], np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=count))])
