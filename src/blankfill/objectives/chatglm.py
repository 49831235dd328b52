"""ChatGLM-6B and GLM-130B: blank infilling with a mixture of short blanks and of texts written to their end (Zeng et
al. 2022; THUDM/chatglm-6b, THUDM/GLM-130B).

Rows are GLM's without [CLS], and of two kinds, drawn for each text. *[gMASK]*: the end of the text is written, `context
[gMASK] <sop> the rest <eop>`; its share of the text is uniform between `document_ratio` and all of it. <eop> is a
target only where the document ends. *[MASK]*: blanks of Poisson(3) tokens without zero until 15% of the text are
blanked, `x [MASK] y <sop> what stood there <eop>`, each blank with its own <sop> and <eop>, in a shuffled order. Texts
for [MASK] are cut into pieces of a quarter of the row, which do not see each other.

Positions: ChatGLM-6B has two axes, as GLM: of what is written, the first is the position of its mask, the second counts
from 1. GLM-130B has one, which counts all columns of a [gMASK] row, and is the position of the mask behind [MASK].
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import LONGEST, FrameRoles, PackingSpec, Use, share_problems
from blankfill.objectives.chatglm_format import ChatGlmFormat, side_by_side
from blankfill.objectives.format import NOTHING, Format, join
from blankfill.objectives.glm import LONGEST_SPAN, BlankWriting, GlmChoice, draw_lengths, fitting, infill, place_spans
from blankfill.objectives.glm_format import Numbering, Span
from blankfill.system.bounds import COUNT, Bound, above, at_least
from blankfill.types import Document, Example, Vocabulary

PIECES = 4
"""Pieces of a full row for [MASK] (GLM-130B: 512 of 2,048 tokens)."""


@dataclass(frozen=True)
class ChatGlmChoice:
    """What is blanked. pieces: half-open ranges of the text, in order, each with what is blanked in it; spans count
    from the beginning of the piece."""

    pieces: tuple[tuple[Span, GlmChoice], ...]


@dataclass(frozen=True)
class ChatGlm(BlankWriting):
    """Options of ChatGLM's objective. `length` counts the columns of a [gMASK] row; in a [MASK] row, <sop> and the mask
    of each blank come on top of the text."""

    name: ClassVar[str] = "chatglm"
    explanation: ClassVar[str] = (
        "The end of the text, or short spans of it, are blanked; the model writes them token by token, and sees the "
        "rest and what it has written."
    )
    channels: ClassVar[tuple[str, ...]] = ("pos 1", "pos 2")
    closes_context: ClassVar[bool] = False
    """Whether the end-of-text token closes a context that does not end in a mask."""
    learns_sop: ClassVar[bool] = True
    """Whether fine-tuning predicts <sop> at the mask."""
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "length": at_least(8, LONGEST), "mask_length": COUNT, "mean_span": above(0, LONGEST_SPAN),
    }  # fmt: skip
    roles: ClassVar[tuple[str, ...]] = ("pad", "mask", "gmask", "sop", "eop")
    cls_state: ClassVar[bool] = False
    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "blank"
    chat_template: ClassVar[str] = "chatglm"

    gmask_share: float = 0.7
    """Share of texts whose end is written behind [gMASK]; the others have [MASK]s. Usually 0.7."""
    document_ratio: float = 0.2
    """Smallest share of a text that is written behind [gMASK]; usually 0.2."""
    mask_ratio: float = 0.15
    """Share of a text that is blanked by [MASK]s; usually 0.15."""
    mean_span: float = 3.0
    """Poisson parameter of the lengths of [MASK]s in tokens; usually 3. Length 0 is excluded, so the mean is slightly
    larger."""
    mask_length: int = 0
    """Longest text with [MASK]s in tokens; longer ones are cut into pieces that do not see each other. 0: a quarter of
    length, as in GLM-130B."""
    single_span: float = 0.0
    """Share of texts with [MASK]s that have a single one (GLM-130B: 0.02)."""
    shuffle: bool = True
    """Write the spans of [MASK]s in a random order; off: from left to right."""
    short: float = 0.0
    """Share of documents that are cut into shorter examples (GLM-130B: 0.02)."""
    gmask_positions: Literal["frozen", "counting"] = "frozen"
    """First position of what is written behind [gMASK]: that of the mask, as in ChatGLM-6B from 2023-03-31 on, or
    counting on from it, as before, and as in GLM-130B."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        return super().problems() + share_problems(
            gmask_share=self.gmask_share, document_ratio=self.document_ratio, mask_ratio=self.mask_ratio,
            single_span=self.single_span, short=self.short,
        )  # fmt: skip

    def packing(self) -> PackingSpec:
        """Return the packing: runs of tokens of one document, with the mask and <sop> of [gMASK]."""
        text = self.length - 2
        return PackingSpec(
            "chunks", text, chunk_overhead=2, short=self.short, short_min=min(32, text), min_tokens=4
        )  # fmt: skip

    def position_sizes(self) -> tuple[int, ...]:
        """Place in the context, and for ChatGLM-6B place in what is written."""
        return (self.length,) * len(self.channels)

    def numbering(self, mask: str) -> Numbering:
        """Return the positions of what is written into a blank. mask: the role of its mask."""
        return Numbering(len(self.channels), mask == "gmask" and self.gmask_positions == "counting")

    def required_roles(self, use: Use) -> tuple[str, ...]:
        """Return the tokens of a row; padding is never read. Without [gMASK], a text is continued at a [MASK]."""
        end = ("eos",) if self.closes_context else ()
        return ("mask", "sop", "eop", *end)

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return a context, and what is written behind it."""
        return ChatGlmFormat(self, vocabulary, position_sizes)

    def frame_roles(self) -> FrameRoles:
        """Return the end-of-text token between two texts, and behind a text where it closes contexts."""
        return FrameRoles((), ("eos",), ("eos",) if self.closes_context else ())

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> ChatGlmChoice:
        """Draw the kind of mask, and what is blanked."""
        size = len(document)
        if rng.random() < self.gmask_share:
            least = min(size, max(1, int(self.document_ratio * size)))
            blank = int(rng.integers(least, size + 1))
            choice = GlmChoice(((size - blank, size),), (0,), "gmask", to_end=not document.last)
            return ChatGlmChoice((((0, size), choice),))
        count = -(-size // (self.mask_length or max(1, self.length // PIECES)))
        cuts = [size * k // count for k in range(count + 1)]
        return ChatGlmChoice(
            tuple(((begin, end), self._choose_spans(end - begin, rng)) for begin, end in itertools.pairwise(cuts))
        )

    def build(self, document: Document, vocabulary: Vocabulary, choice: ChatGlmChoice) -> Example:
        """Collapse the spans of each piece to masks, and write them behind it."""
        rows = []
        for (begin, end), blanked in choice.pieces:
            ends_in_mask = bool(blanked.spans) and blanked.spans[-1][1] == end - begin
            close = [vocabulary["eos"]] if self.closes_context and not ends_in_mask else NOTHING
            row = join(document.ids[begin:end], close)
            rows.append(infill(row, blanked, vocabulary, numbering=self.numbering(blanked.mask)))
        return side_by_side(rows)

    def _choose_spans(self, size: int, rng: Generator) -> GlmChoice:
        single = rng.random() < self.single_span
        lengths = draw_lengths(1 if single else max(1, int(self.mask_ratio * size)), self.mean_span, rng)
        if not fitting(lengths, size, gaps=True):
            lengths = [min(lengths[0], size)]
        spans = place_spans(lengths, size, rng)
        order = rng.permutation(len(spans)) if self.shuffle else np.arange(len(spans))
        return GlmChoice(tuple(spans), tuple(order.tolist()))


@dataclass(frozen=True)
class Glm130b(ChatGlm):
    """Options of GLM-130B's objective: ChatGLM's with one axis of positions."""

    name: ClassVar[str] = "glm-130b"
    channels: ClassVar[tuple[str, ...]] = ("pos",)
    closes_context: ClassVar[bool] = True
    learns_sop: ClassVar[bool] = False
    chat_template: ClassVar[str] = "plain"
    roles: ClassVar[tuple[str, ...]] = ("pad", "mask", "gmask", "sop", "eop", "eos")

    gmask_positions: Literal["frozen", "counting"] = "counting"
    """First position of what is written behind [gMASK]: that of the mask, or counting on from it."""
