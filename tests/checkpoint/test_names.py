"""The name tables: lossless both ways, strict about names, and honest about what a family cannot say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.errors import UserError
from blankfill.families import weight_names
from blankfill.families.chatglm import ALPHA, CHATGLM
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.families.electra import ELECTRA
from blankfill.families.glm_130b import GLM_130B
from blankfill.families.modernbert import MODERNBERT
from blankfill.families.weight_names import put_back
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.objectives import T5, Bart, Bert, ChatGlm, Electra, Glm, Glm130b, Gpt, Mlm, Xlnet
from blankfill.types import Vocabulary

ROLES = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 3}
SIZES = {"vocab_size": 30, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "ffn_size": 12}
POST = {"norm": "post", "embedding_norm": True, "head_transform": True, "head_bias": True, "activation": "gelu"}
XLNET = {"norm": "post", "norm_eps": 1e-12, "head_bias": True, "position_scheme": "relative", "attention_bias": False,
         "position_sizes": (16, 3, 3)}  # fmt: skip
T5_1_0 = {"position_sizes": (16,), "position_scheme": "none", "relative_buckets": 8, "encoder_layers": 3, "norm": "pre",
          "norm_kind": "rms", "norm_eps": 1e-6, "attention_bias": False, "ffn_bias": False, "scale_scores": False,
          "activation": "relu", "scale_logits": True, "more_dropout": True}  # fmt: skip
T5_1_1 = {**T5_1_0, "activation": "gelu_tanh", "gated": True, "scale_logits": False, "tied": False}
BART = {"position_sizes": (18,), "encoder_layers": 3, "norm": "post", "embedding_norm": True, "activation": "gelu"}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
CONFIGS = {
    "bert": TransformerConfig(**SIZES, **POST, position_sizes=(16, 2), pooler=True),
    "bert without pairs": TransformerConfig(**SIZES, **POST, position_sizes=(16, 2)),
    "bert untied": TransformerConfig(**SIZES, **POST, position_sizes=(16, 2), tied=False),
    "distilbert": TransformerConfig(
        **SIZES, **POST, position_sizes=(16,), norm_eps=1e-12, classifier_transform="relu"
    ),
    "roberta": TransformerConfig(**SIZES, **POST, position_sizes=(18,)),
    "gpt2": TransformerConfig(**SIZES, position_sizes=(16,)),
    "gpt2 untied": TransformerConfig(**SIZES, position_sizes=(16,), tied=False),
    "glm": TransformerConfig(**SIZES, position_sizes=(17, 17)),
    "xlnet": TransformerConfig(**SIZES, **XLNET),
    "xlnet untied, clamped": TransformerConfig(**SIZES, **XLNET, tied=False, clamp=7),
    "xlnet alone": TransformerConfig(**SIZES, **{**XLNET, "head_bias": False}, lm_head=False),
    "t5": TransformerConfig(**SIZES, **T5_1_0),
    "t5 1.1, narrow heads": TransformerConfig(**SIZES, **T5_1_1, head_size=3),
    "t5 tied, not scaled": TransformerConfig(**SIZES, **{**T5_1_1, "tied": True}),
    "bart": TransformerConfig(**SIZES, **BART),
    "modernbert": TransformerConfig(**SIZES, **MODERNBERT.preset, position_sizes=(16,)),
    "modernbert untied, with biases": TransformerConfig(**SIZES, **{
        **MODERNBERT.preset, "norm_bias": True, "attention_bias": True, "ffn_bias": True, "head_transform_bias": True,
        "head_activation": "relu", "head_bias": False, "window": 5, "global_every": 2}, tied=False,
        position_sizes=(16,)),
    "modernbert alone": TransformerConfig(**SIZES, **{
        **MODERNBERT.preset, "head_transform": False, "head_bias": False}, lm_head=False, position_sizes=(16,)),
    "chatglm": TransformerConfig(**SIZES, **CHATGLM.preset, **NO_DROPOUT, position_sizes=(16, 16)),
    "chatglm untied, as released": TransformerConfig(**SIZES, **{
        **CHATGLM.preset, "residual_scale": ALPHA, "rotary_rounding": "frequencies"}, position_sizes=(16, 16),
        tied=False, **NO_DROPOUT),
    "glm-130b": TransformerConfig(**SIZES, **GLM_130B.preset, **NO_DROPOUT, position_sizes=(16,)),
    "glm-130b with the angles of a served ChatGLM-6B": TransformerConfig(**SIZES, **{
        **GLM_130B.preset, "residual_scale": 1.5, "rotary_rounding": "angles"}, **NO_DROPOUT, position_sizes=(16,)),
    "electra generator": TransformerConfig(**SIZES, **ELECTRA.preset, position_sizes=(16, 2), embedding_size=12),
    "electra generator untied": TransformerConfig(**SIZES, **ELECTRA.preset, position_sizes=(16, 2), tied=False),
    "electra discriminator": TransformerConfig(
        **SIZES, **{**ELECTRA.preset, "head_transform": False, "head_bias": False}, position_sizes=(16, 2),
        embedding_size=12, lm_head=False, heads=("replaced_tokens",)),
    "electra alone": TransformerConfig(
        **SIZES, **{**ELECTRA.preset, "head_transform": False, "head_bias": False}, position_sizes=(16, 2),
        lm_head=False),
}  # fmt: skip
OBJECTIVES = {
    "bert": Bert(16),
    "distilbert": Mlm(16, position_offset=0),
    "roberta": Mlm(16),
    "gpt2": Gpt(16),
    "glm": Glm(16),
    "xlnet": Xlnet(16),
    "t5": T5(16),
    "bart": Bart(16),
    "modernbert": Mlm(16, position_offset=0),
    "electra": Electra(16),
    "chatglm": ChatGlm(16),
    "glm-130b": Glm130b(16),
}


def vocabulary(pad: int = 0) -> Vocabulary:
    return Vocabulary(30, {**ROLES, "pad": pad})


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_changes_no_bit(name: str) -> None:
    config = CONFIGS[name]
    form = checkpoint_format_of(config, OBJECTIVES[name.split()[0]], vocabulary())
    assert isinstance(form, CheckpointFormat)
    ours = build(config, seed=3).state_dict()
    theirs = form.table.to_theirs(ours)
    assert theirs.keys() == form.table.names
    back = form.table.to_ours(theirs, "the file")
    put_back(back, form.table.rest(ours))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    assert form.family.read(form.family.write(config), form.table.names) == dataclasses.replace(
        config, init=back_init(form), scaled_init=form.family.name in ("gpt2", "glm", "modernbert")
    )


def back_init(form: CheckpointFormat) -> str:
    """How training starts is no part of a config.json; the family's own is assumed."""
    return {
        "bert": "truncated_normal",
        "modernbert": "truncated_normal",
        "electra": "truncated_normal",
        "t5": "t5",
        "chatglm": "deepnorm",
        "glm-130b": "deepnorm",
    }.get(form.family.name, "normal")


