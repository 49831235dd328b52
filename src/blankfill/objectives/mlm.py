"""Masked language modelling as RoBERTa runs it (Liu et al. 2019; fairseq mask_tokens_dataset.py).

Row: [CLS] sentences [SEP]; the masks are drawn again in each epoch, there are no pairs and no token types. Rows are
packed with full sentences, across documents (FULL-SENTENCES, a [SEP] between documents) or within one (DOC-SENTENCES).
The number of masked tokens is rounded at random, so that its mean is exactly the ratio.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, Masked, Masking, Objective, PackingSpec, inside_frame, replacements
from blankfill.objectives.bert import candidates, choose_candidates, choose_tokens
from blankfill.objectives.format import join
from blankfill.system.bounds import Bound, at_least
from blankfill.types import AttentionRule, Document, Example, Int32, Vocabulary


@dataclass(frozen=True)
class Mlm(Masking):
    """Options of the masked-language-model objective."""

    name: ClassVar[str] = "mlm"
    explanation: ClassVar[str] = (
        "Single tokens of running text are hidden and predicted where they were, from both sides."
    )
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"position_offset": at_least(0, LONGEST)}
    doubles_separator: ClassVar[bool] = True

    whole_word: bool = False
    """Mask all tokens of a word together."""
    across_documents: bool = True
    """Fill rows across documents (the paper's FULL-SENTENCES); off: DOC-SENTENCES."""
    mask_specials: bool = False
    """Mask [CLS] and [SEP] too, as the released fairseq code does."""
    position_offset: int = 2
    """Number of the first position (RoBERTa: 2)."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems()
        if self.mask_specials and self.whole_word:
            problems.append("objective.mask_specials and objective.whole_word exclude each other")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: runs of whole sentences."""
        if self.across_documents:
            return PackingSpec(
                "stream", self.length - 2, chunk_overhead=1, row_overhead=1, whole_sentences=True, merge_chunks=True
            )
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True)

    def position_sizes(self) -> tuple[int, ...]:
        """One channel of positions."""
        return (self.length + self.position_offset,)

    def needs_words(self) -> bool:
        """Whole words are found by where they begin."""
        return self.whole_word

    def numbered_as(self, earlier: Objective) -> Objective:
        """With the offset of another model of this objective."""
        return replace(self, position_offset=earlier.position_offset) if isinstance(earlier, Mlm) else self

    def count(self, length: int, rounding: float) -> int:
        """Return the number of targets in a row of `length` tokens; `rounding` is uniform on [0, 1)."""
        return max(1, int(self.mask_ratio * length + rounding))

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> Masked:
        """Draw the masked tokens and their replacements."""
        row = self._row(document, vocabulary)
        count = self.count(len(row), rng.random())
        if self.whole_word:
            if document.words is None:
                raise ValueError("whole-word masking needs word starts, which this tokenizer does not tell")
            words = np.ones(len(row), np.bool_)
            words[_places(document)] = document.words
            index = choose_candidates(candidates(row, words, vocabulary), count, rng)
        else:
            maskable = np.ones(len(row), np.bool_) if self.mask_specials else inside_frame(row, vocabulary)
            index = choose_tokens(maskable, count, rng)
        return replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=True)

    def build(self, document: Document, vocabulary: Vocabulary, choice: Masked) -> Example:
        """Frame the sentences and put the replacements in."""
        row = self._row(document, vocabulary)
        target_ids = row[choice.index]
        row[choice.index] = choice.inputs
        return Example(row, self.row_positions(len(row)), AttentionRule.full(len(row)), choice.index, target_ids)

    def _row(self, document: Document, vocabulary: Vocabulary) -> Int32:
        parts: list[Int32 | list[int]] = [[vocabulary["cls"]]]
        for begin, end in itertools.pairwise(_bounds(document)):
            parts += [document.ids[begin:end], [vocabulary["sep"]]]
        return join(*parts)


def _bounds(document: Document) -> list[int]:
    return [0, len(document)] if document.parts is None else document.parts.tolist()


def _places(document: Document) -> np.ndarray:
    """Return the columns of the document's own tokens in the row, int64[N]."""
    places = np.arange(1, len(document) + 1)
    for part in _bounds(document)[1:-1]:
        places[part:] += 1
    return places
