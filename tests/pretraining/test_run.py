"""The whole road on a small text of our own: prepare, train, stop, resume, load, fill, generate."""

import importlib
import inspect
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.errors import ConfigError, UserError
from blankfill.evaluation.texts import documents
from blankfill.generation import hidden_words_report
from blankfill.generation.hidden_words import HiddenWords
from blankfill.generation.hidden_words_report import Shares
from blankfill.report import plots
from blankfill.runs.recorder import read_lines
from blankfill.system.console import settings_as_flags
from quick_runs import loss_plot, picture
from small_run import SMALL, sentences, texts_in

pytestmark = pytest.mark.usefixtures("restored_threads")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts_in(tmp_path_factory.mktemp("texts"), 30)


@pytest.fixture(scope="module", params=["glm-nano", "bert-nano", "mlm-nano", "gpt-nano"])
def trained(request: pytest.FixtureRequest, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / str(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "loss_plot", loss_plot)  # the picture is drawn here, no copy as in other runs
        result = blankfill.pretrain([str(texts)], blankfill.load_recipe(request.param, SMALL), out)
    assert result.steps == 12 and result.valid_loss < 6
    return out


def test_a_run_folder_is_enough_alone(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    wanted = {"recipe.yaml", "tokenizer.json", "tokenizer_config.json", "checkpoints", "latest", "metrics.jsonl"}
    assert wanted | {"tensorboard", "samples.jsonl", "loss.png", "corpus"} <= names
    drawn = (trained / "loss.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and drawn != picture()
    lines = read_lines(trained / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "valid"] == [0, 6, 12]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    measured = [line for line in lines if line["split"] != "hidden words"]
    assert all({"step", "split", "loss", "lr", "tokens", "tokens_per_s"} <= set(line) for line in measured)
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {sample["step"] for sample in samples} == {0, 6, 12}
    assert all("[MASK]" in sample["text"] and sample["answer"] for sample in samples if "text" in sample)
    writes = trained.name in ("glm-nano", "gpt-nano")
    assert sum("prompt" in sample for sample in samples) == (6 if writes else 0)
    assert blankfill.load_recipe(trained / "recipe.yaml").train.steps == 12
    assert (
        load_model(trained).embedding_lr_multiplier
        == blankfill.load_recipe(trained / "recipe.yaml").train.embedding_lr_multiplier
        == 16
    )


def test_hidden_words_are_measured_at_each_validation(trained: Path) -> None:
    lines = [line for line in read_lines(trained / "metrics.jsonl") if line["split"] == "hidden words"]
    report = hidden_words_report.read(trained)
    if trained.name in ("glm-nano", "gpt-nano"):  # they do not fill by places
        assert not lines and report is None
        return
    assert [line["step"] for line in lines] == [0, 6, 12] and report is not None
    assert report.step == 12 and report.words <= 300
    assert report.before == Shares(lines[0]["named_at_once"], lines[0]["named_among_5"])
    assert report.model == Shares(lines[-1]["named_at_once"], lines[-1]["named_among_5"])
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert f"{report.model.first:.1%}" in page and "Hidden words named at once" in page
    # the model that was saved gives the same answers
    model = blankfill.load(trained).loaded
    corpus = trained / "corpus"
    train, valid = IndexedCorpus(corpus / "train"), IndexedCorpus(corpus / "valid")
    context = (model.format.blank_room - 1) // 2
    assert 10 < context < 16  # rows of 32 tokens
    hidden = HiddenWords(train, valid, model.tokenizer, model.vocabulary, context=context)
    assert Shares.of(hidden.ask(model)) == report.model


def test_hidden_words_can_be_left_out(texts: Path, tmp_path: Path) -> None:
    recipe = blankfill.load_recipe("mlm-nano", {**SMALL, "train.hidden_words": 0})
    blankfill.pretrain([str(texts)], recipe, tmp_path / "run")
    assert all(line["split"] != "hidden words" for line in read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert hidden_words_report.read(tmp_path / "run") is None


def test_it_fills_and_generates(trained: Path) -> None:
    model = blankfill.load(trained)
    result = model.fill("The farmer carries a wooden [MASK] in the morning.")
    assert result.filled and "[MASK]" not in result.filled
    assert 0 < result.candidates[0][0].probability <= 1
    if model.loaded.objective.name in ("glm", "gpt"):
        assert "".join(model.generate("Every child", max_new_tokens=5, seed=1)).strip()
        with pytest.raises(TypeError, match="warmth"):
            model.generate("Every child", warmth=2)
    else:
        with pytest.raises(UserError):
            list(model.generate("Every child"))


def test_the_tokenizer_opens_with_transformers(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    theirs = transformers.AutoTokenizer.from_pretrained(str(trained))
    ours = blankfill.load(trained).loaded.tokenizer
    text = "My sister finds the red lantern before supper."
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)


def test_its_newest_checkpoint_is_what_transformers_opens(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = blankfill.export_model(trained, tmp_path / "out")
    assert made.difference is not None and made.difference < 1e-4
    newest = trained / "checkpoints" / (trained / "latest").read_text(encoding="utf-8").strip()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert (newest / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


# RoBERTa's form has no room for one of our position rows; the last one shrinks the gradient of its embeddings
@pytest.mark.parametrize("name", ["glm-nano", "mlm-nano", "glm-130b-nano"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    name: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several threads may part a product otherwise when the machine is busy, and then its last digits differ
    recipe = blankfill.load_recipe(name, {**SMALL, "train.threads": 1, "corpus.vocab_size": 400})
    blankfill.pretrain([str(texts)], recipe, tmp_path / "whole")
    stopped_at: list[int] = []

    from blankfill.runs.recorder import RunRecorder

    advance = RunRecorder.advance

    def advance_and_kill(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        if step == 5 and not stopped_at:
            stopped_at.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunRecorder, "advance", advance_and_kill)
    stopped = blankfill.pretrain([str(texts)], recipe, tmp_path / "parts")
    assert stopped.steps == 5
    assert blankfill.resume(tmp_path / "parts").steps == 12
    whole, parts = (store.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert whole is not None and parts is not None
    assert all(torch.equal(parts.model[name], whole.model[name]) for name in whole.model)
    losses = []
    for name in ("whole", "parts"):
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        losses.append({line["step"]: line["loss"] for line in lines if line["split"] == "valid"})
    assert losses[0] == losses[1]


def test_the_shrink_of_the_embedding_gradient_reaches_a_run(texts: Path, tmp_path: Path) -> None:
    """The first step's gradient is smaller with it; the loss before that step is the same to the bit."""
    first = []
    for shrink in (1.0, 0.01):
        changed = {"train.steps": 2, "train.log_every": 1, "train.embedding_gradient_shrink": shrink,
                   "corpus.vocab_size": 400}  # fmt: skip
        recipe = blankfill.load_recipe("glm-130b-nano", {**SMALL, **changed, "train.threads": 1})
        blankfill.pretrain([str(texts)], recipe, tmp_path / str(shrink))
        lines = read_lines(tmp_path / str(shrink) / "metrics.jsonl")
        first.append(next(line for line in lines if line["split"] == "train" and line["step"] == 1))
    assert first[0]["loss"] == first[1]["loss"] and first[0]["grad_norm"] > 1.01 * first[1]["grad_norm"]


def test_a_run_that_is_finished_says_so(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And notes no resuming; its losses and weights stay as they are."""
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    before = [(out / name).read_bytes() for name in ("metrics.jsonl", "latest")]
    newest = out / "checkpoints" / (out / "latest").read_text(encoding="utf-8").strip() / "model.safetensors"
    weights = newest.read_bytes()
    assert blankfill.resume(out).stopped is None
    said = capsys.readouterr().err
    assert f"{out} is finished: all {newest.parent.name.partition('-')[2]} steps are done" in said
    assert "continuing from" not in said
    events = out / "events.jsonl"
    assert not events.exists() or "resumed" not in events.read_text(encoding="utf-8")
    assert [(out / name).read_bytes() for name in ("metrics.jsonl", "latest")] == before
    assert newest.read_bytes() == weights


def test_a_finished_run_is_known_from_its_state(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No corpus is opened and no checkpoint read for it; one that is damaged is passed over, so more is to be done."""
    out = Path(shutil.copytree(trained, tmp_path / "run"))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    with monkeypatch.context() as patched:
        patched.setattr("blankfill.pretraining.inputs.open_corpus", fail)
        patched.setattr(store, "newest", fail)
        result = blankfill.resume(out)
    values = json.loads((out / "run.json").read_text(encoding="utf-8"))
    lines = [line for line in read_lines(out / "metrics.jsonl") if line["split"] == "valid"]
    assert (result.steps, result.baseline) == (values["step"], values["baseline"])
    assert result.valid_loss == pytest.approx(lines[-1]["loss"]) and result.tokens == values["tokens"]
    newest = out / "checkpoints" / f"step-{result.steps}" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    with monkeypatch.context() as patched:
        patched.setattr("blankfill.pretraining.inputs.open_corpus", fail)
        with pytest.raises(AssertionError, match="something was loaded"):
            blankfill.resume(out)


@pytest.mark.parametrize("given", ["", "0.txt"])
def test_a_run_is_not_written_among_its_own_texts(given: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    texts = texts_in(tmp_path / "notes", 2)
    before = sorted(path.name for path in texts.iterdir())
    with pytest.raises(UserError, match=r"notes is the folder of .*, which the run reads; give another out"):
        blankfill.pretrain([str(texts / given)], blankfill.load_recipe("bert-nano", SMALL), texts)
    assert sorted(path.name for path in texts.iterdir()) == before


def test_a_corpus_without_its_report_is_not_read_as_text(trained: Path, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(trained / "corpus", tmp_path / "corpus"))
    (corpus / "corpus.json").unlink()
    with pytest.raises(UserError, match=r"looks like a prepared corpus whose corpus\.json is missing; put that"):
        blankfill.pretrain([str(corpus)], blankfill.load_recipe("bert-nano", SMALL), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prepared_corpus_is_not_read_as_text(trained: Path, tmp_path: Path) -> None:
    """Neither beside other text nor where only text is read."""
    corpus, (text,) = trained / "corpus", (path for path in texts_in(tmp_path, 1).iterdir())
    with pytest.raises(UserError, match="corpus is a prepared corpus, whose files are tokens and not text; give the"):
        blankfill.pretrain([str(corpus), str(text)], blankfill.load_recipe("bert-nano", SMALL), tmp_path / "run")
    with pytest.raises(UserError, match="corpus is a prepared corpus, whose files are tokens and not text; give the"):
        list(documents(corpus))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("module", "name"), [("pretraining", "pretrain"), ("finetuning", "finetune")])
def test_a_run_reads_from_top_to_bottom(module: str, name: str) -> None:
    """From its folder to its result in one function of at most 60 lines, documentation included."""
    function = getattr(importlib.import_module(f"blankfill.{module}.run"), name)
    assert len(inspect.getsource(function).splitlines()) <= 60


def test_a_prepared_folder_is_used_as_it_is(texts: Path, tmp_path: Path) -> None:
    recipe = blankfill.load_recipe("gpt-nano", SMALL)
    blankfill.prepare([str(texts)], tmp_path / "corpus", recipe.corpus)
    before = sorted(path.name for path in (tmp_path / "corpus").iterdir())
    blankfill.pretrain([str(tmp_path / "corpus")], recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "corpus").exists()
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir() if path.name != "plans") == before


def test_no_validation_text_is_said_and_trained_all_the_same(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = blankfill.load_recipe("gpt-nano", {**SMALL, "corpus.validation": 0.0, "train.steps": 2})
    result = blankfill.pretrain([str(texts)], recipe, tmp_path / "run")
    assert result.steps == 2 and np.isnan(result.valid_loss)
    assert "no validation text" in capsys.readouterr().err


def test_one_text_that_is_all_for_training_names_the_options_of_the_command(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = blankfill.load_recipe("gpt-nano", {**SMALL, "corpus.validation": 1e-9, "train.steps": 1})
    with settings_as_flags():
        blankfill.pretrain([str(texts)], recipe, tmp_path / "run")
    printed = capsys.readouterr().err
    assert "give more text, or a larger --corpus.validation." in printed
    assert "set some text aside with --corpus.validation 0.1" in printed


def test_token_files_and_tokenizer_that_do_not_belong_together(texts: Path, tmp_path: Path) -> None:
    recipe = blankfill.load_recipe("gpt-nano", SMALL)
    blankfill.prepare([str(texts)], tmp_path / "corpus", recipe.corpus)
    other = blankfill.load_recipe("gpt-nano", {**SMALL, "corpus.vocab_size": 128})
    blankfill.prepare([str(texts)], tmp_path / "small", other.corpus)
    (tmp_path / "small" / "tokenizer.json").replace(tmp_path / "corpus" / "tokenizer.json")
    with pytest.raises(UserError, match="do not belong together"):
        blankfill.pretrain([str(tmp_path / "corpus")], recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_text_too_short_for_the_objective(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A", encoding="utf-8")
    with pytest.raises((UserError, ConfigError)):
        blankfill.pretrain([str(path)], blankfill.load_recipe("glm-nano", SMALL), tmp_path / "run")


def test_the_readme_api(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's ten lines, run as they stand but for the number of steps."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- api:start -->")[1].split("<!-- api:end -->")[0]
    code = block.split("```python")[1].split("```")[0]
    assert code.count("500") == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "novel.txt").write_text(sentences(1500, 3), encoding="utf-8")
    exec(compile(code.replace("500", "3"), "README.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "loss.png").exists()
