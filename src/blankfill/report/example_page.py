"""The page of training examples to explore: for each the strip of its tokens, then the square of its attention.

Tokens, targets, positions and the square need no script. The script (`page_show.js`) marks what the token under the
pointer, or the one with the focus, sees and what sees it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

import numpy as np

from blankfill.errors import in_keys
from blankfill.objectives import ShownColumn
from blankfill.report.document import NOTHING_DRAWN, document
from blankfill.report.markup import said, tag
from blankfill.report.picture import (
    LONGEST_TOKEN,
    Decode,
    Row,
    cells,
    channel_names,
    further_value,
    heading,
    join_row,
    spell,
)
from blankfill.report.plane import plane_svg, sentence_of
from blankfill.types import Bool, Example

LARGEST, WIDEST = 22.0, 860.0
"""Largest side of a cell of the square, and its largest width, in pixels."""
MOST_WORDS = 72
"""Largest number of columns whose words stand beside the square; of more, the numbers of some columns."""
LETTER = 6.3
"""Approximate width of a letter beside the square."""


@dataclass(frozen=True)
class ShownExample:
    """A row to show. name: of its section. explanation: what its objective does, in a sentence. notes: sentences about
    the row. blanks: ids that stand for blanked text. window: of local layers, 0 without."""

    name: str
    title: str
    explanation: str
    notes: Sequence[str]
    examples: Sequence[Example]
    token: Decode
    channels: Sequence[str]
    blanks: Collection[int]
    window: int = 0
    further: Sequence[ShownColumn] = ()
    scheme: str = ""
    """Position scheme of the model, as in `TransformerConfig`; "" where it is not known."""


def page_of(shown: Sequence[ShownExample], title: str, now: datetime) -> str:
    """Return the HTML of some rows, each a section. now: the time shown on the page."""
    parts, rows = {}, []
    for number, shown_row in enumerate(shown):
        row = join_row(shown_row.examples)
        name = shown_row.name if shown_row.name not in parts else f"{shown_row.name} {number + 1}"
        parts[name] = _section(shown_row, row, number)
        rows.append(_values(shown_row, row))
    hint = (
        "Point at a token, or move between tokens with the arrow keys: it shows what the token sees, and what sees it. "
        "A click or the Enter key keeps the choice; Escape ends it."
    )
    key = "".join(
        f'<span><i class="{kind}"></i>{text}</span>'
        for kind, text in (
            ("blank", "a blank"), ("target", "has a target"), ("chosen", "chosen"), ("seen", "seen by it"),
            ("seer", "sees it"), ("both", "both"),
        )
    )  # fmt: skip
    headline = f'<h1>{escape(title)}</h1><p class="about">{hint}</p><p class="key">{key}</p>'
    data = {**NOTHING_DRAWN, "rows": rows}
    return document(title, headline, parts, now, data, ("show",), ("page", "page_show"))


def _values(shown_row: ShownExample, row: Row) -> dict[str, Any]:
    """Return what the script needs of a row."""
    values: dict[str, Any] = {"sees": bits(row.visible()), "encoder": row.encoder}
    if shown_row.window:
        values["near"] = bits(row.visible(shown_row.window))
    return values


def bits(visible: Bool) -> list[str]:
    """Return a line for each query: 1 for a key that it sees, 0 for another."""
    return ["".join(line) for line in np.where(visible, "1", "0").tolist()]


def _section(shown_row: ShownExample, row: Row, number: int) -> str:
    """Return a row: explanation, strips, and the square."""
    numbers = row.numbers()
    sentences = [heading(row), *(f"column {numbers[column]}: {text}" for column, text in row.labels.items())]
    sentences += [column.note for column in shown_row.further if column.note]
    names = channel_names(shown_row.channels, len(row.positions))
    sentences += filter(None, [sentence_of(shown_row.scheme, names)])
    notes = "".join(tag("p", in_keys(text), kind="notice") for text in shown_row.notes)
    explained = said("p", shown_row.explanation, kind="explained") if shown_row.explanation else ""
    strips = "".join(_strip(shown_row, row, number, *side) for side in row.sides())
    plane = plane_svg(row, shown_row.scheme, shown_row.channels)
    body = f'{strips}<p class="info" role="status"></p>{plane}{_square(shown_row, row)}'
    grouped = f'<div class="panel row" data-row="{number}">{body}</div>'
    return (
        f'<div class="head"><h2>{escape(shown_row.name)}</h2>{tag("span", shown_row.title, kind="note")}</div>'
        f'{explained}{notes}<p class="note">{escape("; ".join(sentences))}</p>{grouped}'
    )


def _strip(shown_row: ShownExample, row: Row, number: int, side: str, begin: int, end: int) -> str:
    """Return the tokens of a side, each with its target above it and its positions below."""
    names = channel_names(shown_row.channels, len(row.positions))
    numbers, ids = row.numbers(), row.input_ids.tolist()
    buttons = ""
    for column in range(begin, end):
        target = " ".join(spell(shown_row.token(i), 60) for i in row.targets[column])
        places = [str(channel[column]) for channel in row.positions.tolist()]
        token = spell(shown_row.token(ids[column]), 60)
        kinds = ["tok"] + ["blank"] * (ids[column] in shown_row.blanks) + ["target"] * bool(target)
        kinds += ["first"] * (column in row.begins)
        facts = [f"column {numbers[column]}", token, *([f"target {target}"] if target else [])]
        facts += [f"{name} {place}" for name, place in zip(names, places, strict=True)]
        facts += _further(shown_row, column)
        tab = "0" if column == 0 else "-1"
        buttons += (
            f'<button type="button" class="{" ".join(kinds)}" data-k="{column}" tabindex="{tab}" '
            f'aria-label="{escape(", ".join(facts))}">{tag("span", target, kind="y")}{said("span", token, kind="t")}'
            f"{tag('span', ' · '.join(places), kind='p')}</button>"
        )
    title = tag("h3", side) if side else ""
    read = f"{side or 'tokens'}; above each its target, below it {' and '.join(names)}"
    return f'{title}<div class="tokens" role="toolbar" aria-label="{escape(read)}">{buttons}</div>'


def _further(shown_row: ShownExample, column: int) -> list[str]:
    """Return the further values of a column, each with its name."""
    given = [extra for extra in shown_row.further if column < len(extra.values)]
    facts = [(extra.name, further_value(extra, int(extra.values[column]), shown_row.token)) for extra in given]
    return [f"{name} {text}" for name, text in facts if text]


def _square(shown_row: ShownExample, row: Row) -> str:
    """Return the square of the attention: a line for each query, a cell in colour for each key that it sees."""
    length = len(row)
    cell = min(LARGEST, max(3.0, WIDEST / length))
    words = [spell(shown_row.token(i), LONGEST_TOKEN) for i in row.input_ids.tolist()]
    with_words = length <= MOST_WORDS
    margin = 12 + LETTER * max(map(cells, words)) if with_words else 34
    side = margin + cell * length + 2
    visible = row.visible()
    has_target = np.array([bool(ids) for ids in row.targets])
    writes = np.arange(length) >= row.encoder
    across = visible & writes[:, None] & ~writes[None, :]
    near = row.visible(shown_row.window) if shown_row.window else visible
    layers = {
        "sees": visible & near & ~across & ~has_target[:, None],
        "aims": visible & near & ~across & has_target[:, None],
        "reads": across,
        "far": visible & ~near & ~across,
    }
    paths = "".join(
        f'<path class="{kind}" d="{_runs(pairs, margin, cell)}"/>' for kind, pairs in layers.items() if pairs.any()
    )
    edges = "".join(
        f'<path class="edge" d="M{margin} {margin + cell * at:.1f}H{side - 2:.1f}M{margin + cell * at:.1f} {margin}V'
        f'{side - 2:.1f}"/>'
        for at in [*row.begins, length]
    )
    size = min(11.5, cell * 0.82)
    beside = "".join(
        _words(words[k] if with_words else str(k), margin, cell, k, size if with_words else 10)
        for k in range(length)
        if with_words or k % max(8, length // 16) == 0
    )
    label = f"attention square: line is a query, column is a key; {int(visible.sum())} of {length * length} pairs see"
    return (
        f'<div class="square"><svg role="img" aria-label="{escape(label)}" width="{side:.0f}" height="{side:.0f}" '
        f'viewBox="0 0 {side:.1f} {side:.1f}" data-margin="{margin:.2f}" data-cell="{cell:.4f}">'
        f'<rect class="ground" x="{margin:.1f}" y="{margin:.1f}" width="{cell * length:.1f}" '
        f'height="{cell * length:.1f}"/>{paths}{edges}{beside}<g class="marks"></g></svg></div>'
    )


def _words(text: str, margin: float, cell: float, k: int, size: float) -> str:
    """Return the word of a column, left of its line and above its column."""
    at, shown = margin + cell * (k + 0.5), escape(text)
    return (
        f'<text class="w" data-k="{k}" x="{margin - 5:.1f}" y="{at + size * 0.35:.1f}" text-anchor="end" '
        f'font-size="{size:.1f}">{shown}</text><text class="w" data-k="{k}" '
        f'transform="translate({at + size * 0.35:.1f} {margin - 5:.1f}) rotate(-90)" font-size="{size:.1f}">'
        f"{shown}</text>"
    )


def _runs(pairs: Bool, margin: float, cell: float) -> str:
    """Return the path of the pairs that are on, neighbours in a line as one rectangle."""
    gap = 0.5 if cell >= 6 else 0.0
    parts = []
    for line in range(len(pairs)):
        on = np.flatnonzero(np.diff(np.concatenate([[0], pairs[line].astype(np.int8), [0]])))
        for begin, end in on.reshape(-1, 2).tolist():
            wide = cell * (end - begin) - gap
            top = margin + cell * line
            parts.append(f"M{margin + cell * begin:.1f} {top:.1f}h{wide:.1f}v{cell - gap:.1f}h{-wide:.1f}z")
    return "".join(parts)
