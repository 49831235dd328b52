"""Chooses the charts of a run and their numbers: the content of the page's curves, without HTML.

The same `Chart` becomes the table of end values, which needs no script, and the JSON that the script of the page draws.
Long curves are thinned in the JSON to what a screen can show; the table uses all measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.report.curves import Table, bucket_starts, rounded, thinned
from blankfill.report.snapshot import Best, Event, Snapshot, number

MOST_POINTS = 1200
"""Largest number of points of a curve on the page: about the pixels of the widest chart."""
SPLITS = {"train": "training", "valid": "validation", "old": "old text", "hidden words": "the model"}
NOT_CHARTED = frozenset({"step", "split", "tokens"})
SMALLEST_SPAN = {"score": 0.1, "share": 0.05, "loss": 0.1}
"""Smallest height of a chart in its own unit, by style: a smaller change does not fill it."""
RUN_COLOURS = 8
"""Number of colours of the curves of several runs."""
SMALLEST_PART = 0.05
"""Smallest height of other charts, as a share of their largest value."""
TRAINING_ONLY = frozenset({"lr", "tokens_per_s"})
"""Metrics whose validation lines repeat them, or hold them for the whole run."""
KNOWN = {
    "loss": ("Loss", "nats per answer", "loss"),
    "named_at_once": ("Hidden words named at once", "of those in text never read", "share"),
    "named_among_5": ("Hidden words among five", "of those in text never read", "share"),
    "tokens_per_s": ("Throughput", "tokens per second", "count"),
    "lr": ("Learning rate", "", "rate"),
    "grad_norm": ("Gradient norm", "before clipping", "number"),
    "mfu": ("Model FLOP utilisation", "of the device's peak", "share"),
    "loader_wait": ("Waiting for rows", "of the training time", "share"),
}
"""Name of a metric → title, unit, style of its numbers; also the order of the charts."""


@dataclass(frozen=True)
class Series:
    """One curve: a column of a split. run, number: name and place of its run, for a chart of several runs."""

    split: str
    table: Table
    values: NDArray[np.float64]
    run: str = ""
    number: int | None = None

    @property
    def name(self) -> str:
        """Name of the curve."""
        return self.run or SPLITS.get(self.split, self.split)

    @property
    def tone(self) -> str:
        """Class of the colour of the curve."""
        if self.number is not None:
            return tone_of_run(self.number)
        return self.split if self.split in ("train", "valid") else "other"

    @property
    def ends(self) -> dict[str, tuple[int, float]]:
        """Step and value of the first, lowest, highest and last measurement."""
        there = np.flatnonzero(~np.isnan(self.values))
        lowest, highest = int(np.nanargmin(self.values)), int(np.nanargmax(self.values))
        picked = {"first": int(there[0]), "lowest": lowest, "highest": highest, "last": int(there[-1])}
        return {name: (int(self.table.steps[k]), float(self.values[k])) for name, k in picked.items()}


@dataclass(frozen=True)
class Chart:
    """One chart. style: how its numbers are written ("loss", "count", "rate", "share", "score", "number").

    reference: a horizontal line, its name and value.
    """

    key: str
    title: str
    unit: str
    style: str
    series: tuple[Series, ...]
    reference: tuple[str, float] | None = None

    def write(self, value: float) -> str:
        """Return a number of this chart as text."""
        return STYLES[self.style](value)

    @property
    def span(self) -> float:
        """Smallest height of this chart; see `smallest_span`."""
        return smallest_span(self.style, [value for series in self.series for _, value in series.ends.values()])


def tone_of_run(number: int) -> str:
    """Return the class of the colour of a run among several; after `RUN_COLOURS` of them, the curves are dashed."""
    return f"run{number % RUN_COLOURS}{' second' * (number // RUN_COLOURS % 2)}"


def smallest_span(style: str, values: Sequence[float]) -> float:
    """Return the smallest height of a chart with these values, so that noise does not look like a rise."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return SMALLEST_SPAN.get(style, SMALLEST_PART * largest)


def find_charts(snapshot: Snapshot, scores: Mapping[str, tuple[str, float] | None] | None = None) -> list[Chart]:
    """Return a chart for each metric, the loss first.

    scores: metrics that are shares, each with a reference line; the first comes before the loss, the others after it.
    """
    scores = scores or {}
    by_name: dict[str, list[Series]] = {}
    for name, series in measured(snapshot):
        by_name.setdefault(name, []).append(series)
    losses = ["loss", *(name for name in sorted(by_name) if name.endswith("_loss"))]
    order = [*list(scores)[:1], *losses, *list(scores)[1:], *KNOWN]
    names = sorted(by_name, key=lambda name: order.index(name) if name in order else len(order))
    return [_chart(snapshot, name, tuple(by_name[name]), scores) for name in names]


def measured(snapshot: Snapshot, run: str = "", number: int | None = None) -> Iterator[tuple[str, Series]]:
    """Yield the name of each metric that is drawn, and its curve in each split. run, number: as in `Series`."""
    for split, table in sorted(snapshot.metrics.items()):
        for name in table.names:
            if name in NOT_CHARTED or (name in TRAINING_ONLY and split != "train"):
                continue
            values = table.column(name)
            if not np.isnan(values).all():
                yield name, Series(split, table, values, run, number)


