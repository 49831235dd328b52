"""Writing from end to end: tiny models learn to turn texts round; resumed runs, predictions, and every refusal."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.outcome import FinetuneResult
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.tasks.items import GenerationItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import RESULTS
from small_tasks import write_lines, writing_model

NOUNS = ["red", "big", "cat", "dog", "mat"]
QUICK = FinetuneOptions(
    allow_unknown=True,
    lr=5e-3, batch_size=16, epochs=6, threads=1, precision="fp32", device="cpu", max_length=24, max_target_length=6,
    eval_every=1000, weight_decay=0.0,
)  # fmt: skip


MORE: dict[str, dict[str, Any]] = {
    "t5": {"lr": 1e-2, "epochs": 16}, "unilm": {"epochs": 12}, "chatglm": {"lr": 1e-2, "epochs": 16},
    "glm-130b": {"lr": 1e-2, "epochs": 16},
}  # fmt: skip
"""T5's words are large, so that a step moves them little; of UniLM's targets a part is masked at a time."""


def turned(folder: Path, train: int = 192) -> Path:
    """Two words, to be written the other way round."""
    for name, count, seed in (("train", train, 1), ("dev", 24, 2)):
        words = np.random.default_rng(seed).choice(NOUNS, (count, 2)).tolist()
        write_lines(folder / f"{name}.jsonl", [{"source": f"{a} {b}", "target": f"{b} {a}"} for a, b in words])
    return folder


def run(data: Path, model: Path, out: Path, **options: Any) -> FinetuneResult:
    return finetune(FinetuneConfig("seq2seq", data, model, dataclasses.replace(QUICK, **options)), out)


@pytest.mark.parametrize(
    ("name", "blank"),
    [
        ("glm", "mask"),
        ("glm", "gmask"),
        ("chatglm", "auto"),
        ("glm-130b", "auto"),
        *((name, "mask") for name in ("gpt", "unilm", "unilm2", "t5", "bart")),
    ],
)
def test_a_model_learns_to_turn_a_text_round(name: str, blank: str, tmp_path: Path) -> None:
    data, model = turned(tmp_path / "data"), writing_model(tmp_path, name)
    result = run(data, model, tmp_path / "run", blank=blank, **MORE.get(name, {}))
    assert result.metrics["rougeL"] > 0.95 > 0.8 > result.baseline
    results = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))
    assert results["baseline"]["metrics"]["rouge1"] == 1.0 and results["items"] == {"train": 192, "dev": 24}
    scores = [result["rougeL"] for result in results["mistakes"]]
    assert len(scores) == 20 and scores == sorted(scores)


def test_predictions_are_written_and_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: a table with columns of its own, `predict` with the best texts, `evaluate`."""
    data, model, out = turned(tmp_path / "data"), writing_model(tmp_path), tmp_path / "run"
    command = ["finetune", "--task", "seq2seq", "--data", str(data), "--from", str(model), "--out", str(out),
               "--columns", "text=source", "label=target", "--lr", "5e-3", "--batch-size", "16",
               "--epochs", "6", "--max-target-length", "6", "--threads", "1", "--precision", "fp32",
               "--eval-every", "99", "--max-eval-samples", "5", "--label-smoothing", "0.1", "--beams", "2",
               "--weight-decay", "0"]  # fmt: skip
    assert main(command) == 0
    assert "rougeL 1.0000" in capsys.readouterr().out
    assert main(["evaluate", "--task", "seq2seq", "--data", str(data), str(out / "predictions.jsonl"), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["metrics"]
        == json.loads((out / RESULTS).read_text(encoding="utf-8"))["metrics"]
    )
    rows = tmp_path / "rows"
    rows.write_text('red cat\n{"id": "x", "source": "dog mat"}\n', encoding="utf-8")
    predict = ["predict", "--model", str(out), str(rows), "--threads", "1"]
    assert main(predict) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["id"], answer["text"]) for answer in answers] == [("0", "cat red"), ("x", "mat dog")]
    assert all("best" not in answer and answer["score"] < 0 for answer in answers)
    assert main([*predict, "--n-best", "3", "--beams", "4", "--no-repeat-ngram", "1", "--length-penalty", "0.5"]) == 0
    best = json.loads(capsys.readouterr().out.splitlines()[0])["best"]
    assert best[0]["text"] == "cat red" and len({row["text"] for row in best}) == 3
    assert [row["score"] for row in best] == sorted((row["score"] for row in best), reverse=True)
    for text, message in (('{"source": " "}', "the source is empty"), ('{"body": "cat"}', "there is no source")):
        rows.write_text(text, encoding="utf-8")
        assert main(predict) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="the item 7 has an empty source"):
        Predictor(out, "cpu", 1).predict([GenerationItem("7", " ")])
    rows.write_text("cat", encoding="utf-8")
    assert main([*predict, "--n-best", "0", "--beams", "0"]) == 2
    message = capsys.readouterr().err
    assert "--n-best is 0" in message and "beams is 0" in message


