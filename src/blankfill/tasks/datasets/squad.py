"""Questions in SQuAD's JSON form: SQuAD 1.1 and 2.0, XQuAD, CMRC 2018, DRCD; and files of predicted answers.

Answers that are not at the place in the data (200 of CMRC 2018's dev set, and places counted in UTF-16 units) are
placed where they occur, if they occur once. The others keep their text, by which answers are scored, and lose their
place, so that they are not used for training; `Split.problems` reports both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blankfill.corpus.tables.columns import kind_of
from blankfill.errors import UserError
from blankfill.tasks.datasets.answers import place_of
from blankfill.tasks.datasets.files import json_document
from blankfill.tasks.datasets.task_table import label_name, whole_number
from blankfill.tasks.items import Answer, QuestionItem, Remark, Split, duplicate_ids
from blankfill.tasks.task import Task


def read_questions(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Return all questions of a file, in its order, without those whose answers are null. Raises UserError that names
    the part that does not have SQuAD's form."""
    document = json_document(path)
    misplaced, placed, answers, items = [], 0, 0, []
    questions = list(_all_questions(document, path))
    unanswered = [_is_unanswered(question) for _, _, question, _ in questions]
    labelled = not all(unanswered)  # a file in which all answers are null is for prediction
    for (title, context, question, where), is_null in zip(questions, unanswered, strict=True):
        if is_null and labelled:
            continue
        item, moved = _question(question, context, title, where)
        answers += len(item.answers)
        placed += moved
        misplaced += [f"{item.id} ({answer.text[:20]})" for answer in item.answers if answer.start is None]
        items.append(item)
    if not items:
        raise UserError(f"{path} has no questions: copy or download it again.")
    problems = duplicate_ids(items, str(path))
    if labelled and any(unanswered):
        first = next(question for (_, _, question, _), is_null in zip(questions, unanswered, strict=True) if is_null)
        problems.append(
            f"{path}: {sum(unanswered)} of {len(questions)} questions left out: their answers are null, such as those "
            f"of {first.get('id')}."
        )
    if placed:
        remark = (
            f"{path}: {placed} of {answers} answers do not lie at their answer_start but occur once in the context: "
            "that place is taken."
        )
        problems.append(Remark(remark))
    if misplaced:
        remark = (
            f"{path}: {len(misplaced)} of {answers} answers do not lie at their answer_start, such as those of "
            f"{', '.join(misplaced[:3])}: they are used to score answers, not to train."
        )
        problems.append(Remark(remark))
    return Split(items, (), problems)


def _is_unanswered(question: Any) -> bool:
    """Return whether the answers of a question are null, and it is not said to have none."""
    return isinstance(question, Mapping) and question.get("answers", ()) is None and not question.get("is_impossible")


