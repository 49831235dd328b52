"""Submissions from end to end: tiny fine-tuned models, the benchmarks' own test files, every error."""

import json
from pathlib import Path

import pytest

from blankfill.cli.main import main
from blankfill.tasks.run_files import RESULTS
from conftest import DATA
from small_tasks import answerable, classes, model_folder, run, sentences, tags, write_lines

NO_DATA = pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")


@pytest.fixture(scope="module")
def sst2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose labels are those of CoLA and WNLI too."""
    folder = tmp_path_factory.mktemp("sst2")
    run("sst2", classes(folder / "data"), model_folder(folder), folder / "run")
    return folder / "run"


def submit(model: Path, data: Path, out: Path, *more: str) -> int:
    given = ["--model", str(model), "--data", str(data), "--out", str(out), "--threads", "1", "--device", "cpu"]
    return main(["predict", *given, "--submission", "--allow-unknown", *more])


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_glue_file_has_what_the_model_predicts(
    sst2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [text for text, _ in sentences(9, 5)]
    (tmp_path / "test.tsv").write_text(
        "index\tsentence\n" + "".join(f"{k + 100}\t{text}\n" for k, text in enumerate(rows)), encoding="utf-8"
    )
    assert submit(sst2, tmp_path, tmp_path / "out") == 0
    assert "SST-2.tsv: 9 predictions" in capsys.readouterr().out
    assert main(["predict", "--model", str(sst2), "--data", str(tmp_path), "--threads", "1", "--device", "cpu"]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["label"] for row in plain} == {"0", "1"}
    assert lines_of(tmp_path / "out" / "SST-2.tsv") == [
        "index\tprediction", *(f"{k + 100}\t{row['label']}" for k, row in enumerate(plain))
    ]  # fmt: skip


@pytest.mark.data
@NO_DATA
@pytest.mark.parametrize(
    ("task", "rows", "name"), [("cola", 1063, "CoLA.tsv"), ("sst2", 1821, "SST-2.tsv"), ("wnli", 146, "WNLI.tsv")]
)
def test_glue_takes_every_row_of_its_test_files(sst2: Path, tmp_path: Path, task: str, rows: int, name: str) -> None:
    assert submit(sst2, DATA / "glue", tmp_path, "--task", task) == 0
    head, *lines = lines_of(tmp_path / name)
    assert head == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(k) for k in range(rows)]
    assert {line.split("\t")[1] for line in lines} <= {"0", "1"}


SUPERGLUE = {
    "cb": (250, "CB.jsonl", {"entailment", "contradiction", "neutral"}),
    "copa": (500, "COPA.jsonl", {0, 1}),
    "wsc": (146, "WSC.jsonl", {"True", "False"}),
}


@pytest.mark.data
@NO_DATA
@pytest.mark.parametrize("task", SUPERGLUE)
def test_superglue_takes_every_row_of_its_test_files(task: str, tmp_path: Path) -> None:
    source = DATA / "superglue" / task.upper()
    for name, count in (("train", 24), ("val", 8)):
        rows = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        write_lines(tmp_path / "data" / f"{name}.jsonl", [json.loads(row) for row in rows[:count]])
    run(task, tmp_path / "data", model_folder(tmp_path), tmp_path / "run", epochs=1)
    rows, name, labels = SUPERGLUE[task]
    assert submit(tmp_path / "run", DATA / "superglue", tmp_path / "out") == 0
    results = [json.loads(line) for line in lines_of(tmp_path / "out" / name)]
    assert [row["idx"] for row in results] == list(range(rows))
    assert {row["label"] for row in results} <= labels


def test_clue_and_fewclue_name_their_files_apart(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("dev", 4), ("test", 5), ("test_public", 3)):
        rows = [
            {"id": k, "text": text, "label": ["false", "true"][label],
             "target": {"span1_text": text[0], "span1_index": 0, "span2_text": text[1], "span2_index": 1}}
            for k, (text, label) in enumerate(sentences(count, count))
        ]  # fmt: skip
        write_lines(tmp_path / "data" / f"{name}.json", rows)
    run("cluewsc", tmp_path / "data", model_folder(tmp_path), tmp_path / "run", epochs=1)
    for file, made, count in (("test", "cluewsc11_predict.json", 5), ("test_public", "cluewscf_predict.json", 3)):
        assert submit(tmp_path / "run", tmp_path / "data" / f"{file}.json", tmp_path / "out") == 0
        results = [json.loads(line) for line in lines_of(tmp_path / "out" / made)]
        assert [row["id"] for row in results] == list(range(count))
        assert {row["label"] for row in results} <= {"false", "true"}


def test_tags_stand_in_the_columns_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tags(tmp_path / "data")
    (data / "test.txt").write_text("-DOCSTART- O\n\nthe DT O\ncat NN O\n\nfine JJ O\ndog NN O\n", encoding="utf-8")
    run("conll", data, model_folder(tmp_path), tmp_path / "run", epochs=4)
    assert submit(tmp_path / "run", data, tmp_path / "out") == 0
    assert main(["predict", "--model", str(tmp_path / "run"), "--data", str(data), "--threads", "1"]) == 0
    shown = [json.loads(line)["tags"] for line in capsys.readouterr().out.splitlines()[1:]]
    (a, b), (c, d) = shown
    assert d == "B-X" and lines_of(tmp_path / "out" / "test.txt") == [
        "-DOCSTART- O", "", f"the DT {a}", f"cat NN {b}", "", f"fine JJ {c}", f"dog NN {d}"
    ]  # fmt: skip


def test_squad_takes_answers_and_odds_and_evaluate_finds_the_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HeadEvaluator from its files, the run has the F1 that its own score had, and no other threshold is better."""
    data = answerable(tmp_path / "data")
    run("squad2", data, model_folder(tmp_path), tmp_path / "run", epochs=2, max_query_length=8)
    result = json.loads((tmp_path / "run" / RESULTS).read_text(encoding="utf-8"))
    assert submit(tmp_path / "run", data, tmp_path / "out", "--split", "dev") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "best_answers.json", "null_odds.json", "predictions.json"
    ]  # fmt: skip
    capsys.readouterr()
    where = ["evaluate", "--task", "squad2", "--data", str(data), "--json"]
    assert main([*where, str(tmp_path / "out" / "predictions.json")]) == 0
    plain = json.loads(capsys.readouterr().out)["metrics"]
    assert plain["f1"] == pytest.approx(result["metrics"]["f1"])
    odds = ["--na-prob-file", str(tmp_path / "out" / "null_odds.json")]
    assert main([*where, str(tmp_path / "out" / "best_answers.json"), *odds]) == 0
    best = json.loads(capsys.readouterr().out)["metrics"]
    assert best["best-f1"] == pytest.approx(result["metrics"]["f1"])
    assert best["best-f1-threshold"] == pytest.approx(result["threshold"], abs=1e-3)
    assert best["best-exact"] >= plain["exact"] > 0.4
    assert best["no-answer-f1"] < plain["no-answer-f1"]  # every question is answered there


