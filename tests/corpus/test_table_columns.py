"""Which column is the text where no name says it, and messages from which the right command can be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.corpus.sources import SourceOptions, discover, read
from blankfill.corpus.tables.columns import choose_text, listed, nearest, text_inside
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.reading import open_table
from blankfill.errors import UserError


def csv(path: Path, header: str, rows: list[str]) -> list[str]:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    options = SourceOptions()
    return [" ".join(d.paragraphs) for source in discover([path], options) for d in read(source, options)]


REVIEWS = [f"{n};the soup of day {n} was warm;{'good' if n % 3 else 'bad'};{n},50" for n in range(1, 41)]


def test_a_column_of_a_few_values_is_not_the_text(tmp_path: Path) -> None:
    read_texts = csv(tmp_path / "a.csv", "Nr;Kommentar;Urteil;Preis", REVIEWS)
    assert read_texts[:2] == ["the soup of day 1 was warm", "the soup of day 2 was warm"]
    with pytest.raises(UserError, match="could be any of Kommentar, Urteil"):
        csv(tmp_path / "b.csv", "Nr;Kommentar;Urteil;Preis", REVIEWS[:8])  # too few rows to say
    different = [row.replace(";good", f";good {row}").replace(";bad", f";bad {row}") for row in REVIEWS]
    with pytest.raises(UserError, match="could be any of"):
        csv(tmp_path / "c.csv", "Nr;Kommentar;Urteil;x;y;z;w", different)


def test_a_first_line_that_is_a_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1 seems to be a row, not a header, since 'good' occurs in that column"):
        csv(tmp_path / "a.csv", "0;the soup was cold;good;1,50", REVIEWS)
    with pytest.raises(UserError, match="give the number of the text's column, such as columns=text=1"):
        csv(tmp_path / "b.csv", "the soup was cold,1", [f"the soup of day {n} was warm,{n % 2}" for n in range(40)])
    assert len(csv(tmp_path / "c.csv", "text,label", ["a text", "text,x", "b,label"])) == 3


def test_records_that_are_not_objects() -> None:
    for value, what in ((3, "a number"), (["a", "b"], "a list"), (None, "null")):
        with pytest.raises(UserError, match=f"record 1 holds {what} where an object with a text field is wanted"):
            choose_text([value, value], (), "JSON", "a.json, record 1")


def test_a_text_inside_objects_is_named(tmp_path: Path) -> None:
    record = {"version": 1, "data": {"rows": [{"title": "a boat", "text": "It sails.", "label": "x"}]}}
    assert text_inside([record]) == "data.rows.text"
    assert text_inside([{"meta": {"who": "a name"}}]) == "meta.who"
    assert text_inside([{"a": 1, "b": [1, 2], "c": {"d": None}}]) == ""
    (tmp_path / "a.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"name one with columns=text=data\.rows\.text\."):
        options = SourceOptions()
        list(read(discover([tmp_path / "a.json"], options)[0], options))


def test_names_in_messages(tmp_path: Path) -> None:
    names = ["id", "comment, long", "a=b", "new\nline", " x", "評論"]
    assert listed(names) == r"id, 'comment, long', a=b, 'new\nline', ' x', 評論"
    assert nearest("Comment", ["comment", "id"]) == ": did you mean 'comment'?"
    assert nearest("lable", ["label", "text"]) == ": did you mean 'label'?"
    assert nearest("stars", ["text", "id"]) == ""
    (tmp_path / "a.csv").write_text("id,Comment\n1,a b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"its columns are id, Comment; choose with columns: did you mean 'Comment'\?$"):
        open_table(tmp_path / "a.csv").check_columns(["comment"])


def test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.csv is empty: give a file that holds a table\."):
        open_table(tmp_path / "a.csv", TableOptions())
