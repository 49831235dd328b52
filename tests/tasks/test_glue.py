"""GLUE's files: the real ones by their row counts, and made-up ones of the same form."""

from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.glue import submission_lines, submission_name
from blankfill.tasks.datasets.registry import TASKS, task_named
from blankfill.tasks.items import TextItem
from conftest import DATA

MNLI_TRAIN = (
    "index promptID pairID genre Sentence1_binary_parse Sentence2_binary_parse Sentence1_parse Sentence2_parse "
    "Sentence1 Sentence2 label1 gold_label"
).replace("Sentence1 Sentence2 label1", "sentence1 sentence2 label1")


def write(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.replace("|", "\t") + "\n" for row in rows), encoding="utf-8", newline="")


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("task", "folder", "split", "rows", "labelled"),
    [
        ("cola", "glue", "train", 8551, True),
        ("cola", "glue/CoLA", "dev", 1043, True),
        ("cola", "glue", "test", 1063, False),
        ("sst2", "glue", "dev", 872, True),
        ("sst2", "glue", "test", 1821, False),
        ("stsb", "glue", "train", 5749, True),
        ("stsb", "glue", "dev", 1500, True),
        ("rte", "glue", "train", 2490, True),
        ("wnli", "glue", "dev", 71, True),
        ("wnli", "glue", "test", 146, False),
        ("qnli", "glue", "dev", 5463, True),
        ("qnli", "glue/QNLI_kshot/16-13", "train", 32, True),
        ("mnli", "glue/MNLI_kshot/16-42", "train", 48, True),
        ("mnli", "glue/MNLI_kshot/16-13", "dev", 48, True),
        ("chnsenticorp", ".", "train", 9600, True),
        ("chnsenticorp", "chnsenticorp", "test", 1200, True),
    ],
)
def test_real_files_have_their_rows(task: str, folder: str, split: str, rows: int, labelled: bool) -> None:
    read = TASKS[task].read(DATA / folder, split)
    assert len(read) == rows
    assert not read.problems
    assert all((item.label is not None) == labelled and item.first for item in read.texts())


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
def test_a_real_row_of_each_form() -> None:
    cola = TASKS["cola"].read(DATA / "glue", "train").texts()[0]
    assert cola == TextItem("0", "Our friends won't buy this analysis, let alone the next one we propose.", None, 1)
    stsb = TASKS["stsb"].read(DATA / "glue", "dev").texts()[0]
    assert stsb == TextItem("0", "A man with a hard hat is dancing.", "A man wearing a hard hat is dancing.", 5.0)
    mnli = TASKS["mnli"].read(DATA / "glue/MNLI_kshot/16-13", "train")
    assert sorted({item.label for item in mnli.texts()}) == [0, 1, 2]
    assert mnli.texts()[0].first.startswith("Price caps may")


def test_quotation_marks_are_text(tmp_path: Path) -> None:
    write(tmp_path / "SST-2/train.tsv", "sentence|label", '"unpaired|1', 'a "paired" one |0')
    items = TASKS["sst2"].read(tmp_path, "train").texts()
    assert items == [TextItem("0", '"unpaired', None, 1), TextItem("1", 'a "paired" one', None, 0)]


def test_mnli_has_two_dev_sets_of_more_columns(tmp_path: Path) -> None:
    names = MNLI_TRAIN.replace("label1", "label1 label2 label3 label4 label5").replace(" ", "|")
    row = "|".join(str(k) for k in range(8)) + "|a b|c|" + "|".join(["neutral"] * 5)
    write(tmp_path / "dev_matched.tsv", names, f"{row}|contradiction")
    write(tmp_path / "dev_mismatched.tsv", names, f"{row}|entailment", f"{row}|neutral")
    task = TASKS["mnli"]
    assert task.read(tmp_path, "dev").texts() == [TextItem("0", "a b", "c", 2)]
    mismatched = task.read(tmp_path, "dev_mismatched")
    assert [item.label for item in mismatched.texts()] == [0, 1]
    assert "1 ids are given to more than one row" in mismatched.problems[0]
    assert task.splits(tmp_path) == ["dev", "dev_mismatched"]


