"""Checkpoints of ChatGLM-6B as released: pickled shards, both vocabularies, quantised weights; and back again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from blankfill.checkpoint.hf_loading import open_external
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.corpus.tokenizer_layout import images_of
from blankfill.errors import UserError
from blankfill.exporting.model import export_model
from blankfill.finetuning.importing import import_model
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, quantize
from blankfill.model.quantized import QuantizedDense
from chatglm_folders import (
    GOLDEN,
    IMAGES,
    LAYERS,
    WIDTH,
    layout,
    logits_of,
    random_weights,
    shards,
    values_of,
    write_folder,
)

torch.manual_seed(0)
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the outputs of the original code are not here")
"""Everything else runs on weights drawn here."""


def weights_in(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder."""
    out: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        out |= load_file(file)
    for file in folder.glob("*.bin"):
        out |= torch.load(file, weights_only=True)
    return out


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_shards_come_in_and_go_out_to_the_bit(tmp_path: Path, kind: Any) -> None:
    weights = random_weights()
    source = write_folder(tmp_path / "source", weights, kind=kind)
    assert len(shards(source)) > 3
    made = import_model(source, tmp_path / "model")
    assert (made.family, made.dtype, made.converted) == ("chatglm", "float16", "")
    loaded = load_model(tmp_path / "model")
    assert loaded.model.lm_head.table is None  # the output table equals the word table
    assert loaded.model.token_embeddings.weight.dtype == torch.float16
    export_model(tmp_path / "model", tmp_path / "out", shards=kind)
    back = weights_in(tmp_path / "out")
    assert back.keys() == {name for name in weights if "inv_freq" not in name}
    assert all(torch.equal(back[name], weights[name]) and back[name].dtype == torch.float16 for name in back)
    given = json.loads((source / "config.json").read_text(encoding="utf-8"))
    written = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert {key: written.get(key) for key in given if key != "architectures"} == {
        key: value for key, value in given.items() if key != "architectures"
    }
    assert (tmp_path / "out" / "ice_text.model").exists()
    again = load_model(tmp_path / "out")
    assert again.tokenizer.encode("ab 12\n") == loaded.tokenizer.encode("ab 12\n")


def test_both_auto_classes_open_the_layout(tmp_path: Path) -> None:
    """The released config.json names one class for AutoModel; AutoModelForCausalLM opens the same."""
    transformers = pytest.importorskip("transformers")
    from blankfill.hf import ChatGLMForConditionalGeneration

    write_folder(tmp_path / "model", random_weights(), kind="safetensors")
    for name in ("AutoModel", "AutoModelForCausalLM"):
        model = getattr(transformers, name).from_pretrained(tmp_path / "model")
        assert type(model) is ChatGLMForConditionalGeneration


def test_norms_of_fp32_come_in_as_the_rest(tmp_path: Path) -> None:
    weights = random_weights()
    mixed = {name: tensor.float() if "layernorm" in name else tensor for name, tensor in weights.items()}
    made = import_model(write_folder(tmp_path / "source", mixed), tmp_path / "model")
    assert (made.dtype, made.converted) == ("float16", "float32")
    export_model(tmp_path / "model", tmp_path / "out")
    back = weights_in(tmp_path / "out")
    assert all(torch.equal(back[name], weights[name]) for name in back)


def test_an_output_table_of_its_own_stays(tmp_path: Path) -> None:
    weights = random_weights()
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    import_model(write_folder(tmp_path / "source", weights), tmp_path / "model")
    table = load_model(tmp_path / "model").model.lm_head.table
    assert table is not None and torch.equal(table, weights["lm_head.weight"])


@needs_golden
@pytest.mark.data
def test_logits_after_import_are_those_of_the_original(tmp_path: Path) -> None:
    weights = {name: w for name, w in load_file(GOLDEN / "weights.safetensors").items() if "prefix" not in name}
    reference = load_file(GOLDEN / "reference.safetensors")
    values = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["config"]
    source = write_folder(tmp_path / "source", weights, values, tokenizer=False)
    made, real = logits_of(open_external(source), reference)
    assert (made - reference["gmask.logits"])[real].abs().max() < 1e-4


