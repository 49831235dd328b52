"""Runs that learn from a teacher: a student of its layers, what fits, an exact resume, teachers that have gone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.config.recipe import Recipe
from blankfill.data.batching import collate
from blankfill.errors import ConfigError, UserError
from blankfill.model.transformer import build
from blankfill.pretraining.run import pretrain, resume
from blankfill.pretraining.teacher import Teacher, evenly, open_teacher
from blankfill.runs.recorder import read_lines
from conftest import make_document
from generate_models import loaded, random_model
from small_run import SMALL, texts_in

pytestmark = pytest.mark.usefixtures("restored_threads")

STUDENT = {**SMALL, "train.eval_rows": 4, "train.threads": 1, "model.dropout": 0.1}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts_in(tmp_path_factory.mktemp("text"), 20)


@pytest.fixture(scope="module")
def teacher(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bert-nano of two layers."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    recipe = blankfill.load_recipe("bert-nano", {**SMALL, "model.num_layers": 2, "train.threads": 1})
    blankfill.pretrain([str(text)], recipe, out)
    return out


def student(**changes: Any) -> Recipe:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return blankfill.load_recipe("distilbert-nano", {**STUDENT, **dotted})


@pytest.fixture(scope="module")
def distilled(text: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    blankfill.pretrain([str(teacher / "corpus")], student(), out, teacher=teacher)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run).model.state_dict()


def test_the_layers_are_those_of_the_released_code() -> None:
    assert evenly(6, 12) == (0, 2, 4, 7, 9, 11)
    assert evenly(3, 6) == (0, 2, 5)
    assert evenly(2, 4) == (0, 3)
    assert evenly(1, 4) == (0,)
    assert evenly(4, 4) == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["bert", "mlm", "albert"])
def test_a_student_of_all_layers_computes_as_its_teacher(name: str) -> None:
    """Position rows are moved to the student's first position, and the first token type lies in them."""
    known = loaded(name, random_model(name))
    config = known.model.config
    for module in known.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    family = "albert" if name == "albert" else "distilbert"
    recipe = blankfill.load_recipe("albert-nano" if name == "albert" else "distilbert-nano", {
        "model.family": family, "model.hidden_size": 32, "model.num_layers": 2, "model.num_heads": 4,
        "model.ffn_size": 48, "model.embedding_size": config.embedding_size, "objective.length": 12,
    })  # fmt: skip
    opened = Teacher(known)
    opened.check(recipe, known.tokenizer)
    made = build(opened.student_config(recipe.model_config(config.vocab_size), recipe)).eval()
    opened.start(made, recipe)
    rng = np.random.default_rng(1)
    example = recipe.objective.example(make_document(9, label=0, words=np.ones(9, np.bool_)), known.vocabulary, rng)
    batch = collate([[example]], 0)
    read = opened.distillation(recipe).translated(batch)
    torch.testing.assert_close(made(batch).hidden, known.model(read).hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "answer"), [
    ("bert-nano", "next_sentence"), ("albert-nano", "sentence_order"), ("spanbert-nano", "span_boundary")
])  # fmt: skip
def test_all_that_the_objective_asks_for_counts_as_words_do(name: str, answer: str) -> None:
    """A word weight of 0 leaves nothing to learn but the teacher."""
    recipe = blankfill.load_recipe(name, {"distil.lm_weight": 0.0})
    weights = Teacher(loaded("bert", random_model("bert"))).distillation(recipe).weights
    assert weights["lm"] == weights[answer] == 0.0


def test_every_loss_is_told(distilled: Path, teacher: Path) -> None:
    """In the metrics and the report; the teacher in run.json."""
    lines = [line for line in read_lines(distilled / "metrics.jsonl") if line["split"] != "hidden words"]
    assert {line["step"] for line in lines} >= {0, 6, 12}
    assert all(line["soft_loss"] > 0 and 0 < line["hidden_loss"] < 2 for line in lines)
    page = (distilled / "report.html").read_text(encoding="utf-8")
    assert "soft" in page.lower()
    facts = json.loads((distilled / "run.json").read_text(encoding="utf-8"))
    assert Path(facts["teacher"]).parent.parent == teacher
    assert load_model(distilled).tokenizer.fingerprint == load_model(teacher).tokenizer.fingerprint
    config = json.loads((distilled / "checkpoints" / "step-12" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["DistilBertForMaskedLM"]


def test_soft_targets_alone_bring_a_drawn_student_nearer(teacher: Path, tmp_path: Path) -> None:
    recipe = student(distil__start="drawn", distil__lm_weight=0.0, distil__hidden_weight=0.0)
    blankfill.pretrain([str(teacher / "corpus")], recipe, tmp_path / "run", teacher=teacher)
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["split"] == "valid"]
    assert lines[-1]["soft_loss"] < 0.8 * lines[0]["soft_loss"]


def test_a_resumed_run_is_the_same(distilled: Path, teacher: Path, tmp_path: Path) -> None:
    """Stopped after the first step and resumed, from a teacher that has been moved."""
    shutil.copytree(teacher, tmp_path / "teacher")
    out = tmp_path / "student"
    result = pretrain(
        [str(teacher / "corpus")], student(), out, stop_after=1e-9, teacher=tmp_path / "teacher"
    )  # fmt: skip
    assert result.steps == 1
    (tmp_path / "teacher").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"the teacher of .* is gone from .*teacher.* with teacher"):
        resume(out)
    assert resume(out, teacher=tmp_path / "moved").steps == 12
    before, after = weights(distilled), weights(out)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_edited_note_of_the_teacher_is_refused(distilled: Path, teacher: Path, tmp_path: Path) -> None:
    """Another teacher, with `teacher.json` made to agree: the checkpoints know the first one."""
    out = tmp_path / "student"
    shutil.copytree(distilled, out)
    recipe = blankfill.load_recipe("bert-nano", {**SMALL, "model.num_layers": 2, "train.threads": 1, "train.steps": 2})
    blankfill.pretrain([str(teacher / "corpus")], recipe, tmp_path / "other")
    other = open_teacher(tmp_path / "other")
    (out / "teacher.json").write_text(other.write(out), encoding="utf-8")
    (out / "corpus_path.txt").write_text(str(teacher / "corpus") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"was begun with other inputs: .*step-2 is another teacher.*with teacher"):
        resume(out)


