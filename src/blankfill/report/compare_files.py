"""Several runs as files for other programs: a CSV table, the measured values as CSV, and a chart as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blankfill.report.charts import RUN_COLOURS, Chart, Series, short, smallest_span
from blankfill.report.compare import Run, charts_of, differing, results_of
from blankfill.report.curves import bucket_starts, thinned
from blankfill.report.figures import spread, ticks
from blankfill.report.masthead import span
from blankfill.report.picture import cells
from blankfill.system.console import visible

Axis = Literal["steps", "tokens", "time"]
AXES: dict[Axis, str] = {"steps": "steps", "tokens": "tokens seen", "time": "training time"}

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 540, 76, 24, 52, 52
LINE, LETTER = 20, 7.6
"""Height of a line of the legend, and the approximate width of a letter."""
COLOURS = ("#2468d6", "#cf5a06", "#16794a", "#a3259a", "#8a6a00", "#0b7d94", "#be2d2a", "#5f6470")
MOST_POINTS = 1000
FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"


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
    curves = [(series, *_points(across(runs, series, axis), series.values)) for series in chart.series]
    xs, ys = (np.concatenate([curve[k] for curve in curves]) for k in (1, 2))
    names = [f"{visible(series.name)} {chart.write(float(y[-1]))}" for series, _, y in curves if len(y)]
    places, top = _legend(names)
    height = HEIGHT + top - TOP
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    parts = [_text(LEFT, 28, chart.title, "start", 17, "#111"), _text(right, 28, chart.unit, "end")]
    if not len(xs):
        parts.append(_text(WIDTH / 2, height / 2, f"nothing measured over {AXES[axis]}"))
        return _file(height, chart.title, parts)
    values = ys.tolist()
    low, high = spread(values, smallest_span(chart.style, values))
    x0, x1 = float(xs.min()), float(xs.max())
    x1 = x1 if x1 > x0 else x0 + 1

    def x(value: float) -> float:
        return LEFT + (value - x0) / (x1 - x0) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    for tick in ticks(low, high, 7):
        parts.append(_line(LEFT, y(tick), right, y(tick), "#e4e1d9"))
        parts.append(_text(LEFT - 9, y(tick) + 4, chart.write(tick), "end"))
    for tick in ticks(x0, x1, 7):
        parts.append(_line(x(tick), bottom, x(tick), bottom + 5, "#888"))
        parts.append(_text(x(tick), bottom + 20, span(tick) if axis == "time" else short(tick)))
    parts += [_line(LEFT, bottom, right, bottom, "#888"), _text((LEFT + right) / 2, height - 10, AXES[axis])]
    shown = [curve for curve in curves if len(curve[1])]
    for (series, at, values), name, (left, line) in zip(shown, names, places, strict=True):
        place = series.number or 0
        style = f'stroke="{COLOURS[place % RUN_COLOURS]}" stroke-width="2"'
        style += ' stroke-dasharray="7 4"' * (place // RUN_COLOURS % 2)
        d = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(at.tolist(), values.tolist(), strict=True))
        parts.append(f'<polyline points="{d}" fill="none" stroke-linejoin="round" {style}/>')
        if len(at) <= 40:
            dots = zip(at.tolist(), values.tolist(), strict=True)
            colour = COLOURS[place % RUN_COLOURS]
            parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in dots]
        parts.append(f'<line x1="{left}" y1="{line - 4}" x2="{left + 20}" y2="{line - 4}" {style}/>')
        parts.append(_text(left + 26, line, name, "start", colour="#111"))
    return _file(height, f"{chart.title}: {'; '.join(names)}", parts)


def _points(at: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the known points of a curve, thinned to what a picture can show."""
    known = ~(np.isnan(at) | np.isnan(values))
    at, values = at[known], values[known]
    if not len(at):
        return at, values
    starts = bucket_starts(len(at), MOST_POINTS, [0])
    return at[np.append(starts[1:], len(at)) - 1], thinned(values, starts).mean


def _legend(names: Sequence[str]) -> tuple[list[tuple[float, float]], int]:
    """Return the place of each name below the title, and the top of the chart."""
    places: list[tuple[float, float]] = []
    left, line = float(LEFT), TOP
    for name in names:
        wide = 26 + LETTER * cells(name) + 22
        if left > LEFT and left + wide > WIDTH - RIGHT:
            left, line = float(LEFT), line + LINE
        places.append((left, line))
        left += wide
    return places, line + LINE


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 13, colour: str = "#555") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _file(height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="{FONT}" role="img"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