@needs_golden
@pytest.mark.data
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_checkpoint_computes_as_the_original(tmp_path: Path, bits: int) -> None:
    """Its tensors are those that the original code stores, and its logits those of the original's arithmetic."""
    weights = {name: w for name, w in load_file(GOLDEN / "weights.safetensors").items() if "prefix" not in name}
    reference, golden = load_file(GOLDEN / "reference.safetensors"), load_file(GOLDEN / "quantised.safetensors")
    values = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["config"] | {"quantization_bit": bits}
    stored = quantised(weights, bits)
    name = "transformer.layers.1.mlp.dense_h_to_4h"
    if bits == 4:
        assert torch.equal(stored[f"{name}.weight"], golden[f"model.int4.{name}.weight"])
        assert torch.equal(stored[f"{name}.weight_scale"], golden[f"model.int4.{name}.weight_scale"])
    checkpoint = open_external(write_folder(tmp_path / "source", stored, values, tokenizer=False))
    made, real = logits_of(checkpoint, reference)
    assert (made - golden[f"model.int{bits}.logits"])[real].abs().max() < 1e-4


LINEAR = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")


def quantised(weights: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint that the original code has quantised."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(LINEAR):
            out[name], out[f"{name}_scale"], _ = quantize(weight.half(), WeightFormat(bits))
        else:
            out[name] = weight
    return out


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_checkpoint_comes_in_and_goes_out_to_the_bit(tmp_path: Path, bits: int) -> None:
    stored = quantised(random_weights(), bits)
    values = values_of(quantization_bit=bits, quantization_embeddings=False)
    import_model(write_folder(tmp_path / "source", stored, values), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.quantization is not None and set(loaded.quantization.layers.values()) == {WeightFormat(bits)}
    assert isinstance(loaded.model.layers[0].ffn.inner, QuantizedDense)
    export_model(tmp_path / "model", tmp_path / "out")
    back = weights_in(tmp_path / "out")
    assert back.keys() == {name for name in stored if "inv_freq" not in name}
    assert all(torch.equal(back[name], stored[name]) for name in back)
    written = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert written["quantization_bit"] == bits
    plain = write_folder(tmp_path / "plain", random_weights())
    import_model(plain, tmp_path / "half")
    assert main(["quantize", "--model", str(tmp_path / "half"), "--bits", str(bits), "--rounding", "released",
                 "--out", str(tmp_path / "ours"), "--force", "--gate-seconds", "0.1"]) == 0  # fmt: skip
    ours = weights_in(tmp_path / "ours")
    assert all(
        torch.equal(ours[name], tensor) for name, tensor in back.items() if name in ours and "lm_head" not in name
    )


@pytest.mark.parametrize("images", [0, IMAGES])
def test_quantised_tables_are_read_as_floats(tmp_path: Path, images: int) -> None:
    """The checkpoint chatglm-6b-int4-qe has quantised both tables too; rows of images are left out of these as well."""
    older = layout(images)
    stored = quantised(random_weights(vocabulary=older["vocab_size"]), 4)
    for name in ("transformer.word_embeddings.weight", "lm_head.weight"):
        stored[name], stored[f"{name}_scale"], _ = quantize(stored[name], WeightFormat(4))
    values = values_of(quantization_bit=4, quantization_embeddings=True, **older)
    source = write_folder(tmp_path / "source", stored, values, images=images)
    dropped = ["--drop-image-rows"] if images else []
    assert main(["import", str(source), *dropped, "--out", str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model").model
    name = "transformer.word_embeddings.weight"
    table = dequantize(QuantizedWeight(stored[name], stored[f"{name}_scale"]), WeightFormat(4), torch.float16)
    assert torch.equal(model.token_embeddings.weight, table[images:])
    assert model.lm_head.table is None


def test_the_rounding_of_positions_is_chosen_on_import(tmp_path: Path, capsys: Any) -> None:
    source = write_folder(tmp_path / "source", random_weights())
    roads = {"auto": "frequencies", "none": "none", "angles": "angles"}
    for given, rounding in roads.items():
        assert main(["import", str(source), "--rotary-rounding", given, "--out", str(tmp_path / given)]) == 0
        assert load_model(tmp_path / given).model.config.rotary_rounding == rounding
        written = json.loads((tmp_path / given / "config.json").read_text(encoding="utf-8"))
        assert written.get("rotary_rounding", "frequencies") == rounding
    import_model(tmp_path / "none", tmp_path / "again")
    assert load_model(tmp_path / "again").model.config.rotary_rounding == "none"
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    bert = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=8))
    bert.save_pretrained(tmp_path / "bert")
    capsys.readouterr()
    assert main(["import", str(tmp_path / "bert"), "--rotary-rounding", "angles", "--out", str(tmp_path / "out")]) == 2
    message = "a model of the family bert rounds nothing in its positions; leave out --rotary-rounding"
    assert message in capsys.readouterr().err


def test_the_first_release_with_and_without_its_image_rows(tmp_path: Path, capsys: Any) -> None:
    """The older layout has 20,000 rows more, which text never uses; without them the model computes the same."""
    slim, older = layout(0), layout(IMAGES)
    weights = random_weights(vocabulary=older["vocab_size"])
    source = write_folder(tmp_path / "source", weights, older, images=IMAGES)
    import_model(source, tmp_path / "whole")
    assert main(["import", str(source), "--drop-image-rows", "--out", str(tmp_path / "slim")]) == 0
    whole, cut = load_model(tmp_path / "whole"), load_model(tmp_path / "slim")
    assert (images_of(whole.tokenizer), images_of(cut.tokenizer)) == (IMAGES, 0)
    assert cut.model.config.vocab_size == slim["vocab_size"] == whole.model.config.vocab_size - IMAGES
    assert torch.equal(cut.model.token_embeddings.weight, whole.model.token_embeddings.weight[IMAGES:])
    ids = whole.tokenizer.encode("ab 12\n")
    assert cut.tokenizer.encode("ab 12\n") == [id - IMAGES for id in ids]
    assert cut.tokenizer.decode(cut.tokenizer.encode("ab  12\n")) == "ab  12\n"
    assert {role: id - IMAGES for role, id in whole.vocabulary.roles.items()} == dict(cut.vocabulary.roles)
    written = json.loads((tmp_path / "slim" / "config.json").read_text(encoding="utf-8"))
    assert {key: written[key] for key in slim if key.endswith("_token_id")} == {
        key: value for key, value in slim.items() if key.endswith("_token_id")
    }
    assert main(["import", str(write_folder(tmp_path / "other", random_weights())), "--drop-image-rows",
                 "--out", str(tmp_path / "out")]) == 2  # fmt: skip
    assert "the vocabulary has no rows of image tokens; leave out --drop-image-rows" in capsys.readouterr().err


def test_a_checkpoint_of_p_tuning_is_an_adapter(tmp_path: Path, capsys: Any) -> None:
    """With the prefix alone, as the original's script writes it, and with the model."""
    prefix = {"transformer.prefix_encoder.embedding.weight": torch.randn(4, 2 * LAYERS * WIDTH)}
    alone = write_folder(tmp_path / "alone", prefix, values_of(pre_seq_len=4))
    with pytest.raises(UserError, match=r"holds the prefix of P-tuning v2, and not the model; import the model"):
        import_model(alone, tmp_path / "out")
    both = write_folder(tmp_path / "both", {**random_weights(), **prefix}, values_of(pre_seq_len=4))
    command = ["import", str(both), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "leave it out when you import the model: --leave-out transformer.prefix_encoder" in capsys.readouterr().err
    assert main([*command, "--leave-out", "transformer.prefix_encoder"]) == 0


def test_transformers_finds_the_masks_that_a_config_does_not_name() -> None:
    """The config.json of the first release names neither mask; null is a token that a model does not have."""
    pytest.importorskip("transformers")
    from blankfill.hf.chatglm import ChatGlmConfig, positions

    for first, config in (
        (150000, ChatGlmConfig(vocab_size=150528, bos_token_id=150004)), (130000, ChatGlmConfig()),
        (130000, ChatGlmConfig(gmask_token_id=None)),
    ):  # fmt: skip
        mask = first if config.gmask_token_id is None else first + 1
        made = positions(torch.tensor([[7, 8, mask, first + 4, 9]]), None, config)
        assert made.tolist() == [[[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]]


def test_a_tokenizer_of_the_other_layout_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", random_weights())
    tokenizer = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (source / "tokenizer_config.json").write_text(
        json.dumps(tokenizer | {"num_image_tokens": IMAGES}), encoding="utf-8"
    )
    with pytest.raises(
        UserError, match=r"is of the slim layout .*, and the tokenizer beside it is of the layout of the"
    ):
        import_model(source, tmp_path / "model")
    older = write_folder(tmp_path / "older", random_weights(vocabulary=layout(IMAGES)["vocab_size"]), layout(IMAGES))
    with pytest.raises(UserError, match=r"is of the layout of the first release .* is of the slim layout"):
        import_model(older, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", random_weights())
    shard = shards(source)[2]
    whole = shard.read_bytes()
    for content, words in (
        (None, f"names {shard.name}, which is missing; copy or download all parts"),
        (whole[: len(whole) // 2], f"{shard.name} is not a complete file of weights written by torch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ):
        shard.unlink(missing_ok=True)
        if content is not None:
            shard.write_bytes(content)
        with pytest.raises(UserError, match=words):
            import_model(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization_bit": 3}, "quantization_bit is 3, and only 8 and 4 are known here"),
        ({"quantization_bit": 8}, "the weights beside it are not quantised; remove quantization_bit from it"),
        ({"num_layers": 3}, "missing"),
        ({"inner_hidden_size": 24}, "shapes differ from those of config.json"),
        ({"multi_query_attention": True}, "which is ChatGLM2-6B or a later model"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    source = write_folder(tmp_path / "source", random_weights(), values_of(**values))
    with pytest.raises(UserError, match=words):
        import_model(source, tmp_path / "model")


@pytest.mark.parametrize(("bits", "noted"), [(8, None), (4, None), (8, 4), (4, 8)])
def test_integers_with_another_note_or_none_are_refused(tmp_path: Path, bits: int, noted: int | None) -> None:
    note = {"quantization_bit": noted} if noted else {}
    source = write_folder(tmp_path / "source", quantised(random_weights(), bits), values_of(**note))
    with pytest.raises(UserError, match=f'beside it have {bits} bits; write "quantization_bit": {bits} into it'):
        import_model(source, tmp_path / "model")


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_an_index_that_does_not_belong_to_its_shards_is_refused(tmp_path: Path, kind: Any) -> None:
    source = write_folder(tmp_path / "source", random_weights(), kind=kind)
    first, *_, last = shards(source)
    index = next(source.glob("*.index.json"))
    whole, written = last.read_bytes(), index.read_text(encoding="utf-8")
    last.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=f"{last.name} has none of the .* under this name; copy or download it again"):
        import_model(source, tmp_path / "model")
    last.write_bytes(whole)
    for text in ("{", "{}", written.replace(f'"{last.name}"', "5")):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="copy or download the index again"):
            import_model(source, tmp_path / "model")
    index.unlink()
    with pytest.raises(UserError, match=f"has {first.name} and not the index {index.name}"):
        import_model(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_that_is_a_pointer_is_told_in_sentences(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", random_weights())
    (source / "ice_text.model").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(UserError, match=r"from where it was cloned\. Put the model's own beside its weights"):
        import_model(source, tmp_path / "model")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", random_weights())

    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Bad()}, shards(source)[0])
    with pytest.raises(UserError, match="is not read: it needs"):
        import_model(source, tmp_path / "model")
    assert not (tmp_path / "ran").exists()
