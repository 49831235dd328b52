"""The targets of a cloze item's columns: each is one token of one word of one label.

An item stores its targets as a table of integers, so that batches join them like other answers; only `table` and
`from_table` depend on the order of its columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from blankfill.types import Int32

A = TypeVar("A")


@dataclass(frozen=True)
class ClozeTargets(Generic[A]):
    """The targets of K columns, numpy arrays or tensors of int64[K].

    label: number of the label that the score counts for. token: the token that is scored. words: number of words of the
    label. right: 1 for the right label. in_turn: 1 where the tokens of the Example are filled one after the other.
    """

    label: A
    token: A
    words: A
    right: A
    in_turn: A

    @staticmethod
    def of_tokens(
        tokens: Int32, label: int, words: int, right: bool, in_turn: bool = False
    ) -> ClozeTargets[NDArray[np.int64]]:
        """Return the targets of the tokens of one word."""
        count = len(tokens)
        whole = [np.full(count, value, np.int64) for value in (label, words, right, in_turn)]
        return ClozeTargets(whole[0], tokens.astype(np.int64), *whole[1:])

    def table(self) -> NDArray[np.int64]:
        """int64[K, 5], a row for each column of the item."""
        return np.stack([np.asarray(getattr(self, field.name)) for field in fields(self)], axis=1)

    @staticmethod
    def from_table(table: Any) -> ClozeTargets[Any]:
        """Return the targets of a table: an array or tensor whose last columns are those of `table`."""
        count = len(fields(ClozeTargets))
        return ClozeTargets(*(table[:, k - count] for k in range(count)))
