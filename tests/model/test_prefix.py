"""Attention with a prefix against the formula written out: keys and values that stand before the real ones, without
positions, seen by every query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import blankfill.kernels.blocked_attention as blocked_attention_module
from blankfill.adapt.prefix import add_prefix, compute_prefix
from blankfill.attention.kernels import prefix_attend
from blankfill.attention.masks import Mask, behind, lower, lower_local
from blankfill.attention.positions import PositionTerms, Rotation, terms_behind
from blankfill.attention.relative import lower_distances
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.layers import Attention
from blankfill.model.prefix import PrefixEncoder, PrefixShape
from blankfill.model.transformer import Transformer, build
from blankfill.types import AttentionRule, Batch
from drawn_masks import drawn_masks
from generate_models import FAMILY, SIZES, objective_of, random_model

ROWS, PREFIX = 2, 3
CONFIG = TransformerConfig(
    vocab_size=30, hidden_size=24, num_layers=2, num_heads=4, ffn_size=32, position_sizes=(400,), dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


def written_out(
    attention: Attention, hidden: Tensor, visible: Tensor, terms: PositionTerms, prefix: Tensor | None
) -> Tensor:
    """The formula of attention with a prefix, one head at a time. visible: bool[B, T, T], without the prefix."""
    B, T, _ = hidden.shape
    H, G, E = attention.heads, attention.kv_heads, attention.width
    query, key, value = attention.qkv(hidden).split([H * E, G * E, G * E], -1)
    query, key, value = query.view(B, T, H, E), key.view(B, T, G, E), value.view(B, T, G, E)
    if terms.rotation is not None:
        query, key = terms.rotation.rotate(query), terms.rotation.rotate(key)
    added = None if terms.bias is None else terms.bias.expand(B, -1, -1, -1)
    if attention.relative is not None:
        assert terms.distances is not None
        turned, added = attention.relative(query.transpose(1, 2), terms.distances)
        query = turned.transpose(1, 2)
    P = 0 if prefix is None else prefix.shape[1]
    sees = torch.cat([torch.ones(B, T, P, dtype=torch.bool), visible], 2)
    heads = []
    for h in range(H):
        g = h // (H // G)
        keys, values = key[:, :, g], value[:, :, g]
        if prefix is not None:
            keys = torch.cat([prefix[:, :, 0, g].expand(B, -1, -1), keys], 1)
            values = torch.cat([prefix[:, :, 1, g].expand(B, -1, -1), values], 1)
        scores = query[:, :, h] @ keys.transpose(1, 2) * (E**-0.5 if attention.scale is None else attention.scale)
        if added is not None:
            scores = scores + torch.cat([torch.zeros(B, T, P, dtype=scores.dtype), added[:, h]], 2)
        heads.append(scores.masked_fill(~sees, -torch.inf).softmax(-1) @ values)
    out: Tensor = attention.output(torch.cat(heads, -1))
    return out


def rule_of(kind: str, length: int, rng: np.random.Generator) -> AttentionRule:
    if kind == "none":
        return AttentionRule.full(length)
    if kind == "causal":
        return AttentionRule.causal(length)
    segment = np.sort(rng.integers(-1, 3, length)).astype(np.int32)  # padding, and texts packed in one row
    rank = rng.integers(0, 4, length).astype(np.int32)
    return AttentionRule(segment, rank, np.maximum(rank, rng.integers(0, 5, length)).astype(np.int32))


def vectors_of(rules: list[AttentionRule]) -> list[Tensor]:
    return [
        torch.from_numpy(np.stack([getattr(rule, name) for rule in rules])) for name in ("segment", "rank", "horizon")
    ]


SCHEMES = ["plain", "grouped", "rotary", "two axes", "buckets", "distances"]


def attention_of(scheme: str) -> Attention:
    fields: dict[str, dict[str, Any]] = {
        "grouped": {"num_kv_heads": 2},
        "rotary": {"position_scheme": "rotary"},
        "two axes": {"position_scheme": "rotary_2d", "position_sizes": (400, 400), "hidden_size": 32},
        "buckets": {"relative_buckets": 8, "scale_scores": False},
        "distances": {"position_scheme": "relative", "position_sizes": (400, 3, 3)},
    }
    config = replace(CONFIG, **fields.get(scheme, {}))
    attention = build(config, seed=3).layers[0].attention
    assert isinstance(attention, Attention)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return attention.double()


def terms_of(scheme: str, length: int, generator: torch.Generator) -> PositionTerms:
    places = torch.randint(0, 30, (2, ROWS, length), generator=generator)
    if scheme in ("rotary", "two axes"):
        axes = 2 if scheme == "two axes" else 1
        return PositionTerms(Rotation.of(places[:axes], 8 if axes == 2 else 6, 100.0))
    if scheme == "buckets":
        return PositionTerms(bias=torch.randn(1, 4, length, length, generator=generator, dtype=torch.float64))
    if scheme == "distances":
        return PositionTerms(distances=lower_distances(places[0], places[1] % 2, 24))
    return PositionTerms()


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=4, deadline=None)
@given(length=st.integers(1, 9), seed=st.integers(0, 1000), rows=st.sampled_from([1, ROWS]))
def test_results_and_gradients_are_those_of_the_formula(
    scheme: str, kind: str, kernel: str, length: int, seed: int, rows: int
) -> None:
    compare(scheme, kind, kernel, length, seed, rows)


@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@pytest.mark.parametrize("scheme", ["plain", "buckets"])
def test_long_rows_skip_columns_and_not_the_prefix(scheme: str, kind: str) -> None:
    """Rows of several blocks of queries, whose weights are computed again in the backward pass."""
    compare(scheme, kind, "blocked", 300, 5, 1)


def compare(scheme: str, kind: str, kernel: str, length: int, seed: int, rows: int) -> None:
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    attention, terms = attention_of(scheme), terms_of(scheme, length, generator)
    attention.kernel = kernel  # type: ignore[assignment]
    rules = [rule_of(kind, length, rng) for _ in range(ROWS)]
    visible = torch.from_numpy(np.stack([rule.visible() for rule in rules]))
    segment, rank, horizon = vectors_of(rules)
    mask = behind(lower(kind, (segment, horizon), (segment, rank), torch.float64), PREFIX)
    results = []
    for formula in (True, False):
        generator.manual_seed(seed)
        width = attention.heads * attention.width
        hidden = torch.randn(ROWS, length, width, generator=generator, dtype=torch.float64, requires_grad=True)
        shape = (rows, PREFIX, 2, attention.kv_heads, attention.width)
        prefix = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        weigh = torch.randn(ROWS, length, width, generator=generator, dtype=torch.float64)
        attention.zero_grad()
        if formula:
            out = written_out(attention, hidden, visible, terms, prefix)
        else:
            padded = terms_behind({"global": terms}, PREFIX)["global"]
            out = attention(hidden, mask, padded, None, prefix)
        (out * weigh).sum().backward()
        results.append([out, hidden.grad, prefix.grad, attention.qkv.weight.grad])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("length", [9, 200])
def test_a_window_does_not_hide_the_prefix(kernel: str, length: int) -> None:
    """200 columns take a band, 9 a dense mask."""
    window, attention = 3, attention_of("plain")
    attention.kernel = kernel  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, length, 24, generator=generator, dtype=torch.float64)
    prefix = torch.randn(1, PREFIX, 2, 4, 6, generator=generator, dtype=torch.float64)
    segment = torch.zeros(ROWS, length, dtype=torch.int32)
    places = torch.arange(length).expand(ROWS, length)
    local = lower_local((segment, segment), (segment, segment), places, window, torch.float64, ordered=True)
    assert (local.kind == "band") == (length == 200)
    visible = (places[:, :, None] - places[:, None, :]).abs() <= window
    got = attention(hidden, behind(local, PREFIX), PositionTerms(), None, prefix)
    torch.testing.assert_close(got, written_out(attention, hidden, visible, PositionTerms(), prefix))


@pytest.mark.parametrize("causal", [False, True])
def test_dropped_weights_are_those_of_the_formula(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocked kernel, one matrix of all rows for each head."""
    drawn = drawn_masks(blocked_attention_module, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    H, T, E, share = 3, 6, 4, 0.5
    query = torch.randn(ROWS, T, H, E, generator=generator, requires_grad=True)
    pairs = torch.randn(ROWS, PREFIX + T, 2, H, E, generator=generator, requires_grad=True)
    mask = Mask("causal" if causal else "none")
    got = prefix_attend(query, pairs, mask, share, "blocked")
    got.square().sum().backward()
    grads = [query.grad, pairs.grad]
    query.grad = pairs.grad = None
    hidden = torch.ones(T, PREFIX + T, dtype=torch.bool).triu_(1 + PREFIX) if causal else torch.zeros(1, 1).bool()
    heads = []
    for h in range(H):
        mask_BTS = drawn[h].view(ROWS, T, PREFIX + T).float() / (1 - share)
        scores = query[:, :, h] @ pairs[:, :, 0, h].transpose(1, 2) * E**-0.5
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) * mask_BTS @ pairs[:, :, 1, h])
    expected = torch.cat(heads, -1)
    torch.testing.assert_close(got, expected)
    expected.square().sum().backward()
    for grad, other in zip(grads, [query.grad, pairs.grad], strict=True):
        torch.testing.assert_close(grad, other)


