"""A dev set from data that have none, and fewer items of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, QuestionItem, Split, TaggedItem, TextItem


def hold_out(split: Split, share: float = 0.1, seed: int = 0) -> tuple[Split, Split]:
    """(the items that are left, about so large a share of them that is held out: one at least), in the split's order.

    What belongs together stays together: the questions of an article, the sentences of a document, the items of a
    group; otherwise the held-out items would have been seen. Which are held out depends on the seed alone. Raises
    UserError when there are not two things to part.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(split.items):
        groups.setdefault(_together(item, place), []).append(place)
    members = list(groups.values())
    if len(members) < 2:
        together = " of one document" if len(split) > 1 else ""
        raise UserError(
            f"{len(split)} rows{together} cannot be parted into a training and a dev set: give more, or a dev set"
        )
    order = np.random.Generator(np.random.Philox(key=[seed, len(members)])).permutation(len(members))
    wanted, taken = share * len(split), set[int]()
    for k in order[:-1]:
        if taken and len(taken) >= wanted:
            break
        taken.update(members[k])
    left = [item for place, item in enumerate(split.items) if place not in taken]
    held = [item for place, item in enumerate(split.items) if place in taken]
    return dataclasses.replace(split, items=left), dataclasses.replace(split, items=held)


def fewer(split: Split, count: int, seed: int = 0) -> Split:
    """So many items of a split, all where it has no more, in its order; which ones depends on the seed alone."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(split)])).permutation(len(split))
    return dataclasses.replace(split, items=[split.items[k] for k in sorted(order[:count])])


def _together(item: Item, place: int) -> Hashable:
    """Return what the items share that must not be parted; the item's own place where there is nothing."""
    if isinstance(item, QuestionItem):
        return item.title or item.context
    if isinstance(item, TaggedItem) and item.document is not None:
        return item.document
    if isinstance(item, ChoiceItem):
        return item.context or place
    if isinstance(item, GenerationItem):
        return item.source or place
    return (item.group or place) if isinstance(item, TextItem) else place
