"""The feed-forward part of a layer for training in fp32 on a CPU, a portion of the rows at a time.

Rows go through dense, activation, dropout, dense in portions, so that much of a portion is still in the cache. Of what
is inside only the inner dense's output is kept for the backward pass, which computes the activation again; of ReLU only
its output, dropped already, whose zeros are those of the gradient. Dropout's scale goes into the matrix products. Not
for GPUs, whose own kernels are faster, nor for bf16, which must not be rounded between the steps of an activation.

The tanh of GELU's approximation (Hendrycks & Gimpel 2016) costs a CPU four times what a sigmoid does, and
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
"""Rows that go through together."""
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715
"""gelu(x) = x · sigmoid(LINEAR·x + CUBIC·x³)"""


def can_fuse(x: Tensor, inner: nn.Linear, output: nn.Linear) -> bool:
    """Whether `feed_forward` may stand in: fp32 on a CPU, plain dense modules (`kernels.capability`)."""
    device = x.device.type
    if device != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled(device):
        return False
    return plain_dense(inner) and plain_dense(output) and inner.weight.dtype == torch.float32


def feed_forward(
    x: Tensor, inner: nn.Linear, output: nn.Linear, activation: str, gated: bool = False, dropout: float = 0.0
) -> Tensor:
    """output(dropout(activation(inner(x)))); gated, the activation of the inner's first half times its second half.

    x fp32 [..., D] on a CPU → the same shape. activation: of `TransformerConfig.activation`.
    """
    weights = inner.weight, inner.bias, output.weight, output.bias
    made: Tensor = _FeedForward.apply(x.flatten(0, -2), *weights, activation, gated, dropout)
    return made.view(x.shape)


def _gate(x: Tensor, square: Tensor, out: Tensor) -> Tensor:
    torch.mul(x, x, out=square)
    torch.add(square.new_full((), LINEAR), square, alpha=CUBIC, out=out)
    return out.mul_(x).sigmoid_()


def _activate(name: str, x: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """The activation of x, in `out`."""
    if name == "gelu_tanh":
        return _gate(x, spare, out).mul_(x)
    if name == "gelu":
        return torch.ops.aten.gelu.out(x, out=out)
    return torch.ops.aten.silu.out(x, out=out) if name == "silu" else torch.clamp_min(x, 0, out=out)


def _activate_back(name: str, x: Tensor, error: Tensor, gate: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """The activation of x, in `out`; `error`, a gradient of it, becomes that of x."""
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
    """What the output's dense reads for x, which the inner one made, in memory of `spare`; `out` becomes the gradient
    of x. mask: of dropout; grad: a gradient of what is returned; spare: four times its shape."""
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
    """bias + scale · a @ b, in `out`."""
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
        alone = activation == "relu" and not gated  # its output is all that the backward pass needs
        kept_NG = x_ND.new_empty(N, len(inner_GD))
        made_ND = x_ND.new_empty(N, D)
        mask_NF = torch.empty((N, F) if dropout and not alone else 0, dtype=torch.int8)
        spare, active = x_ND.new_empty(2, min(N, ROWS), F)
        scale = 1 / (1 - rounded(dropout))
        for start in range(0, N, ROWS):
            at = slice(start, min(N, start + ROWS))
            one, out = spare[: at.stop - start], active[: at.stop - start]
            hidden = _product(x_ND[at], inner_GD.T, inner_G, 1, kept_NG[at])
            if alone:
                out = hidden.clamp_min_(0)
                if dropout:
                    out.mul_(draw_kept(one.view(-1), dropout).view_as(out))
            else:
                _activate(activation, hidden[:, :F], one, out)
                if gated:
                    out.mul_(hidden[:, F:])
                if dropout:
                    draw_kept(mask_NF[at].view(-1), dropout)
                    out.mul_(one.copy_(mask_NF[at]))
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
            error, kept, spare = errors[: at.stop - start], kept_NG[at], buffers[:, : at.stop - start]
            if ctx.alone:
                active = kept
                _product(grad_ND[at], output_DF, None, ctx.scale, error)
                torch.ops.aten.threshold_backward.grad_input(error, active, 0, grad_input=error)
            else:
                grad = _product(grad_ND[at], output_DF, None, ctx.scale, spare[0])
                active = _inside_back(name, kept, mask_NF[at] if len(mask_NF) else None, grad, error, spare[1:])
            torch.addmm(grad_output, grad_ND[at].T, active, alpha=ctx.scale, out=grad_output)
            torch.mm(error, inner_GD, out=grad_x[at])
            torch.addmm(grad_inner, error.T, x_ND[at], out=grad_inner)
            if grad_bias is not None:
                grad_bias.add_(error.sum(0))
        grad_output_bias = None if output_D is None else grad_ND.sum(0)
        return grad_x, grad_inner, grad_bias, grad_output, grad_output_bias, None, None, None
