"""Prefixes and LoRA on a model with quantised layers: they learn as on the dequantised model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from blankfill.adapt.lora import add_lora
from blankfill.adapt.prefix import add_prefix
from blankfill.attention.masks import Mask
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.model.io import Inputs
from blankfill.model.prefix import PrefixShape
from blankfill.model.quantized import QuantizedDense, make_quantized, quantizable
from blankfill.model.transformer import Transformer
from generate_models import random_model


def pair(bits: int) -> tuple[Transformer, Transformer]:
    """A quantised model, and one with the same weights as floating-point numbers."""
    model = random_model("gpt", 1, sharp=4.0)
    quantised = copy.deepcopy(model)
    names = quantizable(model)
    make_quantized(quantised, dict.fromkeys(names, WeightFormat(bits)))
    with torch.no_grad():
        for name, layer in names.items():
            made = quantised.get_submodule(name)
            assert isinstance(made, QuantizedDense)
            made.weight, made.weight_scale, _ = quantize(layer.weight, WeightFormat(bits))
            assert layer.bias is not None and made.bias is not None
            made.bias.copy_(layer.bias)
            layer.weight.copy_(made.float_weight())
    return quantised, model


def learnt(model: Transformer, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss and its gradients by name."""
    if kind == "lora":
        add_lora(model, 3, seed=4)
        for name, weight in model.named_parameters():
            if name.endswith(".up"):
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    else:
        add_prefix(model, PrefixShape(4, 8 if kind == "projection" else 0), seed=4)
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    logits = model(Inputs(ids, torch.arange(7).expand(1, 3, 7), Mask("causal")), logits_at="all").logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return loss, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", ["prefix", "projection", "lora"])
@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_are_those_of_the_dequantised_model(bits: int, kind: str) -> None:
    quantised, plain = pair(bits)
    (loss, grads), (expected, wanted) = learnt(quantised, kind), learnt(plain, kind)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert grads.keys() == wanted.keys() and grads
    for name, grad in grads.items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(grad, wanted[name], atol=1e-5, rtol=1e-4)
