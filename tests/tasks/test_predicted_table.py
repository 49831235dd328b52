"""Tables to predict, for every kind of task: the items of their rows, by the columns of a table with labels."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.given import AnswerColumns, _rows_by_fields
from blankfill.tasks.datasets.predicted import PredictedTable, merged, options_of, with_fields
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.datasets.tabular import NAMES, ROLES, tabular_task
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, QuestionItem, TaggedItem, TextItem

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], Item]] = {
    "classify": (
        {"q": "a", "a": "b", "y": "x"}, {"q": "c", "a": "d", "y": "z"}, ["text=q", "second=a", "label=y"],
        TextItem("0", "a", "b"),
    ),
    "regress": ({"t": "a", "y": 1}, {"t": "b", "y": 2.5}, ["t", "label=y"], TextItem("0", "a")),
    "multilabel": ({"t": "a", "u": 1, "v": 0}, {"t": "b", "u": 0, "v": 1}, ["t", "label=u,v"], TextItem("0", "a")),
    "tag": ({"w": ["a", "b"], "t": ["O", "O"]}, {"w": ["c"], "t": ["B-X"]}, ["words=w", "tags=t"],
            TaggedItem("0", ("a", "b"))),
    "answer": (
        {"f": "who", "k": "a cat", "n": "cat"}, {"f": "who", "k": "a dog", "n": "dog"},
        ["question=f", "context=k", "answer=n"], QuestionItem("0", "who", "a cat"),
    ),
    "choice": (
        {"s": "a", "e1": "b", "e2": "c", "y": 1}, {"s": "a", "e1": "d", "e2": "e", "y": 0},
        ["context=s", "choices=e1,e2", "label=y"], ChoiceItem("0", "a", ("b", "c")),
    ),
    "generate": (
        {"tr": {"en": "a", "de": "b"}}, {"tr": {"en": "c", "de": "d"}}, ["source=tr.en", "target=tr.de"],
        GenerationItem("0", "a"),
    ),
}  # fmt: skip


def write_json(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return path


def opened(path: Path, kind: str, *columns: str, remembered: TableOptions | None = None) -> PredictedTable:
    form = "csv" if path.suffix != ".jsonl" else "jsonl"
    return PredictedTable(path, kind, form, TableOptions(columns=columns), remembered or TableOptions())


@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_are_read_by_the_columns_of_the_training_data(tmp_path: Path, kind: str) -> None:
    assert set(KINDS) == set(ROLES)
    first, second, columns, item = KINDS[kind]
    given = TableOptions(columns=tuple(columns))
    split = tabular_task(NAMES[kind], given).read(write_json(tmp_path / "train.jsonl", first, second))
    remembered = options_of(split.columns, given)
    labels = {choice.field.split(".")[0] for choice in split.columns if choice.role == ROLES[kind][0].label}
    texts = {choice.field.split(".")[0] for choice in split.columns} - labels
    bare = {name: value for name, value in first.items() if name in texts}
    for row in (first, bare) if texts & labels == set() and bare else (first,):
        row = {**row, "other": "o"}
        paths = [write_json(tmp_path / "n.jsonl", row)]
        if kind != "generate":  # an object is no cell of a CSV file
            paths.append(write_csv(tmp_path / "n.csv", row))
        for path in paths:
            (read,) = opened(path, kind, remembered=remembered).rows()
            assert read.item == item and read.row["other"] == "o"
    assert set(remembered.columns) == {column if "=" in column else f"text={column}" for column in columns}


def test_roles_that_are_given_replace_those_that_are_remembered() -> None:
    roles, _ = ROLES["answer"]
    old = TableOptions(columns=("question=f", "context=k", "answer=n"), delimiter=";")
    new = merged(TableOptions(columns=("question=g",)), old, roles)
    assert new == TableOptions(columns=("question=g", "context=k", "answer=n"), delimiter=";")
    assert merged(TableOptions(columns=("text=a,b",)), old, roles).columns == ("text=a,b", "answer=n")


def test_compressed_tables_and_tables_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("1,the cat\n2,the dog\n")
    remembered = TableOptions(columns=("text=2", "label=3"))
    items = [row.item for row in opened(path, "classify", remembered=remembered).rows()]
    assert items == [TextItem("0", "the cat"), TextItem("1", "the dog")]


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", {"question": "who", "text": "a"})
    with pytest.raises(UserError, match="has no column"):
        opened(path, "answer")
    with pytest.raises(ConfigError, match="has no role 'tags' here"):
        opened(path, "classify", "tags=a")
    with pytest.raises(UserError, match="has no column 'body'"):
        opened(path, "classify", "body")
    twice = tmp_path / "u.csv"
    twice.write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(UserError, match="two columns that are called 'text'"):
        opened(twice, "classify")


def test_fields_of_a_row_by_other_names() -> None:
    remembered = TableOptions(columns=("context=s", "choices=e1,e2"))
    assert with_fields("choice", {"s": "a", "e1": "b", "e2": "c"}, remembered)["choices"] == ["b", "c"]
    own = {"text": "a", "s": "b"}
    assert with_fields("classify", own, TableOptions(columns=("text=s",))) is own
    assert with_fields("classify", {"review": "a"}, TableOptions())["text"] == "a"
    assert with_fields("classify", {"x": "a"}, TableOptions()) == {"x": "a"}


def test_rows_of_a_benchmark_are_columns_of_the_names_of_their_fields(tmp_path: Path) -> None:
    row = {"passage": "A b. C d.", "question": "who?", "answers": ["A", "C"], "note": "n"}
    given = _rows_by_fields(task_named("multirc"), write_csv(tmp_path / "t.csv", row), "csv", TableOptions())
    (read,) = given.rows
    assert len(read.items) == 2 and read.cells["note"] == "n"
    answers = AnswerColumns(task_named("multirc"), [{"id": "0-0", "label": "1"}], ["item"], several=True)
    assert answers.cells({"id": "0-1", "label": "0"}) == {"prediction": "0", "item_2": "0-1"}
    with pytest.raises(UserError, match="a row of multirc has fields of its own"):
        _rows_by_fields(task_named("multirc"), tmp_path / "t.csv", "csv", TableOptions(columns=("a",)))
    empty = tmp_path / "e.csv"
    empty.write_text("passage,question,answers\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no rows"):
        list(_rows_by_fields(task_named("multirc"), empty, "csv", TableOptions()).rows)
