"""Loss scaling: small gradients, skipped steps, changes of the scale, and a resumed run that continues exactly."""

import json

import numpy as np
import pytest
import torch

from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.training.loss import loss_sums
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import OptimizerName, TrainOptions
from blankfill.training.precision import computing
from blankfill.training.scaling import DynamicLossScaler, LossScaler, loss_scaler
from blankfill.types import AttentionRule, Batch, Example

CPU = torch.device("cpu")


def test_only_fp16_is_scaled() -> None:
    assert type(loss_scaler(CPU, torch.float32)) is LossScaler
    assert type(loss_scaler(CPU, torch.bfloat16)) is LossScaler
    assert type(loss_scaler(CPU, torch.float16)) is DynamicLossScaler


def test_without_scaling_nothing_is_touched() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = LossScaler()
    loss = (weight * torch.tensor([1.0, 2.0, float("inf")])).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    grad = weight.grad
    assert grad is not None and scaler.unscale_and_check(optimizer)
    assert weight.grad is grad and grad.tolist() == [1.0, 2.0, float("inf")]
    scaler.step(optimizer)
    assert weight.tolist() == [0.0, -1.0, -float("inf")]
    assert scaler.state() == {}
    scaler.restore({"scale": 8.0})
    assert scaler.scale(loss) is loss


