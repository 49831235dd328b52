"""Integers on a given grid: weights → the nearest q for scales and zero points, and back.

Zero-point grids of 4 bits have 16 levels here, −8 … 7, one more than the definition of the paper of GLM-130B; zero
points need not be whole numbers. Both are read as any other matrix: w ≈ scale · (q + zero).

Shapes: O outputs, G groups, S inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blankfill.kernels.integers import LARGEST, QuantizedWeight, WeightFormat, pack


def levels(format: WeightFormat) -> tuple[int, int]:
    """Return the smallest and the largest integer of a grid."""
    largest = LARGEST[format.bits]
    return (-largest - 1, largest) if format.scheme == "zero-point" else (-largest, largest)


def widest(weight_OGS: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor | None]:
    """Return scales [O, G], and zero points where the format has them, of grids from the smallest to the largest weight
    of each group, fp32; a group of zeros has the scale 0."""
    low, high = levels(format)
    if format.scheme == "absmax":
        return weight_OGS.abs().amax(2) / high, None
    low_OG, high_OG = weight_OGS.aminmax(dim=2)
    scale_OG = (high_OG - low_OG) / (high - low)
    equal_OG = scale_OG == 0
    scale_OG = torch.where(equal_OG, low_OG, scale_OG)  # a group of equal values w: scale = w, q + zero = 1
    zero_OG = torch.where(equal_OG, torch.ones_like(low_OG) - low, low_OG / _divisor(scale_OG) - low)
    return scale_OG, zero_OG


def stored_type(number: Tensor, format: WeightFormat) -> Tensor:
    """Round scales or zero points to the type in which they are stored, as fp32."""
    return number.to(format.dtype).float()


def integers(weight_OGS: Tensor, scale_OG: Tensor, zero_OG: Tensor | None, format: WeightFormat) -> Tensor:
    """Return the nearest integers as fp32, [O, G, S]; 0 where the scale is 0."""
    low, high = levels(format)
    q_OGS = weight_OGS / _divisor(scale_OG)[..., None]
    if zero_OG is not None:
        q_OGS = q_OGS - zero_OG[..., None]
    return q_OGS.round_().clamp_(low, high).masked_fill_(scale_OG[..., None] == 0, 0)


def weights(q_OGS: Tensor, scale_OG: Tensor, zero_OG: Tensor | None) -> Tensor:
    """Return scale · (q + zero), [O, G, S]."""
    made = q_OGS if zero_OG is None else q_OGS + zero_OG[..., None]
    return made * scale_OG[..., None]


def packed(q_OGS: Tensor, scale_OG: Tensor, zero_OG: Tensor | None, format: WeightFormat) -> QuantizedWeight:
    """Return a matrix as it is stored."""
    scale = scale_OG.to(format.dtype)
    zero = None if zero_OG is None else zero_OG.to(format.dtype)
    if not format.group_size:
        scale, zero = scale[:, 0], None if zero is None else zero[:, 0]
    return QuantizedWeight(pack(q_OGS.flatten(1).to(torch.int8), format.bits), scale, zero)


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)
