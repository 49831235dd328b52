"""GPT: every token asks for the next one (Radford et al. 2018, 2019).

Two ways to cut the text. Documents apart (the default): each document is its own Example, begins after the end token
and answers it at its end; several share a row without seeing each other, and no token is lost. The classic stream
(nanoGPT, GPT-2): documents end to end with the end token between them, cut every `length` tokens, no reset.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import Layout, Objective, join
from blankfill.types import AttentionRule, Document, Example, Int32, Vocabulary


@dataclass(frozen=True)
class Gpt(Objective):
    """Options of the left-to-right objective."""

    name: ClassVar[str] = "gpt"
    roles: ClassVar[tuple[str, ...]] = ("pad", "eos")
    reads_blanks: ClassVar[bool] = False

    documents: Literal["apart", "stream"] = "apart"
    """Keep documents apart, or run them together as the classic stream."""

    def layout(self) -> Layout:
        """Pieces of documents, or the stream; each reads one token more than its row, as the last answer."""
        if self.documents == "stream":
            return Layout("stream", self.length + 1, frame=-1, after=1, overlap=1, joined=True, minimum=2)
        return Layout("pieces", self.length + 1, extra=-1, before=1, after=1, overlap=1, minimum=2)

    def position_sizes(self) -> tuple[int, ...]:
        """One channel of positions."""
        return (self.length,)

    def frame_roles(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A document begins after the end-of-text token; that which closes it is asked for and not read."""
        return (("eos",) if self.documents == "apart" else (), ())

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> None:
        """Nothing is drawn."""
        return

    def build(self, document: Document, vocabulary: Vocabulary, choice: None) -> Example:
        """Inputs, and the same tokens one step later."""
        eos = [vocabulary["eos"]]
        parts: list[Int32 | list[int]] = [eos] if self.documents == "apart" and document.first else []
        bounds = document.parts if document.parts is not None else np.array([0, len(document)], np.int32)
        for k, (begin, end) in enumerate(itertools.pairwise(bounds)):
            closed = document.last or k < len(bounds) - 2
            parts += [document.ids[begin:end], eos if closed else []]
        ids = join(*parts)
        length = len(ids) - 1
        index = np.arange(length, dtype=np.int32)
        return Example(ids[:-1].copy(), index[None], AttentionRule.causal(length), index, ids[1:].copy())
