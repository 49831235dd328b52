"""Blanks of several lengths, cut from held-out text by seed, and what a model says of the words that stood there.

All models get the same blanks, told in words. GLM must find out how long a blank is, and its end is part of its answer;
a masked model is told the number of tokens, GPT sees only what is to the left: `length` and `sides` of the result say
so, and figures that differ in them do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blankfill.errors import UserError
from blankfill.evaluation.answers import Answered, joined
from blankfill.evaluation.scorers import Scorer
from blankfill.evaluation.texts import Cut, around, encoded
from blankfill.generation.blanks import Words, find_blanks
from blankfill.generation.fill import Filler
from blankfill.types import Example


@dataclass(frozen=True)
class Infilled:
    """What a model says of the blanks of one length. words: of each; left_out: passages that it has no room for, or a
    blank without a token."""

    words: int
    left_out: int
    cuts: Sequence[Cut]
    answers: Sequence[Answered]
    ends: int

    def metrics(self) -> dict[str, Any]:
        """exact: the share of blanks that greedy decoding fills as they were, its end included where it must find it.
        token_accuracy: the share of the tokens that come first after the right ones before them. probability: of the
        true words, the geometric mean over the blanks. nats_per_word and nats_per_character: of the true words, the
        end included."""
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


def infill(scorer: Scorer, cuts: Sequence[Cut], advance: Callable[[int], None] = lambda blanks: None) -> Infilled:
    """Ask for blanks of one length, at least one. advance: called with the number of blanks as they are done."""
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
    """The metrics of all lengths, by the number of words; UserError when no blank could be asked for at all."""
    if not any(result.answers for result in results):
        raise UserError("no passage has room in the model's positions; give a model that reads more")
    return {str(result.words): result.metrics() for result in results}


def samples(scorer: Scorer, cuts: Sequence[Sequence[Cut]], most: int = 5) -> list[dict[str, Any]]:
    """What the model itself writes into the first few blanks of each length, by the beam search of `fill`."""
    filler = Filler(scorer.loaded)
    rows = []
    for cut in (cut for ones in cuts for cut in ones[:most]):
        if find_blanks(cut.before + cut.after):
            continue  # the passage has a line of underscores, which would be one more blank
        lengths = None
        if scorer.length == "given" or scorer.sees == "left":
            ids = encoded(scorer.loaded.tokenizer, [around(cut.before, cut.answer, filler.words.spaced)[1]])
            lengths = str(len(ids[0]))
        filled = filler.fill(f"{cut.before}[MASK]{cut.after if scorer.sees == 'both' else ''}", 1, lengths)
        rows.append(
            {"before": cut.before, "right": cut.answer, "after": cut.after, "fill": filled.candidates[0][0].text}
        )
    return rows
