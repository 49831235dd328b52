"""`predict` reads a table as `finetune` does: no header, no label and no bracket is a text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.cli.main import main
from blankfill.finetuning.predict import predict
from small_tasks import model_folder, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "train.csv").write_text("text,label\n" + "the fine cat,1\nthe poor dog,0\n" * 12, encoding="utf-8")
    return run("classify", folder / "train.csv", model_folder(folder), folder / "run", epochs=1).folder


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("reviews.csv", ["good soup", "bad tea", "good, hot bread", "bad apples"]),
        ("reviews.tsv", ["good soup", "bad tea"]),
        ("reviews.json", ["good soup", "bad tea"]),
    ],
)
def test_rows_of_a_table(
    case: Callable[[str], Path], model: Path, capsys: pytest.CaptureFixture[str], name: str, texts: list[str]
):
    folder = case("predict-a-table")
    assert main(["predict", "--model", str(model), str(folder / name), "--allow-unknown", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == predict(model, texts, device="cpu", threads=1, allow_unknown=True).rows


def test_a_value_that_is_no_object(case: Callable[[str], Path], model: Path, capsys: pytest.CaptureFixture[str]):
    table = case("predict-a-table") / "reviews.json"
    table.write_text('[\n{"text": "good soup"},\n"bad tea"\n]\n', encoding="utf-8")
    assert main(["predict", "--model", str(model), str(table), "--allow-unknown"]) == 2
    assert "record 2 is not a JSON object" in capsys.readouterr().err
