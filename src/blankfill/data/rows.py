"""The rows of each step of a run, by arithmetic, so that no state is needed and nothing is replayed.

Rows are numbered through the whole run. A step takes the next ones; their number may grow over the first steps (the
batch-size warm-up of GLM-130B and PaLM). Rows that a rollback skips shift all later ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowSchedule:
    """Rows by step. size: rows of a step; start: rows of step 0, growing linearly to `size` over `ramp` steps.

    start 0 means `size` from the first step. skipped: number of rows skipped before the next step. increment: rows by
    which a step grows at a time. in_rows: whether `ramp` counts rows in place of steps: a step grows each time that as
    many rows have passed (Megatron's `--rampup-batch-size`).
    """

    size: int
    start: int = 0
    ramp: int = 0
    skipped: int = 0
    increment: int = 1
    in_rows: bool = False

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """int64[steps of the ramp + 1]: the first row of each step of the ramp, and of the step after it."""
        increments = -(-(self.size - self.start) // self.increment)
        if self.in_rows:
            firsts = [0]
            while firsts[-1] < self.ramp:
                more = self.increment * (firsts[-1] * increments // self.ramp)
                firsts.append(firsts[-1] + min(self.size, self.start + more))
            return np.array(firsts, np.int64)
        grown = self.increment * (increments * np.arange(self.ramp, dtype=np.int64) // max(1, self.ramp))
        counts = np.minimum(self.size, self.start + grown)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @property
    def _ramp(self) -> int:
        """Number of steps of the ramp."""
        return len(self._firsts) - 1 if self.start else 0

    def first(self, step: int) -> int:
        """Return the first row of a step; also how many rows the steps before it hold, plus those skipped."""
        if step < self._ramp:
            return int(self._firsts[step]) + self.skipped
        before = int(self._firsts[-1]) if self._ramp else 0
        return before + (step - self._ramp) * self.size + self.skipped

    def rows(self, step: int) -> range:
        """Return the rows of a step."""
        return range(self.first(step), self.first(step + 1))

    def step_of(self, row: int) -> int:
        """Return the step that holds a row."""
        row -= self.skipped
        if self._ramp and row < self._firsts[-1]:
            return int(self._firsts.searchsorted(row, side="right")) - 1
        before = int(self._firsts[-1]) if self._ramp else 0
        return self._ramp + (row - before) // self.size
