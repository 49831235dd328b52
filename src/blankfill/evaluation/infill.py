"""Infilling: blanks of several lengths, drawn by seed from held-out text, and a model's scores of the hidden words.

All models get the same blanks, measured in words. GLM must predict the length of a blank, so the end of the blank is
part of its answer; a masked model gets the number of tokens; GPT sees only the text to the left. `length` and `sides`
of the result name these differences; figures that differ in them are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.evaluation.answers import Answered, joined
from blankfill.evaluation.scorers import Scorer
from blankfill.evaluation.texts import Cut, around, encoded
from blankfill.generation.blanks import Words, find_blanks
from blankfill.generation.fill import Filler
from blankfill.tasks.metrics.intervals import Interval, of_sums
from blankfill.types import Example


@dataclass(frozen=True)
class Infilled:
    """The scores of the blanks of one length. words: number of words of each blank; left_out: passages that are too
    long for the model, and blanks without a token."""

    words: int
    left_out: int
    cuts: Sequence[Cut]
    answers: Sequence[Answered]
    ends: int

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name.

        exact: share of blanks that greedy decoding fills with the hidden words, and with the end of the blank where the
        model predicts it. token_accuracy: share of tokens that rank first after the correct tokens before them.
        probability: geometric mean over the blanks of the probability of the hidden words. nats_per_word and
        nats_per_character: of the hidden words, with the end of the blank."""
        count = len(self.answers)
        if not count:
            return {"blanks": 0, "left_out": self.left_out}
        nats = -sum(answer.total for answer in self.answers)
        hits = np.concatenate([answer.hits[: len(answer.hits) - self.ends] for answer in self.answers])
        return {
            "blanks": count,
            "left_out": self.left_out,
            "exact": sum(bool(answer.hits.all()) for answer in self.answers) / count,
            "token_accuracy": float(hits.mean()),
            "probability": float(np.exp(-nats / count)),
            "nats_per_word": nats / (count * self.words),
            "nats_per_character": nats / sum(len(cut.answer) for cut in self.cuts),
        }

    def intervals(self) -> dict[str, Interval]:
        """Return the interval of each share and of the figures in nats, over blanks."""
        rows = []
        for answer, cut in zip(self.answers, self.cuts, strict=True):
            hits = answer.hits[: len(answer.hits) - self.ends]
            rows.append((1, bool(answer.hits.all()), int(hits.sum()), len(hits), -answer.total, len(cut.answer)))
        values: dict[str, Callable[[NDArray[np.float64]], Any]] = {
            "exact": lambda sums: sums[1] / sums[0],
            "token_accuracy": lambda sums: sums[2] / sums[3],
            "probability": lambda sums: np.exp(-sums[4] / sums[0]),
            "nats_per_word": lambda sums: sums[4] / (sums[0] * self.words),
            "nats_per_character": lambda sums: sums[4] / sums[5],
        }
        return of_sums(rows, values)


def infill(scorer: Scorer, cuts: Sequence[Cut], advance: Callable[[int], None] = lambda blanks: None) -> Infilled:
    """Score blanks of one length, at least one. advance: called with the number of blanks that are done."""
    tokenizer = scorer.loaded.tokenizer
    spaced = Words(tokenizer, scorer.vocabulary, scorer.loaded.model.config.vocab_size).spaced
    framed = [around(cut.before, cut.answer, spaced) for cut in cuts]
    before = encoded(tokenizer, [first for first, _ in framed])
    answers = encoded(tokenizer, [second for _, second in framed])
    after = encoded(tokenizer, [cut.after for cut in cuts])
    fitting = [
        k for k, (left, answer, right) in enumerate(zip(before, answers, after, strict=True))
        if len(answer) and scorer.reads(left, right) + len(answer) <= scorer.room
    ]  # fmt: skip

    def groups() -> Iterator[list[Example]]:
        for k in fitting:
            yield scorer.blank(before[k], answers[k], after[k])
            advance(1)

    advance(len(cuts) - len(fitting))
    results = list(joined(scorer.loaded, groups()))
    return Infilled(cuts[0].words, len(cuts) - len(fitting), [cuts[k] for k in fitting], results, scorer.ends)


def by_length(results: Sequence[Infilled]) -> dict[str, Any]:
    """Return the metrics of all lengths, by the number of words; UserError when no blank could be scored."""
    if not any(result.answers for result in results):
        raise UserError("every passage is too long for the model's positions; give a model with more positions")
    return {str(result.words): result.metrics() for result in results}


def samples(scorer: Scorer, cuts: Sequence[Sequence[Cut]], most: int = 5) -> list[dict[str, Any]]:
    """Generate the model's own text for the first few blanks of each length, with the beam search of `fill`."""
    filler = Filler(scorer.loaded)
    rows = []
    for cut in (cut for ones in cuts for cut in ones[:most]):
        if find_blanks(cut.before + cut.after):
            continue  # the passage has a line of underscores, which would be another blank
        lengths = None
        if scorer.length == "given" or scorer.sees == "left":
            ids = encoded(scorer.loaded.tokenizer, [around(cut.before, cut.answer, filler.words.spaced)[1]])
            lengths = str(len(ids[0]))
        filled = filler.fill(f"{cut.before}[MASK]{cut.after if scorer.sees == 'both' else ''}", 1, lengths)
        rows.append(
            {"before": cut.before, "right": cut.answer, "after": cut.after, "fill": filled.candidates[0][0].text}
        )
    return rows
