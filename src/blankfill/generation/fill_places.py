"""Filling blanks at open places of the text, for models that see the whole text at once (BERT and its like, XLNet).

A blank has one open place for each token of its fill. Of several blanks, the one with the most certain best fill (by
mean log-probability of its tokens) is filled first, and the others are predicted again with the fill in place; a blank
that is not filled yet has its smallest length. Inside a blank a small beam fills the most certain token first. With a
range of lengths, fills are ranked by mean log-probability.

Not here: the columns of an open place (a [MASK], or a query column), which the format lays out.

Shapes: S open places, M of all rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blankfill.data.batching import collate
from blankfill.generation.blanks import Candidate
from blankfill.generation.cancel import check_cancelled

if TYPE_CHECKING:
    from blankfill.generation.fill import BlankedText, Filler

Row = tuple[int, ...]
"""Ids of a text, with the mask at open places."""


def fill_places(filler: Filler, blanked: BlankedText) -> list[list[Candidate]]:
    """Return the candidates of each blank, best first."""
    format = filler.format
    ranges = [lengths or (1, 1) for lengths in blanked.ranges]
    format.check_blanks(blanked.runs, blanked.roles, sum(least for least, _ in ranges))
    most_tokens = format.max_columns - format.specials()
    fills: list[Row | None] = [None] * len(blanked.blanks)
    candidates: list[list[Candidate]] = [[] for _ in blanked.blanks]
    while None in fills:
        reader = PlaceReader(filler)
        best = -1
        for k, fill_k in enumerate(fills):
            if fill_k is not None:
                continue
            candidates[k] = []
            for length in range(ranges[k][0], ranges[k][1] + 1):
                row, places = _row(filler.vocabulary["mask"], blanked, fills, ranges, k, length)
                if len(row) > most_tokens:
                    break
                candidates[k] += _fill_blank(filler, blanked, k, row, places, reader)
            candidates[k].sort(key=lambda candidate: -candidate.score)
            del candidates[k][blanked.top_k :]
            if candidates[k] and (best < 0 or candidates[k][0].score > candidates[best][0].score):
                best = k
        if best < 0:
            break
        fills[best] = candidates[best][0].ids
    return candidates


def _row(
    mask: int,
    blanked: BlankedText,
    fills: Sequence[Row | None],
    ranges: Sequence[tuple[int, int]],
    k: int,
    length: int,
) -> tuple[Row, range]:
    """Build the text with its fills so far and `length` open places in blank k; also returns these places."""
    row = list(blanked.runs[0])
    places = range(0)
    for j, (fill_j, run) in enumerate(zip(fills, blanked.runs[1:], strict=True)):
        if j == k:
            places = range(len(row), len(row) + length)
            row += [mask] * length
        else:
            row += [mask] * ranges[j][0] if fill_j is None else fill_j
        row += run
    return tuple(row), places


def _fill_blank(
    filler: Filler, blanked: BlankedText, k: int, row: Row, places: range, reader: PlaceReader
) -> list[Candidate]:
    beams = blanked.beams if len(places) > 1 else blanked.top_k
    states = {row: 0.0}
    for _ in places:
        check_cancelled(blanked.cancel)
        grown: dict[Row, float] = {}
        for state, scores_by_place in zip(states, reader.read(list(states)), strict=True):
            open_places = [place for place in places if state[place] == reader.mask]
            scores_SV = torch.stack([scores_by_place[place] for place in open_places])
            scores_SV = scores_SV.masked_fill(filler.banned_V, -math.inf)
            first = blanked.first[k]
            if first is not None and open_places[0] == places[0]:
                scores_SV[0].masked_fill_(first, -math.inf)
            surest = int(scores_SV.amax(-1).argmax()) if len(open_places) > 1 else 0
            best = scores_SV[surest].topk(min(beams, scores_SV.shape[-1]))
            at = open_places[surest]
            for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if score > -math.inf:
                    new = (*state[:at], token, *state[at + 1 :])
                    grown[new] = max(grown.get(new, -math.inf), states[state] + score)
        states = dict(sorted(grown.items(), key=lambda item: -item[1])[:beams])
    return [
        filler.candidate(blanked, k, state[places[0] : places[-1] + 1], math.exp(total), total / len(places))
        for state, total in states.items()
    ]


class PlaceReader:
    """Computes the scores of the open places of rows; a row is computed only once."""

    def __init__(self, filler: Filler) -> None:
        self.filler, self.mask = filler, filler.vocabulary["mask"]
        self._known: dict[Row, dict[int, Tensor]] = {}

    def read(self, rows: list[Row]) -> list[dict[int, Tensor]]:
        """Return, for each row (all of one length), the log-probabilities [V] of its open places."""
        alike: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            if row not in self._known:
                alike.setdefault(tuple(k for k, token in enumerate(row) if token == self.mask), []).append(row)
        if alike:
            self._read(alike)
        return [self._known[row] for row in rows]

    def _read(self, alike: dict[tuple[int, ...], list[Row]]) -> None:
        """Compute rows, grouped by their open places."""
        model = self.filler.model
        open_places = self.filler.format.open_places
        examples = [
            example for places, rows in alike.items() for example in open_places(np.array(rows, np.int32), places)
        ]
        batch = collate([[example] for example in examples], self.mask, multiple=1).to(self.filler.device)
        logits = model(batch, model.dtype, logits_at=batch.target_index).logits
        assert isinstance(logits, Tensor)
        scores_MV = logits.float().log_softmax(-1)
        scores = iter(scores_MV)
        for places, rows in alike.items():
            for row in rows:
                self._known[row] = {place: next(scores) for place in places}
