"""Rows of models with an encoder (T5, BART): it reads a source both ways, and the decoder writes from left to right.

Not here: what source and target are, which is the objectives' own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from blankfill.objectives.format import NOTHING, Format, FramedRow, Ids, SourceRow, join, last_tokens
from blankfill.types import UNLIMITED, AttentionRule, DecoderInput, Example, Int32


def two_sided(source: Int32, target: Int32, start: int, first_position: int = 0) -> Example:
    """Build the Example of a model with an encoder: it reads `source` bidirectionally and generates `target` left to
    right.

    source: int32[N]; target: int32[M], all of whose tokens are targets. start: id of the first token of the decoder.
    first_position: position of the first column on either side.
    """
    nothing = np.zeros(0, np.int32)
    read = np.arange(first_position, first_position + len(source), dtype=np.int32)[None]
    context = Example(source, read, AttentionRule.full(len(source)), nothing, nothing)
    index = np.arange(len(target), dtype=np.int32)
    rule = AttentionRule.causal(len(target))
    return Example(join([start], target[:-1]), index[None] + first_position, rule, index, target, context=context)


def two_stack_input(source: Ids, begun: Ids, first_position: int = 0, table: int = 0) -> DecoderInput:
    """Return the decoder input of a started text, for a model with an encoder: the row of `two_sided` up to its end.

    source: what the encoder reads. begun: what the decoder has written, the token that it starts from among it.
    first_position: as there. table: rows of the position tables, 0 where positions are relative.
    """
    for ids, side in ((source, "a source"), (begun, "a text begun")):
        if not len(ids) or (table and first_position + len(ids) > table):
            most = table - first_position if table else "any number"
            raise ValueError(f"{side} of {len(ids)} tokens; it must have 1 to {most}")
    # the last token of the target is predicted and not read, so any id serves
    row = two_sided(np.asarray(source, np.int32), join(begun[1:], [0]), int(begun[0]), first_position)
    return DecoderInput(
        row.input_ids, row.positions, row.rule,
        np.array([first_position + len(begun)], np.int32), np.ones(1, np.int32),
        table - first_position - len(begun) if table else UNLIMITED, source=row.context,
    )  # fmt: skip


class StackFormat(Format):
    """What T5 and BART have in common."""

    blank_ends = 1

    @property
    def start(self) -> int:
        """The id that the decoder reads first."""
        return self.vocabulary[self.objective.decoder_start]

    @property
    def begun(self) -> Int32:
        """What the decoder has read before the first token of a text, behind `start`; it is written, but given."""
        return NOTHING

    @property
    def table(self) -> int:
        """Rows of the position table, 0 where positions are relative."""
        return 0 if self.objective.relative_positions else self.position_sizes[0]

    def frame(self, first: Ids, second: Ids | None = None, encoder_only: bool = False) -> FramedRow:
        """Return the encoder reads the row, and so does the decoder, a column later: its first column holds what it
        starts from, and column j, which predicts token j in pretraining, represents token j."""
        framed = super().frame(first, second)
        if encoder_only:
            return framed
        ids = framed.example.input_ids
        example = two_sided(ids, ids, self.start, self.objective.position_offset)
        return replace(
            framed, example=replace(example, target_index=NOTHING, target_ids=NOTHING), pooled=len(ids) - 1
        )  # fmt: skip

    def export_row(self, ids: Ids) -> Example:
        """Return the encoder reads the row, and the decoder writes it again."""
        row = np.asarray(ids, np.int32)
        return two_sided(row, row, self.start, self.objective.position_offset)

    def teacher_forced(self, source: Int32, written: Int32, count: int) -> Example:
        """Return the decoder writes `written`; its last `count` tokens are the targets."""
        return last_tokens(two_sided(source, written, self.start, self.objective.position_offset), count)

    def decoder_input(self, source: Ids, written: Ids) -> DecoderInput:
        """Return the decoder has written `written`."""
        return two_stack_input(source, join([self.start], written), self.objective.position_offset, self.table)

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Return the target in the decoder's row."""
        return self.teacher_forced(source.ids, join(self.begun, target), len(target))

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the source, and what is given of the target; as many new tokens as there are positions for."""
        return self.decoder_input(source.ids, self.begun)
