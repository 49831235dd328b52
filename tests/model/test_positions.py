"""Position schemes, windows, shared heads and residual scales against the formulas written out, one pair at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from blankfill.attention.masks import lower
from blankfill.attention.positions import Rotation
from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.layers import Attention, FeedForward, Layer
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import Transformer, build
from blankfill.types import AttentionRule, Batch, Example

CONFIG = TransformerConfig(
    vocab_size=60, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, position_sizes=(24,), norm="pre",
    dropout=0.0, attention_dropout=0.0, init_std=0.2,
)  # fmt: skip
MODERN = replace(
    CONFIG, position_scheme="rotary", rotary_theta=160_000.0, local_rotary_theta=10_000.0, window=3, global_every=3,
    embedding_norm=True, norm_bias=False, attention_bias=False, ffn_bias=False, gated=True, activation="gelu",
    first_attention_norm=False, head_transform=True, head_transform_bias=False, head_bias=True,
)  # fmt: skip
NOTHING = np.zeros(0, np.int32)


def example(length: int, seed: int, channels: int = 1, rule: AttentionRule | None = None) -> Example:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 60, length).astype(np.int32)
    positions = np.stack([np.arange(length), *[rng.integers(0, 9, length)] * (channels - 1)]).astype(np.int32)
    return Example(ids, positions, rule or AttentionRule.full(length), NOTHING, NOTHING)


def rotated(vector: list[float], positions: list[int], theta: float) -> list[float]:
    """A query or key with each part of its columns rotated by a position of its own."""
    width = len(vector) // len(positions)
    out: list[float] = []
    for axis, position in enumerate(positions):
        part = vector[axis * width : (axis + 1) * width]
        pairs = width // 2
        turned = [0.0] * width
        for j in range(pairs):
            angle = position / theta ** (j / pairs)
            turned[j] = part[j] * math.cos(angle) - part[j + pairs] * math.sin(angle)
            turned[j + pairs] = part[j + pairs] * math.cos(angle) + part[j] * math.sin(angle)
        out += turned
    return out


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
def test_rotations_are_those_of_the_formula(axes: int, theta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BTHE = torch.randn(2, 5, 3, 8, generator=generator)
    positions = torch.randint(0, 50, (axes, 2, 5), generator=generator)
    got = Rotation.of(positions, 8, theta).rotate(x_BTHE)
    for b, t, h in np.ndindex(2, 5, 3):
        expected = rotated(x_BTHE[b, t, h].tolist(), positions[:, b, t].tolist(), theta)
        torch.testing.assert_close(got[b, t, h], torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rotations_and_their_gradient(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, 5, 3, 3, 8, generator=generator).to(dtype).requires_grad_()
    rotation = Rotation.of(torch.randint(0, 50, (2, 2, 5), generator=generator), 8, 100.0)
    expected = torch.cat([rotation.rotate(qkv[:, :, :2]), qkv[:, :, 2:]], 2)
    got = rotation.rotate_packed(qkv)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    upstream = torch.randn(got.shape, generator=generator).to(dtype)
    ours, other = (torch.autograd.grad(out, qkv, upstream)[0] for out in (got, expected))
    torch.testing.assert_close(ours, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("scheme", ["rotary", "rotary_2d"])
@pytest.mark.parametrize("kv_heads", [0, 1, 2])
def test_attention_written_out(scheme: str, kv_heads: int, kernel: str) -> None:
    """One attention of a model with rotary positions against a loop over heads and pairs of columns."""
    axes = 2 if scheme == "rotary_2d" else 1
    config = replace(CONFIG, position_scheme=scheme, position_sizes=(24, 24), num_kv_heads=kv_heads)
    assert config.problems() == []
    model = build(config, seed=2)
    model.use_kernel(kernel)  # type: ignore[arg-type]
    layer = model.layers[0]
    assert isinstance(layer, Layer) and layer.attention is not None
    batch = collate([[example(8, 0, 2)], [example(8, 1, 2, AttentionRule.prefix(3, 8))]], pad=0)
    hidden = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(3))
    mask = lower("rule", (batch.segment, batch.horizon), (batch.segment, batch.rank), torch.float32)
    got = layer.attention(hidden, mask, model.terms(batch.positions)["global"])

    shared = 4 // (kv_heads or 4)
    rules = [AttentionRule.full(8), AttentionRule.prefix(3, 8)]
    columns = layer.attention.qkv(hidden)
    mixed = torch.zeros(2, 8, 32)
    for b, h in np.ndindex(2, 4):
        visible = rules[b].visible()
        key_at, value_at = 32 + h // shared * 8, 32 + 32 // shared + h // shared * 8
        places = [batch.positions[:axes, b, t].tolist() for t in range(8)]
        query, key = (
            [rotated(columns[b, t, at : at + 8].tolist(), places[t], config.rotary_theta) for t in range(8)]
            for at in (h * 8, key_at)
        )
        for i in range(8):
            scores = [sum(q * k for q, k in zip(query[i], key[j], strict=True)) / math.sqrt(8) for j in range(8)]
            weights = torch.tensor([s if visible[i, j] else -math.inf for j, s in enumerate(scores)]).softmax(0)
            mixed[b, i, h * 8 : h * 8 + 8] = weights @ columns[b, :, value_at : value_at + 8]
    torch.testing.assert_close(got, layer.attention.output(mixed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_keys_are_repeated_keys(kv_heads: int) -> None:
    """A model with fewer heads of keys computes what one with their weights repeated does."""
    few = build(replace(CONFIG, num_kv_heads=kv_heads), seed=4)
    all_heads = Transformer(CONFIG)
    state = few.state_dict()
    for name, weight in state.items():
        if "qkv" in name:
            query, key, value = weight.split([32, kv_heads * 8, kv_heads * 8])
            more = [part.unflatten(0, (kv_heads, 8)).repeat_interleave(4 // kv_heads, 0) for part in (key, value)]
            state[name] = torch.cat([query, *(part.flatten(0, 1) for part in more)])
    all_heads.load_state_dict(state)
    batch = collate([[example(9, 0)], [example(6, 1)]], pad=0)
    torch.testing.assert_close(few(batch).hidden, all_heads(batch).hidden, atol=1e-5, rtol=1e-5)


def test_a_key_is_rotated_by_its_own_layers_theta() -> None:
    model = build(MODERN, seed=5)
    terms = model.terms(torch.arange(6).view(1, 1, 6))
    for kind, theta in (("global", 160_000.0), ("local", 10_000.0)):
        rotation = terms[kind].rotation  # type: ignore[index]
        assert rotation is not None
        assert rotation.cosine[0, 5, 0, 1].item() == pytest.approx(math.cos(5 / theta**0.25), abs=1e-6)
    assert list(model.kinds) == ["global", "local", "local"]


def written_out(model: Transformer, rows: list[Example]) -> list[torch.Tensor]:
    """Hidden states of single examples, layer by layer, each with its reference mask."""
    config, states = model.config, []
    for row in rows:
        positions = torch.from_numpy(row.positions).long()[:, None]
        x = model.token_embeddings(torch.from_numpy(row.input_ids).long()[None])
        x = x if model.embedding_norm is None else model.embedding_norm(x)
        terms = model.terms(positions)
        for k, layer in enumerate(model.layers):
            assert isinstance(layer, Layer) and isinstance(layer.ffn, FeedForward)
            assert isinstance(layer.attention, Attention)
            local = config.window and k % config.global_every
            rule = row.rule.local(row.positions[0], config.window) if local else row.rule
            visible = torch.from_numpy(rule.visible())
            rotation = terms["local" if local else "global"].rotation
            assert rotation is not None
            inside = x if layer.attention_norm is None else layer.attention_norm(x)
            query, key, value = layer.attention.qkv(inside).unflatten(-1, (3, 4, 8)).unbind(2)
            query, key = rotation.rotate(query), rotation.rotate(key)
            scores = torch.einsum("bqhe,bkhe->bhqk", query, key) / math.sqrt(8)
            weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
            x = x + layer.attention.output(torch.einsum("bhqk,bkhe->bqhe", weights, value).flatten(2))
            first, second = layer.ffn.inner(layer.ffn_norm(x)).chunk(2, -1)  # type: ignore[misc]
            x = x + layer.ffn.output(torch.nn.functional.gelu(first) * second)
        assert model.final_norm is not None
        states.append(model.final_norm(x)[0])
    return states


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("length", [3, 23])
def test_local_layers_see_their_window_alone(length: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed rows, in blocks of 4 queries where they are long, against the reference of each example alone."""
    monkeypatch.setattr("blankfill.attention.masks.NEAR_QUERIES", 4)
    assert MODERN.problems() == []
    model = build(MODERN, seed=6)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    model.use_kernel(kernel)  # type: ignore[arg-type]
    rows = [example(length, 0), example(length - 1, 1, rule=AttentionRule.prefix(1, length - 1)), example(2, 2)]
    batch = collate([[rows[0], rows[2]], [rows[1]]], pad=0)
    assert (model._masks(batch, torch.float32, ordered=True)["local"].kind == "band") == (length == 23)
    got = model.train()(batch).hidden
    parts = [got[0, :length], got[1, : length - 1], got[0, length : length + 2]]
    expected = written_out(model, rows)
    for actual, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(actual, other, atol=1e-4, rtol=1e-4)
    weights = list(model.parameters())
    total = sum((part * (k + 1)).square().sum() for k, part in enumerate(parts))
    same = sum((part * (k + 1)).square().sum() for k, part in enumerate(expected))
    gradients = (torch.autograd.grad(value, weights, allow_unused=True) for value in (total, same))
    for actual, other in zip(*gradients, strict=True):
        assert (actual is None) == (other is None)
        if actual is not None:
            torch.testing.assert_close(actual, other, atol=2e-3, rtol=1e-3)


