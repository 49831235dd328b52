"""GGUF of tiny models: the file holds our numbers and settings, and what llama.cpp cannot compute is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import Loaded, load_model
from blankfill.cli.main import main
from blankfill.convert import gguf as files
from blankfill.convert.gguf_layout import layout_of
from blankfill.convert.score_change import ScoreChange, ScoreComparison
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import byte_bpe
from blankfill.errors import UserError
from blankfill.exporting import gguf as exporting
from blankfill.exporting.gguf import export_gguf
from blankfill.quantizing.run import quantize_model
from blankfill.system.environment import has_module
from generate_models import byte_level, loaded, random_model, wordpiece
from head_models import family_folder, fine_tuned
from small_tasks import writer

pytest.importorskip("gguf", reason="the package of blankfill[gguf] is not installed")
TEXT = ["the cat sat on the mat", "a dog ran 123 times", "猫在跑"]
ROWS = 304


def given(monkeypatch: pytest.MonkeyPatch, ready: Loaded, check: bool = False) -> Loaded:
    """A model that any path leads to. check: whether llama.cpp reads the file."""
    monkeypatch.setattr(exporting, "load_model", lambda path, dtype: ready)
    monkeypatch.setattr(exporting, "real_text", lambda loaded, path, count: TEXT)
    if not check:
        monkeypatch.setattr(exporting, "compare_with_llama_cpp", lambda *values: None)
    return ready


def gpt(sharp: float = 1.0) -> Loaded:
    return loaded("gpt", random_model("gpt", rows=ROWS, sharp=sharp), byte_level(TEXT * 4))


def encoder(name: str) -> Loaded:
    return loaded(name, random_model(name, sharp=1.0))


def read(folder: Path, ready: Loaded) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """(the settings of a file, its tensors)."""
    weights = ready.model.state_dict()
    layout = layout_of(ready.model.config, ready.objective, {k: tuple(v.shape) for k, v in weights.items()}, "RUN")
    tensors = {tensor.name: numbers for tensor, numbers in files.read_tensors(folder / files.FILE, layout)}
    return files.read_values(folder / files.FILE), tensors


def test_gpt_is_in_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = given(monkeypatch, gpt())
    made = export_gguf("RUN", tmp_path / "out", "f32")
    values, tensors = read(tmp_path / "out", ready)
    weights = ready.model.state_dict()
    assert values["general.architecture"] == "gpt2" and values["general.file_type"] == 0
    sizes = {"block_count": 2, "context_length": 48, "embedding_length": 32, "feed_forward_length": 48}
    assert {name: values[f"gpt2.{name}"] for name in sizes} == sizes and values["gpt2.attention.head_count"] == 4
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.weight"], weights["layers.1.attention.qkv.weight"].numpy())
    np.testing.assert_array_equal(tensors["position_embd.weight"], weights["positions.0.weight"].numpy())
    assert len(tensors) == 2 + 2 * 12 + 2 and not made.left_out
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    end = ready.vocabulary["eos"]
    assert tokens[end] == "<|endoftext|>" and types[end] == 3 and len(tokens) == ROWS
    assert tokens[-1] == f"[PAD{ROWS - 1}]" and types[-1] == 5 and types[ready.tokenizer.encode("cat")[0]] == 1
    assert values["tokenizer.ggml.bos_token_id"] == values["tokenizer.ggml.eos_token_id"] == end
    assert values["tokenizer.ggml.add_bos_token"] is True and values["tokenizer.ggml.add_eos_token"] is False
    assert values["tokenizer.ggml.pre"] == "gpt-2" and len(values["tokenizer.ggml.merges"][0].split(" ")) == 2
    assert made.change.kl_mean == 0 and made.change.same_top == 1 and made.change.loss == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "library_name: gguf" in card and "gpt2, f32" in card and "model.gguf" in card


@pytest.mark.parametrize(
    ("kind", "step"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 254 + 2**-11), ("q4_0", 1 / 8 + 2**-11)]
)
def test_types(kind: Any, step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a weight is at most half a step of its block; what stays fp32 has none."""
    ready = given(monkeypatch, gpt())
    made = export_gguf("RUN", tmp_path / "out", kind, force=True)
    values, tensors = read(tmp_path / "out", ready)
    weights = ready.model.state_dict()
    matrix = weights["layers.0.ffn.inner.weight"].numpy()
    largest = np.abs(matrix).reshape(-1, 32).max(1).repeat(32).reshape(matrix.shape)
    error = np.abs(tensors["blk.0.ffn_up.weight"] - matrix)
    assert (error <= step * largest + 1e-9).all() and error.max() > 0
    for name, ours in (("blk.0.attn_norm.weight", "layers.0.attention_norm.weight"),
                       ("position_embd.weight", "positions.0.weight")):  # fmt: skip
        np.testing.assert_array_equal(tensors[name], weights[ours].numpy())
    down = np.abs(tensors["blk.0.ffn_down.weight"] - weights["layers.0.ffn.output.weight"].numpy())
    assert down.max() < 1e-3 * np.abs(matrix).max() or kind == "bf16", "48 columns fill no blocks of 32: fp16"
    assert made.change.kl_mean > 0 and values["general.file_type"] == {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}[kind]