@pytest.mark.parametrize(("scaler", "gradient"), [(LossScaler(), 0.0), (DynamicLossScaler("cpu"), 1e-9)])
def test_a_gradient_below_fp16s_smallest_number_survives(scaler: LossScaler, gradient: float) -> None:
    """1e-6 · 1e-3 = 1e-9, where fp16 ends at 6e-8."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    half = weight.to(torch.float16) * torch.tensor(1e-3, dtype=torch.float16)
    scaler.scale((half.float() * 1e-6).sum()).backward()
    assert scaler.unscale_and_check(optimizer)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), gradient, rtol=2e-3)


def take(
    scaler: LossScaler, model: torch.nn.Module, optimizer: torch.optim.Optimizer, size: float, bad: float = 0.0
) -> bool:
    """A step whose loss is size · Σ w², with `bad` added to one gradient; whether the gradients were finite."""
    optimizer.zero_grad()
    scaler.scale(torch.stack([(size * p.square()).sum() for p in model.parameters()]).sum()).backward()
    first = next(model.parameters())
    assert first.grad is not None
    first.grad.view(-1)[0] += bad
    finite = scaler.unscale_and_check(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    return finite


def tiny() -> Transformer:
    return build(
        TransformerConfig(
            vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, ffn_size=8, position_sizes=(8,), dropout=0.0,
            attention_dropout=0.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor", "lamb"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflow_changes_the_scale_and_nothing_else(name: OptimizerName, bad: float) -> None:
    model = tiny()
    optimizer = build_optimizer(model, TrainOptions(optimizer=name))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    scaler = DynamicLossScaler("cpu")
    assert take(scaler, model, optimizer, 1.0)
    weights = [p.detach().clone() for p in model.parameters()]
    states = [{key: value.clone() for key, value in optimizer.state[p].items()} for p in model.parameters()]
    assert not take(scaler, model, optimizer, 1.0, bad)
    assert scaler.state()["scale"] == 2.0**15
    for parameter, weight, state in zip(model.parameters(), weights, states, strict=True):
        assert torch.equal(parameter, weight)
        assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in state.items())
    assert take(scaler, model, optimizer, 1.0)
    assert not torch.equal(next(model.parameters()), weights[0])


def test_the_scale_does_not_change_a_step() -> None:
    """Scales are powers of two, so that what is left after clipping is the same to the bit."""
    steps = []
    for scaler in (LossScaler(), DynamicLossScaler("cpu", 2.0**10), DynamicLossScaler("cpu")):
        model = tiny()
        optimizer = build_optimizer(model, TrainOptions())
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(3):
            take(scaler, model, optimizer, 1.0)
        steps.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(steps[0], steps[1]) and torch.equal(steps[0], steps[2])


def test_the_scale_doubles_after_finite_steps_in_a_row() -> None:
    weight = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.0)
    scaler = DynamicLossScaler("cpu", 8.0, growth_interval=3)
    seen = []
    for bad in (0.0, 0.0, 0.0, 0.0, 0.0, float("inf"), 0.0, 0.0, 0.0):
        take(scaler, weight, optimizer, 1.0, bad)
        seen.append(scaler.state()["scale"])
    assert seen == [8, 8, 16, 16, 16, 8, 8, 8, 16]


def test_a_restored_scaler_goes_on_exactly() -> None:
    """Through JSON, in the middle of a row of finite steps."""
    trouble = [0.0, 0.0, float("inf"), 0.0, 0.0, 0.0, 0.0, 0.0, float("inf"), 0.0, 0.0]

    def go(scaler: LossScaler, model: torch.nn.Module, span: slice) -> list[float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        scales = []
        for bad in trouble[span]:
            take(scaler, model, optimizer, 1.0, bad)
            scales.append(scaler.state()["scale"])
        return scales

    whole, parts = tiny(), tiny()
    expected = go(DynamicLossScaler("cpu", growth_interval=3), whole, slice(0, 11))
    first, second = DynamicLossScaler("cpu", growth_interval=3), DynamicLossScaler("cpu")
    before = go(first, parts, slice(0, 5))
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert before + go(second, parts, slice(5, 11)) == expected
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))


def test_a_state_without_scale_leaves_a_fresh_one() -> None:
    """A run that continues in fp16 after another type."""
    scaler = DynamicLossScaler("cpu")
    scaler.restore({})
    assert scaler.state()["scale"] == 2.0**16


def test_what_no_scale_mends_is_left_to_the_loop() -> None:
    """From scale 1 on the step counts as checked; the loop finds the norm, may drop the step, and continues."""
    weight = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    scaler = DynamicLossScaler("cpu", 4.0)
    skipped = [take(scaler, weight, optimizer, 1.0, float("nan")) for _ in range(2)]
    assert skipped == [False, False] and scaler.state()["scale"] == 1.0
    for _ in range(2):
        before = weight.weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(weight.weight.sum() * float("nan")).backward()
        assert scaler.unscale_and_check(optimizer)
    assert scaler.state()["scale"] == 1.0
    assert take(scaler, weight, optimizer, 1.0) and not torch.equal(weight.weight, before)


def batch() -> Batch:
    """Eight rows of eight tokens; each answer is its own token plus one."""
    made = []
    for row in range(8):
        ids = ((np.arange(8) * 3 + row) % 19).astype(np.int32)
        index = np.arange(row % 3, 8, 3).astype(np.int32)
        positions = np.arange(8, dtype=np.int32)[None]
        made.append([Example(ids, positions, AttentionRule.full(8), index, ids[index] + 1)])
    return collate(made, pad=0)


def test_a_model_learns_in_fp16_as_in_fp32() -> None:
    """With a scale that keeps growing into overflows, which cost their steps and nothing else."""
    final, skipped = {}, 0
    for dtype in (torch.float32, torch.float16):
        model, rows = tiny(), batch()
        optimizer = build_optimizer(model, TrainOptions())
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        scaler = DynamicLossScaler("cpu", 2.0**20, growth_interval=20) if dtype == torch.float16 else LossScaler()
        for _ in range(80):
            optimizer.zero_grad()
            with computing(CPU, dtype):
                loss = loss_sums(model, rows, dtype)["lm"] / len(rows.target_ids)
            scaler.scale(loss).backward()
            skipped += not scaler.unscale_and_check(optimizer)
            scaler.step(optimizer)
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        final[dtype] = float(loss.detach())
    assert 2 <= skipped < 20
    assert final[torch.float32] < 1.0
    assert final[torch.float16] == pytest.approx(final[torch.float32], abs=0.25)