def described(name: str, is_score: bool) -> tuple[str, str, str]:
    """Return the title, the unit and the style of the chart of a metric."""
    plain = name.replace("_", " ")
    title = plain[:1].upper() + plain[1:]
    if is_score:
        return title, "on the dev set", "score"
    return KNOWN.get(name, (title, "", "loss" if name.endswith("_loss") else "number"))


def _chart(
    snapshot: Snapshot, name: str, series: tuple[Series, ...], scores: Mapping[str, tuple[str, float] | None]
) -> Chart:
    if name in scores:
        return Chart(name, *described(name, True), series, scores[name])
    reference = None
    if name == "loss" and snapshot.baseline is not None:
        reference = ("word frequencies alone", snapshot.baseline)
    elif name == "grad_norm":
        clip = number(snapshot.section("train").get("max_grad_norm"))
        reference = ("clipped to", clip) if clip else None
    elif name in ("named_at_once", "named_among_5") and (words := snapshot.hidden_words):
        pairs = words.neighbours.first if name == "named_at_once" else words.neighbours.among
        reference = ("bigram table of both neighbours", pairs)
    return Chart(name, *described(name, False), series, reference)


def payload(
    snapshot: Snapshot, charts: Sequence[Chart], events: Sequence[Event], best: tuple[str, Best | None] | None = None
) -> dict[str, Any]:
    """Return the data that the script of the page draws, as JSON values without NaN.

    best: the chart with a mark at the best measurement, and that measurement; by default the lowest validation loss. In
    the result, splits: step, tokens and seconds of each remaining point of a split; charts: the values there, with the
    band from low to high where a point stands for several measurements; events: marks, by step, tokens and seconds.
    """
    marked, mark = best or ("loss", snapshot.best)
    starts: dict[str, NDArray[np.int64]] = {}
    splits: dict[str, dict[str, Any]] = {}
    for split, table in snapshot.metrics.items():
        alone = [0, mark.row] if split == "valid" and mark else [0]
        starts[split] = bucket_starts(len(table), MOST_POINTS, alone)
        splits[split] = points_of(snapshot, table, starts[split])
    drawn = []
    for chart in charts:
        curves = []
        for series in chart.series:
            points = thinned(series.values, starts[series.split])
            curve: dict[str, Any] = {"split": series.split, "name": series.name, "y": rounded(points.mean)}
            if len(starts[series.split]) < len(series.values):
                curve |= {"low": rounded(points.low), "high": rounded(points.high)}
            curves.append(curve)
        values: dict[str, Any] = {"key": chart.key, "style": chart.style, "series": curves}
        values["span"] = chart.span
        if chart.reference:
            values["reference"] = {"name": chart.reference[0], "y": chart.reference[1]}
        if chart.key == marked and mark:
            time = rounded(snapshot.seconds_at([mark.step]), 6)[0]
            values["best"] = {"step": mark.step, "tokens": whole(mark.tokens), "time": time, "y": mark.loss}
        drawn.append(values)
    seen = snapshot.tokens_at([event.step for event in events]).tolist()
    took = rounded(snapshot.seconds_at([event.step for event in events]), 6)
    marks = [
        {"step": event.step, "tokens": whole(at), "time": time, "kind": event.kind, "tone": tone(event.kind),
         "text": event.text}
        for event, at, time in zip(events, seen, took, strict=True)
    ]  # fmt: skip
    return {"splits": splits, "charts": drawn, "events": marks}


def points_of(snapshot: Snapshot, table: Table, starts: NDArray[np.int64]) -> dict[str, Any]:
    """Return step, tokens and seconds at the end of each bucket of a split."""
    ends = np.append(starts[1:], len(table)) - 1
    steps = table.steps[ends].tolist()
    return {
        "step": steps,
        "tokens": [whole(seen) for seen in table.column("tokens")[ends].tolist()],
        "time": rounded(snapshot.seconds_at(steps), 6),
    }


def whole(value: float) -> int | None:
    """Return a count, None for NaN."""
    return None if math.isnan(value) else round(value)


def tone(kind: str) -> str:
    """Return the severity of an event: "bad", "warn" or "info"."""
    if kind in ("rollback", "out of memory"):
        return "bad"
    return "warn" if kind in ("skipped", "early stop", "baseline") else "info"


def short(value: float) -> str:
    """Return a large number with a letter for its size: 13.1k, 2.37M."""
    letters = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    size, letter = next(((size, letter) for size, letter in letters if abs(value) >= size), (1.0, ""))
    figures = value / size
    return f"{figures:.3g}{letter}" if abs(figures) < 999.5 else f"{figures:.0f}{letter}"


def small(value: float) -> str:
    """Return a possibly tiny number as text: 0.002, 1.28e-4."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


STYLES: dict[str, Callable[[float], str]] = {
    "loss": lambda value: f"{value:.3f}",
    "count": short,
    "rate": small,
    "share": lambda value: f"{value:.1%}",
    "score": lambda value: f"{value:.4f}",
    "number": lambda value: f"{value:.4g}",
}
"""Functions that write the numbers of a chart, by style."""
