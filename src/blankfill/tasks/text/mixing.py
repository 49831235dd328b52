"""Sampling rates of the tasks in a mixture (T5, Raffel et al. 2020, arXiv 1910.10683, section 3.5.2).

Rates are proportional to the number of training items, capped at `limit` (examples-proportional mixing), to the power
1/temperature: 1 is proportional, and with a high temperature all tasks have nearly equal rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from blankfill.tasks.batching import Epochs


def rates(sizes: Sequence[int], limit: int = 0, temperature: float = 1.0) -> list[float]:
    """Return the share of each member in the drawn items. sizes: numbers of training items; limit: 0 means no limit."""
    counted = np.array([min(size, limit or size) for size in sizes], np.float64)
    powers = (counted / counted.max()) ** (1 / temperature)
    shares: list[float] = (powers / powers.sum()).tolist()
    return shares


@dataclass(frozen=True)
class MixedEpochs(Epochs):
    """The items of each step, drawn from members by their shares.

    sizes: numbers of items of the members, which follow one another; shares: from `rates`. An epoch has as many items
    as all members together; each member continues where the epoch before ended.
    """

    sizes: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the items of an epoch in their order, int64[count]."""
        return _mixed_order(self.sizes, self.shares, self.seed, epoch)


@lru_cache(maxsize=4)
def _mixed_order(sizes: tuple[int, ...], shares: tuple[float, ...], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch; cached, since every step of the epoch needs it."""
    drawn = apportioned(sum(sizes), shares)
    starts = np.cumsum([0, *sizes])
    chosen = [
        starts[k] + _stream(size, epoch * count, count, [seed, k])
        for k, (size, count) in enumerate(zip(sizes, drawn, strict=True))
    ]
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(np.concatenate(chosen))
    order.flags.writeable = False
    return order


def apportioned(count: int, shares: Sequence[float]) -> list[int]:
    """Return numbers of items in proportion to shares, the largest remainders rounded up; their sum is `count`."""
    exact = count * np.asarray(shares)
    given = np.floor(exact).astype(np.int64)
    for k in np.argsort(-(exact - given), kind="stable")[: count - int(given.sum())]:
        given[k] += 1
    counts: list[int] = given.tolist()
    return counts


def _stream(size: int, start: int, count: int, key: list[int]) -> NDArray[np.int64]:
    """Return elements start … start + count − 1 of consecutive permutations of `size` items, int64[count]."""
    rounds = range(start // size, -(-(start + count) // size))
    orders = [np.random.Generator(np.random.Philox(key=key, counter=number)).permutation(size) for number in rounds]
    joined = np.concatenate([np.zeros(0, np.int64), *orders])
    return joined[start % size : start % size + count]
