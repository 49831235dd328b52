"""Half-quadratic quantisation: zero points or scales that make a robust error of the weights small, without data.

Badri and Shaji (2023, "Half-quadratic quantization of large machine learning models") minimise Σ |w − ŵ|ᵖ with p < 1,
which cares less about outliers than squares do. An auxiliary error e splits the problem in two that have solutions:

    e ← shrink(w − ŵ),  shrink(x) = sign(x) · max(0, |x| − |x|^(p−1) / β)
    z ← mean over the group of (w − e) / s − q           (zero-point: the scale stays)
    s ← Σ q · (w − e) / Σ q²                             (absmax: there is no zero point)

with q the nearest integers after each step, and β growing. Errors are measured in steps of the grid, so that β does not
depend on the size of the weights. Of all steps, each group keeps the one with the smallest error.

Shapes: O outputs, I inputs, G groups, S inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blankfill.kernels.integers import BLOCK, QuantizedWeight, WeightFormat, by_rows, grouped
from blankfill.quantizing.methods import grid

POWER = 0.7
"""p of the error."""
BETA = 10.0
"""The first weight β of the auxiliary error."""
GROWTH = 1.01
"""Factor of β after each step."""
STEPS = 20
"""Number of steps."""


def hqq(weight_OI: Tensor, format: WeightFormat) -> QuantizedWeight:
    """Quantise a matrix. Raises ValueError when the format does not fit the number of inputs."""
    inputs = weight_OI.shape[1]
    if not format.fits(inputs):
        raise ValueError(f"{format} does not fit {inputs} inputs")
    return by_rows(format, weight_OI, max(1, BLOCK // max(1, inputs)), lambda rows: _rows(rows.float(), format))


def _rows(weight_OI: Tensor, format: WeightFormat) -> QuantizedWeight:
    weight_OGS = grouped(weight_OI, format)
    scale, zero = refined(weight_OGS, format)
    return grid.packed(grid.integers(weight_OGS, scale, zero, format), scale, zero, format)


def refined(weight_OGS: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor | None]:
    """Return scales and zero points of groups, [O, G], as fp32 with values of the type in which they are stored."""
    widest, centre = grid.widest(weight_OGS, format)
    best_OG = torch.full_like(widest, torch.inf)
    scale, zero = grid.stored_type(widest, format), None if centre is None else grid.stored_type(centre, format)
    best_scale, best_zero, beta = scale, zero, BETA
    for _ in range(STEPS):
        q_OGS = grid.integers(weight_OGS, scale, zero, format)
        error_OGS = weight_OGS - grid.weights(q_OGS, scale, zero)
        size_OG = error_OGS.abs().pow_(POWER).sum(2)
        better_OG = size_OG < best_OG
        best_OG = torch.where(better_OG, size_OG, best_OG)
        best_scale = torch.where(better_OG, scale, best_scale)
        if zero is not None and best_zero is not None:
            best_zero = torch.where(better_OG, zero, best_zero)
        scale, zero = _next(weight_OGS, q_OGS, error_OGS, scale, zero, beta, format)
        beta *= GROWTH
    return best_scale, best_zero


def _next(
    weight_OGS: Tensor,
    q_OGS: Tensor,
    error_OGS: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    beta: float,
    format: WeightFormat,
) -> tuple[Tensor, Tensor | None]:
    """Return the scales and zero points of the next step."""
    unit = torch.where(scale == 0, torch.ones_like(scale), scale)[..., None]
    error_OGS = error_OGS / unit
    target_OGS = weight_OGS / unit - shrink(error_OGS, beta)  # what q + zero should be, in steps
    if zero is not None:
        moved = (target_OGS - q_OGS).mean(2)
        return scale, torch.where(scale == 0, zero, grid.stored_type(moved, format))
    squares = q_OGS.square().sum(2)
    factor = torch.where(squares == 0, torch.ones_like(squares), (q_OGS * target_OGS).sum(2) / squares.clamp(min=1))
    return grid.stored_type(scale * factor, format), None


def shrink(x: Tensor, beta: float) -> Tensor:
    """Return the x' that makes |x'|ᵖ + β/2 · (x' − x)² small: a soft threshold that is larger for small x."""
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-6).pow(POWER - 1) / beta).clamp_(min=0)
