"""New text with some old text among it: which rows of a run come from which is arithmetic, like all else about rows.

A model that learns from new text forgets the old one; rows of the old text among the new ones keep it (see
`docs/continue.md`). Of the first i rows ⌊i·ratio⌋ are old ones, so they are spread evenly, and each row of the run is a
row of one of two samplers by number: nothing is drawn and nothing has to be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

from blankfill.data.sampler import Sampler
from blankfill.types import Example

PARTS = 1_000_000
"""A ratio counts in millionths, so that row numbers are exact however large they grow."""


@dataclass(frozen=True)
class Share:
    """How many rows of a run are old ones, as a share from 0 to below 1."""

    ratio: float

    @property
    def parts(self) -> int:
        """The share in millionths."""
        return round(self.ratio * PARTS)

    def old_before(self, row: int) -> int:
        """How many of the rows before `row` are old ones."""
        return row * self.parts // PARTS

    def new_before(self, row: int) -> int:
        """How many of the rows before `row` are new ones."""
        return row - self.old_before(row)

    def is_old(self, row: int) -> bool:
        """Return whether a row is an old one."""
        return self.old_before(row + 1) > self.old_before(row)

    def row_after(self, new_rows: int) -> int:
        """Return the first row that has `new_rows` new ones before it."""
        return (new_rows - 1) * PARTS // (PARTS - self.parts) + 1 if new_rows else 0


class Replayed:
    """Rows of a run over new and old text, by number; stands where a `Sampler` does.

    new and old: their first rows are `share.new_before(first)` and `share.old_before(first)`. first: the number of this
    one's first row in the run.
    """

    def __init__(self, new: Sampler, old: Sampler, share: Share, first: int = 0) -> None:
        self.new = new
        self.old = old
        self.share = share
        self.first = first
        self.objective = new.objective
        self.vocabulary = new.vocabulary

    def row(self, row: int) -> list[Example]:
        """Return the Examples of row number `row` of the run."""
        if self.share.is_old(row):
            return self.old.row(self.share.old_before(row))
        return self.new.row(self.share.new_before(row))

    def rows_in_epoch(self, epoch: int) -> int:
        """How many rows it takes until epoch number `epoch` of the new text is through."""
        ends = [self.new.first]
        for passed in range(epoch + 1):
            ends.append(ends[-1] + self.new.rows_in_epoch(passed))
        begin = self.first if epoch == 0 else self.share.row_after(ends[-2])
        return self.share.row_after(ends[-1]) - begin