def _all_questions(document: Any, path: Path) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (title, context, question as in the file, its path in the file) of every question."""
    where = str(path)
    for a, article in enumerate(_part(document, "data", list, where)):
        in_article = f"{where}, data[{a}]"
        title = str(article.get("title", "")) if isinstance(article, Mapping) else ""
        for p, paragraph in enumerate(_part(article, "paragraphs", list, in_article)):
            in_paragraph = f"{in_article}.paragraphs[{p}]"
            context = _part(paragraph, "context", str, in_paragraph)
            for q, question in enumerate(_part(paragraph, "qas", list, in_paragraph)):
                yield title, context, question, f"{in_paragraph}.qas[{q}]"


def _question(question: Any, context: str, title: str, where: str) -> tuple[QuestionItem, int]:
    """Return a question, and the number of its answers that were placed elsewhere than at their answer_start."""
    impossible = _is_true(question, where)
    answers, moved = [], 0
    given = (question.get("answers") or []) if isinstance(question, Mapping) and not impossible else []
    if not isinstance(given, list):
        raise UserError(f"{where} has {kind_of(given)} for its answers, where SQuAD's form has a list: correct it.")
    for answer in given:
        text = _part(answer, "text", str, where)
        place, was_moved = place_of(context, text, _start(answer, where))
        moved += was_moved
        answers.append(Answer(text, place))
    item = QuestionItem(
        str(_part(question, "id", object, where)),
        _part(question, "question", str, where).strip(),
        context,
        tuple(answers),
        False if answers else impossible,
        title,
    )
    return item, moved


def _start(answer: Mapping[str, Any], where: str) -> int:
    """Return the first character of an answer; 45.0 and "45" are 45."""
    start = whole_number(answer.get("answer_start"))
    if start is None:
        raise UserError(f"{where} has no 'answer_start' that is a whole number: is this a file of SQuAD's form?")
    return start


def _is_true(question: Any, where: str) -> bool | None:
    """Return whether a question has no answer, None where the file does not say so; "false" and 0 are false."""
    value = question.get("is_impossible") if isinstance(question, Mapping) else None
    if value is None:
        return None
    name = label_name(value).lower()
    if name not in ("true", "false", "1", "0"):
        raise UserError(f"{where} has {name[:40]!r} for is_impossible: write true or false.")
    return name in ("true", "1")


def _part(value: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get(key), kind) or value.get(key) is None:
        raise UserError(f"{where} has no {key!r} of the kind that SQuAD's form has there: is this a file of that form?")
    return value[key]


def answers_text(answers: Mapping[str, object]) -> str:
    """Return predicted answers for the official scripts: one JSON object, question id to text ("" for no answer); or
    odds, question id to number."""
    return json.dumps(dict(answers), ensure_ascii=False, indent=1) + "\n"


def read_answers(path: Path) -> dict[str, str]:
    """Read predicted answers from such a file. Raises UserError for any other file."""
    answers = json_document(path)
    if not isinstance(answers, dict) or not all(isinstance(text, str) for text in answers.values()):
        raise UserError(f"{path} is not a file of predicted answers: it must hold one object, question id to text.")
    return answers


def read_null_odds(path: Path) -> dict[str, float]:
    """Return the odds of no answer against the best answer, by question id. Raises UserError for any other file."""
    odds = json_document(path)
    numbers = isinstance(odds, dict) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in odds.values()
    )
    if not numbers:
        raise UserError(f"{path} is not a file of odds: it must hold one object, question id to a number.")
    return {id: float(value) for id, value in odds.items()}


_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
_CMRC = ("cmrc2018", "squad-style-data", "cmrc2018/squad-style-data")

QUESTIONS = (
    Task(
        "squad", "answer", {"train": ("train-v1.1.json",), "dev": ("dev-v1.1.json",)}, read_questions,
        ("exact", "f1"), "f1", folders=("squad_v1.1", "squad"),
    ),
    Task(
        "squad2", "answer",
        {"train": ("train-v2.0.json",), "dev": ("dev-v2.0.json",), "test": ("test-v2.0.json",)}, read_questions,
        ("exact", "f1", "has-answer-exact", "has-answer-f1", "no-answer-exact", "no-answer-f1"), "f1",
        folders=("squad_v2.0", "squad2"),
    ),
    Task(
        "xquad", "answer", {language: (f"xquad.{language}.json",) for language in _LANGUAGES}, read_questions,
        ("exact", "f1"), "f1", folders=("xquad",),
    ),
    Task(
        "cmrc2018", "answer",
        {split: (f"cmrc2018_{split}.json",) for split in ("train", "dev", "trial", "test")}, read_questions,
        ("exact", "f1"), "f1", folders=_CMRC, by_characters=True,
    ),
    Task(
        "drcd", "answer",
        {"train": ("DRCD_training.json",), "dev": ("DRCD_dev.json",), "test": ("DRCD_test.json",)}, read_questions,
        ("exact", "f1"), "f1", folders=("drcd", "DRCD"), by_characters=True,
    ),
)  # fmt: skip
