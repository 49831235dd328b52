"""`predict` on tables of the user's own: the columns of the training data, and tables with the predictions added."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.cli.main import main
from blankfill.corpus.tables.options import TableOptions
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.predict import predict
from blankfill.finetuning.predictor import open_predictor
from blankfill.finetuning.run import finetune
from small_tasks import QUICK, model_folder, sentences

ROWS: list[dict[str, Any]] = [
    {"nr": "a7", "review": 'the big cat, fine\non the "mat"', "stars": "good", "price": "1.50"},
    {"nr": "b1", "review": "the dog poor sat\tran", "stars": "", "price": "002"},
    {"nr": "c9", "review": "=fine red cat", "stars": "bad", "price": "3"},
]
NAMES = list(ROWS[0])


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_table(path: Path) -> Path:
    """Write the rows in the form that the name says."""
    form = path.suffix
    if form in (".csv", ".tsv"):
        return write_csv(path, ROWS, "\t" if form == ".tsv" else ",")
    if form == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif form == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row, values in enumerate([NAMES, *(row.values() for row in ROWS)], 1):
            for column, value in enumerate(values, 1):
                cell = book.active.cell(row, column, value)
                cell.data_type = "s"
        book.save(path)
    elif form == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a table with the reader of another library."""
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        names, *rows = openpyxl.load_workbook(path).active.values
        return [dict(zip(names, ["" if cell is None else cell for cell in row], strict=True)) for row in rows]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tuned_on(folder: Path, task: str, rows: list[dict[str, Any]], *columns: str) -> Path:
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = FinetuneConfig(
        task, data, model_folder(folder), dataclasses.replace(QUICK, epochs=1), TableOptions(columns=columns)
    )
    finetune(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"nr": f"r{k}", "review": text, "stars": "good" if label else "bad"}
        for k, (text, label) in enumerate(sentences(48, 1))
    ]
    return tuned_on(tmp_path_factory.mktemp("tables"), "classify", rows, "text=review", "label=stars", "id=nr")


