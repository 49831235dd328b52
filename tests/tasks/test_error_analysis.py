"""The error analysis of predictions: counts worked out by hand."""

import pytest

from blankfill.tasks.items import Answer, ChoiceItem, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.metrics.error_analysis import (
    class_analysis,
    number_analysis,
    question_analysis,
    set_analysis,
    surest_mistakes,
    tag_analysis,
)


def test_classes_are_counted_by_right_and_given() -> None:
    analysis = class_analysis(("a", "b", "c"), [0, 0, 0, 1, 1], [0, 0, 1, 1, 0])
    assert analysis["confusions"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    a, b, c = analysis["classes"]
    assert (a["precision"], a["recall"], a["support"], a["given"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3, 3)
    assert (b["precision"], b["recall"], b["f1"]) == (0.5, 0.5, 0.5)
    assert (c["precision"], c["recall"], c["f1"], c["support"]) == (0, 0, 0, 0)


def test_mistakes_come_the_surest_first_with_the_names_of_choices() -> None:
    texts = [TextItem(str(k), f"text {k}", "more" if k else None, 0) for k in range(3)]
    shown = [{"label": "b", "probabilities": {"a": 1 - p, "b": p}} for p in (0.6, 0.9, 0.7)]
    mistakes = surest_mistakes(texts, ["a", "a", "b"], shown)
    assert [(mistake["id"], mistake["probability"], mistake.get("second")) for mistake in mistakes] == [
        ("1", 0.9, "more"),
        ("0", 0.6, None),
    ]
    choice = ChoiceItem("q", "who", ("x is he", "y is he"), 1, (1,), ("x", "y"))
    [mistake] = surest_mistakes([choice], ["1"], [{"label": "0", "probabilities": {"0": 0.8, "1": 0.2}}])
    assert (mistake["right"], mistake["given"], mistake["text"]) == ("y", "x", "who")


def test_numbers_far_from_the_truth_come_first() -> None:
    items = [TextItem(str(k), f"t{k}", None, float(k)) for k in range(4)]
    analysis = number_analysis(items, [0.5, 1.0, 5.0, 3.0])
    assert analysis["scatter"] == [[0, 0.5], [1, 1], [2, 5], [3, 3]]
    assert [error["id"] for error in analysis["largest_errors"][:2]] == ["2", "0"]


def test_label_sets_are_counted_by_label() -> None:
    items = [TextItem("0", "x", None, (0, 1)), TextItem("1", "y", None, (1,)), TextItem("2", "z", None, ())]
    analysis = set_analysis(("a", "b"), items, [(0, 1), (0,), ()])
    a, b = analysis["classes"]
    assert (a["precision"], a["recall"]) == (0.5, 1.0) and (b["precision"], b["recall"]) == (1.0, 0.5)
    assert [(error["id"], error["right"], error["given"]) for error in analysis["most_wrong"]] == [("1", "b", "a")]


def test_entities_are_right_of_another_type_missed_or_invented() -> None:
    words = ("Ann", "of", "Ulm", "met", "Bob", "Ray")
    gold = ("B-PER", "O", "B-LOC", "O", "B-PER", "I-PER")
    items = [TaggedItem("0", words, gold), TaggedItem("1", ("Rome", "fell"), ("B-LOC", "O"))]
    given = [("B-PER", "O", "B-PER", "B-LOC", "B-PER", "O"), ("O", "O")]
    analysis = tag_analysis(items, given, False)
    taken = analysis["taken_for"]
    assert taken["rows"] == ["LOC", "PER", "no entity"] and taken["columns"] == [
        "LOC",
        "PER",
        "other borders",
        "missed",
    ]
    assert taken["counts"] == [[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]]
    pairs = {(pair["right"], pair["given"]): pair["examples"] for pair in analysis["confused"]}
    assert set(pairs) == {("LOC", "PER"), ("LOC", "missed"), ("PER", "other borders"), ("no entity", "LOC")}
    assert pairs["LOC", "PER"] == [{"before": "Ann of", "entity": "Ulm", "after": "met Bob Ray"}]
    assert pairs["PER", "other borders"][0]["entity"] == "Bob Ray"
    assert [entity_type["name"] for entity_type in analysis["types"]] == ["LOC", "PER", "all"] and analysis["types"][1][
        "precision"
    ] == 1 / 3


def test_questions_are_grouped_by_how_they_ask() -> None:
    context = "the hall was built in 1901 by Ann Lee"
    items = [
        QuestionItem("0", "When was it built?", context, (Answer("1901", 22),)),
        QuestionItem("1", "Who built it?", context, (Answer("Ann Lee", 30),)),
        QuestionItem("2", "Who broke it?", context, (), True),
    ]
    analysis = question_analysis(items, ["1901", "Lee", ""], False)
    rows = {
        question["name"]: (question["count"], question["exact"], question["f1"]) for question in analysis["questions"]
    }
    assert rows["when"] == (1, 1, 1) and rows["with an answer"][:2] == (2, 0.5) and rows["without an answer"][1] == 1
    assert rows["who"] == (2, 0.5, pytest.approx((2 / 3 + 1) / 2))
    [miss] = analysis["misses"]
    assert (miss["id"], miss["right"], miss["given"]) == ("1", "Ann Lee", "Lee") and "Ann Lee" in miss["second"]
    chinese = question_analysis(
        [QuestionItem("0", "他是什么时候出生的？", "1901年", (Answer("1901年", 0),))], ["1901年"], True
    )
    assert [question["name"] for question in chinese["questions"]] == ["什么时候"]
