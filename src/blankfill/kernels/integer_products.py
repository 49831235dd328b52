"""Products of a few rows with a quantised matrix, on a CPU: the kernel of this package, or that of torch.

Decoding multiplies one row, or some, with each matrix, and should take the time that the memory needs to give the
weights. `NativeProduct` reads the integers as they are stored (`native/integer_products.c`), so that a model needs no
second copy and no packing; weights are exact, activations are rounded to 16 bits with a scale for each group of inputs.
Without a C compiler `TorchProduct` uses torch's packed kernels for what they can compute. Each is compared with the
dequantised product before it is used (`product_for`). More rows than `max_rows` are faster by dequantising.

Shapes: N rows, I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.half import has_bf16_units
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, unpack
from blankfill.kernels.native.library import TYPES, LibraryProduct, Matrix, address, best_path, fp32_bias, library

ROWS = (8, 64, 512)
"""Largest numbers of rows that are faster with the kernel than with dequantised weights, by the instructions."""
BF16_ROWS = {8: 64, 4: 16}
"""The same for rows of bf16 on a processor with units for them, by the bits of a weight."""
TORCH_ROWS = 16
"""The same for torch's kernels."""
PROBES = (1, 5)
"""Numbers of rows on which a kernel is compared with the dequantised product."""
PROBED_OUTPUTS = 256
"""Number of outputs that are compared, at the beginning and at the end of a matrix."""
OUTLIER = 100.0
"""Factor of some inputs of the rows of a probe, as the outliers of large models."""
ALLOWED = {torch.float32: 2**-9, torch.float16: 2**-8, torch.bfloat16: 2**-6}
"""Largest difference of a kernel, as a share of the largest result; in bf16 four roundings."""
MULTIPLE = 64
"""Divisor of the numbers of inputs and outputs that torch's kernels take; they read past the end of other matrices."""
ALIGNMENT = 64
"""Divisor of the addresses of what torch's kernels read. The one for 8 bits ends the process at an address that is no
multiple of 16, as tensors in a memory-mapped safetensors file can have."""
GROUPS = (256, 128, 64)
"""Numbers of inputs that share a scale in torch's kernel for 4 bits, in order of preference."""


class Product(Protocol):
    """x Wᵀ, with a bias where one was given. max_rows: more rows are faster with dequantised weights. dtype: of x and
    the result."""

    max_rows: int
    dtype: torch.dtype

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product, [N, O], in the type of x."""
        ...


class NativeProduct(LibraryProduct):
    """The kernel of this package; it reads the given tensors, which must not be replaced.

    path: instructions, a number in `native.library.PATHS`; by default the newest of this processor.
    """

    def __init__(
        self,
        quantized: QuantizedWeight,
        format: WeightFormat,
        dtype: torch.dtype,
        bias_O: Tensor | None = None,
        path: int | None = None,
    ) -> None:
        weight, scale, zero = quantized
        made = library()
        if made is None:
            raise NotImplementedError("there is no library")
        if format.group_size not in (0, 32, 64) and format.group_size % 128:
            raise NotImplementedError("groups of this size")
        if any(x is not None and (x.device.type != "cpu" or not x.is_contiguous()) for x in quantized):
            raise NotImplementedError("tensors elsewhere")
        if weight.dtype != torch.int8 or scale.dtype != format.dtype or not weight.numel():
            raise NotImplementedError("other types")
        path, bias_O = best_path() if path is None else path, fp32_bias(bias_O)
        matrix = Matrix(
            address(weight), address(scale), address(zero), address(bias_O), len(weight),
            weight.shape[1] * 8 // format.bits, format.bits, format.group_size, TYPES[format.dtype], path,
        )  # fmt: skip
        rows = BF16_ROWS[format.bits] if dtype == torch.bfloat16 and has_bf16_units() else ROWS[path]
        super().__init__(made.integer_product, matrix, dtype, min(rows, ROWS[path]), (*quantized, bias_O))
        self._dequantize = made.dequantized_rows

    def weights(self, begin: int, end: int, dtype: torch.dtype) -> Tensor:
        """Return some rows of the matrix in a type, [end − begin, I], as `dequantize` does."""
        made = torch.empty(end - begin, self._inputs, dtype=dtype)
        self._dequantize(self._at, begin, end - begin, made.data_ptr(), TYPES[dtype])
        return made

    def picked(self, numbers: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the rows of the matrix with these numbers in a type, [N, I], as `dequantize` does."""
        made = torch.empty(len(numbers), self._inputs, dtype=dtype)
        at, apart = made.data_ptr(), self._inputs * made.element_size()
        for k, number in enumerate(numbers):
            if not 0 <= number < self._outputs:
                raise IndexError(f"row {number} of {self._outputs}")
            self._dequantize(self._at, number, 1, at + k * apart, TYPES[dtype])
        return made


