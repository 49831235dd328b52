"""Pseudo-perplexity of masked models (Salazar et al. 2020, arXiv 1910.14659): each token is masked in turn.

The log-probabilities of all tokens of a sentence, each given all others, add up to its pseudo-log-likelihood; e to the
negative mean over all tokens of a corpus is its pseudo-perplexity. It ranks sentences and models like a perplexity, but
it is not one: the products are not probabilities.

A word of several tokens is too easy to predict this way, since its other tokens give each one away: Kauf and Ivanova
(2023, arXiv 2305.10588) mask the later tokens of the word together with each token. One pass gives both figures, since
they differ only at tokens that have later ones in their word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.evaluation.answers import Start, answered, silent
from blankfill.evaluation.scorers import Scorer
from blankfill.evaluation.texts import encoded
from blankfill.tasks.items import LanguageItem
from blankfill.tasks.metrics.intervals import Interval, of_sums
from blankfill.types import Bool, Example, Int32


@dataclass
class PseudoCount:
    """Sums over all texts. nats: with one token masked; nats_within_word: with the rest of its word masked too;
    in_parts: number of texts that are longer than the model reads, and were measured in parts."""

    nats: float = 0.0
    nats_within_word: float = 0.0
    texts: int = 0
    in_parts: int = 0
    tokens: int = 0
    words: int = 0
    of_texts: list[list[float]] = field(default_factory=list)
    """Both sums of nats, tokens and words of each text."""

    def metrics(self) -> dict[str, float]:
        """Return both pseudo-perplexities, and the nats by token and by word of the first."""
        return {
            "nats_per_token": self.nats / self.tokens,
            "pseudo_perplexity": math.exp(self.nats / self.tokens),
            "pseudo_perplexity_within_word": math.exp(self.nats_within_word / self.tokens),
            "nats_per_word": self.nats / self.words,
        }

    def intervals(self) -> dict[str, Interval]:
        """Return the interval of each metric, over texts."""
        values: dict[str, Callable[[NDArray[np.float64]], Any]] = {
            "nats_per_token": lambda sums: sums[0] / sums[2],
            "pseudo_perplexity": lambda sums: np.exp(np.minimum(sums[0] / sums[2], 709.0)),
            "pseudo_perplexity_within_word": lambda sums: np.exp(np.minimum(sums[1] / sums[2], 709.0)),
            "nats_per_word": lambda sums: sums[0] / sums[3],
        }
        return of_sums(self.of_texts, values)


def pseudo_perplexity(scorer: Scorer, texts: Sequence[LanguageItem], start: Start = silent) -> PseudoCount:
    """Compute both pseudo-log-likelihoods of texts. Raises UserError for texts without tokens."""
    advance = start(len(texts), "texts")
    starts = scorer.vocabulary.word_start
    count = PseudoCount()
    weights: list[tuple[bool, bool, int]] = []
    """For each Example, whether it counts for the first sum and for the second, and the number of its text."""

    def examples() -> Iterator[Example]:
        for item, ids in zip(texts, encoded(scorer.loaded.tokenizer, [item.text for item in texts]), strict=True):
            if len(ids):
                count.texts += 1
                count.tokens += len(ids)
                count.words += item.words
                count.in_parts += len(ids) > scorer.room
                count.of_texts.append([0.0, 0.0, len(ids), item.words])
            for begin in range(0, len(ids), scorer.room):
                part = ids[begin : begin + scorer.room]
                for place, stop in enumerate(word_ends(part, starts)):
                    rest = stop - place > 1
                    weights.append((True, not rest, len(count.of_texts) - 1))
                    yield scorer.hidden(part, place, [place])
                    if rest:
                        weights.append((False, True, len(count.of_texts) - 1))
                        yield scorer.hidden(part, place, range(place, stop))
            advance(1)

    for number, answer in enumerate(answered(scorer.loaded, examples())):
        alone, within, text = weights[number]
        count.of_texts[text][0] -= alone * answer.total
        count.of_texts[text][1] -= within * answer.total
        count.nats -= alone * answer.total
        count.nats_within_word -= within * answer.total
    if not count.tokens:
        raise UserError("the data have no text that the model's tokenizer has a token for; give other data")
    return count


def word_ends(ids: Int32, starts: Bool | None) -> list[int]:
    """Return where the word of each token ends (one past its last token). starts: whether an id begins a word; None:
    all."""
    begins = np.ones(len(ids), np.bool_) if starts is None else starts[ids]
    ends = [len(ids)] * len(ids)
    for place in range(len(ids) - 2, -1, -1):
        ends[place] = place + 1 if begins[place + 1] else ends[place + 1]
    return ends
