"""Texts that a model's tokenizer does not know: `finetune`, `predict` and the functions of the library stop."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import blankfill
from blankfill.cli.main import main
from blankfill.errors import UserError
from small_run import SMALL, sentences, texts_in
from small_tasks import QUICK, classes, model_folder
from small_tasks import run as tune

GREEK = "ο γάτος κάθισε στο χαλί"


def write_rows(path: Path, rows: Sequence[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    tune("sst2", classes(folder / "data"), model_folder(folder), folder / "run", epochs=1)
    return folder / "run"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    recipe = blankfill.load_recipe("bert-nano", {**SMALL, "train.steps": 2})
    blankfill.pretrain([str(texts_in(folder, 6))], recipe, folder / "run")
    return folder / "run"


def test_finetune_stops_before_it_makes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "dev"):
        write_rows(
            tmp_path / "data" / f"{name}.tsv", ["sentence\tlabel", *(f"{GREEK} {k}\t{k % 2}" for k in range(40))]
        )
    command = ["finetune", "--task", "sst2", "--data", str(tmp_path / "data"), "--from", str(model_folder(tmp_path))]
    more = ["--out", str(tmp_path / "run"), "--epochs", "1", "--threads", "1", "--device", "cpu", "--precision", "fp32"]
    assert main([*command, *more]) == 2
    error = capsys.readouterr().err
    assert "100.0% of the 240 tokens of the training texts are unknown" in error and "(Greek)" in error
    assert "--allow-unknown continues" in error and not (tmp_path / "run").exists()
    assert main([*command, *more, "--allow-unknown"]) == 0
    assert "Note: 100.0% of the 240 tokens" in capsys.readouterr().err


def test_finetune_shows_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dataclasses.replace(QUICK, epochs=1, allow_unknown=False)
    config = blankfill.FinetuneConfig("sst2", classes(tmp_path / "data"), model_folder(tmp_path), options)
    blankfill.finetune(config, tmp_path / "run")
    assert "The training texts: 0.00% of " in capsys.readouterr().err


def test_predict_stops_before_it_writes(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out = write_rows(tmp_path / "rows.txt", [GREEK] * 30), tmp_path / "out.jsonl"
    command = ["predict", "--model", str(tuned), str(rows), "--threads", "1", "--device", "cpu"]
    assert main([*command, "--out", str(out)]) == 2 == main(command)
    captured = capsys.readouterr()
    assert "100.0% of the 150 tokens of the rows are unknown" in captured.err and not captured.out and not out.exists()
    assert main([*command, "--allow-unknown"]) == 0
    assert len(list(map(json.loads, capsys.readouterr().out.splitlines()))) == 30
    known = write_rows(tmp_path / "known.txt", ["the cat sat"] * 60)
    assert main(["predict", "--model", str(tuned), str(known), "--threads", "1", "--device", "cpu"]) == 0
    assert "The rows: 0.00% of 180 tokens are unknown." in capsys.readouterr().err


def test_the_library_stops_likewise(tuned: Path, pretrained: Path) -> None:
    model = blankfill.load(pretrained)
    calls = {
        "fill": lambda **more: blankfill.fill(model, f"{GREEK} [MASK]", **more),
        "embed": lambda **more: blankfill.embed(model, [GREEK] * 9, **more),
        "predict": lambda **more: blankfill.predict(tuned, [GREEK] * 9, device="cpu", threads=1, **more),
        "Model.predict": lambda **more: blankfill.load(tuned, "cpu").predict([GREEK], **more),
    }
    for call in calls.values():
        with pytest.raises(UserError, match=r"unknown to the tokenizer.*\(Greek\).*allow_unknown=True continues"):
            call()
        assert call(allow_unknown=True) is not None
    assert blankfill.fill(model, "The farmer paints the [MASK] 😀.").filled


def test_embed_stops_before_it_writes(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out = write_rows(tmp_path / "rows.txt", [GREEK] * 30), tmp_path / "out.npy"
    command = ["embed", "--model", str(pretrained), str(rows)]
    assert main([*command, "--out", str(out)]) == 2 == main(command)
    captured = capsys.readouterr()
    assert "tokens of the texts are unknown" in captured.err and not captured.out and not out.exists()
    assert main([*command, "--out", str(out), "--allow-unknown"]) == 0 and out.exists()
    capsys.readouterr()
    assert main(["embed", "--model", str(pretrained), str(write_rows(tmp_path / "known.txt", [sentences(30, 0)]))]) == 0
    assert "The texts: " in capsys.readouterr().err


def test_continued_pretraining_stops(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_rows(tmp_path / "text.txt", [f"{GREEK} {k}" for k in range(200)])
    more = ["--recipe", "bert-nano", "--objective.length", "32", "--train.steps", "1", "--out", str(tmp_path / "run")]
    assert main(["pretrain", str(text), "--from", str(pretrained), *more]) == 2
    assert "(Greek)" in (error := capsys.readouterr().err) and "--corpus.allow-unknown continues" in error
    prepared = ["prepare", str(text), "--tokenizer", str(pretrained), "--out", str(tmp_path / "corpus")]
    assert main(prepared) == 2
    assert main([*prepared, "--allow-unknown"]) == 0
    assert main(["pretrain", str(tmp_path / "corpus"), "--from", str(pretrained), *more]) == 2
    error = capsys.readouterr().err
    assert f"tokens of the text in {tmp_path / 'corpus'} are unknown" in error
