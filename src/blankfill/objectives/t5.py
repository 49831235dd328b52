"""T5: spans of the text become numbered blanks, and a decoder generates their text (Raffel et al. 2020).

Documents are joined end to end and cut into pieces of one length. In the encoder's row each span is one *sentinel*,
numbered in the order of the text; the decoder generates each sentinel and the tokens that it replaces. Spans hold 15%
of the tokens, three each on average: the number of spans is fixed, and their boundaries are random. The blanked tokens
are split into that number of spans and the others into the same number of runs, all splits equally likely; they
alternate, beginning with a run. The length of a piece is the one that fills the encoder's row.
Code: google-research/text-to-text-transfer-transformer.

`variant` has the unsupervised objectives that the paper compares (its section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.errors import UserError
from blankfill.objectives.base import LONGEST, FrameRoles, Objective, PackingSpec, Use, share_problems
from blankfill.objectives.format import NOTHING, Format, Ids, SourceRow, join
from blankfill.objectives.two_stacks import StackFormat, two_sided
from blankfill.system.bounds import Bound, at_least
from blankfill.types import Bool, DecoderInput, Document, Example, Int32, Vocabulary

SENTINELS = 100
"""As many as the released vocabulary has; more only where a row can need more."""
MOST = 0.9
"""The largest share of the text that may be blanked: a row then takes up to ten times its length of text."""


@dataclass(frozen=True)
class T5Choice:
    """noise: bool[N], which tokens are blanked. shown: int32[N], the encoder's tokens where its row is as long as the
    text and the decoder generates the whole text (bert, mass, deshuffle); None elsewhere."""

    noise: Bool
    shown: Int32 | None = None


@dataclass(frozen=True)
class T5(Objective):
    """Options of the T5 objective. Its raw text is longer than the encoder's row, and so `raw_length` says how long."""

    name: ClassVar[str] = "t5"
    explanation: ClassVar[str] = (
        "Spans are replaced by numbered blanks; a decoder writes what was in each blank, and sees the text with "
        "its blanks."
    )
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"mean_span": at_least(1, LONGEST)}
    roles: ClassVar[tuple[str, ...]] = ("pad", "eos")
    decoder_start: ClassVar[str] = "pad"
    fill_option: ClassVar[str] = "variant"
    blank_is_sentinel: ClassVar[bool] = True
    relative_positions: ClassVar[bool] = True
    cls_state: ClassVar[bool] = False
    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "end"

    length: int = 512
    """Length of the encoder's row in tokens, end token included; it determines the decoder's length (512: 114)."""
    variant: Literal["spans", "prefix-lm", "bert", "mass", "drop", "deshuffle", "iid"] = "spans"
    """Kind of corruption. spans: spans become sentinels; the others are the unsupervised objectives that the paper
    compares (prefix language model, BERT-style, MASS-style, dropped tokens, deshuffling, single tokens as
    sentinels)."""
    mask_ratio: float = 0.15
    """Share of the tokens that are blanked; usually 0.15. prefix-lm and deshuffle do not use it."""
    mean_span: float = 3.0
    """Mean length of the spans in tokens; usually 3."""
    random_share: float = 0.1
    """Variant bert: share of the blanked tokens replaced by a random token; the others become the first sentinel."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(random_share=self.random_share)
        if not 0 < self.mask_ratio <= MOST:
            problems.append(f"objective.mask_ratio is {self.mask_ratio}; it must be above 0 and at most {MOST}")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: documents end to end, cut when a row is full, with nothing between them, as in the
        released code."""
        return PackingSpec("stream", self.raw_length(), merge_chunks=True, min_tokens=2)

    def position_sizes(self) -> tuple[int, ...]:
        """One channel of places, from which distances are taken; the longer of the two rows."""
        return (max(self.length, self.answer_length()),)

    def sentinels(self) -> int:
        """Return 100 for every variant, so that all have the same vocabulary; more if a row may have more blanks."""
        raw = self.raw_length()
        if self._in_spans():
            return max(SENTINELS, span_counts(raw, self.mask_ratio, self.mean_span)[1])
        usual = raw * self.mask_ratio * (1 - self.mask_ratio)
        return max(SENTINELS, math.ceil(usual + 6 * usual**0.5)) if self.variant == "iid" else SENTINELS

    def raw_length(self) -> int:
        """Return the tokens of text of an encoder's row: 568 for 512, since blanking shortens spans."""
        raw = self.length - 1
        if not self._in_spans():
            return raw
        while _row_sizes(raw + 1, *_planned_counts(raw + 1, self.mask_ratio, self.mean_span))[0] <= self.length:
            raw += 1
        written = _row_sizes(raw, *_planned_counts(raw, self.mask_ratio, self.mean_span))[1]
        if self.mask_ratio == 0.5 and written > self.length:
            raw -= 1  # the released code's exception, so that both sides have the requested round length
        while self._lengths(raw)[0] > self.length:
            raw -= 1
        return raw

    def answer_length(self) -> int:
        """Return the longest decoder's row; all rows but the last of an epoch have this length, if the variant is
        spans."""
        return self._lengths(self.raw_length())[1] if self._in_spans() else self.length

    def _in_spans(self) -> bool:
        """Return whether lengths follow from spans; a recipe needs the lengths even if its options are not valid."""
        return self.variant == "spans" and not self.problems()

    def _lengths(self, raw: int) -> tuple[int, int]:
        """Return the rows of the encoder and the decoder for so much text, both with their end token."""
        return _row_sizes(raw, *span_counts(raw, self.mask_ratio, self.mean_span))

    @property
    def fills(self) -> bool:
        """Variants with sentinels know blanks."""
        return self.variant in ("spans", "iid")

    @property
    def writes(self) -> bool:
        """A text is continued in a blank at its end, or as prefix-lm learns it."""
        return self.fills or self.variant == "prefix-lm"

    @property
    def writes_into_blanks(self) -> bool:
        """Blanks are sentinels."""
        return self.fills

    def required_sentinels(self, use: Use) -> int:
        """Return the number of sentinels that a use needs: one for a blank."""
        return int(use == "fill" or (use == "generate" and self.fills))

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return the roles of a row: sentinels on both sides."""
        return T5Format(self, vocabulary, position_sizes)

    def frame_roles(self) -> FrameRoles:
        """Return the special tokens of a text: the encoder's row ends with the end-of-text token."""
        return FrameRoles((), ("eos",), ("eos",))

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> T5Choice:
        """Draw what is blanked."""
        ids, size = document.ids, len(document)
        if self.variant == "spans":
            return T5Choice(random_spans(size, self.mask_ratio, self.mean_span, rng))
        if self.variant == "prefix-lm":
            return T5Choice(np.arange(size) >= 1 + rng.integers(max(1, size - 1)))
        if self.variant == "deshuffle":
            return T5Choice(np.ones(size, np.bool_), rng.permutation(ids))
        noise = rng.random(size) < self.mask_ratio
        if self.variant == "drop":
            return T5Choice(noise)
        if self.variant == "iid":
            return T5Choice(first_runs(noise, len(vocabulary.sentinels) - 1))
        shown = ids.copy()
        shown[noise] = first_sentinels(vocabulary, 1)
        if self.variant == "bert":
            is_random = noise & (rng.random(size) < self.random_share)
            shown[is_random] = rng.integers(0, vocabulary.size, np.count_nonzero(is_random))
        return T5Choice(noise, shown)

    def build(self, document: Document, vocabulary: Vocabulary, choice: T5Choice) -> Example:
        """Return the two rows: what the encoder reads, what the decoder writes."""
        ids, noise = document.ids, choice.noise
        if choice.shown is not None:
            read, written = choice.shown, ids
        elif self.variant in ("spans", "iid"):
            read, written = blanked(ids, noise, vocabulary), blanked(ids, ~noise, vocabulary)
        else:
            read, written = ids[~noise], ids[noise]
        read, written = self.framed(read, vocabulary), self.framed(written, vocabulary)
        return two_sided(read, written, vocabulary[self.decoder_start])


