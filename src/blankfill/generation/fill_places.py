"""Filling blanks at open places of the text, for models that see the whole text at once (BERT and its like, XLNet).

A blank has one open place for each token of its fill. Of several blanks, the one with the most certain best fill (by
mean log-probability of its tokens) is filled first, and the others are predicted again with the fill in place; a blank
that is not filled yet has its smallest length. Inside a blank a small beam fills the most certain token first. With a
range of lengths, fills are ranked by mean log-probability.

Many texts are filled together: each is a generator that yields the rows whose open places it needs, and the rows of all
texts are read in shared batches. A text alone and a text among others take the same steps.

Not here: the columns of an open place (a [MASK], or a query column), which the format lays out.

Shapes: S open places, M of all rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blankfill.data.batching import collate, collate_texts
from blankfill.data.packing import packed_batches, padded_batches
from blankfill.errors import UserError
from blankfill.generation.blanks import Candidate
from blankfill.generation.cancel import CancelledError, check_cancelled

if TYPE_CHECKING:
    from blankfill.generation.fill import BlankedText, Filler

Row = tuple[int, ...]
"""Ids of a text, with the mask at open places."""


Scores = Mapping[int, Tensor]
"""The log-probabilities [V] of each open place of a row."""
Reading = Generator[list[Row], Mapping[Row, Scores], list[list[Candidate]]]
"""The filling of one text: it yields the rows to read, receives their scores, and returns the candidates of each
blank, best first."""


def fill_places(filler: Filler, blanked: Sequence[BlankedText]) -> list[list[list[Candidate]] | Exception]:
    """Return the candidates of each blank of each text, best first; a text's error stands in its place."""
    readings = [_filling(filler, text) for text in blanked]
    done: dict[int, list[list[Candidate]] | Exception] = {}
    scores: dict[int, Mapping[Row, Scores] | None] = dict.fromkeys(range(len(readings)))
    while scores:
        wanted: dict[int, list[Row]] = {}
        for number, scored in scores.items():
            try:
                wanted[number] = next(readings[number]) if scored is None else readings[number].send(scored)
            except StopIteration as end:
                done[number] = end.value
            except (UserError, CancelledError) as error:
                done[number] = error
        known = read_places(filler, {row for rows in wanted.values() for row in rows}) if wanted else {}
        scores = dict.fromkeys(wanted, known)
    return [done[number] for number in range(len(readings))]


def _filling(filler: Filler, blanked: BlankedText) -> Reading:
    """Fill the blanks of one text."""
    format = filler.format
    ranges = [lengths or (1, 1) for lengths in blanked.ranges]
    format.check_blanks(blanked.runs, blanked.roles, sum(least for least, _ in ranges))
    most_tokens = format.max_columns - format.specials()
    fills: list[Row | None] = [None] * len(blanked.blanks)
    candidates: list[list[Candidate]] = [[] for _ in blanked.blanks]
    while None in fills:
        known: dict[Row, Scores] = {}
        best = -1
        for k, fill_k in enumerate(fills):
            if fill_k is not None:
                continue
            candidates[k] = []
            for length in range(ranges[k][0], ranges[k][1] + 1):
                row, places = _row(filler.vocabulary["mask"], blanked, fills, ranges, k, length)
                if len(row) > most_tokens:
                    break
                candidates[k] += yield from _fill_blank(filler, blanked, k, row, places, known)
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
    filler: Filler, blanked: BlankedText, k: int, row: Row, places: range, known: dict[Row, Scores]
) -> Generator[list[Row], Mapping[Row, Scores], list[Candidate]]:
    """Fill one blank with one length. known: the scores of rows that were read before, to which those of `row` are
    added; rows of later steps occur once."""
    beams = blanked.beams if len(places) > 1 else blanked.top_k
    mask = filler.vocabulary["mask"]
    states = {row: 0.0}
    for step in range(len(places)):
        check_cancelled(blanked.cancel)
        unread = [state for state in states if state not in known]
        read: Mapping[Row, Scores] = (yield unread) if unread else {}
        if unread and step == 0:
            known[row] = read[row]
        grown: dict[Row, float] = {}
        for state in states:
            scores_by_place = known[state] if state in known else read[state]
            open_places = [place for place in places if state[place] == mask]
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


def read_places(filler: Filler, rows: Iterable[Row]) -> dict[Row, Scores]:
    """Return the log-probabilities of the open places of rows; rows of similar length share a batch."""
    mask = filler.vocabulary["mask"]
    alike: dict[tuple[int, tuple[int, ...]], list[Row]] = {}
    for row in rows:
        places = tuple(k for k, token in enumerate(row) if token == mask)
        alike.setdefault((len(row), places), []).append(row)
    ordered = [(row, places) for (_, places), group in alike.items() for row in group]
    examples = [
        example
        for (_, places), group in alike.items()
        for example in filler.format.open_places(np.array(group, np.int32), places)
    ]
    known: dict[Row, Scores] = {}
    model = filler.model
    lengths = np.array([len(example) for example in examples], np.int64)
    flat = filler.device.type == "cpu" and len(set(lengths.tolist())) > 1 and model.reads_texts(int(lengths.max()))
    for chosen in (packed_batches if flat else padded_batches)(lengths):
        picked = [examples[k] for k in chosen]
        batch = collate_texts(picked, mask) if flat else collate([[row] for row in picked], mask, multiple=1)
        batch = batch.to(filler.device)
        logits = model(batch, model.dtype, logits_at=batch.target_index).logits
        assert isinstance(logits, Tensor)
        scores = iter(logits.float().log_softmax(-1))
        for row, places in (ordered[k] for k in chosen):
            known[row] = {place: next(scores) for place in places}
    return known
