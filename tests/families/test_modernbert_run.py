"""ModernBERT as a user meets it: its sizes, and a small run that is filled, embedded, shown and fine-tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.families.modernbert import MODERNBERT, ModernBertNames
from blankfill.model.transformer import count_parameters
from blankfill.runs.recorder import read_lines
from small_run import SMALL, texts_in
from small_tasks import classes, run

SIZES = {
    **SMALL, "model.num_layers": 4, "model.ffn_size": 48, "objective.length": 96, "train.steps": 60,
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


def test_a_training_row_is_shown(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(trained / "corpus"), "--recipe", str(trained / "recipe.yaml"), "--example", "0"]) == 0
    assert "targets" in capsys.readouterr().out


def test_a_run_is_fine_tuned(trained: Path, tmp_path: Path) -> None:
    result = run("sst2", classes(tmp_path / "data"), trained, tmp_path / "run")
    assert result.metrics["accuracy"] > 0.9 > 0.7 > result.baseline
