"""UniLM v2: masked tokens, and blocks predicted one after the other, in one pass (Bao et al. 2020; microsoft/unilm).

Row: [CLS] text [SEP], in which blocks of tokens are masked ([MASK]), then the tokens of the blocks themselves and for
each of them a pseudo mask ([PSEUDO], the paper's [P]), both at the position of the original token. Every [MASK]
predicts its token from the rest of the text (autoencoding); every pseudo mask predicts it again, and also sees the
tokens of the blocks before its own in a drawn order (partially autoregressive). Only its own block sees a pseudo mask,
and no column of the text sees the columns after the text, so one pass computes both predictions.

A block is one token with a probability of 60%, 2 to 6 tokens otherwise; blocks are drawn until 15% of the row is in
them, and their order is that of the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import Masked, PackingSpec, inside_frame, replacements, share_problems
from blankfill.objectives.format import join
from blankfill.objectives.query_tokens import MaskWriter, with_queries
from blankfill.types import Bool, Document, Example, Int32, Vocabulary

LONGEST_BLOCK = 6


@dataclass(frozen=True)
class Unilm2Choice:
    """Blocks of the row, half-open, in the order of prediction; and the replacement of their columns in the text
    (`index` of `masked` is all columns of all blocks, ascending)."""

    blocks: tuple[tuple[int, int], ...]
    masked: Masked


@dataclass(frozen=True)
class Unilm2(MaskWriter):
    """Options of the UniLM v2 objective. `length` counts the text; the row is longer by two columns a masked token."""

    name: ClassVar[str] = "unilm2"
    explanation: ClassVar[str] = (
        "Blocks of tokens are hidden and predicted twice: from both sides, and block after block, each from the "
        "blocks before it too."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos", "type")
    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "sep", "mask", "pseudo")
    query_role: ClassVar[str] = "pseudo"
    has_pseudo_masks: ClassVar[bool] = True

    mask_ratio: float = 0.15
    """Share of the row's tokens, [CLS] and [SEP] counted, that the drawn blocks cover; usually 0.15."""
    mask_share: float = 0.8
    """Share of the tokens of blocks replaced by [MASK] in the text; usually 0.8."""
    random_share: float = 0.1
    """Share of the tokens of blocks replaced by a random token in the text; the rest stays unchanged. Usually 0.1."""
    span_share: float = 0.4
    """Share of blocks with 2 to 6 tokens; the others have one token. Usually 0.4."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        return super().problems() + share_problems(span_share=self.span_share)

    def packing(self) -> PackingSpec:
        """Return the packing: runs of whole sentences."""
        return PackingSpec("chunks", self.length - 2, chunk_overhead=2, whole_sentences=True)

    def position_sizes(self) -> tuple[int, ...]:
        """Position and token type; type 1 is for what is written from a source, in fine-tuning."""
        return (self.length, 2)

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> Unilm2Choice:
        """Draw the blocks and their replacement in the text."""
        row = self.framed(document.ids, vocabulary)
        wanted = max(1, round(self.mask_ratio * len(row)))
        blocks = choose_blocks(inside_frame(row, vocabulary), wanted, self.span_share, rng)
        index = _columns(blocks).astype(np.int64)
        masked = replacements(row, index, vocabulary, rng, self.mask_share, self.random_share, ordinary=False)
        return Unilm2Choice(tuple(blocks), masked)

    def build(self, document: Document, vocabulary: Vocabulary, choice: Unilm2Choice) -> Example:
        """Return the text with its masks, then tokens and pseudo masks."""
        return pseudo_masked(self.framed(document.ids, vocabulary), choice, vocabulary)


def _columns(blocks: Sequence[tuple[int, int]]) -> Int32:
    """Return the columns of blocks, in their order, int32[K]."""
    return join(*(np.arange(begin, end, dtype=np.int32) for begin, end in blocks))


def pseudo_masked(row: Int32, choice: Unilm2Choice, vocabulary: Vocabulary, first_position: int = 0) -> Example:
    """Return the pure step: a row with its specials and what is blanked → the Example.

    row: int32[N]. first_position numbers the first column (the paper's figure counts from 1).
    """
    column = _columns(choice.blocks)
    step = join(*([k + 1] * (end - begin) for k, (begin, end) in enumerate(choice.blocks)))
    text = row.copy()
    text[choice.masked.index] = choice.masked.inputs
    example = with_queries(text, row[column], column, step, vocabulary["pseudo"])
    example.positions[0] += first_position
    index = join(choice.masked.index, example.target_index)
    return replace(example, target_index=index, target_ids=join(row[choice.masked.index], example.target_ids))


def choose_blocks(maskable: Bool, wanted: int, share: float, rng: Generator) -> list[tuple[int, int]]:
    """Draw blocks until `wanted` columns are in them: a start, uniform over the columns that may be taken, and a
    length, 1 or (a `share` of the draws) 2 to 6; a block that touches an earlier one or a special column is drawn
    again.

    The last block may overshoot. Where only single columns are left to be had, single ones are taken.
    """
    free = maskable.copy()
    starts = np.flatnonzero(maskable)
    wanted = min(wanted, len(starts))
    blocks: list[tuple[int, int]] = []
    count = 0
    while count < wanted:
        start = int(starts[rng.integers(len(starts))])
        size = int(rng.integers(2, LONGEST_BLOCK + 1)) if rng.random() < share else 1
        if start + size > len(free) or not free[start : start + size].all():
            if share < 1 or _any_pair(free):
                continue
            start, size = int(rng.choice(np.flatnonzero(free))), 1
        free[start : start + size] = False
        blocks.append((start, start + size))
        count += size
    return blocks


def _any_pair(free: Bool) -> bool:
    return bool((free[1:] & free[:-1]).any())
