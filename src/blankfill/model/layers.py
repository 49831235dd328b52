"""The parts of a Transformer layer: attention with an optional key/value cache, feed-forward, and their wiring.

Shapes: B rows, T columns, D width, H heads, E width of a head, S cached columns.

         pre-norm                               post-norm
  x ──┬─ norm ─ attention ─ + ─┬─ …      x ──┬─ attention ─ + ─ norm ─┬─ …
      └────────────────────────┘             └──────────────┘

A layer of a decoder has a part more between the two, in the same wiring: attention to what the encoder made of the
context (`model.cross`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.kernels import Kernel, Mask, attend, self_attend
from blankfill.kernels.dropout import add_dropped
from blankfill.kernels.feed_forward import can_fuse, feed_forward
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import CrossAttention, Seen
from blankfill.model.dense import dense
from blankfill.model.norms import Norm, norm
from blankfill.model.relative import RelativeTerms


class KeyValues(ABC):
    """What a layer keeps of the columns already computed."""

    @abstractmethod
    def append(self, both_2BHQE: Tensor) -> tuple[Tensor, ...]:
        """Add the keys and values of new columns; returns those of all, [B, H, S + Q, E] each."""


class LayerCache(KeyValues):
    """Keys and values of one layer for columns already computed, in a buffer made once: [2, B, H, S, E].

    places: int64[B, S], where the columns stand, for a model that adds to its scores by their distances; worth: what
    each distance adds, once it was asked for. Both are kept by the first layer alone.
    """

    def __init__(self, rows: int, config: TransformerConfig, size: int, like: Tensor, first: bool = False) -> None:
        shape = (2, rows, config.num_heads, size, config.head_width)
        self.kept = torch.empty(shape, dtype=like.dtype, device=like.device)
        keeps = first and config.relative_buckets > 0
        self.places = torch.zeros((rows, size), dtype=torch.int64, device=like.device) if keeps else None
        self.worth: Tensor | None = None
        self.spare: Tensor | None = None
        """The buffer no longer in use, which the next selection is written to."""
        self.length = 0

    def append(self, both_2BHQE: Tensor) -> tuple[Tensor, ...]:
        """Add the keys and values of new columns; returns those of all, [B, H, S + Q, E] each."""
        columns = both_2BHQE.shape[3]
        end = self.length + columns
        if end > self.kept.shape[3]:
            raise ValueError(f"the cache holds {self.kept.shape[3]} columns, {end} are needed")
        self.kept.narrow(3, self.length, columns).copy_(both_2BHQE)
        self.length = end
        return self.kept.narrow(3, 0, end).unbind(0)

    def stand(self, places_BQ: Tensor) -> Tensor:
        """Note where the columns stand that are added next; returns the places of all, int64[B, S + Q]."""
        assert self.places is not None
        end = self.length + places_BQ.shape[1]
        self.places[:, self.length : end] = places_BQ
        return self.places[:, :end]

    def forget(self, columns: int) -> None:
        """Drop the last columns."""
        self.length -= columns

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (beams); rows int64[B']. Columns not yet in use are not copied."""
        buffer, target = self.kept, self.spare
        if target is None or target.shape[1] != len(rows):
            target = buffer.new_empty(2, len(rows), *buffer.shape[2:])
        torch.index_select(buffer[:, :, :, : self.length], 1, rows, out=target[:, :, :, : self.length])
        self.kept, self.spare = target, buffer
        self.places = None if self.places is None else self.places[rows]


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_heads, config.head_width
        self.dropout = config.attention_dropout
        self.scale = None if config.scale_scores else 1.0
        self.kernel: Kernel = "sdpa"
        self.qkv = dense(config.hidden_size, 3 * config.attention_width, config.attention_bias)
        self.output = dense(config.attention_width, config.hidden_size, config.attention_bias)
        self.relative = RelativeTerms(config) if config.position_scheme == "relative" else None

    def forward(self, hidden_BTD: Tensor, mask: Mask, cache: KeyValues | None = None) -> Tensor:
        B, T, _ = hidden_BTD.shape
        dropout = self.dropout if self.training else 0.0
        qkv_BT3HE = self.qkv(hidden_BTD).view(B, T, 3, self.heads, self.width)
        if cache is None and self.relative is None:
            return self.output(self_attend(qkv_BT3HE, mask, dropout, self.kernel, self.scale))
        made_3BHTE = qkv_BT3HE.permute(2, 0, 3, 1, 4)
        query, key, value = made_3BHTE
        added = mask.added
        if self.relative is not None:
            if cache is not None or mask.distances is None:
                raise ValueError("relative positions need the distances of all columns, and know no cache")
            query, added = self.relative(query, mask.distances)
        if cache is not None:
            key, value = cache.append(made_3BHTE[1:])
        mixed = attend(query, key, value, mask, dropout, self.kernel, added, self.scale)
        return self.output(mixed.transpose(1, 2).reshape(B, T, self.heads * self.width))