def batch_of(name: str, rng: np.random.Generator) -> Batch:
    """Rows of two packed texts and padding; of two stacks both sides are."""
    channels = len(objective_of(name).position_sizes()) if name not in ("t5", "bart") else 1

    def side(length: int) -> Batch:
        ids = torch.from_numpy(rng.integers(5, 40, (ROWS, length)))
        segment = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1][:length], dtype=torch.int32).expand(ROWS, length)
        places = torch.arange(length).expand(ROWS, length)
        positions = torch.stack([places, *[torch.zeros_like(places)] * (channels - 1)])
        rank = places.int() if name in ("gpt", "t5", "bart") else torch.zeros_like(segment)
        return Batch.of_rows(ids, positions, segment, rank, rank)

    batch = side(7)
    return replace(batch, context=side(8)) if name in ("t5", "bart") else batch


@pytest.mark.parametrize("name", FAMILY)
def test_all_layers_of_every_family_read_their_prefix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(name, sharp=3.0)
    add_prefix(model, PrefixShape(PREFIX), seed=1)
    batch = batch_of(name, np.random.default_rng(0))
    with torch.no_grad():
        got = model(batch).hidden
    made = model.prefix_encoder
    assert isinstance(made, PrefixEncoder)
    # [P, 2·N, G, E]: of layer k, 2·k is the key and 2·k + 1 the value, the encoder's layers first
    rows = made.embedding.weight.view(PREFIX, -1, model.config.kv_heads, model.config.head_width)
    order = iter(range(len(rows[0]) // 2))
    sides = [part for part in (batch.context, batch) if part is not None]
    visible = {}
    for part in sides:
        same = part.segment[:, :, None] == part.segment[:, None, :]
        visible[part.input_ids.shape[1]] = same & (part.rank[:, None, :] <= part.horizon[:, :, None])

    def forward(self: Attention, hidden: Tensor, mask: Mask, terms: PositionTerms, *rest: Any) -> Tensor:
        k, T = next(order), hidden.shape[1]
        prefix = rows[:, 2 * k : 2 * k + 2][None]
        if terms.bias is not None:
            assert not terms.bias[..., :PREFIX].any()
            terms = replace(terms, bias=terms.bias[..., PREFIX:])
        return written_out(self, hidden, visible[T], terms, prefix)

    monkeypatch.setattr(Attention, "forward", forward)
    with torch.no_grad():
        expected = model(batch).hidden
    assert next(order, None) is None
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_layers_computed_again_have_the_same_gradients() -> None:
    """With dropout of the prefix, which is drawn once for each row."""
    grads = []
    for again in (False, True):
        model = random_model("gpt").train()
        add_prefix(model, PrefixShape(PREFIX, 8, 0.5), seed=1)
        model.recompute = again
        torch.manual_seed(0)
        model(batch_of("gpt", np.random.default_rng(0))).hidden.square().sum().backward()
        learning = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        assert set(learning) == {f"prefix_encoder.{name}" for name in (
            "embedding.weight", "projection.0.weight", "projection.0.bias", "projection.2.weight", "projection.2.bias"
        )}  # fmt: skip
        grads.append(learning)
    for name, grad in grads[0].items():
        assert grad is not None and grad.abs().max() > 0
        torch.testing.assert_close(grads[1][name], grad)


@pytest.mark.parametrize("projection", [0, 16])
def test_a_prefix_alone_teaches_a_frozen_model(projection: int) -> None:
    """To write one word whatever it reads: from more than 3.5 nats to less than 1."""
    model = random_model("gpt")
    add_prefix(model, PrefixShape(6, projection), 1)
    ids = torch.randint(5, 40, (16, 9), generator=torch.Generator().manual_seed(0))
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.01 if projection else 0.05, weight_decay=0.0)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        logits = model(Inputs(ids, torch.arange(9).expand(1, 16, 9), Mask("causal")), logits_at="all").logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.full((144,), 7))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3.5 and losses[-1] < 1


