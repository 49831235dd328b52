"""SpanBERT: masked spans of whole words, whose words are also predicted from the span's boundaries (Joshi et al. 2019).

Row: [CLS] text [SEP], one run of one document, no pairs. Spans have 1 to 10 words, a number drawn from a geometric
distribution, until 15% of the text is masked; spans that meet are one. A whole span becomes [MASK] (80%), random tokens
(10%) or stays (10%). Besides the masked words themselves, the first words of each span are predicted a second time,
from the two tokens outside the span and the position in it (span-boundary objective). Code: facebookresearch/SpanBERT,
masking.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, Masking, PackingSpec
from blankfill.objectives.bert import frame
from blankfill.system.bounds import Bound, at_least
from blankfill.types import AttentionRule, Document, Example, Int32, Vocabulary

Span = tuple[int, int]


@dataclass(frozen=True)
class SpanChoice:
    """The masked spans, half-open in the Document, ascending and apart; and for each its replacements, int32[n]."""

    spans: tuple[Span, ...]
    inputs: tuple[Int32, ...]


@dataclass(frozen=True)
class SpanBert(Masking):
    """Options of the SpanBERT objective."""

    name: ClassVar[str] = "spanbert"
    explanation: ClassVar[str] = (
        "Spans of words are hidden; each token is predicted where it was, and once more from the two tokens "
        "around its span."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"longest": at_least(1, LONGEST), "boundary": at_least(0, LONGEST)}

    mask_ratio: float = 0.15
    """Share of the text's tokens, [CLS] and [SEP] not counted, that are targets, rounded up; usually 0.15."""
    mask_share: float = 0.8
    """Share of the spans replaced by [MASK]; usually 0.8."""
    random_share: float = 0.1
    """Share of the spans replaced by random tokens; the rest stays unchanged. Usually 0.1."""
    geometric: float = 0.2
    """Parameter p of the geometric distribution of span lengths, which are at most `longest`; usually 0.2."""
    longest: int = 10
    """Maximum length of a drawn span in words; adjacent spans are joined. Usually 10."""
    whole_word: bool = True
    """Count spans in words; off: in tokens."""
    boundary: int = 20
    """Maximum number of tokens of a span that are also predicted from its boundaries; usually 20. 0: off."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems()
        if not 0 < self.geometric < 1:
            problems.append(f"objective.geometric is {self.geometric}; it must be above 0 and below 1")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: runs of whole sentences of one document, as long as possible."""
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True)

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type, which is 0 everywhere."""
        return (self.length, 2)

    def needs_words(self) -> bool:
        """Return whether spans are counted in words, which needs word starts."""
        return self.whole_word

    def max_span_positions(self) -> int:
        """Return the number of positions in a span that are predicted from its boundaries."""
        return self.boundary

    def budget(self, length: int) -> int:
        """Return the number of masked tokens in a text of `length` tokens (without special tokens)."""
        return math.ceil(self.mask_ratio * length)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> SpanChoice:
        """Draw the spans, and for each what becomes of it."""
        size = len(document)
        begins = np.ones(size, np.bool_)
        if self.whole_word:
            if document.words is None:
                raise ValueError("spans of whole words need word starts, which this tokenizer does not tell")
            begins = document.words.copy()
        begins[document.sentences[:-1]] = True
        spans = cover(begins, self._draws(size, rng), self.budget(size))
        inputs = [self._replacement(document.ids[slice(*span)], vocabulary, rng) for span in spans]
        return SpanChoice(tuple(spans), tuple(inputs))

    def _draws(self, size: int, rng: Generator) -> Iterator[tuple[int, int]]:
        """Yield anchors and numbers of words, endlessly."""
        law = length_law(self.geometric, self.longest)
        while True:
            yield int(rng.integers(size)), 1 + int(np.searchsorted(law, rng.random() * law[-1], side="right"))

    def _replacement(self, ids: Int32, vocabulary: Vocabulary, rng: Generator) -> Int32:
        """Draw the replacement of a span of these tokens; one draw decides for all of them."""
        return replaced(ids, rng.random(), self.mask_share, self.random_share, vocabulary, rng)

    def build(self, document: Document, vocabulary: Vocabulary, choice: SpanChoice) -> Example:
        """Frame the text, insert the replacements, and add boundary targets for spans with both boundaries inside the
        text."""
        row = frame(document.ids, np.zeros(0, np.int32), vocabulary)
        index = np.array([1 + k for span in choice.spans for k in range(*span)], np.int32)
        target_ids = row[index]
        boundary = span_boundary_targets(document.ids, choice.spans, self.boundary)
        row[index] = np.concatenate([np.zeros(0, np.int32), *choice.inputs])
        return Example(
            row,
            self.row_positions(len(row)),
            AttentionRule.full(len(row)),
            index,
            target_ids,
            span_boundary_targets=boundary,
        )


def length_law(geometric: float, longest: int) -> np.ndarray:
    """Cumulative law of span lengths 1 … longest, geometric and renormalised as in the released code. float64[longest].

    The paper says that lengths are cut off at the longest; its mean of 3.8 words is that of this law, not of that.
    """
    weights = geometric * (1 - geometric) ** np.arange(longest)
    return np.cumsum(weights / weights.sum())


def cover(begins: np.ndarray, draws: Iterable[tuple[int, int]], budget: int) -> list[Span]:
    """Return the masked spans, merged, for draws of (an anchor token, how many words); the draws must reach the budget.

    begins: bool[N], where words begin. A span begins with the anchor's word; one whose anchor is masked already is
    drawn again. The last span ends where the budget is reached, inside a word too, as in the released code.
    """
    starts = np.flatnonzero(begins).tolist()
    word = np.cumsum(begins) - 1
    edges = [*starts, len(begins)]
    taken: set[int] = set()
    draw = iter(draws)
    while len(taken) < budget:
        anchor, words = next(draw)
        if anchor in taken:
            continue
        first = int(word[anchor])
        for token in range(edges[first], edges[min(first + words, len(starts))]):
            taken.add(token)
            if len(taken) == budget:
                break
    return runs(sorted(taken))


def runs(tokens: Sequence[int]) -> list[Span]:
    """Ascending numbers as half-open runs of neighbours."""
    if not tokens:
        return []
    cuts = [0, *(k for k in range(1, len(tokens)) if tokens[k] != tokens[k - 1] + 1), len(tokens)]
    return [(tokens[low], tokens[high - 1] + 1) for low, high in itertools.pairwise(cuts)]


def replaced(
    ids: Int32, draw: float, mask_share: float, random_share: float, vocabulary: Vocabulary, rng: Generator
) -> Int32:
    """Return the content of a masked span, int32[n]: [MASK] for all, a random token for each, or the tokens
    unchanged."""
    if draw < mask_share:
        return np.full(len(ids), vocabulary["mask"], np.int32)
    if draw < mask_share + random_share:
        return rng.integers(0, vocabulary.size, len(ids)).astype(np.int32)
    return ids.copy()


def span_boundary_targets(ids: Int32, spans: Sequence[Span], most: int) -> Int32 | None:
    """Return the targets at the boundaries of spans in the row [CLS] ids [SEP]: `Example.span_boundary_targets`.

    Only spans with a token of the text on both sides have such targets, at most `most` each; None when `most` is 0.
    """
    if not most:
        return None
    targets = [
        (begin, end + 1, place, int(ids[begin + place]))  # counted in the row, where [CLS] stands first
        for begin, end in spans
        if begin > 0 and end < len(ids)
        for place in range(min(end - begin, most))
    ]
    return np.array(targets, np.int32).reshape(-1, 4).T.copy()
