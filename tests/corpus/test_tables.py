"""Records of every format: which field is the text, what a record becomes, and which line an error names."""

import csv
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
from blankfill.corpus.tables.json_rows import json_values
from blankfill.corpus.tables.reading import open_table
from blankfill.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")


def texts(path: Path, field: str | None = None) -> list[list[str]]:
    """The paragraphs of every document of a file, through `discover` and `read`."""
    options = SourceOptions(columns=() if field is None else (f"text={field}",))
    return [
        list(document.paragraphs) for source in discover([str(path)], options) for document in read(source, options)
    ]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def jsonl(path: Path, *records: object) -> Path:
    return written(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"text": "a boat", "content": "a quay"}, "text"),
        ({"id": "x", "Content": "a boat", "title": "b c"}, "Content"),
        ({"id": "x", "utterance": "a boat", "year": "1999", "score": 0.5}, "utterance"),
        ({"label": "sports", "lines": ["a boat", "a quay"]}, "lines"),
        ({"标题": "渡船", "正文": "渡船很旧。"}, "正文"),
    ],
)
def test_the_obvious_field_is_found(tmp_path: Path, record: dict, field: str):
    value = record[field]
    assert texts(jsonl(tmp_path / "a.jsonl", record)) == [[value] if isinstance(value, str) else value]


def test_an_ambiguous_record_lists_the_candidates(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", {"premise": "a boat", "hypothesis": "a quay", "idx": 3})
    with pytest.raises(UserError, match=r"line 1: .* premise, hypothesis: choose one with columns=text=NAME"):
        texts(path)
    assert texts(path, "hypothesis") == [["a quay"]]
    with pytest.raises(UserError, match="could be any of content, body"):
        texts(jsonl(tmp_path / "b.jsonl", {"content": "a boat", "body": "a quay"}))


def test_a_version_beside_nested_data_is_not_taken_for_the_text(tmp_path: Path):
    record = {"version": "v1.1", "data": [{"paragraphs": [{"context": "A boat."}, {"context": "A quay\n\nby it."}]}]}
    path = jsonl(tmp_path / "a.json", record)
    with pytest.raises(UserError, match=r"\(fields: version, data\)"):
        texts(path)
    assert texts(path, "data.paragraphs.context") == [["A boat.", "A quay", "by it."]]
    with pytest.raises(UserError, match=r"has no field 'contexts' \(its fields: context\)"):
        texts(path, "data.paragraphs.contexts")


def test_a_record_without_the_field_is_named_by_its_line(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": None}, {"text": ""}, {"body": "two", "n": 1})
    with pytest.raises(UserError, match=r"a\.jsonl, line 4 has no field 'text' \(its fields: body, n\)"):
        texts(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "two', r"line 3 is not valid JSON \(.* at column 10\)"),
        ("[1, 2]", "line 3 holds a list where an object"),
        ('{"text": 7}', "line 3: field 'text' holds a number, not text"),
        ('{"text": {"a": "b"}}', "line 3: field 'text' holds an object, not text"),
        ("[" * 100_000, "line 3 is not valid JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str):
    path = written(tmp_path / "a.jsonl", '{"text": "one"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=said):
        texts(path)


def test_lines_are_counted_from_the_file_in_a_later_range(tmp_path: Path):
    path = jsonl(tmp_path / "a.jsonl", *({"other": "y z", "text": f"number {n}"} for n in range(40)))
    with path.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    sources = discover([str(path)], SourceOptions(), large_bytes=500)
    assert len(sources) > 2
    with pytest.raises(UserError, match="line 41 is not valid JSON"):
        list(read(sources[-1], SourceOptions()))


def test_every_range_reads_the_field_that_the_first_record_chose(tmp_path: Path):
    rows = [{"story": f"first {n}"} for n in range(30)] + [{"content": "no", "story": f"last {n}"} for n in range(30)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    options = SourceOptions()
    sources = discover([str(path)], options, large_bytes=400)
    assert len(sources) > 3
    assert [p for source in sources for d in read(source, options) for p in d.paragraphs] == [
        row["story"] for row in rows
    ]


def test_lists_of_sentences_and_of_paragraphs(tmp_path: Path):
    def one(value: object) -> list[str]:
        return texts(jsonl(tmp_path / "a.jsonl", {"text": value}))[0]

    assert one(["It sails.", "It returns."]) == ["It sails. It returns."]
    assert one(["它开了。", "它回来了。"]) == ["它开了。它回来了。"]
    assert one(["A heading", "another"]) == ["A heading", "another"]
    assert one([["It sails.", "It returns."], ["It burns."]]) == ["It sails. It returns.", "It burns."]


def test_json_files_in_all_their_forms(tmp_path: Path):
    rows = [{"text": 'one [1, {2}] "x" \\'}, {"text": "two"}, {"text": "three"}]
    for indent in (None, 2):
        assert texts(written(tmp_path / "a.json", json.dumps(rows, indent=indent))) == [[r["text"]] for r in rows]
        pretty = "\n".join(json.dumps(row, indent=indent) for row in rows)
        assert texts(written(tmp_path / "a.json", pretty)) == [[row["text"]] for row in rows]
    assert texts(written(tmp_path / "a.json", '["one two", "three"]')) == [["one two"], ["three"]]


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text() | st.integers() | st.lists(st.text()))), st.data())
def test_json_values_are_the_same_however_they_are_cut(rows: list, data: st.DataObject):
    text = data.draw(st.sampled_from([json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))]))
    size = data.draw(st.integers(1, 20))
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    assert list(json_values(pieces, "x")) == rows


def test_broken_json_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"a\.json, line 3 is not valid JSON .*array of objects"):
        texts(written(tmp_path / "a.json", '[\n{"text": "one"},\n{"text" "two"}]'))
    with pytest.raises(UserError, match="ends inside its array"):
        texts(written(tmp_path / "a.json", '[{"text": "one"},'))
    with pytest.raises(UserError, match="record 2 has no field 'text'"):
        texts(written(tmp_path / "a.json", '[{"text": "one"}, {}]'))


