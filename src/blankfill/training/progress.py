"""What a run has done so far: everything that a checkpoint remembers beside tensors."""

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
    """Steps whose losses were finite; the others are left out of the means."""
    having: dict[str, int] = field(default_factory=dict)
    """How many of these steps had each loss; a name that is missing, as in earlier checkpoints, stands for all."""
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, losses: Mapping[str, float], tokens: int, flops: float, seconds: float, waited: float) -> None:
        """Take in one step. seconds: of the whole step; waited: those of them spent on waiting for its rows."""
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
        """Mean losses, each over the steps that had it; none when no step had a finite one."""
        return {name: value / self.having.get(name, self.counted) for name, value in self.losses.items()}


@dataclass
class Progress:
    """Counters of a run; saved with each checkpoint. Steps and rows are counted from the start of the run."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    seconds: float = 0.0
    """Spent on training steps, over all sittings."""
    best_loss: float = math.inf
    best_step: int = -1
    valid_loss: float = math.nan
    skipped_steps: int = 0
    """Steps whose update was left out because their loss or gradient was not finite."""
    skipped_rows: int = 0
    """Rows passed over by rollbacks."""
    rollbacks: int = 0
    bad_in_a_row: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaler (fp16)."""
    parts: int = 1
    """Into how many parts each micro-batch is split; 2 once memory has run out."""
    window: Window = field(default_factory=Window)

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: object, where: object = "the progress of the run") -> Progress:
        """From what `state` gave. where: the file, for messages. Raises UserError when it is something else."""
        progress = build(cls, state, where, finite=False)  # the best loss is infinite before there is one
        counted = (progress.step, progress.tokens, progress.skipped_steps, progress.skipped_rows, progress.rollbacks)
        if min(counted) < 0 or progress.best_step < -1:
            raise UserError(f"{where}: a count is negative")
        return progress
