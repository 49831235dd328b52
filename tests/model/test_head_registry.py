"""Heads in a registry: one of a user's own, and that all weights are used inside the forward pass."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.heads import HEADS, Head, counts, head_losses, register_head
from blankfill.model.transformer import Transformer, build
from blankfill.training.loss import loss_sums
from blankfill.types import AttentionRule, Batch, Example

CONFIG = TransformerConfig(
    vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, position_sizes=(16,), dropout=0.0,
    attention_dropout=0.0, head_transform=True, head_bias=True, pooler=True, heads=("longer",),
)  # fmt: skip


def longer_loss(model: Transformer, hidden_ND: Tensor, batch: Batch) -> Tensor:
    """Squared error of a number read at the first column."""
    index_K, target_K = batch.labels["longer"]
    scores_K1: Tensor = model.heads["longer"](hidden_ND[index_K])
    return (scores_K1[:, 0] - target_K).square().sum()


@pytest.fixture
def longer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("blankfill.model.heads.HEADS", HEADS)
    register_head(Head("longer", longer_loss, lambda config: nn.Linear(config.hidden_size, 1)))
    yield
    del HEADS["longer"]


def batch_of(labels: dict[str, int]) -> Batch:
    rng = np.random.default_rng(0)
    index = np.array([1, 4], np.int32)
    rows = []
    for _ in range(3):
        ids = rng.integers(5, 40, 8).astype(np.int32)
        positions = np.arange(8, dtype=np.int32)[None]
        rows.append([Example(ids, positions, AttentionRule.full(8), index, ids[index], labels)])
    return collate(rows, pad=0)


@pytest.mark.usefixtures("longer")
def test_a_head_of_ones_own_learns_beside_the_others() -> None:
    model, batch = build(CONFIG, seed=1).train(), batch_of({"longer": 2, "next_sentence": 1})
    assert counts(batch) == {"lm": 6, "longer": 3, "next_sentence": 3}
    sums = loss_sums(model, batch)
    hidden = model(batch).hidden[:, 0]
    torch.testing.assert_close(sums["longer"], (model.heads["longer"](hidden)[:, 0] - 2).square().sum())
    sum(sums.values()).backward()  # type: ignore[union-attr]
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == set()
    assert "heads.longer.weight" in model.state_dict()


@pytest.mark.usefixtures("longer")
def test_names_are_taken_once_and_must_be_known() -> None:
    with pytest.raises(ValueError, match="a head named 'longer' already"):
        register_head(Head("longer", longer_loss))
    with pytest.raises(ValueError, match="none is registered"):
        build(replace(CONFIG, heads=("shorter",)))
    with pytest.raises(ValueError, match="targets for 'shorter'"):
        model = build(CONFIG)
        head_losses(model, torch.zeros(24, 16), batch_of({"shorter": 1}))


@pytest.mark.usefixtures("longer")
def test_every_weight_is_used_inside_the_forward_pass() -> None:
    """A wrapper that takes the weights away outside the forward pass, as FSDP does, sees every use of them."""
    model, batch = build(CONFIG, seed=1).train(), batch_of({"longer": 2, "next_sentence": 0})
    expected = loss_sums(model, batch)
    weights = {name: weight.data for name, weight in model.named_parameters()}

    def give(*_: object) -> None:
        for name, weight in model.named_parameters():
            weight.data = weights[name]

    def take(*_: object) -> None:
        for weight in model.parameters():
            weight.data = torch.empty(0)

    take()
    handles = [model.register_forward_pre_hook(give), model.register_forward_hook(take)]
    got = loss_sums(model, batch)
    for handle in handles:
        handle.remove()
    for name, total in expected.items():
        torch.testing.assert_close(got[name], total)
