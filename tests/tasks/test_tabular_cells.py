"""Cells of the user's tables that are lists, objects, numbers or null: read as what they are, or refused by line."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.config import FinetuneConfig, read_config, write_config
from blankfill.finetuning.data import read_splits
from blankfill.tasks.datasets.squad import read_questions
from blankfill.tasks.datasets.tabular import read_choices, read_tags, sorted_labels, tabular_task
from blankfill.tasks.items import Answer, ChoiceItem, QuestionItem, Split
from blankfill.tasks.options import FinetuneOptions


def read(folder: Path, task: str, *rows: object, columns: tuple[str, ...] = ()) -> Split:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tabular_task(task, TableOptions(columns=columns)).read(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "line 2 has a number in 'text' where a text is wanted"),
        (True, "line 2 has a truth value in 'text'"),
        ({"en": "a"}, r"line 2 has an object with en in 'text' .* such as text\.en"),
        ([1, 2], "line 2 has a list in 'text'"),
        ([["a"]], "line 2 has a list in 'text'"),
    ],
)
def test_a_cell_that_is_no_text_is_refused(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, "classify", {"text": "a", "label": 0}, {"text": value, "label": 1})


def test_null_is_left_out(tmp_path: Path) -> None:
    rows = [{"text": None, "label": 0}, {"text": "a", "label": None}, {"text": "b", "label": "x"}, {"text": "c"}]
    split = read(tmp_path, "classify", *rows, {"text": "d", "label": "y"})
    assert [item.first for item in split.texts()] == ["b", "d"] and split.labels == ("x", "y")
    assert ["each has no text (line 1)" in split.problems[0], "each has no label (line 2, 4)" in split.problems[1]] == [
        True, True,
    ]  # fmt: skip


def test_rows_without_labels_may_stand_first(tmp_path: Path) -> None:
    rows = [{"text": f"a {n}"} for n in range(300)] + [{"text": "b", "label": "x"}, {"text": "c", "label": "y"}]
    split = read(tmp_path, "classify", *rows)
    assert len(split) == 2 and split.labels == ("x", "y")


def test_labels_in_many_forms(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1 has an object with a in 'label' where a label is wanted"):
        read(tmp_path, "classify", {"text": "x", "label": {"a": 1}})
    with pytest.raises(UserError, match=r"line 1 has a list in 'labels' where a label is wanted"):
        read(tmp_path, "multilabel", {"text": "x", "labels": [["a"]]})
    rows = [
        {"text": "x", "a": "False", "b": True},
        {"text": "y", "a": 1.0, "b": 0.0},
        {"text": "z", "a": None, "b": None},
    ]
    split = read(tmp_path, "multilabel", *rows, columns=("label=a,b",))
    assert [item.label for item in split.texts()] == [(1,), (0,)] and "no label (line 3)" in split.problems[0]
    with pytest.raises(UserError, match="line 1 has '' in column 'b', where 0 or 1 is wanted"):
        read(tmp_path, "multilabel", {"text": "x", "a": 1, "b": None}, columns=("label=a", "label=b"))
    with pytest.raises(UserError, match="line 1 has the score True"):
        read(tmp_path, "regress", {"text": "x", "score": True})


CONTEXT = "Ann met Bo. Bo left."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": ["Ann", "Bo"], "answer_start": [0, 12.0]}, (Answer("Ann", 0), Answer("Bo", 12))),
        (
            [{"text": "Bo", "answer_start": "8"}, {"text": "Ann", "answer_start": 3}],
            (Answer("Bo", 8), Answer("Ann", 0)),
        ),
        ({"text": "Bo", "answer_start": 9}, (Answer("Bo", None),)),
        ({"text": ["Bo"], "answer_start": [None]}, (Answer("Bo", 8),)),
        (["Ann", "Bo"], (Answer("Ann", 0), Answer("Bo", 8))),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
    ],
)
def test_answers_in_every_form(tmp_path: Path, answers: object, expected: tuple[Answer, ...]) -> None:
    rows = [{"question": "Who?", "context": CONTEXT, "answers": value} for value in (answers, "Ann", None)]
    split = read(tmp_path, "qa", *rows)
    assert split.questions() == [
        QuestionItem("0", "Who?", CONTEXT, expected, not expected),
        QuestionItem("1", "Who?", CONTEXT, (Answer("Ann", 0),), False),
    ]
    assert any("each has no answer (null) (line 3)" in problem for problem in split.problems)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"start": 3}, "line 1 has an object with start in 'answers' where answers with `text`"),
        ({"text": ["Ann"], "answer_start": [0, 1]}, "line 1 has 1 answers and 2 places"),
        ({"text": ["Ann"], "answer_start": ["first"]}, "line 1 says that the answer 'Ann' begins at 'first'"),
        ([["Ann"]], "line 1 has a list in 'answers'"),
        (True, "line 1 has a truth value in 'answers'"),
    ],
)
def test_answers_that_are_refused(tmp_path: Path, answers: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, "qa", {"question": "Who?", "context": CONTEXT, "answers": answers})


def test_roles_of_questions_choices_and_pairs(tmp_path: Path) -> None:
    row = {"q": "Who?", "passage": CONTEXT, "right": "Ann"}
    split = read(tmp_path, "qa", row, columns=("question=q", "answer=right"))
    assert split.questions() == [QuestionItem("0", "Who?", CONTEXT, (Answer("Ann", 0),), False)]
    assert [(choice.role, choice.field) for choice in split.columns] == [
        ("question", "q"), ("context", "passage"), ("answer", "right"),
    ]  # fmt: skip
    row = {"stem": "Why?", "choices": {"label": ["A", "B"], "text": ["x", 3]}, "key": "B"}
    split = read(tmp_path, "choice", row, columns=("question=stem", "answer=key"))
    assert split.choices() == [ChoiceItem("0", "Why?", ("x", "3"), 1, (1,))]
    row = {"translation": {"en": "a", "de": "b"}}
    split = read(tmp_path, "seq2seq", row, columns=("source=translation.en", "target=translation.de"))
    assert split.generations()[0].source == "a" and split.generations()[0].targets == ("b",)
    with pytest.raises(UserError, match="line 1 has an object with en, de in 'translation' where a text is wanted"):
        read(tmp_path, "seq2seq", row, columns=("source=translation",))
    with pytest.raises(ConfigError, match="columns has no role 'context' here"):
        tabular_task("classify", TableOptions(columns=("context=a",)))
    with pytest.raises(UserError, match="2 columns are named for label where one can be read"):
        read(tmp_path, "classify", {"text": "a", "b": 1, "c": 2}, columns=("label=b,c",))


def test_labels_and_texts_whatever_their_case(tmp_path: Path) -> None:
    split = read(tmp_path, "classify", {"Text": "a", "Label (0, 1)": 0}, {"Text": "b", "Label (0, 1)": 1})
    assert [(choice.field, choice.by) for choice in split.columns] == [("Text", "name"), ("Label (0, 1)", "guess")]


def test_a_run_remembers_how_its_tables_are_read(tmp_path: Path) -> None:
    options = TableOptions(encoding="cp1252", delimiter="|", columns=("text=a", "label=b"))
    config = FinetuneConfig("classify", tmp_path, tmp_path, tables=options)
    write_config(tmp_path, config)
    assert read_config(tmp_path).tables == options
    values = json.loads((tmp_path / "finetune.json").read_text())
    del values["tables"]
    values["columns"] = {"text": ["a", "c"], "label": ["b"], "id": "d", "start": None, "separator": ","}
    (tmp_path / "finetune.json").write_text(json.dumps(values))
    assert read_config(tmp_path).tables == TableOptions(columns=("text=a,c", "label=b", "id=d"))


def squad(path: Path, *questions: dict[str, object]) -> Path:
    paragraph = {"context": CONTEXT, "qas": [{"id": str(n), "question": "?", **q} for n, q in enumerate(questions)]}
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}), encoding="utf-8")
    return path


def test_values_of_squad_that_other_tools_write(tmp_path: Path) -> None:
    path = squad(
        tmp_path / "train-v1.1.json",
        {"answers": [{"text": "Ann", "answer_start": 0.0}], "is_impossible": "false"},
        {"answers": None},
        {"answers": None, "is_impossible": True},
    )
    split = read_questions(path)
    assert [(item.answers, item.impossible) for item in split.questions()] == [((Answer("Ann", 0),), False), ((), True)]
    assert "1 of 3 questions left out: their answers are null, such as those of 1." in split.problems[0]
    assert [item.answers for item in read_questions(squad(path, {"answers": None})).questions()] == [()]
    with pytest.raises(UserError, match="has 'perhaps' for is_impossible"):
        read_questions(squad(path, {"answers": [], "is_impossible": "perhaps"}))
    with pytest.raises(UserError, match="has no 'answer_start' that is a whole number"):
        read_questions(squad(path, {"answers": [{"text": "Ann", "answer_start": 0.5}]}))


def test_a_split_without_an_answer_to_train_on_is_refused(tmp_path: Path) -> None:
    from blankfill.tasks.datasets.registry import TASKS

    for name in ("train-v1.1.json", "dev-v1.1.json"):
        squad(tmp_path / name, {"answers": [{"text": "Bo", "answer_start": 0}]})
    with pytest.raises(UserError, match="none of the 1 questions can be trained on"):
        read_splits(TASKS["squad"], tmp_path, FinetuneOptions())
    assert len(read_splits(TASKS["squad"], tmp_path, FinetuneOptions(method="text"))[0]) == 1


def test_labels_that_are_not_numbers_are_sorted_by_name():
    names = ["2", "nan", "10", "1"]
    assert {sorted_labels(order) for order in permutations(names)} == {("1", "10", "2", "nan")}
    assert sorted_labels(["10", "2", "1"]) == ("1", "2", "10")


def test_an_unknown_tag_is_named_by_its_line(tmp_path: Path):
    row = '{{"words": ["a"], "tags": ["B-{}"]}}\n'
    (tmp_path / "dev.jsonl").write_text(row.format("PER") * 3 + row.format("LOC"), encoding="utf-8")
    with pytest.raises(UserError, match=r"dev\.jsonl, line 4 has the label 'B-LOC'"):
        read_tags(tmp_path / "dev.jsonl", ("O", "B-PER", "I-PER"), TableOptions())


def test_choices_keep_their_places(tmp_path: Path):
    (tmp_path / "a.csv").write_text("context,A,B,C,label\none,x,,z,2\ntwo,x,y,,1\n", encoding="utf-8")
    columns = ("context=context", "choices=A", "choices=B", "choices=C")
    split = read_choices(tmp_path / "a.csv", (), TableOptions(columns=columns))
    assert [(item.id, item.choices, item.label) for item in split.items] == [("1", ("x", "y"), 1)]
    assert any("1 of 2 rows left out: each has an empty choice before others (line 2)" in p for p in split.problems)


def test_answers_of_squad_that_are_no_list_are_refused(tmp_path: Path):
    question = {"id": "q1", "question": "When?", "answers": 5}
    document = {"data": [{"title": "T", "paragraphs": [{"context": "In 1560.", "qas": [question]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match=r"qas\[0\] has a number for its answers, where SQuAD's form has a list"):
        read_questions(tmp_path / "a.json")


def test_remarks_on_encodings_hold_no_marks_of_references(tmp_path: Path) -> None:
    rows = "Паром снова отходит от берега раньше,0\nКолокола города звонят утром,1\n" * 10
    (tmp_path / "train.csv").write_bytes(f"text,label\n{rows}".encode("cp1251"))
    (problem,) = tabular_task("classify").read(tmp_path / "train.csv").problems
    assert str(problem).endswith("which is a guess: if its text is wrong, give encoding.")
