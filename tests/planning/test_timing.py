"""Timed steps: what is tried, how the whole is reckoned from it, and that the run's own loop is what is timed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from blankfill.config.recipe import Recipe, load_recipe
from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.planning import estimate, timing
from blankfill.planning.timing import Timing, Trial, micro_batch_seconds, run_seconds, time_phase, trial_sizes
from blankfill.training.options import TrainOptions
from blankfill.types import Batch, Document, Vocabulary
from conftest import ORDINARY

PLENTY = 10**13
COMPUTING = estimate.Computing()


def trial(layers: int, rows: int, seconds: float) -> Trial:
    return Trial(layers, rows, 3, seconds, 0.01)


def seconds_of(layers: int, rows: int) -> float:
    """A made-up machine: 0.5 s for the word table, 0.1 s a row, 0.02 s more for each layer of it."""
    return 0.5 + rows * (0.1 + 0.02 * layers)


@pytest.mark.parametrize("sizes", [[(12, 16)], [(12, 2), (12, 8)], [(2, 1), (2, 4), (4, 1)], [(6, 1), (6, 2), (12, 1)]])
def test_the_whole_is_reckoned_exactly_from_a_linear_machine(sizes: list[tuple[int, int]]) -> None:
    trials = [trial(layers, rows, seconds_of(layers, rows)) for layers, rows in sizes]
    assert micro_batch_seconds(trials, 12, 16) == pytest.approx(seconds_of(12, 16))


def test_noise_never_makes_a_larger_batch_cheaper() -> None:
    assert micro_batch_seconds([trial(2, 1, 1.0), trial(2, 4, 0.9), trial(4, 1, 0.8)], 12, 16) == 1.0


@pytest.mark.parametrize("work", [0.0, 1e12, 1e13, 1e14, 1e16])
@pytest.mark.parametrize("free", [10**10, 4 * 10**9])
def test_trials_fit_and_suffice(work: float, free: int) -> None:
    recipe = load_recipe("bert-base", {"train.phase1_length": 0})
    config, options = recipe.model_config(30522), recipe.train
    part = estimate.PlannedPhase(estimate.RowShape(512, 500, 77, "rule"), 10**6, 16)
    sizes = trial_sizes(config, part, options, COMPUTING, free, work)
    assert sizes
    for layers, rows in sizes:
        tried = dataclasses.replace(config, num_layers=layers)
        assert estimate.memory(tried, part.shape, options, COMPUTING, rows, False).peak <= free
    # a linear machine's whole follows from them
    trials = [trial(layers, rows, seconds_of(layers, rows)) for layers, rows in sizes]
    assert micro_batch_seconds(trials, 12, 16) == pytest.approx(seconds_of(12, 16))


def test_more_time_means_larger_trials() -> None:
    recipe = load_recipe("gpt2")
    config = recipe.model_config(50257)
    part = estimate.PlannedPhase(estimate.RowShape(1024, 1024, 1024, "causal"), 10**6, 12)
    tried = [trial_sizes(config, part, recipe.train, COMPUTING, PLENTY, work) for work in (0, 1e13, 1e14, 1e18)]
    assert tried[0] == [(1, 1), (1, 2), (2, 1)]
    assert tried[-1] == [(12, 12)]
    largest = [max(layers * rows for layers, rows in sizes) for sizes in tried]
    assert largest == sorted(largest)


def test_nothing_is_tried_where_nothing_fits() -> None:
    recipe = load_recipe("gpt2")
    part = estimate.PlannedPhase(estimate.RowShape(1024, 1024, 1024, "causal"), 10**6, 12)
    assert trial_sizes(recipe.model_config(50257), part, recipe.train, COMPUTING, 10**8, 1e18) == []


def test_a_run_by_hand() -> None:
    """Two phases of 100 rows in tens at 2 s and 60 rows in threes at 1 s, 8 steps at 0.5 s; 3 validations of 6 rows."""
    shape = estimate.RowShape(8, 8, 2, "rule")
    parts = [estimate.PlannedPhase(shape, 100, 10), estimate.PlannedPhase(shape, 60, 3)]
    timed = [Timing(2.0, 9.0, 1.0, ()), Timing(1.0, 0.5, 1.0, ())]
    options = TrainOptions(steps=8, eval_every=4)
    assert run_seconds(timed, parts, options, 6) == (20 + 20 + 4, 3 * 2 * 1.0 / 3)
    again = dataclasses.replace(options, gradient_checkpointing=True)
    assert run_seconds(timed, parts, again, 6)[1] == 3 * 2 * 1.0 / 4


def nano(name: str) -> tuple[Recipe, TransformerConfig, estimate.PlannedPhase]:
    recipe = load_recipe(
        name, {"model.hidden_size": 32, "model.num_layers": 2, "objective.length": 24, "train.batch_size": 4}
    )
    config = recipe.model_config(64)
    return recipe, config, estimate.PlannedPhase(estimate.RowShape(24, 24, 24, "rule"), 1000, 4)


def batch_of(recipe: Recipe, vocabulary: Vocabulary, rows: int) -> Batch:
    ids = (ORDINARY + np.arange(22)).astype(np.int32)
    document = Document(ids, np.array([0, 9, 22], np.int32), label=0)
    rng = np.random.default_rng(0)
    examples = [[recipe.objective.example(document, vocabulary, rng)] for _ in range(rows)]
    return collate(examples, vocabulary["pad"])


@pytest.mark.parametrize("name", ["gpt-nano", "bert-nano"])
def test_the_loop_is_timed(name: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, config, part = nano(name)
    seen: list[int] = []
    true_loss = timing.Trainer._accumulate

    def counting(self: timing.Trainer, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        seen.append(len(micro_batches[0].input_ids))
        return true_loss(self, step, micro_batches)

    monkeypatch.setattr(timing.Trainer, "_accumulate", counting)
    result = time_phase(
        config, part, recipe.train, COMPUTING, torch.device("cpu"), torch.float32, PLENTY,
        lambda rows: batch_of(recipe, vocabulary, rows), 0.5,
    )  # fmt: skip
    assert result is not None
    (only,) = result.trials
    assert (only.layers, only.rows) == (2, 4)
    assert seen == [4] * (only.steps + 1)  # the first warms up
    assert result.micro_batch_seconds == only.seconds > 0
    assert result.update_seconds == only.update > 0
    assert result.matmul_rate > 0


def test_copies_are_made_when_time_is_short(vocabulary: Vocabulary) -> None:
    recipe, config, part = nano("gpt-nano")
    config = dataclasses.replace(config, num_layers=8)
    result = time_phase(
        config, part, recipe.train, COMPUTING, torch.device("cpu"), torch.float32, PLENTY,
        lambda rows: batch_of(recipe, vocabulary, rows), 1e-6,
    )  # fmt: skip
    assert result is not None
    assert [(trial.layers, trial.rows) for trial in result.trials] == [(1, 1), (1, 2), (2, 1)]
    assert all(trial.steps == 1 for trial in result.trials)
    last = result.trials[-1]
    shares = [sum(estimate.parameters(dataclasses.replace(config, num_layers=n)).values()) for n in (8, 2)]
    assert result.update_seconds == pytest.approx(last.update * shares[0] / shares[1])


def test_nothing_fits(vocabulary: Vocabulary) -> None:
    recipe, config, part = nano("gpt-nano")
    device = torch.device("cpu")
    assert time_phase(config, part, recipe.train, COMPUTING, device, torch.float32, 1, lambda rows: None, 0.1) is None
