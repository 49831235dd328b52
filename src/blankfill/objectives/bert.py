"""BERT: masked words and next-sentence prediction (Devlin et al. 2018; google-research/bert).

Row: [CLS] A [SEP] B [SEP]. 15% of the tokens are chosen to an exact budget; of these 80% become [MASK], 10% a random
token, 10% stay. Label `next_sentence`: 0 = B follows A, 1 = B is from elsewhere. Unlike the released files, which hold
ten fixed maskings (`dupe_factor`), the masks here are drawn again in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import Masked, Masking, PackingSpec, inside_frame, replacements, share_problems
from blankfill.system.bounds import COUNT, Bound
from blankfill.types import AttentionRule, Bool, Document, Example, Int32, Vocabulary


@dataclass(frozen=True)
class BertChoice:
    """Which tokens of A and of B remain (half-open, in the Document), and what is masked (in the row)."""

    a: tuple[int, int]
    b: tuple[int, int]
    masked: Masked


@dataclass(frozen=True)
class Bert(Masking):
    """Options of the BERT objective."""

    name: ClassVar[str] = "bert"
    explanation: ClassVar[str] = (
        "Single tokens of a pair of texts are hidden and predicted where they were, from both sides; the model "
        "also predicts whether the second text follows the first."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "next_sentence": {0: "B follows A", 1: "B comes from elsewhere"}
    }
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_predictions": COUNT}

    max_predictions: int = 0
    """Maximum number of targets in an example; 0: length × mask_ratio, rounded."""
    whole_word: bool = False
    """Mask all tokens of a word together."""
    next_sentence: bool = True
    """Use pairs of segments with the next-sentence label; off: one segment without a label."""
    pairs: Literal["segments", "sentences"] = "segments"
    """Content of a pair. segments: runs of sentences that fill the row; sentences: single sentences, with several pairs
    in a row (SENTENCE-PAIR in the RoBERTa paper)."""
    short: float = 0.1
    """Share of documents that are cut into shorter examples."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        return super().problems() + share_problems(short=self.short)

    def packing(self) -> PackingSpec:
        """Return the packing: pairs of sentence runs, or single runs without next-sentence prediction."""
        if self.next_sentence:
            single = int(self.pairs == "sentences")
            return PackingSpec(
                "pairs",
                self.length - 3,
                chunk_overhead=3,
                whole_sentences=True,
                short=self.short,
                max_part_sentences=single,
            )
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True, short=self.short)

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type."""
        return (self.length, 2)

    def labels(self) -> tuple[str, ...]:
        """Next sentence, unless it is off."""
        return ("next_sentence",) if self.next_sentence else ()

    def needs_words(self) -> bool:
        """Whole words are found by where they begin."""
        return self.whole_word

    def budget(self, length: int) -> int:
        """Return the number of targets in a row of `length` tokens (with special tokens)."""
        return exact_budget(length, self.length, self.mask_ratio, self.max_predictions)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> BertChoice:
        """Cut the pair to size and draw the masked tokens."""
        middle = int(document.sentences[1]) if self.next_sentence else len(document)
        a, b = truncate_pair(middle, len(document) - middle, self.packing().max_tokens, rng)
        b = (b[0] + middle, b[1] + middle)
        row = self._row(document, vocabulary, a, b)
        if self.whole_word:
            if document.words is None:
                raise ValueError("whole-word masking needs word starts, which this tokenizer does not tell")
            units = candidates(row, framed_words(document.words, a, b), vocabulary)
            index = choose_candidates(units, self.budget(len(row)), rng)
        else:
            index = choose_tokens(inside_frame(row, vocabulary), self.budget(len(row)), rng)
        return BertChoice(
            a, b, replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=False)
        )

    def build(self, document: Document, vocabulary: Vocabulary, choice: BertChoice) -> Example:
        """Frame the pair, put the replacements in."""
        row = self._row(document, vocabulary, choice.a, choice.b)
        index = choice.masked.index
        target_ids = row[index]
        row[index] = choice.masked.inputs
        positions = self.row_positions(len(row), choice.a[1] - choice.a[0] + 2)
        labels = {"next_sentence": document.label} if self.next_sentence and document.label is not None else {}
        return Example(row, positions, AttentionRule.full(len(row)), index, target_ids, labels)

    def _row(self, document: Document, vocabulary: Vocabulary, a: tuple[int, int], b: tuple[int, int]) -> Int32:
        return frame(document.ids[slice(*a)], document.ids[slice(*b)], vocabulary)


def exact_budget(length: int, full: int, ratio: float, most: int) -> int:
    """Return the number of targets in a row of `length` tokens. full: length of the longest row; most: 0 for its
    share."""
    return min(most or max(1, round(full * ratio)), max(1, round(length * ratio)))


def frame(first: Int32, second: Int32, vocabulary: Vocabulary) -> Int32:
    """Lay out [CLS] first [SEP] second [SEP], without the second part where it is empty; int32[L]."""
    size = len(first)
    row = np.full(size + len(second) + 3 if len(second) else size + 2, vocabulary["sep"], np.int32)
    row[0] = vocabulary["cls"]
    row[1 : size + 1] = first
    if len(second):
        row[size + 2 : -1] = second
    return row


def framed_words(words: Bool, first: tuple[int, int], second: tuple[int, int]) -> Bool:
    """Return where words begin in the row of `frame`, bool[L]. first and second: ranges of the document's `words`,
    bool[N]."""
    special = [np.ones(1, np.bool_)]
    behind = [words[slice(*second)], *special] if second[1] > second[0] else []
    return np.concatenate([*special, words[slice(*first)], *special, *behind])


def truncate_pair(length_a: int, length_b: int, room: int, rng: Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shorten the longer of two runs (B on a tie), one token at a time from the front or the back, until both fit.

    Returns what remains of each as half-open ranges.
    """
    a, b = [0, length_a], [0, length_b]
    for front in rng.random(max(0, length_a + length_b - room)) < 0.5:
        longer = a if a[1] - a[0] > b[1] - b[0] else b
        if front:
            longer[0] += 1
        else:
            longer[1] -= 1
    return (a[0], a[1]), (b[0], b[1])


