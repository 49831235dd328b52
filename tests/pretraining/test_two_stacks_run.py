"""T5 and BART from text to a model that transformers opens: train, stop, resume, export, continue; and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blankfill.checkpoint.load import Loaded, load_model
from blankfill.config.recipe import Recipe, load_recipe
from blankfill.errors import ConfigError
from blankfill.exporting.model import export_model
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.data import read_splits
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.generation.fill import Filler
from blankfill.pretraining import run
from blankfill.pretraining.warm_start import InitFrom
from blankfill.runs.recorder import read_lines
from blankfill.tasks.options import FinetuneOptions, HeadOn
from small_run import SMALL, texts_in

TINY = {**SMALL, "train.threads": 1, "model.dropout": 0.0, "model.vocab_multiple": 1, "corpus.vocab_exact": False}
TINY |= {"train.micro_batch": 0, "train.warmup": 0, "train.eval_rows": 4, "train.save_every": 0}


def recipe(name: str, **changed: object) -> Recipe:
    sizes = {"t5-v1.1-small": {"model.head_size": 8, "model.ffn_size": 48, "corpus.tokenizer": "wordpiece",
                               "model.encoder_layers": 2, "train.optimizer": "adamw", "train.schedule": "constant"},
             "bart-base": {"model.positions": 0, "train.max_grad_norm": 1.0,
                           "corpus.tokenizer": "wordpiece"}}[name]  # fmt: skip
    return load_recipe(name, {**TINY, **sizes, **changed})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts_in(tmp_path_factory.mktemp("text"), 20)


@pytest.fixture(scope="module", params=["t5-v1.1-small", "bart-base"])
def trained(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps."""
    threads = torch.get_num_threads()
    out: Path = tmp_path_factory.mktemp("runs") / str(request.param)
    run.pretrain([str(text)], recipe(request.param), out)
    torch.set_num_threads(threads)
    return out


def test_it_learns_and_is_the_same_when_resumed(trained: Path, text: Path, tmp_path: Path) -> None:
    lines = list(read_lines(trained / "metrics.jsonl"))
    losses = [line["loss"] for line in lines if line.get("split") == "valid"]
    assert losses[-1] < losses[0] - 0.2
    again = tmp_path / trained.name
    shutil.copytree(trained, again)
    shutil.rmtree(again / "checkpoints" / "step-12")
    run.pretrain([str(text)], recipe(trained.name), again, resume=True)
    first, second = (load_model(folder).model.state_dict() for folder in (trained, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_opens_in_transformers_and_an_export_is_alike(trained: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    exported = export_model(trained, tmp_path / "out")
    assert exported.difference is not None and exported.difference < 1e-4
    newest = sorted((trained / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))[-1]
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(newest)
    source = load_file(newest / "model.safetensors")
    state = theirs.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.items())
    vocabulary = load_model(trained).vocabulary
    assert theirs.config.decoder_start_token_id == vocabulary["pad" if "t5" in trained.name else "sep"]


def test_another_run_begins_from_it(trained: Path, text: Path, tmp_path: Path) -> None:
    given = recipe(trained.name, **{"train.steps": 2})
    run.pretrain([str(text)], given, tmp_path / "on", init_from=InitFrom(trained))
    before, after = (load_model(folder).model.config for folder in (trained, tmp_path / "on"))
    assert before == after


def test_it_fills_blanks_and_shows_so_while_it_trains(trained: Path) -> None:
    loaded: Loaded = load_model(trained)
    result = Filler(loaded).fill("the farmer [MASK] a boat")
    assert result.filled == f"the farmer {result.candidates[0][0].text} a boat"
    lines = list(read_lines(trained / "samples.jsonl"))
    assert {line["step"] for line in lines} >= {0, 12} and any(line.get("fills") for line in lines)
    assert any("continuation" in line for line in lines)


@pytest.mark.parametrize(("changed", "message"), [
    ({"objective.name": "gpt"}, "has an encoder and a decoder, and objective `gpt` has rows for one stack"),
    ({"model.family": "gpt2", "model.encoder_layers": 2}, "is 2, and model.family `gpt2` has only one stack"),
    ({"model.init": "locality"}, "or two stacks: leave it at family"),
    ({"model.embedding_size": 8}, "an encoder and a decoder share their word table and nothing else"),
    ({"model.head_size": -1}, "model.head_size is -1; it must not be negative"),
    ({"train.z_loss": -1.0}, "train.z_loss is -1.0; it must not be negative"),
])  # fmt: skip
def test_recipes_that_cannot_be(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe("bart-base", **changed)
    assert message in str(caught.value)


@pytest.mark.parametrize(("stack", "tags"), [("auto", True), ("decoder", True), ("auto", False), ("encoder", False)])
def test_a_fine_tuned_run_says_again_what_it_said(trained: Path, stack: HeadOn, tags: bool, tmp_path: Path) -> None:
    """Whichever stack its head reads; what is not read stays as it was."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    if tags:
        (data / "wikigold.conll.txt").write_text("Ann I-PER\nsat O\n\nthe O\nhouse O\n\n" * 6)
    else:
        rows = [f"{words}\t{k % 2}" for k, words in enumerate(["a fine story", "the house", "he went", "she sat"] * 3)]
        for split in ("train", "dev"):
            (data / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    options = FinetuneOptions(
        head_on=stack,
        epochs=1.0,
        batch_size=4,
        lr=1e-3,
        threads=1,
        precision="fp32",
        validation_split=0.5,
        max_length=16,
    )
    config = FinetuneConfig("wikigold" if tags else "sst2", data, trained, options)
    finetune(config, out)
    _, dev, _ = read_splits(config.build_task(), data, options)
    predictor = Predictor(out, "cpu", 1)
    shown = [prediction.record for prediction in predictor.predict(dev.items)]
    said = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert shown and [{key: line[key] for key in actual} for actual, line in zip(shown, said, strict=True)] == shown
    before, after = load_model(trained).model.layers.state_dict(), predictor.model.encoder.layers.state_dict()
    at_encoder = stack == "encoder" or (stack == "auto" and tags)
    assert all(torch.equal(before[name], after[name]) for name in before) == at_encoder
