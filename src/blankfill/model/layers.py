"""The parts of a Transformer layer: attention with an optional key/value cache, feed-forward, and their wiring.

Shapes: B rows, T columns, D width, H heads, E = D/H, S cached columns.

         pre-norm                               post-norm
  x ──┬─ norm ─ attention ─ + ─┬─ …      x ──┬─ attention ─ + ─ norm ─┬─ …
      └────────────────────────┘             └──────────────┘
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.dropout import add_dropped
from blankfill.attention.kernels import Kernel, Mask, attend, self_attend
from blankfill.model.config import TransformerConfig
from blankfill.model.fused import can_fuse, feed_forward
from blankfill.model.relative import RelativeTerms


class LayerCache:
    """Keys and values of one layer for columns already computed, in buffers made once: [B, H, S, E]."""

    def __init__(self, rows: int, config: TransformerConfig, size: int, like: Tensor) -> None:
        shape = (rows, config.num_heads, size, config.hidden_size // config.num_heads)
        self.key = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.value = torch.empty_like(self.key)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add new columns; returns all of them."""
        end = self.length + key.shape[2]
        if end > self.key.shape[2]:
            raise ValueError(f"the cache holds {self.key.shape[2]} columns, {end} are needed")
        self.key[:, :, self.length : end] = key
        self.value[:, :, self.length : end] = value
        self.length = end
        return self.key[:, :, :end], self.value[:, :, :end]

    def forget(self, columns: int) -> None:
        """Drop the last columns."""
        self.length -= columns

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (beams); rows int64[B']."""
        self.key, self.value = self.key[rows], self.value[rows]


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.dropout = config.attention_dropout
        self.kernel: Kernel = "sdpa"
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, config.attention_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, config.attention_bias)
        self.relative = RelativeTerms(config) if config.position_scheme == "relative" else None

    def forward(self, hidden_BTD: Tensor, mask: Mask, cache: LayerCache | None = None) -> Tensor:
        B, T, D = hidden_BTD.shape
        dropout = self.dropout if self.training else 0.0
        qkv_BT3HE = self.qkv(hidden_BTD).view(B, T, 3, self.heads, D // self.heads)
        if cache is None and self.relative is None:
            return self.output(self_attend(qkv_BT3HE, mask, dropout, self.kernel))
        query, key, value = qkv_BT3HE.permute(2, 0, 3, 1, 4)
        added = None
        if self.relative is not None:
            if cache is not None or mask.distances is None:
                raise ValueError("relative positions need the distances of all columns, and know no cache")
            query, added = self.relative(query, mask.distances)
        if cache is not None:
            key, value = cache.append(key, value)
        mixed = attend(query, key, value, mask, dropout, self.kernel, added)
        return self.output(mixed.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """Dense, activation, dense."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.inner = nn.Linear(config.hidden_size, config.ffn_size)
        self.output = nn.Linear(config.ffn_size, config.hidden_size)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        if self.training and self.activation == "gelu_tanh" and can_fuse(hidden_BTD, self.inner, self.output):
            return feed_forward(hidden_BTD, self.inner, self.output)
        return self.output(activate(self.inner(hidden_BTD), self.activation))


class Layer(nn.Module):
    """Attention and feed-forward with residuals, norms and dropout.

    first: the model's first layer, for one that has parts in common with it (`TransformerConfig.shared`). Such parts
    are used and not owned: weights, names, moves to a device and transforms of modules find each once, in the first.
    """

    def __init__(self, config: TransformerConfig, first: Layer | None = None) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.dropout = config.dropout
        self.attention: Attention
        self.attention_norm: nn.LayerNorm
        self.ffn: FeedForward
        self.ffn_norm: nn.LayerNorm
        if first is not None and config.shared in ("all", "attention"):
            self._use(first, "attention", "attention_norm")
        else:
            self.attention = Attention(config)
            self.attention_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        if first is not None and config.shared in ("all", "ffn"):
            self._use(first, "ffn", "ffn_norm")
        else:
            self.ffn = FeedForward(config)
            self.ffn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def _use(self, first: Layer, *parts: str) -> None:
        for part in parts:
            self.__dict__[part] = getattr(first, part)  # past `nn.Module.__setattr__`, which would own it

    def forward(self, hidden_BTD: Tensor, mask: Mask, cache: LayerCache | None = None) -> Tensor:
        drop = self.dropout if self.training else 0.0
        if self.pre:
            hidden_BTD = add(hidden_BTD, self.attention(self.attention_norm(hidden_BTD), mask, cache), drop)
            return add(hidden_BTD, self.ffn(self.ffn_norm(hidden_BTD)), drop)
        hidden_BTD = self.attention_norm(add(hidden_BTD, self.attention(hidden_BTD, mask, cache), drop))
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