def candidates(row: Int32, words: Bool, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Return the words of a row as half-open ranges. words: bool[L], where words begin.

    The token after [CLS] or [SEP] begins a unit even where truncation left only the end of a word; otherwise it could
    never be a target.
    """
    frame = ~inside_frame(row, vocabulary)
    cuts = words | frame
    cuts[1:] |= frame[:-1]
    begins = np.flatnonzero(cuts)
    ends = [*begins[1:].tolist(), len(row)]
    is_frame = frame[begins].tolist()
    return [(i, j) for i, j, outside in zip(begins.tolist(), ends, is_frame, strict=True) if not outside]


def choose_tokens(maskable: Bool, count: int, rng: Generator) -> np.ndarray:
    """Draw `count` of the tokens marked in `maskable` (all of them, if they are fewer), each set equally likely."""
    pool = np.flatnonzero(maskable)
    return pool[rng.permutation(len(pool))[:count]]


def choose_candidates(units: list[tuple[int, int]], budget: int, rng: Generator) -> np.ndarray:
    """Take units in a random order; one that overshoots the budget is skipped, not cut. Returns token indices."""
    return take_candidates(units, rng.permutation(len(units)), budget)


def take_candidates(units: list[tuple[int, int]], order: np.ndarray, budget: int) -> np.ndarray:
    """Return the pure half of `choose_candidates`: the order is given."""
    taken: list[int] = []
    for k in order:
        begin, end = units[k]
        if len(taken) + end - begin <= budget:
            taken.extend(range(begin, end))
        if len(taken) >= budget:
            break
    return np.asarray(taken, np.int64)
