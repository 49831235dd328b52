"""Numbers with a decimal comma, as German and French spreadsheets write them."""

from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.decimals import is_ambiguous, with_point
from blankfill.tasks.datasets.tabular import tabular_task


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("3,5", "3.5"), (" -0,25 ", "-0.25"), ("0,125", "0.125"), ("12345,678", "12345.678"), ("7,1234", "7.1234"),
        ("1,234", "1,234"), ("3.5", "3.5"), ("1.234,5", "1.234,5"), ("1,2,3", "1,2,3"), ("", ""), (3.5, 3.5),
        (None, None),
    ],
)  # fmt: skip
def test_a_decimal_comma(cell: object, read: object) -> None:
    assert with_point(cell) == read
    assert is_ambiguous(cell) == (cell == "1,234")


def test_scores_with_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text;score\na b;3,5\nc d;0,25\ne f;4\n", encoding="utf-8")
    assert [item.label for item in tabular_task("regress").read(path).texts()] == [3.5, 0.25, 4.0]
    path.write_text("text;score\na b;3,5\nc d;1,234\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3 has the score '1,234', which may be a decimal or thousands: write it"):
        tabular_task("regress").read(path)


def test_a_folder_without_the_file_of_a_split_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("reviews.csv", "notes.docx"):
        (tmp_path / name).write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"looked for train\.csv.*; it holds reviews\.csv: rename one, or give"):
        tabular_task("classify").read(tmp_path)
    (tmp_path / "reviews.csv").unlink()
    with pytest.raises(UserError, match=r"looked for train\.csv, .*, …\.$"):
        tabular_task("classify").read(tmp_path)
