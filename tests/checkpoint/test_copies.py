"""Weights that a file holds twice: what transformers computes with them is computed here, or the file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.checkpoint.hf_loading import open_external
from blankfill.checkpoint.load import Loaded
from blankfill.checkpoint.weights import COMPARED, open_weights
from blankfill.convert.check import our_scores
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.types import Vocabulary
from parity_cases import Case, made

VOCABULARY = Vocabulary(97, {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 1})
TABLES = {
    ("bert", "BertForPreTraining"): ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("bert", "BertForMaskedLM"): ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("ernie", "ErnieForMaskedLM"): ("cls.predictions.decoder.weight", "ernie.embeddings.word_embeddings.weight"),
    ("roberta", "RobertaForMaskedLM"): ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
    ("albert", "AlbertForMaskedLM"): ("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight"),
    ("distilbert", "DistilBertForMaskedLM"): (
        "vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
    ("gpt2", "GPT2LMHeadModel"): ("lm_head.weight", "transformer.wte.weight"),
    ("xlnet", "XLNetLMHeadModel"): ("lm_loss.weight", "transformer.word_embedding.weight"),
    ("t5", "T5ForConditionalGeneration"): ("lm_head.weight", "shared.weight"),
    ("modernbert", "ModernBertForMaskedLM"): ("decoder.weight", "model.embeddings.tok_embeddings.weight"),
}  # fmt: skip
"""By family and class, the output's table and the words', as transformers names them."""
BIASES = {
    ("bert", "BertForPreTraining"): ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("ernie", "ErnieForMaskedLM"): ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("roberta", "RobertaForMaskedLM"): ("lm_head.decoder.bias", "lm_head.bias"),
    ("albert", "AlbertForPreTraining"): ("predictions.decoder.bias", "predictions.bias"),
}
REFUSED = [
    ("t5", "T5ForConditionalGeneration", "encoder.embed_tokens.weight", "shared.weight"),
    ("t5", "T5ForConditionalGeneration", "decoder.embed_tokens.weight", "shared.weight"),
    ("bart", "BartForConditionalGeneration", "lm_head.weight", "model.shared.weight"),
    ("bart", "BartForConditionalGeneration", "model.encoder.embed_tokens.weight", "model.shared.weight"),
    ("bart", "BartForConditionalGeneration", "model.decoder.embed_tokens.weight", "model.shared.weight"),
]
MODELS = [
    *TABLES, ("bart", "BartForConditionalGeneration"), ("ernie", "ErnieForPreTraining"),
    ("albert", "AlbertForPreTraining"),
]  # fmt: skip


def saved(folder: Path, family: str, kind: str, **options: Any) -> dict[str, torch.Tensor]:
    """A tiny model as transformers saves it; its weights."""
    transformers = pytest.importorskip("transformers")
    made(transformers, Case(family, kind, "", options)).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def put(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({name: part.contiguous().clone() for name, part in weights.items()}, folder / "model.safetensors")


def other(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5))


def start_of(folder: Path) -> int:
    """What a decoder reads first."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values.get("decoder_start_token_id") or 0


