"""Tables of embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TokenEmbeddings(nn.Embedding):
    """The table of token embeddings.

    gradient_shrink: factor of the gradient that the rows get from what they are looked up for, the model's input (Zeng
    et al. 2022, GLM-130B, §2.2). The values stay the same, and so does the gradient of output embeddings tied to them.
    """

    gradient_shrink = 1.0

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the rows of ids of any shape, [..., W]."""
        rows = super().forward(ids)
        if self.gradient_shrink == 1 or not rows.requires_grad:
            return rows
        made: Tensor = _ShrinkGradient.apply(rows, self.gradient_shrink)  # type: ignore[no-untyped-call]
        return made


class _ShrinkGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor: e · α + stop(e) · (1 − α) without its rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0] * ctx.factor, None


def table(rows: int, width: int) -> nn.Embedding:
    """Make an embedding without torch's own initialisation, which on the meta device takes a second for its imports."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def token_table(rows: int, width: int) -> TokenEmbeddings:
    """Make the token embeddings in the same way."""
    return TokenEmbeddings(rows, width, _weight=torch.empty(rows, width))
