"""Thin products beside frozen weights: nothing at the start, all that learns, and merged without a difference."""

import torch

from blankfill.adapt.lora import LoraLinear, add_lora, merge_lora
from blankfill.attention.masks import Mask
from blankfill.model.io import Inputs
from generate_models import random_model

IDS, POSITIONS = torch.tensor([[12, 15, 13, 20]]), torch.stack([torch.arange(4)[None], torch.zeros(1, 4).long()])


def test_it_begins_as_the_model_learns_in_thin_products_and_merges() -> None:
    model = random_model("bert").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model(Inputs(IDS, POSITIONS, Mask("none"))).hidden
    add_lora(model, rank=3)
    torch.testing.assert_close(model(Inputs(IDS, POSITIONS, Mask("none"))).hidden, plain)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 4 * len(model.layers) and all(name.endswith((".up", ".down")) for name in learning)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (model(Inputs(IDS, POSITIONS, Mask("none"))).hidden ** 2)[..., :5].sum().backward()
        optimizer.step()
    taught = model(Inputs(IDS, POSITIONS, Mask("none"))).hidden
    assert (taught - plain).abs().max() > 1e-3
    merge_lora(model)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(model(Inputs(IDS, POSITIONS, Mask("none"))).hidden, taught, atol=1e-5, rtol=1e-5)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"layers.{k}.{part}.weight" for k in range(len(model.layers))
                       for part in ("attention.qkv", "attention.output", "ffn.inner", "ffn.output")}  # fmt: skip


def test_dropout_is_on_the_thin_road_only() -> None:
    torch.manual_seed(0)
    module = LoraLinear(torch.nn.Linear(6, 4), rank=2, dropout=0.5)
    x = torch.randn(5, 6)
    torch.testing.assert_close(module.train()(x), module.base(x))
    torch.nn.init.ones_(module.up)
    assert not torch.equal(module(x), module(x)) and torch.equal(module.eval()(x), module(x))
