"""SuperGLUE, FewGLUE, CLUE, SWAG and HellaSwag: real files by their counts, made-up rows of each form, submissions."""

import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.datasets.superglue import submission_lines, submission_name
from blankfill.tasks.items import ChoiceItem, Split, TextItem
from blankfill.tasks.metrics.scoring import score
from conftest import DATA


def write(path: Path, *rows: dict[str, Any], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + end for row in rows), encoding="utf-8", newline="")


def read(task: str, path: Path, *rows: dict[str, Any], split: str = "train") -> Split:
    write(path / "rows.jsonl", *rows)
    return TASKS[task].read(path / "rows.jsonl", split)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("task", "folder", "split", "rows", "labelled"),
    [
        ("copa", "superglue", "train", 400, True),
        ("copa", "superglue", "test", 500, False),
        ("cb", "superglue", "dev", 56, True),
        ("cb", "superglue", "test", 250, False),
        ("wsc", "superglue", "train", 554, True),
        ("wsc", "superglue", "dev", 104, True),
        ("wsc", "superglue", "test", 146, False),
        ("boolq", "superglue", "dev", 3270, True),
        ("boolq", "superglue_fewglue", "train", 32, True),
        ("sg-rte", "superglue", "dev", 277, True),
        ("sg-rte", "superglue_fewglue", "dev", 32, True),
        ("multirc", "superglue", "dev", 4848, True),
        ("multirc", "superglue_fewglue", "train", 154, True),
        ("record", "superglue_fewglue", "train", 32, True),
        ("record", "superglue_fewglue", "dev", 32, True),
        ("ax-b", "superglue", "test", 1104, True),
        ("ax-g", "superglue", "test", 356, True),
        ("afqmc", ".", "dev", 4316, True),
        ("tnews", ".", "train", 1185, True),
        ("tnews", ".", "test", 2010, True),
        ("cluewsc", ".", "dev", 159, True),
        ("cluewsc", "fewclue/cluewsc", "test", 976, True),
        ("swag", ".", "dev", 11, True),
        ("hellaswag", ".", "dev", 1000, True),
    ],
)
def test_real_files_have_their_rows(task: str, folder: str, split: str, rows: int, labelled: bool) -> None:
    read = TASKS[task].read(DATA / folder, split)
    assert len(read) == rows
    assert not read.problems
    labels = [item.label for item in read.items if isinstance(item, TextItem | ChoiceItem)]
    assert len(labels) == rows
    assert all((label is not None) == labelled for label in labels)
    if labelled:
        assert score(TASKS[task], read, labels)[TASKS[task].primary_metric] == 1.0 if task != "ax-g" else True
    if task == "multirc" and folder == "superglue":
        assert len({item.group for item in read.texts()}) == 953
    if "wsc" in task:
        assert all(item.first.count("*") >= 2 and item.first.count("#") >= 2 for item in read.texts())


def test_pairs_with_labels_of_every_kind(tmp_path: Path) -> None:
    rows = [
        {"question": "is it", "passage": "It is.", "idx": 3, "label": True},
        {"question": "q", "passage": "p", "idx": 4},
    ]
    assert read("boolq", tmp_path, *rows).texts() == [TextItem("3", "is it", "It is.", 1), TextItem("4", "q", "p")]
    afqmc = read("afqmc", tmp_path, {"sentence1": "花", "sentence2": "呗", "label": "1", "idx": 0})
    assert afqmc.texts() == [TextItem("0", "花", "呗", 1)]
    tnews = read(
        "tnews", tmp_path, {"label": 116, "sentence": "电竞", "id": 9}, {"label": "100", "sentence": "事", "id": 8}
    )
    assert [(item.id, item.label) for item in tnews.texts()] == [("9", 14), ("8", 0)]


