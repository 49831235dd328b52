"""Fine-tuning from end to end with tiny models on tasks that can be learnt: scores, resume, predictions, errors."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.grid import combinations
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.finetuning.score import score_predictions
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import TextItem
from blankfill.tasks.metrics.questions import answer_metrics
from blankfill.tasks.run_files import PREDICTIONS, RESULTS
from small_tasks import QUICK, answerable, classes, model_folder, run, sentences, stopped_after, tags, write_lines


def numbers(folder: Path) -> Path:
    for name, count, seed in (("train", 96, 1), ("dev", 40, 2)):
        write_lines(folder / f"{name}.jsonl", [{"text": t, "label": 2.0 * k + 1} for t, k in sentences(count, seed)])
    return folder


def label_sets(folder: Path) -> Path:
    for name, count, seed in (("train", 192, 1), ("dev", 40, 2)):
        rows = [{"text": t, "label": [x for x in ("cat", "fine") if x in t.split()]} for t, _ in sentences(count, seed)]
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def choices(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("dev", 40)):
        rows = []
        for text, _ in sentences(count, len(name)):
            right = int(rng.integers(0, 3))
            rows.append({"context": text.replace("poor", "red").replace("fine", "red"),
                         "choices": ["fine" if k == right else "poor" for k in range(3)], "label": right})  # fmt: skip
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def questions(folder: Path) -> Path:
    """Where is …? The only city of the context is the answer."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 128), ("dev", 32)):
        rows = []
        for text, _ in sentences(count, len(name)):
            words = text.split()
            words.insert(int(rng.integers(0, len(words))), str(rng.choice(["paris", "rome"])))
            city = next(word for word in words if word in ("paris", "rome"))
            rows.append({"question": "who", "context": " ".join(words), "answer": city})
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", ["bert", "mlm", "glm", "gpt"])
def test_every_family_learns_to_classify(name: str, tmp_path: Path) -> None:
    result = run("sst2", classes(tmp_path / "data"), model_folder(tmp_path, name), tmp_path / "run", epochs=8)
    assert result.metrics["accuracy"] > 0.9 > 0.7 > result.baseline
    results = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))
    assert results["metrics"] == result.metrics and results["items"] == {"train": 96, "dev": 40}
    assert np.array(results["confusions"]).trace() == round(40 * result.metrics["accuracy"])
    assert len(results["surest_mistakes"]) == min(20, 40 - np.array(results["confusions"]).trace())
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    valid = [line for line in lines if line["split"] == "valid"]
    assert valid[0]["step"] == 6 and max(line["accuracy"] for line in valid) == result.metrics["accuracy"]


