"""Data without labels are refused before a model is opened, with the columns that could be the label."""

from __future__ import annotations

from pathlib import Path

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError
from blankfill.finetuning.data import read_splits
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.datasets.tabular import tabular_task
from blankfill.tasks.options import FinetuneOptions


def refusal(data: Path, task: str = "classify", tables: TableOptions | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(tabular_task(task, tables), data, FinetuneOptions(), tables)
    return str(caught.value)


def rows(*cells: str) -> str:
    return "".join(f"a sentence {number},{cell}\n" for number, cell in enumerate(cells))


@pytest.mark.parametrize("task", ["classify", "regress", "multilabel"])
def test_no_column_is_the_label(tmp_path: Path, task: str) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,stars\n" + rows(*"1234512345"), encoding="utf-8")
    assert refusal(path, task) == (
        f"{path}: no column is obviously the label: name one with columns=label=NAME; its columns are 'text', 'stars'."
    )


def test_a_column_of_labels_that_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,stars\n" + rows(*[f",{number}" for number in range(10)]), encoding="utf-8")
    assert f"{path}: every row is empty in 'label': name one with columns=label=NAME" in refusal(path)


def test_a_dev_set_without_labels(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + rows(*"xyxyxyxyxy"), encoding="utf-8")
    (tmp_path / "dev.csv").write_text("text,note\n" + rows("z"), encoding="utf-8")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'dev.csv'}: no column is obviously the label")


def test_the_columns_are_read_as_the_options_say(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_bytes("text~größe\n".encode("cp1252") + b"".join(b"a sentence %d~1\n" % k for k in range(10)))
    options = TableOptions(encoding="cp1252", delimiter="~")
    assert "its columns are 'text', 'größe'." in refusal(path, tables=options)


def test_a_benchmark_without_labels(tmp_path: Path) -> None:
    row = '{{"id": "{0}", "premise": "a {0}", "hypothesis": "b", "idx": {0}}}\n'
    (tmp_path / "train.jsonl").write_text("".join(row.format(k) for k in range(10)), encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl has no labels, so a model can neither learn"):
        read_splits(TASKS["sg-rte"], tmp_path, FinetuneOptions())
