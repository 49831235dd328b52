"""Rows that are given to `predict`: in SuperGLUE's own form, in a flatter one, and every way to be refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.finetuning.rows import items_of
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import ChoiceItem, Item, TextItem


def read(task: str, *rows: Any) -> list[Item]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return list(items_of(task_named(task), ((f"rows, line {k}", line) for k, line in enumerate(lines, 1))))


COPA = {"premise": "It rained.", "choice1": "The ground was wet.", "choice2": "It was dry.", "question": "effect"}
WIC = {"word": "bank", "sentence1": "The bank of a river.", "sentence2": "He went to the Bank."}
WSC = {"text": "Ann told Eve that she won.", "span1": "Ann", "span2": "she"}
MULTIRC = {"passage": "Ann met Eve.", "question": "Who met?", "answers": ["Ann", "Tom"]}
RECORD = {"passage": "Ann met Eve in Rome.", "entities": ["Ann", "Rome"], "query": "@placeholder saw Eve"}


def test_rows_have_the_parts_that_heads_and_patterns_need() -> None:
    [copa] = read("copa", COPA)
    assert isinstance(copa, ChoiceItem) and copa.choices == ("The ground was wet.", "It was dry.")
    assert copa.parts == {"premise": "It rained.", "question": "effect"} and copa.id == "0" and copa.label is None
    [wic] = read("wic", {**WIC, "id": "w"})
    assert isinstance(wic, TextItem) and (wic.id, wic.first, wic.second) == (
        "w", "The *bank* of a river.", "He went to the *Bank*."
    )  # fmt: skip
    [wsc] = read("wsc", WSC)
    assert isinstance(wsc, TextItem) and wsc.first == "*Ann* told Eve that #she# won."
    [right, wrong] = read("multirc", MULTIRC)
    assert isinstance(right, TextItem) and (right.id, wrong.id) == ("0-0-0", "0-0-1") and right.second == "Who met? Ann"
    [record] = read("record", RECORD)
    assert isinstance(record, ChoiceItem) and record.names == ("Ann", "Rome")
    assert record.choices == ("Ann saw Eve", "Rome saw Eve") and record.parts == {"before": "", "after": " saw Eve"}
    [chinese] = read("cluewsc", {"text": "小王说他累了", "span1": "小王", "span2": "他"})
    assert isinstance(chinese, TextItem) and chinese.first == "*小王*说#他#累了"


def test_the_flatter_form_and_the_benchmarks_own_are_the_same() -> None:
    wsc = {"idx": 0, "text": WSC["text"], "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "she",
                                                     "span2_index": 4}, "label": True}  # fmt: skip
    assert read("wsc", wsc) == read("wsc", WSC)
    question = {"question": "Who met?", "idx": 0, "answers": [{"text": "Ann", "idx": 0}, {"text": "Tom", "idx": 1}]}
    assert read("multirc", {"idx": 0, "passage": {"text": "Ann met Eve.", "questions": [question]}}) == read(
        "multirc", MULTIRC
    )
    passage = {"text": RECORD["passage"], "entities": [{"start": 0, "end": 2}, {"start": 15, "end": 18}]}
    query = {"idx": 0, "query": RECORD["query"], "answers": [{"text": "Ann"}]}
    assert read("record", {"idx": 0, "passage": passage, "qas": [query]}) == read("record", RECORD)
    places = {"start1": 4, "end1": 8, "start2": 15, "end2": 19}
    assert read("wic", {**WIC, **places, "idx": 0}) == read("wic", WIC)


def test_tasks_of_whole_texts_take_their_own_fields_and_plain_lines() -> None:
    [row, plain, general] = read("boolq", {"question": "is it", "passage": "It is."}, "is it\tIt is.",
                                 {"text": "is it", "second": "It is."})  # fmt: skip
    assert isinstance(row, TextItem) and isinstance(plain, TextItem) and isinstance(general, TextItem)
    assert (row.first, row.second) == (plain.first, plain.second) == (general.first, general.second)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "copa",
            {"premise": "x", "choice1": "y"},
            "there is no choice2 and no question; a row of copa has premise",
        ),
        ("copa", {**COPA, "question": "why"}, "the row has the question 'why' where cause or effect is known"),
        ("copa", "a plain line", "give a JSON object with premise, choice1, choice2, question"),
        ("wic", {"sentence1": "x"}, "there is no word and no sentence2"),
        ("wic", {**WIC, "sentence2": "Two banks."}, "has 0 times 'bank' in its sentence2; give the place of the word"),
        ("wic", {**WIC, "start1": 90, "end1": 95}, "has no word at 90 to 95 of sentence1"),
        ("wsc", {"text": "x"}, "there is no span1 and no span2"),
        (
            "wsc",
            {**WSC, "text": "Ann said she thought she won."},
            "has 2 times 'she', its span2, in its text",
        ),
        ("wsc", {**WSC, "span1": "Bob"}, "has 0 times 'Bob', its span1"),
        ("wsc", {"text": "x", "target": {}}, "the row has no text 'span1_text'"),
        ("multirc", {"passage": "x"}, "there is no question and no answers"),
        ("multirc", {**MULTIRC, "answers": "Ann"}, "has no list of 'answers'"),
        ("multirc", {"passage": {"text": "x"}}, "has no 'questions'"),
        ("multirc", {**MULTIRC, "answers": [3]}, "has no 'text'"),
        ("record", {"passage": "x"}, "there is no entities and no query"),
        ("record", {**RECORD, "entities": ["Bob"]}, "has the entity 'Bob', which is not in its passage"),
        ("record", {**RECORD, "entities": []}, "has no list of 'entities'"),
        ("record", {**RECORD, "query": "who"}, "has a query without @placeholder"),
        ("record", {"passage": {"text": "x", "entities": []}, "qas": []}, "has no 'qas'"),
    ],
)
def test_what_is_missing_is_named(task: str, row: Any, message: str) -> None:
    with pytest.raises(UserError, match="rows, line 1: ") as caught:
        read(task, row)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["WSC", "WiC", "COPA", "ReCoRD", "MultiRC"])
def test_the_benchmarks_files_are_taken_as_they_are(name: str) -> None:
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    paths = [
        path for part in ("superglue", "superglue_fewglue") for path in sorted((root / part / name).glob("*.jsonl"))
    ]
    if not paths:
        pytest.skip(f"{name} is not there")
    task = task_named(name.lower())
    lines = min(paths).read_text(encoding="utf-8").splitlines()[:20]
    given, read_items = read(task.name, *lines), task.read(min(paths), "dev").items[:]
    assert [item.id for item in given] == [item.id for item in read_items[: len(given)]]
