"""The progress of a run: everything but tensors that a checkpoint stores about it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blankfill.errors import UserError
from blankfill.system.loader import build


@dataclass
class Window:
    """Sums over the steps since the last line of training metrics."""

    losses: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    """Number of steps with finite losses; the means leave out other steps."""
    having: dict[str, int] = field(default_factory=dict)
    """Number of these steps that had each loss; a name that is missing, as in earlier checkpoints, means all steps."""
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, losses: Mapping[str, float], tokens: int, flops: float, seconds: float, waited: float) -> None:
        """Add one step. seconds: duration of the step; waited: the part of it spent on waiting for its rows."""
        if all(map(math.isfinite, losses.values())):
            self.having = {name: self.having.get(name, self.counted) for name in self.losses}
            for name, value in losses.items():
                self.having[name] = self.having.get(name, 0) + 1
                self.losses[name] = self.losses.get(name, 0.0) + value
            self.counted += 1
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def means(self) -> dict[str, float]:
        """Return the mean losses, each over the steps that had it; empty without finite ones."""
        return {name: value / self.having.get(name, self.counted) for name, value in self.losses.items()}


@dataclass
class Progress:
    """Counters of a run; saved with each checkpoint. Steps and rows are counted from the start of the run."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    seconds: float = 0.0
    """Duration of all training steps, before and after resuming."""
    best_loss: float = math.inf
    best_step: int = -1
    valid_loss: float = math.nan
    skipped_steps: int = 0
    """Steps whose update was left out because their loss or gradient was not finite."""
    skipped_rows: int = 0
    """Number of rows that rollbacks skipped."""
    rollbacks: int = 0
    bad_in_a_row: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaler (fp16)."""
    parts: int = 1
    """Number of parts into which each micro-batch is split; 2 after memory has run out."""
    window: Window = field(default_factory=Window)

    def state(self) -> dict[str, Any]:
        """Return the progress as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: object, where: object = "the progress of the run") -> Progress:
        """Build the progress from `state`'s result. where: the file, for messages. Raises UserError for anything
        else."""
        progress = build(cls, state, where, finite=False)  # the best loss is infinite before the first validation
        counted = (progress.step, progress.tokens, progress.skipped_steps, progress.skipped_rows, progress.rollbacks)
        if min(counted) < 0 or progress.best_step < -1:
            raise UserError(f"{where}: a count is negative")
        return progress
