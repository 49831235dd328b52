"""How far the scores of one model are from another's: KL divergence, first outputs, log-probabilities of targets.

Computed in fp64, a block at a time: the divergence of two almost equal models is smaller than the rounding of fp32.

Shapes: M rows of scores, V outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

AT_ONCE = 1 << 22
"""Number of scores that are compared at a time."""


class RowDifferences(NamedTuple):
    """Differences of rows of scores, on the CPU.

    kl: KL(before ‖ after) in nats, float64[M]. same: whether both rank the same output first, bool[M]. nats_before,
    nats_after: negative log-probabilities of the targets, float64[M]; float64[0] without targets.
    """

    kl: Tensor
    same: Tensor
    nats_before: Tensor
    nats_after: Tensor


@torch.no_grad()
def row_differences(before_MV: Tensor, after_MV: Tensor, targets_M: Tensor | None = None) -> RowDifferences:
    """Compare scores of two models, logits or log-probabilities in any type, row by row.

    targets_M: ids of the right outputs, int64.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    if before_MV.shape != after_MV.shape or (targets_M is not None and len(targets_M) != len(before_MV)):
        count = "no" if targets_M is None else len(targets_M)
        raise ValueError(f"scores of {tuple(before_MV.shape)} and {tuple(after_MV.shape)}, {count} targets")
    step = max(1, AT_ONCE // max(1, before_MV.shape[-1]))
    kls, nats = [torch.empty(0, dtype=torch.float64)], [[torch.empty(0, dtype=torch.float64)] for _ in range(2)]
    same = [torch.empty(0, dtype=torch.bool)]
    for k in range(0, len(before_MV), step):
        at = slice(k, k + step)
        logs = [scores[at].cpu().double().log_softmax(-1) for scores in (before_MV, after_MV)]
        kls.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1).clamp_(min=0))
        same.append(logs[0].argmax(-1) == logs[1].argmax(-1))
        if targets_M is not None:
            for of_model, log in zip(nats, logs, strict=True):
                of_model.append(-log.gather(-1, targets_M[at, None].cpu())[:, 0])
    return RowDifferences(torch.cat(kls), torch.cat(same), torch.cat(nats[0]), torch.cat(nats[1]))
