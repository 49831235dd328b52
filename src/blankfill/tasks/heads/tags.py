"""Tagged words: a class for each word, asked at its first piece (Devlin et al. 2019, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blankfill.tasks.adapter import Coded, Decided, HeadAdapter, Scores
from blankfill.tasks.batching import Encoded
from blankfill.tasks.heads.word_alignment import tag_windows, word_tags
from blankfill.tasks.items import Item, TaggedItem
from blankfill.tasks.metrics.entities import entities
from blankfill.tasks.metrics.error_analysis import tag_study


class Tag(HeadAdapter):
    """A BIO tag for each word."""

    head = "class"
    pooled = False

    @property
    def outputs(self) -> int:
        """A score for each tag."""
        return len(self.labels)

    def encode(self, items: Sequence[Item], learn: bool = False) -> Coded:
        """A row for each sentence, or several where it is longer than a row; asked at first pieces."""
        sentences = _sentences(items)
        number = {label: place for place, label in enumerate(self.labels)}
        found, windows = [], []
        room, by_characters = self.frames.room(pair=False), self.task.by_characters
        for window in tag_windows(sentences, self.tokenizer, room, by_characters, self.options.document_context):
            if not len(window.word):
                continue
            tags = sentences[window.item].tags
            framed = self.frames.framed(window.ids)
            columns = (window.first + framed.first[0]).astype(np.int32)
            answers = np.array([number[tags[k]] if tags else 0 for k in window.word.tolist()], np.int64)
            found.append(Encoded((framed.example,), (columns,), answers))
            windows.append(window)
        return Coded(items, found, windows)

    def decide(self, coded: Coded, scores: Sequence[Scores]) -> list[Decided]:
        """The likeliest tag of each word, and the entities that they name."""
        tags = [[self.labels[k] for k in one.argmax(1)] for one in scores]
        sentences = _sentences(coded.items)
        return [
            Decided(row, {"tags": list(row), "entities": _named(item, row)})
            for item, row in zip(sentences, word_tags(sentences, coded.parts, tags), strict=True)
        ]

    def parse(self, shown: Mapping[str, Any]) -> Decided:
        """From a tag for each word."""
        return Decided(tuple(map(str, shown["tags"])), dict(shown))

    def plainest(self, train: Sequence[Item], items: Sequence[Item]) -> list[Decided]:
        """Each word's most frequent tag in the training data; O for words that are not in it."""
        seen: dict[str, dict[str, int]] = {}
        for item in _sentences(train):
            for word, tag in zip(item.words, item.tags or (), strict=True):
                counts = seen.setdefault(word, {})
                counts[tag] = counts.get(tag, 0) + 1
        usual = {word: max(counts, key=counts.__getitem__) for word, counts in seen.items()}
        return [Decided(tuple(usual.get(word, "O") for word in item.words), {}) for item in _sentences(items)]

    def study(self, items: Sequence[Item], decided: Sequence[Decided]) -> dict[str, Any]:
        """How right each type of entity is, and which are taken for which."""
        return tag_study(_sentences(items), [one.value for one in decided], self.task.by_characters)


def _named(item: TaggedItem, tags: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": kind, "text": " ".join(item.words[first:end])} for kind, first, end in entities(tags)]


def _sentences(items: Sequence[Item]) -> list[TaggedItem]:
    return [item for item in items if isinstance(item, TaggedItem)]
