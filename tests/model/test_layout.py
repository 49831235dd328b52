"""A model laid out for writing answers as it did, and takes new weights."""

import copy

import pytest
import torch

import blankfill.model.layout as layout
from blankfill.generation.engine import Decoder
from blankfill.kernels import decoding
from blankfill.model.transformer import Transformer
from blankfill.objectives.gpt import gpt_input
from generate_models import random_model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Transformer:
    """A GPT of its own whose table is large enough to be copied, where no compiled library reads rows."""
    monkeypatch.setattr(layout, "SMALLEST", 1)
    monkeypatch.setattr(decoding, "available", lambda: False)
    return copy.deepcopy(random_model("gpt", 0))


def scores(model: Transformer, rows: int) -> torch.Tensor:
    decoder = Decoder(model, [gpt_input([1, 2, 3 + k], 48) for k in range(rows)], 1)
    return torch.stack([decoder.prefill(), decoder.step(torch.arange(rows))])


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_answers_are_the_same(model: Transformer, rows: int) -> None:
    expected = scores(model, rows)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    layout.optimize_for_inference(model)
    assert not model.layers[0].ffn.inner.weight.is_contiguous()
    torch.testing.assert_close(scores(model, rows), expected, atol=1e-5, rtol=1e-4)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_a_second_time_changes_nothing(model: Transformer) -> None:
    layout.optimize_for_inference(model)
    places = [weight.data_ptr() for weight in model.parameters()]
    packed = model.lm_head.packed
    layout.optimize_for_inference(model)
    assert [weight.data_ptr() for weight in model.parameters()] == places and model.lm_head.packed is packed


def test_new_weights_are_seen(model: Transformer) -> None:
    layout.optimize_for_inference(model)
    first = scores(model, 3)
    with torch.no_grad():
        model.output_table.mul_(2.0)
    changed = scores(model, 3)
    assert not torch.allclose(changed, first)
    model.lm_head.packed = None
    torch.testing.assert_close(scores(model, 3), changed, atol=1e-5, rtol=1e-4)


def test_a_model_in_half_precision_stays_as_it_is(model: Transformer) -> None:
    model.bfloat16()
    layout.optimize_for_inference(model)
    assert model.lm_head.packed is None
    assert model.layers[0].ffn.inner.weight.is_contiguous()


@pytest.mark.skipif(not decoding.available(), reason="there is no compiled library")
def test_a_model_that_the_library_reads_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SMALLEST", 1)
    model = copy.deepcopy(random_model("gpt", 0))
    layout.optimize_for_inference(model)
    assert model.lm_head.packed is None and all(weight.is_contiguous() for weight in model.parameters())
