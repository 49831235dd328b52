"""Products in fp16 on a CPU without units for them, computed in fp32.

There torch multiplies a single row with a matrix at full speed, a few rows at a quarter of the speed of fp32, and the
products of a backward pass at a hundredth (docs/performance.md). Here the numbers are those of fp16, products and sums
are in fp32, and results are rounded to fp16 once, as units for fp16 do. A matrix is widened some rows at a time, so
that no copy of it exists.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.system.environment import bf16_sets, instruction_sets

UNITS = ("avx512_fp16", "amx_fp16", "asimdhp", "sve")
"""Instruction sets that multiply fp16: Intel's, and (the last two) ARM's."""
FEW = 8
"""Rows below which torch's own product is faster."""
BLOCK = 1 << 20
"""Number of weights that are widened at a time, where that makes no more than `MOST` blocks."""
MOST = 16
"""Largest number of blocks of a matrix."""


@lru_cache(maxsize=1)
def has_units() -> bool:
    """Return whether this processor has units for fp16."""
    return any(name in UNITS for name in instruction_sets())


@lru_cache(maxsize=1)
def has_bf16_units() -> bool:
    """Return whether this processor has units for bf16 that may be used."""
    return bool(bf16_sets())


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which products of numbers of a type are computed here: fp32 for fp16 without units."""
    slow = dtype == torch.float16 and device.type == "cpu" and not torch.compiler.is_compiling() and not has_units()
    return torch.float32 if slow else dtype


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Compute x Wᵀ + b as `F.linear` does, x [..., I] → [..., O], with all gradients."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight_OI.dtype
    if dtype != torch.float16 or product_dtype(x.device, dtype) == dtype:
        return F.linear(x, weight_OI, bias_O)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight_OI.requires_grad)
    if not learns and x.numel() < FEW * x.shape[-1]:
        return F.linear(x, weight_OI, bias_O)
    bias_O = None if bias_O is None else bias_O.half()
    x_NI = x.half().reshape(-1, x.shape[-1])
    made: Tensor = _Linear.apply(x_NI, weight_OI.half(), bias_O)  # type: ignore[no-untyped-call]
    return made.view(*x.shape[:-1], len(weight_OI))


class HalfLinear(nn.Linear):
    """A dense layer that computes in fp16 by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; x [..., I] → [..., O]."""
        return linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        ctx.with_bias = bias_O is not None
        out_NO, wide_NI = x_NI.new_empty(len(x_NI), len(weight_OI)), x_NI.float()
        with torch.autocast("cpu", enabled=False):
            for at in _blocks(weight_OI):
                bias = None if bias_O is None else bias_O[at].float()
                out_NO[:, at] = F.linear(wide_NI, weight_OI[at].float(), bias)
        return out_NO

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        grad_NO, grad_x, grad_weight, grad_bias = upstream[0].float(), None, None, None
        for_x, for_weight, for_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            if for_x:
                grad_x = torch.zeros(x_NI.shape)
                for at in _blocks(weight_OI):
                    grad_x.addmm_(grad_NO[:, at], weight_OI[at].float())
                grad_x = grad_x.half()
            if for_weight:
                grad_weight = (grad_NO.T @ x_NI.float()).half()
            if for_bias and ctx.with_bias:
                grad_bias = grad_NO.sum(0).half()
        return grad_x, grad_weight, grad_bias


def _blocks(weight_OI: Tensor) -> list[slice]:
    """Return the parts of a matrix that are widened together."""
    rows = max(1, BLOCK // weight_OI.shape[1], -(-len(weight_OI) // MOST))
    return [slice(start, start + rows) for start in range(0, len(weight_OI), rows)]
