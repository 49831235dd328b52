"""Whether a run has learnt its task, as the terminal, results.json and the page say it; and the test set apart."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError, in_flags
from blankfill.finetuning.advice import History, advice, conflicting, read_history
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.data import read_splits, read_task_data
from blankfill.finetuning.grid import combinations, run_grid
from blankfill.finetuning.verdict import Comparison, compare, same_for_all, warnings
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.adapters import ADAPTERS
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import Answer, ChoiceItem, GenerationItem, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.metrics.intervals import Scores
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import PREDICTIONS, RESAMPLES, RESULTS, TEST_PREDICTIONS
from small_tasks import QUICK, classes, model_folder, run, sentences, write_lines


def results_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return values


def command(data: Path, model: Path, out: Path, *more: str) -> list[str]:
    return [
        "finetune", "--task", "sst2", "--data", str(data), "--from", str(model), "--out", str(out), "--batch-size", "8",
        "--max-length", "40", "--threads", "1", "--device", "cpu", "--precision", "fp32", *more,
    ]  # fmt: skip


def test_a_run_that_cannot_learn_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a rate of 1e-9 the head stays as it was drawn, and its predictions are no better than one class for all."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    assert main(command(data, model, out, "--lr", "1e-9", "--epochs", "1")) == 0
    text = capsys.readouterr().out
    results = results_of(out)
    assert results["baseline"]["better"] is False and results["baseline"]["interval"][0] <= 0
    assert "warning: the model is no" in text and "(the most frequent class)" in text and "on 40 examples" in text
    assert "try a higher --lr: at 1e-09 the weights hardly change" in text
    assert "try more --epochs: the run has 12 steps on 96 examples, and --epochs 25 makes about 300" in text
    assert results["warnings"] and results["advice"][0].startswith("a higher lr: at 1e-09")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Not learnt" in page and "the model is no" in page.lower() and "a higher lr" in page


def test_a_run_that_has_learnt_shows_intervals_and_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    assert main(command(data, model, out, "--lr", "5e-3", "--epochs", "8")) == 0
    text = capsys.readouterr().out
    results = results_of(out)
    low, high = results["intervals"]["accuracy"]
    assert low <= results["score"] <= high and results["baseline"]["better"] and results["warnings"] == []
    assert f"accuracy {results['score']:.4f} [{low:.4f}, {high:.4f}] (40 examples; in brackets the 95%" in text
    assert results["evaluations"] == 16 and "the dev set chose this checkpoint among 16 evaluations" in text
    assert "--test-split keeps a set apart" in text and "warning" not in text
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Not learnt" not in page and f"{low:.4f} to {high:.4f}" in page and "slightly optimistic" in page
    drawn = json.loads((out / RESAMPLES).read_text(encoding="utf-8"))["dev"]
    assert len(drawn["score"]) == len(drawn["difference"]) == 1000
    gain = results["score"] - results["baseline"]["score"]
    assert np.mean(drawn["difference"]) == pytest.approx(gain, abs=0.02)


def test_a_test_set_is_held_out_and_scored_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    more = ["--lr", "5e-3", "--epochs", "6", "--test-split", "0.25"]
    assert main(command(data, model, out, *more)) == 0
    shown = capsys.readouterr()
    results = results_of(out)
    assert results["items"] == {"train": 72, "dev": 40, "test": 24} and "24 to test at the end" in shown.err
    test = results["test"]
    assert test["split"] == "0.25" and test["items"] == 24 and test["baseline"]["better"]
    assert f"test set, scored once at the end: accuracy {test['score']:.4f} [" in shown.out
    assert "keeps a set apart" not in shown.out
    lines = (out / TEST_PREDICTIONS).read_text(encoding="utf-8").splitlines()
    train = {item.id: item for item in task_named("sst2").read(data, "train").texts()}
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 24
    right = sum(row["label"] == str(train[row["id"]].label) for row in rows)
    assert right / 24 == pytest.approx(test["score"])
    assert "Test set, 24 examples" in (out / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    # the best checkpoint made both: its predictions from the folder are those of the run
    from blankfill.finetuning.predictor import Predictor

    dev = task_named("sst2").read(data, "dev").items
    of_run = [json.loads(line)["label"] for line in (out / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    predictor = Predictor(out, "cpu", 1)
    assert [prediction.record["label"] for prediction in predictor.predict(dev)] == of_run
    again = predictor.predict([train[row["id"]] for row in rows])
    assert [prediction.record["label"] for prediction in again] == [row["label"] for row in rows]


def test_the_test_rows_are_the_same_for_all_seeds_and_settings(tmp_path: Path) -> None:
    data = classes(tmp_path / "data")
    tests = []
    for changes in ({}, {"seed": 3}, {"max_train_samples": 20}, {"validation_split": 0.3}):
        options = dataclasses.replace(QUICK, test_split="0.25", **changes)
        for folder in (data, next(data.glob("train.*"))):
            splits = read_splits(task_named("sst2"), folder, options)
            assert splits.test is not None
            ids = [{item.id for item in part.items} for part in (splits.train, splits.test)]
            assert not ids[0] & ids[1]
            tests.append(ids[1])
    assert all(ids == tests[0] for ids in tests) and len(tests[0]) == 24


def test_a_named_split_is_the_test_set(tmp_path: Path) -> None:
    for name, count, seed in (("train", 30, 1), ("dev", 12, 2), ("test", 14, 3)):
        rows = [{"text": text, "label": label} for text, label in sentences(count, seed)]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    task = task_named("classify")
    splits = read_splits(task, tmp_path, dataclasses.replace(QUICK, test_split="test"))
    assert splits.test is not None and [len(part) for part in splits if part is not None] == [30, 12, 14]
    config = FinetuneConfig("classify", tmp_path, tmp_path, dataclasses.replace(QUICK, test_split="test"))
    assert read_task_data(config).note(config, {}, "")["data"]["test"]["items"] == 14


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "12 of 12 items of that split of classify have no label"),
        ("dev", "the run learns from dev, or chooses by it; give test or a fraction"),
        ("tset", "no such split of classify; give test or a fraction of the training examples, such as 0.1"),
    ],
)
def test_a_split_that_cannot_be_the_test_set(split: str, message: str, tmp_path: Path) -> None:
    for name, count, seed in (("train", 30, 1), ("dev", 12, 2)):
        rows = [{"text": text, "label": label} for text, label in sentences(count, seed)]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    write_lines(tmp_path / "test.jsonl", [{"text": text} for text, _ in sentences(12, 3)])
    options = dataclasses.replace(QUICK, test_split=split)
    with pytest.raises(UserError, match=message):
        read_splits(task_named("classify"), tmp_path, options)
    with pytest.raises(UserError, match="is one file, without splits"):
        read_splits(task_named("classify"), tmp_path / "train.jsonl", options)


def test_impossible_test_sets_are_refused() -> None:
    for given in ("0", "1.5", "-0.1", "nan", "inf"):
        assert ["must be a fraction" in problem for problem in FinetuneOptions(test_split=given).problems()] == [True]
    assert FinetuneOptions(test_split="0.2").problems() == FinetuneOptions(test_split="test").problems() == []
    with pytest.raises(ConfigError, match="have the same test set"):
        combinations(QUICK, ["test-split=0.1,0.2"], 1)


def test_a_grid_compares_means_on_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The interval of a mean is that of its runs' mean in each resample; the test set scores the best setting."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "grid"
    options = dataclasses.replace(QUICK, epochs=4, test_split="0.25")
    config = FinetuneConfig("sst2", data, model, options)
    lines = list(run_grid(config, combinations(options, ["lr=1e-9,5e-3"], 2), out))
    results = results_of(out)
    best = results["best"]
    assert best["setting"] == "lr-0.005" and best["better"] and best["test"]["better"] and best["runs"] == 2
    drawn = [
        json.loads((out / f"lr-0.005_seed-{seed}" / RESAMPLES).read_text(encoding="utf-8"))["test"]["score"]
        for seed in (0, 1)
    ]
    assert best["test"]["interval"] == pytest.approx(np.quantile(np.mean(drawn, axis=0), [0.025, 0.975]).tolist())
    worst = next(row for row in results["settings"] if row is not best and row["setting"] == "lr-1e-09")
    assert not worst["better"]
    assert lines[0].startswith("on the 40 examples of the dev set")
    assert any(line.startswith("test set (24 examples), which chose nothing: accuracy") for line in lines)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "95% interval" in page and f"{best['interval'][0]:.4f} to {best['interval'][1]:.4f}" in page
    assert "which chose nothing" in page
    capsys.readouterr()
    (out / "lr-0.005_seed-0" / RESAMPLES).unlink()  # as of a run of an older version: no interval, no failure
    list(run_grid(config, combinations(options, ["lr=1e-9,5e-3"], 2), out))
    assert "interval" not in results_of(out)["best"]


def test_a_grid_without_success_says_why(tmp_path: Path) -> None:
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "grid"
    options = dataclasses.replace(QUICK, epochs=1, lr=1e-9)
    lines = list(run_grid(FinetuneConfig("sst2", data, model, options), combinations(options, [], 2), out))
    assert any("the dev set chose the checkpoint of each run" in line for line in lines)
    assert any(line.startswith("warning: the best setting is not clearly better") for line in lines)
    assert any(line.startswith("warning: seed-1: the model is no") for line in lines)
    assert sum(line.startswith("try a higher lr") for line in lines) == 1


def scores(values: float, drawn: list[float] | None = None, items: int = 100) -> Scores:
    return Scores({"f1": values}, items, {} if drawn is None else {"f1": np.array(drawn)})


def test_better_means_that_chance_does_not_explain_it() -> None:
    plain = scores(0.5, [0.5] * 100)
    clear = compare(scores(0.6, [0.55] * 50 + [0.65] * 50), plain, "f1")
    assert clear.better and clear.between == pytest.approx((0.05, 0.15)) and clear.difference == pytest.approx(0.1)
    assert not compare(scores(0.6, [0.45] * 20 + [0.65] * 80), plain, "f1").better
    assert not compare(scores(0.6, [0.6] * 100, items=5), plain, "f1").better  # five rows show nothing
    assert compare(scores(0.6), scores(0.5), "f1").better and not compare(scores(0.5), scores(0.5), "f1").better
    assert clear.sentence() == "+0.1000 [+0.0500, +0.1500]" and clear.values()["better"]
    unclear = compare(scores(0.6, [0.45] * 20 + [0.65] * 80), plain, "f1")
    (sentence,) = warnings(unclear, scores(0.6, [0.6] * 2), plain, "f1", "tag", "", "dev")
    assert "not clearly better than the baseline (the usual tag of each word): f1 0.6000" in sentence
    assert warnings(clear, scores(0.6), plain, "f1", "tag", "", "dev") == []


@pytest.mark.parametrize(
    ("task", "items", "records", "expected"),
    [
        ("sst2", [TextItem(str(k), "a", None, k % 2) for k in range(8)], {"label": "1"}, "the label 1"),
        ("sst2", [TextItem(str(k), "a", None, 1) for k in range(8)], {"label": "1"}, ""),
        ("sst2", [TextItem(str(k), "a", None, k % 2) for k in range(4)], {"label": "1"}, ""),
        ("copa", [ChoiceItem(str(k), "a", ("x", "y"), k % 2) for k in range(8)], {"label": "0"}, "choice 0 (counted"),
        ("regress", [TextItem(str(k), "a", None, float(k)) for k in range(8)], {"score": 3.5},
         "nearly the same number (3.500)"),
        ("conll", [TaggedItem(str(k), ("a", "b"), ("O", ("B-X", "O")[k % 2])) for k in range(8)], {"tags": ["O", "O"]},
         "the tag O to every word"),
        ("squad2", [QuestionItem(str(k), "?", "a b", (Answer("ab"[k % 2], None),)) for k in range(8)], {"answer": ""},
         "no answer"),
        ("seq2seq", [GenerationItem(str(k), "a", (f"t{k}",)) for k in range(8)], {"text": "x" * 50}, "the text “xxx"),
        ("multilabel", [TextItem(str(k), "a", None, (k % 2,)) for k in range(8)], {"labels": []}, "no label"),
        ("multilabel", [TextItem(str(k), "a", None, (k % 2,)) for k in range(8)], {"labels": ["1"]}, "the labels 1"),
    ],
)  # fmt: skip
def test_one_answer_for_all(task: str, items: list[Any], records: dict[str, Any], expected: str) -> None:
    of_task = task_named(task)
    adapter = ADAPTERS[of_task.kind](of_task, of_task.labels or ("0", "1"), FinetuneOptions())
    predictions = [adapter.parse(records)] * len(items)
    same = same_for_all(adapter, items, predictions)
    assert same.startswith(expected) and bool(same) == bool(expected)


def test_different_answers_are_not_one_for_all() -> None:
    task = task_named("sst2")
    adapter = ADAPTERS["classify"](task, task.labels, FinetuneOptions())
    items = [TextItem(str(k), "a", None, k % 2) for k in range(8)]
    assert same_for_all(adapter, items, [Prediction(k // 7, {"label": str(k // 7)}) for k in range(8)]) == ""


UNCLEAR = Comparison(0.02, (-0.03, 0.07), 120)
WORSE = Comparison(-0.02, (-0.05, 0.01), 120)
FLAT = History((0.7, 0.6), (0.5, 0.5))
MANY = [TextItem(str(k), f"text {k}", None, k % 2) for k in range(400)]


@pytest.mark.parametrize(
    ("options", "train", "steps", "history", "comparison", "expected"),
    [
        ({"freeze": -1}, MANY, 500, FLAT, WORSE, ["training the encoder too: with --freeze -1"]),
        ({"freeze": 3}, MANY, 500, FLAT, WORSE, ["fewer frozen layers: --freeze 3"]),
        ({"features": "last"}, MANY, 500, History((0.7, 0.6), (0.5,)), WORSE, ["training the encoder too: with"]),
        ({"from_scratch": True}, MANY, 500, History((0.7, 0.6), (0.5,)), WORSE, ["the pretrained weights: leave out"]),
        ({}, MANY, 500, History((0.7, 0.6), (0.4, 0.5, 0.52)), WORSE, ["more --epochs: the score still rose"]),
        ({}, MANY, 500, History((0.7, 0.69), (0.5, 0.5)), WORSE,
         ["another learning rate and other seeds (--grid lr=1e-05,9e-05 --num-seeds 3): the training loss went"]),
        ({}, MANY, 500, History((0.7, 0.1), (0.5, 0.5)), WORSE, ["more training examples, or fewer --epochs"]),
        ({}, MANY[:100], 500, FLAT, WORSE, ["more labelled examples: there are 100"]),
        ({}, MANY, 500, FLAT, UNCLEAR, ["a larger dev set: it has 120 examples, where a diff"]),
        ({}, [*MANY, *(TextItem("x", "text 0", None, 1),) * 2], 500, History(None, ()), WORSE,
         ["a look at the labels: 1 training text occurs"]),
        ({}, [TextItem(str(k), f"t{k}", None, int(k > 30)) for k in range(400)], 500, History(None, ()), WORSE,
         ["--class-weights balanced: 92% of the training examples"]),
        ({}, MANY, 500, FLAT, WORSE, ["another learning rate and other seeds"]),
    ],
)  # fmt: skip
def test_advice_is_what_the_run_shows(
    options: dict[str, Any], train: list[Any], steps: int, history: History, comparison: Comparison, expected: list[str]
) -> None:
    given = advice(FinetuneOptions(**options), train, steps, history, comparison, "dev")
    assert len(given) == len(expected), given
    for sentence, begin in zip(given, expected, strict=True):
        assert in_flags(sentence).startswith(begin), in_flags(sentence)


def test_advice_does_not_contradict_itself() -> None:
    """Few steps: more epochs, whatever the loss; one prediction for all: not learnt by heart, though the loss fell."""
    fell = History((8.5, 2.8), (0.0, 0.0))
    (few,) = advice(FinetuneOptions(), MANY, 20, fell, WORSE, "dev", same=True)
    assert few.startswith("more epochs: the run has 20 steps")
    (many,) = advice(FinetuneOptions(), MANY, 500, fell, WORSE, "dev", same=True)
    assert many.startswith("another learning rate") and "never differ" in many
    unclear = dataclasses.replace(UNCLEAR, items=1200)
    assert not any("larger dev set" in sentence for sentence in advice(FinetuneOptions(), MANY, 500, FLAT, unclear, ""))


def test_history_is_read_from_the_metrics(tmp_path: Path) -> None:
    assert read_history(tmp_path, "f1") == History(None, ()) and math.isnan(History(None, ()).fallen)
    lines = [{"step": k, "split": "train", "loss": 2.0 - 0.1 * k} for k in range(1, 11)]
    lines += [{"step": k, "split": "valid", "f1": value} for k, value in ((5, 0.4), (10, 0.6))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    history = read_history(tmp_path, "f1")
    assert history.losses == pytest.approx((1.9, 1.0)) and history.scores == (0.4, 0.6)
    assert history.still_rose and history.evaluations == 2 and history.fallen == pytest.approx(1 / 1.9)
    assert conflicting([TextItem("a", "t", None, 0), TextItem("b", "t", None, 1), TextItem("c", "u", None, 1)]) == 1


def test_predict_says_the_score_of_labelled_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = classes(tmp_path / "data")
    result = run("sst2", data, model_folder(tmp_path), tmp_path / "run", epochs=2)
    capsys.readouterr()
    where = ["predict", "--model", str(tmp_path / "run"), "--data", str(data), "--split", "dev", "--threads", "1"]
    assert main([*where, "--out", str(tmp_path / "p.jsonl")]) == 0
    assert f"sst2, dev: accuracy {result.score:.4f} [" in capsys.readouterr().err
    unlabelled = "sentence\n" + "the cat sat\n" * 3
    (data / "SST-2").mkdir(exist_ok=True)
    folder = next(data.rglob("dev.tsv")).parent
    (folder / "test.tsv").write_text(f"index\t{unlabelled.replace(chr(10) + 'the', chr(10) + '0' + chr(9) + 'the')}")
    assert main([*where[:-4], "--split", "test", "--threads", "1"]) == 0
    assert "accuracy" not in capsys.readouterr().err
