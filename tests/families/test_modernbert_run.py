"""ModernBERT as a user meets it: its sizes, and a small run that is filled, embedded, shown and fine-tuned."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint.load import load_model
from blankfill.cli.arguments import parsed
from blankfill.cli.export import ExportArguments
from blankfill.cli.finetune import FinetuneArguments
from blankfill.cli.main import main
from blankfill.cli.pretrain import PretrainArguments
from blankfill.cli.recipe_arguments import parse
from blankfill.config.recipe import load_recipe
from blankfill.families.modernbert import MODERNBERT, ModernBertNames
from blankfill.model.transformer import count_parameters
from blankfill.runs.recorder import read_lines
from small_run import SMALL, texts_in
from small_tasks import classes, run

SIZES = {
    **SMALL, "model.num_layers": 4, "model.ffn_size": 48, "objective.length": 96, "train.steps": 60,
    "model.positions": 160,
    "corpus.vocab_size": 400, "corpus.tokenizer": "bpe",  # pieces for the words of the task below, which its text lacks
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = texts_in(tmp_path_factory.mktemp("texts"), 30)
    out = tmp_path_factory.mktemp("runs") / "modernbert"
    blankfill.pretrain([str(texts)], load_recipe("modernbert-nano", SIZES), out)
    return out


@pytest.mark.parametrize("name", MODERNBERT.recipes)
def test_recipes_have_as_many_weights_as_in_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = load_recipe(name).model_config(50368)
    theirs = transformers.ModernBertConfig(**ModernBertNames().write(config))
    with torch.device("meta"):
        model = transformers.ModernBertForMaskedLM(theirs)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config)
    assert (config.window, config.layer_kind(0), config.layer_kind(1), config.layer_kind(3)) == (
        64, "global", "local", "global",
    )  # fmt: skip
    if name != "modernbert-nano":
        assert theirs.max_position_embeddings == 8192


def test_the_loss_falls(trained: Path) -> None:
    valid = [line["loss"] for line in read_lines(trained / "metrics.jsonl") if line["split"] == "valid"]
    assert valid[-1] < valid[0] - 1
    config = load_model(trained).model.config
    assert config.window == 64 and config.position_scheme == "rotary" and not config.norm_bias


def test_a_run_is_filled_and_embedded(trained: Path, tmp_path: Path) -> None:
    model = blankfill.load(trained)
    text = "The old captain [MASK] the red lantern before supper. " * 5  # longer than the window
    results = model.fill(text.strip(), 3)
    assert len(results.candidates) == 5 and all(len(candidates) == 3 for candidates in results.candidates)
    lines = tmp_path / "lines.txt"
    lines.write_text("The farmer sells some fresh bread.\nMy sister paints.\n", encoding="utf-8")
    assert main(["embed", "--model", str(trained), str(lines), "--out", str(tmp_path / "x.npy")]) == 0
    assert np.load(tmp_path / "x.npy").shape == (2, 32)


def documented(command: str) -> list[list[str]]:
    """The arguments of a command's lines in docs/modernbert.md."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "modernbert.md").read_text(encoding="utf-8")
    begin = f"$ blankfill {command} "
    return [shlex.split(line[len(begin) :], comments=True) for line in text.splitlines() if line.startswith(begin)]


def test_the_documented_phases_are_commands() -> None:
    """Each is read as the command line reads it, and holds the tokens and rates that its page says."""
    recipes = [parse(PretrainArguments, "pretrain", argv)[1] for argv in documented("pretrain")]
    assert len(recipes) == 4 and not any(recipe.problems() for recipe in recipes)
    _, first, second, third = recipes
    tokens = [recipe.objective.length * recipe.train.batch_size for recipe in (first, second, third)]
    assert tokens == [4608 * 1024] * 3
    assert second.train.steps * tokens[1] == pytest.approx(250e9, rel=0.01)
    assert third.train.steps * tokens[2] == pytest.approx(50e9, rel=0.01)
    for recipe in (second, third):
        assert recipe.train.lr * recipe.train.weight_decay == pytest.approx(1e-5, rel=0.02)
        assert recipe.train.lr_at(0) == 3e-4 and recipe.train.row_schedule.rows(0).stop == 576
    assert second.train.lr_at(52_999) == 3e-4
    assert third.train.lr_at(2650) == pytest.approx(1.5e-4)  # a quarter of the steps, half of the rate
    assert third.train.lr_at(10_599) < 1e-7
    for argv in documented("finetune"):
        parsed(FinetuneArguments, argv, "finetune")
    for argv in documented("export"):
        parsed(ExportArguments, argv, "export")


def test_a_run_goes_on_with_longer_rows_and_a_falling_rate(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = str(texts_in(tmp_path / "texts", 30))
    for name, begins, more in (
        ("longer", trained, []), ("falling", tmp_path / "longer", ["--train.schedule", "1-sqrt"])
    ):  # fmt: skip
        arguments = ["--from", str(begins), "--recipe", "modernbert-nano", "--objective.length", "160", *more]
        sizes = ["--train.steps", "4", "--train.batch-size", "2", "--train.warmup", "0", "--train.log-every", "1"]
        assert main(["pretrain", texts, *arguments, *sizes, "--out", str(tmp_path / name)]) == 0
    config = load_model(tmp_path / "falling").model.config
    assert config.position_sizes == (160,) and config.window == 64
    rates = [line["lr"] for line in read_lines(tmp_path / "falling" / "metrics.jsonl") if line["split"] == "train"]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])


def test_a_training_row_is_shown(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(trained / "corpus"), "--recipe", str(trained / "recipe.yaml"), "--example", "0"]) == 0
    assert "targets" in capsys.readouterr().out


def test_a_run_is_fine_tuned(trained: Path, tmp_path: Path) -> None:
    result = run("sst2", classes(tmp_path / "data"), trained, tmp_path / "run")
    assert result.metrics["accuracy"] > 0.9 > 0.7 > result.baseline
