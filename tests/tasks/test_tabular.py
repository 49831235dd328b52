"""Tables of one's own: every kind of task and file, labels found, and what is said of what is wrong."""

import gzip
import json
from pathlib import Path

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError
from blankfill.tasks.datasets.held_out import fewer, hold_out
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.datasets.tabular import sorted_labels, tabular_task
from blankfill.tasks.items import Answer, ChoiceItem, GenerationItem, QuestionItem, Split, TaggedItem, TextItem
from blankfill.tasks.metrics.scoring import score


def read(
    tmp_path: Path, task: str, text: str, columns: TableOptions | None = None, name: str = "train.csv",
    labels: tuple[str, ...] = (),
) -> Split:  # fmt: skip
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return tabular_task(task, columns).read(tmp_path / name, "train", labels)


def named(*columns: str) -> TableOptions:
    return TableOptions(columns=columns)


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_csv_file_with_quoted_fields(tmp_path: Path) -> None:
    split = read(tmp_path, "classify", 'text,label\n"good, ""very""\nso", pos\nbad,neg\n')
    assert split.texts() == [TextItem("0", 'good, "very"\nso', None, 1), TextItem("1", "bad", None, 0)]
    assert split.labels == ("neg", "pos")
    assert score(TASKS["classify"], split, [1, 1]) == {"accuracy": 0.5, "macro-f1": pytest.approx((0 + 2 / 3) / 2)}


def test_every_form_of_file_says_the_same(tmp_path: Path) -> None:
    rows = [{"id": f"r{k}", "sentence1": f"a {k}", "sentence2": "b", "label": k % 2} for k in range(4)]
    columns = named("id=id")
    expected = [TextItem(f"r{k}", f"a {k}", "b", k % 2) for k in range(4)]
    head, cells = list(rows[0]), [[str(value) for value in row.values()] for row in rows]
    texts = {
        "a.jsonl": jsonl(*rows),
        "a.json": json.dumps(rows, indent=1),
        "a.csv": "\n".join(",".join(row) for row in [head, *cells]),
        "semicolon.csv": "\n".join(";".join(row) for row in [head, *cells]),
        "a.tsv": "\r\n".join("\t".join(row) for row in [head, *cells]),
    }
    for name, text in texts.items():
        assert read(tmp_path, "classify", text, columns, name).texts() == expected, name
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(texts["a.csv"].encode()))
    assert tabular_task("classify", columns).read(tmp_path / "a.csv.gz").texts() == expected
    headless = "\n".join("\t".join(row) for row in cells)
    columns = named("text=2,3", "label=4", "id=1")
    assert read(tmp_path, "classify", headless, columns, "b.tsv").texts() == expected
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    assert tabular_task("classify", named("id=id")).read(tmp_path, "train").texts() == expected


