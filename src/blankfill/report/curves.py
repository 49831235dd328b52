"""Reads the numbers of metrics.jsonl for plots and pages, at any moment of a run, and thins long curves.

The files of a run are read while it writes them, so that a line may be half written, a resumed run may have measured
steps twice, and a number may be missing or not finite. Not here: drawing (`plots`, `page`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.system.reading import read_json_lines

Row = dict[str, Any]
"""The JSON object of one line."""


@dataclass(frozen=True)
class Table:
    """Lines of metrics of one split, in order of steps, read by column."""

    rows: list[Row]
    _columns: dict[str, NDArray[np.float64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """int64[N]."""
        return np.array([row["step"] for row in self.rows], np.int64)

    @cached_property
    def names(self) -> list[str]:
        """Names of the metrics."""
        return sorted(set[str]().union(*self.rows))

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a metric of all lines, float64[N]; NaN where it is missing, not a number or not finite."""
        if name not in self._columns:
            self._columns[name] = _numbers([row.get(name) for row in self.rows])
        return self._columns[name]


@dataclass(frozen=True)
class Curve:
    """One split of a run: steps int64[N], tokens int64[N] seen so far, loss float64[N] in nats per target."""

    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Thinned:
    """N values summarised in B buckets of neighbours: mean, low, high float64[B], NaN for a bucket without values."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Return the curves of a metrics.jsonl by split ("train", "valid").

    Lines that are not a JSON object with a step, a split, tokens and a finite loss are skipped (a line may be half
    written). Where a resumed run measured steps again, the last measurement counts. Raises UserError when the file
    cannot be read.
    """
    if not metrics.exists():
        raise UserError(f"{metrics} does not exist; name the metrics.jsonl of a run")
    tables = read_tables(metrics)
    curves = {}
    for split, table in tables.items():
        tokens, loss = table.column("tokens"), table.column("loss")
        whole = np.isfinite(tokens) & np.isfinite(loss)
        if whole.any():
            curves[split] = Curve(table.steps[whole], tokens[whole].astype(np.int64), loss[whole])
    return curves


def read_tables(metrics: Path) -> dict[str, Table]:
    """Return the lines of a metrics.jsonl that have a step and a split, by split. Raises UserError for a file that is
    not regular."""
    rows: dict[str, list[Row]] = {}
    for row in read_json_lines(metrics)[0]:
        split, step = row.get("split"), row.get("step")
        if isinstance(split, str) and is_step(step):
            rows.setdefault(split, []).append(row)
    return {split: Table(latest(lines)) for split, lines in rows.items()}


def is_step(value: object) -> TypeGuard[int]:
    """Return whether a value is a number of steps."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return rows in order of steps: a row replaces earlier rows with the same or a later step."""
    rows_in_order: list[Row] = []
    for row in rows:
        while rows_in_order and rows_in_order[-1]["step"] >= row["step"]:
            rows_in_order.pop()
        rows_in_order.append(row)
    return rows_in_order


def bucket_starts(count: int, most: int, alone: Iterable[int] = ()) -> NDArray[np.int64]:
    """Return the beginnings of buckets of neighbours, so that `count` points become about `most` of nearly equal size.
    alone: points that get a bucket of their own; the last point always does. Up to `most` points are left unchanged.
    """
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most, endpoint=False).astype(np.int64)
    single = np.array([*alone, count - 1], np.int64)
    starts = np.unique(np.concatenate([edges, single, single + 1]))
    return starts[starts < count]


def thinned(values: NDArray[np.float64], starts: NDArray[np.int64]) -> Thinned:
    """Return the mean, lowest and highest value of each bucket; NaN are left out."""
    if len(values) == len(starts):
        return Thinned(values, values, values)
    there = ~np.isnan(values)
    count = np.add.reduceat(there, starts, dtype=np.int64)
    total = np.add.reduceat(np.where(there, values, 0.0), starts)
    empty = count == 0
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return Thinned(np.where(empty, np.nan, total / np.maximum(count, 1)), low, high)


def rounded(values: NDArray[np.float64], digits: int = 5) -> list[float | None]:
    """Return values rounded to `digits` significant digits for JSON, None for NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(values == 0, 0, digits - 1 - np.floor(np.log10(np.abs(values))))
    shift = np.clip(np.nan_to_num(shift), -300, 300)
    near = np.round(values * 10.0**shift) / 10.0**shift
    return [None if value != value else value for value in near.tolist()]


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    try:
        numbers = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.empty((len(values), 0))
    if numbers.ndim != 1:
        plain = [value if isinstance(value, int | float) and abs(value) < 1e300 else np.nan for value in values]
        numbers = np.array(plain, np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers
