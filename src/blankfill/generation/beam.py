"""Beam search over a `Decoder`: the most probable texts that end by themselves.

A *grammar* says which tokens may follow and what counts as the end: it is a function of the log-probabilities and of
the number of generated tokens that rules out tokens and returns the log-probability of ending. For GLM the end is [E];
for GPT it is "the next token begins another word". The probability of a hypothesis is the product of those of its
tokens and of its end.

A context whose search is finished leaves the batch.

Shapes: B contexts, K beams, N = B·K rows, V vocabulary; A contexts whose search continues.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blankfill.generation.cancel import CancelFlag, check_cancelled
from blankfill.generation.engine import Decoder
from blankfill.generation.sampling import forbid_ngrams
from blankfill.generation.slots import Slots
from blankfill.model.transformer import Transformer
from blankfill.types import DecoderInput

Grammar = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(log-probabilities [N, V], number of generated tokens) → (the same with −inf for tokens that may not follow, the
log-probability of ending [N], −inf where a row may not end)."""


READ_TOGETHER = 8
"""A greedy search reads waiting rows when one in this number of its slots is free."""
BLOCK = 64
"""Vocabulary columns of a block in the search for the highest scores."""


@dataclass(frozen=True)
class Hypothesis:
    """A generated text: its ids, the log-probability of its tokens and end, and the score by which it is ranked."""

    ids: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    beams: int,
    grammar: Grammar,
    max_new_tokens: int,
    length_penalty: float = 0.0,
    no_repeat_ngram: int = 0,
    thorough: bool = True,
    cancel: CancelFlag | None = None,
) -> list[list[Hypothesis]]:
    """Search for the best finished hypotheses of each context, best first, at most `beams` of them.

    max_new_tokens: largest number of tokens of a hypothesis, without its end. length_penalty: the score is
    log-probability ÷ (tokens + 1)^penalty; 0 ranks by probability, 1 by the mean over the tokens and the end.
    no_repeat_ngram: length of n-grams that may not occur twice in a hypothesis; 0 is no limit. The search of a context
    stops when no open hypothesis can beat its finished ones. thorough False searches as transformers does by default: a
    hypothesis ends only where its end is among the `beams` best continuations, so that none ends early for a better
    mean (with 1 beam the search is greedy: it stops where the end is the best continuation); and open hypotheses are
    scored as if their last token were their end, so that a search with a penalty above 0 stops before
    max_new_tokens. cancel: a flag that is checked before each step; once it is set, CancelledError is raised.
    """
    check_cancelled(cancel)
    if beams == 1 and not thorough:
        return _greedy(decoder, grammar, max_new_tokens, length_penalty, no_repeat_ngram, cancel)
    rows = decoder.rows
    scores_NV = decoder.prefill()
    decoder.select(torch.arange(rows).repeat_interleave(beams))
    scores_NV = scores_NV.repeat_interleave(beams, 0)
    open_AK = torch.full((rows, beams), -math.inf, device=scores_NV.device)
    open_AK[:, 0] = 0.0
    written: list[list[tuple[int, ...]]] = [[()] * beams for _ in range(rows)]
    finished: list[list[Hypothesis]] = [[] for _ in range(rows)]
    ended = list(finished)

    def lengths(count: int) -> tuple[int, ...]:
        """Return the numbers of tokens with which open hypotheses may end, when token number `count` is next."""
        return (count + 1, max_new_tokens) if thorough else (count,)

    for count in range(max_new_tokens + 1):
        allowed_NV, end_N = grammar(scores_NV.float().log_softmax(-1), count)
        end_AK = open_AK + end_N.view(open_AK.shape)
        if count == max_new_tokens or decoder.room == 0:
            _collect(ended, written, end_AK.tolist(), count, length_penalty, beams)
            break
        if no_repeat_ngram:
            histories = [ids for hypotheses in written for ids in hypotheses]
            allowed_NV = forbid_ngrams(allowed_NV, histories, no_repeat_ngram)
        best_NK, tokens_NK = highest(allowed_NV, beams)
        totals_AKK = open_AK[:, :, None] + best_NK.view(*open_AK.shape, -1)
        open_AK, best_AK = totals_AKK.flatten(1).topk(beams)
        if not thorough:
            least_A = torch.cat([open_AK, end_AK], 1).topk(beams).values[:, -1]
            end_AK = end_AK.masked_fill(end_AK < least_A[:, None], -math.inf)
        _collect(ended, written, end_AK.tolist(), count, length_penalty, beams)
        from_AK = (best_AK // totals_AKK.shape[-1]).tolist()
        token_AK = tokens_NK.view(len(open_AK), -1).gather(1, best_AK)
        written = [
            [(*written[row][beam], token) for beam, token in zip(from_beams, tokens, strict=True)]
            for row, (from_beams, tokens) in enumerate(zip(from_AK, token_AK.tolist(), strict=True))
        ]
        going = [
            row
            for row, totals in enumerate(open_AK.tolist())
            if not _settled(ended[row], max(totals), lengths(count), beams, length_penalty)
        ]
        if not going:
            break
        ended, written = [ended[row] for row in going], [written[row] for row in going]
        if len(going) < len(open_AK):
            going_K = torch.tensor(going, device=open_AK.device)
            open_AK, token_AK = open_AK[going_K], token_AK[going_K]
        picked = [row * beams + beam for row in going for beam in from_AK[row]]
        if picked != list(range(decoder.rows)):
            decoder.select(torch.tensor(picked))
        check_cancelled(cancel)
        scores_NV = decoder.step(token_AK.flatten())
    return finished


def _greedy(
    decoder: Decoder,
    grammar: Grammar,
    max_new_tokens: int,
    penalty: float,
    no_repeat_ngram: int,
    cancel: CancelFlag | None,
) -> list[list[Hypothesis]]:
    """Take the likeliest token in each step until the end is as likely: a search with one beam that is not thorough."""
    scores_NV = decoder.prefill()
    rows = [_GreedyRow() for _ in range(decoder.rows)]
    running = rows
    for count in range(max_new_tokens + 1):
        ruled = grammar(scores_NV.float().log_softmax(-1), count)
        full = count == max_new_tokens or decoder.room == 0
        tokens = _advance(running, *ruled, [full] * len(running), penalty, no_repeat_ngram)
        open_rows = [k for k, token in enumerate(tokens) if token is not None]
        if not open_rows:
            break
        if len(open_rows) < len(running):
            decoder.select(torch.tensor(open_rows))
            running = [running[k] for k in open_rows]
        check_cancelled(cancel)
        scores_NV = decoder.step(torch.tensor([tokens[k] for k in open_rows], device=decoder.device))
    return [row.hypotheses for row in rows]


@torch.inference_mode()
def greedy_search(
    model: Transformer,
    decoder_inputs: Sequence[DecoderInput],
    grammar: Grammar,
    max_new_tokens: int,
    slots: int,
    length_penalty: float = 0.0,
    no_repeat_ngram: int = 0,
    pad: int = 0,
    settled: int | None = None,
    cancel: CancelFlag | None = None,
) -> list[list[Hypothesis]]:
    """Run `beam_search` with one beam, not thorough, for any number of rows: new rows take the slots of finished ones.

    slots: largest number of rows at a time. pad: id of padding. settled: number of tokens from which the grammar no
    longer depends on the number; None when it always does. See `beam_search` for the other arguments. The search of a
    row stops at the last position of that row.
    """
    longest = max(len(decoder_input) + min(max_new_tokens, decoder_input.room) for decoder_input in decoder_inputs) + 1
    decoder = Slots(model, min(slots, len(decoder_inputs)), pad, longest)
    rows = [_GreedyRow(min(max_new_tokens, decoder_input.room)) for decoder_input in decoder_inputs]
    waiting, running, ids = deque(range(len(rows))), list[_GreedyRow](), list[int]()
    while waiting or running:
        check_cancelled(cancel)
        scores = [decoder.step(torch.tensor(ids, device=decoder.device))] if running else []
        # a few rows are read together, since reading one row alone costs more
        if waiting and decoder.free >= min(len(waiting), max(1, decoder.slots // READ_TOGETHER)):
            joining = [waiting.popleft() for _ in range(min(decoder.free, len(waiting)))]
            scores.append(decoder.join([decoder_inputs[k] for k in joining]))
            running += [rows[k] for k in joining]
        scores_NV = (scores[0] if len(scores) == 1 else torch.cat(scores)).float().log_softmax(-1)
        ruled = _ruled(grammar, scores_NV, [len(row.written) for row in running], settled)
        full = [len(row.written) == row.limit for row in running]
        tokens = _advance(running, *ruled, full, length_penalty, no_repeat_ngram)
        for k in reversed(range(len(tokens))):
            if tokens[k] is None:
                decoder.leave(k)
                running[k], tokens[k] = running[-1], tokens[-1]
                del running[-1], tokens[-1]
        ids = [token for token in tokens if token is not None]
    return [row.hypotheses for row in rows]


def _ruled(grammar: Grammar, scores_NV: Tensor, counts: Sequence[int], settled: int | None) -> tuple[Tensor, Tensor]:
    """Apply a grammar to rows with different numbers of generated tokens."""
    groups: dict[int, list[int]] = {}
    for k, count in enumerate(counts):
        groups.setdefault(count if settled is None else min(count, settled), []).append(k)
    if len(groups) == 1:
        return grammar(scores_NV, *groups)
    allowed_NV, end_N = torch.empty_like(scores_NV), scores_NV.new_empty(len(scores_NV))
    for count, places in groups.items():
        at = torch.tensor(places, device=scores_NV.device)
        allowed_NV[at], end_N[at] = grammar(scores_NV[at], count)
    return allowed_NV, end_N


@dataclass
class _GreedyRow:
    """A row of a greedy search. limit: largest number of tokens; total: log-probability of the tokens so far."""

    limit: int = 0
    written: list[int] = field(default_factory=list)
    total: float = 0.0
    hypotheses: list[Hypothesis] = field(default_factory=list)


def _advance(
    rows: Sequence[_GreedyRow],
    allowed_NV: Tensor,
    end_N: Tensor,
    full: Sequence[bool],
    penalty: float,
    no_repeat_ngram: int,
) -> list[int | None]:
    """Finish the rows whose end is likeliest or which are full; return the next token of each other row, None for
    those."""
    if no_repeat_ngram and not all(full):
        allowed_NV = forbid_ngrams(allowed_NV, [row.written for row in rows], no_repeat_ngram)
    tokens: list[int | None] = []
    scores = zip(*_likeliest(allowed_NV), end_N.tolist(), strict=True)
    for row, last, (best, token, end) in zip(rows, full, scores, strict=True):
        tokens.append(None)
        if end > -math.inf and (last or end >= best):
            total = row.total + end
            row.hypotheses.append(Hypothesis(tuple(row.written), total, _score(total, len(row.written), penalty)))
        elif not last and best > -math.inf:
            row.total += best
            row.written.append(token)
            tokens[-1] = token
    return tokens


def _likeliest(scores_NV: Tensor) -> tuple[list[float], list[int]]:
    """Return the highest score of each row and its id. numpy looks for it in a fifth of torch's time."""
    if scores_NV.device.type == "cpu" and scores_NV.dtype == torch.float32:
        scores = scores_NV.numpy()
        ids = scores.argmax(1)
        return scores[np.arange(len(ids)), ids].tolist(), ids.tolist()
    best_N1, token_N1 = highest(scores_NV, 1)
    return best_N1[:, 0].tolist(), token_N1[:, 0].tolist()


def highest(scores_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest scores of each row and their ids, as `topk` does; all scores of a smaller vocabulary.

    The highest scores lie in the `count` blocks with the highest maxima, and the maxima of blocks are found much faster
    than an order of all scores.
    """
    N, V = scores_NV.shape
    blocks = V // BLOCK
    if blocks <= 4 * count:
        return scores_NV.topk(min(count, V))
    head_NCW = scores_NV[:, : blocks * BLOCK].view(N, blocks, BLOCK)
    block_NK = head_NCW.amax(-1).topk(count).indices
    ids_NM = (block_NK[:, :, None] * BLOCK + torch.arange(BLOCK, device=block_NK.device)).flatten(1)
    rest_R = torch.arange(blocks * BLOCK, V, device=block_NK.device)
    ids_NM = torch.cat([ids_NM, rest_R.expand(N, -1)], 1)
    best_NK, at_NK = scores_NV.gather(1, ids_NM).topk(count)
    return best_NK, ids_NM.gather(1, at_NK)


def _score(log_probability: float, tokens: int, penalty: float) -> float:
    result: float = log_probability / (tokens + 1) ** penalty
    return result


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


def _settled(ended: list[Hypothesis], total: float, lengths: Sequence[int], beams: int, penalty: float) -> bool:
    """Return whether no open hypothesis can become one of the best: its total only falls, and its number of tokens will
    lie between two of `lengths`.

    total: the log-probability of the best open hypothesis.
    """
    hope = max(_score(total, tokens, penalty) for tokens in lengths)
    return hope == -math.inf or (len(ended) == beams and ended[-1].score >= hope)