def predicted(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; returns its exit code, its lines of JSON and its notices."""
    capsys.readouterr()
    code = main(["predict", *map(str, arguments)])
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    return code, lines, said.err


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet", "xlsx"])
def test_a_table_is_predicted_by_the_columns_of_the_training_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    table = write_table(tmp_path / f"new.{form}")
    code, lines, notices = predicted(capsys, "--model", model, table)
    texts = [row["review"] for row in ROWS]
    assert code == 0 and [line["id"] for line in lines] == ["a7", "b1", "c9"]
    expected = predict(model, [{"text": text} for text in texts], device="cpu", threads=1).rows
    assert [line["probabilities"] for line in lines] == [row["probabilities"] for row in expected]
    assert "text 'review', id 'nr'" in notices and "the labels in stars: accuracy" in notices
    assert "(2 examples" in notices


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
def test_a_table_comes_back_with_its_columns_and_the_predictions(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    table, out, again = write_table(tmp_path / "new.csv"), tmp_path / f"out.{form}", tmp_path / f"again.{form}"
    _, lines, _ = predicted(capsys, "--model", model, table)
    assert main(["predict", "--model", str(model), str(table), "--out", str(out)]) == 0
    rows = read_table(out)
    assert [{name: row[name] for name in NAMES} for row in rows] == ROWS
    assert [row["prediction"] for row in rows] == [line["label"] for line in lines]
    assert [float(row["probability_good"]) for row in rows] == [line["probabilities"]["good"] for line in lines]
    assert list(rows[0]) == [*NAMES, "prediction", "probability_bad", "probability_good"]
    code, _, notices = predicted(capsys, "--model", model, out, "--out", again)
    assert code == 0 and "'prediction' is 'prediction_2'" in notices
    assert [(row["review"], row["prediction"], row["prediction_2"]) for row in read_table(again)] == [
        (row["review"], row["prediction"], row["prediction"]) for row in rows
    ]


def test_cells_of_parquet_keep_their_types(model: Path, tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    import pyarrow
    import pyarrow.parquet

    values = {
        "review": ["fine cat", "poor dog"], "n": pyarrow.array([1, None], pyarrow.int16()),
        "day": [datetime.date(2026, 1, 2), None], "price": [Decimal("1.50"), Decimal("2.25")],
        "kind": pyarrow.array(["a", "b"]).dictionary_encode(), "parts": [["x", "y"], []], "at": [{"k": 1}, {"k": 2}],
    }  # fmt: skip
    table = pyarrow.table(values)
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    command = ["predict", "--model", str(model), str(tmp_path / "t.parquet")]
    assert main([*command, "--out", str(tmp_path / "o.parquet")]) == 0
    written = pyarrow.parquet.read_table(tmp_path / "o.parquet")
    assert [written.schema.field(name).type for name in values] == [table.schema.field(name).type for name in values]
    assert written.select(list(values)).to_pylist() == table.to_pylist()
    assert main([*command, "--out", str(tmp_path / "o.csv")]) == 0
    first = read_table(tmp_path / "o.csv")[0]
    assert (first["day"], first["price"], first["parts"], first["at"]) == (
        "2026-01-02",
        "1.50",
        '["x", "y"]',
        '{"k": 1}',
    )


def test_cells_of_json_keep_their_types(model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    rows = [
        {"review": "fine cat", "n": 1, "x": 1, "yes": True, "tags": ["a"], "mixed": 1},
        {"review": "poor dog", "n": None, "x": 2.5, "yes": False, "tags": [], "mixed": "b", "late": "z"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert (
        main(["predict", "--model", str(model), str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "o.parquet")]) == 0
    )
    schema = pyarrow.parquet.read_schema(tmp_path / "o.parquet")
    assert [str(schema.field(name).type) for name in ("n", "x", "yes", "tags", "mixed", "late")] == [
        "int64", "double", "bool", "list<element: string>", "string", "string",
    ]  # fmt: skip
    assert pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pylist()[1]["mixed"] == "b"


def test_a_file_without_the_name_of_a_table_is_recognised_by_its_first_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("nr;review\n1;fine cat\n2;poor dog\n", encoding="utf-8")
    code, lines, notices = predicted(capsys, "--model", model, tmp_path / "t.txt")
    assert code == 0 and [line["id"] for line in lines] == ["1", "2"]
    assert "is read as a table, since its first line names the column 'review'" in notices
    (tmp_path / "t.txt").write_text("review\nfine cat\n", encoding="utf-8")
    code, lines, notices = predicted(capsys, "--model", model, tmp_path / "t.txt")
    assert len(lines) == 2 and "is read as lines of text, the first of which is 'review'" in notices
    _, lines, _ = predicted(capsys, "--model", model, tmp_path / "t.txt", "--columns", "review")
    assert len(lines) == 1
    (tmp_path / "t.txt").write_text("fine cat, big\tpoor dog\n", encoding="utf-8")
    code, lines, notices = predicted(capsys, "--model", model, tmp_path / "t.txt")
    assert len(lines) == 1 and "read as" not in notices


def test_what_is_no_such_table_is_refused_in_a_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str, text: str, *arguments: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        code, _, notices = predicted(capsys, "--model", model, tmp_path / name, *arguments)
        assert code == 2
        return notices

    assert "t.jsonl, line 2 is not a JSON object" in refused("t.jsonl", '{"review": "a"}\n["b", 1]\n')
    assert "t.json, record 2 is not a JSON object" in refused("t.json", '[{"review": "a"}, 5]')
    assert "t.txt, line 2: a JSON list is no row" in refused("t.txt", 'fine\n["b", "poor"]\n')
    said = refused("t.csv", "nr,rating\n1,2\n")
    assert "has no column 'review', which the model was fine-tuned on; its columns are nr, rating" in said
    said = refused("t.csv", "nr,review\n1,2\n", "--columns", "body")
    assert "has no column 'body'" in said and "nr, review" in said
    assert "no role 'words' here" in refused("t.csv", "nr,review\n1,2\n", "--columns", "words=review")
    assert "t.csv has no rows" in refused("t.csv", "nr,review\n")
    said = refused("t.jsonl", '{"review": {"de": "gut"}}\n')
    assert "line 1 has an object with de in 'review'" in said and "review.de" in said
    assert main(["predict", "--model", str(model), "--data", str(tmp_path), "--columns", "a"]) == 2
    assert "--columns is for a table to predict" in capsys.readouterr().err
    assert main(["predict", "--model", str(model), "-", "--columns", "a"]) == 2
    assert "standard input is read as lines" in capsys.readouterr().err


def test_usual_names_serve_where_the_columns_of_the_training_data_are_absent(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "t.csv", [{"x": 1, "text": "fine cat"}, {"x": 2, "text": ""}])
    code, lines, notices = predicted(capsys, "--model", model, tmp_path / "t.csv")
    assert code == 0 and [line["id"] for line in lines] == ["0", "1"]
    assert "text 'text', in place of 'review', which the model was fine-tuned on" in notices
    assert "1 of 2 rows have no text" in notices


def test_labels_that_the_model_does_not_know_are_not_scored(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "t.csv", [{"review": "fine cat", "stars": "grand"}])
    code, lines, notices = predicted(capsys, "--model", model, tmp_path / "t.csv")
    assert code == 0 and len(lines) == 1 and "are not scored" in notices and "'grand'" in notices


def test_runs_that_note_no_columns_go_by_their_configuration_and_by_usual_names(model: Path, tmp_path: Path) -> None:
    import shutil

    from small_run import edit_state

    old = Path(shutil.copytree(model, tmp_path / "old"))
    for state in old.glob("checkpoints/*/state.json"):
        task = json.loads(state.read_text(encoding="utf-8"))["task"]
        assert task["tables"]["columns"] == ["text=review", "label=stars", "id=nr"]
        edit_state(state, task={name: value for name, value in task.items() if name != "tables"})
    assert open_predictor(old, "cpu", 1).tables.columns == ("text=review", "label=stars", "id=nr")
    (old / "finetune.json").unlink()
    assert open_predictor(old, "cpu", 1).tables == TableOptions()
    write_csv(tmp_path / "t.csv", [{"sentence": "fine cat"}])
    assert main(["predict", "--model", str(old), str(tmp_path / "t.csv"), "--out", str(tmp_path / "o.csv")]) == 0
    assert read_table(tmp_path / "o.csv")[0]["sentence"] == "fine cat"


def test_mappings_may_have_the_columns_of_the_training_data(model: Path) -> None:
    opened = open_predictor(model, "cpu", 1)
    rows = predict(opened, [{"review": "fine cat", "price": 3}, {"text": "fine cat"}, {"sentence": "fine cat"}]).rows
    assert [row["probabilities"] for row in rows] == [rows[0]["probabilities"]] * 3


def test_lines_are_written_as_a_table(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("fine cat\npoor, dog\n", encoding="utf-8")
    assert main(["predict", "--model", str(model), str(tmp_path / "t.txt"), "--out", str(tmp_path / "o.csv")]) == 0
    rows = read_table(tmp_path / "o.csv")
    assert [(row["id"], row["text"]) for row in rows] == [("0", "fine cat"), ("1", "poor, dog")]
    assert list(rows[0]) == ["id", "text", "prediction", "probability_bad", "probability_good"]
    assert main(["predict", "--model", str(model), str(tmp_path / "t.txt"), "--out", str(tmp_path / "o.jsonl")]) == 0
    assert set(read_table(tmp_path / "o.jsonl")[0]) == {"id", "label", "probabilities"}


def test_words_and_tags_come_back_as_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"w": text.split(), "t": ["B-X" if word in ("cat", "dog") else "O" for word in text.split()]}
        for text, _ in sentences(48, 1)
    ]
    run = tuned_on(tmp_path, "tag", rows, "words=w", "tags=t")
    new = [{"w": ["the", "cat"], "t": ["O", "B-X"]}, {"w": [], "t": []}, {"w": ["a,b", "dog"], "t": ["O", "B-X"]}]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new), encoding="utf-8")
    code, _, notices = predicted(capsys, "--model", run, tmp_path / "n.jsonl", "--out", tmp_path / "o.csv")
    assert code == 0 and "1 of 3 rows are not predicted: each is empty (line 2)" in notices
    table = read_table(tmp_path / "o.csv")
    assert [json.loads(row["w"]) for row in table] == [row["w"] for row in new] and table[1]["prediction"] == ""
    assert [len(json.loads(table[k]["prediction"])) for k in (0, 2)] == [2, 2]
    assert "2 examples" in notices
    _, first, _ = predicted(capsys, "--model", run, tmp_path / "n.jsonl")
    _, second, _ = predicted(capsys, "--model", run, tmp_path / "o.csv")
    assert [row["tags"] for row in first] == [row["tags"] for row in second]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
@pytest.mark.parametrize("id", ["nr", "id", ""])
def test_a_table_of_predictions_is_scored(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, id: str
) -> None:
    rows = [{"review": text, "stars": "good" if label else "bad"} for text, label in sentences(30, 7)]
    if id:
        rows = [{id: f"x{k}", **row} for k, row in enumerate(rows)]
    table, out = write_csv(tmp_path / "t.csv", rows), tmp_path / f"o.{form}"
    columns = ["text=review", "label=stars", *(["id=nr"] if id == "nr" else [])]
    assert main(["predict", "--model", str(model), str(table), "--out", str(out), "--columns", *columns]) == 0
    predicted_rows = read_table(out)
    right = sum(row["prediction"] == row["stars"] for row in predicted_rows)
    command = ["evaluate", "--task", "classify", "--data", str(table), "--columns", *columns, "--json", "--"]
    capsys.readouterr()
    assert main([*command, str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == pytest.approx(right / 30)
    lines = tmp_path / "lines.jsonl"
    _, printed, _ = predicted(capsys, "--model", model, table, "--columns", *columns)
    lines.write_text("".join(json.dumps(line) + "\n" for line in printed), encoding="utf-8")
    assert main([*command, str(lines)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == pytest.approx(right / 30)


def test_json_lines_of_a_table_with_the_usual_names_are_scored(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its columns text and label are those of a table, not of a record of `predict`, which has an id."""
    rows = [{"text": text, "label": "good" if label else "bad"} for text, label in sentences(30, 7)]
    table, out = write_csv(tmp_path / "t.csv", rows), tmp_path / "o.jsonl"
    columns = ["text=text", "label=label"]
    assert main(["predict", "--model", str(model), str(table), "--out", str(out), "--columns", *columns]) == 0
    right = sum(row["prediction"] == row["label"] for row in read_table(out))
    capsys.readouterr()
    assert main(["evaluate", "--task", "classify", "--data", str(table), "--json", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == pytest.approx(right / 30)


def test_tables_that_hold_no_predictions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_csv(tmp_path / "t.csv", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    command = ["evaluate", "--task", "classify", "--data", str(table)]
    assert main([*command, str(table)]) == 2
    assert "has no column 'prediction'; its columns are text, label" in capsys.readouterr().err
    short = write_csv(tmp_path / "p.csv", [{"text": "a", "prediction": "x"}])
    assert main([*command, str(short)]) == 2
    assert "1 of 2 items have no prediction, such as 1" in capsys.readouterr().err
    strange = write_csv(tmp_path / "p.csv", [{"prediction": "x"}, {"prediction": "z"}])
    assert main([*command, str(strange)]) == 2
    assert "the prediction for 1 cannot be read" in capsys.readouterr().err
    assert main(["evaluate", "--task", "sst2", "--data", str(tmp_path), "--columns", "a", "--", str(short)]) == 2
    assert "sst2 knows the form of its files" in capsys.readouterr().err
    twice = [{"prediction": "y", "prediction_2": "x"}, {"prediction": "x", "prediction_2": "y"}]
    assert main([*command, str(write_csv(tmp_path / "p.csv", twice))]) == 0
    said = capsys.readouterr()
    assert "accuracy 1.0000" in said.out and "of the columns prediction, prediction_2 the last is scored" in said.err


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_file_behind_the_columns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    table = write_csv(tmp_path / "t.csv", [{"text": "a", "prediction": "x"}])
    more = ["--model", "RUN"] if command == "predict" else ["--task", "classify", "--data", str(table)]
    assert main([command, *more, "--columns", "text", str(table)]) == 2
    assert f"{table} was taken for a column: name the file before --columns" in capsys.readouterr().err
