"""Products with activations of 8 bits: both kernels against arithmetic in fp64, and the layer that uses them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels import dynamic_products
from blankfill.kernels.dynamic_products import (
    LARGEST_OUTLIER,
    NativeDynamic,
    TorchDynamic,
    agrees,
    dynamic_for,
    reference,
    rounded_rows,
)
from blankfill.kernels.integers import Scheme, WeightFormat, dequantize, quantize
from blankfill.kernels.native.library import PATHS, best_path, library
from blankfill.kernels.short_attention import short_attention
from blankfill.model.dynamic import DynamicDense
from blankfill.model.layers import activate

WAYS = [*PATHS, "torch"]
SIZES = [(192, 384), (65, 130), (1153, 37), (1, 1)]
ACTIVATIONS = [None, "gelu", "gelu_tanh", "silu", "relu"]


def made_by(way: str, *arguments: Any) -> Any:
    """Make a product; skips where this machine cannot."""
    if way == "torch":
        try:
            made = TorchDynamic(*arguments)
            made(torch.ones(1, len(made._columns)).to(made.dtype))
        except (RuntimeError, AttributeError) as error:
            pytest.skip(f"oneDNN has no product of integers here: {error}")
        if not any(name in dynamic_products.VNNI for name in dynamic_products.instruction_sets()):
            pytest.skip("its sums saturate on this processor")
        return made
    if library() is None:
        pytest.skip("there is no C compiler")
    if PATHS.index(way) > best_path():
        pytest.skip("this processor lacks the instructions")
    return NativeDynamic(*arguments, path=PATHS.index(way))


def matrix(outputs: int, inputs: int, scheme: Scheme = "absmax") -> tuple[Any, WeightFormat, Tensor]:
    """A quantised matrix, its format and a bias."""
    generator = torch.Generator().manual_seed(outputs)
    format = WeightFormat(8, scheme=scheme)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.05
    return quantize(weight, format), format, torch.randn(outputs, generator=generator)


def rows(count: int, inputs: int) -> Tensor:
    """Rows with outliers; the last is zero."""
    x = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)) * 3
    x[:, 0] *= 50
    x[-1] = 0
    return x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["absmax", "zero-point"])
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_products_are_those_of_exact_arithmetic(outputs: int, inputs: int, scheme: Scheme, way: str) -> None:
    quantized, format, bias = matrix(outputs, inputs, scheme)
    for activation in ACTIVATIONS:
        product = made_by(way, quantized, format, torch.float32, bias, activation)
        for count in (1, 7, 400):
            x = rows(count, inputs)
            right = reference(x, quantized, bias, activation)
            assert (product(x) - right).abs().max() <= 1e-6 * right.abs().max() + 1e-30
        assert product(x[:0]).shape == (0, outputs)
        assert agrees(product, quantized, bias, activation)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_results_of_other_types_are_rounded_once(dtype: torch.dtype, way: str) -> None:
    quantized, format, bias = matrix(70, 100)
    x = torch.randn(9, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    product = made_by(way, quantized, format, dtype, bias, "gelu")
    right = reference(x, quantized, bias, "gelu")
    assert product(x).dtype == dtype
    assert (product(x).double() - right).abs().max() <= torch.finfo(dtype).eps / 2 * right.abs().max() + 1e-6
    assert agrees(product, quantized, bias, "gelu")


@pytest.mark.parametrize("way", WAYS)
def test_sums_do_not_saturate(way: str) -> None:
    quantized, format, _ = matrix(64, 512)
    quantized = quantized._replace(weight=torch.full_like(quantized.weight, 127))
    x = torch.ones(5, 512)
    x[1], x[2, ::2] = -1, -1
    right = reference(x, quantized)
    made = made_by(way, quantized, format, torch.float32)(x)
    assert torch.allclose(made.double(), right, rtol=1e-6, atol=1e-3)
    assert made[0, 0] > 0 > made[1, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_not_finite_makes_only_its_row_nan(way: str) -> None:
    quantized, format, bias = matrix(65, 50)
    product = made_by(way, quantized, format, torch.float32, bias)
    x = torch.ones(7, 50)
    x[1, 3], x[2, 49], x[3, 0] = torch.nan, torch.inf, -torch.inf
    made = product(x)
    assert made[1:4].isnan().all() and made[[0, 4, 5, 6]].isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_rows_do_not_depend_on_others_nor_on_the_address(way: str) -> None:
    quantized, format, bias = matrix(130, 77)
    product = made_by(way, quantized, format, torch.float32, bias, "gelu")
    x = rows(500, 77)
    made = product(x)
    alone = torch.cat([product(x[k : k + 1]) for k in (0, 3, 401, 499)])
    assert torch.equal(made[[0, 3, 401, 499]], alone) or (
        way == "torch" and torch.allclose(made[[0, 3, 401, 499]], alone)
    )
    shifted = torch.empty(x.numel() + 1)[1:].view_as(x).copy_(x)
    assert shifted.data_ptr() % 8 and torch.equal(product(shifted), made)
    assert torch.equal(product(x.T.contiguous().T), made)


def test_two_outliers_of_a_row_leave_the_scale_small() -> None:
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    plain = rounded_rows(x)[1]
    x[0, 5], x[0, 6] = 1e3, -2e3
    whole, scale = rounded_rows(x)
    assert scale[0] < 2.01 / 127 and scale[1] == plain[1]
    assert (whole * scale - x).abs().max() <= scale.max() / 2 * 1.001
    x[0, 5] = 1e9
    whole, scale = rounded_rows(x)
    assert whole[0].abs().max() == LARGEST_OUTLIER and abs(whole[0, 5] * scale[0, 0] / 1e9 - 1) < 1e-6


def test_formats_without_such_a_product() -> None:
    for format in (WeightFormat(4), WeightFormat(8, group_size=32)):
        quantized = quantize(torch.randn(8, 64), format)
        assert dynamic_for(quantized, format, torch.float32) is None


def test_without_instructions_for_bytes_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, format, _ = matrix(64, 64)
    monkeypatch.setattr(dynamic_products, "instruction_sets", lambda: ["avx2"])
    assert dynamic_for(quantized, format, torch.float32) is None


def test_a_product_that_saturates_is_refused() -> None:
    quantized, format, _ = matrix(64, 512)
    weight = dequantize(quantized, format, torch.float32)

    class Saturates:
        dtype, max_rows = torch.float32, 1

        def __call__(self, x: Tensor) -> Tensor:
            return F.linear(x, weight).clamp(-20, 20)

    assert not agrees(Saturates(), quantized)  # type: ignore[arg-type]


def layer(inputs: int, outputs: int) -> tuple[DynamicDense, Tensor]:
    """A layer with values, and its weights as they were."""
    made = DynamicDense(inputs, outputs, True, WeightFormat(8))
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) * 0.1
    quantized = quantize(weight, made.format)
    made.weight, made.weight_scale = quantized.weight, quantized.scale
    torch.nn.init.normal_(made.bias, generator=torch.Generator().manual_seed(1))
    made.prepare(torch.float32)
    return made, weight


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu", "relu"])
def test_the_layer_applies_bias_and_activation(activation: str) -> None:
    made, weight = layer(96, 40)
    x = rows(30, 96).view(2, 15, 96)
    right = activate(F.linear(x, weight, made.bias), activation)
    with torch.no_grad():
        assert (made.activated(x, activation) - right).abs().max() < 0.02 * right.abs().max()
        assert torch.allclose(made.activated(x, activation), activate(made(x), activation), atol=1e-4)
        assert made(x).shape == (2, 15, 40)


def test_the_gradient_is_that_of_the_dequantised_product() -> None:
    made, _ = layer(64, 48)
    x = rows(5, 64).requires_grad_()
    made(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, made.float_weight().sum(0).expand(5, -1), atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(made(x), made(x.detach()), atol=1e-5)


def test_new_weights_drop_the_packed_ones() -> None:
    made, _ = layer(64, 48)
    x = rows(5, 64)
    other = copy.deepcopy(made)
    with torch.no_grad():
        before = made(x)
        made.weight = -made.weight
        made.prepare(torch.float32)
        assert torch.allclose(made(x) - made.bias, -(before - made.bias), atol=1e-4)
        assert torch.allclose(other(x), before, atol=0.02 * float(before.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("columns", "width"), [(1, 16), (17, 32), (33, 128), (96, 48)])
def test_attention_of_short_rows(columns: int, width: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, columns, 3, 2, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.zeros(3, 1, columns, columns)
    bias[1, :, :, columns // 2 + 1 :] = -torch.inf
    query, key, value = x.double().permute(2, 0, 3, 1, 4)
    with torch.no_grad():
        for given in (None, bias):
            made = short_attention(x, given)
            if made is None:
                pytest.skip("this machine has no such kernel")
            mask = None if given is None else given.double()
            right = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
            assert made.dtype == dtype and (made.double() - right).abs().max() < {4: 2e-6, 2: 2e-2}[dtype.itemsize]


def test_attention_that_the_kernel_leaves_to_torch() -> None:
    with torch.no_grad():
        assert short_attention(torch.randn(1, 97, 3, 1, 16), None) is None
        assert short_attention(torch.randn(1, 4, 3, 1, 20), None) is None
        assert short_attention(torch.randn(0, 4, 3, 1, 16), None) is None
        assert short_attention(torch.randn(1, 4, 3, 1, 16).double(), None) is None
    assert short_attention(torch.randn(1, 4, 3, 1, 16), None) is None