FORMLESS = {
    "bert-nano-ltr": "transformers' gpt2 has no model.norm = post, model.embedding_norm = True, model.head_transform = "
    "True, model.head_bias = True",
    "unilm2-nano": "transformers' bert has no model.relative_buckets = 32",
    "unilm-v2-base": "transformers' bert has no model.relative_buckets = 32",
}


@pytest.mark.parametrize("recipe", sorted(FORMLESS))
def test_recipes_that_transformers_has_no_class_for(recipe: str) -> None:
    made = load_recipe(recipe)
    assert (
        checkpoint_format_of(made.model_config(300), made.objective, Vocabulary(300, dict(ROLES))) == FORMLESS[recipe]
    )


@pytest.mark.parametrize("recipe", sorted(set(recipe_names()) - FORMLESS.keys()))
def test_every_recipe_has_a_form(recipe: str) -> None:
    made = load_recipe(recipe)
    vocabulary = Vocabulary(300, dict(ROLES))
    form = checkpoint_format_of(made.model_config(300), made.objective, vocabulary)
    assert isinstance(form, CheckpointFormat)
    assert form.family.name == made.model.family.removesuffix("-v1.1")  # one form for both versions of T5


@pytest.mark.parametrize(("change", "message"), [
    ({"norm": "pre"}, "model.norm = pre"),
    ({"embedding_norm": False}, "model.embedding_norm = False"),
    ({"head_activation": "relu"}, "model.head_activation = relu"),
    ({"head_bias": False, "head_transform": False}, "model.lm_head = True"),
])  # fmt: skip
def test_what_a_family_cannot_say_is_told(change: dict[str, object], message: str) -> None:
    config = dataclasses.replace(CONFIGS["bert"], **change)
    form = checkpoint_format_of(config, OBJECTIVES["bert"], vocabulary())
    assert isinstance(form, str)
    assert message in form


def test_a_causal_model_in_roberta_clothes_has_no_form() -> None:
    form = checkpoint_format_of(CONFIGS["roberta"], Gpt(16), vocabulary())
    assert isinstance(form, str)
    assert "gpt2 has no" in form


