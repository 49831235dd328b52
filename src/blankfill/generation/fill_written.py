"""Filling blanks by generation from left to right with beam search.

*Generation* (GLM, T5): blanks are filled one after the other until an end token, each with the best fills of the blanks
before it in view; the model chooses the lengths. The probability of a fill is the product of its tokens and its end.

*Ranking* (GPT, BART): the model generates the row with the text itself, so it proposes a fill before it reads the text
after the blank. GPT proposes words from the text to the left; BART has read the text with its blanks, and a fill ends
where the known text may follow. Proposals are ranked by the likelihood of the fill and the known text up to the next
blank; the shares of these likelihoods among the proposals are the probabilities of the fills.

Shapes: N rows, T columns, M columns with answers, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blankfill.attention.masks import Mask
from blankfill.errors import UserError
from blankfill.generation.beam import Grammar, beam_search
from blankfill.generation.blanks import Candidate
from blankfill.generation.engine import Decoder, read_sources
from blankfill.model.cross import EncoderOutput
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.generation.fill import BlankedText, Filler

LONGEST_WORD = 8
"""Largest number of tokens of a word that GPT proposes."""
LONGEST_FILL = {"mask": 40, "smask": 128, "gmask": 256}
"""Largest number of tokens that GLM, T5 and BART generate in a blank; at token level, GLM's training has at most 39."""
SCORED_AT_ONCE = 256
"""Number of columns whose scores over the vocabulary are in memory at a time."""


def fill_by_writing(filler: Filler, blanked: BlankedText) -> list[list[Candidate]]:
    """Return the candidates of each blank, best first; blanks are filled one after the other."""
    format, runs, roles = filler.format, blanked.runs, blanked.roles
    format.check_blanks(runs, roles)
    reading = read_sources(filler.model, [format.blank_input(runs, roles, ())])
    written: list[tuple[int, ...]] = []
    candidates = []
    for k, blank in enumerate(blanked.blanks):
        context = format.blank_input(runs, roles, written)
        least, most = blanked.ranges[k] or (1, LONGEST_FILL[blank.role])
        if least > context.room:
            raise UserError(f"{blank.written} has {least} tokens, and the model generates at most {context.room}")
        most = min(most, context.room)
        grammar = ending_with(filler, format.blank_end_ids(runs, roles, k), blanked.first[k], least)
        decoder = Decoder(filler.model, [context], most, filler.vocabulary["pad"], reading)
        (hypotheses,) = beam_search(
            decoder, blanked.beams, grammar, most, blanked.length_penalty, cancel=blanked.cancel
        )
        fills = distinct(
            [filler.candidate(blanked, k, h.ids, math.exp(h.log_probability), h.score) for h in hypotheses]
        )[: blanked.top_k]  # fmt: skip
        candidates.append(fills)
        if not fills:
            break
        written.append(fills[0].ids)
    return candidates + [[] for _ in blanked.blanks[len(candidates) :]]


def fill_by_ranking(filler: Filler, blanked: BlankedText) -> list[list[Candidate]]:
    """Return the candidates of each blank, best first: proposals of a beam search, ranked with the known text after
    them."""
    format, runs, roles = filler.format, blanked.runs, blanked.roles
    longest = LONGEST_WORD if format.sees == "left" else LONGEST_FILL["mask"]
    ranges = [lengths or (1, longest) for lengths in blanked.ranges]
    least_of = [least for least, _ in ranges]
    format.check_blanks(runs, roles, sum(least_of))
    begin = format.blank_input(runs, roles, ())
    reading = read_sources(filler.model, [begin])
    rights = [format.following(runs, k) for k in range(len(blanked.blanks))]
    spare = begin.room - sum(map(len, rights))
    written: list[tuple[int, ...]] = []
    candidates: list[list[Candidate]] = []
    for k, right in enumerate(rights):
        most = min(ranges[k][1], spare - sum(least_of[k + 1 :]))
        context = format.blank_input(runs, roles, written)
        decoder = Decoder(filler.model, [context], most, reading=reading)
        if ends := format.blank_end_ids(runs, roles, k):
            grammar = ending_with(filler, ends, blanked.first[k], least_of[k])
        else:
            grammar = ending_at_a_word(filler, blanked.first[k], least_of[k], whole_word=blanked.ranges[k] is None)
        (hypotheses,) = beam_search(decoder, max(16, 4 * blanked.top_k), grammar, most, cancel=blanked.cancel)
        totals = [hypothesis.log_probability for hypothesis in hypotheses]
        if right and hypotheses:
            totals = likelihoods(filler, context, [(*hypothesis.ids, *right) for hypothesis in hypotheses], reading)
        whole = np.logaddexp.reduce(totals) if totals else 0.0
        fills = [
            filler.candidate(blanked, k, hypothesis.ids, math.exp(total - whole), total)
            for hypothesis, total in zip(hypotheses, totals, strict=True)
        ]
        fills = distinct(sorted(fills, key=lambda candidate: -candidate.score))[: blanked.top_k]
        candidates.append(fills)
        if not fills:
            break
        written.append(fills[0].ids)
        spare -= len(fills[0].ids)
    return candidates + [[] for _ in blanked.blanks[len(candidates) :]]


