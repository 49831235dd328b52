"""Log-probabilities of tokens: of the chosen one and of the likeliest ones.

They are those of the model: of its scores before penalties, biases, temperature, top-k and top-p, and before the tokens
that are never generated are ruled out. Computed in float32.

Shapes: B rows, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logprobs:
    """chosen: log-probability of the token. ids and values: the likeliest tokens with theirs, best first."""

    chosen: float
    ids: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


@torch.inference_mode()
def logprobs_of(scores_BV: Tensor, ids: Sequence[int], counts: Sequence[int]) -> list[Logprobs]:
    """Return the log-probabilities of a token of each row, and of the `counts` likeliest ones."""
    scores_BV = scores_BV.float()
    whole_B1 = scores_BV.logsumexp(-1, keepdim=True)
    chosen_B1 = scores_BV.gather(1, torch.tensor(ids, device=scores_BV.device)[:, None]) - whole_B1
    chosen = chosen_B1[:, 0].tolist()
    most = min(max(counts, default=0), scores_BV.shape[1])
    if not most:
        return [Logprobs(value) for value in chosen]
    best = scores_BV.topk(most)
    values, indices = (best.values - whole_B1).tolist(), best.indices.tolist()
    return [
        Logprobs(value, tuple(indices[row][:count]), tuple(values[row][:count]))
        for row, (value, count) in enumerate(zip(chosen, counts, strict=True))
    ]