def span_counts(length: int, ratio: float, mean: float) -> tuple[int, int]:
    """How many of `length` tokens are blanked, and in how many spans; neither is random.

    In float32, as the released code computes it: of 190 tokens 15% are 28.500002, so 29. Exact halves go to the even
    number.
    """
    length = max(length, 2)
    noise = _within(float(np.round(np.float32(length) * np.float32(ratio))), length - 1)
    return noise, _within(float(np.round(np.float32(noise) / np.float32(mean))), length - noise)


def _planned_counts(length: int, ratio: float, mean: float) -> tuple[int, int]:
    """Return the same in float64: by these numbers the released code (`random_spans_helper`) cuts the text."""
    length = max(length, 2)
    noise = _within(round(length * ratio), length - 1)
    return noise, _within(round(noise / mean), length - noise)


def _within(count: float, most: int) -> int:
    return min(max(int(count), 1), most)


def _row_sizes(raw: int, noise: int, spans: int) -> tuple[int, int]:
    """Return the sizes of the encoder's row and the decoder's, both with their end token."""
    return raw - noise + spans + 1, noise + spans + 1


def random_spans(length: int, ratio: float, mean: float, rng: Generator) -> Bool:
    """Draw which tokens are in spans, bool[length]: kept text first, a span last, all such divisions equally likely."""
    noise, spans = span_counts(length, ratio, mean)
    blanks = segments(rng.permutation(np.arange(noise - 1) < spans - 1))
    lengths = segments(rng.permutation(np.arange(max(length, 2) - noise - 1) < spans - 1))
    return interleaved(lengths, blanks)[:length]


def segments(cuts: Bool) -> Int32:
    """Return the lengths of the pieces of a run of tokens, int32[K]. cuts: bool[N-1], after which tokens it is cut."""
    edges = np.concatenate([[0], np.flatnonzero(cuts) + 1, [len(cuts) + 1]])
    return np.diff(edges).astype(np.int32)


