"""Copies of weights in oneDNN's format: the same numbers, and never used where they are not those of the weights."""

import copy
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import blankfill.model.prepacked as prepacked
from blankfill.embedding.embed import Embedder
from blankfill.inference import load
from blankfill.model.dense import dense
from blankfill.model.layers import activate
from blankfill.model.prepacked import PrepackedDense, prepack
from blankfill.model.transformer import Transformer
from generate_models import random_model
from written_models import write_model

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or prepacked.platform.machine() not in prepacked.X86,
    reason="torch has no oneDNN here",
)


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies for models of any size, whatever is faster here."""
    monkeypatch.setattr(prepacked, "SMALLEST", 1)
    monkeypatch.setattr(prepacked, "GAIN", float("inf"))
    prepacked.faster.cache_clear()
    yield
    prepacked.faster.cache_clear()


@pytest.fixture
def layer() -> PrepackedDense:
    torch.manual_seed(0)
    return PrepackedDense.of(dense(48, 80))


def plain(layer: PrepackedDense, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (2, 5, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_same(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer = PrepackedDense.of(dense(48, 80, bias))
    x = torch.randn(shape)
    with torch.inference_mode():
        assert layer.usable(x) is not None
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-6, rtol=1e-5)
        for name in prepacked.ACTIVATIONS:
            right = activate(plain(layer, x), name)
            torch.testing.assert_close(layer.activated(x, name), right, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_weights(layer: PrepackedDense) -> None:
    x = torch.randn(3, 48)
    assert layer.usable(x) is None
    layer.activated(x, "gelu").sum().backward()
    made, layer.weight.grad = layer.weight.grad, None
    activate(plain(layer, x), "gelu").sum().backward()
    assert made is not None and layer.weight.grad is not None
    torch.testing.assert_close(made, layer.weight.grad)


@torch.no_grad()
def test_new_weights_are_seen(layer: PrepackedDense) -> None:
    x = torch.randn(3, 48)
    layer.weight.mul_(2)
    assert layer.usable(x) is None
    torch.testing.assert_close(layer(x), plain(layer, x))


@torch.no_grad()
def test_loaded_and_replaced_weights_are_seen(layer: PrepackedDense) -> None:
    x, other = torch.randn(3, 48), dense(48, 80)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), other(x))
    layer = PrepackedDense.of(layer)
    layer.weight.data = other.weight.data * 3
    torch.testing.assert_close(layer(x), plain(layer, x))


@torch.no_grad()
def test_other_types_use_the_weights(layer: PrepackedDense) -> None:
    x = torch.randn(3, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.double()
    assert layer.copied is None
    assert layer(x.double()).dtype == torch.float64


@torch.no_grad()
def test_a_layer_is_copied_and_stored_without_the_copy_of_its_weights(layer: PrepackedDense) -> None:
    x = torch.randn(3, 48)
    twin = copy.deepcopy(layer)
    assert twin.copied is None
    torch.testing.assert_close(twin(x), layer(x), atol=1e-6, rtol=1e-5)
    assert set(layer.state_dict()) == {"weight", "bias"}
    torch.save(layer.state_dict(), io.BytesIO())


@torch.no_grad()
def test_nothing_of_no_rows(layer: PrepackedDense) -> None:
    assert layer(torch.empty(0, 48)).shape == (0, 80)


def model_of(family: str = "bert") -> Transformer:
    return copy.deepcopy(random_model(family, 0)).eval()


def test_all_dense_layers_of_a_model_get_copies() -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    size = prepack(model)
    qkv = model.layers[0].attention.qkv
    assert isinstance(qkv, PrepackedDense) and size >= 4 * qkv.weight.numel()
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert prepack(model) == 0  # a second time there is nothing to do


def test_slower_or_different_products_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "GAIN", 0.0)
    assert prepack(model_of()) == 0
    prepacked.faster.cache_clear()
    monkeypatch.setattr(prepacked, "GAIN", float("inf"))
    monkeypatch.setattr(prepacked, "product", lambda x, copy, bias, activation=None: torch.zeros(len(x), copy.shape[0]))
    assert prepack(model_of()) == 0


def test_small_models_and_short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "usable_memory", lambda: 1000)
    assert prepack(model_of()) == 0
    monkeypatch.setattr(prepacked, "usable_memory", lambda: 1 << 40)
    monkeypatch.setattr(prepacked, "SMALLEST", 1 << 40)
    assert prepack(model_of()) == 0


def test_vectors_are_the_same(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    plain, packed = load(folder, optimize=False), load(folder)
    assert isinstance(packed.loaded.model.layers[0].ffn.inner, PrepackedDense)
    words = [plain.loaded.tokenizer.decode([k]) for k in range(12, 18)]
    texts = [" ".join(words[:count]) for count in (1, 2, 4, 6)]
    made = [Embedder(model.loaded).of_rows([[5 + k] * (k + 1) for k in range(9)]) for model in (plain, packed)]
    assert abs(made[0] - made[1]).max() < 1e-6
    for first, other in zip(*(model.embed(texts, allow_unknown=True) for model in (plain, packed)), strict=True):
        assert abs(first - other).max() < 1e-6
