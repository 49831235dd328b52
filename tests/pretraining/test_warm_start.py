"""Warm starts: the model's architecture and tokenizer, new words, replay of old text, and an exact resume."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.cli.main import main
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError
from blankfill.model.transformer import build
from blankfill.pretraining.warm_start import InitFrom, new_tokens_from, open_warm_start
from blankfill.runs.recorder import read_lines
from generate_models import SPECIAL, WORDS, wordpiece
from small_run import SMALL, sentences
from small_tasks import writing_model

pytestmark = pytest.mark.usefixtures("restored_threads")

TRAINING = {key: value for key, value in SMALL.items() if key.startswith(("train.", "objective."))} | {
    "corpus.validation": 0.2, "corpus.workers": 1, "model.dropout": 0.0, "model.attention_dropout": 0.0,
}  # fmt: skip
"""A recipe's options without sizes and vocabulary, which the model answers."""


def write_texts(folder: Path, count: int, seed: int, change: tuple[str, str] = ("", "")) -> Path:
    folder.mkdir()
    for k in range(count):
        text = sentences(30, seed + k)
        (folder / f"{k}.txt").write_text((text.replace(*change) if change[0] else text) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def old_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "old", 20, 0)


@pytest.fixture(scope="module")
def new_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "new", 20, 500, ("lantern", "zeppelin"))


@pytest.fixture(scope="module")
def earlier(old_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "earlier"
    blankfill.pretrain([str(old_text)], blankfill.load_recipe("glm-nano", SMALL), out)
    return out


def test_the_weights_and_the_tokenizer_are_the_models(earlier: Path) -> None:
    warm_start, recipe = open_warm_start(InitFrom(earlier), blankfill.load_recipe("glm-nano", TRAINING))
    before = load_model(earlier)
    assert (recipe.model.hidden_size, recipe.model.num_layers, recipe.model.init) == (32, 1, "family")
    model = warm_start.build(7, "cpu")
    assert all(torch.equal(model.state_dict()[name], old) for name, old in before.model.state_dict().items())
    assert warm_start.tokenizer.fingerprint == before.tokenizer.fingerprint


def test_a_new_word_starts_at_the_mean_of_its_pieces(earlier: Path) -> None:
    """In the input table and in the output's bias; words that the model has are not added twice."""
    before = load_model(earlier)
    words = ["oldharbour", "the", "Mosquito", "飞艇", "oldharbour"]
    warm_start, _ = open_warm_start(InitFrom(earlier, words), blankfill.load_recipe("glm-nano", TRAINING))
    assert warm_start.new_tokens == ["oldharbour", "mosquito", "飞艇"]
    assert len(before.tokenizer.encode("oldharbour")) > 1
    model, size = warm_start.build(0, "cpu"), before.tokenizer.size
    for k, word in enumerate(warm_start.new_tokens):
        pieces = before.tokenizer.encode(word)
        expected = before.model.token_embeddings.weight[pieces].mean(0)
        torch.testing.assert_close(model.token_embeddings.weight[size + k], expected)
    assert torch.equal(model.token_embeddings.weight[:size], before.model.token_embeddings.weight[:size])
    ids, _ = warm_start.tokenizer.encode_plain(["The oldharbour and a mosquito: oldharbours, 大飞艇。"])
    tokens = [warm_start.tokenizer.token(row) for row in ids]
    assert [tokens.count(word) for word in warm_start.new_tokens] == [1, 1, 1]


def test_new_words_in_the_output_bias_and_an_untied_table(tmp_path: Path) -> None:
    """A BERT of transformers without its heads tied: the table of the output grows as that of the input does."""
    transformers = pytest.importorskip("transformers")
    tokenizer = wordpiece()
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, tie_word_embeddings=False,
    ))  # fmt: skip
    with torch.no_grad():
        theirs.cls.predictions.bias.copy_(torch.randn(tokenizer.size))
        theirs.cls.predictions.decoder.bias.copy_(theirs.cls.predictions.bias)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    recipe = blankfill.load_recipe("bert-nano", {**TRAINING, "objective.next_sentence": False})
    warm_start, _ = open_warm_start(InitFrom(tmp_path, ["playinged"]), recipe)
    pieces = tokenizer.encode("playinged")
    assert [tokenizer.token(piece) for piece in pieces] == ["play", "##ing", "##ed"]
    state = warm_start.build(0, "cpu").state_dict()
    for ours, old in {
        "token_embeddings.weight": theirs.bert.embeddings.word_embeddings.weight,
        "lm_head.table": theirs.cls.predictions.decoder.weight,
        "lm_head.bias": theirs.cls.predictions.bias,
    }.items():
        assert len(state[ours]) == tokenizer.size + 1
        torch.testing.assert_close(state[ours][-1], old[pieces].mean(0).detach())