def test_labels_of_every_type_are_one_name(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": label} for label in (1, "1", 1.0, " 1.0 ", 0, 10, 2)]
    split = read(tmp_path, "classify", jsonl(*rows), name="a.jsonl")
    assert split.labels == ("0", "1", "2", "10")
    assert [item.label for item in split.texts()] == [1, 1, 1, 1, 0, 3, 2]
    assert sorted_labels(["b", "10", "9"]) == ("10", "9", "b")
    rows = [{"text": "t", "label": label} for label in (True, "false", False)]
    assert read(tmp_path, "classify", jsonl(*rows), name="a.jsonl").labels == ("false", "true")


def test_dev_has_the_labels_of_train(tmp_path: Path) -> None:
    train = ("bad", "good", "so-so")
    split = read(tmp_path, "classify", "text,label\nx,good\ny,good\n", labels=train)
    assert [item.label for item in split.texts()] == [1, 1]
    with pytest.raises(
        UserError, match=r"train\.csv, line 3 has the label 'Good', which the training data do not have"
    ):
        read(tmp_path, "classify", "text,label\nx,good\ny,Good\n", labels=train)


def test_rows_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    split = read(tmp_path, "classify", "id,text,label\n1,,a\n1,x,a\n1,y,b\n2,z,\n3,,b\n", named("id=id"))
    assert [item.first for item in split.texts()] == ["x", "y"]
    assert [problem.split(": ", 1)[1] for problem in split.problems] == [
        "2 of 5 rows left out: each has no text (line 2, 6).",
        "1 of 5 rows left out: each has no label (line 5).",
        "1 ids are given to more than one row, such as 1.",
    ]


def test_a_file_without_labels_keeps_every_row(tmp_path: Path) -> None:
    split = read(tmp_path, "classify", 'text,label\nx,\n,\n"",\ny,\n', labels=("a", "b"))
    assert split.texts() == [TextItem("0", "x"), TextItem("1", "y")]
    split = read(tmp_path, "classify", "id,text\n1,x\n2,\n", labels=("a", "b"))
    assert split.texts() == [TextItem("0", "x"), TextItem("1", "")]
    with pytest.raises(UserError, match="2 of 2 rows have no label"):
        score(TASKS["classify"], split, [0, 0])


def test_columns_are_named_in_messages(tmp_path: Path) -> None:
    text = "review_text,stars\nx,5\ny,1\n"
    with pytest.raises(
        UserError,
        match="obviously the text: name one with columns=text=NAME label=NAME; its columns are review_text, stars",
    ):
        read(tmp_path, "classify", text)
    with pytest.raises(UserError, match="has no column 'star'; its columns are review_text, stars"):
        read(tmp_path, "classify", text, named("review_text", "label=star"))
    with pytest.raises(UserError, match="3 text columns are named where 2 can be read"):
        read(tmp_path, "classify", text, named("text=review_text,stars,x"))
    with pytest.raises(UserError, match="has only one label, 5"):
        read(tmp_path, "classify", "text,label\nx,5\ny,5\n")
    with pytest.raises(UserError, match="line 3 has 3 cells where 2 are wanted"):
        read(tmp_path, "classify", "text,label\nx,5\ny,5,6\n")
    with pytest.raises(UserError, match="two columns that are called 'text'"):
        read(tmp_path, "classify", "text,text\nx,5\n")
    with pytest.raises(UserError, match=r"train\.xlsx is text, and its name is that of a spreadsheet"):
        read(tmp_path, "classify", text, name="train.xlsx")
    with pytest.raises(UserError, match="has no rows"):
        read(tmp_path, "classify", "text,label\n")
    with pytest.raises(UserError, match="every row has no text"):
        read(tmp_path, "classify", "text,label\n,a\n,b\n")
    with pytest.raises(UserError, match="line 1 has several labels: use multilabel"):
        read(tmp_path, "classify", jsonl({"text": "x", "label": ["a"]}), name="a.jsonl")
    with pytest.raises(UserError, match="record 2 is not a JSON object"):
        read(tmp_path, "classify", '[{"text": "x"}, 3]', name="a.json")


def test_many_labels_look_like_numbers(tmp_path: Path) -> None:
    split = read(tmp_path, "classify", "text,score\n" + "".join(f"t,{k / 10}\n" for k in range(60)))
    assert split.problems[0].endswith("has 60 labels in 60 rows: to predict numbers use regress.")


def test_scores(tmp_path: Path) -> None:
    split = read(tmp_path, "regress", "text,score\nx,1.5\ny,-2\nz,\n")
    assert [item.label for item in split.texts()] == [1.5, -2.0]
    assert "each has no score (line 4)" in split.problems[0]
    assert score(TASKS["regress"], split, [3.0, -4.0])["pearson"] == pytest.approx(1.0)
    for broken in ("nan", "inf", "high"):
        with pytest.raises(UserError, match=f"line 3 has the score '{broken}', which is not a finite number"):
            read(tmp_path, "regress", f"text,score\nx,1.5\ny,{broken}\n")
    with pytest.raises(UserError, match="line 2 has the score nan"):
        read(tmp_path, "regress", '{"text": "a", "score": 1}\n{"text": "b", "score": NaN}\n', name="a.jsonl")


def test_several_labels(tmp_path: Path) -> None:
    split = read(tmp_path, "multilabel", 'text,labels\nx,"b,a"\ny,a\nz,"c, a"\n')
    assert (split.labels, [item.label for item in split.texts()]) == (("a", "b", "c"), [(0, 1), (0,), (0, 2)])
    rows = [{"text": "x", "labels": []}, {"text": "y", "labels": ["q", 1, "q"]}, {"text": "z", "labels": None}]
    split = read(tmp_path, "multilabel", jsonl(*rows), name="a.jsonl")
    assert (split.labels, [item.label for item in split.texts()]) == (("1", "q"), [(), (0, 1)])
    assert "each has no label (line 3)" in split.problems[0]
    columns = named("text", "label=toxic,rude")
    split = read(tmp_path, "multilabel", "text,toxic,rude\nx,1,0\ny,0,0\nz,1,1.0\n", columns)
    assert (split.labels, [item.label for item in split.texts()]) == (("toxic", "rude"), [(0,), (), (0, 1)])
    assert score(TASKS["multilabel"], split, [(0,), (), (0,)])["exact"] == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="line 2 has 'yes' in column 'toxic', where 0 or 1 is wanted"):
        read(tmp_path, "multilabel", "text,toxic,rude\nx,yes,0\n", columns)


