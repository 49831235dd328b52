"""The rotary positions of a row as a picture: two axes as a plane, one axis over the columns.

ChatGLM-6B rotates the first half of every head by one position and the second half by another (`rotary_2d`). A context
lies along the first axis, and what is written stands above its mask, along the second one. With one axis (`rotary`) the
picture is only of use where positions repeat: what GLM-130B writes into a [MASK] keeps the position of its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

from blankfill.report.picture import Row, channel_names

WIDE, HIGH, MARGIN = 860.0, 240.0, 34.0
"""Size of the picture, and the room for its axes, in pixels."""
STEP = 22.0
"""Largest distance of two positions in pixels."""
TALL = 16
"""Largest number of lines of the plane in a terminal."""


def sentence_of(scheme: str, names: Sequence[str]) -> str:
    """Return what rotary positions do, in a sentence; "" for other schemes. names: of the position channels."""
    if scheme == "rotary":
        return f"rotary positions: {names[0]} rotates queries and keys"
    if scheme == "rotary_2d":
        return (
            f"two-dimensional rotary positions: {names[0]} rotates the first half of every head of queries and keys, "
            f"{names[1]} the second half"
        )
    return ""


def points(row: Row, scheme: str) -> np.ndarray | None:
    """Return the place of each column in the picture, int[2, L]; None for positions that need none."""
    if scheme == "rotary_2d":
        return row.positions[:2]
    if scheme == "rotary":
        inside = np.ones(len(row) - 1, np.bool_)
        inside[[begin - 1 for begin in row.begins if begin]] = False
        if (np.diff(row.positions[0])[inside] == 0).any():
            return np.stack([np.arange(len(row)), row.positions[0]])
    return None


def plane_svg(row: Row, scheme: str, channels: Sequence[str]) -> str:
    """Return the picture as SVG, with a dot for each column; "" where there is none. channels: their names."""
    places = points(row, scheme)
    if places is None:
        return ""
    names = channel_names(channels, len(row.positions))
    across, up = names[:2] if scheme == "rotary_2d" else ("column", names[0])
    most = np.maximum(places.max(1), 1)
    step = min(STEP, WIDE / float(most[0])), min(STEP, HIGH / float(most[1]))
    bottom = 10 + step[1] * float(most[1])
    at = [(MARGIN + step[0] * x, bottom - step[1] * y) for x, y in places.T.tolist()]
    edges = [*row.begins, len(row)]
    lines = "".join(
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at[begin:end])}"/>'
        for begin, end in pairwise(edges)
        if end - begin > 1
    )
    dots = "".join(
        f'<circle class="d{" aims" if row.targets[k] else ""}" data-k="{k}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{max(1.5, min(4.0, min(step) * 0.4)):.1f}"/>'
        for k, (x, y) in enumerate(at)
    )
    right, low = MARGIN + step[0] * float(most[0]), bottom + 24
    texts = (
        f'<text x="{MARGIN:.0f}" y="{bottom + 18:.0f}">0</text>'
        f'<text x="{right:.0f}" y="{bottom + 18:.0f}" text-anchor="end">{escape(across)} {most[0]}</text>'
        f'<text x="{MARGIN - 8:.0f}" y="{bottom + 4:.0f}" text-anchor="end">0</text>'
        f'<text x="{MARGIN - 8:.0f}" y="14" text-anchor="end">{most[1]}</text>'
    )
    about = f"positions of the columns: {across} across, {up} up"
    size = f'width="{right + 12:.0f}" height="{low:.0f}" viewBox="0 0 {right + 12:.0f} {low:.0f}"'
    drawn = f'<svg role="img" aria-label="{escape(about)}" {size}>{lines}{dots}{texts}</svg>'
    return f'<figure class="plane"><figcaption>{escape(about)}</figcaption>{drawn}</figure>'


def plane_text(row: Row, scheme: str, channels: Sequence[str], width: int = 120, plain: bool = False) -> str:
    """Return the plane of two axes for a terminal, the second axis upwards; "" for other schemes.

    A column with a target is ●, another one ○ (plain: * and o); one cell stands for several positions where the plane
    is larger than `width` or `TALL`.
    """
    if scheme != "rotary_2d":
        return ""
    names = channel_names(channels, len(row.positions))
    places = row.positions[:2]
    room = max(8, width - 6)
    across, up = (int(-(-(most + 1) // limit)) for most, limit in zip(places.max(1), (room, TALL), strict=True))
    columns, lines = int(places[0].max()) // across + 1, int(places[1].max()) // up + 1
    reads, aims = "o*" if plain else "○●"
    cells = [[" "] * columns for _ in range(lines)]
    for k, (x, y) in enumerate(places.T.tolist()):
        if row.targets[k] or cells[y // up][x // across] == " ":
            cells[y // up][x // across] = aims if row.targets[k] else reads
    size = "" if across == up == 1 else f"; a cell is {across} × {up} positions"
    drawn = [f"{number * up:>4}  {''.join(line).rstrip()}" for number, line in enumerate(cells)]
    return "\n".join([f"{names[0]} across, {names[1]} up; {aims} has a target{size}", "", *reversed(drawn)]) + "\n"
