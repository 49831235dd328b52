"""Metrics of answers in dialogues: their probability by token, and ROUGE and BLEU of those that were generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from blankfill.errors import UserError
from blankfill.tasks.items import ChatItem
from blankfill.tasks.metrics.generation import text_metrics, without_spaces

LIKELIHOODS = ("log-likelihood", "perplexity")


@dataclass(frozen=True)
class Answered:
    """What a model says in a dialogue. text: its answer to the last message of the user, None where none was generated.
    nats, tokens: negative log-probability and number of the tokens of the dialogue's own answers, their ends counted.
    """

    text: str | None
    nats: float = 0.0
    tokens: int = 0


def answer_metrics(
    names: Sequence[str], items: Sequence[ChatItem], answers: Sequence[Answered], by_characters: bool = False
) -> dict[str, float]:
    """Return the named metrics: "log-likelihood" (the mean log-probability of a token of an answer, in nats),
    "perplexity" (its exponential, negated before), and those of `text_metrics` for the generated answers, 0 without
    any. Raises UserError for dialogues without answers."""
    tokens = sum(answer.tokens for answer in answers)
    if not tokens:
        raise UserError("none of the dialogues has an answer: they can be answered, but not scored")
    mean = sum(answer.nats for answer in answers) / tokens
    values = {"log-likelihood": -mean, "perplexity": math.exp(min(mean, 700.0))}
    texts = [name for name in names if name not in LIKELIHOODS]
    places = compared(items, answers)
    if texts and places:
        right, written = references(items, places), [answers[k].text or "" for k in places]
        values |= text_metrics(texts, right, written, by_characters or without_spaces(right))
    return {name: values.get(name, 0.0) for name in names}


def compared(items: Sequence[ChatItem], answers: Sequence[Answered]) -> list[int]:
    """Return the indices of dialogues with a generated answer and one of their own to compare it with."""
    return [
        k for k, (item, answer) in enumerate(zip(items, answers, strict=True))
        if answer.text is not None and not item.open
    ]  # fmt: skip


def references(items: Sequence[ChatItem], places: Sequence[int]) -> list[tuple[str, ...]]:
    """Return the last answers of some dialogues, as the metrics of texts take targets."""
    return [(items[k].messages[-1].content,) for k in places]
