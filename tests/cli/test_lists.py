"""`blankfill recipes` and `blankfill tasks`: what they list, and that it is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.cli.main import main
from blankfill.cli.recipes import rounded
from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.planning.approximate import approximate_parameters
from blankfill.planning.estimate import parameters
from blankfill.tasks.datasets.examples import EXAMPLES, example_file
from blankfill.tasks.datasets.registry import TASKS, register_task
from blankfill.tasks.task import Task


def test_all_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert list(rows) == recipe_names()
    bert = rows["bert-base"]
    assert (bert["objective"], bert["family"], bert["layers"], bert["hidden_size"]) == ("bert", "bert", 12, 768)
    assert bert["tokens"] == 256 * (900_000 * 128 + 100_000 * 512)  # 90% of a million steps have rows of 128
    assert rounded(bert["parameters"]) == "110M"
    assert main(["recipes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["bert-base", "bert", "bert", "12", "×", "768", "110M", "512", "42.6B"] in lines


@pytest.mark.parametrize("name", ["bert-base", "electra-base", "spanbert-large", "t5-v1.1-base", "albert-xxlarge",
                                  "bart-nano", "xlnet-base", "modernbert-base", "glm-base", "gpt2-medium"])  # fmt: skip
def test_approximate_sizes_are_near_the_exact_ones(name: str) -> None:
    recipe = load_recipe(name)
    config = recipe.model_config(recipe.corpus.vocab_size)
    assert approximate_parameters(config) == pytest.approx(sum(parameters(config).values()), rel=0.03)


def test_rounded() -> None:
    assert [rounded(n) for n in (7, 1000, 999_999, 1_097_984, 42.6e9, 2.05e12)] == [
        "7", "1k", "1M", "1.1M", "42.6B", "2.05T"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["bert-base", "glm-nano", "t5-small", "electra-nano", "bart-base"])
def test_the_settings_of_a_recipe_are_that_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", name]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe(name)
    assert "  # Fraction of the text that is set aside for validation; usually 0.01 to 0.05.\n  validation: " in text
    assert max(map(len, text.splitlines())) <= 120
    assert main(["recipes", str(tmp_path / "mine.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["name"] == name


def test_an_unknown_recipe_or_task_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, near in (
        (["recipes", "brt-nano"], "bert-nano"), (["tasks", "squd"], "squad"), (["help", "pretran"], "pretrain"),
        (["pretrain", "x", "--recipe", "glm-lrge"], "glm-large"), (["bench", "--shapes", "brt-4x256"], "bert"),
        (["evaluate", "--task", "sts-b", "--data", "x", "y.jsonl"], "stsb"),
        (["evaluate", "--task", "perplexty", "--data", "x", "--model", "m"], "perplexity"),
    ):  # fmt: skip
        assert main(argv) == 2
        assert f"did you mean {near}" in capsys.readouterr().err.replace("`blankfill ", "").replace("`", ""), argv


def test_all_tasks_are_listed_with_their_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["tasks"]}
    assert set(rows) >= set(TASKS) and rows["mnli"]["files"]["dev"] == ["dev_matched.tsv"]
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert "Tables of your own" in out and all(f"\n  {name} " in out for name in TASKS)


def test_an_own_table_shows_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "classify"]) == 0
    out = capsys.readouterr().out
    assert "train.csv, for example:\n  text,label\n" in out
    assert "train.ENDING, train-*.ENDING" in out and "ENDING is one of csv, tsv, jsonl, json, parquet" in out


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_task_is_read_by_it(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    file, text = example_file(task)
    (tmp_path / file.replace("*", "x")).write_text(text, encoding="utf-8")
    split = "train" if "train" in task.files else next(iter(task.files))
    items = task.read(tmp_path, split)
    assert len(items.items) >= 1 and not items.problems


def test_every_task_of_the_package_has_an_example() -> None:
    assert set(EXAMPLES) == {name for name, task in TASKS.items() if task.parse.__class__.__module__ != __name__}


def test_a_registered_task_is_shown_without_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blankfill.tasks.datasets.registry.TASKS", dict(TASKS))
    task = Task("stars", "classify", {"train": ("stars.txt",)}, TASKS["classify"].parse, ("accuracy",), "accuracy")
    register_task(task)
    assert main(["tasks", "stars"]) == 0
    out = capsys.readouterr().out
    assert "stars.txt" in out and "for example" not in out
