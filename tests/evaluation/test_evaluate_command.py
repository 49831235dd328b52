"""The command: what it prints and writes, and every error in one sentence."""

import json
from pathlib import Path

import pytest
from evaluate_models import TEXT, bert, gpt2, t5, xlnet

from blankfill.cli.evaluate import known_measurements
from blankfill.cli.main import main
from blankfill.evaluation.run import MEASUREMENTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data of every task."""
    made = tmp_path_factory.mktemp("evaluate")
    gpt2(made / "gpt")
    bert(made / "bert")
    xlnet(made / "xlnet")
    t5(made / "t5")
    bert(made / "encoder", head=False)
    (made / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    (made / "lines.txt").write_text("the cat sat .\n\nthe dog playing\n", encoding="utf-8")
    (made / "empty.txt").write_text("\n \n", encoding="utf-8")
    (made / "lambada_test.jsonl").write_text(
        "".join(json.dumps({"text": f"the cat sat on the {word}"}) + "\n" for word in ("mat", "dog")), encoding="utf-8"
    )
    (made / "wiki.test.tokens").write_text(
        " \n = Cats = \n \n The cat <unk> , sat . \n \n = Dogs = \n \n A dog . \n", encoding="utf-8"
    )
    return made


def run(folder: Path, model: str, task: str, data: str, *more: str) -> int:
    where = ["--model", str(folder / model), "--task", task, "--data", str(folder / data)]
    return main(["evaluate", *where, "--threads", "1", "--device", "cpu", *more])


@pytest.mark.parametrize(
    ("model", "task", "data", "figures", "counts"),
    [
        ("gpt", "perplexity", "text.txt", {"perplexity", "bits_per_byte"}, {"texts": 1}),
        ("gpt", "wikitext2", ".", {"perplexity_per_word"}, {"texts": 2, "words": 23}),
        ("gpt", "lambada", ".", {"accuracy", "perplexity_per_word"}, {"words": 2}),
        ("bert", "lambada", ".", {"accuracy_given_length"}, {"words": 2}),
        ("bert", "pseudo-perplexity", "lines.txt", {"pseudo_perplexity"}, {"texts": 2, "words": 7}),
        ("xlnet", "lambada", ".", {"accuracy_given_length"}, {"words": 2}),
        ("t5", "lambada", ".", {"accuracy", "accuracy_with_end"}, {"words": 2}),
        ("t5", "infill", "text.txt", {"1", "2", "3", "5", "8", "13"}, {"passages": 2}),
        ("gpt", "infill", "text.txt", {"1", "2", "3", "5", "8", "13"}, {"passages": 2}),
    ],
)
def test_measurements_are_printed_and_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, task: str, data: str, figures: set[str], counts: dict[str, int],
) -> None:  # fmt: skip
    assert run(folder, model, task, data, "--out", str(tmp_path / "out"), "--json", "--allow-unknown") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert printed["task"] == task and printed["settings"]["split"] == "test"
    assert printed["model"] == str((folder / model).resolve())
    assert figures <= printed["metrics"].keys()
    assert counts.items() <= printed["counts"].items()
    if task == "infill":
        right = [sample["before"] + sample["right"] + sample["after"] for sample in printed["samples"]]
        assert len(right) == sum(part["blanks"] for part in printed["metrics"].values()) > 0
        assert all(text in TEXT * 3 for text in right)
    assert run(folder, model, task, data, "--allow-unknown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0].removesuffix(":") for line in lines[:-1]] == list(printed["metrics"])
    unit, count = next((name, count) for name, count in counts.items())
    assert lines[-1] == f"{count} {unit if count > 1 else unit[:-1]}" and printed["intervals"] == {}  # too few for one


def test_figures_of_several_texts_have_intervals(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one passage repeated, every resample has the same figure; of different ones it lies between two others."""
    (folder / "same.txt").write_text("the cat sat on the mat .\n" * 8, encoding="utf-8")
    (folder / "others.txt").write_text("the cat sat .\na dog .\n" * 4, encoding="utf-8")
    for name, alike in (("same", True), ("others", False)):
        assert run(folder, "bert", "pseudo-perplexity", f"{name}.txt", "--out", str(tmp_path / name)) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "8 texts; in brackets the 95% bootstrap interval"
        result = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        assert result["intervals"].keys() == result["metrics"].keys()
        for metric, (low, high) in result["intervals"].items():
            assert low - 1e-9 <= result["metrics"][metric] <= high + 1e-9, metric
            assert (high - low < 1e-6) == alike, metric


def test_every_measurement_has_its_test_above() -> None:
    assert set(MEASUREMENTS) == {"perplexity", "wikitext2", "lambada", "pseudo-perplexity", "infill"}
    assert set(MEASUREMENTS) <= set(known_measurements())


