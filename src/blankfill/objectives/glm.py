"""GLM: autoregressive blank infilling with shuffled spans and 2-D positions (Du et al. 2021; THUDM/GLM).

Spans of the text are blanked: each becomes one mask token in *Part A*, which has bidirectional attention. *Part B*
holds the spans in a shuffled order, predicted one token at a time, each with [S] before it and [E] as its last target;
a span sees Part A and the spans before it. Position 1 of every Part B token is the position of its mask in Part A;
position 2 counts inside the span from 1 ([S] = 1) and is 0 in Part A, so the model does not know the length of a blank.

Three levels, mixed by weight, drawn for each example (the released code draws once for a batch):
*token* blanks short spans, lengths Poisson(3) without zero, until 15% of the row is blanked; *sentence* blanks whole
sentences to the same share; *document* blanks one long run, by default 50 to 100% of the row, either to the end of the
row (then it ends in the end-of-text token and has no [E]) or inside it.

Where paper and released code differ, the paper is the default and an option names the code: `document_ratio` 0.25 (the
10B configurations), `joined` (documents of a row see each other), `block_mask`, `context_mask`, `document_inside`.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, FrameRoles, Objective, PackingSpec, Use, share_problems
from blankfill.objectives.format import Format, join
from blankfill.objectives.glm_format import TWO_AXES, GlmFormat, Numbering, Span, with_part_b
from blankfill.system.bounds import COUNT, Bound, above
from blankfill.types import Document, Example, Int32, Vocabulary

LONGEST_SPAN = 39


@dataclass(frozen=True)
class GlmChoice:
    """What is blanked. Spans are half-open in the row ([CLS] counted), ascending; `order` is their order in Part B.

    mask: the role of the mask token. to_end: the (single) span is the rest of the row and ends without [E].
    hidden: places in Part B's inputs (`block_mask`) and in Part A (`context_mask`) that become [dBLOCK], as indices of
    the built row.
    """

    spans: tuple[Span, ...]
    order: tuple[int, ...]
    mask: str = "mask"
    to_end: bool = False
    hidden: tuple[int, ...] = ()


class BlankWriting(Objective):
    """Base of the objectives that write what stood behind each mask of a text, token by token."""

    cloze: ClassVar[Literal["masks", "writing", "none"]] = "writing"
    hf_auto_class: ClassVar[str] = "AutoModelForCausalLM"

    @property
    def fills(self) -> bool:
        """Blanks are masks."""
        return True

    @property
    def writes(self) -> bool:
        """A text is continued in a blank at its end."""
        return True

    @property
    def writes_into_blanks(self) -> bool:
        """A blank may stand anywhere in the text."""
        return True


@dataclass(frozen=True)
class Glm(BlankWriting):
    """Options of the GLM objective. `length` counts the row before blanking; [S] and the masks of blanks come on
    top."""

    name: ClassVar[str] = "glm"
    explanation: ClassVar[str] = (
        "Spans, sentences or the end of the text are blanked; the model writes each of them token by token, and "
        "sees the text and what it has written."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos 1", "pos 2")
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("token", "sentence", "document"), COUNT),
        "mean_span": above(0, LONGEST),
    }
    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock")

    token: float = 1.0
    """Weight of token-level examples in the mixture."""
    sentence: float = 0.0
    """Weight of sentence-level examples."""
    document: float = 0.0
    """Weight of document-level examples."""
    mask_ratio: float = 0.15
    """Share of the row blanked at token level; usually 0.15."""
    sentence_ratio: float = 0.15
    """Share of the row blanked at sentence level; usually 0.15."""
    mean_span: float = 3.0
    """Poisson parameter of span lengths in tokens; usually 3. Length 0 is excluded, so the mean is slightly larger."""
    document_ratio: float = 0.5
    """Minimum length of a document-level blank, as a share of the row (released 10B configurations: 0.25)."""
    document_inside: float = 0.0
    """Share of document-level blanks with text on both sides (released code: 0.5); the others extend to the end of the
    row."""
    task_mask: bool = True
    """Sentence level uses [sMASK] and document level [gMASK]; off: [MASK] everywhere."""
    shuffle: bool = True
    """Arrange the spans of Part B in a random order; off: from left to right."""
    block_mask: float = 0.0
    """Share of Part B's input tokens hidden as [dBLOCK], token level only (released 10B: 0.1)."""
    context_mask: float = 0.0
    """Share of the row hidden as [dBLOCK] among the three tokens on either side of a mask and the last three of Part A,
    token level only (released code: 0)."""
    short: float = 0.0
    """Share of documents that are cut into shorter examples (released 10B: 0.02; 10B longer: 0.5)."""
    joined: bool = False
    """Blank documents that share a row as one text in which they see each other, as the released code does."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(
            mask_ratio=self.mask_ratio,
            sentence_ratio=self.sentence_ratio,
            document_ratio=self.document_ratio,
            document_inside=self.document_inside,
            block_mask=self.block_mask,
            context_mask=self.context_mask,
            short=self.short,
        )
        if not problems and not self.token + self.sentence + self.document:
            problems.append("objective.token, .sentence and .document are weights; one must not be 0")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: runs of tokens of one document after [CLS], closed by the end-of-text token."""
        shortest = min(32, self.length - 2)
        return PackingSpec(
            "chunks", self.length - 1, chunk_overhead=1, after=1, merge_chunks=self.joined, short=self.short,
            short_min=shortest, min_tokens=4,
        )  # fmt: skip

    def position_sizes(self) -> tuple[int, ...]:
        """Place in Part A, place inside the blank."""
        return (self.length + 1, self.length + 1)

    def required_roles(self, use: Use) -> tuple[str, ...]:
        """Return the roles of a row with a blank; kinds of masks that a tokenizer lacks become [MASK]."""
        return ("mask", "sop", "eop") if use in ("target", "cloze") else ("cls", "mask", "sop", "eop", "eos")

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Part A and Part B."""
        return GlmFormat(self, vocabulary, position_sizes)

    def frame_roles(self) -> FrameRoles:
        """Return [CLS] before a text, and the end-of-text token behind it."""
        return FrameRoles(("cls",), ("sep",), ("eos",))

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> GlmChoice:
        """Draw the level and its spans."""
        all_weights = self.token + self.sentence + self.document
        draw = rng.random()
        length = row_length(document)
        if draw >= (self.token + self.sentence) / all_weights:
            return self._choose_document(document, length, rng)
        token_level = draw < self.token / all_weights
        if not token_level:
            spans = self._sentence_spans(document, length, rng)
            mask = "smask" if self.task_mask else "mask"
        else:
            spans = self._token_spans(document, length, rng)
            mask = "mask"
        order = tuple((rng.permutation(len(spans)) if self.shuffle else np.arange(len(spans))).tolist())
        hidden = self._hidden(spans, order, length, rng) if token_level else ()
        return GlmChoice(tuple(spans), order, mask, hidden=hidden)

    def build(self, document: Document, vocabulary: Vocabulary, choice: GlmChoice) -> Example:
        """Collapse the spans in Part A, write them out in Part B."""
        cls, eos = [vocabulary["cls"]], [vocabulary["eos"]]
        parts: list[Int32 | list[int]] = []
        bounds = stretches(document)
        for k, (begin, end) in enumerate(bounds):
            closed = document.last or k < len(bounds) - 1
            parts += [cls, document.ids[begin:end], eos if closed else []]
        return infill(join(*parts), choice, vocabulary)

    def _token_spans(self, document: Document, length: int, rng: Generator) -> list[Span]:
        lengths = draw_lengths(max(1, int(self.mask_ratio * length)), self.mean_span, rng)
        spans: list[Span] = []
        rooms = maskable(document)
        for k, (begin, end) in enumerate(rooms):
            last = k == len(rooms) - 1
            most = end - begin if last else int(self.mask_ratio * (end - begin))
            count = fitting(lengths, most, gaps=last)
            if count == 0 and last and not spans:
                lengths, count = [min(lengths[0], end - begin)], 1
            spans += place_spans(lengths[:count], end - begin, rng, begin)
            lengths = lengths[count:]
        return sorted(spans)

    def _sentence_spans(self, document: Document, length: int, rng: Generator) -> list[Span]:
        rooms = maskable(document, ordered=False)
        shift = {begin: row - begin for (row, _), (begin, _) in zip(rooms, stretches(document), strict=True)}
        starts = np.fromiter(shift, np.int64)
        cuts = sorted({*document.sentences.tolist(), *starts.tolist(), len(document)})
        sentences = []
        for begin, end in itertools.pairwise(cuts):
            move = shift[int(starts[np.searchsorted(starts, begin, side="right") - 1])]
            sentences.append((begin + move, end + move))
        wanted = int(self.sentence_ratio * length)
        spans: list[Span] = []
        total = 0
        for k in rng.permutation(len(sentences)):
            spans.append(sentences[k])
            total += sentences[k][1] - sentences[k][0]
            if total >= wanted:
                break
        return sorted(spans)

    def _choose_document(self, document: Document, length: int, rng: Generator) -> GlmChoice:
        mask = "gmask" if self.task_mask else "mask"
        most = length - 2
        least = min(most, max(1, int(self.document_ratio * length)))
        blank = int(rng.integers(least, most + 1))
        several = document.parts is not None and len(document.parts) > 2
        if several or rng.random() >= self.document_inside:
            return GlmChoice(((length - blank, length),), (0,), mask, to_end=True)
        start = 1 + int(rng.integers(0, length - 1 - blank))
        return GlmChoice(((start, start + blank),), (0,), mask)

    def _hidden(self, spans: list[Span], order: tuple[int, ...], length: int, rng: Generator) -> tuple[int, ...]:
        if not (self.block_mask or self.context_mask):
            return ()
        masks = [start - sum(e - s - 1 for s, e in spans[:k]) for k, (start, _) in enumerate(spans)]
        part_a = length - sum(end - start - 1 for start, end in spans)
        hidden: list[int] = []
        if self.block_mask:
            column = part_a
            for k in order:
                size = spans[k][1] - spans[k][0]
                hidden += (column + 1 + np.flatnonzero(rng.random(size) < self.block_mask)).tolist()
                column += size + 1
        if self.context_mask:
            # as the released code, which takes the end of Part A for the border of a blank, and [CLS] for any token
            near = {m + d for m in (*masks, part_a) for d in (-3, -2, -1, 1, 2, 3)} - set(masks)
            pool = sorted(i for i in near if 0 <= i < part_a)
            count = min(len(pool), int(self.context_mask * length))
            hidden += rng.choice(pool, count, replace=False).tolist() if count else []
        return tuple(sorted(hidden))


def span_law(mean: float) -> np.ndarray:
    """Cumulative law of span lengths 1..39: Poisson(mean) without zero, renormalised. float64[39]."""
    weights = np.array([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(1, LONGEST_SPAN + 1)])
    return np.cumsum(weights / weights.sum())


@lru_cache(maxsize=8)
def _kept_span_law(mean: float) -> tuple[float, ...]:
    """Return the cumulated `span_law` for `bisect`; it ends with exactly 1, which a draw never reaches."""
    return (*span_law(mean)[:-1].tolist(), 1.0)


def draw_lengths(wanted: int, mean: float, rng: Generator) -> list[int]:
    """Draw lengths of spans by `span_law` until they have `wanted` tokens together; the last may exceed them."""
    law = _kept_span_law(mean)
    lengths: list[int] = []
    total = 0
    while total < wanted:
        lengths.append(bisect_right(law, rng.random()) + 1)
        total += lengths[-1]
    rng.shuffle(lengths)
    return lengths


def row_length(document: Document) -> int:
    """Return the length of the clean row: every document inside has its [CLS], all but perhaps the last their end
    token."""
    inside = 1 if document.parts is None else len(document.parts) - 1
    return len(document) + 2 * inside - (0 if document.last else 1)


def stretches(document: Document) -> list[Span]:
    """Return the documents inside a Document, as half-open ranges of its ids."""
    return [(0, len(document))] if document.parts is None else list(itertools.pairwise(document.parts.tolist()))


def maskable(document: Document, ordered: bool = True) -> list[Span]:
    """Return the ranges of the row in which spans may be, one for each document; shortest first when `ordered`.

    [CLS] and the end token are never blanked; nor is the last token of a row that has no end token.
    """
    rooms: list[Span] = []
    column = 0
    parts = stretches(document)
    for k, (begin, end) in enumerate(parts):
        closed = document.last or k < len(parts) - 1
        size = end - begin
        rooms.append((column + 1, column + 1 + (size if closed else max(1, size - 1))))
        column += 1 + size + int(closed)
    return sorted(rooms, key=lambda room: room[1] - room[0]) if ordered else rooms


def fitting(lengths: list[int], room: int, gaps: bool) -> int:
    """Return how many of the leading span lengths fit into a room, with at least one token between two spans when
    `gaps`."""
    used = 0
    for count, length in enumerate(lengths):
        if used + length + (count if gaps else 0) > room:
            return count
        used += length
    return len(lengths)


def place_spans(lengths: list[int], room: int, rng: Generator, offset: int = 0) -> list[Span]:
    """Lay spans of these lengths, in this order, into `room` tokens with at least one token between them.

    As the original does it: sorted uniform draws, not uniform over layouts. Spans that cannot have a gap are left out.
    """
    lengths = lengths[: fitting(lengths, room, gaps=True)]
    slack = room - sum(lengths) - len(lengths) + 1
    spans = []
    for draw, length in zip(np.sort(rng.integers(0, slack + 1, len(lengths))).tolist(), lengths, strict=True):
        spans.append((offset + draw, offset + draw + length))
        offset += length + 1
    return spans


def infill(
    row: Int32, choice: GlmChoice, vocabulary: Vocabulary, first_position: int = 0, numbering: Numbering = TWO_AXES
) -> Example:
    """Return the pure step of GLM: a clean row with its specials, and what is blanked → the Example.

    row: int32[N]. `first_position` numbers the first token (the paper's figure counts from 1, the code from 0).
    """
    blanked = sum(end - start for start, end in choice.spans)
    context = len(row) - blanked + len(choice.spans)
    answers = blanked + (0 if choice.to_end else len(choice.spans))
    part_a = np.empty(context, np.int32)
    targets = np.full(answers, vocabulary["eop"], np.int32)
    places: list[int] = []
    column, last = 0, 0
    for start, end in choice.spans:
        place = column + start - last
        part_a[column:place] = row[last:start]
        places.append(place)
        column, last = place + 1, end
    part_a[column:] = row[last:]
    part_a[places] = vocabulary[choice.mask]
    spans: list[Span] = []
    column = 0
    for k in choice.order:
        start, end = choice.spans[k]
        targets[column : column + end - start] = row[start:end]
        spans.append((places[k], end - start + (0 if choice.to_end else 1)))
        column += spans[-1][1]
    example = with_part_b(part_a, spans, targets, vocabulary["sop"], numbering)
    if choice.hidden:
        example.input_ids[list(choice.hidden)] = vocabulary["dblock"]
    example.positions[0] += first_position
    return example
