"""Matrices as integers of 8 or 4 bits with scales: the formats, the rounding and the packing.

`WeightFormat` says how the weights of a matrix are stored. With one absmax scale for each row it is the format of the
released checkpoints of ChatGLM-6B and GLM-130B (THUDM/chatglm-6b, quantization.py). Scales for groups of inputs and
zero points make the error smaller; the zero point is that of the paper of GLM-130B (arXiv:2210.02414, appendix B).

Shapes: O outputs, I inputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Scheme = Literal["absmax", "zero-point"]
ScaleType = Literal["float16", "bfloat16", "float32"]
LARGEST: dict[int, int] = {8: 127, 4: 7}
"""The largest integer of each number of bits; integers are symmetric about 0."""
BLOCK = 1 << 20
"""Number of weights that are quantised or dequantised at a time."""


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of a matrix are stored: w ≈ scale · q, or scale · (q + zero).

    bits: of an integer, 8 or 4. group_size: number of inputs that share a scale; 0: all inputs of a row. scheme:
    absmax, symmetric about 0, or zero-point. scale_type: type of scales and zero points.
    """

    bits: int = 8
    group_size: int = 0
    scheme: Scheme = "absmax"
    scale_type: ScaleType = "float16"

    @property
    def dtype(self) -> torch.dtype:
        """Torch's type of the scales."""
        made: torch.dtype = getattr(torch, self.scale_type)
        return made

    def fits(self, inputs: int) -> bool:
        """Return whether a matrix with this number of inputs can be stored in this format."""
        return inputs > 0 and inputs % max(self.group_size, 1) == 0 and (self.bits == 8 or inputs % 2 == 0)

    def shapes(self, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of a matrix, by the ending of their name: weight, weight_scale, and with
        zero points weight_zero."""
        scale = (outputs,) if not self.group_size else (outputs, inputs // self.group_size)
        made: dict[str, tuple[int, ...]] = {"weight": (outputs, inputs * self.bits // 8), "weight_scale": scale}
        return made | {"weight_zero": scale} if self.scheme == "zero-point" else made

    def types(self) -> dict[str, torch.dtype]:
        """Return the types of the tensors of `shapes`."""
        return {"weight": torch.int8, "weight_scale": self.dtype, "weight_zero": self.dtype}

    def bits_per_weight(self, inputs: int) -> float:
        """Return the bits of a weight with its share of scales and zero points."""
        numbers = 2 if self.scheme == "zero-point" else 1
        return self.bits + 8 * self.dtype.itemsize * numbers / (self.group_size or inputs)

    def state(self) -> int | dict[str, Any]:
        """Return the value for a JSON file: the bits alone, where everything else is the default."""
        return self.bits if self == WeightFormat(self.bits) else asdict(self)

    @classmethod
    def from_state(cls, value: object) -> WeightFormat:
        """Return the format of a value of a JSON file. Raises ValueError for anything else."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = {"bits": value}
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not set(value) <= known:
            raise ValueError(f"{value!r} is no weight format")
        made = cls(**value)
        if (
            made.bits not in LARGEST
            or isinstance(made.group_size, bool)
            or not isinstance(made.group_size, int)
            or made.group_size < 0
            or made.scheme not in ("absmax", "zero-point")
            or made.scale_type not in ("float16", "bfloat16", "float32")
        ):
            raise ValueError(f"{value!r} is no weight format")
        return made


class QuantizedWeight(NamedTuple):
    """A quantised matrix: weight int8 [O, I] or [O, I/2], scale [O] or [O, G], zero like scale, or None."""

    weight: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def rows(self, at: slice | Tensor) -> QuantizedWeight:
        """Return some rows. at: a slice, or their numbers, int64[N]."""
        return QuantizedWeight(self.weight[at], self.scale[at], None if self.zero is None else self.zero[at])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the endings of their names."""
        made = {"weight": self.weight, "weight_scale": self.scale}
        return made if self.zero is None else made | {"weight_zero": self.zero}


def quantize(weight_OI: Tensor, format: WeightFormat, arithmetic: torch.dtype | None = None) -> QuantizedWeight:
    """Quantise a matrix to the nearest integers.

    absmax: scale = max|w| / 127 (7), in the type of the scales; q = round(w / scale), half to even. The quotient has
    the wider type of the two: with fp16 weights and scales everything is in fp16, as in the released checkpoints; fp32
    weights give the nearest integers. zero-point: scale = (max − min) / 254 (14), zero = round(min / scale) + 127 (7),
    q = round(w / scale) − zero. A row or group of zeros has the scale 0.

    arithmetic: type to which weights are converted first, some rows at a time; None: as they are.

    Raises:
        ValueError: The format does not fit the number of inputs.
    """
    inputs = weight_OI.shape[1]
    if format.bits not in LARGEST or not format.fits(inputs):
        raise ValueError(f"{format} does not fit {inputs} inputs")
    step = max(1, 4 * BLOCK // max(1, inputs))  # smaller blocks cost more between threads on a busy machine
    return by_rows(format, weight_OI, step, lambda rows: _quantize_rows(rows.to(arithmetic or weight_OI.dtype), format))


def by_rows(
    format: WeightFormat, weight_OI: Tensor, step: int, made_of: Callable[[Tensor], QuantizedWeight]
) -> QuantizedWeight:
    """Quantise some rows of a matrix at a time, into tensors that are made at the beginning.

    Parts that are joined at the end would leave holes in the memory.
    """
    types = format.types()
    shapes = format.shapes(*weight_OI.shape)
    whole = {name: torch.empty(shape, dtype=types[name]) for name, shape in shapes.items()}
    for begin in range(0, len(weight_OI), step):
        at = slice(begin, begin + step)
        for name, tensor in made_of(weight_OI[at]).tensors().items():
            whole[name][at] = tensor
    return QuantizedWeight(whole["weight"], whole["weight_scale"], whole.get("weight_zero"))


def _quantize_rows(weight_OI: Tensor, format: WeightFormat) -> QuantizedWeight:
    largest, zero = LARGEST[format.bits], None
    weight_OGS = grouped(weight_OI, format)
    if format.scheme == "absmax":
        scale_OG = (weight_OGS.abs().amax(2) / largest).to(format.dtype)
    else:
        low_OG, high_OG = weight_OGS.aminmax(dim=2)
        scale_OG = ((high_OG - low_OG) / (2 * largest)).to(format.dtype)
        # a group of equal values w ≠ 0: scale = w, q = 0, zero = 1
        scale_OG = torch.where(scale_OG == 0, low_OG.to(format.dtype), scale_OG)
        zero = torch.round(low_OG / _divisor(scale_OG)) + largest
        zero = torch.where(high_OG == low_OG, torch.ones_like(zero), zero).to(format.dtype)
    q_OGS = torch.round(weight_OGS / _divisor(scale_OG)[..., None])
    if zero is not None:
        q_OGS = q_OGS - zero[..., None]
    q_OGS = q_OGS.clamp_(-largest, largest).masked_fill_(scale_OG[..., None] == 0, 0)
    stored = pack(q_OGS.flatten(1).to(torch.int8), format.bits)
    if not format.group_size:
        return QuantizedWeight(stored, scale_OG[:, 0], None if zero is None else zero[:, 0])
    return QuantizedWeight(stored, scale_OG, zero)


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def grouped(matrix_OI: Tensor, format: WeightFormat) -> Tensor:
    """Return a view of a matrix by groups, [O, G, S]; one group where rows have one scale."""
    made: Tensor = matrix_OI.unflatten(1, (-1, format.group_size or matrix_OI.shape[1]))
    return made


def pack(q_OI: Tensor, bits: int) -> Tensor:
    """Store integers in bytes, int8 [O, I]; of 4 bits two in a byte, [O, I/2]: the even input in the high half."""
    if bits == 8:
        return q_OI
    return (q_OI[:, 0::2] << 4) | (q_OI[:, 1::2] & 15)


def unpack(stored: Tensor, bits: int) -> Tensor:
    """Return the integers that `pack` stored, int8 [O, I]."""
    if bits == 8:
        return stored
    return torch.stack([stored >> 4, (stored << 4) >> 4], -1).flatten(-2)


def dequantize(quantized: QuantizedWeight, format: WeightFormat, dtype: torch.dtype) -> Tensor:
    """Return scale · (q + zero) in a type, [O, I]; the result is rounded to the type once."""
    made_OGS = grouped(unpack(quantized.weight, format.bits).float(), format)
    scale_OG1 = quantized.scale.float().view(len(made_OGS), -1, 1)
    if quantized.zero is not None:
        made_OGS = made_OGS + quantized.zero.float().view(len(made_OGS), -1, 1)
    made: Tensor = (made_OGS * scale_OG1).flatten(1).to(dtype)
    return made
