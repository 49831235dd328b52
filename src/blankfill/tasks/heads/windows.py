"""Questions over long contexts: overlapping windows of tokens, and answers from the scores of their tokens.

As BERT does SQuAD (arXiv 1810.04805, section 4.2 and its run_squad.py): each window is read with the question; a span
i…j scores S·T_i + E·T_j; a token that is in several windows may begin an answer only in the window with most
context on both sides of it; the score of no answer is the start and end score of the first column ([CLS]).

A window has the places of its tokens in the text, so an answer is a slice of the text and needs no detokenising.
The columns around question and context (such as [CLS] and [SEP]) are the caller's; all places here count from the
context's first token in the window.

Shapes: T tokens of a window's context, W windows of a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.tasks.items import QuestionItem

Float = NDArray[np.float32] | NDArray[np.float64]
Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class WindowOptions:
    """length: columns of a row, those around question and context (`extra`) included. stride: how many tokens further
    each window begins. max_query_length: tokens after which a question is cut."""

    length: int = 384
    stride: int = 128
    max_query_length: int = 64
    extra: int = 3


@dataclass(frozen=True)
class Window:
    """One question with one window of its context.

    item: the question's place in its split. question, context: ids. places[T, 2]: where the context's tokens lie in the
    text, in characters. central[T]: whether this is the window in which the token has most context. start, end: the
    answer's first and last token, -1 and -1 when it is not in this window or there is none; None when the data do not
    give it (nothing can be learnt then).
    """

    item: int
    question: Int32
    context: Int32
    places: Int32
    central: NDArray[np.bool_]
    start: int | None
    end: int | None


@dataclass(frozen=True)
class Spans:
    """The best answers to one question, best first, without repeated texts. null: the score of no answer. places: the
    half-open range of characters of each in the context."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    null: float
    places: tuple[tuple[int, int], ...] = ()

    @property
    def null_odds(self) -> float:
        """Score of no answer minus the score of the best answer."""
        return self.null - self.scores[0]

    def answer(self, threshold: float | None = None) -> str:
        """Return the best text; with a threshold, "" when no answer scores better by more than it."""
        return "" if threshold is not None and self.null_odds > threshold else self.texts[0]


def all_windows(
    items: Sequence[QuestionItem], tokenizer: Tokenizer, options: WindowOptions | None = None
) -> Iterator[Window]:
    """Yield the windows of all questions, in order; a context that several questions share is tokenised once.

    Raises UserError when the length leaves no room, and for a context that has no tokens.
    """
    options = options or WindowOptions()
    room = options.length - options.extra - options.max_query_length
    if room < 1 or options.stride < 1:
        raise UserError(
            f"Windows of {options.length} columns with questions of {options.max_query_length} leave no room for the "
            f"context: make the windows longer, the questions shorter, and the stride at least 1."
        )
    known, ids, places = None, np.zeros(0, np.int32), np.zeros((0, 2), np.int32)
    for number, item in enumerate(items):
        if item.context != known:
            known = item.context
            ids, places = tokenizer.encode_places(item.context)
        if not len(ids):
            raise UserError(f"The context of question {item.id} has no tokens: leave the question out.")
        question = tokenizer.encode_places(item.question)[0][: options.max_query_length]
        yield from _cut(number, item, question, ids, places, options)


def _cut(
    number: int, item: QuestionItem, question: Int32, ids: Int32, places: Int32, options: WindowOptions
) -> Iterator[Window]:
    room = options.length - options.extra - len(question)
    starts = [0]
    while starts[-1] + room < len(ids):
        starts.append(starts[-1] + min(room, options.stride))
    ends = [min(start + room, len(ids)) for start in starts]
    home = _home(starts, ends, len(ids))
    span = answer_span(item, places)
    for window, (start, end) in enumerate(zip(starts, ends, strict=True)):
        first, last = (None, None) if span is None else (-1, -1)
        if span is not None and start <= span[0] and span[1] < end:
            first, last = span[0] - start, span[1] - start
        central = home[start:end] == window
        yield Window(number, question, ids[start:end], places[start:end], central, first, last)


def _home(starts: Sequence[int], ends: Sequence[int], tokens: int) -> NDArray[np.int64]:
    """Return for each token the window in which it has most context, by its shorter side, then by the window's
    length."""
    best, home = np.full(tokens, -1.0), np.zeros(tokens, np.int64)
    for window, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = np.arange(end - start)
        context = np.minimum(inside, inside[::-1]) + 0.01 * (end - start)
        better = context > best[start:end]
        best[start:end][better], home[start:end][better] = context[better], window
    return home


def answer_span(item: QuestionItem, places: Int32) -> tuple[int, int] | None:
    """Return the first and last token of the first answer that has a place; (-1, -1) for a question without an answer,
    None if the data have no answer. A token that is partly in the answer belongs to it."""
    if item.impossible:
        return -1, -1
    for answer in item.answers:
        if answer.start is None:
            continue
        end = answer.start + len(answer.text)
        touched = np.flatnonzero((places[:, 1] > answer.start) & (places[:, 0] < end) & (places[:, 0] < places[:, 1]))
        if len(touched):
            return int(touched[0]), int(touched[-1])
    return None


