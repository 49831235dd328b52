"""Tasks as text in and text out, from end to end: a tiny GLM writes labels, numbers, choices and answers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_seq2seq import MORE, NOUNS, QUICK, turned

from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.tasks.items import ChoiceItem, QuestionItem, TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import PREDICTIONS, RESULTS
from small_tasks import write_lines, writing_model

TEXT = dataclasses.replace(QUICK, method="text", max_target_length=0)
FORM = 'source: "{first}"\nlabels: {up: big, down: red}\n'


def labelled(folder: Path, label: Any, train: int = 192) -> Path:
    """Rows whose label depends on the first of two words."""
    for name, count, seed in (("train", train, 1), ("dev", 24, 2)):
        words = np.random.default_rng(seed).choice(NOUNS, (count, 2)).tolist()
        write_lines(folder / f"{name}.jsonl", [{"text": f"{a} {b}", "label": label(a, b)} for a, b in words])
    return folder


def run(task: str, data: Path, model: Path, out: Path, **options: Any) -> dict[str, Any]:
    finetune(FinetuneConfig(task, data, model, dataclasses.replace(TEXT, **options)), out)
    results: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize("name", ["glm", "t5", "bart"])
def test_labels_are_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By words of a form of one's own, which the run keeps; predicted and scored again from the command line."""
    data = labelled(tmp_path / "data", lambda a, b: "up" if a in ("cat", "dog") else "down")
    form = tmp_path / "form.yaml"
    form.write_text(FORM, encoding="utf-8")
    out = tmp_path / "run"
    results = run("classify", data, writing_model(tmp_path, name), out, patterns=str(form), **MORE.get(name, {}))
    assert results["metrics"]["accuracy"] == 1.0 > results["baseline"]["score"]
    assert results["other_texts"] == 0 and results["wrong_answers"] == [] and len(results["confusions"]) == 2
    form.unlink()
    lines = [json.loads(line) for line in (out / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    assert {(line["label"], line["written"]) for line in lines} == {("up", "big"), ("down", "red")}
    rows = tmp_path / "rows"
    rows.write_text("cat red\nmat dog\n", encoding="utf-8")
    assert main(["predict", "--model", str(out), str(rows), "--threads", "1", "--beams", "2"]) == 0
    assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == ["up", "down"]
    assert main(["evaluate", "--task", "classify", "--data", str(data), str(out / PREDICTIONS), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == results["metrics"]
    assert "Confusions" in (out / "report.html").read_text(encoding="utf-8")


def test_what_was_written_and_is_no_answer_is_counted(tmp_path: Path) -> None:
    """Before anything is learnt: the label that a text resembles, the text beside it."""
    data = labelled(tmp_path / "data", lambda a, b: "up" if a in ("cat", "dog") else "down", 8)
    form = tmp_path / "form.yaml"
    form.write_text(FORM, encoding="utf-8")
    results = run("classify", data, writing_model(tmp_path), tmp_path / "run", patterns=str(form), epochs=1, lr=1e-9)
    assert 0 < results["other_texts"] <= 24
    wrong = results["wrong_answers"]
    assert wrong and all(
        mistake["right"] in ("big", "red") and mistake["given"] != mistake["right"] for mistake in wrong
    )
    assert "Wrong answers" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_several_labels_are_written(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", lambda a, b: sorted({a, b} & {"cat", "dog"}))
    form = tmp_path / "form.yaml"
    form.write_text('source: "{first}"\n', encoding="utf-8")
    results = run(
        "multilabel", data, writing_model(tmp_path), tmp_path / "run", patterns=str(form), max_target_length=6
    )
    # `none` and the comma have no tokens in this vocabulary, so sets of one label are what can be right
    assert results["metrics"]["micro-f1"] > 0.5 > results["baseline"]["score"]


def test_choices_and_answers_are_written(tmp_path: Path) -> None:
    """A choice by its text, a question's answer as it stands."""
    rng, model = np.random.default_rng(0), writing_model(tmp_path)
    folder = tmp_path / "choice"
    for name, count in (("train", 192), ("dev", 24)):
        rows = []
        for _ in range(count):
            right, other = rng.permutation(NOUNS)[:2].tolist()
            place = int(rng.integers(2))
            choices = [right, other] if place == 0 else [other, right]
            rows.append({"context": f"{right} {right}", "choices": choices, "label": place})
        write_lines(folder / f"{name}.jsonl", rows)
    form = tmp_path / "form.yaml"
    form.write_text('source: "{context}"\nchoice: "{choice}"\n', encoding="utf-8")
    results = run("choice", folder, model, tmp_path / "chosen", patterns=str(form))
    assert results["metrics"]["accuracy"] > 0.9 and results["other_texts"] == 0
    item = ChoiceItem("1", "cat cat", ("dog", "cat"))
    [decided] = Predictor(tmp_path / "chosen", "cpu", 1).predict([item])
    assert decided.record["choice"] == "cat" and decided.value == 1

    data = {name: [] for name in ("train", "dev")}  # type: dict[str, list[Any]]
    for name, count in (("train", 192), ("dev", 24)):
        for k in range(count):
            a, b = rng.choice(NOUNS, 2).tolist()
            answer = {"text": b, "answer_start": len(a) + 1}
            paragraph = {"context": f"{a} {b}", "qas": [{"id": f"{name}{k}", "question": "who", "answers": [answer]}]}
            data[name].append({"title": str(k), "paragraphs": [paragraph]})
        path = tmp_path / "qa" / f"{name}-v1.1.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": "1.1", "data": data[name]}), encoding="utf-8")
    results = run("squad", tmp_path / "qa", model, tmp_path / "answered")
    assert results["metrics"]["exact"] > 0.9 > results["baseline"]["score"]
    [decided] = Predictor(tmp_path / "answered", "cpu", 1).predict([QuestionItem("1", "who", "cat dog")])
    assert decided.record["answer"] == "dog"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("classify", {"name": "bert"}, "a model of the objective bert reads texts and does not write any"),
        ("classify", {}, "the tokenizer has no tokens for down, which is written for the label down"),
        ("classify", {"features": "last"}, "method=text answers with the model's own words"),
        ("classify", {"class_weights": "balanced"}, "class_weights is for method=head"),
        ("classify", {"pattern": "1"}, "pattern is for method=cloze"),
        ("classify", {"mlm_weight": 0.1}, "mlm_weight is for method=cloze"),
        ("classify", {"patterns": "nowhere"}, "patterns: nowhere does not exist"),
        ("conll", {}, "conll is a task of kind tag, which has no form as text"),
    ],
)
def test_what_it_refuses(task: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = {key: options.pop(key) for key in ("name",) if key in options}
    data = labelled(tmp_path / "data", lambda a, b: "up" if a == "cat" else "down", 24)
    if task == "conll":
        for name in ("train", "dev"):
            (data / f"{name}.txt").write_text("cat O\nParis B-LOC\n\n" * 4, encoding="utf-8")
            (data / f"{name}.jsonl").unlink()
    with pytest.raises((UserError, ConfigError), match=message):
        run(task, data, writing_model(tmp_path, **made), tmp_path / "run", **options)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_two_labels_that_a_tokenizer_writes_alike(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", lambda a, b: "up" if a == "cat" else "down", 24)
    form = tmp_path / "form.yaml"
    form.write_text("labels: {up: red-big, down: red - big}\n", encoding="utf-8")
    with pytest.raises(UserError, match="the tokenizer"):
        run("classify", data, writing_model(tmp_path), tmp_path / "run", patterns=str(form))


def test_a_number_that_is_no_number() -> None:
    """Is 0; one in a text is that."""
    from blankfill.generation.beam import Hypothesis
    from blankfill.tasks.datasets.registry import task_named
    from blankfill.tasks.text.text_to_text import TextToText
    from generate_models import SPECIAL, wordpiece

    words = wordpiece(SPECIAL, ["3", ".", "8", "a"])
    adapter = TextToText(task_named("stsb"), (), FinetuneOptions(method="text"), words)
    item, tokenizer = TextItem("1", "a", "a", 3.0), adapter.tokenizer
    written = [[Hypothesis(tuple(tokenizer.encode(text)), -1.0, -1.0)] for text in ("3.8", "a")]
    assert [prediction.value for prediction in adapter.written([item, item], written)] == [3.8, 0.0]


def mixed_data(folder: Path, train: int = 192) -> Path:
    """Labels to predict in one task, words to reverse in another, which has a third of the items."""
    labelled(folder / "labels", lambda a, b: "big" if a in ("cat", "dog") else "red", train)
    turned(folder / "turned", train // 3)
    file = folder / "data.yaml"
    file.write_text("classify: labels\nseq2seq: turned\n", encoding="utf-8")
    return file


def test_several_tasks_are_learnt_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is scored as by itself; rows say whose they are; a split of one member can be answered."""
    data, out = mixed_data(tmp_path), tmp_path / "run"
    results = run(
        "classify+seq2seq", data, writing_model(tmp_path), out, mixing_temperature=2.0, epochs=8, eval_every=40,
        max_eval_samples=8,
    )  # fmt: skip
    assert "drawn are classify 63.4%, seq2seq 36.6% of the items" in capsys.readouterr().err
    metrics = results["metrics"]
    assert metrics["classify accuracy"] > 0.95 and metrics["seq2seq rougeL"] > 0.95
    assert results["score"] == pytest.approx((metrics["classify accuracy"] + metrics["seq2seq rougeL"]) / 2)
    assert results["tasks"]["classify"]["other_texts"] == 0 and len(results["tasks"]["seq2seq"]["mistakes"]) == 20
    assert "classify accuracy" in (out / "report.html").read_text(encoding="utf-8")
    rows = tmp_path / "rows"
    rows.write_text(
        '{"task": "classify", "text": "cat red"}\n{"task": "seq2seq", "source": "cat red"}\n', encoding="utf-8"
    )
    predict = ["predict", "--model", str(out), "--threads", "1", "--allow-unknown"]
    assert main([*predict, str(rows)]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["task"], first["label"], second["text"]) == ("classify", "big", "red cat")
    assert main([*predict, "--data", str(tmp_path / "labels"), "--task", "classify", "--split", "dev"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 24 and {line["task"] for line in lines} == {"classify"}
    for row, message in (("cat red", "give a JSON object that says whose row it is"),
                      ('{"task": "rte", "text": "a"}', "rte is not among these tasks")):  # fmt: skip
        rows.write_text(row, encoding="utf-8")
        assert main([*predict, str(rows)]) == 2
        assert message in capsys.readouterr().err
    assert main([*predict, "--data", str(data), "--split", "dev", "--submission", "--out", str(tmp_path / "sent")]) == 2
    assert "name the task with --task" in capsys.readouterr().err


def test_what_a_mixture_refuses(tmp_path: Path) -> None:
    data, model = mixed_data(tmp_path, 24), writing_model(tmp_path)
    with pytest.raises(UserError, match="tasks are learnt together as texts; add method=text"):
        run("classify+seq2seq", data, model, tmp_path / "a", method="head")
    with pytest.raises(ConfigError, match="patterns is the form of one task"):
        run("classify+seq2seq", data, model, tmp_path / "b", patterns="form.yaml")
    with pytest.raises(ConfigError, match="mixing_temperature is 0"):
        run("classify+seq2seq", data, model, tmp_path / "c", mixing_temperature=0.0)
    (tmp_path / "turned" / "train.txt").write_text("cat O\nParis B-LOC\n\n" * 4, encoding="utf-8")
    (tmp_path / "turned" / "dev.txt").write_text("cat O\nParis B-LOC\n\n" * 4, encoding="utf-8")
    data.write_text("classify: labels\nconll: turned\n", encoding="utf-8")
    with pytest.raises(UserError, match="conll is a task of kind tag, which has no form as text; leave it out"):
        run("classify+conll", data, model, tmp_path / "d")
