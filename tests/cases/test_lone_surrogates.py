"""Half of a pair of UTF-16 in tables, in rows of predict, in lines of embed and fill: it is U+FFFD everywhere."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from blankfill.cli.main import main
from blankfill.inference import load
from small_tasks import model_folder, run

SMALL = ("--device", "cpu", "--allow-unknown")
"""Options for a model whose vocabulary has a few words, not those of the case."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path)


def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[dict]:
    return map(json.loads, capsys.readouterr().out.splitlines())


def test_a_table_is_learnt_and_its_rows_are_predicted(
    case: Callable[[str], Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = case("lone-surrogates")
    run("classify", folder / "table", model, tmp_path / "run", epochs=1)
    capsys.readouterr()
    assert main(["predict", "--model", str(tmp_path / "run"), str(folder / "rows.jsonl"), *SMALL]) == 0
    (answer,) = lines(capsys)
    assert answer["label"] in ("0", "1")
    (tmp_path / "replaced.jsonl").write_text('{"text": "good \ufffd"}\n', encoding="utf-8")
    assert main(["predict", "--model", str(tmp_path / "run"), str(tmp_path / "replaced.jsonl"), *SMALL]) == 0
    assert list(lines(capsys)) == [answer]


def test_python_functions_take_it_for_the_replacement_character(model: Path):
    opened = load(model, device="cpu")
    assert np.array_equal(
        opened.embed(["a \ud83d b"], allow_unknown=True), opened.embed(["a \ufffd b"], allow_unknown=True)
    )
    assert (
        opened.fill("the \ud83d [MASK]", allow_unknown=True).text
        == opened.fill("the \ufffd [MASK]", allow_unknown=True).text
    )


def test_an_argument_that_is_not_utf8_is_refused(model: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fill", "--model", str(model), os.fsdecode(b"caf\xe9 [MASK]")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and r"argument 4 (caf\xe9 [MASK]) is not UTF-8; give text as UTF-8" in message


def test_lines_of_standard_input(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "vectors.npy"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a \\ud83d b"}\n'), encoding="utf-8"))
    assert main(["embed", "--model", str(model), "-", "--out", str(out), *SMALL]) == 0
    assert np.load(out).shape[0] == 1
