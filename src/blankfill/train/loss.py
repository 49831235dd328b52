"""The loss: summed over targets, and divided by the caller by the number of targets of the whole global batch.

The word loss multiplies hidden states with the word table a few hundred targets at a time and takes the gradient in the
same pass, while the scores are still in the cache: the [M, V] table of logits never exists, and the backward pass costs
one scaling. M targets, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.model.transformer import Transformer
from blankfill.types import Batch

CHUNK_BYTES = 4 << 20
"""Size of a block of fp32 scores on a CPU; it should stay in the cache between its passes."""


@dataclass(frozen=True)
class LossSums:
    """Summed losses of a batch: `words` over its targets, `labels` over its whole-example answers by name."""

    words: Tensor
    labels: Mapping[str, Tensor]


def counts(batch: Batch) -> dict[str, int]:
    """How many answers of each kind a batch asks for; the divisors of `LossSums`."""
    return {"words": len(batch.target_ids), **{name: len(value) for name, (_, value) in batch.labels.items()}}


def loss_sums(model: Transformer, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
    """Run a batch through a model and sum its losses. dtype: the compute type in force."""
    hidden_ND = model.encode(batch, dtype).flatten(0, 1)
    transformed_MD = model.head.transform(hidden_ND[batch.target_index])
    words = word_loss(transformed_MD, model.words.weight, model.head.bias, batch.target_ids)
    labels: dict[str, Tensor] = {}
    for name, (index, value) in batch.labels.items():
        if model.pair_head is None:
            raise ValueError(f"the batch asks for {name!r}, but the model has no pooler")
        labels[name] = F.cross_entropy(model.pair_head(hidden_ND[index]).float(), value, reduction="sum")
    return LossSums(words, labels)


def word_loss(hidden_MD: Tensor, table_VD: Tensor, bias_V: Tensor | None, target_M: Tensor) -> Tensor:
    """Cross-entropy of `hidden @ tableᵀ + bias` against the targets, summed; a scalar with gradient."""
    dtype = (
        torch.get_autocast_dtype(hidden_MD.device.type) if torch.is_autocast_enabled(hidden_MD.device.type) else None
    )
    loss: Tensor = _WordLoss.apply(hidden_MD, table_VD, bias_V, target_M, dtype, torch.is_grad_enabled())
    return loss


class _WordLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        table_VD: Tensor,
        bias_V: Tensor | None,
        target_M: Tensor,
        dtype: torch.dtype | None,
        with_grad: bool,
    ) -> Tensor:
        dtype = dtype or hidden_MD.dtype
        table = table_VD.to(dtype)
        grad_hidden = torch.empty_like(hidden_MD) if with_grad else None
        grad_table = torch.zeros(table_VD.shape, dtype=torch.float32, device=table.device) if with_grad else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if with_grad and bias_V is not None else None
        total = torch.zeros((), dtype=torch.float32, device=table.device)
        step = max(16, CHUNK_BYTES // (4 * table.shape[0])) if table.device.type == "cpu" else 8192
        for k in range(0, len(target_M), step):
            at = slice(k, k + step)
            hidden, target = hidden_MD[at].to(dtype), target_M[at, None]
            scores = (hidden @ table.T).float()
            if bias_V is not None:
                scores += bias_V
            norm = scores.logsumexp(-1, keepdim=True)
            total += (norm - scores.gather(-1, target)).sum()
            if grad_hidden is None or grad_table is None:
                continue
            error = scores.sub_(norm).exp_()
            error.scatter_add_(-1, target, error.new_full((1, 1), -1.0).expand(len(target), 1))
            if grad_bias is not None:
                grad_bias += error.sum(0)
            low = error.to(dtype)
            grad_hidden[at] = low @ table
            if dtype == torch.float32:
                grad_table.addmm_(low.T, hidden)
            else:
                grad_table += low.T @ hidden
        if with_grad:
            ctx.save_for_backward(grad_hidden, grad_table, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_table, grad_bias = ctx.saved_tensors
        (scale,) = upstream
        bias = grad_bias * scale if grad_bias is not None else None
        return grad_hidden * scale.to(grad_hidden.dtype), grad_table * scale, bias, None, None, None
