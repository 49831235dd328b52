"""Log-probabilities of the tokens of texts, by any objective that can give them.

causal   Each token given those before it (GPT, GLM); a text longer than the model reads is read in windows that overlap
         by half.
masked   Each token given all others, masked in turn (Salazar et al. 2020): a pseudo-log-likelihood.
blank    Each token as the answer to a blank between the others (T5, BART).

A text has many rows, so that it is scored in several jobs, between which others get their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.evaluation.answers import answered
from blankfill.evaluation.scorers import Scorer, windows
from blankfill.types import Example, Int32

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

ScoreKindName = Literal["causal", "masked", "blank"]


@dataclass(frozen=True)
class ScoreItem:
    """Some of the rows that score a text. ids: int32[N] of the text. first, stop: the rows. columns: of all of them."""

    ids: Int32
    first: int
    stop: int
    columns: int


class ScoreKind:
    """Scores the tokens of texts."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.scorer = Scorer(loaded, both_ways=False)

    @cached_property
    def name(self) -> ScoreKindName:
        """What a token is given."""
        if self.scorer.format.reads_windows:
            return "causal"
        return "masked" if self.scorer.hides_tokens else "blank"

    def items(self, ids: Int32, at_once: int) -> list[ScoreItem]:
        """Return the rows that score a text, in order, as items of about `at_once` columns or one row each."""
        count, room = len(ids), self.scorer.room
        if self.name == "causal":
            widths = [stop - begin for begin, _, stop in self._windows(count)]
        else:
            widths = [min(room, count - place // room * room) for place in range(count)]
        items: list[ScoreItem] = []
        first = columns = 0
        for row, width in enumerate(widths):
            if columns and columns + width > at_once:
                items.append(ScoreItem(ids, first, row, columns))
                first, columns = row, 0
            columns += width
        return [*items, ScoreItem(ids, first, len(widths), columns)]

    def _windows(self, count: int) -> list[tuple[int, int, int]]:
        return list(windows(count, self.scorer.room, max(1, self.scorer.room // 2)))

    def size(self, item: ScoreItem) -> int:
        """Return the number of columns that are read."""
        return item.columns

    def compute(self, items: Sequence[ScoreItem]) -> list[NDArray[np.float64] | Exception]:
        """Return the log-probability of each token that the rows of an item score, float64[N] each."""
        try:
            rows = [self._examples(item) for item in items]
        except UserError as error:
            return [error] if len(items) == 1 else [result for item in items for result in self.compute([item])]
        scores = iter(answered(self.loaded, [example for own in rows for example, _ in own]))
        return [np.concatenate([next(scores).log_probabilities[:count] for _, count in own]) for own in rows]

    def _examples(self, item: ScoreItem) -> list[tuple[Example, int]]:
        """Return the rows of an item, each with the number of its targets that are tokens of the text."""
        scorer, ids, room = self.scorer, item.ids, self.scorer.room
        if self.name == "causal":
            spans = self._windows(len(ids))[item.first : item.stop]
            return [(scorer.window(ids, begin, first, stop), stop - first) for begin, first, stop in spans]
        rows = []
        for number in range(item.first, item.stop):
            begin, place = number // room * room, number % room
            part = ids[begin : begin + room]
            if self.name == "masked":
                rows.append((scorer.hidden(part, place, [place]), 1))
            else:
                (example,) = scorer.blank(part[:place], part[place : place + 1], part[place + 1 :])
                rows.append((example, 1))
        return rows