@pytest.mark.parametrize("name", [name for name in blankfill.recipe_names() if name.endswith("-nano")])
def test_every_table_of_words_grows_in_every_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has a row for each word: the old rows stay, a new word's is the mean of its pieces'."""
    recipe = blankfill.load_recipe(name, TRAINING)
    sentinels = [f"<extra_id_{k}>" for k in range(recipe.objective.sentinels())]
    tokenizer = wordpiece([*SPECIAL, "[PSEUDO]"], [*WORDS, *sentinels])
    config = recipe.model_config(tokenizer.size)
    old = build(config, 0)
    with torch.no_grad():
        for weight in old.parameters():
            weight.normal_()
    loaded = Loaded(old, tokenizer, tokenizer.vocabulary(), recipe.objective, tmp_path)
    monkeypatch.setattr("blankfill.checkpoint.load.load_model", lambda path: loaded)
    warm_start, _ = open_warm_start(InitFrom(tmp_path, ["playinged"]), recipe)
    state, size, pieces = warm_start.build(0, "cpu").state_dict(), tokenizer.size, tokenizer.encode("playinged")
    grown = {weight for weight, tensor in old.state_dict().items() if config.vocab_size in tensor.shape}
    assert "token_embeddings.weight" in grown and ("span_boundary_head.bias" in grown) == (
        recipe.objective.name == "spanbert"
    )
    for weight, before in old.state_dict().items():
        if weight not in grown:
            torch.testing.assert_close(state[weight], before)
            continue
        assert torch.equal(state[weight][:size], before[:size])
        torch.testing.assert_close(state[weight][size], before[pieces].mean(0))


def test_heads_that_an_encoder_lacks_are_drawn_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain BertModel, as sentence encoders are: the objective's heads are added."""
    transformers = pytest.importorskip("transformers")
    tokenizer = wordpiece()
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=64, hidden_act="gelu",
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    warm_start, recipe = open_warm_start(InitFrom(tmp_path), blankfill.load_recipe("bert-nano", TRAINING))
    err = capsys.readouterr().err
    assert "has no language-model head and no next-sentence head; the missing weights are drawn" in err
    config = warm_start.config
    assert config.lm_head and config.head_transform and config.pooler and config.activation == "gelu"
    assert recipe.model_config(tokenizer.size).ffn_size == 48
    model = warm_start.build(3, "cpu")
    assert torch.equal(model.token_embeddings.weight, theirs.embeddings.word_embeddings.weight)
    assert model.pooler is not None and float(model.pooler.dense.weight.detach().abs().sum()) > 0


def test_what_contradicts_the_model_is_refused_all_at_once(earlier: Path) -> None:
    values = {**TRAINING, "model.hidden_size": 64, "model.num_layers": 1, "objective.length": 100}
    recipe = blankfill.load_recipe("glm-nano", values)
    init_from = InitFrom(
        earlier, explicit_options=["model.hidden_size", "model.num_layers", "corpus.tokenizer", "train.lr"]
    )
    with pytest.raises(ConfigError) as caught:
        open_warm_start(init_from, recipe)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "model.hidden_size is 64 and that of" in text and "is 32; leave it out" in text
    assert "corpus.tokenizer cannot be chosen" in text
    assert "objective.length is 100" in text and "33 positions; lower it to 32 at most" in text
    with pytest.raises(ConfigError, match="take a recipe of the family glm"):
        open_warm_start(InitFrom(earlier), blankfill.load_recipe("bert-nano", TRAINING))


