"""Quantised dense layers: the rounding and packing of the released code, and what the layers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from blankfill.adapt.lora import add_lora, merge_lora
from blankfill.kernels import integer_products
from blankfill.kernels.integers import LARGEST, WeightFormat, dequantize, pack, quantize, unpack
from blankfill.model import quantized
from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.quantized import QuantizedDense, make_quantized, quantizable
from blankfill.model.transformer import Transformer, build

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "chatglm" / "quantised.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.exists():
        pytest.skip("the outputs of the original code are not here")
    return load_file(GOLDEN)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("path", ["fp16", "fp32", "mixed"])
def test_the_released_rounding_to_the_bit(golden: dict[str, Tensor], path: str, bits: int) -> None:
    weight = golden["fp16.weight" if path == "fp16" else "fp32.weight"]
    format = WeightFormat(bits, scale_type="float32" if path == "fp32" else "float16")
    stored, scale, _ = made = quantize(weight, format)
    assert torch.equal(scale, golden[f"{path}.int{bits}.scale"])
    assert torch.equal(unpack(stored, bits), golden[f"{path}.int{bits}.q"])
    if path != "mixed":
        assert torch.equal(stored, golden[f"{path}.int{bits}.packed"])
        assert torch.equal(dequantize(made, format, weight.dtype), golden[f"{path}.int{bits}.dequantised"])


def test_a_worked_row() -> None:
    """Scales 7/7 = 1 and 1/7; 2.5 is rounded to even; a row of zeros has the scale 0."""
    weight = torch.tensor([[7.0, -2.5, 1.0, 3.4], [0, 0, 0, 0], [1.0, -1.0, 0.5, 0.0]])
    stored, scale, _ = made = quantize(weight, WeightFormat(4))
    assert stored.dtype == torch.int8 and stored.shape == (3, 2)
    assert scale.tolist() == pytest.approx([1, 0, 1 / 7], rel=1e-3)
    assert unpack(stored, 4).tolist() == [[7, -2, 1, 3], [0, 0, 0, 0], [7, -7, 4, 0]]
    assert stored[0].tolist() == [7 << 4 | 14, 1 << 4 | 3]  # the even column in the high half
    assert torch.equal(dequantize(made, WeightFormat(4), torch.float32)[1], torch.zeros(4))


@pytest.mark.parametrize("bits", [8, 4])
def test_every_integer_survives_packing(bits: int) -> None:
    largest = LARGEST[bits]
    q = torch.arange(-largest - 1, largest + 1, dtype=torch.int8)[None]
    assert torch.equal(unpack(pack(q, bits), bits), q)


@pytest.mark.parametrize(("bits", "inputs"), [(3, 4), (4, 5)])
def test_impossible_sizes_are_refused(bits: int, inputs: int) -> None:
    with pytest.raises(ValueError):
        quantize(torch.ones(2, inputs), WeightFormat(bits))


def test_tiny_and_large_rows_stay_finite() -> None:
    """Scales of fp16 may be 0 or subnormal; the integers stay in their range."""
    weight = torch.tensor([[1e-9, -1e-9], [3e-6, 1e-6], [6e4, -1.0]])
    stored, scale, _ = made = quantize(weight, WeightFormat(8))
    assert scale[0] == 0 and torch.isfinite(scale).all()
    assert stored.abs().max() <= 127
    assert (dequantize(made, WeightFormat(8), torch.float32) - weight).abs().max() < 6e4 / 127 * 0.51


def layer_of(bits: int, inputs: int = 64, outputs: int = 48, bias: bool = True) -> tuple[QuantizedDense, Tensor]:
    """A random quantised layer, and its dequantised weights."""
    generator = torch.Generator().manual_seed(bits)
    layer = QuantizedDense(inputs, outputs, bias, WeightFormat(bits))
    made = quantize(torch.randn(outputs, inputs, generator=generator), WeightFormat(bits))
    layer.load_state_dict({
        **made.tensors(),
        **({"bias": torch.randn(outputs, generator=generator)} if bias else {}),
    })  # fmt: skip
    return layer, layer.float_weight()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_dequantised_product_and_its_gradient(
    bits: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "BLOCK", 64 * 5)  # blocks of 5 rows, the last of 3
    layer, weight = layer_of(bits, bias=bias)
    plain = dense(64, 48, bias)
    plain.load_state_dict({"weight": weight, **({"bias": layer.bias} if bias else {})})
    x, other = (torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in "ab")
    made, right = layer(x), plain(other)
    assert torch.allclose(made, right, atol=1e-5)
    (made**2).sum().backward()
    (right**2).sum().backward()
    assert x.grad is not None and other.grad is not None
    assert torch.allclose(x.grad, other.grad, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(layer(x), made)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type_computes_nearly_the_same(bits: int, dtype: torch.dtype) -> None:
    layer, weight = layer_of(bits, 128, 64)
    x = torch.randn(7, 128, generator=torch.Generator().manual_seed(2))
    right = x.to(dtype).float() @ weight.T + layer.bias
    layer.bias.requires_grad_(False)
    layer.to(dtype)
    assert layer.weight.dtype == torch.int8 and layer.weight_scale.dtype == torch.float16
    layer.prepare(dtype)
    made = layer(x.to(dtype))
    assert made.dtype == dtype
    assert (made.float() - right).abs().max() < {2: 0.02, 4: 1e-4}[dtype.itemsize] * right.abs().max()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_kernel_that_computes_something_else_is_not_used(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = layer_of(bits, 128, 64)
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    right = layer.dequantized_product(x)

    def wrong(self: Any, x_NI: Tensor) -> Tensor:
        return 1.1 * right.new_ones(len(x_NI), 64)

    def missing(self: Any, x_NI: Tensor) -> Tensor:
        raise NotImplementedError("not on this processor")

    for broken in (wrong, missing):
        for kind in (integer_products.NativeProduct, integer_products.TorchProduct):
            monkeypatch.setattr(kind, "__call__", broken)
        assert not layer.prepare(torch.bfloat16)
        assert torch.equal(layer.product(x), right)


def tiny(bits: int) -> Transformer:
    """A model with quantised layers."""
    model = build(
        TransformerConfig(vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, position_sizes=(32,)),
        seed=3,
    )
    state = dict(model.state_dict())
    names = list(quantizable(model))
    for name in names:
        weight = state[f"{name}.weight"]
        state.update(
            {f"{name}.{kind}": tensor for kind, tensor in quantize(weight, WeightFormat(bits)).tensors().items()}
        )
    make_quantized(model, dict.fromkeys(names, WeightFormat(bits)))
    model.load_state_dict(state)
    return model


def test_the_layers_of_attention_and_feed_forward_are_quantised() -> None:
    model = tiny(8)
    kinds = ("attention.qkv", "attention.output", "ffn.inner", "ffn.output")
    assert set(quantizable(model)) == {f"layers.{k}.{kind}" for k in (0, 1) for kind in kinds}
    assert all(isinstance(layer, QuantizedDense) for layer in quantizable(model).values())


@pytest.mark.parametrize("bits", [8, 4])
def test_lora_learns_on_quantised_layers_and_merges(bits: int) -> None:
    model = tiny(bits)
    add_lora(model, rank=2)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 8 and all(name.endswith((".up", ".down")) for name in learning)
    layer: Any = model.get_submodule("layers.0.ffn.inner")
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
    layer(x).pow(2).sum().backward()
    assert layer.up.grad.abs().max() > 0
    layer.up.data.normal_(generator=torch.Generator().manual_seed(6))
    right = layer(x)
    merge_lora(model)
    plain = model.get_submodule("layers.0.ffn.inner")
    assert torch.allclose(plain(x), right, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [0, 32])
@pytest.mark.parametrize("scheme", ["absmax", "zero-point"])
@pytest.mark.parametrize("scale_type", ["float16", "bfloat16", "float32"])
def test_every_format_is_the_nearest_grid_point(bits: int, group_size: int, scheme: Any, scale_type: Any) -> None:
    """With exact scales no weight is more than half a step away; a layer computes with what `dequantize` returns."""
    format = WeightFormat(bits, group_size, scheme, scale_type)
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(7)) + 0.5
    made = quantize(weight, format)
    step = made.scale.float().reshape(5, -1).repeat_interleave(64 // made.scale.reshape(5, -1).shape[1], 1)
    rounding = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 1e-6}[scale_type]
    allowed = 0.5 * step + rounding * 2 * weight.abs().amax(1, keepdim=True)
    assert ((dequantize(made, format, torch.float32) - weight).abs() <= allowed).all()
    layer = QuantizedDense(64, 5, False, format)
    layer.load_state_dict(made.tensors())
    assert torch.equal(layer.float_weight(), dequantize(made, format, torch.float32))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(8))
    assert torch.allclose(layer(x), x @ layer.float_weight().T, atol=1e-5)
    assert layer.half().weight_scale.dtype == format.dtype
    assert WeightFormat.from_state(format.state()) == format


def test_zero_points_are_those_of_the_paper() -> None:
    """s = (max − min) / 14, z = round(min / s) + 7, q = round(x / s) − z; the ends are −7 and 7."""
    weight = torch.tensor([[1.0, 2.0, 8.0, 15.0], [-3.0, -3.0, -3.0, -3.0], [0, 0, 0, 0]])
    format = WeightFormat(4, scheme="zero-point")
    made = quantize(weight, format)
    assert made.zero is not None
    assert made.scale.tolist() == [1, -3, 0] and made.zero.tolist()[0] == 8
    assert unpack(made.weight, 4)[0].tolist() == [-7, -6, 0, 7]
    assert torch.equal(dequantize(made, format, torch.float32), weight)


@pytest.mark.parametrize(
    "value",
    [5, True, "8", None, {"bits": 8, "planes": 1}, {"bits": 4, "group_size": -1}, {"bits": 4, "scheme": "other"},
     {"bits": 4, "scale_type": "int8"}, {"bits": 4, "group_size": True}],
)  # fmt: skip
def test_values_that_are_no_format(value: Any) -> None:
    with pytest.raises(ValueError):
        WeightFormat.from_state(value)
