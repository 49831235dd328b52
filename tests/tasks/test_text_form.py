"""Tasks as text: T5's prefixes, the usual forms, numbers, the nearest label of a text, a message for every mistake."""

import pytest

from blankfill.errors import ConfigError, UserError
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.items import Answer, ChoiceItem, GenerationItem, Item, QuestionItem, TextItem
from blankfill.tasks.text.text_form import TextForm, form_text, nearest, number_in, read_form
from conftest import DATA


def form(task: str, labels: tuple[str, ...] = ()) -> TextForm:
    known = TASKS[task]
    return read_form(*form_text("", task), known, known.labels or labels)


PAIR = TextItem("1", "A cat sat.", "A cat ran.", 1)


@pytest.mark.parametrize(
    ("task", "item", "source", "answer"),
    [
        ("cola", TextItem("1", "Cat the sat.", None, 0), "cola sentence: Cat the sat.", "unacceptable"),
        ("mnli", PAIR, "mnli hypothesis: A cat ran. premise: A cat sat.", "neutral"),
        ("ax-b", PAIR, "rte sentence1: A cat sat. sentence2: A cat ran.", "not_entailment"),
        ("boolq", TextItem("1", "is it so", "It is.", 1), "boolq question: is it so passage: It is.", "True"),
        ("afqmc", PAIR, "afqmc sentence1: A cat sat. sentence2: A cat ran.", "1"),
        ("chnsenticorp", TextItem("1", "很好", None, 1), "chnsenticorp sentence: 很好", "1"),
        ("swag", ChoiceItem("1", "He", ("sat.", "ran."), 1), "swag choice1: sat. choice2: ran. context: He", "choice2"),
        ("squad", QuestionItem("1", "Who?", "Ann.", (Answer("Ann", 0),)), "question: Who? context: Ann.", "Ann"),
        ("squad2", QuestionItem("1", "Who?", "It ran.", (), True), "question: Who? context: It ran.", "unanswerable"),
        ("scitldr", GenerationItem("1", "Long.", ("Short.",)), "summarize: Long.", "Short."),
        ("seq2seq", GenerationItem("1", "Long.", ("Short.",), "And"), "source: Long. second: And", "Short."),
    ],
)  # fmt: skip
def test_items_are_put_as_texts(task: str, item: Item, source: str, answer: str) -> None:
    text_form = form(task)
    assert text_form.read(item) == source
    assert text_form.answers(item) == (answer,)


@pytest.mark.parametrize(("value", "text"), [(2.57, "2.6"), (3.0, "3.0"), (0.09, "0.0"), (4.91, "5.0"), (4.89, "4.8")])
def test_sts_b_is_written_in_fifths(value: float, text: str) -> None:
    assert form("stsb").answers(TextItem("1", "a", "b", value)) == (text,)


def test_several_labels_and_none() -> None:
    text_form = form("multilabel", ("red", "big", "old"))
    assert text_form.answers(TextItem("1", "a", None, (0, 2))) == ("red, old",)
    assert text_form.answers(TextItem("1", "a", None, ())) == ("none",)
    assert text_form.answers(TextItem("1", "a")) == ()


def test_what_a_text_resembles() -> None:
    labels = ("entailment", "not_entailment", "neutral")
    assert [nearest(text, labels) for text in (" Entailment", "not _ entailment", "neutrals", "NOT_ENTAILMENT")] == [
        0, 1, 2, 1,
    ]  # fmt: skip
    assert [number_in(text) for text in ("3.8", "about -2", "none", ".")] == [3.8, -2.0, 0.0, 0.0]


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("name", "folder"),
    [(name, "superglue") for name in ("boolq", "cb", "copa", "multirc", "sg-rte", "wsc")]
    + [("rte", "glue"), ("sst2", "glue"), ("cola", "glue"), ("wnli", "glue"), ("stsb", "glue"), ("qnli", "glue")]
    + [("record", "superglue_fewglue")],
)
def test_every_item_of_the_real_data_is_read(name: str, folder: str) -> None:
    task = TASKS[name]
    split = task.read(DATA / folder, "dev" if "dev" in task.splits(DATA / folder) else "train")
    text_form = form(name)
    for item in split.items[:200]:
        assert "{" not in text_form.read(item).replace(str(item), "") or "{" in str(item)
        assert len(text_form.answers(item)) == 1 and text_form.answers(item)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: a", "sources is not known; there are source, labels, choice, step"),
        ("source: '{first} [MASK]'", "[MASK] is for cloze patterns"),
        ("source: nothing", "it has no place for a text of the item"),
        ("source: [a]", "source: not a text"),
        ("labels: {2: x}", "there is no label 2; the labels are 0, 1"),
        ("labels: {0: Yes, 1: ' yes '}", "0 and 1 are written alike"),
        ("step: x", "step is x; it must be a number above 0"),
        ("source: '{first:big}'", "has the unknown change big"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_form(text, "own.yaml", TASKS["sst2"], ("0", "1"))
    assert message in str(raised.value)


def test_files_and_fields_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"patterns: nowhere\.yaml does not exist"):
        form_text("nowhere.yaml", "sst2")
    with pytest.raises(UserError, match=r"uses \{second\}"):
        form("rte").read(TextItem("1", "alone"))
    with pytest.raises(UserError, match="line 1: not valid YAML"):
        read_form("source: '", "own.yaml", TASKS["sst2"], ("0", "1"))