def test_copa_and_wic(tmp_path: Path) -> None:
    row = {"premise": "It fell.", "choice1": "a", "choice2": "b", "question": "effect", "label": 1, "idx": 0}
    [item] = read("copa", tmp_path, row).choices()
    assert item == ChoiceItem("0", "It fell. What happened as a result?", ("a", "b"), 1, (1,))
    row = {
        "word": "place", "sentence1": "Do you want to come to my place?", "sentence2": "A system with no place",
        "idx": 0, "label": False, "start1": 26, "start2": 17, "end1": 31, "end2": 22,
    }  # fmt: skip
    [text] = read("wic", tmp_path, row).texts()
    assert text == TextItem("0", "Do you want to come to my *place*?", "A system with no *place*", 0)


def test_wsc_marks_the_name_that_is_meant(tmp_path: Path) -> None:
    """The second "the dog" is nearest to word 6; a name that is nowhere gives way to the word at its place."""
    text = "The dog saw a cat , and the dog ran . It was\nquick , it was ."
    target = {"span1_text": "The dog.", "span1_index": 6, "span2_text": "it", "span2_index": 14}
    [item] = read("wsc", tmp_path, {"text": text, "target": target, "idx": 0, "label": True}).texts()
    assert item.first == "The dog saw a cat , and *the dog* ran . It was\nquick , #it# was ."
    target = target | {"span1_text": "a lion", "span1_index": 4}
    [item] = read("wsc", tmp_path, {"text": text, "target": target, "idx": 0}).texts()
    assert (item.label, item.first[:20]) == (None, "The dog saw a *cat* ")
    target = {"span1_text": "舌头", "span1_index": 3, "span2_text": "它", "span2_index": 8}
    [item] = read(
        "cluewsc", tmp_path, {"text": "刀光那舌头跳。看它，它", "target": target, "idx": 0, "label": "true"}
    ).texts()
    assert (item.first, item.label) == ("刀光那*舌头*跳。看#它#，它", 1)
    with pytest.raises(UserError, match=r"1 of 1 rows cannot be used .line 1 has no word at 99"):
        read("wsc", tmp_path, {"text": text, "target": target | {"span1_index": 99}, "idx": 0})


MULTIRC = {
    "idx": 5,
    "passage": {
        "text": "Passage.",
        "questions": [
            {
                "idx": 7,
                "question": "Q?",
                "answers": [{"idx": 1, "text": "A", "label": 1}, {"idx": 2, "text": "B", "label": 0}],
            },
            {"idx": 8, "question": "R?", "answers": [{"idx": 3, "text": "C", "label": 1}]},
        ],
    },
}


def test_multirc_scores_and_submission(tmp_path: Path) -> None:
    split = read("multirc", tmp_path, MULTIRC)
    items = split.texts()
    assert items[1] == TextItem("5-7-2", "Passage.", "Q? B", 0, "5-7")
    # Answers 1, 2, 3 are 1, 0, 1; predicted 1, 1, 1: F1 = 4/5, and question 8 alone is wholly right.
    metrics = score(TASKS["multirc"], split, [1, 1, 1])
    assert metrics == {"f1": 0.8, "group-exact": 0.5, "average": pytest.approx(0.65)}
    [line] = submission_lines(TASKS["multirc"], items, [1, 0, 1])
    questions = json.loads(line)["passage"]["questions"]
    assert questions[0] == {"idx": 7, "answers": [{"idx": 1, "label": 1}, {"idx": 2, "label": 0}]}
    assert submission_name("multirc") == "MultiRC.jsonl"


def test_record_takes_any_right_entity(tmp_path: Path) -> None:
    """Entities are given by their last character; the same entity twice is one choice."""
    text = "Ann Lee met Bob. Lee left.\n@highlight\nBob stayed"
    ends = [(0, 6), (12, 14), (17, 19), (38, 40)]
    row = {
        "idx": 1,
        "passage": {"text": text, "entities": [{"start": start, "end": end} for start, end in ends]},
        "qas": [{"idx": 4, "query": "@placeholder went away", "answers": [{"text": "Ann Lee"}, {"text": "Lee"}]}],
    }
    split = read("record", tmp_path, row)
    [item] = split.choices()
    assert item.names == ("Ann Lee", "Bob", "Lee")
    assert item.choices[2] == "Lee went away"
    assert (item.label, item.right, item.id) == (0, (0, 2), "4")
    assert item.context == "Ann Lee met Bob. Lee left. Bob stayed"
    assert score(TASKS["record"], split, [2]) == {"exact": 1.0, "f1": 1.0, "average": 1.0}
    assert score(TASKS["record"], split, [1])["f1"] == 0.0
    assert submission_lines(TASKS["record"], [item], [1]) == ['{"idx": 4, "label": "Bob"}']
    row["qas"][0]["answers"] = [{"text": "Carl"}]
    with pytest.raises(UserError, match=r"answers that are not entities of the passage \(Carl\)"):
        read("record", tmp_path, row)