def test_rows_whose_columns_are_not_in_order_get_a_dense_window() -> None:
    """Positions decide, not columns: the same examples with their columns shuffled."""
    model = build(MODERN, seed=6).eval()
    row = example(20, 0)
    order = np.random.default_rng(1).permutation(20)
    shuffled = replace(row, input_ids=row.input_ids[order], positions=row.positions[:, order])
    ordered, other = (model(collate([[part]], pad=0)).hidden[0] for part in (row, shuffled))
    torch.testing.assert_close(other, ordered[torch.from_numpy(order)], atol=1e-5, rtol=1e-5)


def test_short_rows_share_the_mask_of_global_layers() -> None:
    model = build(MODERN)
    batch = collate([[example(4, 0)]], pad=0)
    masks = model._masks(batch, torch.float32, model._ordered(batch))
    assert masks["local"] is masks["global"] and masks["global"].kind == "none"


def test_a_cache_is_refused_by_local_layers() -> None:
    model = build(MODERN).eval()
    batch = collate([[example(4, 0, rule=AttentionRule.causal(4))]], pad=0)
    mask = lower("causal", (batch.segment, batch.horizon), (batch.segment, batch.rank), torch.float32)
    assert not fits(model)
    with pytest.raises(ValueError, match="local attention do not support a cache"):
        model(Inputs(batch.input_ids, batch.positions, mask), cache=model.new_cache(1, 4))