def test_odds_are_for_questions_that_may_have_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [
        {"id": "0", "question": "?", "answers": [{"text": "a", "answer_start": 0}]}]}]}]}  # fmt: skip
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "p.json").write_text('{"0": "a"}', encoding="utf-8")
    (tmp_path / "odds.json").write_text('{"0": 1.0}', encoding="utf-8")
    command = [
        "evaluate",
        "--data",
        str(tmp_path),
        str(tmp_path / "p.json"),
        "--na-prob-file",
        str(tmp_path / "odds.json"),
    ]
    assert main([*command, "--task", "squad"]) == 2
    assert "every question of squad has an answer; leave it out" in capsys.readouterr().err


def test_mistakes_are_told_in_one_sentence(sst2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = classes(tmp_path / "data")
    base = ["predict", "--model", str(sst2), "--threads", "1", "--device", "cpu"]
    (tmp_path / "bad").mkdir()
    rows = "".join(f"{k}\tthe cat\n" for k in range(200))
    (tmp_path / "bad" / "test.tsv").write_text(f"index\tsentence\n{rows}201\n", encoding="utf-8")
    for more, message in [
        ([], "give either a file of rows, or --data"),
        (["rows.txt", "--data", str(data)], "give either a file of rows, or --data"),
        (["rows.txt", "--submission"], "--submission and --task go with --data"),
        (["--data", str(data), "--submission"], "--submission writes files; name their folder with --out"),
        (["--data", str(data), "--submission", "--out", str(tmp_path / "x")], "has no test file of sst2"),
        (["--data", str(data), "--split", "valid"], "sst2 has no split 'valid'"),
        (["--data", str(data), "--task", "rte"], "--task rte: the model was fine-tuned for sst2"),
        (["--data", str(data), "--task", "squad"], "--task squad: the model was fine-tuned for sst2"),
        (["--data", str(tmp_path / "bad"), "--submission", "--out", str(tmp_path / "x")], "must answer every row, and"),
        (
            ["--data", str(data), "--split", "dev", "--submission", "--out", str(tmp_path / "bad" / "test.tsv")],
            "cannot be written",
        ),
    ]:
        assert main([*base, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["evaluate", "--model", str(sst2), "--task", "infill", "--data", str(data)]) == 2
    assert "this model was fine-tuned for sst2; use it with" in capsys.readouterr().err
    own = tmp_path / "own"
    write_lines(own / "dev.jsonl", [{"text": "the cat", "label": "1"}, {"text": "the dog", "label": "0"}])
    assert main([*base, "--data", str(own), "--split", "dev", "--task", "classify", "--submission",
                 "--out", str(tmp_path / "x")]) == 2  # fmt: skip
    assert "no benchmark's form is known for classify" in capsys.readouterr().err


def misplaced_squad(folder: Path) -> Path:
    """SQuAD's files in which every answer_start is 0, as annotation tools leave it."""
    for name in ("train", "dev"):
        qas = [
            {"id": f"{k}", "question": "who", "answers": [{"text": "paris", "answer_start": 0}]} for k in range(8)
        ]  # fmt: skip
        document = {"data": [{"title": "t", "paragraphs": [{"context": "the cat sat on paris", "qas": qas}]}]}
        folder.mkdir(exist_ok=True)
        (folder / f"{name}-v1.1.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_misplaced_answers_leave_no_question_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a file is scored and submitted: a place in the context matters to training alone."""
    data, good = misplaced_squad(tmp_path / "zero"), answerable(tmp_path / "data")
    for name in ("train", "dev"):
        document = json.loads((good / f"{name}-v2.0.json").read_text(encoding="utf-8"))
        for paragraph in document["data"][0]["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
        (good / f"{name}-v1.1.json").write_text(json.dumps(document), encoding="utf-8")
    run("squad", good, model_folder(tmp_path), tmp_path / "run", epochs=1, max_query_length=8)
    assert submit(tmp_path / "run", data, tmp_path / "out", "--split", "dev") == 0
    answers = tmp_path / "out" / "predictions.json"
    assert len(json.loads(answers.read_text(encoding="utf-8"))) == 8
    capsys.readouterr()
    assert main(["evaluate", "--task", "squad", "--data", str(data), str(answers), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["items"] == 8 and "8 of 8 answers do not lie at their answer_start" in shown.err
    assert main(["predict", "--model", str(tmp_path / "run"), "--data", str(data), "--split", "dev"]) == 0
    assert "squad, dev: exact" in capsys.readouterr().err


def test_predictions_for_rows_that_were_left_out_are_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "index\tsentence\tlabel\n" + "".join(f"{k}\tthe cat\t{k % 2}\n" for k in range(40)) + "40\tthe dog\tx\n"
    (tmp_path / "dev.tsv").write_text(rows, encoding="utf-8")
    lines = "".join(json.dumps({"id": str(k), "label": "1"}) + "\n" for k in range(41))
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    where = ["evaluate", "--task", "sst2", "--data", str(tmp_path), str(tmp_path / "p.jsonl")]
    assert main(where) == 0
    shown = capsys.readouterr()
    assert "accuracy 0.5000 [" in shown.out and "40 examples" in shown.out
    assert "has the label 'x'" in shown.err and "1 ids are not in" in shown.err and "are not scored" in shown.err
    (tmp_path / "dev.tsv").write_text(rows.replace("40\tthe dog\tx\n", ""), encoding="utf-8")
    assert main(where) == 2
    assert "1 ids are not in" in capsys.readouterr().err


def test_a_split_without_labels_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tthe cat\n1\tthe dog\n", encoding="utf-8")
    lines = "".join(json.dumps({"id": str(k), "label": "1"}) + "\n" for k in range(2))
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    where = ["evaluate", "--task", "sst2", "--data", str(tmp_path), "--split", "test", str(tmp_path / "p.jsonl")]
    assert main(where) == 2
    assert "the test split of sst2 has no labels, so predictions cannot be scored" in capsys.readouterr().err
