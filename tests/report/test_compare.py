"""Several runs on one page: results and settings side by side, curves over steps, tokens and time, CSV and SVG."""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from blankfill.cli.main import main
from blankfill.report import compare
from blankfill.report.compare import cautions, charts_of, differing, names_of, read_runs, results_of
from blankfill.report.figures import Dots, dot_lines

SVG = "{http://www.w3.org/2000/svg}"


def write_run(folder: Path, loss: float, steps: int = 40, objective: str = "bert", **train: object) -> Path:
    """A pretraining run of 40 steps, as far as `steps`."""
    folder.mkdir(parents=True)
    recipe = {"name": "mine", "objective": {"name": objective, "length": 32}, "train": {"steps": 40, **train}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    lines = [
        {"step": step, "split": split, "loss": loss - step / 100, "tokens": step * 100, "tokens_per_s": 50.0, "lr": 0.1}
        for step in range(10, steps + 1, 10)
        for split in ("train", "valid")
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"baseline": 6.5, "parameters": 1000}), encoding="utf-8")
    return folder


def write_tuned(folder: Path, score: float, task: str = "sst2") -> Path:
    """A fine-tuning run that is finished."""
    folder.mkdir(parents=True)
    values = {"task": task, "data": "glue", "from": "runs/bert", "options": {"lr": score / 1000, "epochs": 3}}
    (folder / "finetune.json").write_text(json.dumps(values), encoding="utf-8")
    results = {"primary_metric": "accuracy", "metrics": {"accuracy": score}, "complete": True,
               "baseline": {"metrics": {"accuracy": 0.5}}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    lines = [{"step": 10, "split": "valid", "accuracy": score - 0.1, "loss": 1.0, "tokens": 100},
             {"step": 20, "split": "valid", "accuracy": score, "loss": 0.9, "tokens": 200}]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "run.json").write_text('{"steps": 20}', encoding="utf-8")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "a", 6.0, lr=0.1), write_run(tmp_path / "b", 5.0, steps=20, lr=0.2)]


def data_of(page: str) -> Any:
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(text)


def test_an_empty_setting_is_as_none(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "a", 6.0), write_run(tmp_path / "b", 6.0, samples=[])])
    assert differing(runs) == {}


def test_results_and_settings_that_differ(two: list[Path]) -> None:
    runs = read_runs(two)
    assert differing(runs) == {"train.lr": [0.1, 0.2]}
    results = results_of(runs)
    assert results["best validation loss"] == pytest.approx([5.6, 4.8])
    assert (results["steps"], results["tokens"], results["seconds"]) == ([40, 20], [4000, 2000], [80.0, 40.0])
    assert cautions(runs) == ["Not finished: b; their results are those so far."]


def test_losses_of_different_objectives_are_not_compared_without_a_word(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "a", 6.0), write_run(tmp_path / "b", 5.0, objective="glm")])
    (sentence,) = cautions(runs)
    assert sentence.startswith("The objectives differ, so the losses are means over other targets")
    tuned = [write_tuned(tmp_path / "c", 0.8), write_tuned(tmp_path / "d", 0.7, "rte")]
    assert any("The tasks or their data differ" in sentence for sentence in cautions(read_runs(tuned)))


