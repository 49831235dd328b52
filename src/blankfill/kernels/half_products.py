"""Products of a few rows with a matrix of fp16, bf16 or fp32 on a CPU, at the speed of memory.

`torch.nn.functional.linear` of one row reads such a matrix more slowly than the memory gives it; the kernel of this
package (`native/float_products.c`) sums in fp32. Without a C compiler there is none.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.native.library import TYPES, Floats, LibraryProduct, address, best_path, fp32_bias, library

ROWS = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 4}
"""Largest numbers of rows that are faster with the kernel than with torch, by the type of the matrix."""
PROBED_OUTPUTS = 256
"""Number of outputs that are compared, at the beginning and at the end of a matrix."""
ALLOWED = {torch.float32: 2**-16, torch.float16: 2**-9, torch.bfloat16: 2**-7}
"""Largest difference of the kernel, as a share of the largest result."""


class HalfProduct(LibraryProduct):
    """The kernel of this package; it reads the given tensor, which must not be replaced.

    path: instructions, a number in `native.library.PATHS`; by default the newest of this processor.
    """

    def __init__(
        self, weight_OI: Tensor, dtype: torch.dtype, bias_O: Tensor | None = None, path: int | None = None
    ) -> None:
        made = library()
        if made is None:
            raise NotImplementedError("there is no library")
        weight_OI = weight_OI.detach()
        if weight_OI.device.type != "cpu" or weight_OI.dtype not in TYPES or not weight_OI.numel():
            raise NotImplementedError("tensors elsewhere, or other types")
        outputs, inputs = weight_OI.shape
        if weight_OI.stride(1) != 1 or weight_OI.stride(0) < inputs:
            raise NotImplementedError("rows that are not contiguous")
        bias_O = fp32_bias(bias_O)
        matrix = Floats(
            address(weight_OI), address(bias_O), outputs, inputs, weight_OI.stride(0) * weight_OI.element_size(),
            TYPES[weight_OI.dtype], best_path() if path is None else path,
        )  # fmt: skip
        super().__init__(made.float_product, matrix, dtype, ROWS[weight_OI.dtype], (weight_OI, bias_O))


@torch.no_grad()
def half_product_for(
    weight_OI: Tensor, dtype: torch.dtype | None = None, bias_O: Tensor | None = None, probe: bool = True
) -> HalfProduct | None:
    """Return the product of a matrix with a few rows of a type, by default that of the matrix; None where there is no
    kernel, or where it computes something else than torch. probe=False skips the comparison."""
    dtype = dtype or weight_OI.dtype
    if dtype not in TYPES:
        return None
    try:
        made = HalfProduct(weight_OI, dtype, bias_O)
    except NotImplementedError:
        return None
    return made if not probe or _agrees(made, weight_OI, bias_O) else None


def _agrees(product: HalfProduct, weight_OI: Tensor, bias_O: Tensor | None) -> bool:
    outputs, inputs = weight_OI.shape
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 3, 7):
        x_NI = torch.randn(rows, inputs, generator=generator).to(product.dtype)
        made_NO = product(x_NI).float()
        for begin in {0, max(0, outputs - PROBED_OUTPUTS)}:
            at = slice(begin, begin + PROBED_OUTPUTS)
            bias = None if bias_O is None else bias_O[at].float()
            right = F.linear(x_NI.float(), weight_OI[at].float(), bias)
            if not ((made_NO[:, at] - right).abs() <= ALLOWED[product.dtype] * right.abs().amax(1, keepdim=True)).all():
                return False
    return True
