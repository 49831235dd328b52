"""The parts of a Transformer layer: attention with an optional key/value cache, feed-forward, and their wiring.

Shapes: B rows, T columns, D width, H heads, G heads of keys and values (H, or a divisor of it), E width of a head, S
cached columns, P columns of a prefix.

         pre-norm                               post-norm
  x ──┬─ norm ─ attention ─ + ─┬─ …      x ──┬─ attention ─ + ─ norm ─┬─ …
      └─────────── · α ────────┘             └───── · α ────┘

A layer of a decoder has a third part between the two, wired alike: attention to the encoder's output (`model.cross`).
α is 1 except for DeepNorm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.kernels import Kernel, attend, prefix_attend, self_attend
from blankfill.attention.masks import Mask
from blankfill.attention.positions import NO_TERMS, PositionTerms, Rotation
from blankfill.kernels.dropout import add_dropped
from blankfill.kernels.feed_forward import can_fuse, feed_forward
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import CrossAttention, CrossInputs
from blankfill.model.dense import Fused, dense
from blankfill.model.norms import Norm, norm
from blankfill.model.relative import TransformerXLAttention

NO_POSITION = -(1 << 40)
"""The stored position of a prefix's columns, whose scores have no bias by distance."""


class KeyValues(ABC):
    """The stored keys and values of the columns already computed in one layer."""

    @abstractmethod
    def append(self, both_2BGQE: Tensor) -> tuple[Tensor, ...]:
        """Add the keys and values of new columns; returns those of all columns, [B, G, S + Q, E] each."""


class PositionedKeyValues(KeyValues):
    """Keys and values of a model whose scores have a bias by distance: positions are stored too.

    bias_table: the bias of each distance, computed on first use.
    """

    bias_table: Tensor | None

    @abstractmethod
    def append_positions(self, position_BQ: Tensor) -> Tensor:
        """Store the positions of the columns that are added next; returns the positions of all columns, int64[B, S +
        Q]."""


class ColumnOwners:
    """The rows of the buffers that hold the columns of each row: beams are reordered without moving keys and values.

    A new column of row b is written to row b of the buffers; a row that continues another one reads the columns before
    from the rows that hold them. Shared by the layers.
    """

    def __init__(self, rows: int, size: int, device: torch.device) -> None:
        self.table_BS = self._own(rows, device).repeat(1, size)
        """int32[B, S]."""

    def select(self, rows_K: Tensor, length: int) -> None:
        """Keep these rows, in this order; length: number of columns in use."""
        self.table_BS = self.table_BS[rows_K]
        self.table_BS[:, length:] = self._own(len(rows_K), rows_K.device)

    def gathered(self, buffer: Tensor, length: int) -> Tensor:
        """Return the keys and values of each row, [2, B, G, S, E], from a buffer."""
        columns = torch.arange(length, device=buffer.device)
        made: Tensor = buffer[:, self.table_BS[:, :length].long(), :, columns]
        return made.permute(2, 0, 3, 1, 4)

    @staticmethod
    def _own(rows: int, device: torch.device) -> Tensor:
        return torch.arange(rows, dtype=torch.int32, device=device)[:, None]


