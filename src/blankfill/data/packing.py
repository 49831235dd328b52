"""Packing: which Examples share a row, and which rows or texts share a batch, from their lengths.

Two functions fill rows: `best_fit`, for a whole epoch of pretraining, and `FirstFit`, for the items of one step. Three
group items into batches: `padded_batches` for texts padded to one width, `packed_batches` for items that are packed
into rows later, `longest_first` for rows that grow during generation.

Not here: making tensors (`data.batching`), the text of an epoch (`data.plans`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

MAX_TOKENS = 4096
"""Largest number of columns of a batch; more do not make it faster and need memory."""
MIN_TOKENS = 1024
"""A batch with this many columns is not joined with longer texts: padding would cost more than a larger batch gains."""


def best_fit(sizes: Int64, capacity: int) -> tuple[Int64, int]:
    """Put pieces, in their order, into the fullest open row that still holds them.

    sizes: int64[P], none above `capacity`, the columns of a row. Returns the row of each piece, int64[P], and the
    number of rows.
    """
    # `open_rows[r]` lists the rows with r columns left, and the bits of `rooms` say which of those lists hold any, so
    # that finding the best row is one shift.
    row_of = np.empty(len(sizes), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    count = 0
    for k, size in enumerate(sizes.tolist()):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            room, row = capacity, count
            count += 1
        row_of[k] = row
        left = room - size
        if left > 0:
            open_rows[left].append(row)
            rooms |= 1 << left
    return row_of, count


class FirstFit:
    """Rows that are filled one piece at a time, each piece going to the first row with room for it.

    capacity: the columns of a row, one number for each side (a row and its context); a row is full when any side is.
    """

    def __init__(self, capacity: Sequence[int]) -> None:
        self.capacity = tuple(capacity)
        self._left: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._left)

    def fits(self, size: Sequence[int]) -> bool:
        """Return whether an empty row has room for a piece."""
        return _holds(self.capacity, size)

    def put(self, size: Sequence[int], first: int = 0) -> int:
        """Put a piece into a row, a new one where none from `first` on has room; returns the number of the row."""
        row = next((r for r in range(first, len(self._left)) if _holds(self._left[r], size)), len(self._left))
        if row == len(self._left):
            self._left.append(self.capacity)
        self._left[row] = tuple(left - taken for left, taken in zip(self._left[row], size, strict=True))
        return row

    def close(self, first: int) -> None:
        """Close the rows from `first` on: no further piece goes into them."""
        self._left[first:] = [(0,) * len(self.capacity)] * (len(self._left) - first)


def _holds(left: Sequence[int], size: Sequence[int]) -> bool:
    return all(room >= needed for room, needed in zip(left, size, strict=True))


def padded_batches(
    lengths: Int64, max_tokens: int = MAX_TOKENS, min_tokens: int = MIN_TOKENS
) -> Iterator[NDArray[np.int64]]:
    """Group texts that are padded to the longest of their batch: indices into `lengths`, shortest first, each once.

    A batch has at most `max_tokens` columns (a single text may have more) and texts of one length, unless it would hold
    fewer than `min_tokens` columns: then longer texts join it.
    """
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        stop = first
        while stop < len(order):
            length, count = int(lengths[order[stop]]), stop - first
            longer = count and length > lengths[order[stop - 1]]
            if count and (
                (count + 1) * length > max_tokens or (longer and count * lengths[order[stop - 1]] >= min_tokens)
            ):
                break
            stop += 1
        yield order[first:stop]
        first = stop


def packed_batches(sizes: Int64, max_tokens: int = MAX_TOKENS) -> Iterator[NDArray[np.int64]]:
    """Group items that share rows: indices into `sizes`, smallest first, each once.

    The sizes of a batch add up to at most `max_tokens`; a single item may be larger.
    """
    order = np.argsort(sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    first = 0
    while first < len(order):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(ends.searchsorted(before + max_tokens, side="right")))
        yield order[first:stop]
        first = stop


def longest_first(sizes: Int64, max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Group rows, the longest first, each once: as many as have room for `max_tokens` at the size of the longest."""
    order = np.argsort(-sizes, kind="stable")
    first = 0
    while first < len(order):
        stop = first + max(1, max_tokens // int(sizes[order[first]]))
        yield order[first:stop]
        first = stop
