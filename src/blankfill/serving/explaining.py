"""What each word contributes to a prediction: the item is predicted again with each word left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import name_of
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.items import ChoiceItem, Item, TextItem

MOST_WORDS = 200
"""Words of a text at most: each costs a prediction."""
_IDEOGRAPH = "\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")


@dataclass(frozen=True)
class LeftOut:
    """A word and the item without it. field: of the item that has the word."""

    text: str
    start: int
    end: int
    field: str
    item: Item


def words_of(item: Item, number: int, count: int) -> list[tuple[str, str, re.Match[str]]]:
    """Return the words of an item, each with the field and the text that have it; none for an item without texts of its
    own.

    number, count: place of the item among those of the request, for the error (ApiError, 422) of too many words.
    """
    texts: list[tuple[str, str]] = []
    if isinstance(item, TextItem):
        texts = [("first", item.first), *([("second", item.second)] if item.second else [])]
    elif isinstance(item, ChoiceItem):
        texts = [("context", item.context)]
    words = [(field, text, match) for field, text in texts for match in _WORD.finditer(text)]
    if len(words) > MOST_WORDS:
        name = name_of(number, count)
        raise ApiError(
            422, f"{name}: {len(words):,} words, and {MOST_WORDS} can be explained; shorten the text, or leave out "
            "explain", "invalid_request", name,
        )  # fmt: skip
    return words


def without_words(item: Item, words: Sequence[tuple[str, str, re.Match[str]]]) -> list[LeftOut]:
    """Return an item without each of its words in turn. words: of `words_of`."""
    shown = {"first": "text", "second": "second", "context": "context"}
    return [
        LeftOut(
            match[0], match.start(), match.end(), shown[field],
            _with(item, field, (text[: match.start()] + text[match.end() :]).strip()),
        )
        for field, text, match in words
    ]  # fmt: skip


def _with(item: Item, field: str, text: str) -> Item:
    changes: dict[str, Any] = {field: text}
    return dataclasses.replace(item, **changes)


def contributions(words: Sequence[LeftOut], whole: Prediction, without: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return for each word how much the probability of the predicted class, or the score, drops when the word is left
    out."""
    label = _label(whole)
    before = _strength(whole, label)
    rows = []
    for word, prediction in zip(words, without, strict=True):
        row: dict[str, Any] = {"text": word.text, "start": word.start, "end": word.end}
        if word.field != "text":
            row["field"] = word.field
        rows.append({**row, "change": round(before - _strength(prediction, label), 6)})
    return rows


def _label(prediction: Prediction) -> str:
    """Return the class whose probability is explained: the likeliest one; "" for a number."""
    probabilities = prediction.record.get("probabilities")
    return max(probabilities, key=probabilities.__getitem__) if probabilities else ""


def _strength(prediction: Prediction, label: str) -> float:
    record = prediction.record
    return float(record["probabilities"][label] if label else record["score"])
