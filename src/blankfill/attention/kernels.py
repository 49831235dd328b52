"""The kernels that compute attention under the mask of a layer.

Three kernels: `sdpa` (torch's scaled_dot_product_attention), `explicit` (matmul, softmax, matmul) and `blocked`
(explicit, one block at a time, for training on a CPU). The fastest one depends on the processor, the type, the mask and
dropout; `blocked` falls back to another kernel where it gains nothing (docs/performance.md). Tests compare all kernels
with the boolean reference `AttentionRule.visible`. A kernel that cannot express a mask raises an error.

Not here: how a rule becomes a mask (`attention.masks`), and what positions do to queries, keys and scores
(`attention.positions`).

Shapes: B rows, H heads, G heads of keys and values, T columns, Q queries, K keys, P columns of a prefix, E width of a
head, N blocks of queries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.attention.masks import Mask
from blankfill.kernels.blocked_attention import (
    QUERIES,
    Band,
    blocked_attention,
    blocked_cross_attention,
    blocked_prefix_attention,
)
from blankfill.kernels.half import product_dtype
from blankfill.kernels.short_attention import short_attention

Kernel = Literal["sdpa", "explicit", "blocked"]


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
    """Compute scaled dot-product attention under a mask.

    query [B, H, Q, E], key and value [B, G, K, E] → [B, H, Q, E]. scale: factor of the scores; None means 1/√E. With
    fewer heads of keys and values than of queries, each group of H / G adjacent query heads shares one (Ainslie et al.
    2023). "causal" aligns the last query with the last key, so that cached keys may come first. dropout: probability of
    dropping a weight. added: [B or 1, H, Q, K], with gradient, added to the scaled scores (`attention.relative`).
    """
    if mask.kind == "texts":
        raise ValueError("texts in one row are for `self_attend`")
    dtype = query.dtype
    if query.shape[2] > 1 and product_dtype(query.device, dtype) != dtype:
        with torch.autocast("cpu", enabled=False):
            wide = (query.float(), key.float(), value.float(), _widened(mask))
            return attend(*wide, dropout, kernel, None if added is None else added.float(), scale).to(dtype)
    if key.shape[1] != query.shape[1]:
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    if mask.band is not None:
        if added is not None:
            raise ValueError("a band takes nothing that is added to the scores")
        return _attend_band(query, key, value, mask.band, dropout, kernel, scale)
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
    qkv_BT3HE: Tensor,
    mask: Mask,
    dropout: float = 0.0,
    kernel: Kernel = "sdpa",
    scale: float | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """Compute `attend` for one stack, from the output of its joint projection of queries, keys and values; [B, T,
    H·E]."""
    B, T, _, H, E = qkv_BT3HE.shape
    if mask.kind == "texts":
        if added is not None:
            raise ValueError("texts in one row take nothing that is added to the scores")
        return _attend_texts(qkv_BT3HE, mask, dropout, kernel, scale)
    if kernel != "explicit" and not dropout and added is None and mask.kind in ("none", "dense"):
        made = short_attention(qkv_BT3HE, mask.bias, scale)
        if made is not None:
            return made
    causal = mask.kind == "causal"
    shorter = mask.ranges is not None or mask.band is not None or (causal and T >= 2 * QUERIES)
    if kernel == "blocked" and (dropout or shorter or added is not None or qkv_BT3HE.dtype == torch.bfloat16):
        return blocked_attention(qkv_BT3HE, mask.bias, causal, dropout, mask.ranges, added, scale, mask.band)
    query, key, value = qkv_BT3HE.permute(2, 0, 3, 1, 4)
    added = None if added is None else added.to(query.dtype)
    mixed = attend(query, key, value, mask, dropout, kernel, added, scale)
    return mixed.transpose(1, 2).reshape(B, T, H * E)


def prefix_attend(
    query_BTHE: Tensor,
    kv_BK2GE: Tensor,
    mask: Mask,
    dropout: float = 0.0,
    kernel: Kernel = "sdpa",
    scale: float | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """Compute `attend` for one stack whose keys and values have P more columns in front, seen by all queries (K = P +
    T); [B, T, H·E]. mask, added: with these columns (`attention.masks.behind`)."""
    causal = mask.kind == "causal"
    if mask.kind == "texts":
        raise ValueError("texts in one row have no prefix")
    gains = dropout or mask.ranges is not None or causal or added is not None or query_BTHE.dtype == torch.bfloat16
    if kernel == "blocked" and gains and mask.band is None and kv_BK2GE.shape[3] == query_BTHE.shape[2]:
        return blocked_prefix_attention(query_BTHE, kv_BK2GE, mask.bias, causal, dropout, mask.ranges, added, scale)
    key, value = kv_BK2GE.permute(2, 0, 3, 1, 4)
    added = None if added is None else added.to(query_BTHE.dtype)
    mixed = attend(query_BTHE.transpose(1, 2), key, value, mask, dropout, kernel, added, scale)
    return mixed.transpose(1, 2).flatten(2)


def cross_attend(
    query_BQHE: Tensor, kv_BS2HE: Tensor, mask: Mask, dropout: float, kernel: Kernel, scale: float | None = None
) -> Tensor:
    """Compute `attend` for queries of one stack and keys and values of another, from their projections; [B, Q, H·E]."""
    if kernel == "blocked" and (dropout or query_BQHE.dtype == torch.bfloat16):
        return blocked_cross_attention(query_BQHE, kv_BS2HE, mask.bias, dropout, scale)
    key, value = kv_BS2HE.permute(2, 0, 3, 1, 4)
    return attend(query_BQHE.transpose(1, 2), key, value, mask, dropout, kernel, scale=scale).transpose(1, 2).flatten(2)


def _attend_texts(qkv_1T3HE: Tensor, mask: Mask, dropout: float, kernel: Kernel, scale: float | None) -> Tensor:
    """Compute `self_attend` for texts one after another in one row; those of one length are rows of their own."""
    assert mask.texts is not None
    within = Mask("causal" if mask.texts.causal else "none")
    parts = []
    for begin, count, length in mask.groups():
        rows = qkv_1T3HE[0, begin : begin + count * length].unflatten(0, (count, length))
        parts.append(self_attend(rows, within, dropout, kernel, scale).flatten(0, 1))
    return torch.cat(parts)[None]


def _attend_band(
    query: Tensor, key: Tensor, value: Tensor, band: Band, dropout: float, kernel: Kernel, scale: float | None
) -> Tensor:
    """Compute `attend` under a band: each block of queries becomes a row of its own with the keys that it can see.
    Keys beyond the number of queries come first, and all queries see them."""
    B, H, T, E = query.shape
    N, size, K = band.bias.shape[1:]
    behind, P = N * size - T, key.shape[2] - T
    query_BNHQE = F.pad(query, (0, 0, 0, behind)).view(B, H, N, size, E).transpose(1, 2)

    def near(tensor_BHKE: Tensor) -> Tensor:
        padded = F.pad(tensor_BHKE[:, :, P:], (0, 0, band.reach, band.reach + behind))
        around = padded.unfold(2, K, size).permute(0, 2, 1, 4, 3).reshape(B * N, H, K, E)
        return torch.cat([tensor_BHKE[:, :, :P].repeat_interleave(N, 0), around], 2) if P else around

    bias = band.bias.reshape(-1, 1, size, K)
    mask = Mask("dense", F.pad(bias, (P, 0)) if P else bias)
    rows = query_BNHQE.reshape(B * N, H, size, E)
    mixed = attend(rows, near(key), near(value), mask, dropout, kernel, scale=scale)
    return mixed.view(B, N, H, size, E).transpose(1, 2).reshape(B, H, N * size, E)[:, :, :T]


def _widened(mask: Mask) -> Mask:
    """Return the mask for scores in fp32."""
    bias = None if mask.bias is None else mask.bias.float()
    return replace(mask, bias=bias, band=None if mask.band is None else replace(mask.band, bias=mask.band.bias.float()))


def _joined(added: Tensor, mask: Mask, query: Tensor, key: Tensor) -> Tensor:
    """Add the mask to the bias of the scores."""
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
    """Return the kernel that trains fastest on a device in a compute type, as measured (docs/performance.md)."""
    return "blocked" if torch.device(device).type == "cpu" and dtype != torch.float16 else "sdpa"
