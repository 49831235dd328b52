"""The chunked word loss against torch's, and accumulation against one large batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blankfill.data.batching import collate
from blankfill.kernels import lm_loss as loss_module
from blankfill.kernels.lm_loss import lm_loss
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.training.loss import counts, loss_sums
from blankfill.types import AttentionRule, Batch, Example


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.02), (0.1, 0.02)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("scores", "columns"), [(1 << 24, 2048), (200, 2048), (1 << 24, 4), (20, 7)])
def test_lm_loss_and_gradients(
    smoothing: float, z_loss: float, with_bias: bool, scores: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "SCORES", scores)
    monkeypatch.setattr(loss_module, "COLUMNS", columns)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(53, 8, generator=generator, dtype=torch.float32, requires_grad=True)
    table = torch.randn(31, 8, generator=generator, requires_grad=True)
    bias = torch.randn(31, generator=generator, requires_grad=True) if with_bias else None
    target = torch.randint(0, 31, (53,), generator=generator)
    leaves = [leaf for leaf in (hidden, table, bias) if leaf is not None]
    logits = F.linear(hidden, table, bias)
    theirs = F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    theirs = theirs + z_loss * logits.logsumexp(-1).square().sum()
    expected = torch.autograd.grad(theirs * 0.3, leaves)
    ours = lm_loss(hidden, table, bias, target, smoothing, z_loss)
    torch.testing.assert_close(ours, theirs)
    for got, wanted in zip(torch.autograd.grad(ours * 0.3, leaves), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


class Other(torch.Tensor):
    """A kind of tensor of its own, as quantised and sharded tables are."""


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.02)])
def test_a_table_that_is_not_plain_goes_through_torch(
    smoothing: float, z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 8, generator=generator, requires_grad=True)
    table = torch.randn(31, 8, generator=generator)
    target = torch.randint(0, 31, (9,), generator=generator)
    expected = lm_loss(hidden, table, None, target, smoothing, z_loss)
    (wanted,) = torch.autograd.grad(expected, hidden)
    monkeypatch.setattr(loss_module._LMLoss, "apply", None)
    got = lm_loss(hidden, table.as_subclass(Other), None, target, smoothing, z_loss).as_subclass(torch.Tensor)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, hidden)[0].as_subclass(torch.Tensor), wanted)


def test_lm_loss_without_gradient() -> None:
    with torch.no_grad():
        value = lm_loss(torch.zeros(3, 4), torch.zeros(5, 4), None, torch.tensor([0, 1, 2]))
    assert float(value) == pytest.approx(3 * np.log(5))


def test_z_loss_is_trained_with_and_not_measured_with() -> None:
    config = TransformerConfig(
        vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, ffn_size=32, position_sizes=(12, 2), dropout=0.0,
        attention_dropout=0.0, norm="post", pooler=True,
    )  # fmt: skip
    model, batch = build(config), batch_of(slice(0, 4))
    logits = model.lm_head(model(batch).hidden, model.output_table).flatten(0, 1)[batch.target_index]
    added = loss_sums(model.train(), batch, z_loss=0.5)["lm"] - loss_sums(model, batch)["lm"]
    torch.testing.assert_close(added, 0.5 * logits.logsumexp(-1).square().sum())
    assert torch.equal(loss_sums(model.eval(), batch, z_loss=0.5)["lm"], loss_sums(model, batch)["lm"])


def batch_of(rows: slice) -> Batch:
    rng = np.random.default_rng(7)
    made = []
    for size in (9, 12, 5, 12):
        ids = rng.integers(0, 40, (2, size)).astype(np.int32)
        index = np.sort(rng.choice(size, int(rng.integers(1, 5)), False)).astype(np.int32)
        positions = np.stack([np.arange(size), np.zeros(size)]).astype(np.int32)
        made.append([Example(ids[0], positions, AttentionRule.full(size), index, ids[1][index], {"next_sentence": 1})])
    return collate(made[rows], pad=0)


def test_accumulation_equals_one_batch() -> None:
    """Micro-batches with unequal numbers of answers give the gradient of the whole batch."""
    config = TransformerConfig(
        vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, ffn_size=32, position_sizes=(12, 2), norm="post",
        pooler=True, head_bias=True, head_transform=True, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip

    def gradient(parts: list[Batch]) -> list[torch.Tensor]:
        model = build(config)
        totals = {name: sum(counts(batch)[name] for batch in parts) for name in ("lm", "next_sentence")}
        for batch in parts:
            sums = loss_sums(model, batch)
            (sums["lm"] / totals["lm"] + sums["next_sentence"] / totals["next_sentence"]).backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    whole = gradient([batch_of(slice(0, 4))])
    split = gradient([batch_of(slice(0, 1)), batch_of(slice(1, 4))])
    for actual, other in zip(whole, split, strict=True):
        torch.testing.assert_close(actual, other, atol=1e-6, rtol=1e-4)
