"""The original GLM's way of training, as a stand-in to be timed: dense mask, logits at every position, loss over all.

The layers are written with torch's modules as the released code has them (pre-norm, tanh GELU, attention as matmul,
mask, softmax, dropout, matmul; logits of all B·T positions against the tied word table; cross-entropy of all positions,
times a mask of the targets). This code is not part of the program.

Shapes: B rows, T columns, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig
from blankfill.types import Batch

HIDDEN = -10000.0
"""Score of invisible columns."""


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.attention_dropout = config.num_heads, config.attention_dropout
        self.norms = nn.ModuleList(nn.LayerNorm(D, config.norm_eps) for _ in range(2))
        self.qkv, self.dense = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.inner, self.outer = nn.Linear(D, config.ffn_size), nn.Linear(config.ffn_size, D)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BTD: Tensor, visible_B1TT: Tensor) -> Tensor:
        B, T, D = hidden_BTD.shape
        query, key, value = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2)
            for part in self.qkv(self.norms[0](hidden_BTD)).chunk(3, -1)
        )
        scores = query @ (key / (D // self.heads) ** 0.5).transpose(-1, -2)
        scores = scores * visible_B1TT + HIDDEN * (1.0 - visible_B1TT)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        mixed = (weights @ value).transpose(1, 2).reshape(B, T, D)
        hidden_BTD = hidden_BTD + self.dropout(self.dense(mixed))
        inner = F.gelu(self.inner(self.norms[1](hidden_BTD)), approximate="tanh")
        return hidden_BTD + self.dropout(self.outer(inner))


class FullLogitGlm(nn.Module):
    """The model with its loss."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.ModuleList(nn.Embedding(size, config.hidden_size) for size in config.position_sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=config.init_std)

    @staticmethod
    def inputs(batch: Batch) -> dict[str, Tensor]:
        """Return what `forward` takes, from one of our batches."""
        visible = (batch.segment[:, :, None] == batch.segment[:, None, :]) & (
            batch.rank[:, None, :] <= batch.horizon[:, :, None]
        )
        targets, is_target = torch.zeros_like(batch.input_ids), torch.zeros(batch.input_ids.shape)
        targets.view(-1)[batch.target_index] = batch.target_ids
        is_target.view(-1)[batch.target_index] = 1.0
        return {
            "input_ids": batch.input_ids, "positions": batch.positions, "visible": visible[:, None].float(),
            "targets": targets, "is_target": is_target,
        }  # fmt: skip

    def forward(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, targets: Tensor, is_target: Tensor
    ) -> SimpleNamespace:
        hidden_BTD = self.token_embeddings(input_ids)
        for table, channel in zip(self.positions, positions, strict=True):
            hidden_BTD = hidden_BTD + table(channel)
        hidden_BTD = self.dropout(hidden_BTD)
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, visible)
        logits_BTV = F.linear(self.norm(hidden_BTD), self.token_embeddings.weight)
        losses = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets.flatten(), reduction="none")
        return SimpleNamespace(loss=(losses * is_target.flatten()).sum() / is_target.sum())
