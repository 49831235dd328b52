"""How often the tasks of a mixture are drawn (T5, Raffel et al. 2020, arXiv 1910.10683, section 3.5.2).

In proportion to the items that each has to learn from, at most `limit` counting (examples-proportional mixing), to the
power 1/temperature: 1 is proportional, a high one draws all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from blankfill.tasks.batching import Epochs


def rates(sizes: Sequence[int], limit: int = 0, temperature: float = 1.0) -> list[float]:
    """How large a share of the items drawn each member has. sizes: items to learn from; limit: 0 is none."""
    counted = np.array([min(size, limit or size) for size in sizes], np.float64)
    powers = (counted / counted.max()) ** (1 / temperature)
    shares: list[float] = (powers / powers.sum()).tolist()
    return shares


@dataclass(frozen=True)
class MixedEpochs(Epochs):
    """Which items a step holds, drawn from members by their shares.

    sizes: items of each, which stand one after another; shares: as `rates` gives them. An epoch has as many items as
    all members together; a member that is drawn more or less often than it has items continues where the epoch before
    left off.
    """

    sizes: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the items of an epoch in their order, int64[count]."""
        return _mixed_order(self.sizes, self.shares, self.seed, epoch)


@lru_cache(maxsize=4)
def _mixed_order(sizes: tuple[int, ...], shares: tuple[float, ...], seed: int, epoch: int) -> NDArray[np.int64]:
    """Kept, because every step of an epoch asks."""
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
    """Numbers of items in proportion to shares, the largest remainders rounded up; they add up to the count."""
    exact = count * np.asarray(shares)
    given = np.floor(exact).astype(np.int64)
    for k in np.argsort(-(exact - given), kind="stable")[: count - int(given.sum())]:
        given[k] += 1
    counts: list[int] = given.tolist()
    return counts


def _stream(size: int, start: int, count: int, key: list[int]) -> NDArray[np.int64]:
    """Places start … start + count − 1 of permutations of `size` items one after another, int64[count]."""
    rounds = range(start // size, -(-(start + count) // size))
    orders = [np.random.Generator(np.random.Philox(key=key, counter=number)).permutation(size) for number in rounds]
    joined = np.concatenate([np.zeros(0, np.int64), *orders])
    return joined[start % size : start % size + count]
