"""The delimiter is the one that cuts the header and the first rows into equally many cells."""

from collections.abc import Callable
from pathlib import Path

from blankfill.tasks.datasets.tabular import tabular_task

from .table_texts import fields, texts


def test_semicolons_and_bars(case: Callable[[str], Path]):
    folder = case("csv-delimiters")
    for name, form, field, by in (
        ("semicolon.csv", "CSV, ';'", "text (de, en)", "guess"), ("bars.csv", "CSV, '|'", "text", "name"),
    ):  # fmt: skip
        documents = texts(folder / name)
        assert len(documents) == 12 and documents[0].startswith("The and crosses the where every bread")
        assert not any(";" in document or "|" in document for document in documents)
        assert fields(folder / name) == {(form, field, by)}


def test_a_comma_in_the_header_of_a_table_with_semicolons(case: Callable[[str], Path]):
    train = tabular_task("classify").read(case("csv-delimiters") / "table", "train")
    assert len(train) == 30 and train.labels == ("0", "1") and train.texts()[1].first == "good soup 1"
    assert [(choice.field, choice.by) for choice in train.columns] == [("text", "name"), ("label (0,1)", "guess")]
