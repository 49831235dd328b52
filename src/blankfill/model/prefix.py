"""Learnt keys and values before those of a row, in every layer (prefix-tuning, Li and Liang 2021; P-tuning v2, Liu et
al. 2022; ChatGLM's `PrefixEncoder`).

Every query sees all columns of the prefix, in every segment of a packed row and through every window; padding sees them
too. The prefix has no positions: its keys are not rotated, the bias of distances is 0 there, and the positions of the
row are those without a prefix. A model with two stacks has a prefix in both (Li and Liang 2021, §4.1); attention to the
context has none.

Not here: how attention computes with a prefix (`attention.kernels`, `attention.masks`), and training (`adapt.prefix`).

Shapes: P columns of the prefix, N layers of all stacks, G heads of keys and values, E width of a head, B rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.embeddings import table
from blankfill.model.layers import dropout


@dataclass(frozen=True)
class PrefixShape:
    """length: P. projection: width of the layer between the embedding and the keys and values; 0: the embedding holds
    these themselves. dropout: probability of dropping a number in training."""

    length: int
    projection: int = 0
    dropout: float = 0.0


class PrefixEncoder(nn.Module):
    """The prefix of all layers: an embedding [P, 2·N·G·E], or with a projection [P, D], dense, tanh, dense.

    A row is read as [2·N, G, E]: of layer k, 2·k is the key and 2·k + 1 the value; the encoder's layers are the first.
    """

    def __init__(self, config: TransformerConfig, shape: PrefixShape) -> None:
        super().__init__()
        self.shape, self.heads, self.width = shape, config.kv_heads, config.head_width
        self.layers = config.encoder_layers + config.num_layers
        columns = 2 * self.layers * config.kv_width
        inner = shape.projection
        self.embedding = table(shape.length, config.hidden_size if inner else columns)
        self.projection = (
            nn.Sequential(dense(config.hidden_size, inner), nn.Tanh(), dense(inner, columns)) if inner else None
        )  # fmt: skip

    @property
    def table(self) -> Tensor:
        """The keys and values of all layers before dropout, [P, 2·N·G·E]."""
        made: Tensor = self.embedding.weight if self.projection is None else self.projection(self.embedding.weight)
        return made

    def forward(self, rows: int, dtype: torch.dtype) -> list[Tensor]:
        """Return the keys and values of every layer, [B, P, 2, G, E] each; with dropout drawn for each of `rows` rows,
        else with B = 1."""
        table_BPC = self.table[None]
        if self.training and self.shape.dropout:
            table_BPC = dropout(table_BPC.repeat(rows, 1, 1), self.shape.dropout)
        shape = (self.layers, 2, self.heads, self.width)
        return list(table_BPC.to(dtype).unflatten(-1, shape).unbind(2))


def cached_form(prefix_1P2GE: Tensor) -> Tensor:
    """Return the keys and values of a layer as a cache stores them, [2, 1, G, P, E]."""
    return prefix_1P2GE.permute(2, 0, 3, 1, 4)
