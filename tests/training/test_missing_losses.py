"""Steps and validations without some losses, or without any: what is recorded, and that training continues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import nn

from blankfill.training.loop import Metrics, Trainer, evaluate
from blankfill.training.loss import LossSums
from blankfill.training.options import TrainOptions
from blankfill.training.progress import Progress, Window
from blankfill.training.scaling import DynamicLossScaler, LossScaler
from blankfill.types import Batch

CPU, FP32 = torch.device("cpu"), torch.float32
NOTHING = torch.zeros(0, dtype=torch.int64)


def batch(words: int = 0, pairs: int = 0, rows: int = 2) -> Batch:
    """Rows of four columns with `words` token targets and `pairs` pair labels."""
    zeros = torch.zeros(rows, 4, dtype=torch.int64)
    labels = {"next_sentence": (torch.arange(pairs) * 4, torch.ones(pairs, dtype=torch.int64))} if pairs else {}
    columns = torch.arange(words)
    vectors = (zeros.int(), zeros.int(), zeros.int())
    return Batch(zeros, zeros[None], *vectors, columns, torch.ones_like(columns), labels, "none", rows * 4)


class Two(nn.Module):
    """A model of two weights, one for the words and one for the pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.pair = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(1.0))


def loss(model: Any, given: Batch, dtype: torch.dtype = FP32) -> LossSums:
    """Each word costs its weight, each pair its own."""
    labels = {name: model.pair * len(value) for name, (_, value) in given.labels.items()}
    return {"lm": model.word * len(given.target_ids), **labels}


class Memory:
    """A recorder that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[Metrics] = []
        self.shown: list[Metrics] = []
        self.events: list[str] = []

    def record(self, metrics: Metrics) -> None:
        self.lines.append(metrics)

    def advance(self, step: int, fields: Metrics) -> None:
        self.shown.append(fields)

    def event(self, step: int, kind: str, text: str) -> None:
        self.events.append(text)

    def of(self, split: str) -> list[Metrics]:
        return [line for line in self.lines if line["split"] == split]


class NoRows:
    def rows(self, step: int) -> Sequence[int]:
        return [0, 1]


def trained(
    steps: Sequence[Sequence[Batch]], valid: Sequence[Batch] = (), lr: float = 0.0, scaler: LossScaler | None = None,
    **options: Any,
) -> tuple[Memory, Two, Progress]:  # fmt: skip
    model, memory = Two(), Memory()
    given = {"schedule": "constant", "warmup": 0.0, "eval_every": 1, "log_every": len(steps), **options}
    made = TrainOptions(steps=len(steps), batch_size=2, lr=lr or 1e-30, **given)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr_scale": 1.0}], lr=0.0)
    trainer = Trainer(
        model, optimizer, made, 0, CPU, FP32, memory, lambda step: valid, lambda progress: None, NoRows(),
        scaler or LossScaler(), loss=loss,
    )  # fmt: skip
    done = trainer.train(((k, list(micro)) for k, micro in enumerate(steps)), Progress())
    return memory, model, done


def test_a_loss_is_averaged_over_the_steps_that_have_it() -> None:
    both, words = [batch(3, 2)], [batch(3)]
    memory, _, _ = trained([both, words, words, both])
    (line,) = memory.of("train")
    assert line["loss"] == pytest.approx(4.0) and line["next_sentence_loss"] == pytest.approx(1.0)


def test_a_window_goes_on_where_an_earlier_version_left_it() -> None:
    window = Window(losses={"lm": 8.0, "next_sentence": 2.0}, counted=2)
    window.add({"lm": 4.0, "new": 7.0}, 1, 0.0, 1.0, 0.0)
    assert window.means() == {"lm": 4.0, "next_sentence": 1.0, "new": 7.0}
    state = asdict(Progress(window=window))
    assert Progress.from_state(state).window.means() == window.means()
    del state["window"]["having"]
    assert Progress.from_state(state).window.means()["lm"] == 4.0


def test_steps_without_word_targets_do_not_lend_their_loss_to_the_words() -> None:
    memory, _, _ = trained([[batch(3, 2)], [batch(0, 2)]], log_every=1)
    first, second = memory.of("train")
    assert first["loss"] == pytest.approx(4.0)
    assert math.isnan(float(second["loss"])) and second["next_sentence_loss"] == pytest.approx(1.0)
    assert math.isnan(float(memory.shown[1]["loss"]))


@pytest.mark.parametrize("scaler", [LossScaler, lambda: DynamicLossScaler("cpu")], ids=["plain", "scaled"])
def test_a_step_that_asks_for_nothing_moves_no_weight(scaler: Callable[[], LossScaler]) -> None:
    memory, model, done = trained([[batch()], [batch(2)]], lr=0.5, log_every=1, scaler=scaler())
    assert done.step == 2 and done.skipped_steps == 0
    first, second = memory.of("train")
    assert math.isnan(float(first["loss"])) and first["grad_norm"] == 0.0 and second["loss"] == pytest.approx(4.0)
    assert model.word.item() == pytest.approx(3.5) and model.pair.item() == 1.0


def test_rows_that_ask_for_nothing_change_no_step() -> None:
    """Micro-batches without targets beside others with targets: the mean is over the targets."""
    losses = [
        trained([micro], lr=0.5)[1].pair.item()
        for micro in ([batch(0, 2)], [batch(0, 2), batch()], [batch(), batch(0, 1), batch(0, 1)])
    ]
    assert losses == pytest.approx([0.5, 0.5, 0.5])


def test_a_validation_without_word_targets_is_told_by_what_it_asks() -> None:
    memory, _, done = trained([[batch(0, 2)]], [batch(0, 2)])
    assert [line["loss"] for line in memory.of("valid")] == pytest.approx([1.0, 1.0]) and done.valid_loss == 1.0
    assert evaluate(Two(), [batch(0, 2)], CPU, FP32, loss) == {"next_sentence": pytest.approx(1.0)}


def test_a_validation_that_asks_for_nothing_ends_no_run() -> None:
    memory, _, done = trained([[batch(2)]] * 5, [batch()], patience=1)
    assert done.step == 5 and done.best_step == -1 and math.isnan(done.valid_loss)
    assert all(math.isnan(float(line["loss"])) for line in memory.of("valid"))
    assert "the validation rows have no targets" in memory.events[0]


def test_patience_waits_for_nothing_where_nothing_is_validated() -> None:
    assert trained([[batch(2)]] * 5, patience=1)[2].step == 5


def test_a_part_of_a_batch_may_ask_for_nothing() -> None:
    whole = batch(0, 1)
    assert replace(whole.part(1, 2), labels={}).target_ids.equal(NOTHING)
    model, memory = Two(), Memory()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr_scale": 1.0}], lr=0.0)
    options = TrainOptions(steps=1, batch_size=2, lr=0.5, schedule="constant", warmup=0.0)
    trainer = Trainer(
        model, optimizer, options, 0, CPU, FP32, memory, lambda step: [], lambda progress: None, NoRows(), loss=loss
    )
    trainer.train([(0, [whole])], Progress(parts=2))
    assert model.pair.item() == pytest.approx(0.5)