def theirs(folder: Path, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Words, and the scores that transformers gives them."""
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    ids = torch.arange(5, 17) % model.config.vocab_size
    more = {}
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = torch.cat([torch.tensor([start_of(folder)]), ids[:-1]])[None]
    with torch.inference_mode():
        out = model(ids[None], **more)
    scores: torch.Tensor = out.prediction_logits[0] if hasattr(out, "prediction_logits") else out.logits[0]
    return ids, scores


def ours(folder: Path, ids: torch.Tensor, start: int = 0) -> tuple[TransformerConfig, torch.Tensor]:
    """Our configuration of a folder, and the scores that we give words."""
    checkpoint = open_external(folder)
    model = Transformer(checkpoint.checkpoint_format.config).eval()
    model.load_state_dict(checkpoint.state())
    vocabulary = Vocabulary(VOCABULARY.size, {**VOCABULARY.roles, checkpoint.objective.decoder_start or "pad": start})
    loaded = Loaded(model, cast(Tokenizer, None), vocabulary, checkpoint.objective, folder)
    with torch.inference_mode():
        row = checkpoint.objective.format(vocabulary, checkpoint.checkpoint_format.config.position_sizes).export_row(
            ids.numpy()
        )
        return checkpoint.checkpoint_format.config, our_scores(loaded, row)


def same_scores(folder: Path, kind: str) -> TransformerConfig:
    ids, expected = theirs(folder, kind)
    start = start_of(folder)
    config, scores = ours(folder, ids, start)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-4)
    return config


@pytest.mark.parametrize(("family", "kind"), TABLES)
def test_an_output_table_that_differs_is_one_of_its_own(tmp_path: Path, family: str, kind: str, capsys: Any) -> None:
    """config.json says that it is tied; transformers ties only what is equal."""
    weights = saved(tmp_path, family, kind)
    output, words = TABLES[family, kind]
    put(tmp_path, {**weights, output: other(weights[words])})
    config = same_scores(tmp_path, kind)
    assert not config.tied
    expected = "the output table differs from the token embeddings, although config.json ties them; both are kept"
    assert expected in capsys.readouterr().err
    assert weight_names()[family].differences(config) == []


@pytest.mark.parametrize(("family", "kind"), TABLES)
def test_equal_copies_are_tied(tmp_path: Path, family: str, kind: str, capsys: Any) -> None:
    weights = saved(tmp_path, family, kind)
    output, words = TABLES[family, kind]
    more = {}
    if (family, kind) in BIASES:
        bias, source = BIASES[family, kind]
        more[bias] = weights[source]
    put(tmp_path, {**weights, output: weights[words], **more})
    assert same_scores(tmp_path, kind).tied
    assert capsys.readouterr().err.count("both are kept") == 0


@pytest.mark.parametrize(("family", "kind"), BIASES)
def test_the_bias_in_use_is_the_decoders(tmp_path: Path, family: str, kind: str) -> None:
    """A tied table with two biases: transformers adds the decoder's. The model is written with one."""
    weights = saved(tmp_path, family, kind)
    bias, source = BIASES[family, kind]
    put(tmp_path, {**weights, bias: other(weights[source])})
    config = same_scores(tmp_path, kind)
    assert config.tied
    assert bias not in CheckpointFormat(weight_names()[family], config).table.names


@pytest.mark.parametrize(("family", "kind"), TABLES)
def test_both_a_table_and_a_bias_of_its_own(tmp_path: Path, family: str, kind: str) -> None:
    weights = saved(tmp_path, family, kind)
    output, words = TABLES[family, kind]
    bias, source = BIASES.get((family, kind), ("", ""))
    more = {bias: other(weights[source])} if bias else {}
    put(tmp_path, {**weights, output: other(weights[words]), **more})
    assert not same_scores(tmp_path, kind).tied


@pytest.mark.parametrize(("family", "kind", "copy", "words"), REFUSED)
def test_what_has_no_place_here_is_refused(tmp_path: Path, family: str, kind: str, copy: str, words: str) -> None:
    weights = saved(tmp_path, family, kind)
    put(tmp_path, {**weights, copy: weights[words]})
    assert same_scores(tmp_path, kind).tied
    put(tmp_path, {**weights, copy: other(weights[words])})
    with pytest.raises(UserError, match=rf"{copy} differs from {words}, .*one table for both") as caught:
        open_external(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_glm_with_another_output_table_is_refused(tmp_path: Path) -> None:
    config = TransformerConfig(
        vocab_size=20, hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, position_sizes=(17, 17)
    )
    form = CheckpointFormat(weight_names()["glm"], config)
    (tmp_path / "config.json").write_text(json.dumps(form.family.write(config)), encoding="utf-8")
    weights = form.table.to_theirs(build(config, seed=4).state_dict())
    put(tmp_path, {**weights, "lm_head.weight": weights["word_embeddings.weight"]})
    assert open_external(tmp_path).checkpoint_format.config == form.family.read(
        form.family.write(config), weights.keys()
    )
    put(tmp_path, {**weights, "lm_head.weight": other(weights["word_embeddings.weight"])})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from word_embeddings\.weight"):
        open_external(tmp_path)


@pytest.mark.parametrize(("family", "kind"), MODELS)
def test_models_saved_untied_answer_the_same_or_are_refused(tmp_path: Path, family: str, kind: str) -> None:
    """tie_word_embeddings off, and all tables and biases of the output drawn anew."""
    transformers = pytest.importorskip("transformers")
    model = made(transformers, Case(family, kind, "", {"tie_word_embeddings": False}))
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(other(head.weight))
    model.save_pretrained(tmp_path)
    try:
        config = same_scores(tmp_path, kind)
    except UserError as error:
        assert family == "bart" and "tie_word_embeddings is False" in str(error)
        return
    assert not config.tied


def test_a_t5_that_scales_its_own_output_table_goes_back_to_transformers(tmp_path: Path) -> None:
    """Written in our words, with both settings that older and newer versions of transformers read."""
    weights = saved(tmp_path, "t5", "T5ForConditionalGeneration")
    put(tmp_path, {**weights, "lm_head.weight": other(weights["shared.weight"])})
    checkpoint = open_external(tmp_path)
    _, expected = theirs(tmp_path, "T5ForConditionalGeneration")
    values = checkpoint.checkpoint_format.family.write(checkpoint.checkpoint_format.config)
    (tmp_path / "config.json").write_text(json.dumps({**values, "pad_token_id": 0}), encoding="utf-8")
    put(tmp_path, checkpoint.checkpoint_format.table.to_theirs(checkpoint.state()))
    assert (checkpoint.checkpoint_format.config.tied, checkpoint.checkpoint_format.config.scale_logits) == (False, True)
    assert open_external(tmp_path).checkpoint_format.config == checkpoint.checkpoint_format.config
    torch.testing.assert_close(theirs(tmp_path, "T5ForConditionalGeneration")[1], expected)


def test_comparing_reads_little_and_notices_one_number(tmp_path: Path) -> None:
    """Tables of several pieces, in one precision and in two, equal and with one other number at their end."""
    rows = 3 * COMPARED // 1000
    table = torch.randn(rows, 1000, generator=torch.Generator().manual_seed(0))
    changed = table.clone()
    changed[-1, -1] += 1e-3
    half = table.half()
    save_file(
        {"a": table, "b": table.clone(), "c": changed, "half": half, "back": half.float(), "short": table[:-1].clone(),
         "zero": torch.tensor(1.5), "one": torch.tensor(1.5), "none": torch.tensor(1.0)},
        tmp_path / "x.safetensors",
    )  # fmt: skip
    torch.save({"a": table, "tied": table, "b": table.clone(), "c": changed}, tmp_path / "x.bin")
    held = open_weights(tmp_path / "x.safetensors")
    pairs = [("a", "b"), ("a", "c"), ("half", "back"), ("a", "half"), ("a", "short"), ("zero", "one"), ("zero", "none")]
    assert [held.equal(*pair) for pair in pairs] == [True, False, True, False, False, True, False]
    mapped = open_weights(tmp_path / "x.bin")
    assert [mapped.equal("a", name) for name in ("tied", "b", "c")] == [True, True, False]


def test_one_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    weights = saved(tmp_path, "bert", "BertForMaskedLM")
    name = "bert.embeddings.LayerNorm.weight"
    put(tmp_path, {**weights, "bert.embeddings.LayerNorm.gamma": other(weights[name])})
    with pytest.raises(UserError, match=r"1 unknown \(bert\.embeddings\.LayerNorm\."):
        open_external(tmp_path)
