"""What a run folder says of its run, worked out by hand, and that whatever is missing or broken is simply not there."""

import json
from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.report.snapshot import Best, Sample, read_snapshot


def line(step: int, split: str = "train", **values: object) -> dict[str, object]:
    return {"step": step, "split": split, "loss": 5.0, "tokens": step * 100, "tokens_per_s": 50.0, **values}


def write(run: Path, name: str, *lines: object) -> None:
    (run / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def recipe(run: Path, text: str) -> None:
    (run / "recipe.yaml").write_text(text, encoding="utf-8")


def test_an_empty_folder_is_a_run_of_which_nothing_is_known(tmp_path: Path) -> None:
    run = read_snapshot(tmp_path)
    assert run.name == tmp_path.name
    assert (run.step, run.total, run.tokens, run.best, run.baseline) == (None,) * 5
    assert (run.seconds, run.speed, run.seconds_left, run.corpus, run.finished) == (None, None, None, None, False)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder; name the folder of a run"):
        read_snapshot(tmp_path / "absent")


def test_progress_time_and_time_left(tmp_path: Path) -> None:
    recipe(tmp_path, "name: glm-nano\ntrain:\n  steps: 100\n")
    lines = [line(10), line(20, tokens_per_s=100.0), line(30, tokens_per_s=25.0)]
    write(tmp_path, "metrics.jsonl", line(0, "valid"), *lines)
    run = read_snapshot(tmp_path)
    assert (run.name, run.step, run.total, run.tokens) == ("glm-nano", 30, 100, 3000)
    assert run.seconds == 1000 / 50 + 1000 / 100 + 1000 / 25
    assert run.speed == pytest.approx(3 / (1 / 50 + 1 / 100 + 1 / 25))
    assert run.seconds_left == pytest.approx(70 / 30 * 70)
    assert not run.finished


def test_the_time_left_is_told_from_the_last_twenty_lines(tmp_path: Path) -> None:
    recipe(tmp_path, "train:\n  steps: 1000\n")
    slow = [line(k, tokens_per_s=1.0) for k in range(1, 50)]
    fast = [line(k, tokens_per_s=200.0) for k in range(50, 70)]
    write(tmp_path, "metrics.jsonl", *slow, *fast)
    assert read_snapshot(tmp_path).seconds_left == pytest.approx((1000 - 69) * 0.5)


def test_a_run_at_its_last_step_is_finished(tmp_path: Path) -> None:
    recipe(tmp_path, "train:\n  steps: 30\n")
    write(tmp_path, "metrics.jsonl", line(30))
    run = read_snapshot(tmp_path)
    assert run.finished
    assert run.seconds_left is None


def test_an_early_stop_finishes_a_run_until_it_goes_on(tmp_path: Path) -> None:
    recipe(tmp_path, "train:\n  steps: 90\n")
    write(tmp_path, "metrics.jsonl", line(30))
    stop = {"step": 30, "kind": "early stop", "text": "no better validation", "time": "2026-01-01T00:00:00+0000"}
    write(tmp_path, "events.jsonl", stop)
    assert read_snapshot(tmp_path).finished
    write(tmp_path, "metrics.jsonl", line(30), line(40))
    assert not read_snapshot(tmp_path).finished
    write(tmp_path, "metrics.jsonl", line(30))
    write(tmp_path, "events.jsonl", stop, {"step": 30, "kind": "resumed", "text": ""})
    assert not read_snapshot(tmp_path).finished


def test_the_best_validation(tmp_path: Path) -> None:
    losses = {0: 9.0, 10: 4.0, 20: float("nan"), 30: 4.5}
    write(tmp_path, "metrics.jsonl", *(line(step, "valid", loss=loss) for step, loss in losses.items()))
    run = read_snapshot(tmp_path)
    assert run.best == Best(row=1, step=10, tokens=1000.0, loss=4.0)
    assert run.last_loss("valid") == (30, 4.5)
    assert run.last_loss("train") is None


@pytest.mark.parametrize(("steps", "best"), [((0, 10, 20), 10), ((0, 10, 20, 30, 40), 40)])
def test_losses_on_longer_rows_are_not_held_against_those_on_short_ones(
    tmp_path: Path, steps: tuple[int, ...], best: int
) -> None:
    recipe(tmp_path, "train:\n  steps: 50\n  phase1_length: 8\n  phase1_steps: 0.5\n")
    losses = {0: 9.0, 10: 3.0, 20: 3.5, 30: 6.0, 40: 5.5}
    write(tmp_path, "metrics.jsonl", *(line(step, "valid", loss=losses[step]) for step in steps))
    result = read_snapshot(tmp_path).best
    assert result is not None
    assert result.step == best


def test_tokens_of_a_step_lie_between_those_measured(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", line(0, "valid"), line(10), line(20, tokens=5000))
    assert read_snapshot(tmp_path).tokens_at([0, 5, 15, 99]).tolist() == [0.0, 500.0, 3000.0, 5000.0]


def test_samples_are_gathered_by_text_and_a_step_sampled_again_counts_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "samples.jsonl",
        {"step": 0, "text": "a [MASK].", "answer": "cat", "fills": ["x", "y"]},
        {"step": 0, "prompt": "Once", "continuation": " upon"},
        {"step": 5, "text": "a [MASK].", "answer": "cat", "fills": ["dog"]},
        {"step": 5, "text": "a [MASK].", "answer": "cat", "fills": ["cat"]},
        {"step": 5, "text": "own [MASK]", "answer": "", "fills": ["words"]},
        {"step": None, "text": "a [MASK].", "answer": "cat", "fills": ["never"]},
        {"step": 7, "fills": ["nowhere"]},
        {"step": 7, "text": "a [MASK].", "answer": "cat", "fills": None},
    )
    assert read_snapshot(tmp_path).samples == [
        Sample("a [MASK].", "cat", [(0, ["x", "y"]), (5, ["cat"])]),
        Sample("Once", None, [(0, [" upon"])]),
        Sample("own [MASK]", "", [(5, ["words"])]),
    ]


@pytest.mark.parametrize(
    "text",
    ["name: [1", "- 1\n", "7", "a: " + "9" * 5000, "a: 1\na: 2\n", "x: !!python/object:os.system 1", "\0"],
    ids=lambda text: text[:12],
)
def test_a_recipe_that_cannot_be_read_is_kept_as_text(tmp_path: Path, text: str) -> None:
    recipe(tmp_path, text)
    run = read_snapshot(tmp_path)
    assert run.recipe == {}
    assert run.recipe_text == text
    assert run.total is None


@pytest.mark.parametrize("text", ["", "[1]", '{"baseline": 3', "null"])
def test_facts_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert read_snapshot(tmp_path).facts == {}


@pytest.mark.parametrize(("value", "baseline"), [("6.5", 6.5), ("NaN", None), ("null", None), ('"6.5"', None)])
def test_the_baseline_is_a_number_or_none(tmp_path: Path, value: str, baseline: float | None) -> None:
    (tmp_path / "run.json").write_text(f'{{"baseline": {value}}}', encoding="utf-8")
    assert read_snapshot(tmp_path).baseline == baseline


@pytest.mark.parametrize("path", ["../nowhere", "", "x" * 5000, "\0"])
def test_a_corpus_that_is_gone_is_not_missed(tmp_path: Path, path: str) -> None:
    (tmp_path / "corpus_path.txt").write_text(path, encoding="utf-8")
    assert read_snapshot(tmp_path).corpus is None
