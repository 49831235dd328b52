"""Pictures that need no script: a scatter of numbers, and scores as dots on a line, each as an SVG element. A text or a
table beside each picture has the same content.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, SIDE = 720, 460
LEFT, BOTTOM, MARGIN, ROW = 56, 44, 14, 34
WIDEST_NAME, ROW_BELOW_NAME = 300, 48
"""Largest width of names beside their lines, and the height of a line below its name."""
SMALLEST = 0.1
"""Smallest range of scores, so that settings that hardly differ do not look far apart."""
LETTER = 7.2
"""Approximate width of a letter."""


@dataclass(frozen=True)
class Dots:
    """A line of dots: its name, the values, and their summary (such as the mean)."""

    name: str
    values: Sequence[float]
    middle: float


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return about `most` round numbers from `low` to `high`."""
    rough = (high - low) / max(1, most)
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def spread(values: Sequence[float], smallest: float = 0.0, air: float = 0.06) -> tuple[float, float]:
    """Return a range from a little below the smallest value to a little above the largest, at least `smallest`
    long."""
    low, high = min(values), max(values)
    more = max((high - low) * air, (smallest - (high - low)) / 2) or max(abs(high), 1.0) * 0.05
    return low - more, high + more


def scatter(points: Sequence[Sequence[float]], label: str) -> str:
    """Return a scatter plot of predicted (vertical) against true numbers, with the diagonal. label: description in
    words."""
    values = [value for point in points for value in point]
    low, high = spread(values, 0.05 * max(map(abs, values)))
    right, bottom = WIDTH - MARGIN, SIDE - BOTTOM

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - MARGIN)

    parts = []
    for tick in ticks(low, high):
        parts.append(_line("grid", LEFT, y(tick), right, y(tick)) + _line("grid", x(tick), MARGIN, x(tick), bottom))
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end") + _text(x(tick), bottom + 17, f"{tick:g}"))
    parts.append(_line("reference", x(low), y(low), x(high), y(high)))
    parts += [f'<circle class="point" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.4"/>' for a, b in points]
    parts.append(_text((LEFT + right) / 2, SIDE - 8, "true"))
    parts.append(f'<g transform="rotate(-90 12 {bottom / 2:.0f})">{_text(12, bottom / 2, "predicted")}</g>')
    return _svg(WIDTH, SIDE, label, parts)


def dot_lines(lines: Sequence[Dots], label: str, reference: tuple[str, float] | None = None) -> str:
    """Return a line of dots for each setting, on one scale. reference: a value to compare all settings with."""
    values = [value for line in lines for value in (*line.values, line.middle)]
    low, high = spread([*values, reference[1]] if reference else values, SMALLEST)
    left = 16 + LETTER * max(len(line.name) for line in lines)
    above = left > WIDEST_NAME  # long names are above their lines, since cut ones look the same
    left, row = (16.0, ROW_BELOW_NAME) if above else (left, ROW)
    right, height = WIDTH - 30, row * len(lines) + BOTTOM + MARGIN
    bottom = height - BOTTOM + 8

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [_line("grid", x(tick), MARGIN, x(tick), bottom) for tick in ticks(low, high)]
    parts += [_text(x(tick), bottom + 16, f"{tick:g}") for tick in ticks(low, high)]
    if reference:
        at = x(reference[1])
        anchor = "start" if at < WIDTH / 2 else "end"
        parts.append(_line("reference", at, MARGIN - 4, at, bottom))
        parts.append(_text(at, bottom + 31, reference[0], anchor))
    for k, line in enumerate(lines):
        at = MARGIN + row * (k + (0.75 if above else 0.5))
        most = int((right - left) / LETTER)
        name = line.name if not above or len(line.name) <= most else f"{line.name[: most - 1]}…"
        text = _text(left, at - 13, name, "start") if above else _text(left - 12, at + 4, name, "end")
        parts.append(text + _line("axis", left, at, right, at))
        parts += [f'<circle class="point" cx="{x(value):.1f}" cy="{at:.1f}" r="4.5"/>' for value in line.values]
        if len(line.values) > 1:
            parts.append(_line("middle", x(line.middle), at - 10, x(line.middle), at + 10))
    return _svg(WIDTH, height, label, parts)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<div class="drawn"><svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}">'
        f"{''.join(parts)}</svg></div>"
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
