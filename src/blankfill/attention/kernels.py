"""From an attention rule to the fastest kernel that computes it.

A rule (a few int vectors over the row, see `types.AttentionRule`) is lowered once for a batch and shared by all layers:
to nothing when every query sees every key, to the causal flag, or to a dense additive mask. Three kernels compute it:
`sdpa` (torch's scaled_dot_product_attention), `explicit` (matmul, softmax, matmul) and `blocked` (explicit, a block at
a time, for training on a CPU). Which is fastest depends on the processor, the type, the mask and on dropout; `blocked`
gives way to one of the others where it gains nothing (docs/performance.md). All are tested against the boolean
reference `AttentionRule.visible`. A kernel that cannot express a mask refuses it; none ignores it.

Shapes: B rows, H heads, T columns, Q queries, K keys, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.attention.relative import Distances
from blankfill.kernels.blocked_attention import (
    QUERIES,
    Ranges,
    blocked_attention,
    blocked_cross_attention,
    visible_ranges,
)

Kernel = Literal["sdpa", "explicit", "blocked"]


@dataclass(frozen=True)
class Mask:
    """A lowered rule. kind "none" and "causal" carry no tensor; "dense" adds `bias` [B, 1, Q, K] (0 or −inf).

    ranges: of a dense mask over long rows on a CPU, what the blocks of queries can see; None where nobody asks.
    distances: how far apart queries and keys stand, of a model that asks for it. added: [B or 1, H, Q, K], with
    gradient, what every layer adds to its scores. in_order: whether columns tell the distances of places
    (`attention.buckets.in_order`).
    """

    kind: Literal["none", "causal", "dense"]
    bias: Tensor | None = None
    ranges: Ranges | None = None
    distances: Distances | None = None
    added: Tensor | None = None
    in_order: bool = False


def lower(
    kind: str,
    query: tuple[Tensor, Tensor],
    key: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    groups: tuple[Tensor, Tensor] | None = None,
) -> Mask:
    """Lower a rule.

    kind: "none" or "causal" when the batch is known to need no more, "rule" otherwise. query: (segment, horizon), int
    [B, Q]; key: (segment, rank), int [B, K]. dtype: of the queries, which the dense mask shares. groups: those of the
    queries and of the keys, where the rule has any. Raises ValueError for an unknown kind, and for one that would
    ignore groups.
    """
    if groups is not None and kind in ("none", "causal") and bool(groups[1].any()):
        raise ValueError(f"a mask of the kind {kind!r} cannot hide keys from other groups")
    if kind == "none":
        return Mask("none")
    if kind == "causal":
        return Mask("causal")
    if kind != "rule":
        raise ValueError(f"unknown kind of mask: {kind!r}")
    visible = (query[0][:, :, None] == key[0][:, None, :]) & (key[1][:, None, :] <= query[1][:, :, None])
    if groups is not None:
        open_BQK = (groups[1][:, None, :] == 0) | (groups[1][:, None, :] == groups[0][:, :, None])
        visible = visible & open_BQK
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    long = visible.device.type == "cpu" and visible.shape[1] == visible.shape[2] >= 2 * QUERIES
    return Mask("dense", bias[:, None], visible_ranges(visible) if long else None)


def lower_cross(kind: str, query_BQ: Tensor, key_BS: Tensor, dtype: torch.dtype) -> Mask:
    """Lower "what of a context a query sees": all columns of its segment, whatever their rank.

    kind: the context's own (`types.Batch.mask`): "none" when each of its rows is one text without padding. query, key:
    the segments. dtype: of the queries. Padded queries, of negative segments, see every key, so that no softmax is
    empty.
    """
    if kind == "none":
        return Mask("none")
    visible = (query_BQ[:, :, None] == key_BS[:, None, :]) | (query_BQ < 0)[:, :, None]
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    return Mask("dense", bias[:, None])


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    dropout: float = 0.0,
    kernel: Kernel = "sdpa",
    added: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention under a mask.

    query [B, H, Q, E], key and value [B, H, K, E] → [B, H, Q, E]; scores are scaled by `scale`, None being 1/√E.
    "causal" aligns the last query with the last key, so that cached keys may come first. dropout: probability, applied
    to the weights. added: [B or 1, H, Q, K], with gradient, added to the scaled scores (`attention.relative`).
    """
    if kernel == "blocked":  # for what one projection made, see `self_attend` and `cross_attend`
        kernel = "explicit" if query.dtype == torch.bfloat16 or added is not None else "sdpa"
    if added is not None:
        added = _joined(added, mask, query, key)
        if kernel == "sdpa":
            return F.scaled_dot_product_attention(query, key, value, added.to(query.dtype), dropout, scale=scale)
    if kernel == "sdpa":
        causal = mask.kind == "causal"
        if causal and query.shape[2] != key.shape[2]:
            return F.scaled_dot_product_attention(query, key, value, _causal_bias(query, key), dropout, scale=scale)
        return F.scaled_dot_product_attention(query, key, value, mask.bias, dropout, is_causal=causal, scale=scale)
    if kernel != "explicit":
        raise ValueError(f"unknown attention kernel: {kernel!r}")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query if scale == 1 else query * scale) @ key.transpose(-1, -2)
    if added is not None:
        scores = scores + added
    elif mask.kind == "dense":
        assert mask.bias is not None
        scores = scores + mask.bias
    elif mask.kind == "causal":
        scores = scores + _causal_bias(query, key)
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value


