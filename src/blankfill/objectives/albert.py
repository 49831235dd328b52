"""ALBERT: runs of masked words and sentence-order prediction (Lan et al. 2019; google-research/albert).

Row: [CLS] A [SEP] B [SEP], two runs of sentences that follow one another in a document, half of the time with the
second first. Label `sentence_order`: 0 = as in the text, 1 = swapped. Masked are n-grams of whole words, n drawn with
p(n) ∝ 1/n, up to a budget; of their tokens 80% become [MASK], 10% a random token, 10% stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, Masked, Masking, PackingSpec, replacements, share_problems
from blankfill.objectives.bert import (
    candidates,
    exact_budget,
    frame,
    framed_words,
    truncate_pair,
)
from blankfill.system.bounds import COUNT, Bound, at_least
from blankfill.types import AttentionRule, Document, Example, Int32, Vocabulary


@dataclass(frozen=True)
class AlbertChoice:
    """The parts of the Document that are first and second in the row (half-open), and what is masked (in the row).

    second: empty for a sentence without a partner. label: target of the sentence-order prediction; None without one.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    label: int | None
    masked: Masked


@dataclass(frozen=True)
class Albert(Masking):
    """Options of the ALBERT objective."""

    name: ClassVar[str] = "albert"
    explanation: ClassVar[str] = (
        "Runs of whole words are hidden and predicted from both sides; the model also predicts whether the two "
        "parts of the text were exchanged."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {"sentence_order": {0: "as in the text", 1: "swapped"}}
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_predictions": COUNT, "ngram": at_least(1, LONGEST)}

    max_predictions: int = 0
    """Maximum number of targets in an example; 0: length × mask_ratio, rounded."""
    ngram: int = 3
    """Maximum number of consecutive words masked together; a run of n words has a probability proportional to 1/n."""
    whole_word: bool = True
    """Count n in words, with all tokens of a word masked together; off: in tokens."""
    sentence_order: bool = True
    """Use pairs of segments with the sentence-order label; off: one segment without a label."""
    sole_random: bool = False
    """Pair a sentence without a neighbour with a random segment and label the pair as swapped, as the released code
    does; off: such a sentence is an example without a label."""
    short: float = 0.1
    """Share of documents that are cut into shorter examples."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        return super().problems() + share_problems(short=self.short)

    def packing(self) -> PackingSpec:
        """Return the packing: pairs of adjacent sentence runs, or single runs without sentence-order prediction."""
        if not self.sentence_order:
            return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True, short=self.short)
        sole: Literal["random", "none"] = "random" if self.sole_random else "none"
        return PackingSpec(
            "pairs",
            self.length - 3,
            chunk_overhead=3,
            whole_sentences=True,
            short=self.short,
            random_next=0,
            single_sentence=sole,
        )

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type."""
        return (self.length, 2)

    def labels(self) -> tuple[str, ...]:
        """Sentence order, unless it is off."""
        return ("sentence_order",) if self.sentence_order else ()

    def needs_words(self) -> bool:
        """Whole words are found by where they begin."""
        return self.whole_word

    def budget(self, length: int) -> int:
        """Return the number of targets in a row of `length` tokens (with special tokens)."""
        return exact_budget(length, self.length, self.mask_ratio, self.max_predictions)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> AlbertChoice:
        """Cut the pair to size, draw its order and the masked n-grams."""
        middle = int(document.sentences[1]) if self.sentence_order else len(document)
        first, second = truncate_pair(middle, len(document) - middle, self.packing().max_tokens, rng)
        second = (second[0] + middle, second[1] + middle)
        label = None
        if middle < len(document):
            # a part from elsewhere (`sole_random`) is called swapped, and is not swapped on top of that
            label = document.label or int(rng.random() < 0.5)
            if label and not document.label:
                first, second = second, first
        row = _row(document, vocabulary, first, second)
        words = np.ones(len(document), np.bool_)
        if self.whole_word:
            if document.words is None:
                raise ValueError("whole-word masking needs word starts, which this tokenizer does not tell")
            words = document.words
        units = candidates(row, framed_words(words, first, second), vocabulary)
        index = choose_ngrams(units, self.budget(len(row)), self.ngram, rng)
        masked = replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=False)
        return AlbertChoice(first, second, label, masked)

    def build(self, document: Document, vocabulary: Vocabulary, choice: AlbertChoice) -> Example:
        """Frame the pair in its order, put the replacements in."""
        row = _row(document, vocabulary, choice.first, choice.second)
        index = choice.masked.index
        target_ids = row[index]
        row[index] = choice.masked.inputs
        positions = self.row_positions(len(row), choice.first[1] - choice.first[0] + 2)
        labels = {} if choice.label is None else {"sentence_order": choice.label}
        return Example(row, positions, AttentionRule.full(len(row)), index, target_ids, labels)


def _row(document: Document, vocabulary: Vocabulary, first: tuple[int, int], second: tuple[int, int]) -> Int32:
    return frame(document.ids[slice(*first)], document.ids[slice(*second)], vocabulary)


def choose_ngrams(units: Sequence[tuple[int, int]], budget: int, most: int, rng: Generator) -> np.ndarray:
    """Draw n-grams of at most `most` units, p(n) ∝ 1/n, in a random order, until the budget is reached.

    Returns token indices, in the order taken.
    """
    order = rng.permutation(len(units))
    law = np.cumsum(1 / np.arange(1, most + 1))
    sizes = 1 + np.searchsorted(law, law[-1] * rng.random(len(units)), side="right")
    return take_ngrams(units, order, sizes, budget)


def take_ngrams(units: Sequence[tuple[int, int]], order: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """Return the pure half of `choose_ngrams`: at unit order[k], sizes[order[k]] units are wanted.

    As in the released code: an n-gram that overshoots the budget is tried with fewer units and skipped when a single
    one overshoots, one that overlaps an earlier one is skipped, and [SEP] is no unit, so that an n-gram may span it.
    """
    taken: list[int] = []
    covered: set[int] = set()
    for k in order.tolist():
        left = budget - len(taken)
        if left <= 0:
            break
        wanted = [range(*unit) for unit in units[k : k + int(sizes[k])]]
        while wanted and sum(map(len, wanted)) > left:
            wanted.pop()
        tokens = [token for unit in wanted for token in unit]
        if covered.isdisjoint(tokens):
            taken += tokens
            covered.update(tokens)
    return np.asarray(taken, np.int64)
