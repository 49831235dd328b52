"""Answers that are null, and answers that all begin at 0."""

from collections.abc import Callable
from pathlib import Path

from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.items import Answer


def test_a_question_with_null_for_its_answers_is_left_out(case: Callable[[str], Path]):
    train = TASKS["squad"].read(case("squad-null-and-zero") / "null", "train")
    assert len(train) == 7 and all(item.answers for item in train.questions())
    assert "1 of 8 questions left out: their answers are null, such as those of q3." in train.problems[0]


def test_an_answer_that_occurs_once_is_placed(case: Callable[[str], Path]):
    train = TASKS["squad"].read(case("squad-null-and-zero") / "zero", "train")
    assert [item.answers for item in train.questions()] == [(Answer("1823", 45),)] * 8
    assert "8 of 8 answers do not lie at their answer_start but occur once" in train.problems[0]
