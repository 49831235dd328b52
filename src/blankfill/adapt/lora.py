"""LoRA (Hu et al. 2021): dense layers that learn by a product of two thin matrices beside their frozen weight.

A module transform: `add_lora` replaces the dense modules of the layers of a Transformer's stacks, `merge_lora` puts
the plain ones back with the product added, which compute the same.

Shapes: I inputs, O outputs, r rank.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.model.dense import Dense, dense, replace_dense
from blankfill.model.draw import Rule, draw_into
from blankfill.model.layers import Layer
from blankfill.model.quantized import float_weight
from blankfill.model.transformer import Transformer

ALPHA = 2.0
"""The product counts this much for rank 1 … r: α/r of the paper with α = 2r, as is usual."""
PARTS = (
    "attention.qkv", "attention.output", "cross.query", "cross.key_value", "cross.output", "ffn.inner", "ffn.output",
)  # fmt: skip
"""The dense modules of a layer that are adapted; a layer without a context has no cross-attention."""


class LoraLinear(nn.Module):
    """base(x) + ALPHA · (dropout(x) · downᵀ) · upᵀ. down [r, I] starts as dense layers usually do, up [O, r] at 0.

    name: of the layer in its model, which draws `down` together with the seed (`model.draw`).
    """

    def __init__(self, base: Dense, rank: int, dropout: float, seed: int = 0, name: str = "") -> None:
        super().__init__()
        self.base, self.dropout = base, dropout
        device = base.weight.device
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        draw_into(self.down, seed, f"{name}.down", self.down.shape, Rule("uniform", base.in_features**-0.5))
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the adapted dense layer; x [..., I] → [..., O]."""
        thin = F.dropout(x, self.dropout) if self.training and self.dropout else x
        out: Tensor = self.base(x) + ALPHA * F.linear(F.linear(thin, self.down), self.up)
        return out

    @torch.no_grad()
    def merged(self) -> Dense:
        """Return a plain dense layer that computes the same."""
        with torch.device("meta"):
            plain = dense(self.base.in_features, self.base.out_features, self.base.bias is not None)
        plain.weight = nn.Parameter(float_weight(self.base) + ALPHA * self.up @ self.down)
        if self.base.bias is not None:
            plain.bias = nn.Parameter(self.base.bias.clone())
        return plain


def add_lora(model: Transformer, rank: int, dropout: float = 0.0, seed: int = 0) -> None:
    """Freeze a model and give the dense modules of its layers products of this rank, which learn."""
    model.requires_grad_(False)

    def adapted(prefix: str, name: str, layer: Dense) -> nn.Module | None:
        return LoraLinear(layer, rank, dropout, seed, f"{prefix}.{name}") if name in PARTS else None

    for prefix, module in list(model.named_modules()):
        if isinstance(module, Layer):
            replace_dense(module, partial(adapted, prefix))


def merge_lora(model: Transformer) -> None:
    """Put plain dense modules back, the products added to their weights."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            model.set_submodule(name, module.merged())
