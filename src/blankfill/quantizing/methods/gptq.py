"""GPTQ: integers that keep the outputs of a layer, not its weights (Frantar et al. 2022, arXiv:2210.17323).

With X the inputs of a layer over calibration rows, the error of the outputs of one row of weights is (w − ŵ) H (w − ŵ)ᵀ
with H = X Xᵀ. Inputs are rounded one after the other; the error of each is made up for by the inputs that are not
rounded yet, with weights of the Cholesky factor U of the inverse, H⁻¹ = Uᵀ U:

    e = (w_i − ŵ_i) / U_ii,   w_j ← w_j − e · U_ij   for j > i

Inputs with large H_ii come first (`ordered`), when most others can still make up for them. Scales and zero points are
those of `hqq.refined`: of all weights before the first is rounded, or of the corrected weights of a group when its first
input is reached, where inputs are in their own order.

Shapes: O outputs, I inputs, G groups, S inputs of a group, N rows of inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blankfill.kernels.integers import QuantizedWeight, WeightFormat, grouped
from blankfill.quantizing.methods import grid, hqq

DAMPING = 0.01
"""What is added to the diagonal of H, as a share of its mean."""
COLUMNS = 128
"""Inputs that are rounded before the others behind them are corrected, in one product."""


class Hessian:
    """Σ x xᵀ over the inputs of a layer, [I, I]."""

    def __init__(self, inputs: int) -> None:
        self.sum_II = torch.zeros(inputs, inputs)
        self.rows = 0

    def add(self, x_NI: Tensor) -> None:
        """Add rows of inputs."""
        x_NI = x_NI.float()
        self.sum_II.addmm_(x_NI.T, x_NI)
        self.rows += len(x_NI)


def gptq(
    weight_OI: Tensor, hessian_II: Tensor, format: WeightFormat, ordered: bool = True, damping: float = DAMPING
) -> QuantizedWeight:
    """Quantise a matrix.

    Args:
        weight_OI: The weights.
        hessian_II: Σ x xᵀ over calibration rows.
        format: How the weights are stored.
        ordered: Whether inputs are rounded in order of H_ii, the largest first.
        damping: See `DAMPING`.

    Raises:
        ValueError: The format does not fit the number of inputs, or H is not finite.
    """
    outputs, inputs = weight_OI.shape
    if not format.fits(inputs):
        raise ValueError(f"{format} does not fit {inputs} inputs")
    size = format.group_size or inputs
    weight_OGS = grouped(weight_OI.float(), format)
    scale_OG, zero_OG = hqq.refined(weight_OGS, format)
    order_I = torch.argsort(hessian_II.diagonal(), descending=True, stable=True) if ordered else torch.arange(inputs)
    upper_II = factor(hessian_II[order_I][:, order_I], damping)
    rest_OI = weight_OI.float()[:, order_I].clone()
    q_OI = torch.empty_like(rest_OI)
    low, high = grid.levels(format)
    for begin in range(0, inputs, COLUMNS):
        end = min(begin + COLUMNS, inputs)
        errors = torch.zeros(outputs, end - begin)
        for i in range(begin, end):
            group = int(order_I[i]) // size
            if not ordered and i % size == 0 and i:
                now = rest_OI[:, i : i + size].clone()
                if i + size > end:  # corrections of this block have not reached the columns behind it
                    now[:, end - i :] -= errors @ upper_II[begin:end, end : i + size]
                made_scale, made_zero = hqq.refined(now[:, None], format)
                scale_OG[:, group] = made_scale[:, 0]
                if zero_OG is not None and made_zero is not None:
                    zero_OG[:, group] = made_zero[:, 0]
            scale = scale_OG[:, group]
            zero = 0.0 if zero_OG is None else zero_OG[:, group]
            unit = torch.where(scale == 0, torch.ones_like(scale), scale)
            q = (rest_OI[:, i] / unit - zero).round_().clamp_(low, high).masked_fill_(scale == 0, 0)
            q_OI[:, i] = q
            error = (rest_OI[:, i] - scale * (q + zero)) / upper_II[i, i]
            rest_OI[:, i:end].addr_(error, upper_II[i, i:end], alpha=-1)
            errors[:, i - begin] = error
        if end < inputs:
            rest_OI[:, end:].addmm_(errors, upper_II[begin:end, end:], alpha=-1)
    q_OI = q_OI[:, torch.argsort(order_I)]
    return grid.packed(grouped(q_OI, format), scale_OG, zero_OG, format)


def factor(hessian_II: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the upper triangular U with H⁻¹ = Uᵀ U, of the damped H, [I, I].

    Inputs that are always 0 get a diagonal of the mean. The damping grows until the factor exists. Raises ValueError
    for values that are not finite.
    """
    if not torch.isfinite(hessian_II).all():
        raise ValueError("the inputs of the layer are not finite")
    made_II = hessian_II.clone()
    diagonal_I = made_II.diagonal()
    mean = float(diagonal_I.mean()) or 1.0
    diagonal_I[diagonal_I == 0] = mean
    for _ in range(8):
        diagonal_I += damping * mean
        lower_II, wrong = torch.linalg.cholesky_ex(made_II)
        if not int(wrong):
            upper_II: Tensor
            upper_II, wrong = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
            if not int(wrong) and bool(torch.isfinite(upper_II).all()):
                return upper_II
        damping *= 10
    raise ValueError("the products of the layer's inputs have no Cholesky factor")
