"""From an attention rule to the fastest kernel that computes it.

A rule (three int vectors over the row, see `types.AttentionRule`) is lowered once for a batch and shared by all layers:
to nothing when every query sees every key, to the causal flag, or to a dense additive mask. Two kernels compute it:
`sdpa` (torch's scaled_dot_product_attention) and `explicit` (matmul, softmax, matmul). Which is faster depends on the
processor: with fast bf16 on a CPU the explicit form wins by 1.5 to 4 times, everywhere else SDPA does. Both are tested
against the boolean reference `AttentionRule.visible`. A kernel that cannot express a mask refuses it; none ignores it.

Shapes: B rows, H heads, Q queries, K keys, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["sdpa", "explicit"]


@dataclass(frozen=True)
class Mask:
    """A lowered rule. kind "none" and "causal" carry no tensor; "dense" adds `bias` [B, 1, Q, K] (0 or −inf)."""

    kind: Literal["none", "causal", "dense"]
    bias: Tensor | None = None


def lower(
    kind: str,
    query: tuple[Tensor, Tensor],
    key: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> Mask:
    """Lower a rule.

    kind: "none" or "causal" when the batch is known to need no more, "rule" otherwise. query: (segment, horizon), int
    [B, Q]; key: (segment, rank), int [B, K]. dtype: of the queries, which the dense mask shares.
    """
    if kind == "none":
        return Mask("none")
    if kind == "causal":
        return Mask("causal")
    if kind != "rule":
        raise ValueError(f"unknown kind of mask: {kind!r}")
    visible = (query[0][:, :, None] == key[0][:, None, :]) & (key[1][:, None, :] <= query[1][:, :, None])
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    return Mask("dense", bias[:, None])


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, dropout: float = 0.0, kernel: Kernel = "sdpa"
) -> Tensor:
    """Scaled dot-product attention under a mask.

    query [B, H, Q, E], key and value [B, H, K, E] → [B, H, Q, E]; scores are scaled by 1/√E. "causal" aligns the last
    query with the last key, so that cached keys may come first. dropout: probability, applied to the weights.
    """
    if kernel == "sdpa":
        causal = mask.kind == "causal"
        if causal and query.shape[2] != key.shape[2]:
            return F.scaled_dot_product_attention(query, key, value, _causal_bias(query, key), dropout)
        return F.scaled_dot_product_attention(query, key, value, mask.bias, dropout, is_causal=causal)
    if kernel != "explicit":
        raise ValueError(f"unknown attention kernel: {kernel!r}")
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask.kind == "dense":
        assert mask.bias is not None
        scores = scores + mask.bias
    elif mask.kind == "causal":
        scores = scores + _causal_bias(query, key)
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value


def _causal_bias(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    bias = torch.full((queries, keys), float("-inf"), dtype=query.dtype, device=query.device)
    return bias.triu_(1 + keys - queries)


def best_kernel(device: torch.device | str, dtype: torch.dtype) -> Kernel:
    """The faster kernel for training on a device in a compute type, as measured (docs/log.md)."""
    return "explicit" if torch.device(device).type == "cpu" and dtype == torch.bfloat16 else "sdpa"
