"""Paths without a model: the error says what to give, and names models below."""

from __future__ import annotations

from pathlib import Path

import pytest

from blankfill.checkpoint.missing import models_below, nearby
from blankfill.cli.main import main

COMMANDS = (
    ["fill", "a [MASK]", "--model"],
    ["generate", "--prompt", "a", "--model"],
    ["predict", "rows.txt", "--model"],
    ["embed", "rows.txt", "--out", "out.npy", "--model"],
    ["evaluate", "--task", "perplexity", "--data", "rows.txt", "--model"],
    ["import", "--out", "out"],
    ["export", "--out", "out"],
    ["pretrain", "rows.txt", "--out", "out", "--from"],
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("some text\n", encoding="utf-8")
    (tmp_path / "package" / "inner" / "model").mkdir(parents=True)
    (tmp_path / "package" / "inner" / "model" / "model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_name_of_a_model_on_a_hub(command: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "google/bert"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("blankfill: google/bert: no such file or folder; give ")
    assert "blankfill downloads nothing" in printed
    assert not (here / "out").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_folder_above_the_model(command: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "package"]) == 2
    assert f"; did you mean {Path('package', 'inner', 'model')}?" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_the_nearest_level_and_few_models_are_named(tmp_path: Path) -> None:
    assert nearby(tmp_path) == ""
    for name in ("b", "a"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    assert models_below(tmp_path) == [tmp_path / "runs" / "a", tmp_path / "runs" / "b"]
    assert nearby(tmp_path) == f"; did you mean {tmp_path / 'runs' / 'a'} or {tmp_path / 'runs' / 'b'}?"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "state.json").write_text("{}", encoding="utf-8")
    assert models_below(tmp_path) == [tmp_path / "model"]
    for number in range(4):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}" / "pytorch_model.bin").write_bytes(b"")
    assert nearby(tmp_path) == ""
    assert nearby(tmp_path / "nowhere") == ""
