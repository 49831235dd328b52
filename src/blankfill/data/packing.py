"""Rows of Examples → a Batch of tensors.

Several Examples may share a row; `segment` tells them apart. The batch says in `mask` what its rows need: nothing at
all when every row is one full-length Example that sees everything, the plain causal kernel when every row is one
left-to-right Example, the rule's vectors otherwise. Rows are as wide as the longest, no wider.

Examples with a context make two such batches of the same rows, whose segments have the same numbers. `batches` says
which texts are best put into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from blankfill.types import PADDING, AttentionRule, Batch, Example

FULL = 4096
"""Most columns of a batch; more do not make it faster and take memory."""
ENOUGH = 1024
"""A batch of so many columns is not joined with longer texts: padding would cost more than a larger batch gains."""


def collate(rows: Sequence[Sequence[Example]], pad: int, multiple: int = 8) -> Batch:
    """Put rows of Examples into tensors.

    pad: the id of padding. multiple: the width is rounded up to it when rows are padded anyway. Raises ValueError when
    some Examples have a context and others none, or one without columns.
    """
    segments = [_first_segments(row) for row in rows]
    batch = _side(rows, segments, pad, multiple)
    contexts = [[example.context for example in row if example.context is not None] for row in rows]
    if not any(contexts):
        return batch
    if any(len(row) != len(found) or not all(map(len, found)) for row, found in zip(rows, contexts, strict=True)):
        raise ValueError("every Example of a batch must have a context with at least one column, or none of them any")
    context = _side(contexts, segments, pad, multiple)
    return dataclasses.replace(batch, context=context, tokens=batch.tokens + context.tokens)


def _first_segments(row: Sequence[Example]) -> list[int]:
    """The number of the first segment of each Example of a row; an Example's context has the same segments."""
    counts = [
        1 + max(int(side.rule.segment.max(initial=0)) for side in (example, example.context) if side is not None)
        for example in row
    ]
    return [0, *accumulate(counts[:-1])]


def _side(rows: Sequence[Sequence[Example]], segments: Sequence[Sequence[int]], pad: int, multiple: int) -> Batch:
    """One side of a batch, contexts left out. segments: the number of the first segment of each Example."""
    widths = [sum(len(example) for example in row) for row in rows]
    width = max(widths)
    mask = _mask(rows, width)
    if mask == "rule":
        width = -(-width // multiple) * multiple
    channels = rows[0][0].positions.shape[0]
    shape = (len(rows), width)
    input_ids = np.full(shape, pad, np.int64)
    positions = np.zeros((channels, *shape), np.int64)
    segment = np.full(shape, PADDING, np.int32)
    rank = np.zeros(shape, np.int32)
    horizon = np.zeros(shape, np.int32)
    grouped = any(example.rule.group is not None for row in rows for example in row)
    group = np.zeros(shape, np.int32) if grouped else None
    index, answers = [], []
    labels: dict[str, list[tuple[int, int]]] = {}
    borders: list[np.ndarray] = []
    for r, row in enumerate(rows):
        column = 0
        for example, before in zip(row, segments[r], strict=True):
            at = slice(column, column + len(example))
            input_ids[r, at] = example.input_ids
            positions[:, r, at] = example.positions
            segment[r, at] = example.rule.segment + before
            rank[r, at] = example.rule.rank
            horizon[r, at] = example.rule.horizon
            if group is not None and example.rule.group is not None:
                group[r, at] = example.rule.group
            index.append(example.target_index.astype(np.int64) + (r * width + column))
            answers.append(example.target_ids)
            for name, value in example.labels.items():
                labels.setdefault(name, []).append((r * width + column, value))
            if example.borders is not None:
                begin = r * width + column
                borders.append(example.borders.astype(np.int64) + np.array([[begin], [begin], [0], [0]]))
            column = at.stop
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(segment),
        torch.from_numpy(rank),
        torch.from_numpy(horizon),
        torch.from_numpy(np.concatenate(index)),
        torch.from_numpy(np.concatenate(answers).astype(np.int64)),
        {name: _columns(found) for name, found in labels.items()},
        mask,
        sum(widths),
        borders=torch.from_numpy(np.concatenate(borders, axis=1)) if borders else None,
        group=None if group is None else torch.from_numpy(group),
    )


def _columns(found: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(found, dtype=torch.int64)
    return table[:, 0].contiguous(), table[:, 1].contiguous()


def _mask(rows: Sequence[Sequence[Example]], width: int) -> str:
    if any(len(row) != 1 for row in rows):
        return "rule"
    rules = [row[0].rule for row in rows]
    if all(len(rule) == width and sees_all(rule) for rule in rules):
        return "none"
    return "causal" if all(is_causal(rule) for rule in rules) else "rule"


def sees_all(rule: AttentionRule) -> bool:
    """Whether every query of a rule may see every key."""
    alike = (rule.segment == rule.segment[0]).all() and rule.rank.max() <= rule.horizon.min()
    return bool(alike and not _parted(rule))


def is_causal(rule: AttentionRule) -> bool:
    """Whether a rule is the plain left-to-right one."""
    index = np.arange(len(rule))
    plain = (rule.segment == 0).all() and (rule.rank == index).all() and (rule.horizon == index).all()
    return bool(plain and not _parted(rule))


def _parted(rule: AttentionRule) -> bool:
    """Whether some keys are for their own group alone."""
    return rule.group is not None and bool(rule.group.any())


def batches(lengths: NDArray[np.int64], full: int = FULL, enough: int = ENOUGH) -> Iterator[NDArray[np.int64]]:
    """Which texts go together: indices into `lengths`, shortest texts first, each once.

    A batch has at most `full` columns (one text may have more) and texts of one length, unless it would hold fewer than
    `enough` columns: then longer ones join it.
    """
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        stop = first
        while stop < len(order):
            length, count = int(lengths[order[stop]]), stop - first
            longer = count and length > lengths[order[stop - 1]]
            if count and ((count + 1) * length > full or (longer and count * lengths[order[stop - 1]] >= enough)):
                break
            stop += 1
        yield order[first:stop]
        first = stop