def ending_with(filler: Filler, ends: Sequence[int], first: Tensor | None, least: int) -> Grammar:
    """Return the grammar of fills of at least `least` tokens that end with one of the ids `ends`."""

    def grammar(scores_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
        end_N = scores_NV[:, sorted(set(ends))].logsumexp(-1)
        if count < least:
            end_N = torch.full_like(end_N, -math.inf)
        allowed_NV = scores_NV.masked_fill(filler.banned_V, -math.inf)
        if count == 0 and first is not None:
            allowed_NV = allowed_NV.masked_fill(first, -math.inf)
        return allowed_NV, end_N

    return grammar


def ending_at_a_word(filler: Filler, first: Tensor | None, least: int, whole_word: bool) -> Grammar:
    """Return the grammar of fills of at least `least` tokens that end before any token that begins a word.

    whole_word: whether only the first token begins a word.
    """
    begins_V = torch.from_numpy(filler.words.begins).to(filler.device).clone()
    begins_V[filler.vocabulary.size :] = False
    begins_V[filler.format.ids_of("eos")] = True

    def grammar(scores_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
        end_N = scores_NV.masked_fill(~begins_V, -math.inf).logsumexp(-1)
        if count < least:
            end_N = torch.full_like(end_N, -math.inf)
        allowed_NV = scores_NV.masked_fill(filler.banned_V, -math.inf)
        if count == 0 and first is not None:
            allowed_NV = allowed_NV.masked_fill(first, -math.inf)
        if count > 0 and whole_word:
            allowed_NV = allowed_NV.masked_fill(begins_V, -math.inf)
        return allowed_NV, end_N

    return grammar


def likelihoods(
    filler: Filler, context: DecoderInput, endings: Sequence[tuple[int, ...]], reading: EncoderOutput | None
) -> list[float]:
    """Return the log-probability of each ending after a row that is read from left to right."""
    left = context.input_ids.tolist()
    width = len(left) + max(map(len, endings)) - 1
    ids_NT = torch.zeros((len(endings), width), dtype=torch.int64)
    rows: list[int] = []
    columns: list[int] = []
    answers: list[int] = []
    for row, ending in enumerate(endings):
        whole = [*left, *ending]
        ids_NT[row, : len(whole) - 1] = torch.tensor(whole[:-1])
        rows += [row] * len(ending)
        columns += range(len(left) - 1, len(whole) - 1)
        answers += ending
    ids_NT = ids_NT.to(filler.device)
    first = int(context.positions[0, 0])
    positions = torch.arange(first, first + width, device=filler.device).expand(1, len(endings), width)
    at_M = torch.tensor(rows, device=filler.device) * width + torch.tensor(columns, device=filler.device)
    target_M1 = torch.tensor(answers, device=filler.device)[:, None]
    totals = np.zeros(len(endings))

    def add(model: Transformer, hidden_ND: Tensor) -> None:
        hidden_MD = hidden_ND[at_M]
        for first_of in range(0, len(answers), SCORED_AT_ONCE):
            part = slice(first_of, first_of + SCORED_AT_ONCE)
            scores_MV = model.lm_head(hidden_MD[part], model.output_table).float().log_softmax(-1)
            np.add.at(totals, rows[part], scores_MV.gather(1, target_M1[part])[:, 0].double().cpu().numpy())

    dtype = filler.model.dtype
    filler.model(Inputs(ids_NT, positions, Mask("causal")), dtype, encoded=reading, read=add)
    return [float(total) for total in totals]


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates without later ones of the same text."""
    by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        by_text.setdefault(candidate.text, candidate)
    return list(by_text.values())
