"""`--from MODEL` alone: the recipe that continues a model, by what it was trained with or by its family."""

from __future__ import annotations

from pathlib import Path

import pytest

import blankfill
from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.errors import UserError
from blankfill.finetuning.importing import import_model
from blankfill.pretraining.continued import recipe_for
from blankfill.pretraining.warm_start import InitFrom, open_warm_start
from head_models import OBJECTIVES, family_folder, fine_tuned
from small_run import SMALL, sentences
from small_tasks import writing_model

pytestmark = pytest.mark.usefixtures("restored_threads")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for k in range(20):
        (folder / f"{k}.txt").write_text(sentences(30, k) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("family", OBJECTIVES)
def test_a_model_of_a_family_has_its_smallest_recipe(family: str, tmp_path: Path) -> None:
    """And that recipe fits the model: its length, its objective, its heads."""
    folder = family_folder(tmp_path / "model", family)
    recipe = recipe_for(folder)
    objective = OBJECTIVES[family]
    assert recipe.objective.name == objective.name and recipe.objective.length == objective.length == 48
    assert recipe.name.endswith("-nano")
    assert recipe.model.family == {"unilm": "bert"}.get(family, family)
    assert recipe.train.embedding_lr_multiplier == 1
    assert recipe.train.lr == pytest.approx(load_recipe(recipe.name).train.lr / 10)
    warm, fitted = open_warm_start(InitFrom(folder), recipe)
    assert fitted.objective.name == objective.name and warm.config.hidden_size == 16


def test_options_of_the_model_stay(tmp_path: Path) -> None:
    """A BERT without pairs is continued without pairs; GPT-2 from elsewhere, in a stream."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=32, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "theirs")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    for folder in ("theirs", "ours"):
        recipe = recipe_for(tmp_path / folder)
        assert recipe.name == "bert-nano" and recipe.objective.next_sentence is False
        assert recipe.objective.length == 32


def test_notices_on_a_model_come_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When its weights are read, and not also when its recipe is chosen."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=32, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    open_warm_start(InitFrom(tmp_path), recipe_for(tmp_path))
    assert capsys.readouterr().err.count("is left out; the encoder is read") == 1


def test_a_run_continues_with_its_own_recipe(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command needs no --recipe; what it took is said, with the user's own options in it."""
    recipe, run = load_recipe("mlm-nano", {**SMALL, "objective.mask_ratio": 0.25}), tmp_path / "general"
    blankfill.pretrain([str(text)], recipe, run)
    for path in (run, run / "latest", store.named_by(run / "latest")):
        assert recipe_for(path).objective == recipe.objective
    capsys.readouterr()
    out = tmp_path / "reports"
    assert main(["pretrain", str(text), "--from", str(run), "--train.steps", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().err
    lr = recipe.train.lr / 10
    assert f"continues with its own recipe mlm-nano (objective mlm): 2 steps, learning rate {lr:g}" in shown
    made = load_recipe(out / "recipe.yaml")
    assert made.objective == recipe.objective and made.train.steps == 2 and made.train.lr == pytest.approx(lr)


def test_a_named_recipe_is_taken_as_it_is(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = family_folder(tmp_path / "model", "roberta")
    args = ["pretrain", str(text), "--from", str(model), "--recipe", "mlm-nano", "--objective.length", "32"]
    args += ["--corpus.allow-unknown"]  # its vocabulary has a few words
    assert main([*args, "--train.steps", "1", "--out", str(tmp_path / "out")]) == 0
    assert "continues with" not in capsys.readouterr().err
    assert load_recipe(tmp_path / "out" / "recipe.yaml").train.lr == load_recipe("mlm-nano").train.lr


def test_models_that_cannot_be_continued_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no model to start from; give a run, an imported model"):
        recipe_for(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder; give a run, an imported model"):
        recipe_for(tmp_path / "nowhere")
    run = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    with pytest.raises(UserError, match="this model was fine-tuned; continue it with `blankfill finetune`"):
        recipe_for(store.named_by(run / "best"))
    with pytest.raises(UserError, match="this model was fine-tuned"):
        recipe_for(run)
    assert main(["pretrain", "--from", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "there is no model to start from" in capsys.readouterr().err


def test_writing_models_have_recipes_too(tmp_path: Path) -> None:
    for objective in ("t5", "bart", "glm"):
        folder = writing_model(tmp_path / objective, objective)
        assert recipe_for(folder).objective.name == objective