@pytest.mark.parametrize(
    ("task", "make", "metric", "least"),
    [
        ("regress", numbers, "pearson", 0.9),
        ("multilabel", label_sets, "micro-f1", 0.9),
        ("choice", choices, "accuracy", 0.9),
        ("conll", tags, "f1", 0.95),
        ("qa", questions, "exact", 0.9),
    ],
)
def test_every_kind_of_task_is_learnt(
    task: str, make: Callable[[Path], Path], metric: str, least: float, tmp_path: Path
) -> None:
    """And what the run wrote is what its model predicts anew, and scores the same from the file."""
    sharp = 8.0 if task == "multilabel" else 1.0  # two labels at once are learnt from larger weights only
    data, model = make(tmp_path / "data"), model_folder(tmp_path, sharp=sharp)
    result = run(task, data, model, tmp_path / "run", epochs=8 if task == "multilabel" else 10, max_query_length=8)
    assert result.metrics[metric] > least > result.baseline
    written = tmp_path / "run" / "predictions.jsonl"
    again = score_predictions(task_named(task), data, "dev", written)
    assert again.metrics == pytest.approx(result.metrics, abs=1e-5)
    written_intervals = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))["intervals"]
    assert written_intervals.keys() == again.intervals.keys()
    assert written_intervals[metric] == pytest.approx(again.intervals[metric], abs=1e-5)
    items = task_named(task).read(data, "dev", task_named(task).read(data, "train").labels).items
    shown = [prediction.record for prediction in Predictor(tmp_path / "run", "cpu", 1).predict(items)]
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    for actual, row in zip(shown, rows, strict=True):
        assert {k: v for k, v in row.items() if k in ("label", "labels", "tags", "answer")} == {
            k: v for k, v in actual.items() if k in ("label", "labels", "tags", "answer")
        }


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Stopped after 11 of 24 steps by a failure: the resumed run ends with the weights of one that was not stopped."""
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    options = dataclasses.replace(QUICK, epochs=2, eval_every=5)
    config = FinetuneConfig("sst2", data, model, options)
    finetune(config, tmp_path / "whole")
    with stopped_after(11):
        finetune(config, tmp_path / "parts")
    torch.manual_seed(5)
    finetune(config, tmp_path / "parts", resume=True)
    ends = [store.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts")]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step == 24
    for name, tensor in ends[0].model.items():
        assert torch.equal(tensor, ends[1].model[name]), name


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    losses = []
    for micro in (0, 3):
        run("sst2", data, model, tmp_path / f"run{micro}", epochs=1, micro_batch=micro)
        lines = (tmp_path / f"run{micro}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_mistakes_are_told_the_surest_first(tmp_path: Path) -> None:
    """A head that has not learnt yet makes some."""
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    run("sst2", data, model, tmp_path / "run", epochs=0.1, lr=1e-6)
    results = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))
    mistakes, texts = results["surest_mistakes"], dict(sentences(40, 2))
    assert mistakes
    assert [mistake["probability"] for mistake in mistakes] == sorted(
        (mistake["probability"] for mistake in mistakes), reverse=True
    )
    for mistake in mistakes:
        assert str(texts[mistake["text"]]) == mistake["right"] != mistake["given"] and mistake["probability"] >= 0.5
    assert np.sum(results["confusions"], axis=1).tolist() == [list(texts.values()).count(k) for k in (0, 1)]


def test_frozen_layers_stay_as_they_are(tmp_path: Path) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    before = store.read(model, with_optimizer=False).model
    moved: dict[int, set[str]] = {}
    for freeze in (-1, 1, 0):
        run("sst2", data, model, tmp_path / f"run{freeze}", epochs=1, freeze=freeze)
        after = store.newest(tmp_path / f"run{freeze}" / "checkpoints", with_optimizer=False)
        assert after is not None
        moved[freeze] = {name for name in before if not torch.equal(after.model[f"encoder.{name}"], before[name])}
    assert moved[-1] == set()
    assert {name.split(".")[1] for name in moved[1] if name.startswith("layers")} == {"1"}
    assert not any(name.startswith(("words", "positions")) for name in moved[1])
    assert "token_embeddings.weight" in moved[0] and moved[1] < moved[0]


def test_features_of_a_frozen_encoder(tmp_path: Path) -> None:
    """A linear layer over the last layer's words, and an LSTM over four layers, which also finds what a word is not."""
    data, model = tags(tmp_path / "data"), model_folder(tmp_path)
    linear = run("conll", data, model, tmp_path / "linear", features="last", lr=1e-2, epochs=12)
    options = {"features": "concat-last-4", "head": "bilstm", "lstm_size": 24, "lr": 1e-2, "epochs": 12}
    lstm = run("conll", data, model, tmp_path / "lstm", **options)
    assert lstm.score > 0.85 and lstm.score > linear.score
    items = task_named("conll").read(data, "dev").items
    decided = Predictor(tmp_path / "lstm", "cpu", 1).predict(items)
    gold = [item.tags for item in items]  # type: ignore[union-attr]
    assert sum(actual.value == row for actual, row in zip(decided, gold, strict=True)) > 0.7 * len(items)


