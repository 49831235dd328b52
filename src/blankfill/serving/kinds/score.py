"""Log-probabilities of the tokens of texts, by any objective that can give them.

causal   Each token given those before it (GPT, GLM); a text longer than the model reads is read in windows that overlap
         by half.
masked   Each token given all others, masked in turn (Salazar et al. 2020): a pseudo-log-likelihood.
blank    Each token as the answer to a blank between the others (T5, BART).
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
    """A text to score. ids: int32[N]. columns: of all rows that score it."""

    ids: Int32
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

    def item(self, ids: Int32) -> ScoreItem:
        """Return a text to score."""
        count, room = len(ids), self.scorer.room
        if self.name == "causal":
            columns = sum(stop - begin for begin, _, stop in windows(count, room, max(1, room // 2)))
        else:
            columns = count * min(count, room)
        return ScoreItem(ids, columns)

    def size(self, item: ScoreItem) -> int:
        """Return the number of columns that are read."""
        return item.columns

    def compute(self, items: Sequence[ScoreItem]) -> list[NDArray[np.float64] | Exception]:
        """Return the log-probability of each token of each text, float64[N] each."""
        try:
            rows = [self._examples(item.ids) for item in items]
        except UserError as error:
            return [error] if len(items) == 1 else [result for item in items for result in self.compute([item])]
        scores = iter(answered(self.loaded, [example for own in rows for example, _ in own]))
        results: list[NDArray[np.float64] | Exception] = []
        for item, own in zip(items, rows, strict=True):
            parts = [next(scores).log_probabilities[:count] for _, count in own]
            results.append(np.concatenate(parts) if parts else np.zeros(len(item.ids)))
        return results

    def _examples(self, ids: Int32) -> list[tuple[Example, int]]:
        """Return the rows that score a text, each with the number of its targets that are tokens of the text."""
        scorer, room = self.scorer, self.scorer.room
        if self.name == "causal":
            spans = windows(len(ids), room, max(1, room // 2))
            return [(scorer.window(ids, begin, first, stop), stop - first) for begin, first, stop in spans]
        rows = []
        for begin in range(0, len(ids), room):
            part = ids[begin : begin + room]
            for place in range(len(part)):
                if self.name == "masked":
                    rows.append((scorer.hidden(part, place, [place]), 1))
                else:
                    (example,) = scorer.blank(part[:place], part[place : place + 1], part[place + 1 :])
                    rows.append((example, 1))
        return rows