def test_csv_with_quotes_and_line_ends_inside(tmp_path: Path):
    path = tmp_path / "a.csv"
    rows = [["id", "review", "stars"], ["1", 'He said "no",\ntwice', "5"], ["2", "", "4"], ["3", "fine; really", "1"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    assert texts(path) == [['He said "no",', "twice"], [], ["fine; really"]]
    assert texts(path, "review") == texts(path)
    written(tmp_path / "b.csv", "id;review\n1;a, b\n")
    assert texts(tmp_path / "b.csv") == [["a, b"]]


def test_tsv_without_quoting_keeps_stray_marks(tmp_path: Path):
    path = written(tmp_path / "a.tsv", 'sentence\tlabel\n"Yes," he said.\t1\nfive 6" nails\t0\n')
    assert texts(path) == [['"Yes," he said.'], ['five 6" nails']]
    path = written(tmp_path / "b.tsv", 'sentence\tlabel\n"a ""b"""\t1\n"two\nlines"\t0\n'.replace("two\nlines", "two"))
    assert texts(path) == [['a "b"'], ["two"]]


def test_columns_by_number_need_no_header(tmp_path: Path):
    path = written(tmp_path / "a.tsv", "x1\tA boat.\t0\nx2\tA quay.\t1\n")
    assert texts(path, "2") == [["A boat."], ["A quay."]]
    for number in ("0", "4"):
        with pytest.raises(UserError, match=f"has no column {number}: its 3 columns count from 1"):
            texts(path, number)
    path = written(tmp_path / "named.csv", "0,1,2\nx1,A boat.,2\n")
    assert texts(path, "1") == [["A boat."]]
    with pytest.raises(UserError, match=r"line 1: .* by its number from 1 where there is no header"):
        texts(path)


def test_csv_errors_name_the_place(tmp_path: Path, monkeypatch):
    path = written(tmp_path / "a.csv", "id,text\n1,one\n2\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3 has 1 cell where 2 are wanted"):
        texts(path)
    with pytest.raises(UserError, match="no column 'body'; its columns are id, text"):
        texts(path, "body")
    with pytest.raises(UserError, match=r"e\.csv is empty"):
        texts(written(tmp_path / "e.csv", "\n\n"))
    monkeypatch.setattr(limits, "LONGEST_RECORD", 100)
    with pytest.raises(
        UserError, match="line 2 begins a row of more than 100 characters: a quotation mark in it is probably never"
    ):
        texts(written(tmp_path / "b.csv", 'id,text\n1,"one\n' + "2,two\n" * 50))


def test_parquet_in_row_groups(tmp_path: Path):
    path = tmp_path / "a.parquet"
    rows = [f"number {n}" for n in range(1000)]
    pq.write_table(pa.table({"id": range(1000), "text": rows, "url": rows}), path, row_group_size=100)
    assert texts(path) == [[row] for row in rows]
    options = SourceOptions()
    sources = discover([str(path)], options, large_bytes=3000)
    assert [(source.start, source.end) for source in sources[:2]] != [(0, None)] and len(sources) > 2
    documents = [(d.name, list(d.paragraphs)) for source in sources for d in read(source, options)]
    assert documents == [(f"{path}#{n + 1}", [row]) for n, row in enumerate(rows)]


def test_parquet_fields(tmp_path: Path):
    path = tmp_path / "part-0"
    table = pa.table({"a": ["x y"], "b": [["It sails.", "It returns."]], "c": [{"d": "deep"}]})
    pq.write_table(table, path)
    assert texts(path, "b") == [["It sails. It returns."]]
    assert texts(path, "c.d") == [["deep"]]
    with pytest.raises(UserError, match="could be any of a, b"):
        texts(path)
    with pytest.raises(UserError, match="no column 'z'; its columns are a, b, c"):
        texts(path, "z")


def test_parquet_that_cannot_be_read(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"junk" * 10 + b"PAR1")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        texts(path)
    with pytest.raises(UserError, match="not a readable Parquet file"):
        open_table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'blankfill\[text\]'"):
        texts(path)


@pytest.mark.data
@needs_data
def test_real_tables():
    assert len(texts(DATA / "chnsenticorp" / "dev.tsv")) == 1200
    assert len(texts(DATA / "glue" / "SST-2" / "train.tsv")) == 67349
    assert len(texts(DATA / "glue" / "CoLA" / "dev.tsv", "4")) == 1043
    assert len(texts(DATA / "lambada" / "lambada_test.jsonl")) == 5153
    abstracts = texts(DATA / "scitldr" / "SciTLDR-A" / "dev.jsonl", "source")
    assert len(abstracts) == 619 and sum(len(abstract) == 1 for abstract in abstracts) > 580
    contexts = texts(DATA / "xquad" / "xquad.en.json", "data.paragraphs.context")
    assert len(contexts) == 1 and len(contexts[0]) >= 240
    assert len(texts(DATA / "wiki_zh")) == 64 + 222