class LayerCache(PositionedKeyValues):
    """Keys and values of one layer for columns already computed, in a buffer allocated once: [2, B, G, S, E].

    positions: int64[B, S], positions of the columns, for a model whose scores have a bias by distance; bias_table: that
    bias for each distance, computed on first use. Only the first layer stores both. owners: the rows of the buffer that
    hold the columns; None where each row holds its own. The buffer may then have more rows than there are.
    """

    owners: ColumnOwners | None = None

    def __init__(
        self,
        rows: int,
        config: TransformerConfig,
        size: int,
        like: Tensor,
        first: bool = False,
        prefix_21GPE: Tensor | None = None,
    ) -> None:
        """prefix: columns that come first and that the cache begins with, beyond `size`."""
        if prefix_21GPE is not None:
            size += prefix_21GPE.shape[3]
        shape = (2, rows, config.kv_heads, size, config.head_width)
        self.kept = torch.empty(shape, dtype=like.dtype, device=like.device)
        keeps = first and config.relative_buckets > 0
        self.positions = torch.zeros((rows, size), dtype=torch.int64, device=like.device) if keeps else None
        self.bias_table: Tensor | None = None
        self.spare: Tensor | None = None
        """The unused buffer, to which the next selection is written."""
        self.length = 0
        if prefix_21GPE is not None:
            self.length = prefix_21GPE.shape[3]
            self.kept[:, :, :, : self.length] = prefix_21GPE
            if self.positions is not None:
                self.positions[:, : self.length] = NO_POSITION

    def append(self, both_2BGQE: Tensor) -> tuple[Tensor, ...]:
        """Add the keys and values of new columns; returns those of all columns, [B, G, S + Q, E] each."""
        _, end = self.extend(both_2BGQE.shape[3])
        into = self.kept.narrow(3, end - both_2BGQE.shape[3], both_2BGQE.shape[3])
        if self.owners is not None:
            into.narrow(1, 0, both_2BGQE.shape[1]).copy_(both_2BGQE)
            return self.owners.gathered(self.kept, end).unbind(0)
        into.copy_(both_2BGQE)
        return self.kept.narrow(3, 0, end).unbind(0)

    def extend(self, columns: int) -> tuple[int, int]:
        """Make room for new columns, which the caller writes to `active`; returns the first column that they see, and
        the end of the last one."""
        end = self.length + columns
        if end > self.kept.shape[3]:
            raise ValueError(f"the cache holds {self.kept.shape[3]} columns, {end} are needed")
        self.length = end
        return 0, end

    @property
    def active(self) -> Tensor:
        """The buffer, [2, rows, G, S, E]; its first rows are those in use."""
        return self.kept

    def append_positions(self, position_BQ: Tensor) -> Tensor:
        """Store the positions of the columns that are added next; returns the positions of all columns, int64[B, S +
        Q]."""
        assert self.positions is not None
        end = self.length + position_BQ.shape[1]
        self.positions[:, self.length : end] = position_BQ
        return self.positions[:, :end]

    def truncate(self, columns: int) -> None:
        """Drop the last columns."""
        self.length -= columns

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (beams); rows int64[B']. Columns not yet in use are not copied; with `owners`,
        which the caller changes, only the buffer grows."""
        buffer, target = self.kept, self.spare
        if self.owners is not None:
            if len(rows) > buffer.shape[1]:
                self.kept = buffer.new_empty(2, len(rows), *buffer.shape[2:])
                self.kept[:, : buffer.shape[1], :, : self.length] = buffer[:, :, :, : self.length]
            self.positions = None if self.positions is None else self.positions[rows]
            return
        if target is None or target.shape[1] != len(rows):
            target = buffer.new_empty(2, len(rows), *buffer.shape[2:])
        torch.index_select(buffer[:, :, :, : self.length], 1, rows, out=target[:, :, :, : self.length])
        self.kept, self.spare = target, buffer
        self.positions = None if self.positions is None else self.positions[rows]


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values, in this order."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.num_heads, config.kv_heads, config.head_width
        self.dropout = config.attention_dropout
        self.scale = None if config.scale_scores else 1.0
        self.kernel: Kernel = "sdpa"
        columns = config.attention_width + 2 * config.kv_width
        self.qkv = dense(config.hidden_size, columns, config.attention_bias)
        self.output = dense(config.attention_width, config.hidden_size, config.attention_bias)
        self.relative = TransformerXLAttention(config) if config.position_scheme == "relative" else None

    def forward(
        self,
        hidden_BTD: Tensor,
        mask: Mask,
        terms: PositionTerms = NO_TERMS,
        cache: KeyValues | None = None,
        prefix_BP2GE: Tensor | None = None,
    ) -> Tensor:
        """Attend with the mask and the position terms of the layer's kind. prefix: keys and values before those of the
        columns, of which mask and bias have the columns already; a cache holds its own."""
        B, T, _ = hidden_BTD.shape
        dropout = self.dropout if self.training else 0.0
        qkv = self.qkv(hidden_BTD)
        plain = cache is None and prefix_BP2GE is None
        if plain and self.relative is None and self.kv_heads == self.heads:
            qkv_BT3HE = qkv.view(B, T, 3, self.heads, self.width)
            if terms.rotation is not None:
                qkv_BT3HE = terms.rotation.rotate_packed(qkv_BT3HE)
            out: Tensor = self.output(self_attend(qkv_BT3HE, mask, dropout, self.kernel, self.scale, terms.bias))
            return out
        query_BTHE, both_BT2GE = self.split(qkv)
        if terms.rotation is not None:
            query_BTHE, both_BT2GE = rotated(terms.rotation, query_BTHE, both_BT2GE)
        query, bias = query_BTHE.transpose(1, 2), terms.bias
        if self.relative is not None:
            if cache is not None or terms.distances is None:
                raise ValueError("relative positions need the distances of all columns, and do not support a cache")
            query, bias = self.relative(query, terms.distances)
        if prefix_BP2GE is not None and cache is None:
            if self.relative is not None and bias is not None:
                bias = F.pad(bias, (prefix_BP2GE.shape[1], 0))
            both_BK2GE = torch.cat([prefix_BP2GE.to(both_BT2GE.dtype).expand(B, -1, -1, -1, -1), both_BT2GE], 1)
            query_BTHE = query.transpose(1, 2)
            made: Tensor = self.output(
                prefix_attend(query_BTHE, both_BK2GE, mask, dropout, self.kernel, self.scale, bias)
            )
            return made
        both_2BGTE = both_BT2GE.permute(2, 0, 3, 1, 4)
        key, value = both_2BGTE if cache is None else cache.append(both_2BGTE)
        mixed = attend(query, key, value, mask, dropout, self.kernel, bias, self.scale)
        out_BTD: Tensor = self.output(mixed.transpose(1, 2).reshape(B, T, self.heads * self.width))
        return out_BTD

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Split the projection's output [B, T, columns] into queries [B, T, H, E], and keys and values [B, T, 2, G,
        E]."""
        B, T, _ = qkv.shape
        # not slices, whose gradients are as large as all three
        query, both = qkv.view(B, T, -1, self.width).split_with_sizes((self.heads, 2 * self.kv_heads), 2)
        return query, both.view(B, T, 2, self.kv_heads, self.width)


def rotated(rotation: Rotation, query_BTHE: Tensor, both_BT2GE: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys; values stay as they are."""
    key, value = both_BT2GE.unbind(2)
    return rotation.rotate(query_BTHE), torch.stack([rotation.rotate(key), value], 2)


class FeedForward(nn.Module):
    """Dense, activation, dense. Gated: the first dense layer has twice as many columns, and the activation of the first
    half is multiplied with the second half."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        self.dropout = config.dropout if config.more_dropout else 0.0
        self.inner = dense(config.hidden_size, config.ffn_size * (2 if config.gated else 1), config.ffn_bias)
        self.output = dense(config.ffn_size, config.hidden_size, config.ffn_bias)
        # computing the erf GELU again takes longer than reading its output
        self.fused = config.gated or config.activation != "gelu"

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        drop = self.dropout if self.training else 0.0
        if self.training and self.fused and can_fuse(hidden_BTD, self.inner, self.output):
            return feed_forward(hidden_BTD, self.inner, self.output, self.activation, self.gated, drop)
        if not self.gated and isinstance(self.inner, Fused):
            out_BTD: Tensor = self.output(dropout(self.inner.activated(hidden_BTD, self.activation), drop))
            return out_BTD
        made = self.inner(hidden_BTD)
        if self.gated:
            chosen, other = made.chunk(2, -1)
            made = activate(chosen, self.activation) * other
        else:
            made = activate(made, self.activation)
        out: Tensor = self.output(dropout(made, drop))
        return out


class Layer(nn.Module):
    """Attention and feed-forward with residuals, norms and dropout.

    index: number of the layer in its stack, from 0. cross: whether it also attends to a context. A layer may lack parts
    that all layers share (`TransformerConfig.shared`): it is called with the first layer, which has them.
    """

    def __init__(self, config: TransformerConfig, index: int = 0, cross: bool = False) -> None:
        super().__init__()
        self.index = index
        self.pre = config.norm == "pre"
        self.residual_scale = config.alpha
        self.dropout = config.dropout
        has_attention = index == 0 or config.shared not in ("all", "attention")
        has_norm = has_attention and (index > 0 or config.first_attention_norm)
        has_ffn = index == 0 or config.shared not in ("all", "ffn")
        self.attention = Attention(config) if has_attention else None
        self.attention_norm = norm(config, config.hidden_size) if has_norm else None
        self.cross = CrossAttention(config) if cross else None
        self.cross_norm = norm(config, config.hidden_size) if cross else None
        self.ffn = FeedForward(config) if has_ffn else None
        self.ffn_norm = norm(config, config.hidden_size) if has_ffn else None

    def forward(
        self,
        hidden_BTD: Tensor,
        mask: Mask,
        terms: PositionTerms = NO_TERMS,
        cache: KeyValues | None = None,
        encoded: CrossInputs | None = None,
        first: Layer | None = None,
        prefix_BP2GE: Tensor | None = None,
    ) -> Tensor:
        """mask, terms: those of the layer's kind. encoded: the context, for a layer that attends to one. first: the
        first layer, for a layer that lacks parts. prefix: see `Attention.forward`."""
        drop = self.dropout if self.training else 0.0
        attention, attention_norm, ffn, ffn_norm = self.parts(first)
        steps: list[Sublayer] = [
            (attention_norm, lambda x, residual: add(residual, attention(x, mask, terms, cache, prefix_BP2GE), drop)),
            (ffn_norm, lambda x, residual: add(residual, ffn(x), drop)),
        ]
        if (cross := self.cross) is not None:
            steps.insert(1, (self.cross_norm, lambda x, residual: add(residual, cross(x, encoded), drop)))
        return through(hidden_BTD, steps, self.pre, self.residual_scale)

    def parts(self, first: Layer | None) -> tuple[Attention, Norm | None, FeedForward, Norm | None]:
        """Return attention, feed-forward and their norms: the layer's own, or those shared with the first layer."""
        attention, attention_norm, ffn, ffn_norm = self.attention, self.attention_norm, self.ffn, self.ffn_norm
        if attention is None and first is not None:
            attention, attention_norm = first.attention, first.attention_norm
        if ffn is None and first is not None:
            ffn, ffn_norm = first.ffn, first.ffn_norm
        assert attention is not None and ffn is not None
        return attention, attention_norm, ffn, ffn_norm


Sublayer = tuple[Callable[[Tensor], Tensor] | None, Callable[..., Tensor]]
"""A sublayer for `through`: its norm, if it has one, and its step, which computes on its first argument and adds the
result to the residual, its second argument."""


def through(x: Tensor, sublayers: Iterable[Sublayer], pre: bool, scale: float, *given: Any) -> Tensor:
    """Pass x through sublayers. pre: whether norms come before the sublayers, not after; scale: α above; given: further
    arguments of each step."""
    for normed, step in sublayers:
        residual = x if scale == 1 else x * scale
        if pre:
            x = step(x if normed is None else normed(x), residual, *given)
        else:
            x = step(x, residual, *given)
            x = x if normed is None else normed(x)
    return x


def dropout(x: Tensor, probability: float) -> Tensor:
    """Apply dropout; without a cost when the probability is 0."""
    if not probability:
        return x
    return add_dropped(None, x, probability) if x.device.type == "cpu" else F.dropout(x, probability)


def add(residual: Tensor, x: Tensor, probability: float) -> Tensor:
    """Return residual + dropout(x)."""
    if probability and x.device.type == "cpu":
        return add_dropped(residual, x, probability)
    return residual + dropout(x, probability)


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation with a name of `TransformerConfig.activation`."""
    if name == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if name == "silu":
        return F.silu(x)
    return F.gelu(x) if name == "gelu" else F.relu(x)