def test_tags(tmp_path: Path) -> None:
    rows = [{"tokens": ["EU", "says no"], "tags": ["I-ORG", "O"]}, {"tokens": "a b", "tags": "O B-PER"}]
    split = read(tmp_path, "tag", jsonl(*rows), name="a.jsonl")
    assert split.tagged() == [
        TaggedItem("0", ("EU", "says no"), ("B-ORG", "O")),
        TaggedItem("1", ("a", "b"), ("O", "B-PER")),
    ]
    assert split.labels == ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")
    with pytest.raises(UserError, match="line 1 has 2 words and 1 tags"):
        read(tmp_path, "tag", jsonl({"words": ["a", "b"], "tags": ["O"]}), name="a.jsonl")
    with pytest.raises(UserError, match="line 1: 'ORG' is not a tag"):
        read(tmp_path, "tag", jsonl({"words": ["a"], "tags": ["ORG"]}), name="a.jsonl")
    with pytest.raises(UserError, match="has the label 'B-ORG', which the training data do not have"):
        read(tmp_path, "tag", jsonl(*rows), name="a.jsonl", labels=("O", "B-PER", "I-PER"))


def test_questions(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "context": "Ann and Ann", "answer": "Ann"},
        {"question": "Who?", "context": "Ann and Ann", "answer": ["Ann"], "at": 8},
        {"question": "Who?", "context": "Ann", "answer": "Bob"},
        {"question": "Who?", "context": "Ann", "answer": ""},
    ]
    split = read(tmp_path, "qa", jsonl(*rows), named("start=at"), "a.jsonl")
    assert split.questions() == [
        QuestionItem("0", "Who?", "Ann and Ann", (Answer("Ann", 0),), False),
        QuestionItem("1", "Who?", "Ann and Ann", (Answer("Ann", 8),), False),
        QuestionItem("2", "Who?", "Ann", (Answer("Bob", None),), False),
        QuestionItem("3", "Who?", "Ann", (), True),
    ]
    assert "1 rows have an answer that is not at its place in the context: line 3" in split.problems[0]
    assert score(TASKS["qa"], split, {"0": "ann", "1": "", "2": "Bob", "3": ""})["exact"] == 0.75
    with pytest.raises(UserError, match="Answers are identified by id"):
        read(tmp_path, "qa", "id,question,context,answer\n1,a,b,b\n1,c,b,b\n", named("id=id"))
    with pytest.raises(UserError, match="question and context must be columns of their own"):
        read(tmp_path, "qa", "question,context,answer\na,b,b\n", named("text=question"))


def test_choices(tmp_path: Path) -> None:
    split = read(tmp_path, "choice", "q,a,b,c,right\nWhy?,x,y,z,1\nHow?,x,y,,y\n", named("text=q,a,b,c", "label=right"))
    assert split.choices() == [
        ChoiceItem("0", "Why?", ("x", "y", "z"), 1, (1,)), ChoiceItem("1", "How?", ("x", "y"), 1, (1,)),
    ]  # fmt: skip
    row = {"context": "c", "choices": ["a", "b"], "label": 0}
    assert read(tmp_path, "choice", jsonl(row), name="a.jsonl").choices() == [ChoiceItem("0", "c", ("a", "b"), 0, (0,))]
    with pytest.raises(UserError, match="line 1 has the label '2', which is neither the number"):
        read(tmp_path, "choice", jsonl(row | {"label": 2}), name="a.jsonl")


def test_sources_and_targets(tmp_path: Path) -> None:
    rows = [{"source": "long", "target": ["a", "b"]}, {"source": "x", "target": "y"}, {"source": "z", "target": ""}]
    split = read(tmp_path, "seq2seq", jsonl(*rows), name="a.jsonl")
    assert split.generations() == [GenerationItem("0", "long", ("a", "b")), GenerationItem("1", "x", ("y",))]
    assert "each has no target (line 3)" in split.problems[0]
    split = read(tmp_path, "seq2seq", "p,q\nx,y\n", named("source=p", "second=q"))
    assert split.generations() == [GenerationItem("0", "x", (), "y")]


def test_a_dev_set_is_drawn(tmp_path: Path) -> None:
    whole = read(tmp_path, "classify", "text,label\n" + "".join(f"t{k},{k % 2}\n" for k in range(50)))
    train, dev = hold_out(whole, 0.2, seed=3)
    assert (len(train), len(dev)) == (40, 10)
    assert sorted((*train.items, *dev.items), key=lambda item: int(item.id)) == list(whole.items)
    assert [item.id for item in dev.items] == sorted((item.id for item in dev.items), key=int)
    assert hold_out(whole, 0.2, seed=3)[1] == dev != hold_out(whole, 0.2, seed=4)[1]
    assert len(hold_out(whole, 0.0)[1]) == 1
    with pytest.raises(UserError, match="1 row cannot be split"):
        hold_out(Split(whole.items[:1]))


def test_so_many_items_are_drawn(tmp_path: Path) -> None:
    whole = read(tmp_path, "classify", "text,label\n" + "".join(f"t{k},{k % 2}\n" for k in range(50)))
    some = fewer(whole, 10, seed=1)
    places = [int(item.id) for item in some.items]
    assert len(some) == 10 and places == sorted(set(places)) and some.labels == whole.labels
    assert fewer(whole, 10, seed=1) == some != fewer(whole, 10, seed=2)
    assert fewer(whole, 1000) == whole
