"""Layers that have weights in common (ALBERT): held against a model whose layers hold copies of the same weights."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from blankfill.adapt.lora import add_lora, merge_lora
from blankfill.checkpoint.store import write_weights
from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.training.loss import loss_sums
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.types import AttentionRule, Batch, Example

CONFIG = TransformerConfig(
    vocab_size=50, hidden_size=32, embedding_size=12, num_layers=3, num_heads=4, ffn_size=48, position_sizes=(20,),
    norm="post", embedding_norm=True, head_transform=True, dropout=0.0, attention_dropout=0.0, init_std=0.2,
)  # fmt: skip
KINDS = ["all", "attention", "ffn"]
PARTS = {"all": ("attention", "ffn"), "attention": ("attention",), "ffn": ("ffn",)}


def some_batch() -> Batch:
    rng = np.random.default_rng(0)
    index = np.array([1, 4, 7], np.int32)
    rows = []
    for _ in range(3):
        ids = rng.integers(5, 50, 12).astype(np.int32)
        positions = np.arange(12, dtype=np.int32)[None]
        rows.append([Example(ids, positions, AttentionRule.full(12), index, ids[index])])
    return collate(rows, pad=0)


def is_shared(name: str, kind: str) -> bool:
    """Whether a weight of a later layer is the first one's."""
    parts = name.split(".")
    return parts[0] == "layers" and parts[1] != "0" and parts[2].removesuffix("_norm") in PARTS[kind]


def pair(kind: str) -> tuple[Transformer, Transformer]:
    """A model that shares, and one with copies."""
    shared = build(replace(CONFIG, shared=kind), seed=3)
    copies = Transformer(CONFIG)
    state = shared.state_dict()
    copies.load_state_dict({
        name: state[f"layers.0.{name.split('.', 2)[2]}" if is_shared(name, kind) else name]
        for name in copies.state_dict()
    })  # fmt: skip
    return shared, copies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_sharing_is_adding_up_the_gradients_of_copies(kind: str, recompute: bool) -> None:
    shared, copies = pair(kind)
    shared.recompute = recompute
    batch = some_batch()
    ours, theirs = (loss_sums(model.train(), batch)["lm"] for model in (shared, copies))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-6)
    ours.backward()
    theirs.backward()
    sums: dict[str, torch.Tensor] = {}
    for name, parameter in copies.named_parameters():
        first = f"layers.0.{name.split('.', 2)[2]}" if is_shared(name, kind) else name
        sums[first] = sums.get(first, 0) + parameter.grad
    result = dict(shared.named_parameters())
    assert result.keys() == sums.keys()
    for name, total in sums.items():
        torch.testing.assert_close(result[name].grad, total, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_is_there_once(kind: str, tmp_path: object) -> None:
    shared, copies = pair(kind)
    assert set(shared.state_dict()) == {name for name in copies.state_dict() if not is_shared(name, kind)}
    groups = build_optimizer(shared, TrainOptions()).param_groups
    weights = [id(weight) for group in groups for weight in group["params"]]
    assert len(weights) == len(set(weights)) == len(list(shared.parameters()))
    write_weights(tmp_path / "model.safetensors", shared.state_dict())  # refuses two names for one tensor


def test_a_copy_has_weights_of_its_own() -> None:
    model = build(replace(CONFIG, shared="all"))
    other = copy.deepcopy(model)
    other.double()
    assert len(other.layers) == len(model.layers) == 1 and model.config.num_layers == 3
    assert other.layers[0].ffn.inner.weight.dtype == torch.float64 != model.layers[0].ffn.inner.weight.dtype


def test_a_kernel_reaches_all_layers() -> None:
    model = build(replace(CONFIG, shared="ffn"))
    model.use_kernel("explicit")
    assert [layer.attention.kernel for layer in model.layers] == ["explicit"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_lora_is_added_and_merged_once(kind: str) -> None:
    model = build(replace(CONFIG, shared=kind)).eval()
    batch = some_batch()
    before = model(batch).hidden
    add_lora(model, 2)
    torch.testing.assert_close(model(batch).hidden, before)
    names = [name for name, _ in model.named_parameters() if name.endswith(".up")]
    assert len(names) == {"all": 4, "attention": 8, "ffn": 8}[kind]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    changed = model(batch).hidden
    assert not torch.allclose(changed, before)
    merge_lora(model)
    torch.testing.assert_close(model(batch).hidden, changed, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == set(build(replace(CONFIG, shared=kind)).state_dict())


def test_narrow_embeddings_need_a_head_that_brings_them_back() -> None:
    problems = replace(CONFIG, head_transform=False).problems()
    assert len(problems) == 1 and "model.embedding_size is 12" in problems[0]
    assert "must be at least 1" in replace(CONFIG, embedding_size=-1).problems()[0]
    assert replace(CONFIG, head_transform=False, lm_head=False).problems() == CONFIG.problems() == []
