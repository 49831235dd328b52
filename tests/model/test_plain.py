"""Which weights raw kernels may be used on, and that every place which uses some asks for that."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import blankfill
from blankfill.attention.masks import Mask
from blankfill.kernels.capability import plain_dense, plain_weight
from blankfill.kernels.feed_forward import can_fuse
from blankfill.model.config import TransformerConfig
from blankfill.model.dense import Dense, dense_layers, replace_dense
from blankfill.model.io import Inputs
from blankfill.model.layout import optimize_for_inference
from blankfill.model.single import fits
from blankfill.model.transformer import Transformer, build
from blankfill.training import optimizers
from blankfill.training.optimizer import build_optimizer
from blankfill.training.optimizers import Lamb
from blankfill.training.options import OptimizerName, TrainOptions

GPT = TransformerConfig(
    vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, position_sizes=(16,), norm="pre", dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


class Other(Tensor):
    """A kind of tensor of its own, as quantised and sharded weights are."""


def other(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().as_subclass(Other))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def dense(kind: str) -> nn.Linear:
    """A dense layer that is not what it seems."""
    made = nn.Linear(6, 6)
    if kind == "weight":
        made.weight = other(made.weight)
    elif kind == "bias":
        made.bias = other(made.bias)
    elif kind == "forward hook":
        made.register_forward_hook(lambda module, given, actual: actual + 1)
    elif kind == "pre-hook":
        made.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    elif kind == "backward hook":
        made.register_full_backward_hook(lambda module, into, out: None)
    elif kind == "pruned":
        prune.l1_unstructured(made, "weight", 0.5)
    elif kind == "parametrised":
        parametrize.register_parametrization(made, "weight", Doubled())
    elif kind == "class":
        made = type("Mine", (nn.Linear,), {})(6, 6)
    elif kind == "sparse":
        made.weight = nn.Parameter(made.weight.detach().to_sparse())
    return made


KINDS = [
    "weight", "bias", "forward hook", "pre-hook", "backward hook", "pruned", "parametrised", "class", "sparse"
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_layer_that_is_not_plain_is_called(kind: str) -> None:
    plain, x = nn.Linear(6, 6), torch.randn(3, 6)
    assert plain_dense(plain) and can_fuse(x, plain, plain)
    assert not plain_dense(dense(kind))
    assert not can_fuse(x, dense(kind), plain) and not can_fuse(x, plain, dense(kind))


def test_hooks_of_all_modules_count() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, actual: None)
    try:
        assert not plain_dense(nn.Linear(2, 2))
    finally:
        handle.remove()
    assert plain_dense(nn.Linear(2, 2, bias=False))


def changed(model: Transformer, where: str) -> Transformer:
    if where == "dense":
        model.layers[0].ffn.inner.weight = other(model.layers[0].ffn.inner.weight)
    elif where == "words":
        model.token_embeddings.weight = other(model.token_embeddings.weight)
    else:
        model.layers[0].attention_norm.register_forward_hook(lambda module, given, actual: actual)
    return model


@pytest.mark.parametrize("where", ["dense", "words", "norm hook"])
def test_a_model_that_is_not_plain_writes_by_its_modules(where: str) -> None:
    assert fits(build(GPT)) and not fits(changed(build(GPT), where))


def test_only_plain_weights_are_laid_out_anew() -> None:
    model = changed(build(GPT), "dense")
    optimize_for_inference(model)
    weight = model.layers[0].ffn.inner.weight
    assert type(weight) is Other and weight.is_contiguous()
    assert model.layers[0].attention.qkv.weight.stride(0) == 1
    model = changed(build(GPT), "words")
    optimize_for_inference(model)
    assert type(model.token_embeddings.weight) is Other and model.token_embeddings.weight.is_contiguous()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lamb"])
def test_one_kernel_steps_plain_weights_alone(name: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the step is the same either way."""
    options = TrainOptions(optimizer=name)
    fused: list[Any] = []
    stepped = []
    real = optimizers.adam
    monkeypatch.setattr("blankfill.training.optimizers.adam", lambda *a, **k: (fused.append(k["fused"]), real(*a, **k)))
    for where in ("nowhere", "dense"):
        model = build(GPT)
        if where == "dense":
            changed(model, where)
        optimizer = build_optimizer(model, options)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_scale"]
        for k, weight in enumerate(model.parameters()):
            weight.grad = torch.full_like(weight, 0.1 * (k + 1))
        optimizer.step()
        if not isinstance(optimizer, Lamb):
            fused.append(optimizer.param_groups[0]["fused"])
        stepped.append([weight.detach().as_subclass(Tensor) for weight in model.parameters()])
    assert fused[0] is True and not all(fused[1:])
    for actual, two in zip(*stepped, strict=True):
        torch.testing.assert_close(actual, two)


def test_the_class_of_a_dense_layer_is_asked_in_one_place() -> None:
    """Elsewhere, `type(x) is nn.Linear` or a comparison like it would forget the weights, or the hooks."""
    root = Path(blankfill.__file__).parent
    paths = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Compare) else ""
            if text.startswith("type(") and ("nn." in text or "Parameter" in text or "Tensor" in text):
                paths.append(path.relative_to(root).as_posix())
    assert set(paths) == {"kernels/capability.py"}
    assert plain_weight(None) and plain_weight(nn.Parameter(torch.ones(2)))
    assert not plain_weight(nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False))


def test_dense_layers_are_made_in_one_place() -> None:
    """`nn.Linear` is named by the factory, the capability check and kernels that take one; nowhere else."""
    root = Path(blankfill.__file__).parent
    named = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "nn.Linear"
    }
    assert named == {"model/dense.py", "kernels/capability.py", "kernels/feed_forward.py", "kernels/half.py"}


class Wrapped(nn.Module):
    def __init__(self, base: Dense) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


def test_dense_layers_are_replaced_by_name() -> None:
    model = build(GPT)
    ids, positions = torch.tensor([[1, 2, 3]]), torch.arange(3)[None, None]
    before = model(Inputs(ids, positions, Mask("causal"))).hidden
    names = [name for name, _ in dense_layers(model)]
    assert "layers.0.ffn.inner" in names
    count = replace_dense(model, lambda name, layer: Wrapped(layer) if name.endswith("ffn.inner") else None)
    assert count == 1 and isinstance(model.layers[0].ffn.inner, Wrapped)
    assert [name for name, _ in dense_layers(model)] == [name.replace("inner", "inner.base") for name in names]
    torch.testing.assert_close(model(Inputs(ids, positions, Mask("causal"))).hidden, before)
