"""ELECTRA as a user meets it: a small run is resumed, filled, embedded, shown, planned, evaluated, fine-tuned and
exported in two parts, which come back."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli import plan
from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.errors import ConfigError, UserError
from blankfill.model.transformer import build
from blankfill.pretraining.warm_start import InitFrom, open_warm_start
from blankfill.runs.recorder import RunRecorder, read_lines
from small_run import SMALL, texts_in
from small_tasks import classes, run

pytestmark = pytest.mark.usefixtures("restored_threads")

SIZES = {**SMALL, "model.num_layers": 2, "objective.length": 48, "train.steps": 40, "train.eval_every": 20,
         "corpus.vocab_size": 400, "train.threads": 1}  # fmt: skip
SENTENCE = "The old captain [MASK] the red lantern before supper."
HEAD = "replaced_tokens"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts_in(tmp_path_factory.mktemp("texts"), 30)


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "electra"
    blankfill.pretrain([str(texts)], load_recipe("electra-nano", SIZES), out)
    return out


def test_both_losses_fall(trained: Path) -> None:
    valid = [line for line in read_lines(trained / "metrics.jsonl") if line["split"] == "valid"]
    assert valid[-1]["loss"] < valid[0]["loss"] - 1
    assert valid[-1][f"{HEAD}_loss"] < valid[0][f"{HEAD}_loss"]
    config = load_model(trained).model.config
    assert (config.generator_size, config.heads) == (16, (HEAD,))


def test_a_checkpoint_is_a_discriminator_for_transformers(trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    newest = trained / "checkpoints" / (trained / "latest").read_text(encoding="utf-8").strip()
    model, report = transformers.ElectraForPreTraining.from_pretrained(newest, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours = load_model(trained).model
    assert torch.equal(model.electra.embeddings.word_embeddings.weight, ours.token_embeddings.weight)


def test_a_stopped_run_goes_on_to_the_same_weights(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("electra-nano", {**SIZES, "train.steps": 6, "model.dropout": 0.1})
    blankfill.pretrain([str(texts)], recipe, tmp_path / "whole")
    stopped_at, advance = [], RunRecorder.advance

    def advance_and_stop(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        if step == 3 and not stopped_at:
            stopped_at.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunRecorder, "advance", advance_and_stop)
    assert blankfill.pretrain([str(texts)], recipe, tmp_path / "parts").steps == 3
    assert blankfill.resume(tmp_path / "parts").steps == 6
    whole, parts = (store.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert whole is not None and parts is not None and parts.step == 6
    assert all(torch.equal(parts.model[name], whole.model[name]) for name in whole.model)


def test_a_run_is_filled_embedded_and_evaluated(trained: Path, tmp_path: Path) -> None:
    model = blankfill.load(trained)
    results = model.fill(SENTENCE, 3)
    assert len(results.candidates[0]) == 3
    alone = load_model(trained)
    scores = alone.language_model
    assert scores.config.hidden_size == 16 and model.embed(["My sister paints."]).shape == (1, 32)
    (tmp_path / "text.txt").write_text("The farmer sells some fresh bread.\nMy sister paints.\n", encoding="utf-8")
    measured = blankfill.evaluate(trained, "pseudo-perplexity", tmp_path / "text.txt", device="cpu", threads=1)
    assert 1 < measured.metrics["pseudo_perplexity"] < 400


def test_a_training_row_is_shown_and_planned(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "SECONDS", 0.5)  # a step of each size is timed all the same
    recipe = str(trained / "recipe.yaml")
    assert main(["show", str(trained / "corpus"), "--recipe", recipe, "--example", "0"]) == 0
    out = capsys.readouterr().out
    assert "sampled" in out and "replaced" in out and "seed of the generator's samples" in out
    assert main(["plan", str(trained / "corpus"), "--recipe", recipe, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert "generator" in json.dumps(planned)


def test_a_run_is_fine_tuned(trained: Path, tmp_path: Path) -> None:
    """The discriminator learns a task; what is saved has no generator."""
    result = run("sst2", classes(tmp_path / "data"), trained, tmp_path / "run", epochs=8)
    assert result.metrics["accuracy"] > result.baseline
    saved = store.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None and not any("generator" in name or "lm_head" in name for name in saved.model)
    predictor = blankfill.load(tmp_path / "run")
    assert len(predictor.predict(["the cat sat fine .", "poor dog ."])) == 2


def test_the_generator_learns_a_cloze(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "patterns:\n- '{first} . the [MASK] .'\nverbalizers: {'0': the, '1': red}\n", encoding="utf-8"
    )
    data = classes(tmp_path / "data")
    result = run("sst2", data, trained, tmp_path / "run", method="cloze", patterns=str(tmp_path / "own.yaml"), epochs=1)
    assert "accuracy" in result.metrics
    saved = store.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert next(w for n, w in saved.model.items() if n.endswith("lm_head.dense.weight")).shape == (32, 16)


def test_both_parts_are_exported_and_come_back(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = load_model(trained)
    for part, kind in (("model", "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")):
        assert main(["export", str(trained), "--out", str(tmp_path / part), "--part", part]) == 0
        values = json.loads((tmp_path / part / "config.json").read_text(encoding="utf-8"))
        assert values["architectures"] == [kind]
        blankfill.import_model(tmp_path / part, tmp_path / f"{part}-back")
        back = load_model(tmp_path / f"{part}-back")
        expected = (model.encoder if part == "model" else model.language_model).state_dict()
        weights = back.model.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    generator, discriminator = (blankfill.load(tmp_path / f"{part}-back") for part in ("generator", "model"))
    (fills,), (expected_fills,) = (model.fill(SENTENCE, 3).candidates for model in (generator, blankfill.load(trained)))
    assert [fill.ids for fill in fills] == [fill.ids for fill in expected_fills]
    for fill, other in zip(fills, expected_fills, strict=True):  # where weights lie in memory changes the last bits
        assert fill.probability == pytest.approx(other.probability, rel=1e-5)
    vectors = blankfill.load(trained).embed(["My sister paints."])
    np.testing.assert_allclose(discriminator.embed(["My sister paints."]), vectors, atol=1e-6)
    with pytest.raises(UserError, match="without a language-model head"):
        discriminator.fill(SENTENCE)
    with pytest.raises(UserError, match="the model has no generator; leave out part"):
        blankfill.export_model(tmp_path / "generator-back", tmp_path / "x", part="generator")


@pytest.mark.parametrize("part", ["model", "generator", "run"])
def test_a_run_starts_from_a_part(part: str, trained: Path, texts: Path, tmp_path: Path) -> None:
    """From a discriminator with a new generator; from both with both."""
    pytest.importorskip("transformers")
    if part == "run":
        start = trained
    else:
        start = blankfill.export_model(trained, tmp_path / part, part=part).folder  # type: ignore[arg-type]
    sizes = {key: value for key, value in SIZES.items() if key.startswith(("train.", "objective."))}
    recipe = load_recipe("electra-nano", {**sizes, "train.steps": 2, "model.dropout": 0.0})
    out = tmp_path / "run"
    result = blankfill.pretrain([str(texts)], recipe, out, init_from=InitFrom(start))
    assert result.steps == 2 and load_model(out).model.config.generator_size > 0


def test_a_masked_model_starts_from_a_run(trained: Path, texts: Path, tmp_path: Path) -> None:
    """The generator and the head for replaced tokens stay behind; the discriminator gets a language-model head of its
    own width, and the model that is trained further is one that transformers knows."""
    recipe = load_recipe(
        "bert-nano", {"model.family": "electra", "objective.length": 48, "objective.next_sentence": False}
    )
    start, fitted = open_warm_start(InitFrom(trained), recipe)
    model = start.build(0, "cpu")
    assert start.config.generator_size == 0 and start.config.heads == () and model.lm_head.dense is not None
    assert model.lm_head.dense.weight.shape == (32, 32) and fitted.objective.name == "bert"
    assert torch.equal(model.layers[1].ffn.inner.weight, load_model(trained).model.layers[1].ffn.inner.weight)
    sizes = {key: value for key, value in SIZES.items() if key.startswith("train.")}
    recipe = load_recipe("bert-nano", {**sizes, "objective.length": 48, "train.steps": 2})
    blankfill.pretrain([str(texts)], recipe, tmp_path / "run", init_from=InitFrom(trained))
    assert (tmp_path / "run" / "checkpoints" / "step-2" / "config.json").exists()


def test_learning_from_a_teacher_is_refused(trained: Path, texts: Path, tmp_path: Path) -> None:
    recipe = load_recipe("distilbert-nano", {**SIZES, "model.num_layers": 1})
    with pytest.raises(ConfigError, match="has a generator for replaced tokens"):
        blankfill.pretrain([str(texts)], recipe, tmp_path / "run", teacher=trained)


def test_the_deviation_of_the_initial_weights_can_be_chosen() -> None:
    """The nano recipe begins with larger weights than the family."""
    config = load_recipe("electra-nano").model_config(300)
    assert (config.init_std, load_recipe("electra-small").model_config(300).init_std) == (0.06, 0.02)
    weight = build(config, seed=1).layers[2].ffn.inner.weight.detach()
    assert float(weight.std()) == pytest.approx(0.06 * 0.8796, rel=0.02)  # cut at two deviations
