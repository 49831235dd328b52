"""Attention of a decoder's columns to the encoder's output for a context (Vaswani et al. 2017, §3.2.3).

Several adjacent rows of the decoder may share a context (beams); its keys and values are then stored and read once for
all of them.

Shapes: B rows, Q columns of the decoder, C contexts (B, or a divisor of it), S columns of a context, D width, H heads,
E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blankfill.attention.kernels import Kernel, attend, cross_attend
from blankfill.attention.masks import Mask
from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense


@dataclass(frozen=True)
class CrossInputs:
    """The input of one layer: the encoder's output [B, S, D], or the layer's keys and values of it, [B, H, S, E] each,
    where they exist already."""

    hidden: Tensor
    mask: Mask
    keys_values: tuple[Tensor, Tensor] | None = None


@dataclass
class EncoderOutput:
    """The encoder's output for the contexts of a batch, [B, S, D], for all layers of the decoder.

    mask: the columns of the context that each column of the decoder sees. keys_values: those of every layer, each
    [B, H, S, E], when the decoder runs many times.
    """

    hidden: Tensor
    mask: Mask
    keys_values: Sequence[tuple[Tensor, Tensor]] | None = None

    def of(self, layer: int) -> CrossInputs:
        """Return the input of a layer of the decoder."""
        return CrossInputs(self.hidden, self.mask, None if self.keys_values is None else self.keys_values[layer])

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order, repeats allowed (beams); int64[B']."""
        self.hidden = self.hidden[rows]
        if self.mask.bias is not None:
            self.mask = Mask(self.mask.kind, self.mask.bias[rows])
        if self.keys_values is not None:
            self.keys_values = [(key[rows], value[rows]) for key, value in self.keys_values]


def side_by_side(parts: Sequence[tuple[Sequence[int], EncoderOutput]]) -> EncoderOutput:
    """Join outputs for some contexts each, with invisible padding. Each comes with the indices of its contexts among
    all, and with the keys and values of all layers."""
    rows = sum(len(places) for places, _ in parts)
    width = max(part.hidden.shape[1] for _, part in parts)
    first = parts[0][1]
    assert first.keys_values is not None

    def whole(like: Tensor, columns: int) -> Tensor:
        shape = [rows, *like.shape[1:]]
        shape[columns] = width
        return like.new_zeros(shape)

    hidden = whole(first.hidden, 1)
    bias = first.hidden.new_full((rows, 1, 1, width), float("-inf"))
    keys_values = [(whole(key, 2), whole(value, 2)) for key, value in first.keys_values]
    for places, part in parts:
        size = part.hidden.shape[1]
        hidden[places, :size] = part.hidden
        bias[places, ..., :size] = 0.0 if part.mask.bias is None else part.mask.bias
        for wholes, parts_of in zip(keys_values, part.keys_values or (), strict=True):
            for into, made in zip(wholes, parts_of, strict=True):
                into[places, :, :size] = made
    return EncoderOutput(hidden, Mask("dense", bias), keys_values)


class CrossAttention(nn.Module):
    """Multi-head attention with queries of one stack, and keys and values of the other's output."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_heads, config.head_width
        self.dropout = config.attention_dropout
        self.scale = None if config.scale_scores else 1.0
        self.kernel: Kernel = "sdpa"
        self.query = dense(config.hidden_size, config.attention_width, config.attention_bias)
        self.key_value = dense(config.hidden_size, 2 * config.attention_width, config.attention_bias)
        self.output = dense(config.attention_width, config.hidden_size, config.attention_bias)

    def keys_values(self, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values of the encoder's output, [B, H, S, E] each."""
        key, value = self._packed(hidden_BSD).permute(2, 0, 3, 1, 4)
        return key, value

    def _packed(self, hidden_BSD: Tensor) -> Tensor:
        """Compute both side by side, [B, S, 2, H, E]."""
        out: Tensor = self.key_value(hidden_BSD).view(*hidden_BSD.shape[:2], 2, self.heads, self.width)
        return out

    def forward(self, hidden_BQD: Tensor, encoded: CrossInputs | None) -> Tensor:
        """Attend to `encoded`. Raises ValueError without it."""
        if encoded is None:
            raise ValueError("this model needs a context, and the batch has none")
        B, Q, _ = hidden_BQD.shape
        dropout = self.dropout if self.training else 0.0
        query = self.query(hidden_BQD)
        if encoded.keys_values is None and len(encoded.hidden) == B:
            query, kv = query.view(B, Q, self.heads, self.width), self._packed(encoded.hidden)
            out: Tensor = self.output(cross_attend(query, kv, encoded.mask, dropout, self.kernel, self.scale))
            return out
        key, value = encoded.keys_values or self.keys_values(encoded.hidden)
        C = len(key)  # rows that share a context become columns of one row
        query = query.view(C, B // C * Q, self.heads, self.width).transpose(1, 2)
        mixed = attend(query, key, value, encoded.mask, dropout, self.kernel, scale=self.scale)
        out_BQD: Tensor = self.output(mixed.transpose(1, 2).reshape(B, Q, self.heads * self.width))
        return out_BQD


@torch.no_grad()
def all_keys_values(parts: Sequence[CrossAttention], hidden_BSD: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Compute the keys and values of every layer, contiguous for each layer, so that each step reads them in order."""
    return [(key.contiguous(), value.contiguous()) for key, value in (part.keys_values(hidden_BSD) for part in parts)]
