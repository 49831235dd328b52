"""What a run says of its hidden words: shares beside the baselines, how often the surest answers are right, and some.

`report_of` makes it, `write` and `read` keep it as `hidden_words.json` in the run folder, `lines_of` is its text for
the terminal. Not here: how words are drawn and ranked (`hidden_words`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.system.console import plain_table
from blankfill.system.files import write_file
from blankfill.system.loader import build
from blankfill.system.reading import read_json

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.generation.hidden_words import HiddenWords, Named

FILE = "hidden_words.json"
AMONG = 5
"""Number of candidates that are looked at for the second share."""
SUREST = 0.1
"""Share of the answers, those with the highest probability, that count as sure."""
SHOWN = 3
"""Number of right and of wrong answers that are shown."""
FREQUENCY = "word frequency"
WORD_BEFORE = "a bigram table of the word before"
NEIGHBOURS = "a bigram table of both neighbours"
_TEXT = 60
"""Characters of text shown on each side of a hidden word."""


@dataclass(frozen=True)
class Shares:
    """Shares of the hidden words that were named: at rank 1, and at one of the first `AMONG` ranks."""

    first: float
    among: float

    @classmethod
    def of(cls, named: Named) -> Shares:
        """Return the shares of some answers."""
        return cls(named.share(1), named.share(AMONG))


@dataclass(frozen=True)
class Answer:
    """An answer of the model. before, after: text around the hidden word; probability: that of the answer among the
    candidates."""

    before: str
    word: str
    after: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Report:
    """The content of `hidden_words.json`."""

    words: int
    """Number of hidden words."""
    covered: float
    """Share of the words of letters of the text that are one token; the hidden words are drawn among these."""
    candidates: int
    """Number of words that are ranked."""
    step: int
    """Step of the model."""
    before: Shares | None
    """Shares of the model before training; None where they were not measured."""
    frequency: Shares
    """Shares by the frequency of words in the training text."""
    word_before: Shares
    """Shares by a bigram table of the training text: the word given the token before it."""
    neighbours: Shares
    """Shares by the same table, read on both sides of the hidden word."""
    model: Shares
    """Shares of the model."""
    verdict: str
    """A sentence that compares the model with the best baseline."""
    sure_words: int
    """Number of the surest answers."""
    sure: float
    """Share of these that are right."""
    right: tuple[Answer, ...]
    """The surest right answers, each word once."""
    wrong: tuple[Answer, ...]
    """The surest wrong answers, each word once."""


def report_of(hidden: HiddenWords, named: Named, before: Shares | None, step: int, tokenizer: Tokenizer) -> Report:
    """Return the report on the answers of a model at a step. before: its shares before training, if known."""
    frequency, word_before, neighbours = hidden.by_frequency, hidden.by_word_before, hidden.by_neighbours
    surest = np.argsort(-named.probability, kind="stable")
    sure = surest[: max(1, round(SUREST * len(surest)))]
    hits = named.ranks == 1
    baselines = {
        FREQUENCY: frequency.ranks == 1, WORD_BEFORE: word_before.ranks == 1, NEIGHBOURS: neighbours.ranks == 1
    }  # fmt: skip
    return Report(
        words=len(hits), covered=hidden.covered, candidates=len(hidden.candidates), step=step, before=before,
        frequency=Shares.of(frequency), word_before=Shares.of(word_before), neighbours=Shares.of(neighbours),
        model=Shares.of(named),
        verdict=verdict(hits, baselines), sure_words=len(sure), sure=float(hits[sure].mean()),
        right=_answers(hidden, named, surest[hits[surest]], tokenizer),
        wrong=_answers(hidden, named, surest[~hits[surest]], tokenizer),
    )  # fmt: skip


def verdict(hits: NDArray[np.bool_], baselines: dict[str, NDArray[np.bool_]]) -> str:
    """Return a sentence on whether a model names more of the same words at once than the best baseline.

    hits and baselines: bool[N]. A difference counts from two standard deviations of the words on which they differ
    (McNemar's test).
    """
    best = max(baselines, key=lambda name: int(baselines[name].sum()))
    other = baselines[best]
    gained, lost = int((hits & ~other).sum()), int((other & ~hits).sum())
    if abs(gained - lost) <= 2 * math.sqrt(gained + lost):
        return f"The model names about as many hidden words at once as {best}: train it longer, or on more text."
    if gained < lost:
        return f"The model names fewer hidden words at once than {best}: train it longer, or on more text."
    if not other.any():
        return f"The model names {int(hits.sum())} hidden words at once; {best} names none."
    return f"The model names {hits.sum() / other.sum():.1f} times as many hidden words at once as {best}."


def _answers(hidden: HiddenWords, named: Named, order: NDArray[np.int64], tokenizer: Tokenizer) -> tuple[Answer, ...]:
    """Return the first answers in an order, each hidden word once."""
    answers: dict[str, Answer] = {}
    for k in order.tolist():
        word = hidden.words[k]
        text = tokenizer.decode([word.id]).strip()
        if text not in answers:
            before, after = (tokenizer.decode(ids.tolist()).strip() for ids in (word.before, word.after))
            answer = tokenizer.decode([int(named.first[k])]).strip()
            answers[text] = Answer(_tail(before), text, _head(after), answer, float(named.probability[k]))
        if len(answers) == SHOWN:
            break
    return tuple(answers.values())


def _tail(text: str) -> str:
    """Return the end of a text, cut at a space where it has one."""
    if len(text) <= _TEXT:
        return text
    cut = text[-_TEXT:]
    return "… " + (cut.split(" ", 1)[1] if " " in cut else cut)


def _head(text: str) -> str:
    """Return the beginning of a text, cut at a space where it has one."""
    if len(text) <= _TEXT:
        return text
    cut = text[:_TEXT]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut) + " …"


def rows_of(report: Report) -> list[tuple[str, Shares]]:
    """Return what names hidden words, with its shares: from nothing learnt to the model."""
    rows = [("the model before training", report.before)] if report.before else []
    rows += [(FREQUENCY, report.frequency), (WORD_BEFORE, report.word_before), (NEIGHBOURS, report.neighbours)]
    return [*rows, ("the model", report.model)]


def title_of(report: Report) -> str:
    """Return what was measured, in one line."""
    return f"{report.words:,} words hidden, one at a time, in text that the model never read"


def lines_of(report: Report) -> list[str]:
    """Return the report as text: the shares, the verdict, and the surest answers."""
    cells = [[name, f"{shares.first:.1%}", f"{shares.among:.1%}"] for name, shares in rows_of(report)]
    lines = [plain_table(f"{title_of(report)}:", cells, ("named by", "at once", f"among {AMONG}")), report.verdict]
    lines.append(f"Of its {report.sure_words} surest answers {report.sure:.0%} are right.")
    for kind, answers in (("right", report.right), ("wrong", report.wrong)):
        lines += [f"The surest {kind} answers:"] if answers else []
        for answer in answers:
            truth = "" if kind == "right" else f"; the text has «{answer.word}»"
            lines.append(f"  {answer.before} «{answer.answer}» {answer.after} ({answer.probability:.0%}{truth})")
    return lines


def write(report: Report, folder: Path) -> None:
    """Write `hidden_words.json` to a run folder. Raises DiskError."""
    write_file(folder / FILE, json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n")


def read(folder: Path) -> Report | None:
    """Return the report of a run folder; None where it has none, or a damaged one."""
    try:
        return build(Report, read_json(folder / FILE), folder / FILE)
    except UserError:
        return None
