"""Holds out a dev set from data without one, and takes a subset of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.items import ChatItem, ChoiceItem, GenerationItem, Item, QuestionItem, Split, TaggedItem, TextItem


def hold_out(split: Split, share: float = 0.1, seed: int = 0, name: str = "dev") -> tuple[Split, Split]:
    """Return (the remaining items, the held-out items), in the order of the split.

    About a share `share` of the items is held out, at least one. Items of one article, document or group stay together;
    otherwise training would have seen parts of the held-out items. The choice depends only on the seed. name: of the
    held-out set, for sentences. Raises UserError when the split has fewer than two groups.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(split.items):
        groups.setdefault(_together(item, place), []).append(place)
    members = list(groups.values())
    if len(members) < 2:
        together = " of one document" if len(split) > 1 else ""
        rows = f"{len(split)} {'row' if len(split) == 1 else 'rows'}{together}"
        raise UserError(f"{rows} cannot be split into a training and a {name} set: give more rows, or a {name} set")
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
    """Return `count` items of a split (all of a smaller split) in its order; the choice depends only on the seed."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(split)])).permutation(len(split))
    return dataclasses.replace(split, items=[split.items[k] for k in sorted(order[:count])])


def _together(item: Item, place: int) -> Hashable:
    """Return a key for each item; items with the same key must stay together. The default key is the index of the
    item."""
    if isinstance(item, QuestionItem):
        return item.title or item.context
    if isinstance(item, TaggedItem) and item.document is not None:
        return item.document
    if isinstance(item, ChoiceItem):
        return item.context or place
    if isinstance(item, GenerationItem):
        return item.source or place
    if isinstance(item, ChatItem):  # the same questions, whatever their answers are
        return tuple(message.content for message in item.messages if message.role == "user")
    return (item.group or place) if isinstance(item, TextItem) else place