def test_mrpc_as_microsoft_distributes_it(tmp_path: Path) -> None:
    head = "\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String"
    write(tmp_path / "msr_paraphrase_train.txt", head, '1|10|11|He said "no.|No.', "0|20|21|a|b", "0|30|31|c|d")
    write(tmp_path / "msr_paraphrase_test.txt", head, "1|40|41|e|f")
    with pytest.raises(UserError, match=r"looked for mrpc_dev_ids\.tsv"):
        TASKS["mrpc"].read(tmp_path, "dev")
    write(tmp_path / "mrpc_dev_ids.tsv", "20|21")
    assert [item.id for item in TASKS["mrpc"].read(tmp_path, "train").texts()] == ["0", "2"]
    assert TASKS["mrpc"].read(tmp_path, "dev").texts() == [TextItem("1", "a", "b", 0)]
    assert TASKS["mrpc"].read(tmp_path, "test").texts() == [TextItem("0", "e", "f", 1)]


def test_a_few_faulty_rows_are_told_and_many_refused(tmp_path: Path) -> None:
    head = "id|qid1|qid2|question1|question2|is_duplicate"
    good = [f"{k}|1|2|why {k}?|how?|{k % 2}" for k in range(200)]
    write(tmp_path / "train.tsv", head, *good, "200|1|2|cut off")
    split = TASKS["qqp"].read(tmp_path, "train")
    assert len(split) == 200
    assert split.problems == [
        f"{tmp_path / 'train.tsv'}: 1 of 201 rows left out: line 202 has 4 columns where 6 are wanted."
    ]
    write(tmp_path / "dev.tsv", head, *good[:20], "1|1|2|a|b|maybe", "2|1|2|a|b|no")
    with pytest.raises(UserError, match=r"2 of 22 rows cannot be used .*'maybe'.*the labels are 0, 1.*right file"):
        TASKS["qqp"].read(tmp_path, "dev")


def test_errors_name_file_column_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no train file of rte: looked for train\.tsv"):
        TASKS["rte"].read(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        TASKS["rte"].read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no split 'valid'"):
        TASKS["rte"].read(tmp_path, "valid")
    write(tmp_path / "train.tsv", "index|text|label", "0|a|entailment")
    with pytest.raises(UserError, match="has no column 'sentence1': its first line names index, text, label"):
        TASKS["rte"].read(tmp_path)
    write(tmp_path / "train.tsv", "index|sentence1|sentence2|label")
    with pytest.raises(UserError, match="has no rows"):
        TASKS["rte"].read(tmp_path)
    write(tmp_path / "train.tsv", "index|sentence1|sentence2|score", "0|a|b|nan", "1|a|b|3.5")
    with pytest.raises(UserError, match=r"There is no task 'rtee': did you mean rte\? The tasks are cola, sst2"):
        task_named("rtee")
    split = TASKS["stsb"].read(tmp_path)
    assert [item.label for item in split.texts()] == [3.5]
    assert "'nan' (scores lie from 0 to 5)" in split.problems[0]


def test_submission_files() -> None:
    items = [TextItem("7", "a"), TextItem("8", "b")]
    assert submission_lines(TASKS["mnli"], items, [2, 0]) == ["index\tprediction", "7\tcontradiction", "8\tentailment"]
    assert submission_lines(TASKS["cola"], items, [1, 0])[1:] == ["7\t1", "8\t0"]
    assert submission_lines(TASKS["stsb"], items, [5.31, 2.3456])[1:] == ["7\t5.000", "8\t2.346"]
    assert [submission_name("mnli"), submission_name("mnli", "test_mismatched")] == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    assert {submission_name(name) for name in ("stsb", "sst2")} == {"STS-B.tsv", "SST-2.tsv"}
