"""Beam search over a `Decoder`: the most probable ways to write something that ends by itself.

What may be written, and what counts as the end, is told by a *grammar*: a function of the log-probabilities and of the
number of tokens written, which rules tokens out and gives the log-probability of ending here. For GLM the end is [E];
for GPT it is "the next token begins another word". A hypothesis' probability is the product of its tokens and its end.

Shapes: B contexts, K beams, N = B·K rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blankfill.generate.engine import Decoder

Grammar = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(log-probabilities [N, V], tokens written so far) → (the same with −inf where a token may not follow, the
log-probability of ending here [N], −inf where it may not end)."""


@dataclass(frozen=True)
class Hypothesis:
    """Something written: its ids, the log-probability of all its tokens and its end, and the score it is ranked by."""

    ids: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    beams: int,
    grammar: Grammar,
    max_tokens: int,
    length_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    """The best ended hypotheses of each context, best first, at most `beams` of them.

    max_tokens: the most tokens of a hypothesis, its end not counted. length_penalty: the score is log-probability ÷
    (tokens + 1)^penalty; 0 ranks by probability, 1 by the mean over the tokens and the end. The search stops when no
    open hypothesis can still beat the ones that it has.
    """
    rows = decoder.rows
    scores_NV = decoder.prefill()
    decoder.select(torch.arange(rows).repeat_interleave(beams))
    scores_NV = scores_NV.repeat_interleave(beams, 0)
    open_BK = torch.full((rows, beams), -math.inf, device=scores_NV.device)
    open_BK[:, 0] = 0.0
    written: list[list[tuple[int, ...]]] = [[()] * beams for _ in range(rows)]
    ended: list[list[Hypothesis]] = [[] for _ in range(rows)]
    first_B1 = torch.arange(rows, device=scores_NV.device)[:, None] * beams
    for count in range(max_tokens + 1):
        allowed_NV, end_N = grammar(scores_NV.float().log_softmax(-1), count)
        _collect(ended, written, (open_BK + end_N.view(rows, beams)).tolist(), count, length_penalty, beams)
        if count == max_tokens or decoder.room == 0:
            break
        whole_BKV = open_BK[:, :, None] + allowed_NV.view(rows, beams, -1)
        size = whole_BKV.shape[-1]
        open_BK, best_BK = whole_BKV.flatten(1).topk(beams)
        beam_BK, token_BK = best_BK // size, best_BK % size
        written = [
            [(*written[row][beam], token) for beam, token in zip(from_beams, tokens, strict=True)]
            for row, (from_beams, tokens) in enumerate(zip(beam_BK.tolist(), token_BK.tolist(), strict=True))
        ]
        if _settled(ended, open_BK.tolist(), count + 1, beams, max_tokens, length_penalty):
            break
        decoder.select((first_B1 + beam_BK).flatten())
        scores_NV = decoder.step(token_BK.flatten())
    return ended


def _score(log_probability: float, tokens: int, penalty: float) -> float:
    return log_probability / (tokens + 1) ** penalty


def _collect(
    ended: list[list[Hypothesis]],
    written: list[list[tuple[int, ...]]],
    totals: list[list[float]],
    count: int,
    penalty: float,
    beams: int,
) -> None:
    for row, row_totals in enumerate(totals):
        for beam, total in enumerate(row_totals):
            if total > -math.inf:
                ended[row].append(Hypothesis(written[row][beam], total, _score(total, count, penalty)))
        ended[row].sort(key=lambda hypothesis: -hypothesis.score)
        del ended[row][beams:]


def _settled(
    ended: list[list[Hypothesis]],
    open_: list[list[float]],
    count: int,
    beams: int,
    max_tokens: int,
    penalty: float,
) -> bool:
    """Whether no open hypothesis can enter: its total only falls, and its length will be between count and most."""
    for hypotheses, totals in zip(ended, open_, strict=True):
        hope = max(_score(max(totals), tokens, penalty) for tokens in (count, max_tokens))
        if hope > -math.inf and (len(hypotheses) < beams or hypotheses[-1].score < hope):
            return False
    return True