class FeedForward(nn.Module):
    """Dense, activation, dense; gated, the first makes twice as many columns, and the activation of the first half is
    multiplied with the second."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        self.dropout = config.dropout if config.more_dropout else 0.0
        self.inner = dense(config.hidden_size, config.ffn_size * (2 if config.gated else 1), config.ffn_bias)
        self.output = dense(config.ffn_size, config.hidden_size, config.ffn_bias)
        # the erf GELU takes longer to compute again than its output to read
        self.fused = config.gated or config.activation != "gelu"

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        drop = self.dropout if self.training else 0.0
        if self.training and self.fused and can_fuse(hidden_BTD, self.inner, self.output):
            return feed_forward(hidden_BTD, self.inner, self.output, self.activation, self.gated, drop)
        made = self.inner(hidden_BTD)
        if self.gated:
            chosen, other = made.chunk(2, -1)
            made = activate(chosen, self.activation) * other
        else:
            made = activate(made, self.activation)
        return self.output(dropout(made, drop))


class Layer(nn.Module):
    """Attention and feed-forward with residuals, norms and dropout.

    first: the model's first layer, for one that has parts in common with it (`TransformerConfig.shared`). Such parts
    are used and not owned: weights, names, moves to a device and transforms of modules find each once, in the first.
    cross: whether it attends to a context too.
    """

    def __init__(self, config: TransformerConfig, first: Layer | None = None, cross: bool = False) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.dropout = config.dropout
        self.attention: Attention
        self.attention_norm: Norm
        self.ffn: FeedForward
        self.ffn_norm: Norm
        if first is not None and config.shared in ("all", "attention"):
            self._use(first, "attention", "attention_norm")
        else:
            self.attention = Attention(config)
            self.attention_norm = norm(config, config.hidden_size)
        self.cross = CrossAttention(config) if cross else None
        self.cross_norm = norm(config, config.hidden_size) if cross else None
        if first is not None and config.shared in ("all", "ffn"):
            self._use(first, "ffn", "ffn_norm")
        else:
            self.ffn = FeedForward(config)
            self.ffn_norm = norm(config, config.hidden_size)

    def _use(self, first: Layer, *parts: str) -> None:
        for part in parts:
            self.__dict__[part] = getattr(first, part)  # past `nn.Module.__setattr__`, which would own it

    def forward(
        self, hidden_BTD: Tensor, mask: Mask, cache: KeyValues | None = None, seen: Seen | None = None
    ) -> Tensor:
        """seen: of the context, for a layer that attends to one."""
        drop = self.dropout if self.training else 0.0
        if self.pre:
            hidden_BTD = add(hidden_BTD, self.attention(self.attention_norm(hidden_BTD), mask, cache), drop)
            if self.cross is not None and self.cross_norm is not None:
                hidden_BTD = add(hidden_BTD, self.cross(self.cross_norm(hidden_BTD), seen), drop)
            return add(hidden_BTD, self.ffn(self.ffn_norm(hidden_BTD)), drop)
        hidden_BTD = self.attention_norm(add(hidden_BTD, self.attention(hidden_BTD, mask, cache), drop))
        if self.cross is not None and self.cross_norm is not None:
            hidden_BTD = self.cross_norm(add(hidden_BTD, self.cross(hidden_BTD, seen), drop))
        return self.ffn_norm(add(hidden_BTD, self.ffn(hidden_BTD), drop))


def dropout(x: Tensor, probability: float) -> Tensor:
    """Dropout that costs nothing when the probability is 0."""
    if not probability:
        return x
    return add_dropped(None, x, probability) if x.device.type == "cpu" else F.dropout(x, probability)


def add(residual: Tensor, x: Tensor, probability: float) -> Tensor:
    """residual + dropout(x)."""
    if probability and x.device.type == "cpu":
        return add_dropped(residual, x, probability)
    return residual + dropout(x, probability)


def activate(x: Tensor, name: str) -> Tensor:
    """The activation of a name of `TransformerConfig.activation`."""
    if name == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if name == "silu":
        return F.silu(x)
    return F.gelu(x) if name == "gelu" else F.relu(x)
