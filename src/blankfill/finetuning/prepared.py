"""Items that are encoded once, by any thread, and predicted together with others later: what a server needs.

`prepare` encodes one item; `predict_prepared` predicts any of them together, with the results that
`Predictor.predict` has for the same items.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blankfill.finetuning.predictor import AnyPredictor, EnsemblePredictor, Predictor
from blankfill.tasks.adapter import Adapter, EncodedSet, HeadAdapter, Prediction
from blankfill.tasks.items import Item

CHARACTERS = 3
"""Characters of a token, about, of texts whose tokens are not counted."""


@dataclass(frozen=True)
class PreparedItem:
    """An item as the models of a predictor read it.

    encoded: for each model; empty for models that write their predictions, which encode later. size: columns of all
    models together. cut: whether the item is longer than a model reads, and loses its end.
    """

    item: Item
    encoded: tuple[EncodedSet, ...]
    size: int
    cut: bool


def prepare(predictor: AnyPredictor, item: Item) -> PreparedItem:
    """Encode an item. Raises UserError for an item that the model cannot read."""
    made = [_encoded(member.adapter, item) for member in members_of(predictor)]
    encoded = tuple(part for part, _ in made if part is not None)
    if len(encoded) < len(made):
        texts = [value for value in vars(item).values() if isinstance(value, str)]
        return PreparedItem(item, (), sum(map(len, texts)) // CHARACTERS + 1, False)
    size = sum(len(row) for part in encoded for row in part.encoded)
    return PreparedItem(item, encoded, max(1, size), any(cut for _, cut in made))


def predict_prepared(predictor: AnyPredictor, prepared: Sequence[PreparedItem]) -> list[Prediction]:
    """Return a prediction for each item of `prepare`."""
    items = [row.item for row in prepared]
    if not all(row.encoded for row in prepared):
        return predictor.predict(items)
    sets = [_joined([row.encoded[k] for row in prepared]) for k in range(len(members_of(predictor)))]
    if isinstance(predictor, EnsemblePredictor):
        return predictor.predict_encoded(sets)
    return predictor.predict_encoded(sets[0])


def members_of(predictor: AnyPredictor) -> Sequence[Predictor]:
    """Return the models of a predictor."""
    return predictor.members if isinstance(predictor, EnsemblePredictor) else [predictor]


def _encoded(adapter: Adapter, item: Item) -> tuple[EncodedSet | None, bool]:
    """Return an item encoded by an adapter, None for one that writes, and whether it was cut."""
    if not isinstance(adapter, HeadAdapter):
        return None, False
    own = copy.copy(adapter)  # its counter of cut texts is not for several threads
    if (reader := getattr(own, "reader", None)) is not None:
        own.reader = copy.copy(reader)  # type: ignore[attr-defined]
    before = own.cut
    encoded = own.encode([item])
    return encoded, own.cut > before


def _joined(sets: Sequence[EncodedSet]) -> EncodedSet:
    """Return the encoded items of several sets of one item each as one set."""
    parts: list[Any] = []
    for number, own in enumerate(sets):
        for part in own.parts:
            parts.append(dataclasses.replace(part, item=number) if hasattr(part, "item") else part)
    items = [item for own in sets for item in own.items]
    return EncodedSet(items, [row for own in sets for row in own.encoded], parts)


def finite(prediction: Prediction) -> bool:
    """Return whether all numbers of a prediction are finite; those of a model that has diverged are not."""
    return all(np.isfinite(value) for value in _numbers(prediction.record))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in inner for number in _numbers(part)]