def test_another_teacher_is_refused(distilled: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not the teacher that .* was begun with"):
        resume(distilled, teacher=distilled)
    noted = shutil.copytree(distilled, tmp_path / "damaged") / "teacher.json"
    noted.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"teacher\.json: not JSON"):
        resume(tmp_path / "damaged")
    with pytest.raises(UserError, match="was begun without a teacher"):
        resume(teacher, teacher=distilled)


@pytest.mark.parametrize(("changes", "message"), [
    ({"model__hidden_size": 16}, r"model.hidden_size is 16 and the teacher's is 32; .*distil.start=drawn"),
    ({"model__hidden_size": 16}, "have no cosine; set model.hidden_size=32 or distil.hidden_weight=0"),
    ({"model__num_layers": 3}, "model.num_layers is 3 and the teacher has 2"),
    ({"objective__length": 40}, "reads 32 tokens at most; lower it to 32"),
    ({"distil__layers": [0, 1]}, "distil.layers names 2 layers and model.num_layers is 1"),
    ({"train__z_loss": 1e-4}, "train.z_loss is added to the loss over words alone, not to a teacher's; leave it at 0"),
    ({"distil__layers": [2]}, "distil.layers names layer 2, and the teacher has layers 0 to 1"),
])  # fmt: skip
def test_what_does_not_fit_is_told(teacher: Path, changes: dict[str, Any], message: str) -> None:
    opened = open_teacher(teacher)
    with pytest.raises(ConfigError, match=message):
        opened.check(student(**changes), opened.tokenizer)


def test_another_vocabulary_objective_or_half_a_model_is_told(teacher: Path) -> None:
    opened, other = open_teacher(teacher), Teacher(loaded("bert", random_model("bert")))
    with pytest.raises(ConfigError, match="has another vocabulary than the student"):
        other.check(student(objective__length=8, distil__start="drawn"), opened.tokenizer)
    with pytest.raises(ConfigError, match="was trained as gpt and the student would be as mlm"):
        Teacher(loaded("gpt", random_model("gpt"))).check(student(), opened.tokenizer)
    with pytest.raises(ConfigError, match="was trained as bert and the student would be as glm"):
        opened.check(blankfill.load_recipe("glm-nano", SMALL), opened.tokenizer)
    with pytest.raises(ConfigError, match="was trained as bert and has never read rows of unilm; give one"):
        opened.check(blankfill.load_recipe("unilm-nano", SMALL), opened.tokenizer)
    headless = loaded("bert", random_model("bert"))
    headless.model.config = dataclasses.replace(headless.model.config, lm_head=False)
    with pytest.raises(ConfigError, match="no language-model head"):
        Teacher(headless).check(student(), opened.tokenizer)


def test_options_without_a_teacher_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["pretrain", "--recipe", "distilbert-nano", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--distil.temperature", "3"]) == 2
    assert "--distil.temperature goes with a model to learn from; name it with --teacher" in capsys.readouterr().err
    assert main([*arguments, "--distil.temperature", "0", "--distil.soft-weight", "-1"]) == 2
    err = capsys.readouterr().err
    assert "--distil.temperature is 0.0; it must be above 0" in err
    assert "--distil.soft-weight is -1.0; it must not be negative" in err
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_the_teacher(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--recipe", "distilbert-nano", "--model.hidden-size", "32", "--model.num-layers", "1",
             "--model.num-heads", "2", "--objective.length", "32"]  # fmt: skip

    def planned(*more: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["plan", str(teacher / "corpus"), "--json", "--no-measure", *sizes, *more]) == 0
        plan: dict[str, Any] = json.loads(capsys.readouterr().out)
        return plan

    plain, taught = planned(), planned("--teacher", str(teacher), "--distil.start", "drawn")
    rows = plain["phases"][0]["shape"]
    T, tokens, D, V = rows["columns"], rows["tokens"], 32, load_model(teacher).model.config.vocab_size
    reading = 2 * (2 * T * 12 * D * D + 4 * T * T * D) + 2 * tokens * (D * V + D * D)
    again = 3 * 2 * (tokens * D * V + (tokens - rows["targets"]) * D * D)
    more = taught["work"]["flops_per_step"] - plain["work"]["flops_per_step"]
    assert more == pytest.approx(32 * (reading + again), rel=1e-6)
    assert taught["memory"]["peak"] - plain["memory"]["peak"] == taught["memory"]["teacher"] > 0