def test_dropout_is_drawn_for_each_row_and_for_training_only() -> None:
    prefix = PrefixEncoder(CONFIG, PrefixShape(50, 0, 0.1))
    torch.nn.init.ones_(prefix.embedding.weight)
    made = torch.stack(prefix(3, torch.float32))
    assert made.shape == (2, 3, 50, 2, 4, 6)
    assert not torch.equal(made[:, 0], made[:, 1])
    torch.testing.assert_close(made.unique(), torch.tensor([0.0, 1 / 0.9]), atol=1e-3, rtol=0)
    assert abs(float((made == 0).float().mean()) - 0.1) < 0.02
    assert torch.equal(torch.stack(prefix.eval()(3, torch.float32)), torch.ones(2, 1, 50, 2, 4, 6))


def test_initial_weights_are_torchs_by_seed_and_name() -> None:
    def made(seed: int) -> Transformer:
        model = build(CONFIG)
        add_prefix(model, PrefixShape(60, 40), seed)
        return model

    first, again, other = (made(seed).prefix_encoder for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None and first.projection is not None
    for (name, made_first), two, third in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(made_first, two) and not torch.equal(made_first, third), name
    table, dense = first.embedding.weight.detach(), first.projection[0].requires_grad_(False)
    assert table.shape == (60, 24) and abs(float(table.std()) - 1) < 0.05 and abs(float(table.mean())) < 0.1
    reach = 24**-0.5
    assert dense.weight.abs().max() <= reach and abs(float(dense.weight.std()) - reach / 3**0.5) < 0.02


def test_a_projection_is_computed_once() -> None:
    model = random_model("gpt")
    add_prefix(model, PrefixShape(PREFIX, 16), seed=1)
    batch = batch_of("gpt", np.random.default_rng(0))
    with torch.no_grad():
        expected = model(batch).hidden
        compute_prefix(model)
        assert [name for name, _ in model.named_parameters() if "prefix" in name] == ["prefix_encoder.embedding.weight"]
        torch.testing.assert_close(model(batch).hidden, expected)
    assert SIZES["num_layers"] * 2 * 32 == model.prefix_encoder.embedding.weight.shape[1]  # type: ignore[union-attr]
