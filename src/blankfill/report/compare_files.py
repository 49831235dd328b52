"""Several runs as files for other programs: a CSV table, the measured values as CSV, and a chart as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blankfill.report.charts import Chart, Series, short, smallest_span
from blankfill.report.compare import Run, charts_of, differing, results_of
from blankfill.report.curves import bucket_starts, thinned
from blankfill.report.lines import Line, lines_svg
from blankfill.report.masthead import span
from blankfill.system.console import visible

Axis = Literal["steps", "tokens", "time"]
AXES: dict[Axis, str] = {"steps": "steps", "tokens": "tokens seen", "time": "training time"}

MOST_POINTS = 1000


def table_csv(runs: Sequence[Run]) -> str:
    """Return a line for each run: its state, its results, and the settings in which the runs differ."""
    results, settings = results_of(runs), differing(runs)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "state", *results, *settings])
    for place, run in enumerate(runs):
        values = [column[place] for column in (*results.values(), *settings.values())]
        writer.writerow([run.name, run.state, *("" if value is None else value for value in values)])
    return file.getvalue()


def curves_csv(runs: Sequence[Run]) -> str:
    """Return a line for each measured value: run, split, metric, step, tokens, seconds, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "split", "metric", "step", "tokens", "seconds", "value"])
    for chart in charts_of(runs):
        for series in chart.series:
            tokens, seconds = across(runs, series, "tokens"), across(runs, series, "time")
            rows = zip(series.table.steps.tolist(), tokens.tolist(), seconds.tolist(), series.values.tolist(),
                       strict=True)  # fmt: skip
            name, split, metric = series.name, series.split, metric_of(chart)
            for step, seen, took, value in rows:
                if value == value:
                    known = [f"{seen:.0f}" if seen == seen else "", f"{took:.3f}" if took == took else ""]
                    writer.writerow([name, split, metric, step, *known, value])
    return file.getvalue()


def metric_of(chart: Chart) -> str:
    """Return the name of the metric of a chart, as in `metrics.jsonl`."""
    return chart.key.partition(" ")[0]


def across(runs: Sequence[Run], series: Series, axis: Axis) -> NDArray[np.float64]:
    """Return the horizontal values of a curve, float64[N]; NaN where unknown."""
    if axis == "tokens":
        return series.table.column("tokens")
    if axis == "time":
        return runs[series.number or 0].snapshot.seconds_at(series.table.steps.tolist())
    return series.table.steps.astype(np.float64)


def chart_svg(runs: Sequence[Run], chart: Chart, axis: Axis = "steps") -> str:
    """Return a chart as an SVG file of its own, with a legend below its title that no curve passes through."""
    lines = []
    for series in chart.series:
        at, values = _points(across(runs, series, axis), series.values)
        name = f"{visible(series.name)} {chart.write(float(values[-1]))}" if len(values) else ""
        lines.append(Line(name, series.number or 0, at, values))
    return lines_svg(
        lines, chart.title, chart.unit, AXES[axis], chart.write, span if axis == "time" else short,
        smallest_span(chart.style, [value for line in lines for value in line.y.tolist()]),
    )  # fmt: skip


def _points(at: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the known points of a curve, thinned to what a picture can show."""
    known = ~(np.isnan(at) | np.isnan(values))
    at, values = at[known], values[known]
    if not len(at):
        return at, values
    starts = bucket_starts(len(at), MOST_POINTS, [0])
    return at[np.append(starts[1:], len(at)) - 1], thinned(values, starts).mean
