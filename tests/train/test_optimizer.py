"""Learning rates worked out by hand, and what weight decay leaves out."""

import pytest

from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.train.optimizer import build_optimizer
from blankfill.train.options import TrainOptions
from blankfill.train.schedule import learning_rate


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


def test_decay_leaves_out_biases_and_norms() -> None:
    model = build(TransformerConfig(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, ffn_size=8))
    words, decayed, spared = build_optimizer(model, (0.9, 0.999), 1e-6, 0.01, word_lr=8.0).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in spared["params"])
    assert {names[id(p)] for p in words["params"]} == {"words.weight"}
    assert "positions.0.weight" in {names[id(p)] for p in decayed["params"]}
    assert len(words["params"]) + len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    # decay is multiplied by the rate, so the word table decays as fast as the rest
    assert words["weight_decay"] * words["lr_scale"] == decayed["weight_decay"] * decayed["lr_scale"]
    _, everything, nothing = build_optimizer(model, (0.9, 0.999), 1e-6, 0.01, decay_all=True).param_groups
    assert len(everything["params"]) == len(names) - 1 and not nothing["params"]
