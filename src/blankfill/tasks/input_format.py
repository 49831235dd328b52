"""Truncating texts to the length of a row, and adding the special tokens of the model's objective (`Objective.format`).

A text that is too long loses its end; of a pair the longer text does, a token at a time, as in the original BERT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.errors import UserError, setting
from blankfill.objectives import Format, FramedRow, Objective
from blankfill.tasks.options import HeadOn
from blankfill.tasks.task import Task
from blankfill.types import Int32, Vocabulary


@dataclass(frozen=True)
class FramedText(FramedRow):
    """A text or a pair with special tokens. cut: number of tokens that were left out."""

    cut: int


class InputFormat:
    """The layout of fine-tuning texts in rows. length: largest number of columns of a row, with special tokens."""

    def __init__(self, format: Format, length: int = 0, encoder_only: bool = False) -> None:
        """format: format of the model. length: 0 means the number of the model's positions. encoder_only: whether only
        the encoder reads, for a model with one. Raises UserError when `length` exceeds the model's positions."""
        self.format, self.encoder_only = format, encoder_only
        self._heads = format.for_heads()
        most = format.max_columns
        if length > most and not format.objective.relative_positions:
            raise UserError(
                f"{setting('max_length', length)} is more than the model's {most} positions; give at most {most}"
            )
        self.length = length or most

    @property
    def objective(self) -> Objective:
        """The objective of the model."""
        return self.format.objective

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the model."""
        return self.format.vocabulary

    def room(self, pair: bool) -> int:
        """Return the largest number of tokens of text that fit beside the special tokens of `frame`."""
        return self.length - self._heads.specials(pair)

    def frame(self, first: Sequence[int] | Int32, second: Sequence[int] | Int32 | None = None) -> FramedText:
        """Truncate a text or a pair, given without special tokens, and add the special tokens for a head."""
        a, b = np.asarray(first, np.int32), np.asarray(() if second is None else second, np.int32)
        keep_a, keep_b = truncate_pair(len(a), len(b), self.room(second is not None))
        row = self._heads.frame(a[:keep_a], None if second is None else b[:keep_b], self.encoder_only)
        cut = len(a) - keep_a + len(b) - keep_b
        return FramedText(row.example, row.pooled, row.first, row.second, cut)


def reads_encoder_only(objective: Objective, head_on: HeadOn, task: Task) -> bool:
    """Return whether only the encoder of a model with an encoder reads items. Raises UserError without such a
    choice."""
    if head_on == "auto":
        return objective.two_sided and task.kind == "tag"
    if not objective.two_sided:
        raise UserError(
            f"{setting('head_on')} says which stack of a T5 or BART a head reads, and a {objective.name} model has "
            "one stack; "
            "leave it out"
        )
    if task.writes:
        raise UserError(f"{task.name} is written by the decoder; leave out {setting('head_on')}")
    return head_on == "encoder"


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the numbers of tokens of a truncated pair: the longer text loses tokens until both fit (of two equally
    long ones, the second)."""
    over = first + second - room
    if over <= 0:
        return first, second
    longer_by = abs(first - second)
    if over <= longer_by:
        return (first - over, second) if first > second else (first, second - over)
    shorter = min(first, second)
    rest = over - longer_by  # both are as long as the shorter one now; the second goes first
    return max(0, shorter - rest // 2), max(0, shorter - (rest - rest // 2))