@pytest.mark.parametrize("name", ["glm", "bart"])
def test_a_run_goes_on_where_it_was_stopped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With label smoothing and scores between: the weights are those of a run that was not stopped."""
    data, model = turned(tmp_path / "data", 96), writing_model(tmp_path, name)
    config = FinetuneConfig(
        "seq2seq", data, model, dataclasses.replace(QUICK, epochs=2, eval_every=4, label_smoothing=0.1)
    )
    finetune(config, tmp_path / "whole")

    from blankfill.tasks.heads import models

    real, taken = models.task_losses, []

    def failing(model: Any, *given: Any) -> Any:
        taken.append(model.training)
        if sum(taken) > 7:
            raise KeyboardInterrupt
        return real(model, *given)

    with monkeypatch.context() as patched:
        patched.setattr(models, "task_losses", failing)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "parts")
    finetune(config, tmp_path / "parts", resume=True)
    ends = [store.newest(tmp_path / out / "checkpoints") for out in ("whole", "parts")]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step == 12
    for weight, tensor in ends[0].model.items():
        assert torch.equal(tensor, ends[1].model[weight]), weight


def test_frozen_layers(tmp_path: Path) -> None:
    """Only what is to learn moves."""
    data, model = turned(tmp_path / "data"), writing_model(tmp_path)
    before = store.read(model, with_optimizer=False).model
    run(data, model, tmp_path / "frozen", epochs=1, freeze=1, layer_decay=0.9)
    checkpoint = store.newest(tmp_path / "frozen" / "checkpoints", with_optimizer=False)
    assert checkpoint is not None
    moved = {name for name in before if not torch.equal(checkpoint.model[f"encoder.{name}"], before[name])}
    assert moved and {name.split(".")[0] for name in moved} == {"layers", "final_norm"}
    assert not any(name.startswith("layers.0") for name in moved)


@pytest.mark.parametrize("name", ["glm", "bart"])
def test_lora(name: str, tmp_path: Path) -> None:
    """The model with its products merged writes what it wrote with them beside."""
    data, model = turned(tmp_path / "data"), writing_model(tmp_path, name)
    before = store.read(model, with_optimizer=False).model
    result = run(data, model, tmp_path / "lora", lora_rank=8, lr=2e-2)
    checkpoint = store.newest(tmp_path / "lora" / "checkpoints", with_optimizer=False)
    assert checkpoint is not None and torch.equal(
        checkpoint.model["encoder.token_embeddings.weight"], before["token_embeddings.weight"]
    )
    lines = (tmp_path / "lora" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    items = [GenerationItem(str(k), row["source"]) for k, row in enumerate(rows)]
    again = Predictor(tmp_path / "lora", "cpu", 1).predict(items)
    assert [prediction.value for prediction in again] == [json.loads(line)["text"] for line in lines]
    assert result.steps == 72


def test_a_table_without_a_dev_set_keeps_like_sources_together(tmp_path: Path, capsys: Any) -> None:
    table = tmp_path / "mine.csv"
    rows = "".join(f"{a} {b},{b} {a}\n" for a in NOUNS for b in NOUNS for _ in range(2))
    table.write_text(f"text,title\n{rows}cat,\n", encoding="utf-8")
    result = run(table, writing_model(tmp_path), tmp_path / "run", epochs=0.1, validation_split=0.2)
    assert "1 of 51 rows left out: each has no target" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))
    assert results["items"] == {"train": 40, "dev": 10} and result.steps == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_target_length": 99}, "max_target_length=99: there is room for 47 tokens"),
        ({"blank": "gmask", "without": "[gMASK]"}, "blank=gmask: the model knows no such blank"),
        ({"features": "last"}, "features is for a head"),
        ({"class_weights": "balanced"}, "class_weights is for a head"),
        ({"freeze": -1}, "freeze=-1 is for a head"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"beams": 0}, "beams is 0"),
        ({"target_noise": 1.1}, "target_noise is 1.1; it must be between 0 and 1"),
        (
            {"name": "unilm", "pseudo_noise": 0.2},
            "pseudo_noise is for a UniLM v2, and this model is trained as unilm",
        ),
        ({"method": "cloze"}, "leave out method=cloze"),
        ({"name": "bert"}, "a model of the objective bert reads texts and does not write any"),
        ({"name": "mlm"}, "a model of the objective mlm reads texts and does not write any"),
        ({"name": "xlnet"}, "a model of the objective xlnet reads texts and does not write any"),
        ({"without": "<|endofpiece|>"}, "the tokenizer has no token for eop"),
        ({"name": "gpt", "blank": "gmask"}, "blank=gmask: the model knows no such blank"),
        ({"name": "unilm", "blank": "gmask"}, "blank=gmask: the model knows no such blank"),
        ({"name": "unilm", "max_target_length": 24}, "max_target_length=24: there is room for 19 tokens"),
        ({"name": "unilm", "without": "[MASK]"}, "the tokenizer has no token for mask"),
        ({"name": "gpt", "max_target_length": 24}, "max_target_length=24: there is room for 20 tokens"),
        ({"name": "bart", "max_target_length": 47}, "max_target_length=47: there is room for 46 tokens"),
        ({"name": "bart", "max_length": 49}, "max_length=49 is more than the model's 48 positions"),
        ({"name": "t5", "blank": "gmask"}, "blank=gmask: the model knows no such blank"),
        ({"name": "t5", "without": "[PAD]"}, "the tokenizer has no token for pad"),
        ({"name": "bart", "without": "[CLS]"}, "the tokenizer has no token for cls"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = {key: options.pop(key) for key in ("name", "without") if key in options}
    with pytest.raises((UserError, ConfigError), match=message):
        run(turned(tmp_path / "data", 4), writing_model(tmp_path, **made), tmp_path / "run", **options)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_that_cannot_be_learnt_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = turned(tmp_path / "data", 20), writing_model(tmp_path)
    train, dev = (data / f"{name}.jsonl" for name in ("train", "dev"))
    rows = train.read_text(encoding="utf-8")
    train.write_text('{"source": "cat"}\n' * 3, encoding="utf-8")
    with pytest.raises(UserError, match="no column is obviously the label: name one with"):
        run(data, model, tmp_path / "a")
    train.write_text(rows + '{"source": "cat", "target": "red big cat dog mat red big cat"}\n', encoding="utf-8")
    run(data, model, tmp_path / "b", epochs=0.1, max_length=4)
    err = capsys.readouterr().err
    assert "1 targets are longer than 6 tokens; they are learnt up to there" in err
    assert "20 items are longer than 4 tokens and lose their end" in err
    dev.write_text('{"source": "cat"}\n' * 3, encoding="utf-8")
    with pytest.raises(UserError, match="no column is obviously the label: name one with"):
        run(data, model, tmp_path / "c")
