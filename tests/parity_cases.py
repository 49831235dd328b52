"""The parity matrix: which tiny models of transformers are held against ours, by family and configuration.

The rows are also those of the table in docs/import-export.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch


class Case(NamedTuple):
    """A model of transformers. kind: its class. words: what is special about it, as the table in the docs says."""

    family: str
    kind: str
    words: str
    options: Mapping[str, Any] = MappingProxyType({})


CASES = [
    Case("bert", "BertForPreTraining", "as published"),
    Case("bert", "BertForPreTraining", "gelu_new, eps 1e-5", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
    Case("bert", "BertForPreTraining", "relu", {"hidden_act": "relu"}),
    Case("bert", "BertForPreTraining", "silu, 2 heads, inner width 20", {
        "hidden_act": "silu", "num_attention_heads": 2, "intermediate_size": 20}),
    Case("bert", "BertForPreTraining", "word table not tied", {"tie_word_embeddings": False}),
    Case("bert", "BertForMaskedLM", "without pairs"),
    Case("distilbert", "DistilBertForMaskedLM", "as published"),
    Case("distilbert", "DistilBertForMaskedLM", "relu, 2 heads, sinusoidal positions", {
        "activation": "relu", "n_heads": 2, "sinusoidal_pos_embds": True}),
    Case("distilbert", "DistilBertForMaskedLM", "word table not tied, 1 layer", {
        "tie_word_embeddings": False, "n_layers": 1}),
    Case("roberta", "RobertaForMaskedLM", "as published"),
    Case("roberta", "RobertaForMaskedLM", "relu, eps 1e-5", {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    Case("roberta", "RobertaForMaskedLM", "word table not tied, 1 layer", {
        "tie_word_embeddings": False, "num_hidden_layers": 1}),
    Case("roberta", "RobertaForMaskedLM", "padding is token 3", {"pad_token_id": 3}),
    Case("albert", "AlbertForPreTraining", "as published"),
    Case("albert", "AlbertForPreTraining", "gelu, embeddings as wide as the layers", {
        "hidden_act": "gelu", "embedding_size": 32, "layer_norm_eps": 1e-5}),
    Case("albert", "AlbertForPreTraining", "word table not tied, 1 head", {
        "tie_word_embeddings": False, "num_attention_heads": 1}),
    Case("albert", "AlbertForMaskedLM", "without pairs, no weights shared", {"num_hidden_groups": 3}),
    Case("ernie", "ErnieForPreTraining", "as published", {"hidden_act": "relu"}),
    Case("ernie", "ErnieForPreTraining", "with tasks", {"use_task_id": True}),
    Case("ernie", "ErnieForMaskedLM", "without pairs, with tasks", {"use_task_id": True, "task_type_vocab_size": 4}),
    Case("gpt2", "GPT2LMHeadModel", "as published"),
    Case("gpt2", "GPT2LMHeadModel", "gelu, inner width 40", {"n_inner": 40, "activation_function": "gelu"}),
    Case("gpt2", "GPT2LMHeadModel", "word table not tied, 2 heads", {"tie_word_embeddings": False, "n_head": 2}),
    Case("gpt2", "GPT2LMHeadModel", "relu, eps 1e-3", {"layer_norm_epsilon": 1e-3, "activation_function": "relu"}),
    Case("xlnet", "XLNetLMHeadModel", "as published"),
    Case("xlnet", "XLNetLMHeadModel", "gelu_new, distances clamped at 5", {
        "ff_activation": "gelu_new", "clamp_len": 5}),
    Case("xlnet", "XLNetLMHeadModel", "word table not tied, 2 heads", {"tie_word_embeddings": False, "n_head": 2}),
    Case("t5", "T5ForConditionalGeneration", "as published (1.0)"),
    Case("t5", "T5ForConditionalGeneration", "as published (1.1)", {
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    Case("t5", "T5ForConditionalGeneration", "gated-silu, heads of 5, 3 and 1 layers", {
        "feed_forward_proj": "gated-silu", "d_kv": 5, "num_layers": 3, "num_decoder_layers": 1}),
    Case("t5", "T5ForConditionalGeneration", "8 buckets up to 20, gelu, eps 1e-3", {
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "feed_forward_proj": "gelu",
        "layer_norm_epsilon": 1e-3}),
    Case("bart", "BartForConditionalGeneration", "as published"),
    Case("bart", "BartForConditionalGeneration", "gelu_new, 3 and 1 layers, padding is token 3", {
        "activation_function": "gelu_new", "encoder_layers": 3, "decoder_layers": 1, "pad_token_id": 3}),
    Case("modernbert", "ModernBertForMaskedLM", "as published"),
    Case("modernbert", "ModernBertForMaskedLM", "3 layers, window of 16", {
        "num_hidden_layers": 3, "local_attention": 16}),
    Case("modernbert", "ModernBertForMaskedLM", "all biases, silu, relu in the head, 2 heads", {
        "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True, "num_attention_heads": 2,
        "hidden_activation": "silu", "classifier_activation": "relu"}),
    Case("modernbert", "ModernBertForMaskedLM", "word table not tied, no output bias, every second layer global", {
        "tie_word_embeddings": False, "decoder_bias": False, "num_hidden_layers": 5,
        "global_attn_every_n_layers": 2}),
    Case("electra", "ElectraForMaskedLM", "generator as published"),
    Case("electra", "ElectraForMaskedLM", "generator: relu, embeddings as wide as the layers", {
        "hidden_act": "relu", "embedding_size": 32}),
    Case("electra", "ElectraForMaskedLM", "generator: word table not tied", {"tie_word_embeddings": False}),
    Case("electra", "ElectraForPreTraining", "discriminator as published"),
    Case("electra", "ElectraForPreTraining", "discriminator: gelu_new, eps 1e-5, embeddings as wide as the layers", {
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "embedding_size": 32}),
]  # fmt: skip
SAVED = [("glm", "saved outputs of the original code")]
"""Compared with files beside the project instead."""
SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 97, "hidden_size": 32,
             "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
             "max_position_embeddings": 24},
    "gpt2": {"vocab_size": 61, "n_positions": 20, "n_embd": 24, "n_layer": 2, "n_head": 3, "resid_pdrop": 0.0,
             "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}  # fmt: skip
SIZES["xlnet"] = {
    "vocab_size": 97, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "dropout": 0.0, "mem_len": 0,
    "initializer_range": 0.1,  # at 0.02 nothing that attention does is much more than rounding
}  # fmt: skip
SIZES["distilbert"] = {"dropout": 0.0, "attention_dropout": 0.0, "vocab_size": 97, "dim": 32, "n_layers": 2,
                       "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 24}  # fmt: skip
SIZES["roberta"] = {**SIZES["bert"], "type_vocab_size": 1}
SIZES["ernie"] = SIZES["bert"]
SIZES["t5"] = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
               "dropout_rate": 0.0}  # fmt: skip
SIZES["bart"] = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 24,
    "dropout": 0.0, "init_std": 0.1,
}  # fmt: skip
SIZES["modernbert"] = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 20,
    "max_position_embeddings": 64, "local_attention": 8, "initializer_range": 0.1, "pad_token_id": 0, "bos_token_id": 2,
    "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
}  # fmt: skip
SIZES["electra"] = {**SIZES["bert"], "embedding_size": 20}
SIZES["albert"] = {**SIZES["bert"], "embedding_size": 20, "num_hidden_layers": 3, "classifier_dropout_prob": 0.0}


def of(family: str) -> list[Case]:
    """The cases of a family."""
    return [case for case in CASES if case.family == family]


def case_name(case: Case) -> str:
    """A case's name among the tests."""
    return f"{case.family}: {case.words}"


def made(transformers: Any, case: Case, seed: int = 0) -> Any:
    """transformers' model of a case, norms and biases drawn too, which begin as ones and zeros, so that none can stand
    in for another."""
    torch.manual_seed(seed)
    kind = getattr(transformers, case.kind)
    model = kind(kind.config_class(**{**SIZES[case.family], **case.options}))
    if case.family == "t5" and not case.options.get("tie_word_embeddings", True):
        # a fresh model of transformers' ties all the same; one that is read from a file with its own table does not
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    with torch.no_grad():
        for where, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "orm.weight" in where else 0.0))
    return model.eval()
