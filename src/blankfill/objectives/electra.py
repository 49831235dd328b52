"""ELECTRA: replaced-token detection (Clark et al. 2020; google-research/electra).

Row: [CLS] A [SEP] B [SEP], two runs of sentences that follow one another in a document. 15% of the tokens are chosen to
an exact budget; a small generator predicts them from a row where 85% of the chosen tokens are [MASK] and the rest stays
as it is, as the released code has it. A sample of each prediction takes the token's place, and the model predicts for
every token whether it is the text's own (`model.replaced_tokens`). The seed of the samples is drawn here, like
everything random, and is the Example's label `replaced_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blankfill.objectives.base import (
    ANY,
    Masked,
    Masking,
    PackingSpec,
    ShownColumn,
    inside_frame,
    replacements,
    share_problems,
)
from blankfill.objectives.bert import choose_tokens, exact_budget, frame, truncate_pair
from blankfill.system.bounds import Bound, at_least
from blankfill.types import AttentionRule, Document, Example, Vocabulary

HEAD = "replaced_tokens"
"""The name of the discriminator's head and of its loss."""
SEEDS = 2**31


@dataclass(frozen=True)
class ElectraChoice:
    """The remaining tokens of A and of B (half-open, in the Document), the masked tokens (in the row), and the seed of
    the generator's samples."""

    a: tuple[int, int]
    b: tuple[int, int]
    masked: Masked
    seed: int


@dataclass(frozen=True)
class Electra(Masking):
    """Options of the ELECTRA objective."""

    name: ClassVar[str] = "electra"
    explanation: ClassVar[str] = (
        "Single tokens are hidden and filled in by a small generator; the model predicts of every token whether "
        "it was replaced."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {HEAD: {ANY: "seed of the generator's samples"}}
    BOUNDS: ClassVar[Mapping[str, Bound]] = {"discriminator_weight": at_least(0, 1_000_000)}

    mask_share: float = 0.85
    """Share of the targets replaced by [MASK] in the generator's input; usually 0.85."""
    random_share: float = 0.0
    """Share of the targets replaced by a random ordinary token in the generator's input; the rest stays unchanged."""
    generator_size: float = 0.25
    """Width of the generator, relative to model.hidden_size; usually 0.25 to 0.5."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss; that of the generator's loss is 1. Usually 50."""
    short: float = 0.1
    """Share of documents that are cut into shorter examples."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Return the weight of the discriminator's loss, which is a mean over all tokens, most of them easy."""
        return {HEAD: self.discriminator_weight}

    def model_fields(self, hidden_size: int) -> Mapping[str, Any]:
        """Return the fields for the discriminator's head and the generator."""
        return {"heads": (HEAD,), "generator_size": max(1, round(hidden_size * self.generator_size))}

    def problems(self) -> list[str]:
        """What is wrong with these options."""
        problems = super().problems() + share_problems(short=self.short)
        if not 0.0 < self.generator_size <= 1.0:
            problems.append(
                f"objective.generator_size is {self.generator_size}; it must be above 0 and at most 1, usually 0.25"
            )
        return problems

    def packing(self) -> PackingSpec:
        """Return the packing: two consecutive runs of sentences, or one run if a document has a single sentence."""
        return PackingSpec(
            "pairs", self.length - 3, chunk_overhead=3, whole_sentences=True, short=self.short, random_next=0,
            single_sentence="none",
        )  # fmt: skip

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type."""
        return (self.length, 2)

    def budget(self, length: int) -> int:
        """Return the number of targets of a row of `length` tokens, special tokens included."""
        return exact_budget(length, self.length, self.mask_ratio, 0)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> ElectraChoice:
        """Cut the pair to size, draw the masked tokens and the seed of the samples."""
        middle = int(document.sentences[1])
        a, b = truncate_pair(middle, len(document) - middle, self.packing().max_tokens, rng)
        b = (b[0] + middle, b[1] + middle)
        row = frame(document.ids[slice(*a)], document.ids[slice(*b)], vocabulary)
        index = choose_tokens(inside_frame(row, vocabulary), self.budget(len(row)), rng)
        masked = replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=True)
        return ElectraChoice(a, b, masked, int(rng.integers(SEEDS)))

    def build(self, document: Document, vocabulary: Vocabulary, choice: ElectraChoice) -> Example:
        """Frame the pair, put the masks in."""
        row = frame(document.ids[slice(*choice.a)], document.ids[slice(*choice.b)], vocabulary)
        index = choice.masked.index
        target_ids = row[index]
        row[index] = choice.masked.inputs
        positions = self.row_positions(len(row), choice.a[1] - choice.a[0] + 2)
        return Example(row, positions, AttentionRule.full(len(row)), index, target_ids, {HEAD: choice.seed})

    def shown_columns(self, example: Example, unigram: NDArray[np.int64]) -> tuple[ShownColumn, ...]:
        """Return the discriminator's input and targets, with samples of a generator that knows only the frequencies of
        tokens."""
        rng, chance = np.random.default_rng(example.labels[HEAD]), unigram / unigram.sum()
        sampled = rng.choice(len(chance), len(example.target_ids), p=chance)
        read, replaced = example.input_ids.copy(), np.zeros(len(example), np.int32)
        read[example.target_index] = sampled
        replaced[example.target_index] = sampled != example.target_ids
        note = "sampled: for example, by how often tokens occur, as a generator does that has learned no more"
        return (
            ShownColumn("sampled", read, True, note),
            ShownColumn("replaced", replaced, False, "replaced: what the discriminator answers, for all columns"),
        )
