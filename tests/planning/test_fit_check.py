"""The verdict: what it finds, and that what it advises really fits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from blankfill.config.recipe import load_recipe
from blankfill.errors import UserError, in_keys
from blankfill.model.config import TransformerConfig
from blankfill.planning import estimate
from blankfill.planning.fit_check import AvailableSpace, available_space, fit_problems, largest_micro, memory_remedy
from blankfill.training.options import TrainOptions

PLENTY = 10**13
SHAPE = estimate.RowShape(512, 500.0, 77.0, "rule", 1.0, 30522, (512, 2))
COMPUTING = estimate.Computing()


def bert() -> tuple[TransformerConfig, TrainOptions, list[estimate.PlannedPhase]]:
    recipe = load_recipe("bert-large", {"train.phase1_length": 0})
    return recipe.model_config(30522), recipe.train, estimate.planned_phases(recipe.train, [SHAPE], [512])


def judged(memory: int = PLENTY, disk: int = PLENTY, main: int = PLENTY, **changed: object) -> list[str]:
    config, options, parts = bert()
    options = dataclasses.replace(options, **changed)
    parts = estimate.planned_phases(options, [part.shape for part in parts], [512])
    return fit_problems(config, parts, options, COMPUTING, AvailableSpace(memory, main, disk), 30522)


def test_what_fits_is_not_complained_of() -> None:
    assert judged() == []


@pytest.mark.parametrize("free", [20e9, 25e9])
def test_the_advised_micro_batch_is_the_largest_that_fits(free: float) -> None:
    config, options, _ = bert()
    (sentence,) = judged(memory=int(free))
    assert "with 8 rows of 512 tokens at a time" in sentence
    plain, again = (int(number) for number in re.findall(r"train\.micro_batch=(\d+)", sentence))

    def peak(rows: int, checkpointing: bool) -> int:
        return estimate.memory(config, SHAPE, options, COMPUTING, rows, checkpointing).peak

    assert peak(plain, False) <= free < peak(plain + 1, False)
    assert peak(again, True) <= free < peak(again + 1, True)
    assert "a third more work" in sentence


def test_checkpointing_is_not_advised_twice() -> None:
    (sentence,) = judged(memory=int(15e9), gradient_checkpointing=True, micro_batch=256)
    assert "train.micro_batch" in sentence
    assert "gradient_checkpointing" not in sentence


def test_advice_when_not_one_row_fits() -> None:
    """Every way out that is named, fits; and the length that is named is the longest that does."""
    config, options, _ = bert()
    big = dataclasses.replace(SHAPE, columns=16384, targets=2458.0)
    (part,) = estimate.planned_phases(options, [big], [16384])
    free = int(11e9)
    assert largest_micro(config, big, options, COMPUTING, free, True) == 0
    sentence = memory_remedy(config, [part], options, COMPUTING, free)
    match = re.search(r"rows of ([\d,]+) tokens", sentence)
    assert match
    columns = int(match[1].replace(",", ""))

    def fits(columns: int) -> bool:
        shape = dataclasses.replace(big, columns=columns, targets=big.targets * columns / big.columns)
        return estimate.memory(config, shape, options, COMPUTING, 1, True).peak <= free

    assert fits(columns)
    assert not fits(columns + 8)
    layers = re.search(r"model\.num_layers=(\d+)", in_keys(sentence))
    if layers:
        fewer = dataclasses.replace(config, num_layers=int(layers[1]))
        assert estimate.memory(fewer, big, options, COMPUTING, 1, True).peak <= free


def test_a_lean_optimiser_is_advised_where_it_helps() -> None:
    config, options, _ = bert()
    (sentence,) = judged(memory=int(6e9))
    assert "train.optimizer=adafactor with train.gradient_checkpointing=True and train.micro_batch=1" in sentence
    lean = dataclasses.replace(options, optimizer="adafactor")
    assert estimate.memory(config, SHAPE, lean, COMPUTING, 1, True).peak <= 6e9
    assert "model.num_layers" in sentence


def test_nothing_helps() -> None:
    (sentence,) = judged(memory=10**8)
    assert sentence.endswith("choose a smaller recipe or a smaller vocabulary")


def test_short_rows_are_counted_in_rows_of_the_full_length() -> None:
    """The phase of short rows does not fit; micro_batch, which is advised, counts rows of the full length."""
    config, options, _ = bert()
    short = dataclasses.replace(SHAPE, columns=128, targets=19.0)
    options = dataclasses.replace(options, phase1_length=128, steps=10)
    parts = estimate.planned_phases(options, [short, dataclasses.replace(SHAPE, columns=40)], [128, 512])
    assert parts[0].micro_batch == 4 * parts[1].micro_batch
    free = estimate.memory(config, short, options, COMPUTING, 20, False).peak
    (sentence,) = fit_problems(config, parts, options, COMPUTING, AvailableSpace(free, PLENTY, PLENTY), 30522)
    assert "train.micro_batch=5 fits and computes the same but for dropout" in sentence


def test_disk() -> None:
    config, options, _ = bert()
    size = estimate.checkpoint_bytes(config, options)
    (sentence,) = judged(disk=4 * size - 1)
    assert "train.save_total_limit=1 needs" in sentence
    assert f"free {1} B more" in sentence
    (sentence,) = judged(disk=2 * size)
    assert "train.save_total_limit" not in sentence
    assert judged(disk=4 * size) == []


def test_both_problems_are_told_at_once() -> None:
    assert len(judged(memory=int(2e10), disk=10**9)) == 2


def test_the_copy_of_a_checkpoint_must_fit_beside_a_gpu() -> None:
    config, options, parts = bert()
    on_gpu = estimate.Computing(2, "sdpa", "cuda")
    (sentence,) = fit_problems(config, parts, options, on_gpu, AvailableSpace(PLENTY, 10**9, PLENTY), 30522)
    assert "copied to main memory" in sentence
    assert fit_problems(config, parts, options, on_gpu, AvailableSpace(PLENTY, PLENTY, PLENTY), 30522) == []


def test_tables_that_are_too_small() -> None:
    config, options, _ = bert()
    space = AvailableSpace(PLENTY, PLENTY, PLENTY)
    wrong = dataclasses.replace(SHAPE, ids=40000, positions=(600, 2))
    problems = fit_problems(config, estimate.planned_phases(options, [wrong], [512]), options, COMPUTING, space, 31000)
    assert [re.sub(r"[;:].*", "", sentence) for sentence in problems] == [
        "the tokenizer has 31,000 tokens and the model's token embeddings only 30,522 rows",
        "the token files hold the id 39,999 and the tokenizer has only 31,000 tokens",
        "the rows name position 599, and position table 1 of the model has only 512 rows",
    ]


def test_space_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    space = available_space("cpu", tmp_path / "not" / "yet" / "there")
    assert space.disk > 0
    assert space.memory == space.main_memory > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch finds no CUDA GPU here; use train\.device=cpu or auto"):
        available_space("cuda:1", tmp_path)
