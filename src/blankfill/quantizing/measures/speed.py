"""Times of two models, measured in turn in one process, so that other work on the machine slows both.

A pair is one time of each model, one right after the other, and the order changes from pair to pair. The figure is the
median of the quotients of all pairs, with a bootstrap interval over pairs: one model is slower than the other only
where the whole interval says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.tasks.metrics.intervals import Interval, draws, interval

FEWEST, MOST = 7, 101
"""Numbers of pairs."""
LEAST, PATIENCE = 3, 3
"""Number of pairs where `FEWEST` would take more than `PATIENCE` times the time that was given."""
SHORTEST = 0.005
"""Seconds of a measured time; shorter calls are repeated, and the time is that of one."""


@dataclass(frozen=True)
class Timing:
    """Times of two models. before, after: median seconds of a call. ratio: median of after / before, with its interval.
    pairs: number of times of each."""

    before: float
    after: float
    ratio: float
    interval: Interval
    pairs: int

    @property
    def slower(self) -> bool:
        """Whether the second model is slower, by the whole interval."""
        return self.interval[0] > 1


def alternate(before: Callable[[], object], after: Callable[[], object], seconds: float) -> Timing:
    """Time two calls in turn, for about `seconds` and at least `FEWEST` pairs, or `LEAST` of long calls, after a call
    of each that is not counted."""
    repeats = [_repeats(call) for call in (before, after)]
    times: list[list[float]] = [[], []]
    start = time.perf_counter()
    while _more(len(times[0]), time.perf_counter() - start, seconds):
        order = (0, 1) if len(times[0]) % 2 == 0 else (1, 0)
        for k in order:
            times[k].append(_time((before, after)[k], repeats[k]))
    first, second = np.array(times[0]), np.array(times[1])
    quotients = second / first
    sampled = _medians(quotients)
    return Timing(
        float(np.median(first)), float(np.median(second)), float(np.median(quotients)), interval(sampled), len(first)
    )  # fmt: skip


def series(call: Callable[[], object], seconds: float) -> list[float]:
    """Time a call again and again; as often as `alternate` does."""
    repeats = _repeats(call)
    start, times = time.perf_counter(), list[float]()
    while _more(len(times), time.perf_counter() - start, seconds):
        times.append(_time(call, repeats))
    return times


def apart(before: Sequence[float], after: Sequence[float]) -> Timing:
    """Compare times that were measured one model after the other."""
    first, second = np.array(before), np.array(after)
    medians = [float(np.median(times)) for times in (first, second)]
    count = min(len(first), len(second))
    sampled = _medians(second) / _medians(first, seed=1)
    return Timing(medians[0], medians[1], medians[1] / medians[0], interval(sampled), count)


def _medians(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the medians of resamples of some values, float64[R]."""
    out = []
    for weights_Nb in draws(len(values), seed):
        order = np.argsort(values)
        reached_Nb = np.cumsum(weights_Nb[order], axis=0)
        half = reached_Nb[-1] / 2
        low = values[order][(reached_Nb >= half).argmax(0)]
        high = values[order][(reached_Nb > half).argmax(0)]
        out.append((low + high) / 2)
    return np.concatenate(out)


def _more(count: int, passed: float, seconds: float) -> bool:
    """Return whether more times are measured, after a number of them and the seconds that they took."""
    if count >= MOST or count < LEAST:
        return count < MOST
    return passed < (PATIENCE * seconds if count < FEWEST else seconds)


def _repeats(call: Callable[[], object]) -> int:
    start = time.perf_counter()
    call()
    if time.perf_counter() - start > 100 * SHORTEST:
        return 1
    start = time.perf_counter()
    call()
    return max(1, round(SHORTEST / max(time.perf_counter() - start, 1e-9)))


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
