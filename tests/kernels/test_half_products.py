"""Products of few rows with matrices of fp32, fp16 and bf16, against those in fp64."""

from __future__ import annotations

import pytest
import torch

from blankfill.kernels import half_products
from blankfill.kernels.half_products import HalfProduct, half_product_for
from blankfill.kernels.native.library import PATHS, best_path, library

native = pytest.mark.skipif(library() is None, reason="there is no C compiler here, or the kernels are turned off")
TYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 2**-20, torch.float16: 2**-11, torch.bfloat16: 2**-8}


@native
@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stored", TYPES)
def test_every_type_and_shape(path: int, dtype: torch.dtype, stored: torch.dtype) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs in ((768, 13), (100, 5), (64, 16), (7, 3), (1, 1)):
        weight = torch.randn(outputs, inputs, generator=generator).to(stored)
        bias = torch.randn(outputs, generator=generator).to(stored)
        product, biased = HalfProduct(weight, dtype, path=path), HalfProduct(weight, dtype, bias, path)
        for rows in (1, 2, 3):
            x = torch.randn(rows, inputs, generator=generator).to(dtype)
            right = x.double() @ weight.double().T
            for made, wanted in ((product(x), right), (biased(x), right + bias.double())):
                assert made.dtype == dtype
                allowed = ROUNDING[dtype] * wanted.abs() + 1e-6 * (x.double().norm(dim=1)[:, None] + 1)
                assert ((made.double() - wanted).abs() <= allowed * 1.01 + 2e-5).all()


@native
@pytest.mark.parametrize("stored", TYPES)
def test_every_number_of_16_bits_is_read_and_written_exactly(stored: torch.dtype) -> None:
    """The product with 1 is the number, subnormal and infinite ones too; results are rounded as torch rounds them."""
    if stored == torch.float32:
        numbers = torch.randn(4000, generator=torch.Generator().manual_seed(1)) * torch.logspace(-9, 5, 4000)
    else:
        numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(stored)
    for path in range(best_path() + 1):
        for dtype in TYPES:
            made = HalfProduct(numbers[:, None], dtype, path=path)(torch.ones(1, 1, dtype=dtype))[0]
            right = numbers.to(dtype)
            assert torch.equal(made.isnan(), right.isnan())
            assert torch.equal(made[~made.isnan()], right[~right.isnan()])


@native
def test_rows_of_a_larger_matrix_and_any_threads() -> None:
    whole = torch.randn(400, 1200, generator=torch.Generator().manual_seed(2)).bfloat16()
    weight = whole[3:, 5:1100]
    product = HalfProduct(weight, torch.bfloat16)
    x = torch.randn(3, 1095, generator=torch.Generator().manual_seed(3)).bfloat16()
    right = HalfProduct(weight.contiguous(), torch.bfloat16)(x)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(product(x), right)
            assert torch.equal(product(x[1:2]), right[1:2])
    finally:
        torch.set_num_threads(before)


@native
@pytest.mark.parametrize("path", range(len(PATHS)))
@pytest.mark.parametrize("stored", TYPES)
def test_many_rows_have_the_numbers_of_one(path: int, stored: torch.dtype) -> None:
    """Any rows beside a row, in any number, leave its sums as they are to the bit."""
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    generator = torch.Generator().manual_seed(5)
    for inputs, outputs in ((1100, 10), (2300, 3), (33, 6)):
        weight = torch.randn(outputs, inputs, generator=generator).to(stored)
        product = HalfProduct(weight, torch.float32, torch.randn(outputs, generator=generator), path)
        x = torch.randn(39, inputs, generator=generator)
        alone = torch.cat([product(row[None]) for row in x])
        right = x.double() @ weight.double().T + product.held[1].double()  # type: ignore[union-attr]
        assert (alone - right).abs().max() < 1e-4 * right.abs().max()
        for rows in (4, 5, 6, 7, 32, 33, 39):
            assert torch.equal(product(x[:rows]), alone[:rows])


def test_matrices_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(4))
    assert half_product_for(weight.double()) is None
    assert half_product_for(weight.T) is None
    assert half_product_for(weight, torch.float64) is None
    if library() is not None:
        made = half_product_for(weight)
        assert made is not None and made.dtype == torch.float32
        monkeypatch.setattr(HalfProduct, "__call__", lambda self, x_NI: x_NI.new_zeros(len(x_NI), 8))
        assert half_product_for(weight) is None  # it computes something else
        assert half_product_for(weight, probe=False) is not None
    monkeypatch.setattr(half_products, "library", lambda: None)
    assert half_product_for(weight) is None
