"""The start for short runs: heads of the first layer that look where they should, and nothing else out of the way."""

import dataclasses

import pytest
import torch

from blankfill.attention.masks import Mask
from blankfill.attention.relative import lower_distances
from blankfill.families.options import ModelOptions
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer, build


def weights_of_first_layer(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """Attention weights [H, T, T] of the first layer, worked out from its parts."""
    layer = model.layers[0]
    positions = [torch.arange(len(ids)), *[torch.zeros(len(ids), dtype=torch.int64)] * (len(model.positions) - 1)]
    hidden = model.token_embeddings(ids) + sum(
        table(where) for table, where in zip(model.positions, positions, strict=True)
    )
    hidden = model.embedding_norm(hidden) if model.embedding_norm is not None else hidden
    hidden = model.embedding_projection(hidden) if model.embedding_projection is not None else hidden
    hidden = layer.attention_norm(hidden) if layer.pre else hidden
    T, D = hidden.shape
    heads = layer.attention.heads
    query, key, _ = layer.attention.qkv(hidden).view(T, 3, heads, D // heads).permute(1, 2, 0, 3)
    return (query @ key.transpose(-1, -2) * (D // heads) ** -0.5).softmax(-1)


@pytest.mark.parametrize(
    ("family", "sizes"), [("bert", (128, 2)), ("roberta", (128,)), ("albert", (128, 2)), ("glm", (128, 128))]
)
@pytest.mark.parametrize(("hidden", "heads"), [(128, 4), (96, 2), (192, 3)])
def test_the_first_heads_look_at_the_neighbours(family: str, sizes: tuple[int, ...], hidden: int, heads: int) -> None:
    options = ModelOptions(family=family, hidden_size=hidden, num_layers=2, num_heads=heads, init="locality")  # type: ignore[arg-type]
    model = build(options.config(500, sizes), seed=1)
    with torch.no_grad():
        weights = weights_of_first_layer(model, torch.arange(100) * 3)
    shifts = model.config.locality[:heads]
    assert shifts == (-1, 1, -2, 2)[:heads]
    for head, shift in enumerate(shifts):
        place = torch.arange(8, 92)
        near = torch.stack([weights[head][place, place + shift + d].mean() for d in range(-6, 7)])
        assert near.argmax() == 6 and near[6] > 0.08  # uniform would be 0.01
        assert near[3:10].sum() > 0.5


def test_relative_positions_look_at_the_neighbours() -> None:
    """Whatever the words are: the first heads' terms for distances alone put most of the weight where they should."""
    model = build(ModelOptions(family="xlnet", hidden_size=96, num_layers=1, num_heads=3, init="locality").config(
        500, (64, 3, 3)), seed=1)  # fmt: skip
    columns = torch.arange(40)[None]
    distances = lower_distances(columns, torch.zeros_like(columns), 96)
    _, added = model.layers[0].attention.relative(torch.zeros(1, 3, 40, 32), distances)
    weights = added.softmax(-1)[0]
    for head, shift in enumerate((-1, 1, -2)):
        place = torch.arange(4, 36)
        assert (weights[head, place].argmax(-1) == place + shift).all()
        assert (weights[head, place, place + shift] > 0.5).all()


def test_left_to_right_models_look_back() -> None:
    assert ModelOptions(family="gpt2", init="locality").config(99, (64,)).locality == (-1, -2, -3, -4)


def test_only_the_named_parts_differ_from_the_papers_start() -> None:
    options = ModelOptions(hidden_size=64, num_layers=2, num_heads=2)
    plain = build(options.config(200, (32, 2)), seed=3)
    started = build(dataclasses.replace(options, init="locality").config(200, (32, 2)), seed=3)
    changed = {
        name
        for (name, a), (_, b) in zip(plain.named_parameters(), started.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {
        "token_embeddings.weight",
        "positions.0.weight",
        "layers.0.attention.qkv.weight",
        "lm_head.dense.weight",
    }
    assert torch.allclose(started.token_embeddings.weight, 2.5 * plain.token_embeddings.weight)
    values = started.layers[0].attention.qkv.weight[2 * 64 :]
    assert torch.equal(values, plain.layers[0].attention.qkv.weight[2 * 64 :])


def test_the_head_starts_as_nearly_the_identity() -> None:
    model = build(ModelOptions(hidden_size=64, num_layers=1, num_heads=2, init="locality").config(200, (32, 2)))
    hidden = torch.nn.functional.layer_norm(torch.randn(50, 64), (64,))
    with torch.no_grad():
        like = torch.nn.functional.cosine_similarity(model.lm_head.transform(hidden), hidden, dim=-1)
    assert like.min() > 0.9


def test_it_runs() -> None:
    model = build(ModelOptions(hidden_size=64, num_layers=1, num_heads=2, init="locality").config(200, (32, 2)))
    ids = torch.arange(20)[None]
    positions = torch.stack([ids, torch.zeros_like(ids)])
    assert bool(model(Inputs(ids, positions, Mask("none"))).hidden.isfinite().all())