def test_lora_learns_beside_a_frozen_encoder(tmp_path: Path) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    result = run("sst2", data, model, tmp_path / "run", epochs=6, lora_rank=4, lr=2e-2)
    assert result.metrics["accuracy"] > 0.9
    before = store.read(model, with_optimizer=False).model
    after = store.newest(tmp_path / "run" / "checkpoints", with_optimizer=False)
    assert after is not None
    merged = {
        name.replace(".base", "").removeprefix("encoder."): tensor
        for name, tensor in after.model.items()
        if name.startswith("encoder.")
    }
    assert [name for name, tensor in before.items() if not torch.equal(merged[name], tensor)] == []
    items = task_named("sst2").read(data, "dev").items
    decided = Predictor(tmp_path / "run", "cpu", 1).predict(items)
    right = [actual.value == item.label for actual, item in zip(decided, items, strict=True)]  # type: ignore[union-attr]
    assert sum(right) / len(right) == pytest.approx(result.metrics["accuracy"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of one's own with named columns, without a dev set; a grid; predictions of new rows; a score of them."""
    rows = "".join(f"{text},{'good' if label else 'bad'}\n" for text, label in sentences(80, 3))
    table = tmp_path / "mine.csv"
    table.write_text(f"remark,verdict\n{rows}", encoding="utf-8")
    model, out = model_folder(tmp_path), tmp_path / "run"
    quick = ["--lr", "5e-3", "--batch-size", "8", "--epochs", "10", "--threads", "1", "--precision", "fp32"]
    columns = ["--columns", "text=remark", "label=verdict"]
    command = ["finetune", "--task", "classify", "--data", str(table), "--from", str(model), "--out", str(out), *quick]
    assert main([*command, *columns]) == 0
    said = capsys.readouterr()
    assert "held out" in said.err and "accuracy" in said.out and "baseline (ignores the texts)" in said.out
    new = tmp_path / "new.txt"
    new.write_text("the cat sat fine\nthe dog ran poor on the mat\n", encoding="utf-8")
    assert main(["predict", "--model", str(out), str(new), "--threads", "1"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert main([*command[:-len(quick) - 1], str(tmp_path / "grid"), *quick, *columns, "--epochs", "1",
                 "--grid", "lr=5e-3,1e-5", "--num-seeds", "2"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert (
        "lr-0.005: accuracy" in printed
        and "± " in printed
        and "(2 runs, best" in printed
        and "the best setting: lr-0.005" in printed
    )
    table_of = json.loads((tmp_path / "grid" / RESULTS).read_text(encoding="utf-8"))
    assert [row["runs"] for row in table_of["settings"]] == [2, 2] and table_of["complete"]
    assert "lr-0.005_seed-1/report.html" in (tmp_path / "grid" / "report.html").read_text(encoding="utf-8")
    assert main(["predict", "--model", str(tmp_path / "grid"), str(new), "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and f"{table_of['best']['best_run']} predicts, the best run" in said.err
    (tmp_path / "grid" / RESULTS).write_text("{", encoding="utf-8")
    assert main(["predict", "--model", str(tmp_path / "grid"), str(new), "--threads", "1"]) == 2
    assert "give the command that wrote it again" in capsys.readouterr().err


def test_a_grid_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal ends the run that it finds, saved, and begins no other; the same command finishes them all."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "grid"
    command = ["finetune", "--task", "sst2", "--data", str(data), "--from", str(model), "--out", str(out),
               "--batch-size", "8", "--epochs", "1", "--threads", "1", "--precision", "fp32",
               "--num-seeds", "2"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("blankfill.runs.context.stop_signals", lambda: contextlib.nullcontext([15]))
        assert main(command) == 143
    assert "the same command continues there" in capsys.readouterr().err
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["seed-0"]
    assert json.loads((out / "seed-0" / RESULTS).read_text(encoding="utf-8"))["complete"] is False
    assert main(command) == 0
    results = [json.loads((out / f"seed-{k}" / RESULTS).read_text(encoding="utf-8")) for k in (0, 1)]
    assert [(result["complete"], result["steps"]) for result in results] == [(True, 12), (True, 12)]


def test_from_scratch_forgets_the_weights_it_was_given(tmp_path: Path) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path / "one")
    other = model_folder(tmp_path / "other", sharp=1.5)

    def told(start: Path, scratch: bool) -> str:
        name = f"{start.parents[1].name}-{scratch}"
        run("sst2", data, start, tmp_path / name, epochs=0.2, lr=1e-5, from_scratch=scratch)
        return (tmp_path / name / PREDICTIONS).read_text(encoding="utf-8")

    assert told(model, True) == told(other, True)
    assert told(model, False) != told(other, False)


def test_predictions_are_scored_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = questions(tmp_path / "data")
    lines = (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "answers.json"
    ids = [item.id for item in task_named("qa").read(data, "dev").items]
    path.write_text(json.dumps({id: json.loads(line)["answer"] for id, line in zip(ids, lines, strict=True)}))
    assert main(["evaluate", "--task", "qa", "--data", str(data), str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"] == {"exact": 1.0, "f1": 1.0} and result["items"] == 32 and result["split"] == "dev"
    assert result["intervals"] == {"exact": [1.0, 1.0], "f1": [1.0, 1.0]}
    path.write_text(json.dumps({"no such id": "paris"}))
    assert main(["evaluate", "--task", "qa", "--data", str(data), str(path)]) == 2
    assert "32 of 32 items have no prediction" in capsys.readouterr().err
    assert main(["evaluate", "--task", "lambada", "--data", str(data), str(path)]) == 2
    assert "kind last-word, for which no file of predictions is scored; --model measures" in capsys.readouterr().err
    path.write_text("nothing\n")
    assert main(["evaluate", "--task", "qa", "--data", str(data), str(path)]) == 2
    assert "line 1: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--task", "sst3"], "There is no task 'sst3'"),
        (["--task", ""], "There is no task ''"),
        (["--lr", "-1"], "--lr is -1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--freeze", "-2"], "--freeze is -2"),
        (["--validation-split", "1"], "--validation-split is 1"),
        (["--lora-rank", "2", "--freeze", "1"], "leave out --freeze"),
        (["--max-length", "9999"], "more than the model's"),
        (["--grid", "speed=3"], "--grid speed=3: give name=value,value; the names are lr, embedding_lr_multiplier"),
        (["--grid", "BOUNDS=3"], "--grid BOUNDS=3: give name=value,value; the names are lr, embedding_lr_multiplier"),
        (["--grid", "batchsize=3"], "--grid batchsize=3: give name=value,value; did you mean batch_size?"),
        (["--grid", "lr=fast"], "'fast'; it must be a number"),
        (["--num-seeds", "0"], "--num-seeds is 0"),
        (["--columns", "x"], "knows the form of its files"),
        (["--task", "seq2seq"], "does not write any"),
        (["--data", "no/such"], "no/such"),
        (["--from", "no/such"], "no such file or folder"),
    ],
)
def test_what_it_refuses(given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = classes(tmp_path / "data")
    if "seq2seq" in given:
        data = tmp_path / "pairs"
        for name in ("train", "dev"):
            write_lines(data / f"{name}.jsonl", [{"source": "a cat", "target": "the cat"}] * 3)
    options = {
        "--task": "sst2",
        "--data": str(data),
        "--from": str(model_folder(tmp_path)),
        "--out": str(tmp_path / "r"),
    }
    options |= dict(zip(given[::2], given[1::2], strict=True))
    assert main(["finetune", *(part for pair in options.items() for part in pair)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    assert main(["finetune", "--resume", str(tmp_path)]) == 2
    assert "not a fine-tuning run" in capsys.readouterr().err
    assert main(["finetune", "--resume", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'} does not exist" in capsys.readouterr().err
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"grid holds the results of several runs \(results\.json\)"):
        run("sst2", data, model, tmp_path / "grid")
    assert [path.name for path in (tmp_path / "grid").iterdir()] == ["results.json"]
    assert main(["finetune", "--resume", str(tmp_path / "grid")]) == 2
    assert "holds several runs; repeat the command" in capsys.readouterr().err
    assert main(["finetune", "--resume", str(tmp_path), "--lr", "1"]) == 2
    assert "leave out --lr" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="from_scratch needs weights that learn"):
        run("sst2", data, model, tmp_path / "z", from_scratch=True, lora_rank=2)
    with pytest.raises(ConfigError, match="epochs is 0"):
        run("sst2", data, model, tmp_path / "run", epochs=0)
    run("sst2", data, model, tmp_path / "run", epochs=0.2)
    with pytest.raises(UserError, match="holds a run already"):
        run("sst2", data, model, tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()
    command = ["finetune", "--task", "sst2", "--data", str(data), "--from", str(model), "--out", str(tmp_path / "run")]
    assert main([*command, "--num-seeds", "2"]) == 2
    assert f"{tmp_path / 'run'} holds a single run" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    with pytest.raises(UserError, match="not a fine-tuned model"):
        Predictor(model, "cpu", 1)
    assert Predictor(tmp_path / "run", "cpu", 1).predict([]) == []
    with pytest.raises(UserError, match="kind classify, not of writing; leave out beams, n_best"):
        Predictor(tmp_path / "run", "cpu", 1, n_best=2, search={"beams": 3})
    assert len(Predictor(tmp_path / "run", "cpu", 1).predict([TextItem("a", "the cat")])) == 1
    capsys.readouterr()
    for text, message in (("\n", "the line is empty"), ('{"text": 3', "line 1: not JSON"), ('{"x": 1}', "no text")):
        (tmp_path / "rows").write_text(text, encoding="utf-8")
        assert main(["predict", "--model", str(tmp_path / "run"), str(tmp_path / "rows"), "--threads", "1"]) == 2
        assert message in capsys.readouterr().err


def test_written_answers_are_those_that_the_scores_are_of(tmp_path: Path) -> None:
    """SQuAD 2.0: the threshold is found after the predictions; what is written follows it."""
    answerable(tmp_path)
    result = run("squad2", tmp_path, model_folder(tmp_path), tmp_path / "run", epochs=2, max_query_length=8)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    questions = task_named("squad2").read(tmp_path, "dev").questions()
    assert answer_metrics(("exact", "f1"), questions, answers) == pytest.approx(
        {name: result.metrics[name] for name in ("exact", "f1")}
    )


def test_a_grid_names_its_runs() -> None:
    settings = combinations(QUICK, ["lr=1e-4,2e-5", "batch-size=16"], 2)
    assert [name for name, _ in settings] == [
        f"lr-{lr}_batch_size-16_seed-{seed}" for lr in ("0.0001", "2e-05") for seed in (0, 1)
    ]
    assert [(o.lr, o.batch_size, o.seed) for _, o in settings][1] == (1e-4, 16, 1)
