"""Rows of another source among those of the text, by arithmetic on row numbers.

The other source is old text (replay: a model that learns from new text forgets the old text; rows of it among the new
ones prevent it, see `docs/continue.md`), or prompted data sets (`blankfill.prompts`). Of the first i rows ⌊i·ratio⌋ are
of the other source, so they are spread evenly, and each row of the run is a numbered row of one of two sources: nothing
is drawn, and no state is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blankfill.data.sampler import Sampler
from blankfill.objectives import Objective
from blankfill.types import Example, Vocabulary

PARTS = 1_000_000
"""Ratios are counted in millionths, so that row numbers of any size are exact."""


@dataclass(frozen=True)
class Share:
    """The share of the rows of the other source in a run ("old" ones, others are "new"), from 0 to below 1."""

    ratio: float

    @property
    def parts(self) -> int:
        """The share in millionths."""
        return round(self.ratio * PARTS)

    def old_before(self, row: int) -> int:
        """Count the old rows before `row`."""
        return row * self.parts // PARTS

    def new_before(self, row: int) -> int:
        """Count the new rows before `row`."""
        return row - self.old_before(row)

    def is_old(self, row: int) -> bool:
        """Return whether a row is an old one."""
        return self.old_before(row + 1) > self.old_before(row)

    def row_after(self, new_rows: int) -> int:
        """Return the first row that has `new_rows` new ones before it."""
        return (new_rows - 1) * PARTS // (PARTS - self.parts) + 1 if new_rows else 0


class NumberedRows(Protocol):
    """Rows by number."""

    def row(self, row: int) -> list[Example]:
        """Return the Examples of a row."""


class Interleaved:
    """Rows of a run over new text and another source, by number; has the interface of a `Sampler`.

    new and old: rows of the text and of the other source, whose first rows are `share.new_before(first)` and
    `share.old_before(first)`. first: number of the first row in the run.
    """

    def __init__(self, new: Sampler | Interleaved, old: NumberedRows, share: Share, first: int = 0) -> None:
        self.new = new
        self.old = old
        self.share = share
        self.first = first
        self.objective: Objective = new.objective
        self.vocabulary: Vocabulary = new.vocabulary

    def row(self, row: int) -> list[Example]:
        """Return the Examples of row number `row` of the run."""
        if self.share.is_old(row):
            return self.old.row(self.share.old_before(row))
        return self.new.row(self.share.new_before(row))

    def rows_in_epoch(self, epoch: int) -> int:
        """Return the number of rows until the end of epoch number `epoch` of the new text."""
        ends = [self.new.first]
        for passed in range(epoch + 1):
            ends.append(ends[-1] + self.new.rows_in_epoch(passed))
        begin = self.first if epoch == 0 else self.share.row_after(ends[-2])
        return self.share.row_after(ends[-1]) - begin