def test_replayed_rows_keep_the_old_text(earlier: Path, old_text: Path, new_text: Path, tmp_path: Path) -> None:
    """The old text is measured before and after; the same run with none of it replayed forgets more."""
    recipe = blankfill.load_recipe("glm-nano", {**TRAINING, "train.steps": 24, "train.lr": 1e-2})
    losses = {}
    for ratio in (0.0, 0.5):
        out = tmp_path / f"{ratio}"
        init_from = InitFrom(earlier, ["zeppelin"], str(old_text), ratio)
        result = blankfill.pretrain([str(new_text)], recipe, out, init_from=init_from)
        lines = [line for line in read_lines(out / "metrics.jsonl") if line["split"] == "old"]
        assert [line["step"] for line in lines] == [0, 6, 12, 18, 24]
        assert result.old_loss == (lines[0]["loss"], lines[-1]["loss"])
        assert "old text" in (out / "report.html").read_text(encoding="utf-8")
        assert json.loads((out / "run.json").read_text(encoding="utf-8"))["new_tokens"] == 1
        losses[ratio] = result.old_loss
    assert losses[0.0][0] == losses[0.5][0]
    assert losses[0.5][1] < losses[0.0][1]
    filled = blankfill.load(tmp_path / "0.5").fill("The old captain repairs the red [MASK].", top_k=3)
    assert filled.candidates


