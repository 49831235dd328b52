"""LAMBADA (Paperno et al. 2016): predicting the last word of a passage, for which its last sentence is not enough.

A word is correct when greedy decoding generates exactly its tokens, all of them, as for GPT-2 and GLM; no stop words
are excluded. GLM's end of the blank is not scored, as in its original code; `accuracy_with_end` also counts the end. A
masked model gets the number of tokens of the word, which no other model gets: its metric is `accuracy_given_length`,
and it has no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.evaluation.answers import Answered, Start, joined, silent
from blankfill.evaluation.scorers import NOTHING, Scorer
from blankfill.evaluation.texts import around, encoded
from blankfill.generation.blanks import Words
from blankfill.tasks.items import GenerationItem
from blankfill.tasks.metrics.intervals import Interval, of_sums
from blankfill.types import Example


@dataclass(frozen=True)
class LastWords:
    """The scores of the last words. answers: for each passage, its tokens and the end; cut: passages that lost their
    beginning."""

    scorer: Scorer
    answers: Sequence[Answered]
    cut: int

    def metrics(self) -> dict[str, float]:
        """Return accuracy, perplexity by word (e to the mean negative log-probability of a whole word), and nats per
        token."""
        ends, total = self.scorer.ends, len(self.answers)
        pieces = [(len(answer.hits) - ends, answer) for answer in self.answers]
        nats = -sum(float(answer.log_probabilities[:size].sum()) for size, answer in pieces)
        name = "accuracy_given_length" if self.scorer.length == "given" else "accuracy"
        metrics = {name: sum(bool(answer.hits[:size].all()) for size, answer in pieces) / total}
        if ends:
            metrics["accuracy_with_end"] = sum(bool(answer.hits.all()) for answer in self.answers) / total
        return metrics | {
            "perplexity_per_word": math.exp(min(nats / total, 709.0)),
            "nats_per_token": nats / sum(size for size, _ in pieces),
        }

    def intervals(self) -> dict[str, Interval]:
        """Return the interval of each metric, over passages."""
        ends = self.scorer.ends
        sizes = [len(answer.hits) - ends for answer in self.answers]
        rows = [
            (
                1,
                bool(answer.hits[:size].all()),
                bool(answer.hits.all()),
                -answer.log_probabilities[:size].sum().item(),
                size,
            )
            for size, answer in zip(sizes, self.answers, strict=True)
        ]
        name = "accuracy_given_length" if self.scorer.length == "given" else "accuracy"
        with_end = {"accuracy_with_end": lambda sums: sums[2] / sums[0]} if ends else {}
        values: dict[str, Callable[[NDArray[np.float64]], Any]] = {
            name: lambda sums: sums[1] / sums[0],
            **with_end,
            "perplexity_per_word": lambda sums: np.exp(np.minimum(sums[3] / sums[0], 709.0)),
            "nats_per_token": lambda sums: sums[3] / sums[4],
        }
        return of_sums(rows, values)

    def counts(self) -> dict[str, Any]:
        """Return the number of words, of tokens and of passages that were cut."""
        tokens = sum(len(answer.hits) - self.scorer.ends for answer in self.answers)
        return {"words": len(self.answers), "tokens": tokens, "cut": self.cut}


def last_words(scorer: Scorer, items: Sequence[GenerationItem], start: Start = silent) -> LastWords:
    """Score the last word of each passage.

    A passage that is too long for the model loses its beginning. Raises UserError for a word without tokens.
    """
    tokenizer = scorer.loaded.tokenizer
    spaced = Words(tokenizer, scorer.vocabulary, scorer.loaded.model.config.vocab_size).spaced
    texts = [around(f"{item.source} ", item.targets[0], spaced) for item in items]
    before = encoded(tokenizer, [first for first, _ in texts])
    answers = encoded(tokenizer, [second for _, second in texts])
    cut, advance = 0, start(len(items), "words")

    def groups() -> Iterator[list[Example]]:
        nonlocal cut
        for item, context, answer in zip(items, before, answers, strict=True):
            if not len(answer):
                raise UserError(
                    f"the model's tokenizer has no token for the last word {item.targets[0]!r}; leave it out"
                )
            room = scorer.room - len(answer)
            cut += len(context) > room
            yield scorer.blank(context[max(0, len(context) - room) :], answer, NOTHING)
            advance(1)

    return LastWords(scorer, list(joined(scorer.loaded, groups())), cut)