def self_attend(
    qkv_BT3HE: Tensor, mask: Mask, dropout: float = 0.0, kernel: Kernel = "sdpa", scale: float | None = None
) -> Tensor:
    """`attend` for queries, keys and values of the same columns, as one projection makes them; returns [B, T, H·E].

    What the mask says is added is added.
    """
    B, T, _, H, E = qkv_BT3HE.shape
    causal = mask.kind == "causal"
    shorter = mask.ranges is not None or (causal and T >= 2 * QUERIES)
    if kernel == "blocked" and (dropout or shorter or mask.added is not None or qkv_BT3HE.dtype == torch.bfloat16):
        return blocked_attention(qkv_BT3HE, mask.bias, causal, dropout, mask.ranges, mask.added, scale)
    query, key, value = qkv_BT3HE.permute(2, 0, 3, 1, 4)
    added = None if mask.added is None else mask.added.to(query.dtype)
    mixed = attend(query, key, value, mask, dropout, kernel, added, scale)
    return mixed.transpose(1, 2).reshape(B, T, H * E)


def cross_attend(
    query_BQHE: Tensor, kv_BS2HE: Tensor, mask: Mask, dropout: float, kernel: Kernel, scale: float | None = None
) -> Tensor:
    """`attend` for queries of one stack, and keys and values of another, as projections make them; [B, Q, H·E]."""
    if kernel == "blocked" and (dropout or query_BQHE.dtype == torch.bfloat16):
        return blocked_cross_attention(query_BQHE, kv_BS2HE, mask.bias, dropout, scale)
    key, value = kv_BS2HE.permute(2, 0, 3, 1, 4)
    return attend(query_BQHE.transpose(1, 2), key, value, mask, dropout, kernel, scale=scale).transpose(1, 2).flatten(2)


def _joined(added: Tensor, mask: Mask, query: Tensor, key: Tensor) -> Tensor:
    """What is added to the scores and the mask, as one tensor."""
    if mask.kind == "none":
        return added
    bias = _causal_bias(query, key) if mask.kind == "causal" else mask.bias
    assert bias is not None
    return added + bias


def _causal_bias(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    bias = torch.full((queries, keys), float("-inf"), dtype=query.dtype, device=query.device)
    return bias.triu_(1 + keys - queries)


def best_kernel(device: torch.device | str, dtype: torch.dtype) -> Kernel:
    """The fastest kernel for training on a device in a compute type, as measured (docs/performance.md)."""
    return "blocked" if torch.device(device).type == "cpu" and dtype != torch.float16 else "sdpa"
