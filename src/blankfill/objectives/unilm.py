"""UniLM: one model for bidirectional, left-to-right, right-to-left and sequence-to-sequence modelling (Dong et al.
2019; microsoft/unilm, unilm-v1).

Row: [CLS] A [SEP] B [SEP], two runs of sentences. Each example has one of four modes, drawn by weight: *both*, with
bidirectional attention and next-sentence prediction; *sequence*: A has bidirectional attention, B sees A and the tokens
before it in B; *left* to right; *right* to left. In every mode targets are predicted at [MASK], never at the column
before. 15% of the tokens are targets: in 80% of the draws one token, in 20% two or three adjacent ones; of these 80%
become [MASK], 10% a random token, 10% stay. Token types mark the modes: both 0 and 1, left 2, right 3, sequence 4 and
5.

Not here: generation, which predicts at a [MASK] after the text (`query_tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import Masked, PackingSpec, inside_frame, replacements, share_problems
from blankfill.objectives.bert import exact_budget, frame, truncate_pair
from blankfill.objectives.query_tokens import MaskWriter
from blankfill.system.bounds import COUNT, Bound
from blankfill.types import AttentionRule, Bool, Document, Example, Int32, Vocabulary

Mode = Literal["both", "sequence", "left", "right"]
MODES: tuple[Mode, ...] = ("both", "sequence", "left", "right")
TYPES: dict[Mode, tuple[int, int]] = {"both": (0, 1), "sequence": (4, 5), "left": (2, 2), "right": (3, 3)}
"""Token types of the two parts. The released fine-tuning code has these; what it leaves to right-to-left is 3."""


@dataclass(frozen=True)
class UnilmChoice:
    """Which tokens of the Document stand first and second in the row (half-open; the second may be empty), how the row
    is read, and what is masked in it."""

    first: tuple[int, int]
    second: tuple[int, int]
    mode: Mode
    masked: Masked


@dataclass(frozen=True)
class Unilm(MaskWriter):
    """Options of the UniLM objective."""

    name: ClassVar[str] = "unilm"
    explanation: ClassVar[str] = (
        "Hidden tokens are predicted in one of four modes: from both sides, from the left, from the right, or "
        "from the first text and the left of the second."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "next_sentence": {0: "B follows A", 1: "B comes from elsewhere"}
    }
    BOUNDS: ClassVar[Mapping[str, Bound]] = dict.fromkeys((*MODES, "max_predictions"), COUNT)
    target_types: ClassVar[tuple[int, int]] = TYPES["sequence"]
    continuation_type: ClassVar[int] = TYPES["left"][0]
    bidirectional_prompt: ClassVar[bool] = False
    types_like: ClassVar[tuple[int, ...]] = (0, 1, 0, 0, 0, 1)

    both: float = 2.0
    """Weight of examples with bidirectional attention."""
    sequence: float = 2.0
    """Weight of sequence-to-sequence examples, whose second segment is generated from the first."""
    left: float = 1.0
    """Weight of left-to-right examples."""
    right: float = 1.0
    """Weight of right-to-left examples."""
    max_predictions: int = 0
    """Maximum number of targets in an example; 0: length × mask_ratio, rounded."""
    ngram_share: float = 0.2
    """Share of draws that mask two or three consecutive tokens; the others mask one. Usually 0.2."""
    next_sentence: bool = True
    """Predict in bidirectional examples whether the second segment follows the first."""
    short: float = 0.1
    """Share of documents that are cut into shorter examples."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(ngram_share=self.ngram_share, short=self.short)
        weights = self._weights()
        if not problems and not sum(weights.values()):
            problems.append("objective.both, sequence, left and right are all 0; give one of them a weight")
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: pairs of sentence runs; of those with a next-sentence label, half are not neighbours."""
        weights = self._weights()
        strange = 0.5 * weights["both"] / sum(weights.values()) if self.labels() else 0.0
        return PackingSpec(
            "pairs",
            self.length - 3,
            chunk_overhead=3,
            whole_sentences=True,
            short=self.short,
            random_next=strange,
            single_sentence="none",
        )

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type."""
        return (self.length, 6)

    def labels(self) -> tuple[str, ...]:
        """Next sentence, unless it is off or nothing is read both ways."""
        return ("next_sentence",) if self.next_sentence and self.both > 0 else ()

    def budget(self, length: int) -> int:
        """Return the number of targets in a row of `length` tokens (with special tokens)."""
        return exact_budget(length, self.length, self.mask_ratio, self.max_predictions)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> UnilmChoice:
        """Cut the pair to size, draw its mode and the masked tokens."""
        middle = int(document.sentences[1])
        first, second = truncate_pair(middle, len(document) - middle, self.packing().max_tokens, rng)
        second = (second[0] + middle, second[1] + middle)
        mode = self._mode(bool(document.label), second[1] > second[0], rng)
        row = _row(document, vocabulary, first, second)
        index = choose_runs(inside_frame(row, vocabulary), self.budget(len(row)), self.ngram_share, rng)
        masked = replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=False)
        return UnilmChoice(first, second, mode, masked)

    def build(self, document: Document, vocabulary: Vocabulary, choice: UnilmChoice) -> Example:
        """Frame the pair, put the replacements in, and say who sees whom."""
        row = _row(document, vocabulary, choice.first, choice.second)
        index = choice.masked.index
        target_ids = row[index]
        row[index] = choice.masked.inputs
        size = choice.first[1] - choice.first[0]
        positions = self.row_positions(len(row), size + 2)
        positions[1] = np.array(TYPES[choice.mode], np.int32)[positions[1]]
        labelled = choice.mode == "both" and choice.second[1] > choice.second[0] and self.labels()
        labels = {"next_sentence": document.label} if labelled and document.label is not None else {}
        return Example(row, positions, mode_rule(choice.mode, size + 2, len(row)), index, target_ids, labels)

    def _weights(self) -> dict[Mode, float]:
        return {"both": self.both, "sequence": self.sequence, "left": self.left, "right": self.right}

    def _mode(self, is_random: bool, is_pair: bool, rng: Generator) -> Mode:
        """Draw the mode. Parts that are not neighbours can only be read both ways; the plan makes half as many of them
        as there are pairs to be read so, and the rest of the mixture is drawn here."""
        weights = self._weights()
        draw = rng.random()
        if is_random:
            return "both"
        if not is_pair:
            weights["sequence"] = 0.0
        elif self.labels():
            weights["both"] /= 2
        total = sum(weights.values())
        for mode in MODES:
            draw -= weights[mode] / total if total else 0.0
            if draw < 0:
                return mode
        return "both"


