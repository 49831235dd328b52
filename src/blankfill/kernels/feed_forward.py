"""The feed-forward block of a layer for training in fp32 on a CPU, some rows at a time.

Rows pass through dense, activation, dropout and dense in portions that largely stay in the cache. The only activation
saved for the backward pass is the output of the inner dense layer, from which the backward pass computes the activation
function again; with ReLU it is the output after dropout, whose zeros are the zeros of the gradient. The scale of
dropout is part of the matrix products. Not for GPUs, whose own kernels are faster, nor for bf16, where intermediate
results of the activation function must not be rounded.

The tanh of GELU's approximation (Hendrycks & Gimpel 2016) costs a CPU four times as much as a sigmoid, and
0.5·(1 + tanh(u)) = sigmoid(2u).

Shapes: N rows, D width, F inner width, G columns of the inner dense: F, or 2·F where one half of them is activated and
multiplied with the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from blankfill.kernels.capability import plain_dense
from blankfill.kernels.dropout import draw_kept, rounded

ROWS = 1024
"""Rows of a portion."""
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715
"""gelu(x) = x · sigmoid(LINEAR·x + CUBIC·x³)"""


def can_fuse(x: Tensor, inner: nn.Linear, output: nn.Linear) -> bool:
    """Return whether `feed_forward` may replace the modules: fp32 on a CPU, plain dense layers
    (`kernels.capability`)."""
    device = x.device.type
    if device != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled(device):
        return False
    return plain_dense(inner) and plain_dense(output) and inner.weight.dtype == torch.float32


def feed_forward(
    x: Tensor, inner: nn.Linear, output: nn.Linear, activation: str, gated: bool = False, dropout: float = 0.0
) -> Tensor:
    """Compute output(dropout(activation(inner(x)))). Gated: the activation of the first half of inner(x), times its
    second half.

    x fp32 [..., D] on a CPU → the same shape. activation: a value of `TransformerConfig.activation`.
    """
    weights = inner.weight, inner.bias, output.weight, output.bias
    made: Tensor = _FeedForward.apply(x.flatten(0, -2), *weights, activation, gated, dropout)  # type: ignore[no-untyped-call]
    return made.view(x.shape)


def _gate(x: Tensor, square: Tensor, out: Tensor) -> Tensor:
    torch.mul(x, x, out=square)
    torch.add(square.new_full((), LINEAR), square, alpha=CUBIC, out=out)
    return out.mul_(x).sigmoid_()


def _activate(name: str, x: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """Write the activation of x to `out`."""
    if name == "gelu_tanh":
        return _gate(x, spare, out).mul_(x)
    if name == "gelu":
        torch.ops.aten.gelu.out(x, out=out)
        return out
    return torch.ops.aten.silu.out(x, out=out) if name == "silu" else torch.clamp_min(x, 0, out=out)


def _activate_back(name: str, x: Tensor, error: Tensor, gate: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """Write the activation of x to `out`, and turn `error`, its gradient, into the gradient of x."""
    if name == "gelu_tanh":
        torch.mul(_gate(x, spare, gate), x, out=out)
        # the derivative: gate + active · (1 − gate) · (LINEAR + 3·CUBIC·x²)
        slope = torch.add(spare.new_full((), LINEAR), spare, alpha=3 * CUBIC, out=spare).mul_(out)
        error.mul_(slope.addcmul_(slope, gate, value=-1).add_(gate))
        return out
    _activate(name, x, spare, out)
    if name == "gelu":
        torch.ops.aten.gelu_backward.grad_input(error, x, grad_input=error)
    elif name == "silu":
        torch.ops.aten.silu_backward.grad_input(error, x, grad_input=error)
    else:
        torch.ops.aten.threshold_backward.grad_input(error, out, 0, grad_input=error)
    return out


def _inside_back(name: str, x: Tensor, mask: Tensor | None, grad: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """Return the input of the output's dense layer, computed again from x (the output of the inner one) in the memory
    of `spare`, and write the gradient of x to `out`. mask: dropout's; grad: the gradient of the returned tensor; spare:
    a buffer of four times its shape."""
    F = grad.shape[1]
    gated = x.shape[1] > F
    if mask is not None:
        mask = spare[3].copy_(mask)
        grad.mul_(mask)
    error = out[:, :F]
    if gated:
        torch.mul(grad, x[:, F:], out=error)
    else:
        error.copy_(grad)
    active = _activate_back(name, x[:, :F], error, *spare[:3])
    if gated:
        torch.mul(grad, active, out=out[:, F:])
        active.mul_(x[:, F:])
    return active if mask is None else active.mul_(mask)


def _product(a: Tensor, b: Tensor, bias: Tensor | None, scale: float, out: Tensor) -> Tensor:
    """Write bias + scale · a @ b to `out`."""
    if bias is not None:
        return torch.addmm(bias, a, b, alpha=scale, out=out)
    return torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        inner_GD: Tensor,
        inner_G: Tensor | None,
        output_DF: Tensor,
        output_D: Tensor | None,
        activation: str,
        gated: bool,
        dropout: float,
    ) -> Tensor:
        N, (D, F) = len(x_ND), output_DF.shape
        alone = activation == "relu" and not gated  # the backward pass needs only the output
        kept_NG = x_ND.new_empty(N, len(inner_GD))
        made_ND = x_ND.new_empty(N, D)
        mask_NF = torch.empty((N, F) if dropout and not alone else 0, dtype=torch.int8)
        spare, active = x_ND.new_empty(2, min(N, ROWS), F)
        scale = 1 / (1 - rounded(dropout))
        for start in range(0, N, ROWS):
            at = slice(start, min(N, start + ROWS))
            buffer, out = spare[: at.stop - start], active[: at.stop - start]
            hidden = _product(x_ND[at], inner_GD.T, inner_G, 1, kept_NG[at])
            if alone:
                out = hidden.clamp_min_(0)
                if dropout:
                    out.mul_(draw_kept(buffer.view(-1), dropout).view_as(out))
            else:
                _activate(activation, hidden[:, :F], buffer, out)
                if gated:
                    out.mul_(hidden[:, F:])
                if dropout:
                    draw_kept(mask_NF[at].view(-1), dropout)
                    out.mul_(buffer.copy_(mask_NF[at]))
            _product(out, output_DF.T, output_D, scale, made_ND[at])
        ctx.save_for_backward(x_ND, kept_NG, mask_NF, inner_GD, inner_G, output_DF, output_D)
        ctx.activation, ctx.gated, ctx.alone, ctx.scale = activation, gated, alone, scale
        return made_ND

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, kept_NG, mask_NF, inner_GD, inner_G, output_DF, output_D = ctx.saved_tensors
        grad_ND, name = upstream[0].contiguous(), ctx.activation
        N, F = len(x_ND), output_DF.shape[1]
        grad_inner, grad_output = torch.zeros_like(inner_GD), torch.zeros_like(output_DF)
        grad_bias = None if inner_G is None else torch.zeros_like(inner_G)
        grad_x = torch.empty_like(x_ND)
        errors = x_ND.new_empty(min(N, ROWS), len(inner_GD))
        buffers = x_ND.new_empty(0 if ctx.alone else 5, min(N, ROWS), F)
        for start in range(0, N, ROWS):
            at = slice(start, min(N, start + ROWS))
            error, kept_part, spare = errors[: at.stop - start], kept_NG[at], buffers[:, : at.stop - start]
            if ctx.alone:
                active = kept_part
                _product(grad_ND[at], output_DF, None, ctx.scale, error)
                torch.ops.aten.threshold_backward.grad_input(error, active, 0, grad_input=error)
            else:
                grad = _product(grad_ND[at], output_DF, None, ctx.scale, spare[0])
                active = _inside_back(name, kept_part, mask_NF[at] if len(mask_NF) else None, grad, error, spare[1:])
            torch.addmm(grad_output, grad_ND[at].T, active, alpha=ctx.scale, out=grad_output)
            torch.mm(error, inner_GD, out=grad_x[at])
            torch.addmm(grad_inner, error.T, x_ND[at], out=grad_inner)
            if grad_bias is not None:
                grad_bias.add_(error.sum(0))
        grad_output_bias = None if output_D is None else grad_ND.sum(0)
        return grad_x, grad_inner, grad_bias, grad_output, grad_output_bias, None, None, None
