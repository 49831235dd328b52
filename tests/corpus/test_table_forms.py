"""The one reader of tables: forms that are recognised, cells as they are, and what is wrong named by its line."""

import csv
import datetime
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import limits
from blankfill.corpus.sources import SourceOptions, discover, read
from blankfill.corpus.tables.csv_rows import csv_rows, with_line_feeds
from blankfill.corpus.tables.delimiters import NONE, Dialect, find_dialect
from blankfill.corpus.tables.options import TableOptions, roles_of, split_names
from blankfill.corpus.tables.prose import text_choices
from blankfill.corpus.tables.reading import Table, open_table, table_kind
from blankfill.errors import UserError


def table(path: Path, text: str | bytes, **options: object) -> Table:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_table(path, TableOptions(**options))  # type: ignore[arg-type]


def cells(path: Path, text: str | bytes, **options: object) -> list[list[object]]:
    return [list(row.values()) for _, row in table(path, text, **options).rows()]


ROWS = [["id", "text", "n"], ["1", "a boat, red", "5"], ["2", "a quay", "6"], ["3", "x; y; z", "7"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_delimiter_line_end_and_mark(tmp_path: Path, delimiter: str, name: str, end: str, encoding: str):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(ROWS)
    result = table(tmp_path / name, stream.getvalue().encode(encoding))
    assert result.columns == ("id", "text", "n") and [list(row.values()) for _, row in result.rows()] == ROWS[1:]
    shown = "tab" if delimiter == "\t" else repr(delimiter)
    assert result.form == ("TSV" if (name, delimiter) == ("a.tsv", "\t") else f"CSV, {shown}")


def test_the_line_that_names_the_delimiter(tmp_path: Path):
    result = table(tmp_path / "a.csv", "sep=;\nid;text, all\n1;a, b\n2\n")
    assert result.columns == ("id", "text, all") and result.form == "CSV, ';'"
    assert next(result.rows()) == (3, {"id": "1", "text, all": "a, b"})
    with pytest.raises(UserError, match="line 4 has 1 cell where 2 are wanted"):
        list(result.rows())
    assert cells(tmp_path / "b.csv", "a#b\n1#x,y\n", delimiter="#") == [["1", "x,y"]]
    assert cells(tmp_path / "b.csv", "a\tb\n1\tx,y\n", delimiter="tab") == [["1", "x,y"]]


def test_one_column(tmp_path: Path):
    path = tmp_path / "a.csv"
    assert cells(path, 'text\n"Yes," he said, and left.\n"No."\n') == [['"Yes," he said, and left.'], ['"No."']]
    assert cells(path, 'text\n"a, b"\n"c\nd"\n') == [["a, b"], ["c\nd"]]
    assert find_dialect("text\na, b\n", True) == Dialect(NONE, False)


def prose(path: Path, text: str, *columns: str) -> tuple[list[str], list[str]]:
    """The documents of a table, and its notes."""
    path.write_text(text, encoding="utf-8", newline="")
    options = SourceOptions(columns=columns)
    (source,) = discover([path], options)
    documents = [(" / ".join(document.paragraphs), document.notes) for document in read(source, options)]
    return [text for text, _ in documents], list(documents[0][1])


def test_a_text_that_is_not_last_may_not_hold_unquoted_commas(tmp_path: Path):
    text = "text,id\na boat, red,1\na quay,2\n"
    with pytest.raises(UserError, match=r"a\.csv, line 2 has 3 cells where 2 are wanted"):
        prose(tmp_path / "a.csv", text)
    documents, notes = prose(tmp_path / "a.csv", 'id,text\n1,He said "no", and left\n2,a\n3,b,,\n4,"c, d", e\n')
    assert documents == ['He said "no", and left', "a", "b", '"c, d", e']
    assert len(notes) == 1 and notes[0].endswith(
        "a.csv: 2 rows have more cells than the header; the rest of such a row was read as part of 'text' (the first "
        "is line 2)."
    )
    documents, _ = prose(tmp_path / "a.tsv", "id\ttext\n1\ta boat\tred\n2\tb\n")
    assert documents == ["a boat red", "b"]


def test_marks_that_do_not_enclose_a_cell_are_text(tmp_path: Path):
    text = 'id,text,n\n1,"Yes," she said.,5\n2,"a ""b""",6\n3,five 6" nails,7\n'
    assert cells(tmp_path / "a.csv", text)[0] == ["1", '"Yes," she said.', "5"]
    assert [row[1] for row in cells(tmp_path / "a.csv", text)[1:]] == ['a "b"', 'five 6" nails']


def test_a_mark_that_is_closed_inside_another_row(tmp_path: Path):
    text = 'id,text\n1,"a\nb"\n2,"c\n3,d\n4,"e" f\n5,g\n'
    with pytest.raises(UserError, match="line 4: a quotation mark that opens there is never closed"):
        cells(tmp_path / "a.csv", text)


def test_backslashes_before_marks(tmp_path: Path):
    text = 'id,text,n\n1,"He said \\"no, no\\" and \\\\ left\nhome",5\n2,"b",6\n'
    assert cells(tmp_path / "a.csv", text) == [["1", 'He said "no, no" and \\ left\nhome', "5"], ["2", "b", "6"]]
    assert cells(tmp_path / "a.csv", 'id,text\n1,"C:\\dir\\"\n2,x\\n\n') == [["1", "C:\\dir\\"], ["2", "x\\n"]]
    late = "id,text,n\n" + "1,a,5\n" * 20_000 + '2,"He said \\"no\\"",6\n'
    with pytest.raises(UserError, match=r"line 20002 has the mark \\\" in a quoted cell"):
        cells(tmp_path / "a.csv", late)


ALPHABET = st.text(alphabet='ab",;\n\t| \\', max_size=6)


@given(st.lists(st.lists(ALPHABET, min_size=3, max_size=3), max_size=6), st.sampled_from(",;|"), st.data())
def test_what_csv_writes_is_read_back(rows: list[list[str]], delimiter: str, data: st.DataObject):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    text, size = stream.getvalue(), data.draw(st.integers(1, 9))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert [row for _, row, _ in csv_rows(pieces, "x", Dialect(delimiter))] == rows


@given(st.lists(st.text(alphabet="ab\r\n", max_size=4)))
def test_line_ends_are_the_same_however_a_text_is_cut(pieces: list[str]):
    expected = "".join(pieces).replace("\r\n", "\n").replace("\r", "\n")
    assert "".join(with_line_feeds(pieces)) == expected


def test_columns_with_one_name_or_none(tmp_path: Path):
    result = table(tmp_path / "a.csv", ",text,x,x\n0,a,b,c\n")
    assert result.columns == ("column 1", "text", "x", "x (4)")
    with pytest.raises(UserError, match="two columns that are called 'x'"):
        result.check_columns(["x"])
    result.check_columns(["text"])


@pytest.mark.parametrize(
    "value",
    [
        {"text": ["a", "b"], "n": [1, 2]}, {"text": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}},
        {"columns": ["text", "n"], "index": [0, 1], "data": [["a", 1], ["b", 2]]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_json_column_by_column(tmp_path: Path, value: object, indent: int | None):
    result = table(tmp_path / "a.json", json.dumps(value, indent=indent))
    assert result.form == "JSON, column by column" and result.columns == ("text", "n")
    assert [row for _, row in result.rows()] == [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    assert prose(tmp_path / "b.json", json.dumps(value, indent=indent))[0] == ["a", "b"]


def test_json_that_is_one_record(tmp_path: Path):
    for value in ({"text": "a", "tags": ["x"]}, {"text": ["a"], "n": [1, 2]}, {"text": {"en": "a"}}):
        assert [row for _, row in table(tmp_path / "a.json", json.dumps(value)).rows()] == [value]


def test_lone_surrogates_become_one_sign(tmp_path: Path):
    row = {"text": "a \ud83d b", "\ud83d": ["\udc00"]}
    expected = {"text": "a \ufffd b", "\ufffd": ["\ufffd"]}
    for name, text in (("a.jsonl", json.dumps(row)), ("a.json", json.dumps([row, row], indent=1))):
        assert next(table(tmp_path / name, text).rows())[1] == expected


def test_lines_of_json_with_other_ends(tmp_path: Path):
    assert len(list(table(tmp_path / "a.jsonl", b'{"a": 1}\r{"a": 2}\r').rows())) == 2


def test_strings_of_parquet_of_every_kind(tmp_path: Path):
    kinds = {"large": pa.large_string(), "view": pa.string_view(), "plain": pa.string()}
    columns = {name: pa.array(["a b", None], kind) for name, kind in kinds.items()}
    columns["coded"] = pa.array(["a b", None]).dictionary_encode()
    columns["listed"] = pa.array([["a b"], []], pa.large_list(pa.string_view()))
    for name, column in columns.items():
        pq.write_table(pa.table({"n": [1, 2], name: column}), tmp_path / "a.parquet")
        result = open_table(tmp_path / "a.parquet")
        assert result.text_columns == (name,)
        assert [(choice.field, choice.by) for choice in text_choices(result, TableOptions())] == [(name, "guess")]
        assert prose_of(tmp_path / "a.parquet") == ["a b", ""]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", b"id,text\n1,a b\n", "is text, and its name is that of a spreadsheet"),
        ("a.pq", b"id,text\n1,a b\n", "is text, and its name is that of a Parquet file"),
        ("a.csv", b"PK\x03\x04\x14\x00", "is a spreadsheet: give its name the suffix .xlsx"),
        ("a.tsv", b"PAR1\x15\x04\x15", "is a Parquet file: give its name the suffix .parquet"),
        ("a.xlsx", b"PAR1\x15\x04\x15", "is a Parquet file: give its name the suffix .parquet"),
        ("a.csv", b"\xef\xbb\xbf<html><body>Sign in", "is a web page .HTML., not a table"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not a table"),
    ],
)
def test_a_form_under_the_name_of_another(tmp_path: Path, name: str, content: bytes, sentence: str):
    with pytest.raises(UserError, match=f"{name} {sentence}"):
        table(tmp_path / name, content)
    with pytest.raises(UserError, match=f"{name} {sentence}"):
        open_table(tmp_path / name, kind=table_kind(name))


def test_text_that_begins_like_another_form_is_a_table(tmp_path: Path):
    assert [row["b"] for _, row in table(tmp_path / "a.csv", "PAR1,b\nx,y\n").rows()] == ["y"]
    assert [row["b"] for _, row in table(tmp_path / "b.csv", "a,b\nx,y\n".encode("utf-16")).rows()] == ["y"]


def prose_of(path: Path, **options: object) -> list[str]:
    chosen = SourceOptions(**options)  # type: ignore[arg-type]
    return [" ".join(d.paragraphs) for source in discover([path], chosen) for d in read(source, chosen)]


def workbook(path: Path) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "empty"
    sheet = book.create_sheet("first")
    for row in (["id", "text", "day", "ok"], [1, "a boat", datetime.date(2020, 1, 2), True], [2.5, 1984, None, None]):
        sheet.append(row)
    book.create_sheet("second")["A1"] = "text"
    book["second"]["A2"] = "other"
    book.save(path)
    return path


def test_a_spreadsheet(tmp_path: Path):
    pytest.importorskip("python_calamine")
    path = workbook(tmp_path / "a.xlsx")
    result = open_table(path)
    assert result.form == "spreadsheet, sheet 'first'" and result.where(2).endswith("a.xlsx, row 2")
    assert list(result.rows()) == [
        (2, {"id": "1", "text": "a boat", "day": "2020-01-02", "ok": "true"}),
        (3, {"id": "2.5", "text": "1984", "day": "", "ok": ""}),
    ]
    assert "3 sheets (empty, first, second), of which 'first' is read: choose another with sheet." in result.notes[0]
    assert prose_of(path) == ["a boat", "1984"] and prose_of(path, sheet="second") == ["other"]
    assert prose_of(path, sheet="3") == ["other"]
    with pytest.raises(UserError, match="has no sheet 'third'; its sheets are empty, first, second"):
        open_table(path, TableOptions(sheet="third"))
    with pytest.raises(UserError, match="has no rows in sheet 'empty'"):
        open_table(path, TableOptions(sheet="empty"))


def test_a_spreadsheet_that_cannot_be_read(tmp_path: Path, monkeypatch):
    pytest.importorskip("python_calamine")
    path = workbook(tmp_path / "a.xlsx")
    monkeypatch.setattr("blankfill.corpus.tables.spreadsheet_rows.LARGEST_WORKBOOK", 1000)
    with pytest.raises(UserError, match="more than the 1,000 that are read at once: save the table as CSV"):
        open_table(path)
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"b\.xlsx is not a readable spreadsheet"):
        open_table(tmp_path / "b.xlsx")
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(UserError, match=r"pip install 'blankfill\[office\]'"):
        open_table(path)


def test_several_columns_and_names_with_commas(tmp_path: Path):
    text = "title,body\nFerry,It sails.\n"
    assert prose(tmp_path / "a.csv", text, "title,body")[0] == ["Ferry / It sails."]
    assert prose(tmp_path / "a.csv", text, "text=title", "text=body")[0] == ["Ferry / It sails."]
    assert prose(tmp_path / "b.csv", '"a, b";c\nx;y\n', "a, b")[0] == ["x"]
    assert prose(tmp_path / "c.csv", "a=b,c\nx,y\n", "text=a=b")[0] == ["x"]
    assert prose(tmp_path / "d.jsonl", '{"t": {"en": "x", "de": null}}\n', "text=t.en")[0] == ["x"]


def test_the_grammar_of_columns():
    assert roles_of(["body", "label=a,b", "label=c", "text=x=y"]) == {"text": ("body", "x=y"), "label": ("a,b", "c")}
    assert split_names(["a,b", "c, d"], ["a,b"]) == ("a,b", "c", "d")
    problems = TableOptions(columns=("txet=a", "text="), delimiter=";;").table_problems(("text",))
    assert [problem.split(";")[0] for problem in problems[1:]] == [
        "columns has no role 'txet' here", "columns names no column for 'text'",
    ]  # fmt: skip
    assert "did you mean text?" in problems[1] and "it must be one character" in problems[0]


def test_a_guess_rests_on_many_records(tmp_path: Path):
    rows = [{"k": 7, "say": "12"}, *({"k": n, "say": f"it sails {n}"} for n in range(9))]
    path = tmp_path / "a.jsonl"
    result = table(path, "".join(json.dumps(row) + "\n" for row in rows))
    (choice,) = text_choices(result, TableOptions())
    assert (choice.form, choice.field, choice.by) == ("JSON Lines", "say", "guess")
    assert len(prose_of(path)) == 10
    result = table(path, '{"title": "a b", "TEXT": null}\n' * 3)
    assert [(choice.field, choice.by) for choice in text_choices(result, TableOptions())] == [("TEXT", "name")]


def test_a_row_that_never_ends_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_RECORD", 1000)
    with pytest.raises(UserError, match="line 2 begins a row of more than 1,000 characters"):
        cells(tmp_path / "a.csv", 'id,text\n1,"a\n' + "2,b\n" * 500)
