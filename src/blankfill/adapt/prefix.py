"""P-tuning v2 (Liu et al. 2022) and prefix-tuning (Li and Liang 2021): a frozen model with a prefix that learns.

A module transform: `add_prefix` freezes a Transformer and gives it a `PrefixEncoder`; `compute_prefix` puts the keys
and values that a projection makes in place of the projection, which compute the same and need no computation.
"""

from __future__ import annotations

import torch
from torch import nn

from blankfill.model.dense import dense_layers
from blankfill.model.draw import Rule
from blankfill.model.initial import draw_weights
from blankfill.model.prefix import PrefixEncoder, PrefixShape
from blankfill.model.transformer import Transformer

NAME = "prefix_encoder"
"""The module's name in its model."""


def add_prefix(model: Transformer, shape: PrefixShape, seed: int = 0) -> None:
    """Freeze a model, its output embeddings too, and give it a prefix, which learns.

    Weights are drawn as torch does by default, as in the released code: the embedding from N(0, 1), dense layers of the
    projection uniformly up to 1/√inputs; each by the seed and its name (`model.draw`).
    """
    model.requires_grad_(False)
    with torch.device("meta"):
        prefix = PrefixEncoder(model.config, shape)
    device = model.device
    if device.type != "meta":
        prefix.to_empty(device=device)
    rules = {"embedding.weight": Rule("normal", 1.0)}
    for name, layer in dense_layers(prefix):
        reach = layer.in_features**-0.5
        rules |= {f"{name}.{part}": Rule("uniform", reach) for part in ("weight", "bias")}
    draw_weights(prefix, rules, seed, f"{NAME}.")
    model.prefix_encoder = prefix.train(model.training)


@torch.no_grad()
def compute_prefix(model: Transformer) -> None:
    """Replace a projection by the keys and values that it makes."""
    prefix = model.prefix_encoder
    if prefix is None or prefix.projection is None:
        return
    with torch.device("meta"):
        plain = PrefixEncoder(model.config, PrefixShape(prefix.shape.length, 0, prefix.shape.dropout))
    plain.embedding.weight = nn.Parameter(prefix.table.detach())
    model.prefix_encoder = plain.train(prefix.training)
