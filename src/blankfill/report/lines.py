"""A chart of lines as an SVG file of its own, with a legend below its title that no line passes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from blankfill.report.charts import RUN_COLOURS
from blankfill.report.figures import spread, ticks
from blankfill.report.picture import cells

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 540, 76, 24, 52, 52
LINE, LETTER = 20, 7.6
"""Height of a line of the legend, and the approximate width of a letter."""
COLOURS = ("#2468d6", "#cf5a06", "#16794a", "#a3259a", "#8a6a00", "#0b7d94", "#be2d2a", "#5f6470")
FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
DOTTED = 40
"""Largest number of points that are drawn as dots too."""


@dataclass(frozen=True)
class Line:
    """A line, float64[N] each. place: the number of its colour; after `RUN_COLOURS` of them, lines are dashed. A line
    without points is neither drawn nor in the legend."""

    name: str
    place: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def lines_svg(
    lines: Sequence[Line],
    title: str,
    unit: str,
    label: str,
    write: Callable[[float], str],
    write_x: Callable[[float], str],
    smallest: float = 0.0,
    logarithmic: bool = False,
) -> str:
    """Return the chart.

    Args:
        lines: The lines.
        title: What is drawn.
        unit: Of the vertical axis.
        label: What the horizontal axis is.
        write: Returns a number of the vertical axis as text.
        write_x: Returns a number of the horizontal axis as text.
        smallest: Smallest height of the chart in its own unit (`charts.smallest_span`).
        logarithmic: Whether the vertical axis is logarithmic; its values must be above 0.

    Returns:
        The SVG.
    """
    shown = [line for line in lines if len(line.x)]
    names = [line.name for line in shown]
    places, top = _legend(names)
    height = HEIGHT + top - TOP
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    parts = [_text(LEFT, 28, title, "start", 17, "#111"), _text(right, 28, unit, "end")]
    if not shown:
        parts.append(_text(WIDTH / 2, height / 2, f"nothing measured over {label}"))
        return _file(height, title, parts)
    drawn = [np.log10(line.y) if logarithmic else line.y for line in shown]
    values = np.concatenate(drawn).tolist()
    low, high = (math.floor(min(values)), math.ceil(max(values))) if logarithmic else spread(values, smallest)
    high = high if high > low else low + 1
    xs = np.concatenate([line.x for line in shown])
    x0, x1 = float(xs.min()), float(xs.max())
    x1 = x1 if x1 > x0 else x0 + 1

    def x(value: float) -> float:
        return LEFT + (value - x0) / (x1 - x0) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    marks = [float(k) for k in range(int(low), int(high) + 1)] if logarithmic else ticks(low, high, 7)
    for tick in marks:
        parts.append(_line(LEFT, y(tick), right, y(tick), "#e4e1d9"))
        parts.append(_text(LEFT - 9, y(tick) + 4, write(10**tick if logarithmic else tick), "end"))
    for tick in ticks(x0, x1, 7):
        parts.append(_line(x(tick), bottom, x(tick), bottom + 5, "#888"))
        parts.append(_text(x(tick), bottom + 20, write_x(tick)))
    parts += [_line(LEFT, bottom, right, bottom, "#888"), _text((LEFT + right) / 2, height - 10, label)]
    for line, ys, (left, base) in zip(shown, drawn, places, strict=True):
        colour = COLOURS[line.place % RUN_COLOURS]
        style = f'stroke="{colour}" stroke-width="2"'
        style += ' stroke-dasharray="7 4"' * (line.place // RUN_COLOURS % 2)
        pairs = list(zip(line.x.tolist(), ys.tolist(), strict=True))
        d = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in pairs)
        parts.append(f'<polyline points="{d}" fill="none" stroke-linejoin="round" {style}/>')
        if len(pairs) <= DOTTED:
            parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in pairs]
        parts.append(f'<line x1="{left}" y1="{base - 4}" x2="{left + 20}" y2="{base - 4}" {style}/>')
        parts.append(_text(left + 26, base, line.name, "start", colour="#111"))
    return _file(height, f"{title}: {'; '.join(names)}", parts)


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
