"""Norms: LayerNorm (Ba et al. 2016), and its scale alone, the root mean square (Zhang & Sennrich 2019; T5).

On a CPU torch computes RMSNorm with single operations over the whole tensor, eight times as slow as its LayerNorm. Here
rows are processed in portions that stay in the cache, and only the input is saved for the backward pass, which calls
LayerNorm's own with all means set to 0; that backward subtracts the gradient of the mean, which is then added back.

Shapes: N rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig

ROWS = 512
"""Rows of a portion."""

Norm = nn.LayerNorm | nn.RMSNorm


def norm(config: TransformerConfig, width: int) -> Norm:
    """Make a norm of the model's kind."""
    if config.norm_kind == "rms":
        return RmsNorm(width, config.norm_eps)
    return nn.LayerNorm(width, config.norm_eps, bias=config.norm_bias)


def single_norm(module: Norm) -> Callable[[Tensor], Tensor]:
    """Return a norm as a plain function of rows [B, D], without gradient."""
    if isinstance(module, nn.LayerNorm):
        shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
        return lambda x_BD: torch.layer_norm(x_BD, shape, weight, bias, eps)
    plain = module.weight.device.type == "cpu" and module.weight.dtype == torch.float32
    return module.written if plain and isinstance(module, RmsNorm) else module


class RmsNorm(nn.RMSNorm):
    """x / √(mean of x² + eps) · weight, over the last dimension."""

    _floor: tuple[Tensor, Tensor] | None = None
    """√(D eps), and 0, for `written`."""

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if not plain or torch.compiler.is_compiling():
            return super().forward(x)
        if not torch.is_grad_enabled():
            return self.written(x)
        made: Tensor = _RmsNorm.apply(x.flatten(0, -2), self.weight, self.eps)  # type: ignore[no-untyped-call]
        return made.view(x.shape)

    def written(self, x: Tensor) -> Tensor:
        """Compute the norm of single columns in few operations: √D x / √(sum of x² + D eps) · weight."""
        size = x.shape[-1]
        if self._floor is None:
            self._floor = torch.tensor(math.sqrt(size * (self.eps or 0.0))), torch.zeros(1)
        floor, nothing = self._floor
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(floor)
        return torch.addcdiv(nothing, x, length, value=math.sqrt(size)).mul_(self.weight)


def _scale(x: Tensor, eps: float | None) -> Tensor:
    """Return 1 / √(mean of x² + eps) over the last dimension, [..., 1]."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    out: Tensor = scale.square_().div_(x.shape[-1]).add_(eps or 0.0).rsqrt_()
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        made_ND = torch.empty_like(x_ND)
        scale_N1 = _scale(x_ND, eps)
        for start in range(0, len(x_ND), ROWS):
            at = slice(start, start + ROWS)
            torch.mul(x_ND[at], scale_N1[at], out=made_ND[at]).mul_(weight_D)
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        return made_ND

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_D, scale_N1 = ctx.saved_tensors
        grad_ND, D = upstream[0], x_ND.shape[1]
        no_mean, wanted = torch.zeros_like(scale_N1), [True, True, False]
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad_ND, x_ND, [D], no_mean, scale_N1, weight_D, None, wanted
        )
        grad_x += (grad_ND @ weight_D)[:, None].mul_(scale_N1).div_(D)
        return grad_x, grad_weight, None
