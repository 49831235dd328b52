"""Learning rates worked out by hand, weights without decay, and a resumed run that is equal to the bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.attention.masks import Mask
from blankfill.checkpoint.store import optimizer_tensors, restore_optimizer
from blankfill.config.recipe import load_recipe
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer, build
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import OptimizerName, TrainOptions
from blankfill.training.schedule import learning_rate

NAMES: list[OptimizerName] = ["adamw", "adam", "sgd", "adafactor", "lamb"]
TINY = TransformerConfig(
    vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, ffn_size=8, position_sizes=(16,), pooler=True, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("step", "schedule", "rate"),
    [
        (0, "linear", 0.1), (9, "linear", 1.0), (10, "linear", 1.0), (55, "linear", 0.5), (100, "linear", 0.0),
        (0, "cosine", 0.1), (10, "cosine", 1.0), (55, "cosine", 0.5), (100, "cosine", 0.0),
        (39, "inverse_sqrt", 0.5), (500, "constant", 1.0),
    ],
)  # fmt: skip
def test_learning_rate(step: int, schedule: str, rate: float) -> None:
    assert learning_rate(step, 100, 1.0, 10, schedule) == pytest.approx(rate)  # type: ignore[arg-type]


def test_floor_and_early_end_of_decay() -> None:
    assert learning_rate(100, 100, 2.0, 10, "cosine", 0.1) == pytest.approx(0.2)
    assert learning_rate(80, 100, 2.0, 10, "linear", 0.1, decay_steps=50) == pytest.approx(0.2)
    assert TrainOptions(steps=1000, warmup=0.05, decay_steps=800).warmup_steps == 40
    assert TrainOptions(steps=1000, warmup=25).warmup_steps == 25


@pytest.mark.parametrize(
    ("step", "schedule", "rate"),
    [
        (9, "linear", 1.0), (29, "linear", 1.0), (30, "linear", 1.0), (65, "linear", 0.5), (100, "linear", 0.0),
        (65, "cosine", 0.5), (29, "inverse_sqrt", 1.0), (119, "inverse_sqrt", 0.5),
    ],
)  # fmt: skip
def test_the_peak_is_held(step: int, schedule: str, rate: float) -> None:
    """Ten steps of warm-up, twenty at the peak."""
    assert learning_rate(step, 100, 1.0, 10, schedule, constant_steps=20) == pytest.approx(rate)  # type: ignore[arg-type]


@pytest.mark.parametrize(("step", "rate"), [
    (0, 0.25), (3, 1.0), (19, 1.0), (20, 1.0), (21, 0.9), (29, 0.7), (45, 0.5), (84, 0.2), (120, 0.0), (500, 0.0),
])  # fmt: skip
def test_warmup_stable_decay_falls_as_one_minus_a_square_root(step: int, rate: float) -> None:
    """Four steps up, sixteen at the peak, then 1 − √(0, 1, 9, 25, 64, 100 of 100)."""
    assert learning_rate(step, 120, 1.0, 4, "1-sqrt", constant_steps=16) == pytest.approx(rate)
    floor = learning_rate(step, 120, 3e-4, 4, "1-sqrt", 0.1, constant_steps=16)  # min_lr
    assert floor == pytest.approx(3e-4 * (0.1 + 0.9 * rate) if step >= 20 else 3e-4 * rate)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_agrees_with_transformers(decay: str) -> None:
    """Their warm-up begins with 0, one step later than ours."""
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = transformers.get_wsd_schedule(
        optimizer, num_warmup_steps=5, num_stable_steps=7, num_decay_steps=30, decay_type=decay, min_lr_ratio=0.2
    )
    options = TrainOptions(
        steps=42, lr=0.5, warmup=5, constant_steps=7, schedule=decay, min_lr=0.2,  # type: ignore[arg-type]
    )  # fmt: skip
    for step in range(50):
        if step >= 5:
            assert options.lr_at(step) == pytest.approx(theirs.get_last_lr()[0]), step
        optimizer.step()
        theirs.step()


def test_a_schedule_in_rows() -> None:
    """The batch is 2 rows, then 4: the rate depends on the rows read with the step, not on the number of the step."""
    options = TrainOptions(
        steps=15, batch_size=4, batch_size_start=2, batch_size_warmup=10, batch_size_increment=2, schedule_unit="rows",
        lr=1.0, warmup=8, warmup_lr=0.2, decay_steps=42, schedule="linear", min_lr=0.1,
    )  # fmt: skip
    assert not options.problems() and options.row_schedule.first(15) == 50
    # with step 7, 22 rows have been read, with step 12 42, with step 13 46
    for step, rate in ((0, 0.4), (1, 0.6), (3, 1.0), (7, 1 - 0.9 * 13 / 34), (12, 0.1 + 0.9 / 34), (13, 0.1)):
        assert options.lr_at(step) == pytest.approx(rate), step
    assert options.warmup_steps == 4
    by_share = TrainOptions(steps=100, batch_size=4, batch_size_start=2, batch_size_warmup=0.1, schedule_unit="rows")
    assert by_share.row_schedule.ramp == 40 and by_share.row_schedule.first(100) < 400
    whole = by_share.row_schedule.first(100)
    assert by_share.lr_at(by_share.row_schedule.step_of(round(0.1 * whole)) - 1) == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize("name", ["modernbert-base", "modernbert-large"])
def test_modernbert_loses_the_published_share_of_its_weights_in_a_step(name: str) -> None:
    """1e-5 of a weight at the peak, which composer's decoupled optimiser does not multiply by the learning rate."""
    train = load_recipe(name).train
    assert train.lr * train.weight_decay == pytest.approx(1e-5)


