"""A training example as lines of text: the tokens side by side, with their targets and positions below them."""

from __future__ import annotations

from collections.abc import Sequence

from blankfill.report.picture import Decode, cells, channel_names, join_row, pad, spell
from blankfill.types import Example


def strip_text(examples: Sequence[Example], token: Decode, channels: Sequence[str] = (), width: int = 120) -> str:
    """Return a row as lines: its tokens, below them the targets and the positions; a block for each width of the
    terminal, the encoder's side before the decoder's. channels: names of the position channels."""
    row = join_row(examples)
    names = channel_names(channels, len(row.positions))
    lines = [
        [spell(token(number)) for number in row.input_ids.tolist()],
        [" ".join(spell(token(number)) for number in ids) for ids in row.targets],
        *([str(place) for place in channel] for channel in row.positions.tolist()),
    ]
    blocks = []
    for side, begin, end in row.sides():
        heads = [side or "token", "target", *names]
        left = max(map(cells, heads)) + 2
        at = begin
        while at < end:
            first, used = at, left
            while at < end and (at == first or used + _wide(lines, at) <= width):
                used += _wide(lines, at) + 1
                at += 1
            shown = [line for line in range(len(lines)) if line != 1 or any(lines[1][first:at])]
            blocks.append(
                "\n".join(
                    (
                        pad(heads[k], left)
                        + " ".join(pad(lines[k][column], _wide(lines, column)) for column in range(first, at))
                    ).rstrip()
                    for k in shown
                )
            )
    return "\n\n".join(blocks) + "\n"


def _wide(lines: Sequence[Sequence[str]], column: int) -> int:
    return max(cells(line[column]) for line in lines)
