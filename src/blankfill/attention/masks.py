"""From an attention rule to the mask of a layer, made once for a batch and shared by all layers of a kind.

A rule (a few int vectors over the row, see `types.AttentionRule`) becomes nothing when every query sees every key, the
causal flag, a dense additive mask, or, for layers that attend locally in long rows, a *band*: the part of the dense
mask near its diagonal, a block of queries at a time. A band costs O(T · window) where a dense mask costs O(T²).

Not here: the kernels that compute attention under a mask (`attention.kernels`).

Shapes: B rows, T columns, Q queries, K keys, N blocks of queries, S columns of a context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blankfill.kernels.blocked_attention import NEAR_QUERIES, QUERIES, Band, Ranges, visible_ranges
from blankfill.types import LayerKind

Vectors = tuple[Tensor, Tensor]
"""Of queries: (segment, horizon), of keys: (segment, rank); int[B, T] each."""


@dataclass(frozen=True)
class Mask:
    """The mask of a layer. "none" and "causal" carry no tensor; "dense" adds `bias` [B, 1, Q, K] (0 or −inf); "band"
    has its own part of that.

    ranges: of a dense mask over long rows on a CPU, the keys that each block of queries can see.
    """

    kind: Literal["none", "causal", "dense", "band"]
    bias: Tensor | None = None
    ranges: Ranges | None = None
    band: Band | None = None


Masks = Mapping[LayerKind, Mask]
"""The mask of each kind of layer that a model has."""


def lower(
    kind: str,
    query: Vectors,
    key: Vectors,
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
    return dense(_visible(query, key, groups), dtype)


def lower_local(
    query: Vectors,
    key: Vectors,
    position_BT: Tensor,
    window: int,
    dtype: torch.dtype,
    groups: tuple[Tensor, Tensor] | None = None,
    ordered: bool = False,
) -> Mask:
    """Lower a rule for layers that see only keys whose position differs by at most `window` from the query's.

    query, key, dtype, groups: as for `lower`, queries and keys being the same columns. ordered: whether columns tell
    differences of positions (`in_order`); then rows much longer than the window get a band.
    """
    T = position_BT.shape[1]
    if not ordered or 2 * (window + NEAR_QUERIES) > T:
        near = (position_BT[:, :, None] - position_BT[:, None, :]).abs() <= window
        return dense(_visible(query, key, groups) & near, dtype)
    blocks = -(-T // NEAR_QUERIES)
    device = position_BT.device
    columns_NQ = torch.arange(blocks * NEAR_QUERIES, device=device).view(blocks, NEAR_QUERIES)
    columns_NK = columns_NQ[:, :1] - window + torch.arange(NEAR_QUERIES + 2 * window, device=device)
    inside_NK = (columns_NK >= 0) & (columns_NK < T)
    columns_NQ = columns_NQ.clamp(max=T - 1)  # queries behind the row repeat its last one, so that no softmax is empty
    near_NQK = ((columns_NQ[:, :, None] - columns_NK[:, None, :]).abs() <= window) & inside_NK[:, None, :]
    at_Q, at_K = columns_NQ.flatten(), columns_NK.clamp(0, T - 1).flatten()

    def of_queries(vector_BT: Tensor) -> Tensor:
        return vector_BT[:, at_Q].view(-1, NEAR_QUERIES)

    def of_keys(vector_BT: Tensor) -> Tensor:
        return vector_BT[:, at_K].view(-1, columns_NK.shape[1])

    queries = (of_queries(query[0]), of_queries(query[1]))
    keys = (of_keys(key[0]), of_keys(key[1]))
    parted = None if groups is None else (of_queries(groups[0]), of_keys(groups[1]))
    visible = _visible(queries, keys, parted).unflatten(0, (-1, blocks)) & near_NQK
    bias_BNQK = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
    return Mask("band", band=Band(bias_BNQK, window))


def within(mask: Mask, position_BT: Tensor, window: int, dtype: torch.dtype) -> Mask:
    """A mask of columns that attend to one another, restricted to a window: for callers that have no rule."""
    T = position_BT.shape[1]
    far = (position_BT[:, :, None] - position_BT[:, None, :]).abs() > window
    if mask.kind == "causal":
        far = far | torch.ones(T, T, dtype=torch.bool, device=far.device).triu_(1)
    elif mask.kind == "band":
        raise ValueError("the mask is a local layer's already")
    bias = torch.zeros(far.shape, dtype=dtype, device=far.device)[:, None] if mask.bias is None else mask.bias
    lowest = float("-inf")
    if torch.compiler.is_compiling():  # for an export: finite, so that a row of padding alone has a softmax
        lowest = torch.finfo(dtype).min
    return Mask("dense", bias.masked_fill(far[:, None], lowest))


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


def dense(visible: Tensor, dtype: torch.dtype) -> Mask:
    """The dense mask of bool[B, Q, K]."""
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    long = visible.device.type == "cpu" and visible.shape[1] == visible.shape[2] >= 2 * QUERIES
    return Mask("dense", bias[:, None], visible_ranges(visible) if long else None)


def in_order(position_BT: Tensor, segment_BT: Tensor) -> bool:
    """Whether in every segment positions follow columns one by one, so that columns tell differences of positions as
    well as positions do; padding (a negative segment) does not matter."""
    follows = position_BT[:, 1:] - position_BT[:, :-1] == 1
    border = (segment_BT[:, 1:] != segment_BT[:, :-1]) | (segment_BT[:, 1:] < 0)
    return bool((follows | border).all())


def _visible(query: Vectors, key: Vectors, groups: tuple[Tensor, Tensor] | None) -> Tensor:
    """bool[B, Q, K], as `AttentionRule.visible` without a window."""
    visible = (query[0][:, :, None] == key[0][:, None, :]) & (key[1][:, None, :] <= query[1][:, :, None])
    if groups is not None:
        visible = visible & ((groups[1][:, None, :] == 0) | (groups[1][:, None, :] == groups[0][:, :, None]))
    return visible
