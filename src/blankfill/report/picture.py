"""Pictures of training examples: the input tokens, the targets, and the attention between columns.

There are two forms. `example_text` is for a terminal: a line for each column of the row, and beside it the line of the
attention grid that belongs to it (queries down, keys across). `report.drawing.example_png` is for a page. Both draw the
reference `AttentionRule.visible`, against which the kernels are tested. In a model with an encoder, the encoder columns
come first and the decoder columns after them, so that one grid has all three attentions: the encoder's, the decoder's,
and the decoder's to the encoder.

Not here: the source of examples (`data.sampler`), and the command (`cli.show`).

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from blankfill.objectives import ShownColumn, label_meaning
from blankfill.types import AttentionRule, Bool, Example, Int32

Decode = Callable[[int], str]
"""Function from a token id to its text."""

LONGEST_TOKEN = 16
"""Largest width of a token in cells; longer tokens are cut."""
NARROWEST_GRID = 24
"""Smallest width of a grid beside the tokens, in cells; a wider grid is printed below them."""


@dataclass(frozen=True)
class Row:
    """Examples that share a row, joined as `data.batching` joins them. L columns, P channels.

    targets[i]: the target ids at column i. begins: the first column of each Example, of both its sides. labels: column
    → text. encoder: the number of encoder columns, which come first; 0 for a model of one stack.
    """

    input_ids: Int32
    positions: Int32
    rule: AttentionRule
    targets: list[list[int]]
    begins: list[int]
    labels: dict[int, str]
    encoder: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    def visible(self, window: int = 0) -> Bool:
        """Return which query (row) sees which key (column), bool[L, L]; the decoder sees the encoder side of its
        Example. window: of a local layer, as in `AttentionRule`; 0 for a layer that sees the whole row."""
        rule = self.rule.local(self.positions[0], window) if window else self.rule
        writes = np.arange(len(self)) >= self.encoder
        alike = writes[:, None] == writes[None, :]
        same = self.rule.segment[:, None] == self.rule.segment[None, :]
        result: Bool = (alike & rule.visible()) | (~alike & writes[:, None] & same)
        return result

    def numbers(self) -> list[int]:
        """Return the numbers of the columns: each side counts from 0."""
        return [*range(self.encoder), *range(len(self) - self.encoder)]

    def sides(self) -> list[tuple[str, int, int]]:
        """Return the name, the beginning and the end of each side; a model of one stack has one without a name."""
        whole = len(self)
        return [("encoder", 0, self.encoder), ("decoder", self.encoder, whole)] if self.encoder else [("", 0, whole)]


def join_row(examples: Sequence[Example]) -> Row:
    """Join Examples into one row, each in a segment of its own; encoder sides first. Raises ValueError for no Example,
    or when only some have an encoder side.
    """
    if not examples:
        raise ValueError("a row needs at least one example")
    contexts = [example.context for example in examples if example.context is not None]
    if contexts and len(contexts) < len(examples):
        raise ValueError("examples with an encoder's side and without one cannot share a row")
    before, offsets = 0, []
    for k, example in enumerate(examples):
        offsets.append(before)
        sides = [example, *contexts[k : k + 1]]
        before += 1 + max(int(side.rule.segment.max()) for side in sides)
    segments: list[Int32] = []
    targets: list[list[int]] = []
    begins: list[int] = []
    labels: dict[int, str] = {}
    sides = [*contexts, *examples]
    for example, offset in zip(sides, offsets * (2 if contexts else 1), strict=True):
        begin = len(targets)
        begins.append(begin)
        segments.append(example.rule.segment + offset)
        targets += [[] for _ in range(len(example))]
        for index, answer in zip(example.target_index.tolist(), example.target_ids.tolist(), strict=True):
            targets[begin + index].append(answer)
        if example.labels:
            labels[begin] = ", ".join(_label(name, value) for name, value in example.labels.items())
        labels |= {begin + column: text for column, text in _borders(example, begin).items()}
    rule = AttentionRule(
        np.concatenate(segments),
        np.concatenate([side.rule.rank for side in sides]),
        np.concatenate([side.rule.horizon for side in sides]),
        _joined_groups(sides),
    )
    input_ids = np.concatenate([side.input_ids for side in sides])
    positions = np.concatenate([side.positions for side in sides], axis=1)
    return Row(input_ids, positions, rule, targets, begins, labels, sum(map(len, contexts)))


def _joined_groups(examples: Sequence[Example]) -> Int32 | None:
    if all(example.rule.group is None for example in examples):
        return None
    return np.concatenate(
        [np.zeros(len(side), np.int32) if side.rule.group is None else side.rule.group for side in examples]
    )


def heading(row: Row) -> str:
    """Return the size of a row and its number of targets, in a few words."""
    targets = _count(sum(map(len, row.targets)), "target")
    if not row.encoder:
        return f"{_count(len(row), 'column')}, {_count(len(row.begins), 'example')}, {targets}"
    written = len(row) - row.encoder
    sides = f"encoder {_count(row.encoder, 'column')}, decoder {_count(written, 'column')}"
    return f"{sides}, {_count(len(row.begins) // 2, 'example')}, {targets}"


def example_text(
    examples: Sequence[Example],
    token: Decode,
    *,
    channels: Sequence[str] = (),
    width: int = 120,
    plain: bool = False,
    window: int = 0,
    further: Sequence[ShownColumn] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a row as text: a line for each column, with the attention grid beside it.

    channels: names of the position channels. width: cells of the terminal; where the grid is wider, one of its cells
    stands for several columns, half filled when only some of them are seen. plain: 0, 1 and + instead of block
    characters. A line and a bar separate the encoder from the decoder. The table of tokens itself is never cut, so it
    may be wider than a very small `width`. window: window of the local layers, whose grid is drawn below; 0 for a model
    without local layers. further: columns of the objective beside the tokens, of a model of one stack. notes: sentences
    that come below the size of the row.
    """
    row = join_row(examples)
    marks, (bar, dash, cross) = ("01+", "|-+") if plain else ("·█▌", "│─┼")
    table = _table(row, token, channels, further)
    left = max(map(cells, table))
    room = width - left - 2
    beside = room >= min(len(row), NARROWEST_GRID)
    numbers = row.numbers()
    digits = len(str(max(numbers)))
    sides = [end - begin for _, begin, end in row.sides()]
    group = _grouping(sides, max(1, room if beside else width - digits - 1))
    visible = row.visible()
    edges = [0, *np.cumsum(sides).tolist()]
    parts = [_grid(visible[:, a:b], group, marks) for a, b in pairwise(edges)]
    grid = [bar.join(line) for line in zip(*parts, strict=True)]
    ruler = bar.join(_ruler(len(part[0]), group) for part in parts)

    lines = [heading(row)]
    lines += [f"column {numbers[column]}: {label}" for column, label in row.labels.items()]
    lines += [*(column.note for column in further if column.note), *notes]
    if row.encoder:
        lines.append("above the line the encoder, below it the decoder, which sees the encoder left of the bar")
    if group > 1:
        lines.append(f"each cell of the grid stands for {group} columns; {marks[2]} where only some of them are seen")
    lines.append("")
    parting = cross.join(dash * len(part[0]) for part in parts)
    if beside:
        drawn = [f"{pad(line, left)}  {cells}" for line, cells in zip(table, [ruler, *grid], strict=True)]
        lines += _parted(drawn, row.encoder + 1, dash * (left + 2) + parting)
    else:
        lines += [*_parted(table, row.encoder + 1, dash * left), ""]
        drawn = [f"{name:>{digits}} {cells}" for name, cells in zip(["", *numbers], [ruler, *grid], strict=True)]
        lines += _parted(drawn, row.encoder + 1, dash * (digits + 1) + parting)
    if window:
        near = _grid(row.visible(window), group, marks)
        lines += ["", f"a local layer sees keys up to {_count(window, 'position')} away:", ""]
        named = zip(["", *numbers], [_ruler(len(near[0]), group), *near], strict=True)
        lines += [f"{name:>{digits}} {cells}" for name, cells in named]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _grouping(sides: Sequence[int], room: int) -> int:
    """Return the number of columns per cell with which sides of these lengths and the bar between them fit the room."""
    group = 1
    while sum(-(-side // group) for side in sides) + len(sides) - 1 > room and group < max(sides):
        group += 1
    return group


def _parted(lines: list[str], at: int, line: str) -> list[str]:
    """Return the lines with a separator inserted before number `at`, unless that is right after the header."""
    return lines if at == 1 else [*lines[:at], line, *lines[at:]]


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes; Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def pad(text: str, width: int) -> str:
    """Return text padded with spaces to `width` cells."""
    return text + " " * (width - cells(text))


def spell(text: str, longest: int = LONGEST_TOKEN) -> str:
    """Return a printable token: escapes for unprintable characters, at most `longest` cells."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    if cells(text) <= longest:
        return text
    while cells(text) > longest - 1:
        text = text[:-1]
    return text + "…"


def channel_names(channels: Sequence[str], count: int) -> list[str]:
    """Return a name for each of `count` position channels: the given names if they match, otherwise numbers."""
    if len(channels) == count:
        return list(channels)
    return ["pos"] if count == 1 else [f"pos {k + 1}" for k in range(count)]


def _table(row: Row, token: Decode, channels: Sequence[str], further: Sequence[ShownColumn] = ()) -> list[str]:
    """Return the header and a line for each column, numbers to the right and tokens to the left."""
    names = channel_names(channels, len(row.positions))
    rule = row.rule
    columns: list[tuple[str, list[str], bool]] = [
        ("col", [str(i) for i in row.numbers()], True),
        ("token", [spell(token(i)) for i in row.input_ids.tolist()], False),
    ]
    columns += [(name, [str(p) for p in channel], True) for name, channel in zip(names, row.positions, strict=True)]
    columns += [
        ("target", [" ".join(spell(token(i)) for i in ids) for ids in row.targets], False),
        *(
            (extra.name, [further_value(extra, i, token) for i in extra.values.tolist()], not extra.tokens)
            for extra in further
        ),
        ("seg", [str(k) for k in rule.segment], True),
        ("rank", [str(k) for k in rule.rank], True),
        ("horizon", [str(k) for k in rule.horizon], True),
    ]
    if rule.group is not None:
        columns.append(("group", [str(k) for k in rule.group], True))
    drawn = []
    for name, values, is_number in columns:
        width = max(map(cells, [name, *values]))
        drawn.append([value.rjust(width) if is_number else pad(value, width) for value in [name, *values]])
    return ["  ".join(line) for line in zip(*drawn, strict=True)]


def further_value(column: ShownColumn, value: int, token: Decode) -> str:
    """Return a value of a further column as text, "" for none."""
    if value < 0:
        return ""
    return spell(token(value)) if column.tokens else str(value)


def _grid(visible: Bool, group: int, marks: str) -> list[str]:
    """Return a line for each query, `group` keys per character. visible: bool[Q, K]. marks: none, all, some seen."""
    length = visible.shape[1]
    edges = range(0, length, group)
    share = np.add.reduceat(visible.astype(np.int64), edges, axis=1)
    sizes = np.diff([*edges, length])
    kind = np.where(share == 0, 0, np.where(share == sizes, 1, 2))
    return ["".join(marks[k] for k in line) for line in kind.tolist()]


def _ruler(length: int, group: int) -> str:
    """Return a ruler: the number of the first column of a cell, every ten cells."""
    ruler = ""
    for cell in range(0, length, 10):
        number = str(cell * group)
        if cell + len(number) <= length:
            ruler = ruler.ljust(cell) + number
    return ruler.ljust(length)


def _label(name: str, value: int) -> str:
    meaning = label_meaning(name, value)
    return f"{name} = {value}" + (f" ({meaning})" if meaning else "")


def _borders(example: Example, begin: int) -> dict[int, str]:
    """Return a text for each span that is predicted from its boundaries, by the column before the span. begin: the
    first column of the example."""
    if example.span_boundary_targets is None:
        return {}
    left, right = example.span_boundary_targets[:2].tolist()
    pairs = list(zip(left, right, strict=True))
    return {a: f"with column {begin + b}, predicts {_count(pairs.count((a, b)), 'token')} between" for a, b in pairs}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