def best_spans(
    item: QuestionItem,
    windows: Sequence[Window],
    start_scores: Sequence[Float],
    end_scores: Sequence[Float],
    null_scores: Sequence[float],
    best: int = 20,
    longest: int = 30,
) -> Spans:
    """The best answers to a question.

    windows: all of the question's, W. start_scores, end_scores: for each window, of the T tokens of its context.
    null_scores: for each window, the start and end score of its first column together; the least counts, since one
    window that holds an answer is enough. best: how many answers. longest: an answer's tokens at most. Raises
    UserError for scores that are not finite.
    """
    if not np.isfinite(null_scores).all():
        raise UserError(f"The scores of question {item.id} are not numbers: the model has diverged.")
    spans: list[tuple[float, int, int, int]] = []
    for number, (window, start_T, end_T) in enumerate(zip(windows, start_scores, end_scores, strict=True)):
        if not (np.isfinite(start_T).all() and np.isfinite(end_T).all()):
            raise UserError(f"The scores of question {item.id} are not numbers: the model has diverged.")
        spans += [
            (score, number, first, last) for score, first, last in _best_of(window, start_T, end_T, best, longest)
        ]
    texts: dict[str, tuple[float, tuple[int, int]]] = {}
    for score, number, first, last in sorted(spans, key=lambda span: -span[0]):
        place = _place(windows[number], first, last)
        if len(texts) < best:
            texts.setdefault(item.context[slice(*place)], (score, place))
    scores, spots = tuple(score for score, _ in texts.values()), tuple(place for _, place in texts.values())
    return Spans(tuple(texts), scores, float(min(null_scores)), spots)


def _place(window: Window, first: int, last: int) -> tuple[int, int]:
    """Return the range of characters from the first token of a span to its last."""
    return int(window.places[first, 0]), int(window.places[last, 1])


def n_best_spans(
    item: QuestionItem, windows: Sequence[Window], scores: Sequence[Float], best: int = 20, longest: int = 30
) -> Spans:
    """Return the best answers to a question as transformers' run_qa searches them (postprocess_qa_predictions).

    Of each window the `best` starts and the `best` ends of all columns are paired, whether the column can be part of an
    answer or not; pairs outside the context, in the wrong order or longer than `longest` are left out. Any window may
    give an answer at a token that several windows have. Without any pair the answer is "", with a score of 0.

    windows: all of the question's. scores: for each window the start and the end score of its columns, [K, 2]: of no
    answer, of the T tokens of its context, and of its other columns. Raises UserError for scores that are not finite.
    """
    texts: dict[str, tuple[float, tuple[int, int]]] = {}
    spans: list[tuple[float, int, int, int]] = []
    for number, (window, scores_KC) in enumerate(zip(windows, scores, strict=True)):
        if not np.isfinite(scores_KC).all():
            raise UserError(f"The scores of question {item.id} are not numbers: the model has diverged.")
        start, end = (np.argsort(-scores_KC[:, side], kind="stable")[:best] - 1 for side in (0, 1))
        first_P, last_P = np.repeat(start, len(end)), np.tile(end, len(start))
        inside_P = (first_P >= 0) & (last_P < len(window.context)) & (first_P <= last_P) & (last_P < first_P + longest)
        for first, last in zip(first_P[inside_P].tolist(), last_P[inside_P].tolist(), strict=True):
            spans.append((float(scores_KC[1 + first, 0]) + float(scores_KC[1 + last, 1]), number, first, last))
    for score, number, first, last in sorted(spans, key=lambda span: -span[0])[:best]:
        place = _place(windows[number], first, last)
        texts.setdefault(item.context[slice(*place)], (score, place))
    null = min(float(scores_KC[0].sum()) for scores_KC in scores)
    texts = texts or {"": (0.0, (0, 0))}
    values, spots = tuple(score for score, _ in texts.values()), tuple(place for _, place in texts.values())
    return Spans(tuple(texts), values, null, spots)


def _best_of(window: Window, start_T: Float, end_T: Float, best: int, longest: int) -> list[tuple[float, int, int]]:
    """Return (score, first, last) of the best spans of a window."""
    tokens = len(window.context)
    if len(start_T) != tokens or len(end_T) != tokens:
        raise ValueError(f"{len(start_T)} and {len(end_T)} scores for {tokens} tokens")
    start = np.where(window.central, start_T, -np.inf).astype(np.float64)
    longest = min(longest, tokens)
    table = np.full((longest, tokens), -np.inf)
    for more in range(longest):
        table[more, : tokens - more] = start[: tokens - more] + end_T[more:]
    flat = table.ravel()
    count = min(best, flat.size)
    chosen = np.argpartition(-flat, count - 1)[:count]
    chosen = chosen[np.isfinite(flat[chosen])]
    more, first = np.divmod(chosen, tokens)
    return [(float(flat[c]), int(f), int(f + m)) for c, f, m in zip(chosen, first, more, strict=True)]
