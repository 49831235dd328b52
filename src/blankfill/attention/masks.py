"""Lower an attention rule to the mask of a layer, once for a batch and for each kind of layer.

A rule (a few int vectors over the row, see `types.AttentionRule`) becomes "none" when every query sees every key, the
causal flag, a dense additive mask, or, for layers with local attention in long rows, a *band*: the part of the dense
mask near its diagonal, by blocks of queries. A band costs O(T · window), a dense mask O(T²).

Not here: the kernels that compute attention under a mask (`attention.kernels`).

Shapes: B rows, T columns, Q queries, K keys, N blocks of queries, S columns of a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.blocked_attention import NEAR_QUERIES, QUERIES, Band, Ranges, visible_ranges
from blankfill.types import LayerKind, TextSpans

Vectors = tuple[Tensor, Tensor]
"""(segment, horizon) of queries, or (segment, rank) of keys; int[B, T] each."""


@dataclass(frozen=True)
class Mask:
    """The mask of a layer. "none" and "causal" carry no tensor; "dense" adds `bias` [B, 1, Q, K] (0 or −inf) to the
    scores; "band" holds the part of it near the diagonal; "texts" is for a single row of texts that see only
    themselves.

    ranges: for a dense mask over long rows on a CPU, the range of keys that each block of queries can see.
    """

    kind: Literal["none", "causal", "dense", "band", "texts"]
    bias: Tensor | None = None
    ranges: Ranges | None = None
    band: Band | None = None
    texts: TextSpans | None = None

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first column, number of texts, columns of each) of the runs of texts with the same length."""
        assert self.texts is not None
        begin = 0
        for length, run in groupby(self.texts.lengths):
            count = len(list(run))
            yield begin, count, length
            begin += count * length


Masks = Mapping[LayerKind, Mask]
"""The mask of each kind of layer in a model."""


def lower(
    kind: str,
    query: Vectors,
    key: Vectors,
    dtype: torch.dtype,
    groups: tuple[Tensor, Tensor] | None = None,
) -> Mask:
    """Lower a rule to a mask.

    kind: "none" or "causal" when the whole batch needs no more than that, "rule" otherwise. query: (segment, horizon),
    int [B, Q]; key: (segment, rank), int [B, K]. dtype: the type of the queries and of a dense mask. groups: the groups
    of the queries and of the keys, where the rule has groups. Raises ValueError for an unknown kind, and for a kind
    that would ignore groups.
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
    """Lower a rule for layers whose queries see only keys at a distance of at most `window` positions.

    query, key, dtype, groups: as for `lower`; queries and keys are the same columns. ordered: whether differences of
    columns equal differences of positions (`in_order`); then rows much longer than the window get a band.
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
    columns_NQ = columns_NQ.clamp(max=T - 1)  # queries past the end repeat the last one, so that no softmax is empty
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
    """Restrict the mask of columns that attend to one another to a window, for callers that have no rule."""
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
    """Lower the visibility of a context: a query sees all columns of its segment there, whatever their rank.

    kind: kind of the context's mask (`types.Batch.mask`): "none" when each of its rows is one text without padding.
    query, key: the segments. dtype: the type of the queries. Padded queries (negative segments) see every key, so that
    no softmax is empty.
    """
    if kind == "none":
        return Mask("none")
    visible = (query_BQ[:, :, None] == key_BS[:, None, :]) | (query_BQ < 0)[:, :, None]
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    return Mask("dense", bias[:, None])


def dense(visible: Tensor, dtype: torch.dtype) -> Mask:
    """Return the dense mask of bool[B, Q, K]."""
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    long = visible.device.type == "cpu" and visible.shape[1] == visible.shape[2] >= 2 * QUERIES
    return Mask("dense", bias[:, None], visible_ranges(visible) if long else None)


def behind(mask: Mask, columns: int) -> Mask:
    """Return the mask of the same queries when this number of columns, which all of them see, comes before the keys.

    "none" and "causal" stay as they are, since `attention.kernels.attend` aligns the last query with the last key; so
    does a band, whose kernel finds the columns by their number.
    """
    if mask.kind != "dense":
        return mask
    assert mask.bias is not None
    ranges = mask.ranges
    if ranges is not None:
        ranges = [[(0, last + columns) for _, last in row] for row in ranges]
    return Mask("dense", F.pad(mask.bias, (columns, 0)), ranges)


def in_order(position_BT: Tensor, segment_BT: Tensor) -> bool:
    """Return whether positions follow columns one by one in every segment, so that differences of columns equal
    differences of positions; padding (a negative segment) is ignored."""
    follows = position_BT[:, 1:] - position_BT[:, :-1] == 1
    border = (segment_BT[:, 1:] != segment_BT[:, :-1]) | (segment_BT[:, 1:] < 0)
    return bool((follows | border).all())


def _visible(query: Vectors, key: Vectors, groups: tuple[Tensor, Tensor] | None) -> Tensor:
    """Compute bool[B, Q, K], as `AttentionRule.visible` without a window."""
    visible = (query[0][:, :, None] == key[0][:, None, :]) & (key[1][:, None, :] <= query[1][:, :, None])
    if groups is not None:
        visible = visible & ((groups[1][:, None, :] == 0) | (groups[1][:, None, :] == groups[0][:, :, None]))
    return visible
