"""Products of few rows with quantised matrices: every format, type and set of instructions against the dequantised
product."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from blankfill.kernels import integer_products
from blankfill.kernels.integer_products import NativeProduct, TorchProduct, agrees, product_for
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, quantize
from blankfill.kernels.native.library import PATHS, best_path, library
from blankfill.model.quantized import QuantizedDense

native = pytest.mark.skipif(library() is None, reason="there is no C compiler here, or the kernels are turned off")
ROUNDING = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""Relative error of a result that is rounded to a type."""


def matrix(format: WeightFormat, outputs: int, inputs: int) -> tuple[QuantizedWeight, Tensor]:
    """A random quantised matrix whose weights have a mean, and its dequantised weights."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs)) + 0.3
    made = quantize(weight, format)
    return made, dequantize(made, format, torch.float32).double()


def rows_of(number: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Random rows, of which the last has outliers."""
    x = torch.randn(number, inputs, generator=torch.Generator().manual_seed(number))
    x[-1, ::7] *= 50
    return x.to(dtype)


def check(product: Any, weight: Tensor, x_NI: Tensor) -> Tensor:
    """Compare a product with that of the dequantised weights; errors are shares of |x| · |w|."""
    right = x_NI.double() @ weight.T
    made = product(x_NI)
    assert made.dtype == x_NI.dtype and made.shape == right.shape
    scale = x_NI.double().norm(dim=1)[:, None] * weight.norm(dim=1)
    error = (made.double() - right).abs() - ROUNDING[x_NI.dtype] * right.abs()
    assert (error <= 4e-5 * scale + 1e-7).all(), (error / scale).max()
    return made


@native
@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [0, 32, 384])
def test_the_library_dequantises_to_the_same_numbers(path: int, bits: int, group: int) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for scheme, scale_type in (("absmax", "float16"), ("zero-point", "bfloat16"), ("zero-point", "float32")):
        format = WeightFormat(bits, group, scheme, scale_type)  # type: ignore[arg-type]
        for inputs in (768, 384) if group else (768, 70, 2):
            made, _ = matrix(format, 7, inputs)
            product = NativeProduct(made, format, torch.float32, path=path)
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                assert torch.equal(product.weights(2, 7, dtype), dequantize(made.rows(slice(2, 7)), format, dtype))


@native
@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scheme", ["absmax", "zero-point"])
@pytest.mark.parametrize("group", [0, 32, 64, 128, 256, 384])
def test_every_format_and_shape(path: int, bits: int, scheme: Any, group: int) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for k, (inputs, outputs) in enumerate([(768, 13), (512, 16), (128, 5), (300, 4), (34, 7), (2, 1)]):
        scale_type: Any = ("float16", "bfloat16", "float32")[k % 3]
        format = WeightFormat(bits, group, scheme, scale_type)
        if not format.fits(inputs):
            continue
        quantized, weight = matrix(format, outputs, inputs)
        for rows in (1, 2, 5):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                check(NativeProduct(quantized, format, dtype, path=path), weight, rows_of(rows, inputs, dtype))


@native
@pytest.mark.parametrize("bits", [8, 4])
def test_largest_integers_do_not_saturate(bits: int) -> None:
    """Rows of the largest weights and activations, where products of 8 bits in sums of 16 bits would saturate."""
    largest = 127 if bits == 8 else 7
    weight = torch.full((8, 1024), float(largest))
    weight[::2] *= -1
    format = WeightFormat(bits)
    quantized = quantize(weight, format)
    for path in range(best_path() + 1):
        made = NativeProduct(quantized, format, torch.float32, path=path)(torch.ones(1, 1024))
        assert torch.allclose(made, weight.sum(1)[None], rtol=1e-4)


@native
def test_the_bias_is_added_once_and_in_fp32() -> None:
    format = WeightFormat(4, 32)
    quantized, _ = matrix(format, 10, 64)
    bias = torch.arange(10.0).bfloat16()
    x = rows_of(3, 64, torch.float32)
    plain = NativeProduct(quantized, format, torch.float32)(x)
    assert torch.equal(NativeProduct(quantized, format, torch.float32, bias)(x), plain + bias.float())