def test_winogender_parity(tmp_path: Path) -> None:
    rows = [{"premise": f"p{k}", "hypothesis": "h", "idx": k, "label": "entailment", "pair_id": k} for k in range(4)]
    split = read("ax-g", tmp_path, *rows, split="test")
    assert score(TASKS["ax-g"], split, [0, 0, 0, 1]) == {"accuracy": 0.75, "parity": 0.5}


def test_submissions_name_labels() -> None:
    items = [TextItem("7", "a"), TextItem("8", "b")]
    assert submission_lines(TASKS["boolq"], items, [1, 0]) == [
        '{"idx": 7, "label": "true"}',
        '{"idx": 8, "label": "false"}',
    ]
    assert json.loads(submission_lines(TASKS["wsc"], items, [1, 0])[0]) == {"idx": 7, "label": "True"}
    assert json.loads(submission_lines(TASKS["cb"], items, [2, 0])[0]) == {"idx": 7, "label": "neutral"}
    choice = [ChoiceItem("3", "c", ("a", "b"))]
    assert submission_lines(TASKS["copa"], choice, [1]) == ['{"idx": 3, "label": 1}']


def test_faulty_rows_are_told(tmp_path: Path) -> None:
    good = {"premise": "p", "hypothesis": "h", "label": "neutral"}
    with pytest.raises(UserError, match=r"2 of 3 rows .*line 2 has no text 'hypothesis'; line 3 has the label 'maybe'"):
        read("cb", tmp_path, good | {"idx": 0}, {"premise": "p", "idx": 1}, good | {"idx": 2, "label": "maybe"})
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n[1]\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: a list where an object is expected"):
        TASKS["cb"].read(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: not JSON"):
        TASKS["cb"].read(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no rows"):
        TASKS["cb"].read(tmp_path / "x.jsonl")
    split = read("cb", tmp_path, {"premise": "p", "hypothesis": "h", "idx": 0})
    with pytest.raises(UserError, match="1 of 1 rows have no label: a test set can be predicted but not scored"):
        score(TASKS["cb"], split, [0])


def test_swag_and_hellaswag(tmp_path: Path) -> None:
    head = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
    row = '0,v,1,s,"He said ""go"".",She,gold,"runs, fast.",b.,c.,d.'
    (tmp_path / "train.csv").write_text(f"{head},label\n{row},2\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text(f"{head}\n{row}\n", encoding="utf-8")
    [item] = TASKS["swag"].read(tmp_path).choices()
    assert item == ChoiceItem("0", 'He said "go".', ("She runs, fast.", "She b.", "She c.", "She d."), 2, (2,))
    assert TASKS["swag"].read(tmp_path, "test").choices()[0].label is None
    (tmp_path / "train.csv").write_text(f"{head},label\n{row},4\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2 has the label '4' for 4 choices"):
        TASKS["swag"].read(tmp_path)
    (tmp_path / "train.csv").write_text("a,b\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no column 'sent1': its first line names a, b"):
        TASKS["swag"].read(tmp_path)
    row = {"ind": 4, "ctx_a": "A man sits.", "ctx_b": "he", "ctx": "A man sits. he", "endings": ["a", "b"], "label": 1}
    [item] = read("hellaswag", tmp_path, row).choices()
    assert item == ChoiceItem("4", "A man sits.", ("he a", "he b"), 1, (1,))
    [item] = read("hellaswag", tmp_path, row | {"ctx_a": "", "ctx": "How to", "label": ""}).choices()
    assert item == ChoiceItem("4", "How to", ("a", "b"))
