"""Tagged words: a class for each word, predicted at its first piece (Devlin et al. 2019, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blankfill.tasks.adapter import EncodedSet, HeadAdapter, Prediction, Scores
from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.heads.word_alignment import tag_windows, word_tags
from blankfill.tasks.items import Item, TaggedItem
from blankfill.tasks.metrics.entities import entities, is_tag
from blankfill.tasks.metrics.error_analysis import tag_analysis


class Tag(HeadAdapter):
    """A BIO tag for each word."""

    head = "class"
    pooled = False

    @property
    def outputs(self) -> int:
        """A score for each tag."""
        return len(self.labels)

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode a row for each sentence, or several for long ones; the targets are at the first token of each word."""
        sentences = _sentences(items)
        number = {label: place for place, label in enumerate(self.labels)}
        encoded, windows = [], []
        room, by_characters = self.input_format.room(pair=False), self.task.by_characters
        for window in tag_windows(sentences, self.tokenizer, room, by_characters, self.options.document_context):
            if not len(window.word):
                continue
            tags = sentences[window.item].tags
            framed = self.input_format.frame(window.ids)
            columns = (window.first + framed.first[0]).astype(np.int32)
            answers = np.array([number[tags[k]] if tags else 0 for k in window.word.tolist()], np.int64)
            encoded.append(EncodedItem((framed.example,), (columns,), answers))
            windows.append(window)
        return EncodedSet(items, encoded, windows)

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the likeliest tag of each word, and the entities of these tags."""
        tags = [[self.labels[k] for k in scores_KC.argmax(1)] for scores_KC in scores]
        sentences = _sentences(encoded_set.items)
        named = all(map(is_tag, self.labels))  # other tags, such as parts of speech, name no entities
        return [
            Prediction(row, {"tags": list(row), **({"entities": _named(item, row)} if named else {})})
            for item, row in zip(sentences, word_tags(sentences, encoded_set.parts, tags), strict=True)
        ]

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from a tag for each word."""
        return Prediction(tuple(map(str, record["tags"])), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict each word's most frequent tag in the training data; O for unknown words."""
        seen: dict[str, dict[str, int]] = {}
        for item in _sentences(train):
            for word, tag in zip(item.words, item.tags or (), strict=True):
                counts = seen.setdefault(word, {})
                counts[tag] = counts.get(tag, 0) + 1
        usual = {word: max(counts, key=counts.__getitem__) for word, counts in seen.items()}
        return [Prediction(tuple(usual.get(word, "O") for word in item.words), {}) for item in _sentences(items)]

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return scores of each type of entity, and the confusions."""
        return tag_analysis(
            _sentences(items), [prediction.value for prediction in predictions], self.task.by_characters
        )


def _named(item: TaggedItem, tags: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": kind, "text": " ".join(item.words[first:end])} for kind, first, end in entities(tags)]


def _sentences(items: Sequence[Item]) -> list[TaggedItem]:
    return [item for item in items if isinstance(item, TaggedItem)]