@native
@pytest.mark.parametrize("format", [WeightFormat(8), WeightFormat(4), WeightFormat(4, 32, "zero-point")])
def test_a_row_has_the_same_bits_with_any_threads_and_neighbours(format: WeightFormat) -> None:
    quantized, _ = matrix(format, 301, 2048)
    product = NativeProduct(quantized, format, torch.float32)
    x = rows_of(7, 2048, torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        right = product(x)
        torch.set_num_threads(2)
        assert torch.equal(product(x), right)
    finally:
        torch.set_num_threads(before)
    for k in range(7):
        assert torch.equal(product(x[k : k + 1]), right[k : k + 1])
    many = x.repeat(11, 1)  # more rows than are computed at a time
    assert torch.equal(product(many), right.repeat(11, 1))


@native
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_that_are_not_finite_give_nan_and_leave_the_others_alone(bits: int) -> None:
    format = WeightFormat(bits, 32)
    quantized, _ = matrix(format, 9, 64)
    for path in range(best_path() + 1):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            product = NativeProduct(quantized, format, dtype, path=path)
            x = rows_of(4, 64, dtype)
            right = product(x)
            x[1, 3], x[2, 40] = float("nan"), float("inf")
            made = product(x)
            assert made[1:3].isnan().all() and torch.equal(made[[0, 3]], right[[0, 3]])
            assert torch.equal(product(torch.zeros(1, 64, dtype=dtype)), torch.zeros(1, 9, dtype=dtype))


def misaligned(x: Tensor) -> Tensor:
    """A copy at an address that is no multiple of 16, as a tensor in a memory-mapped file can have."""
    size = x.element_size()
    made = torch.empty(x.numel() + 8 // size, dtype=x.dtype)[8 // size :].view(x.shape).copy_(x)
    assert made.data_ptr() % 16 == 8
    return made


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", [NativeProduct, TorchProduct])
def test_weights_and_rows_may_be_at_any_address(bits: int, kind: Any) -> None:
    """Torch's kernel for 8 bits ended the process with a segmentation fault at addresses that are no multiple of 16."""
    format = WeightFormat(bits)
    quantized, _ = matrix(format, 64, 128)
    moved = QuantizedWeight(misaligned(quantized.weight), misaligned(quantized.scale))
    x = rows_of(3, 128, torch.bfloat16)
    try:
        right = kind(quantized, format, torch.bfloat16)(x)
    except (NotImplementedError, RuntimeError, AttributeError):
        pytest.skip("this machine has no such kernel")
    assert torch.equal(kind(moved, format, torch.bfloat16)(misaligned(x)), right)


@native
def test_rows_of_another_size_or_type_are_refused() -> None:
    format = WeightFormat(8)
    product = NativeProduct(matrix(format, 4, 32)[0], format, torch.float32)
    for x in (torch.ones(1, 31), torch.ones(1, 32).half()):
        with pytest.raises(ValueError, match="the product takes"):
            product(x)
    assert product(torch.ones(0, 32)).shape == (0, 4)
    assert torch.equal(product(torch.ones(32, 2).T), product(torch.ones(2, 32)))  # rows that are not contiguous


@native
def test_what_the_kernel_does_not_take_has_no_product() -> None:
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    odd = WeightFormat(8, 48)  # groups of another size
    assert product_for(quantize(x, odd), odd, torch.float32) is None
    format = WeightFormat(8)
    stored = quantize(x, format)
    assert product_for(stored, format, torch.float64) is None
    turned = QuantizedWeight(stored.weight.T.contiguous().T, stored.scale)
    assert product_for(turned, format, torch.float32) is None
    assert product_for(stored, format, torch.float32) is not None


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""
    monkeypatch.setattr(integer_products, "library", lambda: None)


@pytest.mark.parametrize("bits", [8, 4])
def test_without_a_library_torch_computes_what_it_can(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_library(monkeypatch)
    format = WeightFormat(bits)
    quantized, weight = matrix(format, 64, 128)
    assert product_for(quantized, format, torch.float32) is None
    assert product_for(*_odd(bits), torch.bfloat16) is None
    product = product_for(quantized, format, torch.bfloat16, torch.ones(64))
    if product is None:
        pytest.skip("this torch has no kernel for packed integers on this processor")
    assert isinstance(product, TorchProduct)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    right = x.double() @ weight.T + 1
    assert (product(x).double() - right).abs().max() <= 2**-6 * right.abs().max()


def _odd(bits: int) -> tuple[QuantizedWeight, WeightFormat]:
    format = WeightFormat(bits)
    return matrix(format, 7, 34)[0], format


def test_a_layer_computes_the_same_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    format = WeightFormat(4, 32)
    layer = layer_of(format)
    x = rows_of(3, 64, torch.float32)
    with torch.no_grad():
        layer.prepare(torch.float32)
        with_kernel = layer(x)
        without_library(monkeypatch)
        assert not layer.prepare(torch.float32)
        assert torch.allclose(layer(x), with_kernel, rtol=1e-3, atol=1e-2)


def layer_of(format: WeightFormat) -> QuantizedDense:
    """A layer with random weights."""
    layer = QuantizedDense(64, 12, True, format)
    layer.load_state_dict({**matrix(format, 12, 64)[0].tensors(), "bias": torch.arange(12.0)})
    return layer


@pytest.fixture
def prepared() -> Iterator[QuantizedDense]:
    """A layer with a kernel."""
    layer = layer_of(WeightFormat(8))
    if not layer.prepare(torch.float32):
        pytest.skip("there is no C compiler here")
    yield layer


def test_a_kernel_never_outlives_the_tensors_that_it_reads(prepared: QuantizedDense) -> None:
    other = layer_of(WeightFormat(8))
    other.weight = -other.weight
    x = rows_of(2, 64, torch.float32)
    with torch.no_grad():
        for change in (
            lambda layer: setattr(layer, "weight", -layer.weight),
            lambda layer: layer.load_state_dict(other.state_dict()),
            lambda layer: layer.load_state_dict(other.state_dict(), assign=True),
            lambda layer: layer.to("cpu", torch.bfloat16),
        ):
            layer = copy.deepcopy(prepared)
            assert layer.prepare(torch.float32)
            change(layer)
            assert layer.kernel is None
            assert torch.allclose(layer.product(x), x @ layer.float_weight().T, atol=1e-4)
        assert prepared.kernel is not None and copy.deepcopy(prepared).kernel is None
        assert set(prepared.state_dict()) == {"weight", "weight_scale", "bias"}


def test_more_rows_than_the_kernel_takes_are_dequantised(
    prepared: QuantizedDense, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepared.kernel is not None
    monkeypatch.setattr(prepared.kernel, "max_rows", 2)
    x = rows_of(3, 64, torch.float32)
    assert torch.equal(prepared.product(x), prepared.dequantized_product(x))
    assert torch.equal(prepared.product(x[:2]), prepared.kernel(x[:2]))


def test_a_layer_that_is_recorded_is_dequantised(prepared: QuantizedDense) -> None:
    """So that a model with kernels can be exported: the recorded program computes other rows, too."""
    x, other = rows_of(2, 64, torch.float32), rows_of(2, 64, torch.float32).flip(0)
    with torch.no_grad():
        program = torch.export.export(prepared, (x,))
        assert torch.allclose(program.module()(other), prepared(other), rtol=1e-3, atol=1e-2)


def test_a_product_that_is_wrong_with_outliers_alone_is_found() -> None:
    format = WeightFormat(8)
    quantized, weight = matrix(format, 700, 256)

    class Clipped:
        max_rows, dtype = 8, torch.float32

        def __call__(self, x_NI: Tensor) -> Tensor:
            return x_NI.clamp(-8, 8) @ weight.float().T

    class Last:
        max_rows, dtype = 8, torch.float32

        def __call__(self, x_NI: Tensor) -> Tensor:
            made = x_NI @ weight.float().T
            made[:, -1] = 0
            return made

    class Right:
        max_rows, dtype = 8, torch.float32

        def __call__(self, x_NI: Tensor) -> Tensor:
            return x_NI @ weight.float().T

    assert agrees(Right(), quantized, format)
    assert not agrees(Clipped(), quantized, format)
    assert not agrees(Last(), quantized, format)