def test_a_stopped_run_goes_on_to_the_same_weights_without_the_model(
    old_text: Path, new_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blankfill.runs.recorder import RunRecorder

    blankfill.pretrain([str(old_text)], blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 2}), tmp_path / "a")
    recipe = blankfill.load_recipe("glm-nano", TRAINING)
    init_from = InitFrom(tmp_path / "a", ["zeppelin", "汽艇"], str(tmp_path / "a" / "corpus"), 0.3)
    blankfill.pretrain([str(new_text)], recipe, tmp_path / "whole", init_from=init_from)
    advance, stopped_at = RunRecorder.advance, []

    def advance_and_kill(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        if step == 5 and not stopped_at:
            stopped_at.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunRecorder, "advance", advance_and_kill)
    assert blankfill.pretrain([str(new_text)], recipe, tmp_path / "parts", init_from=init_from).steps == 5
    for path in (tmp_path / "a").iterdir():  # only the old text's token files are needed again
        if path.name != "corpus":
            path.rename(tmp_path / f"gone-{path.name}")
    result = blankfill.resume(tmp_path / "parts")
    whole, parts = (store.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert whole is not None and parts is not None and parts.step == 12
    assert all(torch.equal(parts.model[name], whole.model[name]) for name in whole.model)
    assert result.old_loss is not None and np.isfinite(result.old_loss).all()
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    old = [[(line["step"], line["loss"]) for line in metrics if line["split"] == "old"] for metrics in lines]
    assert old[0] == old[1] and len(old[0]) == 3


def test_a_run_that_never_saved_says_so(earlier: Path, new_text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = blankfill.load_recipe("glm-nano", {**TRAINING, "train.steps": 2})
    blankfill.pretrain([str(new_text)], recipe, out, init_from=InitFrom(earlier))
    (out / "checkpoints").rename(tmp_path / "gone")
    (out / "latest").unlink()
    with pytest.raises(UserError, match="before its first checkpoint; remove it and begin again from"):
        blankfill.resume(out)


def test_a_folder_prepared_with_another_tokenizer_is_refused(earlier: Path, new_text: Path, tmp_path: Path) -> None:
    recipe = blankfill.load_recipe("glm-nano", TRAINING)
    with pytest.raises(UserError, match="prepared with another tokenizer than the model's"):
        blankfill.pretrain(
            [str(earlier / "corpus")], recipe, tmp_path / "run", init_from=InitFrom(earlier, ["zeppelin"])
        )
    plain = dataclasses.replace(recipe.corpus, tokenizer=str(earlier))
    blankfill.prepare([str(new_text)], tmp_path / "corpus", plain)
    short = blankfill.load_recipe("glm-nano", {**TRAINING, "train.steps": 2})
    assert (
        blankfill.pretrain([str(tmp_path / "corpus")], short, tmp_path / "two", init_from=InitFrom(earlier)).steps == 2
    )


def test_old_text_without_a_validation_part(
    earlier: Path, new_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One document cannot be split, so the loss is that of the text itself."""
    (tmp_path / "old.txt").write_text(sentences(60, 9), encoding="utf-8")
    recipe = blankfill.load_recipe("glm-nano", {**TRAINING, "train.steps": 2})
    init_from = InitFrom(earlier, replay=str(tmp_path / "old.txt"))
    result = blankfill.pretrain([str(new_text)], recipe, tmp_path / "run", init_from=init_from)
    assert "has no validation part, so its loss is measured on the text that is replayed" in capsys.readouterr().err
    assert result.old_loss is not None and 0 < result.old_loss[0] < 6


def test_words_from_a_file_or_a_list(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeffzeppelin\n\n 飞艇 \n", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    assert new_tokens_from(str(tmp_path / "words.txt")) == ["zeppelin", "飞艇"]
    assert new_tokens_from("red fox, 猫，dog") == ["red fox", "猫", "dog"]
    for name, sentence in (
        ("none.txt", "no such file"),
        ("bad.txt", "is not UTF-8"),
        ("empty.txt", "no words"),
    ):
        with pytest.raises(UserError, match=sentence):
            new_tokens_from(str(tmp_path / name))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--add-tokens", "zeppelin"], "--add-tokens goes with a model to begin from"),
        (["--replay", "old.txt"], "--replay goes with a model"),
        (["--from", "RUN", "--replay-ratio", "0.5"], "--replay-ratio needs the old text"),
        (["--from", "RUN", "--replay", "old.txt", "--replay-ratio", "1"], "at least 0 and below 1"),
        (["--from", "nowhere"], "nowhere: no such file or folder"),
        (["--from", "RUN", "--model.hidden-size", "64"], "model.hidden_size is 64"),
        (["--from", "RUN", "--corpus.vocab-size=512"], "corpus.vocab_size cannot be chosen"),
    ],
)
def test_the_command_line_refuses(
    earlier: Path, options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(earlier) if option == "RUN" else option for option in options]
    assert main(["pretrain", "x.txt", "--out", str(tmp_path / "out"), "--objective.length", "32", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_bytes_of_gpt2_take_new_words_too(tmp_path: Path) -> None:
    from generate_models import byte_level

    tokenizer = byte_level([sentences(40, 1)])
    grown = tokenizer.with_words(["zeppelin", "飞艇"])
    text = "the zeppelin; 红飞艇 zeppelins"
    ids, _ = grown.encode_plain([text])
    assert [int(sum(ids == tokenizer.size + k)) for k in range(2)] == [1, 1]
    assert grown.decode(ids) == text
    grown.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == grown.fingerprint
    assert not grown.reads_like(tokenizer) and tokenizer.reads_like(tokenizer.with_roles(["cls", "mask"]))


def test_new_token_types_begin_as_those_they_are_like(tmp_path: Path) -> None:
    """UniLM's six from BERT's two, as its released code makes them."""
    bert = writing_model(tmp_path, "bert")
    given = {"objective.length": 24, "model.dropout": 0.0}
    warm_start, recipe = open_warm_start(InitFrom(bert), blankfill.load_recipe("unilm-nano", given))
    old = store.read(bert, with_optimizer=False).model["positions.1.weight"]
    assert len(old) == 2 and warm_start.config.position_sizes == (48, 6) and recipe.objective.name == "unilm"
    new = warm_start.build(7, "cpu").positions[1].weight
    assert torch.equal(new, old[[0, 1, 0, 0, 0, 1]])
