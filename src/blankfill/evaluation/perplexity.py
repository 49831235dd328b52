"""Perplexity of running text, with a window that slides over it so that every token is asked for exactly once.

A model reads so many tokens; a text is longer. The first window asks for all it holds, each later one for `stride`
tokens behind as much text as fits before them. A small stride gives every token a long context and costs more.

Perplexity per token depends on the tokenizer, and compares only models that share one; per word, per character and per
byte all models compare. Words are those of the data: for WikiText-2 its own words, the end of a line being one, as its
perplexity has been counted since Merity et al. 2016. The nats are those of the text as the model reads it: what its
tokenizer drops (capitals, spaces) costs it nothing, which is told where it has unknown tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from blankfill.errors import UserError, setting
from blankfill.evaluation.answers import Start, answered, silent
from blankfill.evaluation.scorers import Scorer, windows
from blankfill.evaluation.texts import encoded
from blankfill.tasks.items import LanguageItem
from blankfill.types import Example, Int32


@dataclass
class Count:
    """What was read of some texts, and its nats; more is added with `add`."""

    nats: float = 0.0
    texts: int = 0
    tokens: int = 0
    unknown: int = 0
    words: int = 0
    characters: int = 0
    bytes: int = 0
    windows: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, item: LanguageItem, ids: Int32, unknown: int) -> None:
        """A text that is read whole. unknown: the id of the unknown token, or −1."""
        self.texts += 1
        self.tokens += len(ids)
        self.unknown += int((ids == unknown).sum())
        self.words += item.words
        self.characters += len(item.text)
        self.bytes += len(item.text.encode())

    def metrics(self) -> dict[str, float]:
        """Nats and perplexity by every unit."""
        bits = self.nats / math.log(2)
        return {
            "nats_per_token": self.nats / self.tokens,
            "perplexity": _exp(self.nats / self.tokens),
            "perplexity_per_word": _exp(self.nats / self.words),
            "bits_per_character": bits / self.characters,
            "bits_per_byte": bits / self.bytes,
        }

    def counts(self) -> dict[str, int]:
        """How much was read."""
        names = ("texts", "tokens", "unknown", "words", "characters", "bytes", "windows")
        return {name: getattr(self, name) for name in names}


def perplexity(
    scorer: Scorer,
    texts: Sequence[LanguageItem],
    window: int = 0,
    stride: int = 0,
    start: Start = silent,
) -> Count:
    """The nats of texts, each read from its own beginning.

    window: tokens read at a time, 0 for as many as the model has positions for. stride: tokens asked for by each window
    after a text's first, 0 for half a window. UserError for a window that is too long, a stride that is longer
    than it, and texts without a token.
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

    def examples() -> Iterator[Example]:
        for ids in ids_of:
            for begin, first, stop in windows(len(ids), room, step):
                count.windows += 1
                yield scorer.window(ids, begin, first, stop)

    for found in answered(scorer.loaded, examples(), pool=256):
        count.nats -= found.total
        advance(len(found.hits))
    if count.unknown:
        count.notes.append(
            f"{count.unknown / count.tokens:.2%} of the tokens are unknown to the tokenizer, which makes them easier "
            "to tell than the words that they stand for: do not compare with a model that reads them"
        )
    return count


def window_of(scorer: Scorer, window: int, stride: int) -> tuple[int, int]:
    """(tokens read at a time, tokens asked for at a time) from what was asked for; UserError for what cannot be."""
    if not 0 <= window <= scorer.room:
        raise UserError(
            f"{setting('window', window)}: {scorer.loaded.path} reads at most {scorer.room} tokens at a time; give 1 "
            "to that many"
        )
    room = window or scorer.room
    if not 0 <= stride <= room:
        raise UserError(f"{setting('stride', stride)} does not go with a window of {room} tokens; give 1 to {room}")
    return room, stride or max(1, room // 2)


def _exp(value: float) -> float:
    """e to the value, and infinity where that is no number: an untrained model's perplexity per word may be."""
    return float(np.exp(min(value, 709.0))) if value < 709.0 else math.inf