@pytest.mark.parametrize(
    ("model", "task", "data", "more", "message"),
    [
        ("bert", "perplexity", "text.txt", (), "objective bert: it has no perplexity; use --task pseudo-perplexity"),
        ("xlnet", "perplexity", "text.txt", (), "objective xlnet: it has no perplexity; use --task pseudo-perplexity"),
        (
            "gpt",
            "pseudo-perplexity",
            "lines.txt",
            (),
            "objective gpt: it assigns a probability to text; use --task perplex",
        ),
        ("t5", "perplexity", "text.txt", (), "objective t5: it has no perplexity; use --task infill"),
        ("t5", "pseudo-perplexity", "lines.txt", (), "t5: it has no scores of single masks; use --task infill"),
        ("encoder", "pseudo-perplexity", "lines.txt", (), "a bare encoder without a language-model head"),
        (
            "gpt",
            "sst2",
            "text.txt",
            (),
            "'sst2' does not measure pretrained models; give one of perplexity, wikitext2, lambada",
        ),
        ("gpt", "perplexity", "none.txt", (), "none.txt does not exist"),
        ("gpt", "perplexity", "empty.txt", (), "the data have no text"),
        ("bert", "pseudo-perplexity", "empty.txt", (), "empty.txt has no text: give a file with a sentence on each"),
        ("bert", "pseudo-perplexity", ".", (), "is a folder: give a file"),
        ("gpt", "infill", "lines.txt", (), "has no text of 48 words"),
        ("gpt", "lambada", "text.txt", (), "line 1: not JSON"),
        ("gpt", "perplexity", "text.txt", ("--window", "33"), "--window 33: "),
        ("gpt", "perplexity", "text.txt", ("--stride", "33"), "--stride 33 does not go with a window of 32"),
        ("gpt", "perplexity", "text.txt", ("--limit", "-1"), "--limit is -1; it must not be negative"),
        ("gpt", "wikitext2", ".", ("--split", "dev"), "has no dev file of wikitext2"),
        ("gpt", "perplexity", "text.txt", ("--na-prob-file", "x"), "--na-prob-file goes with a file of predictions"),
        (
            "gpt",
            "perplexity",
            "text.txt",
            ("answers.json",),
            "give either a file with predictions to score, or",
        ),
        ("gpt", "perplexity", "text.txt", ("--out", "text.txt/x"), "cannot be written (Not a directory)"),
        ("no", "perplexity", "text.txt", (), "no: no such file or folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str],
    model: str, task: str, data: str, more: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    more = tuple(str(folder / word) if word.startswith("text.txt/") else word for word in more)
    assert run(folder, model, task, data, *more) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("blankfill: ") and message in last


def test_neither_a_file_nor_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--task", "sst2", "--data", "x"]) == 2
    assert "give either a file with predictions" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["finetune.json", "lr-0.001_seed-0/finetune.json"])
def test_the_results_of_a_fine_tuning_are_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    out = tmp_path / "tuned"
    (out / where).parent.mkdir(parents=True)
    (out / where).write_text("{}", encoding="utf-8")
    (out / "results.json").write_text('{"score": 0.9}', encoding="utf-8")
    assert run(folder, "gpt", "perplexity", "text.txt", "--out", str(out)) == 2
    assert "holds a fine-tuning run, whose results.json would be lost" in capsys.readouterr().err
    assert (out / "results.json").read_text(encoding="utf-8") == '{"score": 0.9}'


def test_a_text_of_another_language_stops(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "greek.txt"
    text.write_text("ο γάτος κάθισε στο χαλί .\n" * 30, encoding="utf-8")
    more = "--task", "pseudo-perplexity", "--data", str(text), "--threads", "1", "--device", "cpu"
    assert main(["evaluate", "--model", str(folder / "bert"), *more, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "83.3% of the 180 tokens of the text are unknown" in captured.err and "(Greek)" in captured.err
    assert not captured.out and not (tmp_path / "out" / "results.json").exists()
    assert main(["evaluate", "--model", str(folder / "bert"), *more, "--allow-unknown"]) == 0
    assert "pseudo_perplexity" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "task"), [("gpt", "perplexity"), ("bert", "pseudo-perplexity"), ("gpt", "infill")])
def test_texts_may_be_a_column_of_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, task: str
) -> None:
    texts = [" ".join([TEXT.strip().replace(";", ",")] * (4 if task == "infill" else 1))] * 3
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "t.csv").write_text("".join(f'{k},"{text}",a b\n' for k, text in enumerate(texts)), encoding="utf-8")
    (tmp_path / "h.csv").write_text("id,body one,body two\n" + (tmp_path / "t.csv").read_text(), encoding="utf-8")
    printed = []
    for name, more in (("h.csv", ["--columns", "body one"]), ("t.csv", ["--columns", "text=2"])):
        where = ["--model", str(folder / model), "--task", task, "--data", str(tmp_path / name), *more]
        assert main(["evaluate", *where, "--threads", "1", "--device", "cpu", "--allow-unknown", "--json"]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0]["metrics"] == printed[1]["metrics"] and printed[0]["counts"] == printed[1]["counts"]
    if task == "pseudo-perplexity":
        assert run(tmp_path, str(folder / model), task, "text.txt", "--allow-unknown", "--json") == 0
        assert json.loads(capsys.readouterr().out)["metrics"] == printed[0]["metrics"]
    assert main(["evaluate", *where[:-2], "--columns", "none", "--threads", "1", "--device", "cpu"]) == 2
    assert "no column" in capsys.readouterr().err


def test_options_of_tables_are_not_for_files_of_a_benchmark(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "gpt", "wikitext2", ".", "--columns", "text") == 2
    assert "wikitext2 knows the form of its files" in capsys.readouterr().err