def test_the_reference_of_a_window() -> None:
    rule = AttentionRule.causal(4).local(np.array([0, 1, 3, 4], np.int32), 2)
    assert rule.visible().astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_residual_is_scaled(norm: str) -> None:
    """DeepNorm: norm(α·x + f(x)); in a pre-norm model α·x + f(norm(x))."""
    config = replace(CONFIG, norm=norm, residual_scale=1.7)
    model = build(config, seed=7).eval()
    layer = model.layers[0]
    assert isinstance(layer, Layer) and layer.attention is not None and layer.ffn is not None
    assert layer.attention_norm is not None and layer.ffn_norm is not None
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(8))
    mask = lower("none", (x, x), (x, x), x.dtype)
    if norm == "post":
        middle = layer.attention_norm(1.7 * x + layer.attention(x, mask))
        expected = layer.ffn_norm(1.7 * middle + layer.ffn(middle))
    else:
        middle = 1.7 * x + layer.attention(layer.attention_norm(x), mask)
        expected = 1.7 * middle + layer.ffn(layer.ffn_norm(middle))
    torch.testing.assert_close(layer(x, mask), expected)


def batch_of(rows: list[list[Example]]) -> Batch:
    return collate(rows, pad=0)


def test_single_columns_of_rotary_models_with_shared_heads() -> None:
    """The step of one column more, with a residual scale, against one pass over the row."""
    config = replace(
        CONFIG, norm="post", embedding_norm=True, position_scheme="rotary_2d", position_sizes=(24, 24),
        num_kv_heads=2, residual_scale=1.4,
    )  # fmt: skip
    model = build(config, seed=9).eval()
    batch = batch_of([[example(8, k, 2, AttentionRule.causal(8))] for k in range(2)])
    assert fits(model)
    with torch.inference_mode():
        whole = model(batch).hidden
        cache, single = model.new_cache(2, 8), SingleColumn(model)
        for column in range(8):
            at = slice(column, column + 1)
            got = single(batch.input_ids[:, at], batch.positions[:, :, at], None, cache)
            torch.testing.assert_close(got, whole[:, column], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"position_scheme": "rotary_2d"}, "needs 2 position channels"),
        ({"position_scheme": "rotary", "head_size": 7}, "multiple of 2"),
        ({"position_scheme": "rotary", "rotary_theta": 0.0}, "rotary_theta is 0"),
        ({"position_scheme": "rotary", "relative_buckets": 8}, "neither an encoder nor"),
        ({"window": 4, "relative_buckets": 8}, "model.window needs"),
        ({"window": -1}, "model.window is -1"),
        ({"position_scheme": "rotary", "locality": (-1,)}, "model.init is locality"),
        ({"global_every": 0}, "model.global_every is 0"),
        ({"num_kv_heads": 3}, "not a multiple of model.num_kv_heads"),
        ({"norm": "post", "first_attention_norm": False}, "first_attention_norm"),
    ],
)
def test_choices_that_do_not_go_together(change: dict[str, object], said: str) -> None:
    problems = replace(CONFIG, **change).problems()  # type: ignore[arg-type]
    assert len(problems) == 1 and said in problems[0]