def _row(document: Document, vocabulary: Vocabulary, first: tuple[int, int], second: tuple[int, int]) -> Int32:
    return frame(document.ids[slice(*first)], document.ids[slice(*second)], vocabulary)


def mode_rule(mode: Mode, source: int, length: int) -> AttentionRule:
    """Return the rule of a row of `length` whose first part, with its special tokens, has `source` columns."""
    if mode == "both":
        return AttentionRule.full(length)
    if mode == "sequence":
        return AttentionRule.prefix(source, length)
    rule = AttentionRule.causal(length)
    return rule if mode == "left" else AttentionRule(rule.segment, rule.rank[::-1].copy(), rule.horizon[::-1].copy())


def choose_runs(maskable: Bool, budget: int, share: float, rng: Generator) -> np.ndarray:
    """Draw runs of one token, or (a `share` of the draws) of two or three, until the budget is reached.

    Returns token indices. maskable: bool[L], which columns may be taken.
    """
    order = rng.permutation(np.flatnonzero(maskable))
    several = rng.random(len(order)) < share
    sizes = np.where(several, rng.integers(2, 4, len(order)), 1)
    return take_runs(maskable, order, sizes, budget)


def take_runs(maskable: Bool, order: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """Return the pure half of `choose_runs`: the k-th run begins at order[k] and has sizes[k] tokens.

    As in the released code a run ends early at a special token; here it ends at the budget too, and one that begins in
    an earlier run is passed over.
    """
    free = maskable.copy()
    taken: list[int] = []
    for start, size in zip(order.tolist(), sizes.tolist(), strict=True):
        for column in range(start, min(start + size, len(free))):
            if not free[column] or len(taken) >= budget:
                break
            free[column] = False
            taken.append(column)
        if len(taken) >= budget:
            break
    return np.asarray(taken, np.int64)
