"""Products of many rows with a matrix of 8 bits, with activations of 8 bits and a scale for each row.

A row x becomes a = round(x / s), half to even, with s = m / 127 and m the largest |x| but for the two largest: their
integers may be larger than 127. So the outliers that hidden states of Transformers have (Dettmers et al. 2022,
LLM.int8) do not make the other numbers coarse. The result is scale · s · Σ (q + zero) a + bias, in which the sum is one
of integers and exact. So what a row gives does not depend on the other rows. A row with a
number that is not finite gives NaN; a row of zeros gives the bias. Dynamic: no scale is known before.

Two ways compute it: `NativeDynamic`, the kernel of this package, with an activation function in the same pass; and
`TorchDynamic`, oneDNN's product through torch, where there is no C compiler. Both are used on processors with
instructions for products of bytes (VNNI) alone (`dynamic_for`): without them a product with 8-bit activations saves
little over fp32, and oneDNN's sums of 16 bits can saturate. Each is compared with arithmetic in fp64 on rows with
outliers before it is used.

Shapes: N rows, I inputs, O outputs, P panels of 64 outputs, K = I / 4 rounded up.
"""

from __future__ import annotations

import copy
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.integers import QuantizedWeight, WeightFormat
from blankfill.kernels.native.library import PATHS, TYPES, DynamicMatrix, LibraryProduct, address, best_path, library
from blankfill.system.environment import instruction_sets

ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "relu": 4}
"""Activation functions in `native/activations.h`, by the names of `TransformerConfig.activation`."""
OUTLIERS = 2
"""Numbers of a row whose integers may have more than 8 bits."""
LARGEST_OUTLIER = 1 << 20
"""Largest of these integers; where it is reached, the scale grows."""
PANEL = 64
"""Outputs that are packed together."""
MOST_ROWS = 1 << 62
"""Largest number of rows: any."""
MOST_INPUTS = 1 << 16
"""Largest number of inputs: with more, a sum could leave the 32 bits."""
VNNI = ("avx512_vnni", "avx_vnni")
"""Instruction sets with products of bytes."""
PROBED = 128
"""Number of outputs that are compared, at the beginning and at the end of a matrix."""
OUTLIER = 100.0
"""Factor of some inputs of a probe."""
ALLOWED = {torch.float32: 2**-17, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Largest difference of a product from fp64, as a share of the largest result of a row without activation."""


class DynamicProduct(Protocol):
    """act(x Wᵀ + b), where `activation` and bias were given. dtype: of x and the result. max_rows: any number."""

    dtype: torch.dtype
    max_rows: int

    def variant(self, bias_O: Tensor | None, activation: str | None) -> DynamicProduct:
        """Return the same product with a bias and an activation function; it is made once and then the same object."""
        ...

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product, [N, O], in the type of x."""
        ...


def rounded_rows(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to integers, from −127 to 127 but for `OUTLIERS` of them: float32[N, I], and scales, float32[N,
    1]; NaN for a row with a number that is not finite."""
    x_NI = x_NI.float()
    count = min(OUTLIERS + 1, x_NI.shape[1])
    largest_NK = x_NI.abs().topk(count, 1).values
    most_N1 = largest_NK[:, :1] * (127 / LARGEST_OUTLIER)
    if count > OUTLIERS:
        most_N1 = torch.maximum(most_N1, largest_NK[:, OUTLIERS:])
    finite_N1 = x_NI.isfinite().all(1, keepdim=True)
    factor_N1 = torch.full_like(most_N1, 127).div_(most_N1)  # `127 / x` would multiply with the reciprocal
    plain_N1 = finite_N1 & (factor_N1 <= 3e38)
    whole_NI = (x_NI * factor_N1).round_()
    scale_N1 = torch.where(plain_N1, most_N1 / 127, torch.where(finite_N1, 0.0, torch.nan))
    return torch.where(plain_N1, whole_NI, 0.0), scale_N1


class WithVariants:
    """A product whose packed weights serve with other biases and activation functions."""

    def __init__(self) -> None:
        self._variants: dict[tuple[int, str | None], Self] = {}
        self._source: Tensor | None = None

    def _finish(self, bias_O: Tensor | None, activation: str | None) -> None:
        """Take another bias and activation function."""
        raise NotImplementedError

    def variant(self, bias_O: Tensor | None, activation: str | None) -> Self:
        """Return the same product with a bias and an activation function; the packed weights are shared."""
        key = (id(bias_O), activation)
        if (made := self._variants.get(key)) is None:
            made = copy.copy(self)
            made._finish(bias_O, activation)
            made._source = bias_O  # keeps the tensor, whose id is the key
            self._variants[key] = made
        return made


class NativeDynamic(LibraryProduct, WithVariants):
    """The kernel of this package (`native/dynamic_products.c`), with packed weights.

    path: instructions, a number in `native.library.PATHS`; by default the newest of this processor.
    """

    def __init__(
        self,
        quantized: QuantizedWeight,
        format: WeightFormat,
        dtype: torch.dtype,
        bias_O: Tensor | None = None,
        activation: str | None = None,
        path: int | None = None,
    ) -> None:
        made = library()
        if made is None:
            raise NotImplementedError("there is no library")
        check_fits(quantized, format)
        outputs, inputs = quantized.weight.shape
        whole_OI = F.pad(quantized.weight, (0, -inputs % 4, 0, -outputs % PANEL))
        panels_PKO4 = whole_OI.view(-1, PANEL, whole_OI.shape[1] // 4, 4).transpose(1, 2)
        packed = (panels_PKO4.contiguous().view(torch.uint8) ^ 128).contiguous()
        matrix = DynamicMatrix(outputs=outputs, inputs=inputs, path=best_path() if path is None else path)
        LibraryProduct.__init__(self, made.dynamic_product, matrix, dtype, MOST_ROWS, ())
        WithVariants.__init__(self)
        zero = None if quantized.zero is None else self._padded(quantized.zero)
        self._packed = (packed, self._padded(quantized.scale), zero)
        self._finish(bias_O, activation)

    def _padded(self, x_O: Tensor) -> Tensor:
        return F.pad(x_O.detach().float(), (0, -self._outputs % PANEL))

    def _finish(self, bias_O: Tensor | None, activation: str | None) -> None:
        held = (*self._packed, self._padded(torch.zeros(self._outputs) if bias_O is None else bias_O))
        sizes = (self._outputs, self._inputs, ACTIVATIONS[activation], self.matrix.path)
        self._describe(DynamicMatrix(*map(address, held), *sizes), held)


class TorchDynamic(WithVariants):
    """oneDNN's product of integers through torch; a new version of torch needs a change only here.

    It takes activations without sign and subtracts their zero point; those with sign take a way that is a thousand
    times as slow. Scales of rows, bias and activation function follow in passes of their own.
    """

    max_rows = MOST_ROWS

    def __init__(
        self,
        quantized: QuantizedWeight,
        format: WeightFormat,
        dtype: torch.dtype,
        bias_O: Tensor | None = None,
        activation: str | None = None,
    ) -> None:
        check_fits(quantized, format)
        super().__init__()
        self.dtype = dtype
        weight_OI = quantized.weight.contiguous()
        self._columns = weight_OI.T.contiguous()
        self._packed = torch.ops.onednn.qlinear_prepack(weight_OI, [1024, weight_OI.shape[1]])
        self._scale = quantized.scale.float()
        self._zero = None if quantized.zero is None else quantized.zero.float()
        self._ones, self._nothing = torch.ones(len(weight_OI)), torch.zeros(len(weight_OI), dtype=torch.int64)
        self._finish(bias_O, activation)

    def _finish(self, bias_O: Tensor | None, activation: str | None) -> None:
        self.activation, self._bias = activation, None if bias_O is None else bias_O.detach().float()

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product, [N, O]."""
        if not len(x_NI):
            return x_NI.new_empty(0, len(self._ones))
        whole_NI, scale_N1 = rounded_rows(x_NI)
        few_NK = whole_NI.abs().topk(min(OUTLIERS, whole_NI.shape[1]), 1).indices
        value_NK = whole_NI.gather(1, few_NK)
        bytes_NI = (whole_NI.scatter(1, few_NK, 0.0) + 128).to(torch.uint8)
        made_NO = torch.ops.onednn.qlinear_pointwise(
            bytes_NI, 1.0, 128, self._packed, self._ones, self._nothing, None, 1.0, 0, torch.float32, "none", [], ""
        )
        for k in range(few_NK.shape[1]):
            made_NO.addcmul_(value_NK[:, k : k + 1], self._columns[few_NK[:, k]].float())
        if self._zero is not None:
            made_NO = made_NO.addcmul_(whole_NI.sum(1, keepdim=True), self._zero)
        return finished(made_NO, scale_N1, self._scale, self._bias, self.activation).to(self.dtype)


def finished(
    sums_NO: Tensor, scale_N1: Tensor, scale_O: Tensor, bias_O: Tensor | None, activation: str | None
) -> Tensor:
    """Return the result of sums of integers: with scales, bias and activation function."""
    made_NO = sums_NO * scale_N1 * scale_O
    made_NO = made_NO if bias_O is None else made_NO + bias_O
    if activation is None:
        return made_NO
    if activation in ("gelu", "gelu_tanh"):
        return F.gelu(made_NO, approximate="tanh" if activation == "gelu_tanh" else "none")
    return F.silu(made_NO) if activation == "silu" else F.relu(made_NO)


def check_fits(quantized: QuantizedWeight, format: WeightFormat) -> None:
    """Raise NotImplementedError for a matrix that has no such product: 4 bits, scales of groups, or too many inputs."""
    if format.bits != 8 or format.group_size or not quantized.weight.numel():
        raise NotImplementedError("4 bits, or scales of groups")
    if quantized.weight.device.type != "cpu" or quantized.weight.shape[1] > MOST_INPUTS:
        raise NotImplementedError("another device, or too many inputs")


@torch.no_grad()
def dynamic_for(
    quantized: QuantizedWeight,
    format: WeightFormat,
    dtype: torch.dtype,
    bias_O: Tensor | None = None,
    activation: str | None = None,
    probe: bool = True,
) -> DynamicProduct | None:
    """Return the product of a matrix with activations of 8 bits; None where this machine or matrix has none.

    The choice depends on the processor's instructions and on whether there is a C compiler, not on a measured time.
    probe=False skips the comparison, for a matrix of a shape and format that has been compared.
    """
    if dtype not in TYPES or not any(name in VNNI for name in instruction_sets()):
        return None
    kinds = [NativeDynamic] if best_path() == PATHS.index("avx512") else []
    for kind in (*kinds, TorchDynamic):
        try:
            made: DynamicProduct = kind(quantized, format, dtype, bias_O, activation)
            if not probe or agrees(made, quantized, bias_O, activation):
                return made
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
    return None


def agrees(
    product: DynamicProduct, quantized: QuantizedWeight, bias_O: Tensor | None = None, activation: str | None = None
) -> bool:
    """Return whether a product computes what arithmetic in fp64 does, on rows without and with outliers, and on rows
    whose sums of 16 bits would saturate."""
    outputs, inputs = quantized.weight.shape
    generator = torch.Generator().manual_seed(0)
    x_NI = torch.randn(9, inputs, generator=generator)
    x_NI[3:6, :: max(1, inputs // 4)] *= OUTLIER
    x_NI[5, 0] *= OUTLIER**3
    x_NI[6], x_NI[7], x_NI[8] = 1, -1, 0
    x_NI = x_NI.clamp_(-6e4, 6e4).to(product.dtype)
    made_NO = product(x_NI).double()
    for begin in {0, max(0, outputs - PROBED)}:
        at = slice(begin, begin + PROBED)
        right_NO = reference(x_NI, quantized.rows(at), None if bias_O is None else bias_O[at], activation)
        sums_NO = reference(x_NI, quantized.rows(at), None if bias_O is None else bias_O[at])
        allowed_N1 = ALLOWED[product.dtype] * sums_NO.abs().amax(1, keepdim=True)
        if not ((made_NO[:, at] - right_NO).abs() <= allowed_N1).all():
            return False
    return True


def reference(
    x_NI: Tensor, quantized: QuantizedWeight, bias_O: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Compute the product with activations of 8 bits in fp64, [N, O]."""
    whole_NI, scale_N1 = rounded_rows(x_NI)
    weight_OI = quantized.weight.double()
    if quantized.zero is not None:
        weight_OI = weight_OI + quantized.zero.double()[:, None]
    bias_O = None if bias_O is None else bias_O.detach().double()
    scales = scale_N1.double(), quantized.scale.double()
    return finished(whole_NI.double() @ weight_OI.T, *scales, bias_O, activation)