def interleaved(runs: Int32, blanks: Int32) -> Bool:
    """Kept runs and blanked ones of these lengths in turn, bool[their sum]: whether a token is blanked."""
    lengths = np.stack([runs, blanks], axis=1).ravel()
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def run_begins(noise: Bool) -> Bool:
    """Return where runs of marked tokens begin, bool[N]."""
    begins = noise.copy()
    begins[1:] &= ~noise[:-1]
    return begins


def first_runs(noise: Bool, most: int) -> Bool:
    """Return the same marks without the runs beyond the first `most`."""
    return noise & (np.cumsum(run_begins(noise)) <= most)


def blanked(ids: Int32, noise: Bool, vocabulary: Vocabulary) -> Int32:
    """Return the text with a sentinel for each run of marked tokens, int32. UserError when there are too few
    sentinels."""
    begins = run_begins(noise)
    return with_sentinels(ids, begins, vocabulary)[begins | ~noise]


def with_sentinels(ids: Int32, places: Bool, vocabulary: Vocabulary) -> Int32:
    """Return a row with sentinels at the marked places, numbered from left to right, int32[N]. UserError when there are
    too few."""
    row = ids.copy()
    row[places] = first_sentinels(vocabulary, int(np.count_nonzero(places)))
    return row


def first_sentinels(vocabulary: Vocabulary, count: int) -> Int32:
    """Return the ids of the first `count` sentinels, int32[count]; UserError when there are fewer."""
    if count > len(vocabulary.sentinels):
        raise UserError(
            f"a row needs {count} sentinels (<extra_id_0>, …) and the tokenizer has {len(vocabulary.sentinels)}; take "
            "a shorter objective.length, or a tokenizer with more of them"
        )
    return np.array(vocabulary.sentinels[:count], np.int32)


class T5Format(StackFormat):
    """The encoder reads a sentinel for each blank; the decoder generates each sentinel and the text of its blank."""

    fill_method = "writing"
    second_prefix = " "

    def _pooled(self, length: int) -> int:
        """Return the last column, as transformers has it."""
        return length - 1

    @property
    def blank_room(self) -> int:
        """Either row has a sentinel and the end token besides."""
        return self.max_columns - 2

    def between_sentinels(self, runs: Sequence[Ids]) -> Int32:
        """Join runs of text with sentinels between them, int32[L]."""
        places = np.zeros(sum(map(len, runs)) + len(runs) - 1, np.bool_)
        places[np.cumsum([len(run) + 1 for run in runs[:-1]], dtype=np.int64) - 1] = True
        row = np.zeros(len(places), np.int32)
        row[~places] = join(NOTHING, *runs)
        return with_sentinels(row, places, self.vocabulary)

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """One sentinel on each side; the next one ends the answer, or the end of the text where nothing follows."""
        sentinels = self.vocabulary.sentinels
        close = sentinels[1] if len(after) and len(sentinels) > 1 else self.vocabulary["eos"]
        source = self._source(self.between_sentinels([before, after]))
        written = join(self.between_sentinels([NOTHING, answer]), [close])
        return [self.teacher_forced(source, written, len(answer) + 1)]

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """Raise UserError when there are more blanks than sentinels."""
        blanks, most = len(runs) - 1, len(self.vocabulary.sentinels)
        if blanks > most:
            raise UserError(
                f"the text has {blanks} blanks and the tokenizer {most} sentinels; fill fewer blanks at a time"
            )

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Return the sentinels and fills so far, and the sentinel of the blank."""
        self.check_blanks(runs, roles)
        begun = self.between_sentinels([NOTHING, *fills, NOTHING])
        return self.decoder_input(self._source(self.between_sentinels(runs)), begun)

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return the next sentinel; for the last blank the end of the text as well."""
        following = list(self.vocabulary.sentinels[k + 1 : k + 2])
        return following if k < len(runs) - 2 else [self.vocabulary["eos"], *following]

    @property
    def end_ids(self) -> list[int]:
        """The end of the text, or any sentinel."""
        return [self.vocabulary["eos"], *(self.vocabulary.sentinels if self.objective.fills else ())]

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return a text with one blank, which stands at its end where it has none; for prefix-lm the text alone."""
        if self.objective.fills:
            return self.blank_input([before, after], [role], ())
        return self.decoder_input(self._source(before), NOTHING)

    @property
    def target_end(self) -> int:
        """The end-of-text token."""
        return self.vocabulary["eos"]

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Lay out `first second </s>`: no token separates the texts."""
        return SourceRow(self._source(join(first, NOTHING if second is None else second)))

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the largest and the usual number of tokens of a target; relative positions have no end."""
        return LONGEST, length

    def _source(self, ids: Ids) -> Int32:
        return self.objective.framed(np.asarray(ids, np.int32), self.vocabulary)