@pytest.mark.parametrize("name", ["bert", "mlm", "unilm"])
def test_encoders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = given(monkeypatch, encoder(name))
    made = export_gguf("RUN", tmp_path / "out", "f32", pooling="cls")
    values, tensors = read(tmp_path / "out", ready)
    weights = ready.model.state_dict()
    qkv = weights["layers.0.attention.qkv.weight"].numpy()
    np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"], qkv[32:64])
    offset = ready.objective.position_offset
    np.testing.assert_array_equal(tensors["position_embd.weight"], weights["positions.0.weight"].numpy()[offset:])
    assert values["bert.context_length"] == len(tensors["position_embd.weight"])
    assert values["bert.attention.causal"] is False and values["bert.pooling_type"] == 2
    assert values["tokenizer.ggml.model"] == "bert" and values["tokenizer.ggml.normalizer.lowercase"] is True
    tokens = values["tokenizer.ggml.tokens"]
    for text, written in (("cat", "▁cat"), ("##ing", "ing"), ("[CLS]", "[CLS]"), ("猫", "▁猫")):
        assert tokens[ready.tokenizer.id(text)] == written
    assert values["tokenizer.ggml.bos_token_id"] == ready.vocabulary["cls"]
    assert values["tokenizer.ggml.seperator_token_id"] == ready.vocabulary["sep"]
    assert made.left_out == ("lm head",) and made.change.cosine == pytest.approx(1, abs=1e-6)
    types = tensors.get("token_types.weight")
    assert (name == "mlm") == (types is None)
    if types is not None:
        kind = int(ready.objective.row_positions(4)[1, 0])
        np.testing.assert_array_equal(types[0], weights["positions.1.weight"].numpy()[kind])


def test_llama_cpp_reads_the_same(tmp_path: Path) -> None:
    if not has_module("xllamacpp"):
        pytest.skip("xllamacpp is not installed")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXT), encoding="utf-8")
    for ready in (gpt(), encoder("bert"), encoder("mlm")):
        with pytest.MonkeyPatch.context() as patch:
            given(patch, ready, check=True)
            check = export_gguf("RUN", tmp_path / ready.objective.name, "f32", text).check
        assert check is not None and check.same_ids == check.texts == 3
        assert check.change.cosine > 0.999 or (check.change.kl_mean < 1e-3 and check.change.columns > 3)


@pytest.mark.parametrize(
    ("ready", "said"),
    [
        (lambda: loaded("glm", random_model("glm")), "no architecture for models of the objective glm"),
        (lambda: loaded("t5", random_model("t5")), "no architecture for models of the objective t5"),
        (lambda: loaded("albert", random_model("albert")), "bert has no model.shared = all"),
        (lambda: loaded("unilm2", random_model("unilm2")), "bert has no model.relative_buckets = 8"),
        (lambda: loaded("gpt", random_model("gpt")), "puts .SEP. behind every prompt"),
    ],
)
def test_models_without_a_counterpart(ready: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, ready())
    with pytest.raises(UserError, match=said):
        export_gguf("RUN", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_tokenizers_without_a_counterpart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4}
    lower = Tokenizer(byte_bpe(vocab, [("a", "b")], lowercase=True))
    spaced = Tokenizer(byte_bpe(vocab, [("a", "b")], lowercase=False, add_prefix_space=True))
    for tokenizer, said in ((lower, "changes text .Lowercase."), (spaced, "not of GPT-2's kind .add_prefix_space.")):
        given(monkeypatch, loaded("gpt", random_model("gpt", rows=8), tokenizer))
        with pytest.raises(UserError, match=said):
            export_gguf("RUN", tmp_path / "out")
    own = wordpiece()
    own._full.normalizer = normalizers.Sequence([normalizers.Replace(Regex("x"), "y"), normalizers.BertNormalizer()])
    own._full.pre_tokenizer = pre_tokenizers.Whitespace()
    given(monkeypatch, loaded("bert", random_model("bert"), own))
    with pytest.raises(UserError, match="cleans or cuts text otherwise than BERT's"):
        export_gguf("RUN", tmp_path / "out")
    twice = wordpiece(words=["the", "##▁the"])
    given(monkeypatch, loaded("bert", random_model("bert"), twice))
    with pytest.raises(UserError, match="two of its tokens would be"):
        export_gguf("RUN", tmp_path / "out")


