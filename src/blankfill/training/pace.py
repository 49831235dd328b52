"""Steps that have become many times slower than the first ones: the mark of threads that lost their cores.

Threads of one product wait for one another, so a program that takes one core of two can make steps twenty times as
long; half the threads then cost a factor of two at most and may win one of twenty. What is done about it is
`training.machine`'s. Times are held against each other a token, so that longer rows and larger batches are no slowness.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

FIRST = 10
"""Steps that the later ones are held against, after one that warms up."""
SLOWER = 8.0
"""Steps this many times slower than the first ones are slow. Rows of another length, a processor that is hot or a
memory that is shared make a factor of two or three; threads without cores one of ten to thirty."""
STEPS, SECONDS = 5, 10.0
"""So many slow steps in a row, which took so long together, are no passing disturbance."""


@dataclass
class Pace:
    """What steps took so far. slower: by how much the last slow steps were slower, 0.0 when there were none."""

    first: list[float] = field(default_factory=list)
    warm: bool = False
    slow: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, times slower) of the slow steps up to now."""
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
