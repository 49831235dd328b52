"""Single columns in fewer operations: the same states as one pass over whole rows."""

import dataclasses

import pytest
import torch

from blankfill.adapt.lora import add_lora
from blankfill.attention.masks import Mask
from blankfill.kernels import decoding, half_products, integer_products
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.kernels.native.library import PATHS, best_path
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.layers import ColumnOwners
from blankfill.model.quantized import QuantizedDense, make_quantized, prepare, quantizable
from blankfill.model.single import SingleColumn, compiled, fits
from blankfill.model.transformer import Transformer, build

GPT = TransformerConfig(
    vocab_size=60, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, position_sizes=(24,), norm="pre",
    dropout=0.1, attention_dropout=0.1, init_std=0.2,
)  # fmt: skip
KINDS = {
    "pre-norm": GPT,
    "post-norm": dataclasses.replace(GPT, norm="post", embedding_norm=True),
    "without biases": dataclasses.replace(GPT, attention_bias=False, ffn_bias=False),
    "gated": dataclasses.replace(GPT, gated=True, activation="gelu_tanh"),
    "root mean square": dataclasses.replace(GPT, norm_kind="rms", activation="relu"),
    "distances": dataclasses.replace(GPT, relative_buckets=8, relative_distance=16),
    "scores as they are": dataclasses.replace(GPT, scale_scores=False),
    "two positions": dataclasses.replace(GPT, position_sizes=(24, 5)),
    "rotated": dataclasses.replace(GPT, position_scheme="rotary", position_sizes=()),
    "shared keys": dataclasses.replace(GPT, num_kv_heads=2, activation="silu", gated=True),
    "shared": dataclasses.replace(GPT, norm="post", embedding_norm=True, shared="all", embedding_size=12),
}


ROADS = ["torch", *PATHS]
"""What computes the steps: operations of torch, or the compiled library with a set of instructions."""


