"""From rows of Examples to a Batch of tensors, and batches made in the background while the model computes.

Several Examples may share a row; `segment` tells them apart. `mask` of the batch is the mask that its rows need: none
when every row is one full-length Example in which everything is visible, causal when every row is one left-to-right
Example, the rule's vectors otherwise. Rows are as wide as the longest one.

Examples with a context make two batches with the same rows, whose segments have the same numbers.

Not here: which Examples share a row or a batch (`data.packing`).
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from blankfill.types import PADDING, AttentionRule, Batch, Example, TextSpans

T = TypeVar("T")
AHEAD = 4
"""Number of batches that are made in advance."""
THREAD = "blankfill-loader"
"""Name of the thread that makes batches."""


def collate(rows: Sequence[Sequence[Example]], pad: int, multiple: int = 8) -> Batch:
    """Build tensors from rows of Examples.

    pad: id of padding. multiple: divisor of the width when rows are padded anyway. Raises ValueError when only some
    Examples have a context, or a context has no columns.
    """
    segments = [_first_segments(row) for row in rows]
    batch = _side(rows, segments, pad, multiple)
    contexts = [[example.context for example in row if example.context is not None] for row in rows]
    if not any(contexts):
        return batch
    if any(len(row) != len(sides) or not all(map(len, sides)) for row, sides in zip(rows, contexts, strict=True)):
        raise ValueError("every Example of a batch must have a context with at least one column, or none of them any")
    context = _side(contexts, segments, pad, multiple)
    return dataclasses.replace(batch, context=context, tokens=batch.tokens + context.tokens)


def collate_texts(examples: Sequence[Example], pad: int) -> Batch:
    """Build a batch of one row that holds Examples one after another, without padding; where each is a text that sees
    all of itself, or a text from left to right, the batch says so (`Batch.texts`). The Examples have no context."""
    batch = collate([examples], pad, multiple=1)
    rules = [example.rule for example in examples]
    lengths = tuple(map(len, rules))
    if all(map(sees_all, rules)):
        return dataclasses.replace(batch, mask="rule", texts=TextSpans(lengths))
    if all(map(is_causal, rules)):
        return dataclasses.replace(batch, mask="rule", texts=TextSpans(lengths, causal=True))
    return batch


def _first_segments(row: Sequence[Example]) -> list[int]:
    """Return the number of the first segment of each Example of a row; an Example's context has the same segments."""
    counts = [
        1 + max(int(side.rule.segment.max(initial=0)) for side in (example, example.context) if side is not None)
        for example in row[:-1]
    ]
    return [0, *accumulate(counts)]


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
    boundary_targets: list[np.ndarray] = []
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
            if example.span_boundary_targets is not None:
                begin = r * width + column
                boundary_targets.append(
                    example.span_boundary_targets.astype(np.int64) + np.array([[begin], [begin], [0], [0]])
                )
            column = at.stop
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(segment),
        torch.from_numpy(rank),
        torch.from_numpy(horizon),
        torch.from_numpy(np.concatenate(index)),
        torch.from_numpy(np.concatenate(answers).astype(np.int64)),
        {name: _columns(pairs) for name, pairs in labels.items()},
        mask,
        sum(widths),
        span_boundary_targets=torch.from_numpy(np.concatenate(boundary_targets, axis=1)) if boundary_targets else None,
        group=None if group is None else torch.from_numpy(group),
    )


def _columns(pairs: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(pairs, dtype=torch.int64)
    return table[:, 0].contiguous(), table[:, 1].contiguous()


def _mask(rows: Sequence[Sequence[Example]], width: int) -> str:
    if any(len(row) != 1 for row in rows):
        return "rule"
    rules = [row[0].rule for row in rows]
    if all(len(rule) == width and sees_all(rule) for rule in rules):
        return "none"
    return "causal" if all(is_causal(rule) for rule in rules) else "rule"


def sees_all(rule: AttentionRule) -> bool:
    """Return whether every query of a rule may see every key."""
    alike = (rule.segment == rule.segment[0]).all() and rule.rank.max() <= rule.horizon.min()
    return bool(alike and not _parted(rule))


def is_causal(rule: AttentionRule) -> bool:
    """Return whether a rule is the plain left-to-right one."""
    index = np.arange(len(rule))
    plain = (rule.segment == 0).all() and (rule.rank == index).all() and (rule.horizon == index).all()
    return bool(plain and not _parted(rule))


def _parted(rule: AttentionRule) -> bool:
    """Return whether some keys are for their own group alone."""
    return rule.group is not None and bool(rule.group.any())


def prefetch(items: Iterable[T], ahead: int = AHEAD) -> Generator[T, None, None]:
    """Yield the same items in the same order, made by a thread that works up to `ahead` items ahead.

    An exception raised while an item is made is raised here in its place. Closing the generator ends the thread.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.2)
            except queue.Full:
                continue
        return None

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name=THREAD, daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stopped.set()
        thread.join()
