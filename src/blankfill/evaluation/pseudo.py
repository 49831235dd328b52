"""Pseudo-perplexity of masked models (Salazar et al. 2020, arXiv 1910.14659): each token is masked in turn.

The log-probabilities of all tokens of a sentence, each given all others, add up to its pseudo-log-likelihood; e to the
negative mean over all tokens of a corpus is its pseudo-perplexity. It orders sentences and models like a perplexity but
is none: the products are no probabilities.

A word of several pieces is too easy so, since its other pieces give each away: Kauf and Ivanova (2023, arXiv
2305.10588) mask with each piece the later ones of its word. Both figures come out of one pass, since they differ only
at pieces that have later ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.errors import UserError
from blankfill.evaluation.answers import Start, answered, silent
from blankfill.evaluation.scorers import Scorer
from blankfill.evaluation.texts import encoded
from blankfill.tasks.items import LanguageItem
from blankfill.types import Bool, Example, Int32


@dataclass
class PseudoCount:
    """Sums over all texts. nats: with one token masked; nats_within_word: with the rest of its word masked too; parted:
    texts that are longer than the model reads, and were measured in parts."""

    nats: float = 0.0
    nats_within_word: float = 0.0
    texts: int = 0
    parted: int = 0
    tokens: int = 0
    words: int = 0

    def metrics(self) -> dict[str, float]:
        """Both pseudo-perplexities, and nats per token and per word of the first."""
        return {
            "nats_per_token": self.nats / self.tokens,
            "pseudo_perplexity": math.exp(self.nats / self.tokens),
            "pseudo_perplexity_within_word": math.exp(self.nats_within_word / self.tokens),
            "nats_per_word": self.nats / self.words,
        }


def pseudo_perplexity(scorer: Scorer, texts: Sequence[LanguageItem], start: Start = silent) -> PseudoCount:
    """Both pseudo-log-likelihoods of texts. UserError for texts without a token."""
    advance = start(len(texts), "texts")
    starts = scorer.vocabulary.word_start
    count = PseudoCount()
    weights: list[tuple[bool, bool]] = []
    """Of the Examples handed out, in which of the two sums they stand."""

    def examples() -> Iterator[Example]:
        for item, ids in zip(texts, encoded(scorer.loaded.tokenizer, [item.text for item in texts]), strict=True):
            if len(ids):
                count.texts += 1
                count.tokens += len(ids)
                count.words += item.words
                count.parted += len(ids) > scorer.room
            for begin in range(0, len(ids), scorer.room):
                part = ids[begin : begin + scorer.room]
                for place, stop in enumerate(word_ends(part, starts)):
                    rest = stop - place > 1
                    weights.append((True, not rest))
                    yield scorer.hidden(part, place, [place])
                    if rest:
                        weights.append((False, True))
                        yield scorer.hidden(part, place, range(place, stop))
            advance(1)

    for number, answer in enumerate(answered(scorer.loaded, examples())):
        alone, within = weights[number]
        count.nats -= alone * answer.total
        count.nats_within_word -= within * answer.total
    if not count.tokens:
        raise UserError("the data have no text that the model's tokenizer has a token for; give other data")
    return count


def word_ends(ids: Int32, starts: Bool | None) -> list[int]:
    """Of each token, where its word ends (one past its last piece). starts: whether an id begins a word; None: all."""
    begins = np.ones(len(ids), np.bool_) if starts is None else starts[ids]
    ends = [len(ids)] * len(ids)
    for place in range(len(ids) - 2, -1, -1):
        ends[place] = place + 1 if begins[place + 1] else ends[place + 1]
    return ends
