"""Detection of steps that have become many times slower than the first ones, as when threads lose their cores.

Threads of one product wait for one another, so a program that takes one core of two can make steps twenty times as
long; half the threads then cost at most a factor of two. `training.machine` reacts to it. Times are compared by token,
so that longer rows and larger batches do not count as slow.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

FIRST = 10
"""Number of first steps, after one for warm-up, with which later steps are compared."""
SLOWER = 8.0
"""A step is slow when it takes this many times as long as the first ones. Rows of another length, a hot processor or
shared memory cause a factor of two or three; threads without cores one of ten to thirty."""
STEPS, SECONDS = 5, 10.0
"""Number and total duration of consecutive slow steps that do not count as a passing disturbance."""


@dataclass
class Pace:
    """The durations of the steps so far. slower: factor by which the last slow steps were slower; 0.0 without slow
    steps."""

    first: list[float] = field(default_factory=list)
    warm: bool = False
    slow: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, times slower) of the current sequence of slow steps."""
    slower: float = 0.0

    def step(self, seconds: float, tokens: int) -> bool:
        """Record a step; returns True once for each long sequence of slow steps."""
        each = seconds / max(1, tokens)
        if len(self.first) < FIRST:
            if self.warm:
                self.first.append(each)
            self.warm = True
            return False
        times = each / max(1e-12, statistics.median(self.first))
        if times < SLOWER:
            self.slow.clear()
            return False
        self.slow.append((seconds, times))
        if len(self.slow) < STEPS or sum(taken for taken, _ in self.slow) < SECONDS:
            return False
        self.slower = statistics.median(times for _, times in self.slow)
        self.slow.clear()
        return True
