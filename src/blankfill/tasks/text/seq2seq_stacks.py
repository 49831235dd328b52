"""A source and the text written from it, as models of two stacks read and learn them (Raffel et al. 2020; Lewis et al.
2020): the encoder reads the source, the decoder writes the target.

t5    `source second </s>`, then `target </s>` behind the padding token. Nothing parts the texts but a space; where a
      task wants them named, its form does it (`text_form`).
bart  `<s> source </s> second </s>`, then `target </s>` behind `</s> <s>`, where `</s>` is what a decoder starts from.

What starts the decoder is given and not asked for. Either side has its own room, so that a source may be as long as the
row whatever its target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from blankfill.objectives import T5, Bart
from blankfill.objectives.format import join
from blankfill.objectives.two_stacks import two_sided, two_stack_input
from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.input_format import NOTHING, truncate_pair
from blankfill.tasks.text.seq2seq import Source, Writing
from blankfill.types import DecoderInput


class StackWriting(Writing):
    """Makes sources and targets into what a model with an encoder reads."""

    @property
    def is_t5(self) -> bool:
        """Whether the model is a T5, whose positions have no end."""
        return isinstance(self.input_format.objective, T5)

    @property
    def end_role(self) -> str:
        """What ends a target."""
        return "eos" if self.is_t5 else "sep"

    @property
    def before_second(self) -> str:
        """What is put before a second text."""
        return " " if self.is_t5 else ""

    @property
    def begun(self) -> list[int]:
        """What the decoder begins with."""
        start = self.roles[self.input_format.objective.decoder_start]
        return [start] if self.is_t5 else [start, self.roles["cls"]]

    @property
    def first(self) -> int:
        """The number of the first position."""
        objective = self.input_format.objective
        return objective.position_offset if isinstance(objective, Bart) else 0

    def room(self) -> tuple[int, int]:
        """Tokens of a target at most, and as a rule."""
        most = self.input_format.length if self.is_t5 else self.input_format.most - len(self.begun)
        return (1 << 20 if self.is_t5 else most), most

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """A source, and what is given beside it, as tokens without special ones."""
        pair = second is not None
        a, b = np.asarray(first, np.int32), np.asarray(second if pair else (), np.int32)
        end = [self.end]
        begin, between = ([], []) if self.is_t5 else ([self.roles["cls"]], end if pair else [])
        keep_a, keep_b = truncate_pair(len(a), len(b), self.input_format.length - len(begin) - len(between) - len(end))
        ids = join(begin, a[:keep_a], between, b[:keep_b], end)
        return Source(ids, -1, len(a) - keep_a + len(b) - keep_b)

    def encoded(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """A source and its target, given whole (teacher forcing); asked are the target and its end."""
        whole = self.whole(target)
        given = len(self.begun) - 1
        example = two_sided(source.ids, join(self.begun[1:], whole), self.begun[0], self.first)
        columns = example.target_index[given:]
        example = dataclasses.replace(example, target_index=NOTHING, target_ids=NOTHING)
        return EncodedItem((example,), (columns,), np.array(whole, np.int64))

    def context(self, source: Source) -> DecoderInput:
        """What is read before the first token is written."""
        table = 0 if self.is_t5 else self.input_format.most + self.first
        return two_stack_input(source.ids.tolist(), self.begun, self.first, table)
