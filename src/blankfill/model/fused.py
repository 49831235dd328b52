"""The feed-forward part of a layer for training in fp32 on a CPU, a portion of the rows at a time.

The tanh of GELU's approximation (Hendrycks & Gimpel 2016) costs a CPU four times what a sigmoid does, and
0.5·(1 + tanh(u)) = sigmoid(2u). Rows go through dense, activation, dense in portions, so that much of a portion is
still in the cache; only the inner dense's output is kept for the backward pass, which computes the activation again.
That is half of what would be kept otherwise. Not for GPUs, whose own kernels are faster, nor for bf16, which must not
be rounded between the steps of an activation.

Shapes: N rows, D width, F inner width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 1024
"""Rows that go through together."""
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715
"""gelu(x) = x · sigmoid(LINEAR·x + CUBIC·x³)"""


def can_fuse(x: Tensor, inner: nn.Linear, output: nn.Linear) -> bool:
    """Whether `feed_forward` may stand in: fp32 on a CPU, plain dense modules (adapters and wrappers are others)."""
    device = x.device.type
    if device != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled(device):
        return False
    return type(inner) is nn.Linear and type(output) is nn.Linear and inner.weight.dtype == torch.float32


def feed_forward(x: Tensor, inner: nn.Linear, output: nn.Linear) -> Tensor:
    """output(gelu(inner(x))) with the tanh approximation. x fp32 [..., D] on a CPU → the same shape."""
    made: Tensor = _FeedForward.apply(x.flatten(0, -2), inner.weight, inner.bias, output.weight, output.bias)
    return made.view(x.shape)


def _gate(x: Tensor, square: Tensor, out: Tensor) -> Tensor:
    torch.mul(x, x, out=square)
    torch.add(square.new_full((), LINEAR), square, alpha=CUBIC, out=out)
    return out.mul_(x).sigmoid_()


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, inner_FD: Tensor, inner_F: Tensor, output_DF: Tensor, output_D: Tensor
    ) -> Tensor:
        N, F = len(x_ND), len(inner_FD)
        hidden_NF = x_ND.new_empty(N, F)
        made_ND = x_ND.new_empty(N, len(output_DF))
        square, gate = x_ND.new_empty(2, min(N, ROWS), F)
        for start in range(0, N, ROWS):
            at = slice(start, min(N, start + ROWS))
            size = at.stop - start
            hidden = torch.addmm(inner_F, x_ND[at], inner_FD.T, out=hidden_NF[at])
            active = _gate(hidden, square[:size], gate[:size]).mul_(hidden)
            torch.addmm(output_D, active, output_DF.T, out=made_ND[at])
        ctx.save_for_backward(x_ND, hidden_NF, inner_FD, output_DF)
        return made_ND

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        x_ND, hidden_NF, inner_FD, output_DF = ctx.saved_tensors
        grad_ND = upstream[0].contiguous()
        N, F = hidden_NF.shape
        grad_inner, grad_output = torch.zeros_like(inner_FD), torch.zeros_like(output_DF)
        grad_bias = inner_FD.new_zeros(F)
        grad_x = torch.empty_like(x_ND)
        buffers = x_ND.new_empty(4, min(N, ROWS), F)
        for start in range(0, N, ROWS):
            at = slice(start, min(N, start + ROWS))
            square, gate, active, error = buffers[:, : at.stop - start]
            hidden = hidden_NF[at]
            torch.mm(grad_ND[at], output_DF, out=error)
            torch.mul(_gate(hidden, square, gate), hidden, out=active)
            torch.addmm(grad_output, grad_ND[at].T, active, out=grad_output)
            # the derivative: gate + active · (1 − gate) · (LINEAR + 3·CUBIC·hidden²)
            slope = torch.add(square.new_full((), LINEAR), square, alpha=3 * CUBIC, out=square).mul_(active)
            error.mul_(slope.addcmul_(slope, gate, value=-1).add_(gate))
            torch.mm(error, inner_FD, out=grad_x[at])
            torch.addmm(grad_inner, error.T, x_ND[at], out=grad_inner)
            grad_bias.add_(error.sum(0))
        return grad_x, grad_inner, grad_bias, grad_output, grad_ND.sum(0)