@pytest.fixture
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Choose what computes the steps; return whether it is the compiled library."""
    if request.param == "torch":
        monkeypatch.setattr(decoding, "available", lambda: False)
        return False
    if not decoding.available():
        pytest.skip("there is no compiled library")
    path = PATHS.index(request.param)
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for module in (decoding, half_products, integer_products):
        monkeypatch.setattr(module, "best_path", lambda: path)
    return True


@pytest.mark.parametrize("road", ROADS, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_one_pass(kind: str, road: bool) -> None:
    """Each row at places of its own, the first columns by the usual way; rows repeated and reordered on the way."""
    model = build(KINDS[kind], seed=1).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms that do something
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (3, 9), generator=generator)
    places = torch.stack([torch.arange(9) + first for first in (0, 4, 9)])
    positions = torch.stack([places, *[places % 5] * (len(KINDS[kind].position_sizes) - 1)])
    with torch.inference_mode():
        whole = model(Inputs(ids, positions, Mask("causal"))).hidden
        cache = model.new_cache(3, 9)
        model(Inputs(ids[:, :3], positions[:, :, :3], Mask("causal")), cache=cache)
        single, rows = SingleColumn(model), torch.arange(3)
        assert (single.compiled is not None) == road
        for column in range(3, 9):
            if column == 5:
                rows = torch.tensor([2, 0, 0, 1])
                for layer in cache:
                    layer.select(rows)
            got = single(ids[rows, column, None], positions[:, rows, column, None], None, cache)
            torch.testing.assert_close(got, whole[rows, column], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("road", ROADS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [40, 64])
def test_many_columns_of_wide_heads(width: int, dtype: torch.dtype, road: bool) -> None:
    """Whole and partial blocks of columns, columns that other rows hold, and columns that are not seen."""
    config = dataclasses.replace(GPT, hidden_size=2 * width, num_heads=2, num_layers=1, position_sizes=(150,))
    model = build(config, seed=3).eval().to(dtype)
    ids = torch.randint(5, 60, (3, 141), generator=torch.Generator().manual_seed(3))
    positions, rows = torch.arange(141).expand(1, 3, 141), torch.tensor([1, 1, 0])
    allowed = 1e-5 if dtype == torch.float32 else 0.06
    with torch.inference_mode():
        for before in (1, 14, 15, 16, 31, 62, 63, 64, 65, 78, 140):
            hidden = torch.zeros(3, 1, 1, before + 1)
            hidden[:, :, :, 1 : before // 2] = float("-inf")
            for bias in (None, hidden):
                cache, expected = (model.new_cache(3, 141) for _ in range(2))
                for made in (cache, expected):
                    model(Inputs(ids[:, :before], positions[:, :, :before], Mask("causal")), dtype, cache=made)
                if road:
                    owners = ColumnOwners(3, 141, torch.device("cpu"))
                    owners.select(rows, before)
                    cache[0].owners = owners
                for made in (cache, expected) if not road else (expected,):
                    made[0].select(rows)
                new = ids[rows, before, None], positions[:, rows, before, None]
                mask = Mask("none") if bias is None else Mask("dense", bias.to(dtype))
                right = model(Inputs(*new, mask), dtype, cache=expected).hidden[:, 0]
                got = SingleColumn(model)(*new, bias, cache)
                torch.testing.assert_close(got.float(), right.float(), atol=allowed, rtol=allowed)


@pytest.mark.parametrize("road", ROADS, indirect=True)
def test_scores_that_are_not_numbers_stay_so(road: bool) -> None:
    """A key that is not a number, in the middle of a block, is no number in the result of its row alone."""
    config = dataclasses.replace(GPT, hidden_size=64, num_heads=2, num_layers=1, position_sizes=(50,))
    model = build(config, seed=4).eval()
    ids, positions = torch.randint(5, 60, (2, 40)), torch.arange(40).expand(1, 2, 40)
    with torch.inference_mode():
        cache = model.new_cache(2, 40)
        model(Inputs(ids[:, :39], positions[:, :, :39], Mask("causal")), cache=cache)
        cache[0].kept[0, 1, 0, 20, 3] = float("nan")
        got = SingleColumn(model)(ids[:, 39:], positions[:, :, 39:], None, cache)
    assert got[0].isfinite().all() and got[1].isnan().all()


def test_columns_that_a_row_does_not_see() -> None:
    model = build(GPT, seed=1).eval()
    ids, positions = torch.randint(5, 60, (2, 6)), torch.arange(6).expand(1, 2, 6)
    bias = torch.zeros(2, 1, 1, 6)
    bias[1, ..., 3:5] = float("-inf")
    with torch.inference_mode():
        expected, got = (model.new_cache(2, 6) for _ in range(2))
        for cache in (expected, got):
            model(Inputs(ids[:, :5], positions[:, :, :5], Mask("causal")), cache=cache)
        last = model(Inputs(ids[:, 5:], positions[:, :, 5:], Mask("dense", bias)), cache=expected).hidden[:, 0]
        torch.testing.assert_close(SingleColumn(model)(ids[:, 5:], positions[:, :, 5:], bias, got), last)
        assert not torch.allclose(model(Inputs(ids, positions, Mask("causal"))).hidden[1, 5], last[1], atol=1e-3)


def test_adapters_take_the_usual_way() -> None:
    model = build(GPT)
    assert fits(model)
    add_lora(model, rank=2)
    assert not fits(model)


def quantized(model: Transformer, bits: int) -> Transformer:
    """Quantise the layers of a model, in place."""
    format = WeightFormat(bits, group_size=32 if bits == 4 else 0)
    layers = {name: layer for name, layer in quantizable(model).items() if format.fits(layer.in_features)}
    make_quantized(model, dict.fromkeys(layers, format))
    for name, layer in layers.items():
        made = model.get_submodule(name)
        assert isinstance(made, QuantizedDense)
        for tensor, value in quantize(layer.weight.detach(), format).tensors().items():
            setattr(made, tensor, value)
        made.bias = layer.bias
    return model


TYPES = {"bf16": (torch.bfloat16, 0, 0.05), "fp16": (torch.float16, 0, 0.01), "fp32": (torch.float32, 0, 1e-5),
         "int8": (torch.float32, 8, 2e-3), "int4": (torch.bfloat16, 4, 0.05)}  # fmt: skip


@pytest.mark.parametrize("road", ROADS, indirect=True)
@pytest.mark.parametrize("kind", TYPES)
def test_types_of_weights(kind: str, road: bool) -> None:
    """The scores of a step are those of the forward pass, within what the type rounds."""
    dtype, bits, allowed = TYPES[kind]
    model = build(dataclasses.replace(GPT, ffn_size=64), seed=1).eval()
    model = (quantized(model, bits) if bits else model).to(dtype)
    prepare(model, dtype)
    assert fits(model) and compiled(model) == road
    ids, positions = torch.randint(5, 60, (3, 7)), torch.arange(7).expand(1, 3, 7)
    with torch.inference_mode():
        whole = model(Inputs(ids, positions, Mask("causal")), dtype, logits_at=torch.arange(6, 21, 7)).logits
        cache = model.new_cache(3, 7)
        model(Inputs(ids[:, :6], positions[:, :, :6], Mask("causal")), dtype, cache=cache)
        got = SingleColumn(model).logits(ids[:, 6:], positions[:, :, 6:], None, cache)
    assert whole is not None and (got.float() - whole.float()).abs().max() <= allowed * whole.float().abs().max()


@pytest.mark.skipif(not decoding.available(), reason="there is no compiled library")
def test_reordered_rows_read_the_columns_of_others() -> None:
    """Rows of beams, repeated and reordered, give what copied caches give; also in a forward pass."""
    model = build(GPT, seed=1).eval()
    ids, positions = torch.randint(5, 60, (2, 8)), torch.arange(8).expand(1, 4, 8)
    with torch.inference_mode():
        copied, shared = model.new_cache(2, 8), model.new_cache(2, 8)
        for cache in (copied, shared):
            model(Inputs(ids[:, :4], positions[:, :2, :4], Mask("causal")), cache=cache)
        owners = ColumnOwners(2, 8, torch.device("cpu"))
        for layer in shared:
            layer.owners = owners
        single = SingleColumn(model)
        for column, rows in ((4, [0, 0, 1, 1]), (5, [3, 2, 0, 0]), (6, [1, 0])):
            for cache in (copied, shared):
                for layer in cache:
                    layer.select(torch.tensor(rows))
            owners.select(torch.tensor(rows), column)
            new, place = torch.arange(len(rows))[:, None] + 5 + column, positions[:, : len(rows), column, None]
            expected = single(new, place, None, copied)
            torch.testing.assert_close(single(new, place, None, shared), expected, atol=1e-5, rtol=1e-5)
        last = Inputs(torch.tensor([[7], [8]]), positions[:, :2, 7:], Mask("none"))
        torch.testing.assert_close(model(last, cache=shared).hidden, model(last, cache=copied).hidden)


def test_adapters_on_quantised_layers_take_the_usual_way() -> None:
    model = quantized(build(dataclasses.replace(GPT, ffn_size=64)), 8)
    assert fits(model)
    add_lora(model, rank=2)
    assert not fits(model)