def test_t5_has_the_published_rates() -> None:
    train = load_recipe("t5-base").train
    for step in (0, 1, 9_999, 10_000, 40_000, 524_287):
        assert train.lr_at(step) == pytest.approx(1 / max(step + 1, 10_000) ** 0.5)
    assert TrainOptions(steps=1000, constant_steps=0.5, decay_steps=400, lr=1.0, warmup=0).lr_at(199) == 1.0
    assert "train.constant_steps is -1; it must not be negative" in TrainOptions(constant_steps=-1).problems()


def test_decay_leaves_out_biases_and_norms() -> None:
    model = build(TINY)
    words, decayed, spared = build_optimizer(
        model, TrainOptions(weight_decay=0.01, embedding_lr_multiplier=8.0)
    ).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in spared["params"])
    assert {names[id(p)] for p in words["params"]} == {"token_embeddings.weight"}
    assert "positions.0.weight" in {names[id(p)] for p in decayed["params"]}
    assert len(words["params"]) + len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    # decay is multiplied by the rate, so the word table decays as fast as the rest
    assert words["weight_decay"] * words["lr_scale"] == decayed["weight_decay"] * decayed["lr_scale"]
    _, everything, nothing = build_optimizer(model, TrainOptions(decay_all=True)).param_groups
    assert len(everything["params"]) == len(names) - 1 and not nothing["params"]


def test_lamb_adapts_what_decays() -> None:
    words, decayed, spared = build_optimizer(build(TINY), TrainOptions(optimizer="lamb")).param_groups
    assert (words["adapt"], decayed["adapt"], spared["adapt"]) == (True, True, False)


def test_an_optimizer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="adagrad"):
        load_recipe("bert-nano", {"train.optimizer": "adagrad"})


def loss_of(model: Transformer, step: int, pairs: bool = True) -> torch.Tensor:
    """Predict, from each token, the one that follows in 0, 3, 6, …; and from the first, whether it is even."""
    first = torch.arange(step, step + 8)[:, None]
    ids = (first + 3 * torch.arange(9)) % 20
    hidden = model(Inputs(ids[:, :-1], torch.arange(8).expand(1, 8, 8), Mask("none"))).hidden
    logits = model.lm_head(hidden, model.token_embeddings.weight)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    if pairs and model.pooler is not None:
        loss = loss + torch.nn.functional.cross_entropy(model.classifier(model.pooler(hidden[:, 0])), ids[:, 0] % 2)
    return loss


def train(model: Transformer, optimizer: torch.optim.Optimizer, steps: range, rate: float) -> list[float]:
    """Losses of some steps; the pair head meets its first gradient at step 3."""
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"] * (1 + step % 3)
        optimizer.zero_grad()
        loss = loss_of(model, step, pairs=step >= 3)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_optimizer_goes_on_to_the_bit(name: OptimizerName, stop: int, tmp_path: Path) -> None:
    """Stopped before some weights have met a gradient, and after."""
    options = TrainOptions(optimizer=name, embedding_lr_multiplier=2.0)
    whole = build(TINY)
    optimizer = build_optimizer(whole, options)
    train(whole, optimizer, range(10), 1e-3)

    first = build(TINY)
    stopped = build_optimizer(first, options)
    train(first, stopped, range(stop), 1e-3)
    save_file(optimizer_tensors(stopped), tmp_path / "optimizer.safetensors")
    second = build(TINY, seed=1)
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, options)
    restore_optimizer(resumed, load_file(tmp_path / "optimizer.safetensors"))
    for ours, theirs in zip(second.parameters(), first.parameters(), strict=True):
        mine, wanted = resumed.state.get(ours, {}), stopped.state.get(theirs, {})
        assert mine.keys() == wanted.keys()
        for key, value in wanted.items():
            assert torch.equal(mine[key], value)
            assert (mine[key].dtype, mine[key].device) == (value.dtype, value.device)
    train(second, resumed, range(stop, 10), 1e-3)
    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_restored_state_lies_where_the_weights_are(name: OptimizerName) -> None:
    """Also the step counts of fused kernels, which must not stay on the host; Adafactor counts there."""
    options = TrainOptions(optimizer=name)
    model = build(TINY)
    optimizer = build_optimizer(model, options)
    train(model, optimizer, range(3, 5), 1e-3)
    elsewhere = build(TINY).to("meta")
    moved = build_optimizer(elsewhere, options)
    restore_optimizer(moved, optimizer_tensors(optimizer))
    for state in moved.state.values():
        for key, value in state.items():
            assert value.device.type == ("cpu" if (name, key) == ("adafactor", "step") else "meta")


@pytest.mark.parametrize(
    ("name", "rate"), [("adamw", 5e-3), ("adam", 2e-3), ("sgd", 0.05), ("adafactor", 0.03), ("lamb", 0.02)]
)
def test_every_optimizer_lowers_the_loss(name: OptimizerName, rate: float) -> None:
    model = build(TINY)
    optimizer = build_optimizer(model, TrainOptions(optimizer=name, embedding_lr_multiplier=2.0))
    losses = train(model, optimizer, range(3, 63), rate)
    assert losses[-1] < losses[0] - 1.0