def test_positions_from_0_are_distilberts_where_it_can_say_the_rest() -> None:
    """Its norms have eps 1e-12; with another one the model is a RoBERTa whose position rows are moved."""
    named = [
        checkpoint_format_of(
            dataclasses.replace(CONFIGS["distilbert"], norm_eps=eps), OBJECTIVES["distilbert"], vocabulary()
        )
        for eps in (1e-12, 1e-5)
    ]
    assert [(form.family.name, form.shift) for form in named if isinstance(form, CheckpointFormat)] == [
        ("distilbert", 0), ("roberta", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("pad", "first_row"), [(0, 1), (1, 2), (5, 6)])
def test_roberta_positions_begin_behind_the_padding(pad: int, first_row: int) -> None:
    config = CONFIGS["roberta"]
    form = checkpoint_format_of(config, Mlm(16), vocabulary(pad))
    assert isinstance(form, CheckpointFormat)
    ours = build(config, seed=1).state_dict()
    table = form.table.to_theirs(ours)["roberta.embeddings.position_embeddings.weight"]
    assert torch.equal(table[first_row:], ours["positions.0.weight"][2:])
    assert len(table) == 16 + first_row == form.config_json(vocabulary(pad))["max_position_embeddings"]


def test_a_padding_far_behind_has_no_form() -> None:
    form = checkpoint_format_of(CONFIGS["roberta"], Mlm(16), vocabulary(29_000))
    assert isinstance(form, str)
    assert "29000" in form


def test_the_constant_token_type_of_roberta_is_added() -> None:
    form = CheckpointFormat(weight_names()["roberta"], CONFIGS["roberta"])
    ours = build(CONFIGS["roberta"], seed=1).state_dict()
    theirs = form.table.to_theirs(ours)
    theirs["roberta.embeddings.token_type_embeddings.weight"] += 0.5
    back = form.table.to_ours(theirs, "the file")
    assert torch.equal(back["positions.0.weight"], ours["positions.0.weight"] + 0.5)


def test_unknown_and_missing_names_are_listed_when_reading() -> None:
    form = CheckpointFormat(weight_names()["bert"], CONFIGS["bert"])
    theirs = form.table.to_theirs(build(CONFIGS["bert"]).state_dict())
    theirs["classifier.weight"] = theirs.pop("bert.pooler.dense.bias")
    with pytest.raises(UserError, match=r"classifier\.weight.*1 missing \(bert\.pooler\.dense\.bias\)"):
        form.table.to_ours(theirs, "the file")


def test_unknown_and_missing_names_are_listed_when_writing() -> None:
    form = CheckpointFormat(weight_names()["gpt2"], CONFIGS["gpt2"])
    state = build(CONFIGS["gpt2"]).state_dict()
    state["words.scale"] = state.pop("token_embeddings.weight")
    with pytest.raises(UserError, match=r"1 unknown \(words\.scale\) and 1 missing \(token_embeddings\.weight\)"):
        form.table.to_theirs(state)


@pytest.mark.parametrize("spelling", [
    lambda name: name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma"),
    lambda name: "module." + name.replace("LayerNorm.bias", "LayerNorm.beta"),
], ids=["bare, gamma", "module., beta"])  # fmt: skip
def test_old_spellings_are_read(spelling) -> None:
    form = CheckpointFormat(weight_names()["bert"], CONFIGS["bert"])
    ours = build(CONFIGS["bert"], seed=2).state_dict()
    theirs = {spelling(name): tensor for name, tensor in form.table.to_theirs(ours).items()}
    theirs["cls.predictions.decoder.weight"] = torch.zeros(1)  # a copy of the tied table
    theirs["bert.embeddings.position_ids"] = torch.arange(16)
    back = form.table.to_ours(theirs, "the file")
    assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_what_older_files_of_t5_say() -> None:
    """Version 1.0 with copies of its table and a table of distances that nothing reads; 1.1 by the older mark."""
    form = CheckpointFormat(weight_names()["t5"], CONFIGS["t5"])
    ours = build(CONFIGS["t5"], seed=2).state_dict()
    theirs = form.table.to_theirs(ours)
    theirs |= {f"{place}.weight": ours["token_embeddings.weight"] for place in ("lm_head", "encoder.embed_tokens")}
    theirs["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 2)
    values = form.family.write(form.config)
    del values["scale_decoder_outputs"]
    assert form.family.read(values, theirs.keys()) == dataclasses.replace(form.config, init="t5")
    back = form.table.to_ours(theirs, "the file")
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    read = form.family.read({**values, "tie_word_embeddings": False}, theirs.keys())
    assert (read.tied, read.scale_logits) == (False, False)


def test_bart_without_its_head_and_with_a_bias_that_counts() -> None:
    form = CheckpointFormat(weight_names()["bart"], CONFIGS["bart"])
    ours = build(CONFIGS["bart"], seed=2).state_dict()
    theirs = form.table.to_theirs(ours)
    assert torch.equal(theirs["final_logits_bias"], torch.zeros(1, 30))
    bare = {name.removeprefix("model."): tensor for name, tensor in theirs.items() if name != "final_logits_bias"}
    back = form.table.to_ours(bare, "the file")
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    theirs["final_logits_bias"][0, 7] = 0.5
    with pytest.raises(UserError, match="final_logits_bias is not zero"):
        form.table.to_ours(theirs, "the file")


def test_bart_positions_begin_at_2() -> None:
    """A run that counts from 0 or 3 has its rows moved; of the latter the first is kept apart."""
    config = CONFIGS["bart"]
    ours = build(config, seed=1).state_dict()
    for offset, first in ((0, 2), (2, 0), (3, -1)):
        form = checkpoint_format_of(config, Bart(13, position_offset=offset), vocabulary())
        assert isinstance(form, CheckpointFormat) and form.shift == first
        theirs = form.table.to_theirs(ours)
        table = theirs["model.encoder.embed_positions.weight"]
        assert torch.equal(table[2:], ours["encoder.positions.0.weight"][offset:])
        assert len(table) == 18 + first == form.config_json(vocabulary())["max_position_embeddings"] + 2
        back = form.table.to_ours(theirs, "the file")
        put_back(back, form.table.rest(ours))
        assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_what_older_files_of_modernbert_say() -> None:
    """The distance of global layers and two bases of the rotary frequencies, as the released models have them."""
    form = CheckpointFormat(weight_names()["modernbert"], CONFIGS["modernbert"])
    values = form.family.write(form.config)
    del values["layer_types"], values["rope_parameters"]
    assert form.family.read(values, form.table.names) == form.config
    values |= {"global_attn_every_n_layers": 2, "global_rope_theta": 5.0, "local_rope_theta": 7.0}
    read = form.family.read(values, form.table.names)
    assert (read.global_every, read.rotary_theta, read.local_rotary_theta) == (2, 5.0, 7.0)


def test_gpt2_as_released_has_no_prefix_and_keeps_masks() -> None:
    form = CheckpointFormat(weight_names()["gpt2"], CONFIGS["gpt2"])
    ours = build(CONFIGS["gpt2"], seed=2).state_dict()
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in form.table.to_theirs(ours).items()}
    theirs["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    back = form.table.to_ours(theirs, "the file")
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize(("family", "values", "message"), [
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ("bert", {"is_decoder": True}, "is_decoder is True"),
    ("bert", {"hidden_act": "mish"}, "hidden_act is mish"),
    ("bert", {"hidden_size": None}, "hidden_size is missing"),
    ("bert", {"num_hidden_layers": "12"}, "num_hidden_layers is '12'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("glm", {"model_type": "glm", "num_hidden_layers": 2}, "GLM-4"),
    ("xlnet", {"bi_data": True}, "bi_data is True"),
    ("xlnet", {"attn_type": "uni"}, "attn_type is 'uni'"),
    ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder is False"),
    ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj is mish"),
    ("bart", {"encoder_ffn_dim": 13}, "encoder_ffn_dim is 13, and only 12"),
    ("bart", {"scale_embedding": True}, "scale_embedding is True"),
    ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ("modernbert", {"layer_types": ["sliding_attention", "full_attention"]}, r"layer_types is \["),
    ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
])  # fmt: skip
def test_options_that_have_no_counterpart_are_refused(family: str, values: dict[str, object], message: str) -> None:
    form = CheckpointFormat(weight_names()[family], CONFIGS[family])
    with pytest.raises(UserError, match=message):
        form.family.read({**form.family.write(form.config), **values}, form.table.names)


def test_the_glm_authors_config_is_read() -> None:
    values = {
        "model_type": "glm", "vocab_size": 30, "hidden_size": 8, "num_layers": 2, "num_attention_heads": 2,
        "max_sequence_length": 16, "block_position_encoding": True,
    }  # fmt: skip
    split = weight_names()["glm"].read(values, ())
    assert (split.position_sizes, split.ffn_size, split.num_layers) == ((17, 17), 32, 2)


def test_the_first_of_two_token_types_is_read_for_roberta() -> None:
    config = weight_names()["roberta"].read(SIZES_OF_TWO_TYPES, ["roberta.embeddings.word_embeddings.weight"])
    table = weight_names()["roberta"].table(config)
    (rule,) = [rule for rule in table.rules if rule.ours == "positions.0.weight"]
    positions, types = torch.randn(12, 8), torch.randn(2, 8)
    assert torch.equal(rule.to_ours([positions, types]), positions + types[0])
    name = rule.theirs[1]
    assert table.fits(name, (2, 8), (1, 8)) and table.fits(name, (1, 8), (1, 8))
    assert not table.fits(name, (0, 8), (1, 8)) and not table.fits(name, (2, 9), (1, 8))
    assert not table.fits(rule.theirs[0], (13, 8), (12, 8))


SIZES_OF_TWO_TYPES = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20,
    "max_position_embeddings": 12, "type_vocab_size": 2, "hidden_act": "gelu", "pad_token_id": 1,
}  # fmt: skip