class TorchProduct:
    """Torch's product of packed integers in bf16; a new version of torch needs a change only here.

    The kernels multiply with scales of bf16, which would round all weights of a row alike. So they get a scale of 1,
    and the result is multiplied with the matrix's own in fp32.
    """

    def __init__(
        self, quantized: QuantizedWeight, format: WeightFormat, dtype: torch.dtype, bias_O: Tensor | None = None
    ) -> None:
        if format.group_size or quantized.zero is not None or dtype != torch.bfloat16:
            raise NotImplementedError("scales of groups, zero points, or other types than bf16")
        outputs, inputs = len(quantized.weight), quantized.weight.shape[1] * 8 // format.bits
        if inputs % MULTIPLE or outputs % MULTIPLE or quantized.weight.device.type != "cpu":
            raise NotImplementedError("other sizes or devices")
        self.max_rows, self.dtype, self.bits, self.group = TORCH_ROWS, dtype, format.bits, 0
        self.scale_O, self.bias_O = quantized.scale.float(), None if bias_O is None else bias_O.detach().float()
        ones_O = torch.ones(outputs, dtype=dtype)
        if self.bits == 8:
            self.weight, self.ones = _aligned(quantized.weight), ones_O
            return
        self.group = next(group for group in GROUPS if inputs % group == 0)
        parts = [
            torch._convert_weight_to_int4pack_for_cpu(unpack(quantized.weight[k : k + 1024], 4).int() + 8, 1)
            for k in range(0, outputs, 1024)  # a few rows at a time, since the function takes integers of 32 bits
        ]
        self.weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.ones = torch.stack([ones_O, torch.zeros_like(ones_O)], -1).repeat(inputs // self.group, 1, 1)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product, [N, O]."""
        x_NI = _aligned(x_NI)
        if self.bits == 8:
            made_NO = torch._weight_int8pack_mm(x_NI, self.weight, self.ones)
        else:
            made_NO = torch._weight_int4pack_mm_for_cpu(x_NI, self.weight, self.group, self.ones)
        made_NO = made_NO * self.scale_O
        return (made_NO if self.bias_O is None else made_NO + self.bias_O).to(self.dtype)


def _aligned(x: Tensor) -> Tensor:
    """Return a contiguous tensor whose address is a multiple of `ALIGNMENT`: itself, or a copy."""
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


@torch.no_grad()
def product_for(
    quantized: QuantizedWeight,
    format: WeightFormat,
    dtype: torch.dtype,
    bias_O: Tensor | None = None,
    probe: bool = True,
) -> Product | None:
    """Return the fastest product of a matrix; None where this machine, type or shape has none, or where it computes
    something else than the dequantised product. probe=False skips the comparison, for a matrix of a shape and format
    that has been compared."""
    if dtype not in TYPES:
        return None
    for kind in (NativeProduct, TorchProduct):
        try:
            made = kind(quantized, format, dtype, bias_O)
            if not probe or agrees(made, quantized, format, bias_O):
                return made
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
    return None


def agrees(product: Product, quantized: QuantizedWeight, format: WeightFormat, bias_O: Tensor | None = None) -> bool:
    """Return whether a product computes what the dequantised matrix computes, on random rows without and with
    outliers."""
    outputs, inputs = len(quantized.weight), quantized.weight.shape[1] * 8 // format.bits
    parts = [slice(begin, begin + PROBED_OUTPUTS) for begin in {0, max(0, outputs - PROBED_OUTPUTS)}]
    weights = [(at, dequantize(quantized.rows(at), format, torch.float32)) for at in parts]
    generator = torch.Generator().manual_seed(0)
    for rows in PROBES:
        x_NI = torch.randn(rows, inputs, generator=generator)
        x_NI[-1, :: max(1, inputs // 4)] *= OUTLIER
        x_NI = x_NI.to(product.dtype)
        made_NO = product(x_NI).float()
        for at, weight in weights:
            right = F.linear(x_NI.float(), weight, None if bias_O is None else bias_O[at].float())
            allowed = ALLOWED[product.dtype] * right.abs().amax(1, keepdim=True)
            if not ((made_NO[:, at] - right).abs() <= allowed).all():
                return False
    return True