def test_modernbert_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "compare_with_llama_cpp", lambda *values: None)
    folder = family_folder(tmp_path / "model", "modernbert")
    made = export_gguf(folder, tmp_path / "out", "f32")
    ready = load_model(folder)
    values, tensors = read(tmp_path / "out", ready)
    config, weights = ready.model.config, ready.model.state_dict()
    for theirs, ours in (
        ("token_embd_norm", "embedding_norm"), ("output_norm", "final_norm"),
        ("blk.1.attn_norm", "layers.1.attention_norm"),
        ("blk.0.attn_qkv", "layers.0.attention.qkv"), ("blk.1.ffn_up", "layers.1.ffn.inner"),
    ):  # fmt: skip
        np.testing.assert_array_equal(tensors[f"{theirs}.weight"], weights[f"{ours}.weight"].numpy())
    assert "blk.0.attn_norm.weight" not in tensors and made.architecture == "modern-bert"
    assert values["modern-bert.attention.sliding_window"] == 2 * config.window
    assert values["modern-bert.rope.freq_base"] == config.rotary_theta
    assert made.change.cosine == pytest.approx(1, abs=1e-6) and made.change.seen > 4


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", "gpt2")
    quantize_model(folder, tmp_path / "int8")
    with pytest.raises(UserError, match=r"int8 is quantised and cannot be written in this format; export the model"):
        export_gguf(tmp_path / "int8", tmp_path / "out")
    run = writer(tmp_path, "gpt")
    quantize_model(run, tmp_path / "tuned8")
    with pytest.raises(UserError, match=r"tuned8 is quantised and cannot be written in this format"):
        export_gguf(tmp_path / "tuned8", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_are_refused(tmp_path: Path) -> None:
    run = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    with pytest.raises(UserError, match=r"llama.cpp has no heads of the task sst2"):
        export_gguf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch, gpt())
    out = ["--out", str(tmp_path / "out")]
    assert main(["export", "RUN", "--format", "gguf", "--type", "int8", *out]) == 2
    assert "--type int8 is not for --format gguf" in capsys.readouterr().err
    assert main(["export", "RUN", "--type", "q8_0", *out]) == 2
    assert main(["export", "RUN", "--format", "gguf", "--lora", "adapter", *out]) == 2
    assert "GGUF is written without adapters" in capsys.readouterr().err
    assert main(["export", "RUN", "--format", "gguf", *out]) == 0
    assert "gpt2, f16" in capsys.readouterr().out
    monkeypatch.setattr(files, "has_module", lambda name: False)
    with pytest.raises(UserError, match=r"GGUF needs the package gguf; install it with: pip install .*gguf"):
        export_gguf("RUN", tmp_path / "other")


def test_a_type_that_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, gpt(sharp=8.0))
    change = ScoreChange(4.5, 10, 0.1, 0.2, 0.9, 10.0, 10.5)
    monkeypatch.setattr(exporting, "change_of", lambda *values: change)
    with pytest.raises(UserError, match=r"q4_0 loses too much: its perplexity is 5.0% higher, and 3% is allowed"):
        export_gguf("RUN", tmp_path / "out", "q4_0")
    assert not (tmp_path / "out").exists()
    export_gguf("RUN", tmp_path / "out", "q4_0", force=True)


def test_scores_that_change() -> None:
    """Two distributions over two outputs, worked out: KL = Σ p log(p / q)."""
    comparison = ScoreComparison(8)
    before, after = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5], [0.4, 0.6]]).log()
    comparison.add_scores(before, after, torch.tensor([0, 0]))
    comparison.add_vectors(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    change = comparison.result()
    kl = 0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6)
    assert change.kl_mean == pytest.approx(kl / 2, abs=1e-6) and change.same_top == 0.5
    assert change.perplexity == pytest.approx((0.5 * 0.9) ** -0.5) and change.loss == pytest.approx(1.5 - 1, abs=1e-5)
    assert change.cosine == pytest.approx(0.5**0.5)
    assert len(change.refusals()) == 2 and not ScoreChange(8, 5, 0.001, 0.1, 1.0, seen=1, cosine=0.9995).refusals()
    assert ScoreChange(8, 5, math.nan, 0.1, 1.0).refusals(), "what cannot be computed keeps no limit"
