"""Draws with replacement, intervals of scores, and scores as commands, files and pages show them.

An interval is the middle 95% of the bootstrap resamples of a score (`bootstrap`), so it is about other rows of the same
kind, not about other seeds of the training. A score of 0 or 1 on every row has an interval without width, whatever the
number of rows; the number stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
FEWEST = 200
"""Resamples of very many units, whose intervals are narrow."""
MOST_DRAWS = 50_000_000
"""Number of draws from which the resamples become fewer."""
AT_ONCE = 4_000_000
"""Number of weights that are in memory at once."""
SEED = 0
Interval = tuple[float, float]
LEVEL = 0.95
FEWEST_ROWS = 6
"""Rows from which on a difference can be significant at all: five rows that all point one way have a probability of
2 / 2^5, more than 5%, when each way is equally likely."""


def interval(values_R: NDArray[np.float64]) -> Interval:
    """Return the middle 95% of the resamples of a score (percentile interval)."""
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def intervals(resamples: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """Return the interval of each metric."""
    return {name: interval(values_R) for name, values_R in resamples.items()}


@dataclass(frozen=True)
class Scores:
    """Metrics of predictions, with what is known about their accuracy.

    metrics: by name. items: number of items. resamples: of each metric that can be resampled, float64[R].
    """

    metrics: dict[str, float]
    items: int
    resamples: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def intervals(self) -> dict[str, Interval]:
        """The interval of each metric that has one."""
        return intervals(self.resamples)

    def values(self) -> dict[str, Any]:
        """Return metrics, number of items and intervals as JSON values."""
        shown = {name: list(between) for name, between in self.intervals.items()}
        return {"metrics": self.metrics, "items": self.items, "intervals": shown}

    def sentence(self) -> str:
        """Return all metrics with their intervals, and the number of items, on one line."""
        known = self.intervals
        listed = ", ".join(f"{name} {figure(value, known.get(name))}" for name, value in self.metrics.items())
        return f"{listed} ({counted(self.items, bool(known))})"


def draws(units: int, seed: int = SEED) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit was drawn in some resamples at a time, float64[U, b].

    The draws depend on the number of units alone, so that figures of the same units can be compared draw by draw.
    """
    total = min(RESAMPLES, max(FEWEST, MOST_DRAWS // units))
    rng = np.random.Generator(np.random.Philox(key=[seed, units]))
    at_once = max(1, AT_ONCE // units)
    for begin in range(0, total, at_once):
        count = min(at_once, total - begin)
        drawn = rng.integers(0, units, (count, units)) * count + np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=units * count).reshape(units, count).astype(np.float64)


def figure(value: float, between: Interval | None = None) -> str:
    """Return a score with its interval, such as 0.9025 [0.8807, 0.9220]."""
    return f"{value:.4f}" if between is None else f"{value:.4f} [{between[0]:.4f}, {between[1]:.4f}]"


def of_sums(rows: ArrayLike, values: Mapping[str, Callable[[NDArray[np.float64]], Any]]) -> dict[str, Interval]:
    """Return the intervals of figures that are functions of sums over rows; none for fewer than `FEWEST_ROWS` rows.

    rows: [N, S]. values: for each figure, its value from sums [S, R].
    """
    table_NS = np.asarray(rows, np.float64)
    if len(table_NS) < FEWEST_ROWS:
        return {}
    sums_SR = np.concatenate([table_NS.T @ weights_NR for weights_NR in draws(len(table_NS))], axis=1)
    return {name: interval(np.asarray(value(sums_SR), np.float64)) for name, value in values.items()}


def counted(items: int, with_intervals: bool = True, unit: str = "examples") -> str:
    """Return the number of items that scores rest on, and what the brackets behind them are. unit: in the plural."""
    count = f"{items:,} {unit.removesuffix('s') if items == 1 else unit}"
    return f"{count}; in brackets the 95% bootstrap interval" if with_intervals else count
