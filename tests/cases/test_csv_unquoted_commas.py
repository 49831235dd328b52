"""Nothing of a text is lost behind a comma that is not quoted, or a mark that is written with a backslash."""

from collections.abc import Callable
from pathlib import Path

from .table_texts import texts


def test_the_rest_of_a_row_belongs_to_the_text(case: Callable[[str], Path]):
    folder = case("csv-unquoted-commas")
    for name, skip in (("notes.csv", len("0,")), ("one-column.csv", 0)):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()[1:]
        assert texts(folder / name) == [line[skip if number < 10 or not skip else skip + 1 :].strip()
                                        for number, line in enumerate(lines)]  # fmt: skip


def test_marks_with_a_backslash(case: Callable[[str], Path]):
    documents = texts(case("csv-unquoted-commas") / "backslash.csv")
    assert len(documents) == 12
    assert all(document.startswith('She said "wait, please" and ') and document.endswith(".") for document in documents)
