"""Work that grows with the length of a text and not with its square: hostile texts, four times as long.

Processor time is compared, not wall time: a quadratic pass takes 16 times as long, a linear one about 4 times.
"""

import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import clean, python_docs, sentences, tokenizer_words, wiki, wikitext
from blankfill.corpus.decoding import whole_lines
from blankfill.corpus.documents.kinds import document_kind
from blankfill.corpus.kinds import is_page
from blankfill.corpus.tables.csv_rows import csv_rows
from blankfill.corpus.tables.delimiters import Dialect, find_dialect, is_quoted
from blankfill.corpus.tables.prose import is_json_lines
from blankfill.corpus.tables.reading import open_table
from blankfill.errors import UserError

SHORT = 1 << 14


def seconds(work: Callable[[str], object], text: str) -> float:
    """The least processor time of three."""
    results = []
    for _ in range(3):
        began = time.process_time()
        work(text)
        results.append(time.process_time() - began)
    return min(results)


def is_linear(work: Callable[[str], object], make: Callable[[int], str]) -> bool:
    return seconds(work, make(4 * SHORT)) < 10 * seconds(work, make(SHORT)) + 0.05


def repeated(unit: str, before: str = "") -> Callable[[int], str]:
    return lambda length: before + (unit * (length // len(unit) + 1))[:length]


def extractor(text: str) -> list[str]:
    return wiki.extractor_paragraphs("x", text.split("\n"))


def streamed(text: str) -> list[str]:
    return list(clean.paragraphs(whole_lines(text[k : k + 4096] for k in range(0, len(text), 4096)), "gutenberg"))


WIKI_UNITS = (
    "[http://", "[http://a b", "[//a ", "[/ ", "<ref>", "<ref name=\"", "<nowiki>", "<math>", "<!--", "{{", "[[",
    "{|\n", "-{", "{{lang|", "[[a|", "<", "__A", "&#", "(", "'",
    "<ref name=x ", "<b ", "a<S>", "'' ", "l'''Ab", "''' l'' ", "[[a:b.jpg", "<ref>a<ref></ref>",
)  # fmt: skip


@pytest.mark.parametrize("unit", WIKI_UNITS)
def test_marks_of_wikitext_that_are_never_closed(unit: str):
    assert is_linear(wikitext.passages, repeated(unit))


@pytest.mark.parametrize("before", ["[http://x", "{{lang|", "[[a|", "-{zh", "<br ", "a"])
def test_blanks_in_wikitext(before: str):
    assert is_linear(wikitext.passages, repeated(" ", before))


@pytest.mark.parametrize("marks", [("{{nowrap|", "}}"), ("[[a|", "]]"), ("-{zh:", "}-")])
def test_deep_nesting_that_hands_on_its_content(marks: tuple[str, str]):
    begin, end = marks
    assert is_linear(wikitext.passages, lambda n: begin * (n // 16) + "x" * n + end * (n // 16))


def cells(text: str) -> None:
    """The rows of a CSV text, up to a quotation mark that is never closed."""
    with suppress(UserError):
        for _ in csv_rows([text], "x", Dialect(",")):
            pass


WORKS = {
    "extractor": extractor, "record": clean.record_paragraphs, "stream": streamed,
    "sentences": sentences.split_sentences, "docstring": python_docs.docstring_paragraphs,
    "words": lambda text: tokenizer_words.join_words(text.split(" ")),
    "table": is_quoted, "first lines": is_json_lines, "dialect": lambda text: find_dialect(text, True), "cells": cells,
}  # fmt: skip
UNITS = (
    " ", "\xa0", "\n", " \n", "a", "a ", "(", "\"", ".", ". ", "-\n", "*", "`", "[", "\u0301\u0316", "。", "《", "渡",
    "\t\"",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("work", WORKS)
def test_one_thing_repeated(work: str, unit: str):
    assert is_linear(WORKS[work], repeated(unit, "a"))


def test_comments_before_a_text_that_is_no_page():
    comments = ["<!-- a -->\n" * count + "text" for count in (5, 20, 360)]
    assert not any(map(is_page, comments[:2]))
    assert seconds(is_page, comments[1]) < 10 * seconds(is_page, comments[0]) + 0.05
    assert not is_page(comments[2])
    assert is_page("<!-- a -->\n" * 360 + "<html>")


@pytest.mark.parametrize("unit", ["1", "1 ", " "])
def test_numbers_in_a_text_that_begins_like_a_pdf_document(unit: str):
    assert is_linear(lambda text: document_kind("", text.encode(), ""), repeated(unit, "%PDF-1.4 1"))


def test_a_header_of_many_columns(tmp_path: Path):
    def open_file(text: str) -> None:
        (tmp_path / "wide.csv").write_text(text)
        assert open_table(tmp_path / "wide.csv").columns[-2:] == ("text", "last")

    assert is_linear(open_file, lambda length: ",".join([*map(str, range(length // 6)), "text", "last"]) + "\n")


def test_code_under_a_colon_in_a_docstring():
    assert is_linear(python_docs.docstring_paragraphs, repeated("a ", "Such as:\n\n    "))
    assert is_linear(python_docs.docstring_paragraphs, repeated(" ", "See :ref:`x` or `"))


def test_blanks_inside_the_lines_of_a_chinese_paragraph():
    assert is_linear(clean.join_lines, lambda n: "渡船" + " " * n + "靠岸\n渡船")
    assert clean.join_lines("渡船 \n 靠岸\n\n。") == "渡船靠岸。"


MARKS = "\u0301\u0316\u0345\u0f73\u0f71\u0344\u05b0\u3099\U00011099\U000110ba\U0001e944\U0001d165\U0001f600aé가か"


@given(st.text(alphabet=st.sampled_from(MARKS), max_size=20), st.integers(1, 8))
def test_long_runs_of_marks_are_normalized_as_the_library_does(text: str, times: int):
    assert clean.normalized(text * times) == unicodedata.normalize("NFC", text * times)
