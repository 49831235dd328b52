"""Attention for training on a CPU, a block of scores at a time.

On a CPU, torch's own kernel takes a slow path when attention weights are dropped, computes all of a causal matrix of up
to 512 columns before it hides half of it, and is slow in bf16. This kernel computes the scores of a few heads at a
time, so that they stay in the cache through softmax, dropout and the product with the values; it skips columns that no
query of a block can see; and it writes gradients in the layout that the projection needs, without stacking and
transposing.

The backward pass needs the weights. Rows of up to `KEEP` columns save them, since they are small beside the other
activations of a layer; longer rows compute them again. Dropout masks are saved as bytes. Blocks do not depend on the
number of threads, so the drawn masks do not either.

With local attention (`Band`), a block computes only the scores of the keys near its queries, so that the cost of a long
row is its length times the window and not the square of its length.

Shapes: B rows, T columns, S columns of a context, H heads, E width of a head; G matrices of a block with Q queries and
K keys; N blocks of queries in a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blankfill.kernels.dropout import draw_kept, rounded

BLOCK = 1 << 19
"""Largest number of scores in a block (2 MiB in fp32)."""
QUERIES = 128
"""Queries of a block when columns can be skipped."""
NEAR_QUERIES = 64
"""Queries of a block in a band, where smaller blocks compute fewer keys outside the window."""
KEEP = 256
"""Largest number of columns of a row whose weights are saved for the backward pass."""

Ranges = Sequence[Sequence[tuple[int, int]]]
"""For each row and each block of `QUERIES` queries, the half-open range of keys that it can see."""


@dataclass(frozen=True)
class Band:
    """The mask of rows whose queries see only keys up to `reach` columns away.

    bias: [B, N, Q, Q + 2 · reach], 0 or −inf: for each block of Q (`NEAR_QUERIES`) queries, the mask of the keys from
    `reach` columns before its first query to `reach` columns after its last one, with columns outside the row included.
    """

    bias: Tensor
    reach: int

    @property
    def size(self) -> int:
        """Number of queries of a block, Q."""
        return self.bias.shape[2]

    def ranges(self, rows: int, columns: int) -> Ranges:
        """Return the half-open range of keys of each block, for each row."""
        starts = range(0, columns, self.size)
        row = [(max(0, q - self.reach), min(columns, q + self.size + self.reach)) for q in starts]
        return [row] * rows


@dataclass(frozen=True)
class _Block:
    """Some queries and keys of one head of some rows, or of some heads of one row, and their place among saved
    scores."""

    rows: slice | int
    heads: slice | int
    queries: slice
    keys: slice
    start: int
    stop: int

    def of(self, tensor_BTHE: Tensor, columns: slice) -> Tensor:
        """Return the block's part of a [B, T, H, E] tensor as a view [G, columns, E]."""
        part = tensor_BTHE[self.rows, columns, self.heads]
        return part.transpose(0, 1) if isinstance(self.rows, int) else part

    def added_of(self, added: Tensor) -> Tensor:
        """Return the block's part of the bias [B or 1, H, T, T] as a view [G or 1, Q, K]."""
        first_row: slice | int = slice(0, 1) if isinstance(self.rows, slice) else 0
        return added[self.rows if len(added) > 1 else first_row, self.heads, self.queries, self.keys]

    def band_of(self, band: Band) -> Tensor:
        """Return the block's part of a band, [1, Q, K]."""
        number, size = self.queries.start // band.size, self.queries.stop - self.queries.start
        first = self.queries.start - band.reach
        return band.bias[self.rows, number, None, :size, self.keys.start - first : self.keys.stop - first]

    def bias_of(self, bias_B1TT: Tensor) -> Tensor:
        """Return the block's part of a dense mask, [G or 1, Q, K]."""
        rows = self.rows if isinstance(self.rows, slice) else slice(self.rows, self.rows + 1)
        return bias_B1TT[rows, 0, self.queries, self.keys]


