"""ERNIE 1.0: BERT with words, phrases and entities masked whole (Sun et al. 2019; PaddlePaddle/ERNIE, batching.py).

Row: [CLS] A [SEP] B [SEP] as BERT's. Each row is masked at one of three levels: by words (Chinese: by characters), by
phrases, or by entities. Each unit of the level is chosen with probability 15%, without a budget. Label `next_sentence`:
0 = B follows A, as BERT has it; the released code says 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, Masked, Masking, PackingSpec, share_problems
from blankfill.objectives.bert import BertChoice, candidates, frame, framed_words, truncate_pair
from blankfill.system.bounds import COUNT, Bound, at_least
from blankfill.types import AttentionRule, Bool, Document, Example, Int32, Vocabulary

LEVELS = ("basic", "phrase", "entity")


@dataclass(frozen=True)
class Ernie(Masking):
    """Options of the ERNIE objective."""

    name: ClassVar[str] = "ernie"
    explanation: ClassVar[str] = "Whole words, phrases or entities are hidden and predicted from both sides."
    segments_words: ClassVar[bool] = False
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "next_sentence": {0: "B follows A", 1: "B comes from elsewhere"}
    }
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("basic", "phrase", "entity"), COUNT),
        **dict.fromkeys(("task_types", "task"), at_least(0, LONGEST)),
    }

    basic: float = 1.0
    """Weight of rows masked by words (in Chinese by characters), relative to `phrase` and `entity`."""
    phrase: float = 1.0
    """Weight of rows masked by phrases: Chinese words, and the entries of `phrases`."""
    entity: float = 1.0
    """Weight of rows masked by entities: consecutive capitalised words, and the entries of `entities`; the rest of such
    a row is masked by phrases."""
    phrases: str = ""
    """Files with a phrase on each line, separated by commas; text after a tab is ignored."""
    entities: str = ""
    """Files with an entity on each line, in the same way."""
    mask_ratio: float = 0.15
    """Probability of each unit to be masked; usually 0.15."""
    mask_share: float = 0.8
    """Share of the tokens of chosen units replaced by [MASK]; usually 0.8."""
    random_share: float = 0.1
    """Share of the tokens of chosen units replaced by a random token; the rest stays unchanged. Usually 0.1."""
    next_sentence: bool = True
    """Use pairs of segments with the next-sentence label; off: one segment without a label."""
    short: float = 0.1
    """Share of documents that are cut into shorter examples."""
    task_types: int = 0
    """Number of task embeddings, of which number `task` is added at every column (ERNIE 2.0, transformers'
    use_task_id); 0: none (ERNIE 1.0)."""
    task: int = 0
    """Index of the task embedding of this run, counted from 0."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems() + share_problems(short=self.short)
        if not problems and not sum(self._shares()):
            problems.append(
                "objective.basic, objective.phrase and objective.entity are all 0; give one of them a weight"
            )
        if self.task_types < 0 or not 0 <= self.task < max(1, self.task_types):
            problems.append(f"objective.task is {self.task}; it must be from 0 on and below objective.task_types")
        return problems

    def _shares(self) -> tuple[float, float, float]:
        return self.basic, self.phrase, self.entity

    def packing(self) -> PackingSpec:
        """Return the packing: pairs of sentence runs, or single runs without next-sentence prediction."""
        if self.next_sentence:
            return PackingSpec("pairs", self.length - 3, chunk_overhead=3, whole_sentences=True, short=self.short)
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True, short=self.short)

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type, and the task where there are several."""
        return (self.length, 2, self.task_types) if self.task_types else (self.length, 2)

    def labels(self) -> tuple[str, ...]:
        """Return the label of next-sentence prediction, unless it is off."""
        return ("next_sentence",) if self.next_sentence else ()

    def needs_words(self) -> bool:
        """Return True: words are masked whole at every level."""
        return True

    def needs_units(self) -> tuple[str, ...]:
        """Return which of phrases and entities have a weight."""
        return tuple(name for name, share in zip(LEVELS, self._shares(), strict=True) if share and name != "basic")

    def unit_files(self) -> tuple[str, str]:
        """Return the files of the options."""
        return self.phrases, self.entities

    def row_positions(self, length: int, second: int | None = None) -> Int32:
        """Return the task stands at every position, where there are several."""
        positions = super().row_positions(length, second)
        positions[2:] = self.task
        return positions

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> BertChoice:
        """Cut the pair to size, draw the level and what is masked."""
        middle = int(document.sentences[1]) if self.next_sentence else len(document)
        a, b = truncate_pair(middle, len(document) - middle, self.packing().max_tokens, rng)
        b = (b[0] + middle, b[1] + middle)
        row = frame(document.ids[slice(*a)], document.ids[slice(*b)], vocabulary)
        shares = np.cumsum(self._shares())
        level = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
        units = candidates(row, framed_words(begins_at(document, level), a, b), vocabulary)
        drawn = rng.integers(1, vocabulary.size, len(row)).astype(np.int32)
        masked = mask_units(
            row, units, rng.random(len(row)), drawn, vocabulary["mask"], self.mask_ratio, self.mask_share,
            self.random_share,
        )  # fmt: skip
        return BertChoice(a, b, masked)

    def build(self, document: Document, vocabulary: Vocabulary, choice: BertChoice) -> Example:
        """Frame the pair, put the replacements in."""
        row = frame(document.ids[slice(*choice.a)], document.ids[slice(*choice.b)], vocabulary)
        index = choice.masked.index
        target_ids = row[index]
        row[index] = choice.masked.inputs
        positions = self.row_positions(len(row), choice.a[1] - choice.a[0] + 2)
        labels = {"next_sentence": document.label} if self.next_sentence and document.label is not None else {}
        return Example(row, positions, AttentionRule.full(len(row)), index, target_ids, labels)


def begins_at(document: Document, level: int) -> Bool:
    """Return where the units of a level begin, bool[N]; text with only word marks has no larger units."""
    if document.words is None:
        raise ValueError("words are masked whole and need word starts, which this tokenizer does not tell")
    return document.words if level == 0 or document.units is None else document.units[level - 1]


def mask_units(
    row: Int32,
    units: Sequence[tuple[int, int]],
    draws: np.ndarray,
    drawn: Int32,
    mask: int,
    ratio: float,
    mask_share: float,
    random_share: float,
) -> Masked:
    """Return the pure half of `Ernie.choose`, as the released code does it.

    A unit is chosen when the draw of its first token is at most `ratio`; the same draw, against shares of `ratio`,
    decides what becomes of that token, and each later token has its own. draws: float64[L]. drawn: int32[L], the random
    tokens. mask: the id of [MASK].
    """
    keep = 1 - mask_share - random_share
    index: list[int] = []
    inputs: list[int] = []
    for begin, end in units:
        if draws[begin] > ratio:
            continue
        for token in range(begin, end):
            scale = ratio if token == begin else 1.0
            index.append(token)
            if draws[token] <= keep * scale:
                inputs.append(int(row[token]))
            else:
                inputs.append(int(drawn[token]) if draws[token] <= (keep + random_share) * scale else mask)
    return Masked(np.array(index, np.int32), np.array(inputs, np.int32))
