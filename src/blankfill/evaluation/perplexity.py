"""Perplexity of running text, with a sliding window that scores every token exactly once.

A text is longer than the number of tokens that a model reads at a time. The first window scores all of its tokens; each
later window scores its last `stride` tokens, with as much text before them as fits. A small stride gives every token a
long context and costs more.

Perplexity by token depends on the tokenizer, and compares only models with the same one; figures by word, by character
and by byte compare all models. Words are those of the data: for WikiText-2 the words of the file, with one for the end
of each line, as its perplexity has been computed since Merity et al. 2016. The nats are those of the text as the
tokenizer encodes it: characters that the tokenizer drops (capitals, spaces) cost nothing. A note warns of unknown
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError, setting
from blankfill.evaluation.answers import Start, answered, silent
from blankfill.evaluation.scorers import Scorer, windows
from blankfill.evaluation.texts import encoded
from blankfill.tasks.items import LanguageItem
from blankfill.tasks.metrics.intervals import Interval, of_sums
from blankfill.types import Example, Int32


@dataclass
class Count:
    """Counts and nats of the texts so far; `add` adds a text."""

    nats: float = 0.0
    texts: int = 0
    tokens: int = 0
    unknown: int = 0
    words: int = 0
    characters: int = 0
    bytes: int = 0
    windows: int = 0
    notes: list[str] = field(default_factory=list)
    of_texts: list[list[float]] = field(default_factory=list)
    """Nats, tokens, words, characters and bytes of each text."""

    def add(self, item: LanguageItem, ids: Int32, unknown: int) -> None:
        """Add a text that is read completely. unknown: id of the unknown token, or −1."""
        self.texts += 1
        self.tokens += len(ids)
        self.unknown += int((ids == unknown).sum())
        self.words += item.words
        self.characters += len(item.text)
        size = len(item.text.encode())
        self.bytes += size
        self.of_texts.append([0.0, len(ids), item.words, len(item.text), size])

    def metrics(self) -> dict[str, float]:
        """Return nats and perplexity by every unit."""
        bits = self.nats / math.log(2)
        return {
            "nats_per_token": self.nats / self.tokens,
            "perplexity": _exp(self.nats / self.tokens),
            "perplexity_per_word": _exp(self.nats / self.words),
            "bits_per_character": bits / self.characters,
            "bits_per_byte": bits / self.bytes,
        }

    def intervals(self) -> dict[str, Interval]:
        """Return the interval of each metric, over texts."""
        bits = math.log(2)
        values: dict[str, Callable[[NDArray[np.float64]], Any]] = {
            "nats_per_token": lambda sums: sums[0] / sums[1],
            "perplexity": lambda sums: np.exp(np.minimum(sums[0] / sums[1], 709.0)),
            "perplexity_per_word": lambda sums: np.exp(np.minimum(sums[0] / sums[2], 709.0)),
            "bits_per_character": lambda sums: sums[0] / bits / sums[3],
            "bits_per_byte": lambda sums: sums[0] / bits / sums[4],
        }
        return of_sums([row for row in self.of_texts if row[1]], values)

    def counts(self) -> dict[str, int]:
        """Return the number of texts, tokens and other units."""
        names = ("texts", "tokens", "unknown", "words", "characters", "bytes", "windows")
        return {name: getattr(self, name) for name in names}


def perplexity(
    scorer: Scorer,
    texts: Sequence[LanguageItem],
    window: int = 0,
    stride: int = 0,
    start: Start = silent,
) -> Count:
    """Compute the nats of texts, each read from its own beginning.

    window: tokens read at a time; 0 for the number of positions of the model. stride: tokens scored by each window
    after the first of a text; 0 for half a window. Raises UserError for a window that is too long, a stride longer than
    the window, and data without tokens.
    """
    room, step = window_of(scorer, window, stride)
    unknown = scorer.vocabulary.roles.get("unk", -1)
    count = Count()
    ids_of = encoded(scorer.loaded.tokenizer, [item.text for item in texts])
    for item, ids in zip(texts, ids_of, strict=True):
        count.add(item, ids, unknown)
    if not count.tokens:
        raise UserError("the data have no text that the model's tokenizer has a token for; give other data")
    advance = start(count.tokens, "tokens")
    owners: list[int] = []
    """The text of each window."""

    def examples() -> Iterator[Example]:
        for number, ids in enumerate(ids_of):
            for begin, first, stop in windows(len(ids), room, step):
                count.windows += 1
                owners.append(number)
                yield scorer.window(ids, begin, first, stop)

    for number, answer in enumerate(answered(scorer.loaded, examples(), pool=256)):
        count.nats -= answer.total
        count.of_texts[owners[number]][0] -= answer.total
        advance(len(answer.hits))
    if count.unknown:
        count.notes.append(
            f"{count.unknown / count.tokens:.2%} of the tokens are unknown to the tokenizer, which makes them easier "
            "to predict than the words that they replace: do not compare with a model that reads these words"
        )
    return count


def window_of(scorer: Scorer, window: int, stride: int) -> tuple[int, int]:
    """Return the numbers of tokens read and scored at a time, from the settings; UserError for impossible settings."""
    if not 0 <= window <= scorer.room:
        raise UserError(
            f"{setting('window', window)}: {scorer.loaded.path} reads at most {scorer.room} tokens at a time; give 1 "
            f"to {scorer.room}"
        )
    room = window or scorer.room
    if not 0 <= stride <= room:
        raise UserError(f"{setting('stride', stride)} does not go with a window of {room} tokens; give 1 to {room}")
    return room, stride or max(1, room // 2)


def _exp(value: float) -> float:
    """Return e to the value, or infinity where it overflows, as an untrained model's perplexity by word may."""
    return float(np.exp(min(value, 709.0))) if value < 709.0 else math.inf