def _blocks(
    B: int,
    T: int,
    H: int,
    causal: bool,
    ranges: Ranges | None,
    context: int | None = None,
    size: int | None = None,
) -> list[_Block]:
    """Divide all scores into blocks. context: number of columns of a context that the T columns attend to, or of a
    prefix and the T columns; None where they attend to one another. size: queries of a block that has a range; None for
    `QUERIES`."""
    S = T if context is None else context
    blocks: list[_Block] = []
    total = 0

    def add(rows: slice | int, heads: slice | int, queries: slice, keys: slice, matrices: int) -> None:
        nonlocal total
        scores = matrices * (queries.stop - queries.start) * (keys.stop - keys.start)
        blocks.append(_Block(rows, heads, queries, keys, total, total + scores))
        total += scores

    if ranges is not None:
        for b, row in enumerate(ranges):
            step = QUERIES if size is None else size
            for n, (first, last) in enumerate(row):
                add(b, slice(0, H), slice(n * step, min(T, (n + 1) * step)), slice(first, last), H)
        return blocks
    step = QUERIES if causal and T >= 2 * QUERIES else min(T, max(QUERIES, BLOCK // S))
    together = max(1, BLOCK // (step * S))
    for h in range(H):
        for b in range(0, B, together):
            rows = slice(b, min(B, b + together))
            for q in range(0, T, step):
                queries = slice(q, min(T, q + step))
                add(rows, h, queries, slice(0, queries.stop + S - T if causal else S), rows.stop - rows.start)
    return blocks


def visible_ranges(visible_BTT: Tensor) -> Ranges:
    """Return the range of keys that each block of queries can see, from bool[B, T, T]."""
    T = visible_BTT.shape[1]
    first, last = [], []
    for q in range(0, T, QUERIES):
        some_BT = visible_BTT[:, q : q + QUERIES].any(1).to(torch.uint8)
        first.append(some_BT.argmax(1))
        last.append(T - some_BT.flip(1).argmax(1))
    bounds: list[list[list[int]]] = torch.stack([torch.stack(first, 1), torch.stack(last, 1)], 2).tolist()
    return [[(begin, end) for begin, end in row] for row in bounds]


def blocked_attention(
    qkv_BT3HE: Tensor,
    bias_B1TT: Tensor | None,
    causal: bool,
    dropout: float,
    ranges: Ranges | None = None,
    added: Tensor | None = None,
    scale: float | None = None,
    band: Band | None = None,
) -> Tensor:
    """Compute scaled dot-product self-attention of packed queries, keys and values; returns [B, T, H·E].

    bias: added to the scaled scores, or None. causal: each query sees the keys up to itself. ranges: ranges of keys
    outside of which all keys are invisible under the bias. added: [B or 1, H, T, T], also added to the scaled scores,
    with gradient. scale: factor of the scores; None means 1/√E. band: replaces bias and ranges.
    """
    scale = qkv_BT3HE.shape[-1] ** -0.5 if scale is None else scale
    if band is not None:
        ranges = band.ranges(*qkv_BT3HE.shape[:2])
    mixed: Tensor = _Blocked.apply(  # type: ignore[no-untyped-call]
        qkv_BT3HE, None, bias_B1TT, causal, dropout, ranges, torch.is_grad_enabled(), added, scale, band
    )
    return mixed


def blocked_cross_attention(
    query_BTHE: Tensor, kv_BS2HE: Tensor, bias_B1TS: Tensor | None, dropout: float, scale: float | None = None
) -> Tensor:
    """Compute attention of queries to packed keys and values of other columns; returns [B, T, H·E]."""
    scale = query_BTHE.shape[-1] ** -0.5 if scale is None else scale
    mixed: Tensor = _Blocked.apply(  # type: ignore[no-untyped-call]
        query_BTHE, kv_BS2HE, bias_B1TS, False, dropout, None, torch.is_grad_enabled(), None, scale, None
    )
    return mixed


def blocked_prefix_attention(
    query_BTHE: Tensor,
    kv_BS2HE: Tensor,
    bias_B1TS: Tensor | None,
    causal: bool,
    dropout: float,
    ranges: Ranges | None = None,
    added: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute `blocked_attention` of columns that also see S − T more columns in front; returns [B, T, H·E]. bias,
    ranges, added: with these columns; causal: with the last query at the last key."""
    scale = query_BTHE.shape[-1] ** -0.5 if scale is None else scale
    mixed: Tensor = _Blocked.apply(  # type: ignore[no-untyped-call]
        query_BTHE, kv_BS2HE, bias_B1TS, causal, dropout, ranges, torch.is_grad_enabled(), added, scale, None
    )
    return mixed


def _parts(packed: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """Return queries, keys and values as views of the projections' outputs: [B, T or S, H, E] each."""
    return packed.unbind(2) if context is None else (packed, *context.unbind(2))


class _Weights:
    """Computes the attention weights of blocks, reusing one buffer."""

    def __init__(
        self,
        parts: tuple[Tensor, ...],
        bias: Tensor | None,
        causal: bool,
        blocks: list[_Block],
        added: Tensor | None,
        scale: float,
        band: Band | None,
    ) -> None:
        self.query, self.key, self.value = parts
        dtype = self.query.dtype
        self.bias, self.added = bias, None if added is None else added.to(dtype)
        self.scale = scale
        self.causal, self.band = causal, band
        most = max(block.queries.stop - block.queries.start for block in blocks)
        self.later = torch.full((most, most), -math.inf, dtype=dtype).triu_(1) if causal else None

    def fill(self, block: _Block, out_GQK: Tensor) -> Tensor:
        """Compute the weights of a block, before dropout."""
        query, key = block.of(self.query, block.queries), block.of(self.key, block.keys)
        torch.baddbmm(out_GQK, query, key.transpose(1, 2), beta=0, alpha=self.scale, out=out_GQK)
        if self.added is not None:
            out_GQK.add_(block.added_of(self.added))
        if self.later is not None:
            size = query.shape[1]
            out_GQK[:, :, -size:].add_(self.later[:size, :size])
        elif self.band is not None:
            out_GQK.add_(block.band_of(self.band))
        elif self.bias is not None:
            out_GQK.add_(block.bias_of(self.bias))
        return torch.softmax(out_GQK, -1, out=out_GQK)


def _shaped(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        packed: Tensor,
        context: Tensor | None,
        bias: Tensor | None,
        causal: bool,
        dropout: float,
        ranges: Ranges | None,
        with_grad: bool,
        added: Tensor | None,
        score_scale: float,
        band: Band | None,
    ) -> Tensor:
        parts = _parts(packed, context)
        B, T, H, E = parts[0].shape
        size = None if band is None else band.size
        blocks = _blocks(B, T, H, causal, ranges, None if context is None else context.shape[1], size)
        weights = _Weights(parts, bias, causal, blocks, added, score_scale, band)
        total, most = blocks[-1].stop, max(block.stop - block.start for block in blocks)
        keep = with_grad and parts[1].shape[1] <= KEEP
        scores = packed.new_empty(total if keep else most)
        bits = torch.empty(total if dropout else 0, dtype=torch.int8)
        dropped = packed.new_empty(most if dropout else 0)
        mixed = packed.new_empty(B, T, H, E)
        scale = 1 / (1 - rounded(dropout))
        for block in blocks:
            value = block.of(weights.value, block.keys)
            G, Q, K = len(value), block.queries.stop - block.queries.start, value.shape[1]
            used = weights.fill(block, _shaped(scores[block.start :] if keep else scores, G, Q, K))
            if dropout:
                mask = draw_kept(bits[block.start : block.stop], dropout).view(G, Q, K)
                used = _shaped(dropped, G, Q, K).copy_(mask).mul_(used)
            out = packed.new_empty(G, Q, E)
            block.of(mixed, block.queries).copy_(torch.baddbmm(out, used, value, beta=0, alpha=scale, out=out))
        if with_grad:
            ctx.save_for_backward(packed, context, bias, bits, scores if keep else None, added)
            ctx.blocks, ctx.causal, ctx.scale, ctx.most = blocks, causal, scale, most
            ctx.score_scale, ctx.band = score_scale, band
        return mixed.view(B, T, H * E)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        packed, context, bias, bits, scores, added = ctx.saved_tensors
        parts = _parts(packed, context)
        B, T, H, E = parts[0].shape
        blocks: list[_Block] = ctx.blocks
        weights = _Weights(parts, bias, ctx.causal, blocks, added, ctx.score_scale, ctx.band)
        grad_added = None
        if ctx.needs_input_grad[7]:
            grad_added = torch.zeros_like(added, dtype=torch.promote_types(added.dtype, torch.float32))
        grad = upstream[0].reshape(B, T, H, E)
        several = any(block.queries.start for block in blocks)
        # keys that several blocks of queries see get their gradient in several parts
        empty = torch.zeros_like if several else torch.empty_like
        grad_packed, grad_context = empty(packed), None if context is None else empty(context)
        grad_query, grad_key, grad_value = _parts(grad_packed, grad_context)
        buffers = [packed.new_empty(ctx.most) for _ in range(1 + (scores is None) + (len(bits) > 0))]
        for block in blocks:
            query, key = block.of(weights.query, block.queries), block.of(weights.key, block.keys)
            value, out = block.of(weights.value, block.keys), block.of(grad, block.queries)
            G, Q, K = len(query), query.shape[1], key.shape[1]
            if scores is None:
                weight = weights.fill(block, _shaped(buffers[1], G, Q, K))
            else:
                weight = _shaped(scores[block.start :], G, Q, K)
            error = _shaped(buffers[0], G, Q, K)
            torch.baddbmm(error, out, value.transpose(1, 2), beta=0, alpha=ctx.scale, out=error)
            used = weight
            if len(bits):
                used = _shaped(buffers[-1], G, Q, K).copy_(bits[block.start : block.stop].view(G, Q, K))
                error.mul_(used)
                used.mul_(weight)
            share = packed.new_empty(G, K, E)
            torch.baddbmm(share, used.transpose(1, 2), out, beta=0, alpha=ctx.scale, out=share)
            _put(block.of(grad_value, block.keys), share, several)
            torch.ops.aten._softmax_backward_data.out(error, weight, -1, weight.dtype, grad_input=error)
            if grad_added is not None:
                place = block.added_of(grad_added)
                place.add_(error if len(place) == G else error.sum(0, keepdim=True, dtype=place.dtype))
            torch.baddbmm(share, error.transpose(1, 2), query, beta=0, alpha=weights.scale, out=share)
            _put(block.of(grad_key, block.keys), share, several)
            own = packed.new_empty(G, Q, E)
            torch.baddbmm(own, error, key, beta=0, alpha=weights.scale, out=own)
            block.of(grad_query, block.queries).copy_(own)
        if grad_added is not None:
            grad_added = grad_added.to(added.dtype)
        return grad_packed, grad_context, None, None, None, None, None, grad_added, None, None


def _put(place: Tensor, share: Tensor, several: bool) -> None:
    if several:
        place.add_(share)
    else:
        place.copy_(share)