def test_the_page_has_a_curve_for_each_run_over_steps_tokens_and_time(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "c.html"
    assert main(["compare", *map(str, two), "--out", str(out), "--quiet"]) == 0
    page = out.read_text(encoding="utf-8")
    data = data_of(page)
    valid = data["charts"][0]
    assert valid["key"] == "loss valid"
    assert [(series["name"], series["tone"]) for series in valid["series"]] == [("a", "run0"), ("b", "run1")]
    assert data["splits"]["1 valid"] == {"step": [10, 20], "tokens": [1000, 2000], "time": [20.0, 40.0]}
    assert '<li class="run1">b <b>4.800</b></li>' in page
    assert [f'value="{name}"' in page for name in ("step", "tokens", "time")] == [True] * 3
    assert str(tmp_path) not in page
    assert '<th scope="row">train.lr</th>' in page


def test_runs_of_both_kinds_and_hidden_words(tmp_path: Path) -> None:
    shares = {"first": 0.1, "among": 0.2}
    report = {"words": 10, "covered": 0.9, "candidates": 50, "step": 40, "before": None, "frequency": shares,
              "word_before": shares, "neighbours": shares, "model": {"first": 0.3, "among": 0.5}, "verdict": "",
              "sure_words": 1, "sure": 1.0, "right": [], "wrong": []}  # fmt: skip
    plain = write_run(tmp_path / "a", 6.0)
    (plain / "hidden_words.json").write_text(json.dumps(report), encoding="utf-8")
    runs = read_runs([plain, write_tuned(tmp_path / "t", 0.8)])
    results = results_of(runs)
    assert results["hidden words named at once"] == [0.3, None]
    assert results["hidden words named among five"] == [0.5, None]
    assert (results["dev accuracy"], results["dev accuracy without reading"]) == ([None, 0.8], [None, 0.5])
    assert charts_of(runs)[0].key == "accuracy valid"
    assert differing(runs)["task"] == [None, "sst2"]


def test_a_folder_of_several_runs_stands_for_each_of_them(tmp_path: Path) -> None:
    grid = tmp_path / "grid"
    for name, score in (("lr1_0", 0.7), ("lr2_0", 0.8)):
        write_tuned(grid / name, score)
    several = {"task": "sst2", "primary_metric": "accuracy", "settings": [{"setting": "lr1"}, {"setting": "lr2"}],
               "runs": ["lr1_0", "lr2_0"]}  # fmt: skip
    (grid / "results.json").write_text(json.dumps(several), encoding="utf-8")
    assert [run.name for run in read_runs([grid, grid / "lr1_0"])] == ["lr1_0", "lr2_0"]


def test_names_are_made_different() -> None:
    paths = [Path("/x/a/run"), Path("/x/b/run")]
    assert names_of(paths) == ["a/run", "b/run"]
    assert names_of([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert names_of([Path("/1/p/q/r"), Path("/2/p/q/r")]) == ["1 r", "2 r"]


def test_csv_and_svg(two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"x.{name}.{end}" for name, end in (("csv", "csv"), ("curves", "csv"), ("svg", "svg"))}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    arguments = ["compare", *map(str, two), "--out", str(tmp_path / "c.html"), *options, "--x", "time", "--json"]
    assert main(arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert [run["settings"] for run in values["runs"]] == [{"train.lr": 0.1}, {"train.lr": 0.2}]
    with open(files["csv"], encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["a", "b"]
    assert [float(row["train.lr"]) for row in table] == [0.1, 0.2]
    with open(files["curves"], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    wanted = [line for line in lines if (line["run"], line["split"], line["metric"]) == ("b", "valid", "loss")]
    assert [(line["step"], line["tokens"], line["seconds"]) for line in wanted] == [
        ("10", "1000", "20.000"), ("20", "2000", "40.000")
    ]  # fmt: skip
    assert [float(line["value"]) for line in wanted] == pytest.approx([4.9, 4.8])
    svg = ElementTree.parse(files["svg"]).getroot()
    assert len(svg.findall(f"{SVG}polyline")) == 2
    words = [element.text for element in svg.findall(f"{SVG}text")]
    assert {"Validation loss", "training time", "a 5.600", "b 4.800"} <= set(words)


def test_texts_of_the_svg_do_not_lie_on_each_other(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run with a long name {k}", 6.0 + k / 10) for k in range(11)]
    assert main(["compare", *map(str, folders), "--out", str(tmp_path / "c.html"), "--svg", str(tmp_path / "s.svg"),
                 "--metric", "lr", "--quiet"]) == 0  # fmt: skip
    svg = ElementTree.parse(tmp_path / "s.svg").getroot()
    boxes = []
    for text in svg.findall(f"{SVG}text"):
        wide, x, y = 7.0 * len(text.text or ""), float(text.get("x", 0)), float(text.get("y", 0))
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[text.get("text-anchor", "start")]
        boxes.append((left, left + wide, y - 11, y + 3))
    for k, (a, b, c, d) in enumerate(boxes):
        assert a >= 0 and b <= float(svg.get("width", 0))
        assert not [box for box in boxes[:k] if a < box[1] and box[0] < b and c < box[3] and box[2] < d]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "only one run is named ({a}); name two or more to compare them"),
        (["{a}", "{a}"], "only one run is named ({a}); name two or more to compare them"),
        (["{a}", "{tmp}"], "{tmp} holds no run; name the folders of runs, as `pretrain` and `finetune` made them"),
        (["{a}", "{tmp}/no"], "{tmp}/no does not exist; name the folders of runs, as `pretrain` and `finetune` made "
                              "them"),
        (["{a}", "{a}/run.json"], "{a}/run.json is not a folder; name the folders of runs, as `pretrain` and "
                                  "`finetune` made them"),
        (["{a}", "{b}", "--out", "x.pdf"], "--out x.pdf does not end in .html or .htm"),
        (["{a}", "{b}", "--metric", "lr"], "--metric chooses the chart of an SVG file; name the file with --svg"),
        (["{a}", "{b}", "--svg", "{tmp}/x.svg", "--metric", "f1"], "--metric f1 was not measured in these runs; "
                                                                   "measured were loss, tokens_per_s, lr"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], message: str, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"a": two[0], "b": two[1], "tmp": tmp_path}
    assert main(["compare", *(argument.format(**names) for argument in arguments)]) == 2
    assert capsys.readouterr().err == f"blankfill: {message.format(**names)}\n"
    assert not (tmp_path / "x.svg").exists()


def test_runs_without_measurements_have_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("name: x\n", encoding="utf-8")
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["compare", *folders, "--out", str(tmp_path / "c.html")]) == 0
    assert "No measurements yet." in (tmp_path / "c.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["compare", *folders, "--out", str(tmp_path / "c.html"), "--svg", str(tmp_path / "s.svg")]) == 2
    assert "no measurements yet" in capsys.readouterr().err
    assert compare.charts_of(read_runs([tmp_path / "a", tmp_path / "b"])) == []


def test_long_names_of_settings_are_whole_in_pictures() -> None:
    names = [f"learning_rate={rate}-batch_size=32-warmup_ratio=0.06" for rate in ("1e-05", "5e-05")]
    picture = dot_lines([Dots(name, [0.5, 0.6], 0.55) for name in names], "scores")
    assert all(f">{name}</text>" in picture for name in names)
    short = dot_lines([Dots("lr", [0.5], 0.5)], "scores", ("baseline", 0.4))
    assert 'text-anchor="end">lr</text>' in short
