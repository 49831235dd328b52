"""BERT's names and config.json (transformers' `bert`; Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    Copied,
    Fused,
    Preferred,
    Rule,
    Table,
    WeightNames,
    activation_name,
    activation_of,
    both,
    flag,
    layers,
    number,
    plain,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Bert, Objective, Unilm, Unilm2

PLAIN_OPTIONS = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Options of BERT and its variants that have no counterpart here, with the values that can be read."""

OLD_NAMES = ((r"^module\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
"""Old spellings: prefixes of data-parallel wrappers, and the norms of the first releases."""

BUFFERS = (r"embeddings\.(position_ids|token_type_ids)$",)


class BertNames(WeightNames):
    """BERT with the heads that a file has: LM head, next sentence, the pooler alone, or none."""

    name = "bert"
    model_type = "bert"
    title: ClassVar[str] = "Bert"
    """Beginning of the names of transformers' classes; `model_type` is the prefix of their weights."""
    objective: ClassVar[type[Objective]] = Bert
    kin: ClassVar[tuple[type[Objective], ...]] = (Unilm, Unilm2)
    task_heads: ClassVar[TaskHeads | None] = TaskHeads("Bert", "bert.", "bert.pooler.dense")
    inputs = ("input_ids", "token_type_ids", "attention_mask")

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, heads from the names."""
        refuse_options(values, PLAIN_OPTIONS)
        present = {name.removeprefix("module.") for name in names}
        pooler = any("pooler.dense" in name for name in present)
        words = any(name.startswith("cls.predictions.") for name in present)
        tied = flag(values, "tie_word_embeddings", True) or not words
        return TransformerConfig(
            **encoder_sizes(values),
            position_sizes=(number(values, "max_position_embeddings"), number(values, "type_vocab_size")),
            norm_eps=real(values, "layer_norm_eps", 1e-12),
            lm_head=words,
            head_transform=words,
            head_bias=words,
            tied=tied,
            pooler=pooler,
            pair_classifier=not pooler or "cls.seq_relationship.weight" in present,
            init="truncated_normal",
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `BertConfig`."""
        pairs = config.pooler and config.pair_classifier
        kinds = {
            (True, True): "ForPreTraining", (True, False): "ForMaskedLM",
            (False, True): "ForNextSentencePrediction", (False, False): "Model",
        }  # fmt: skip
        return {
            "architectures": [self.title + kinds[config.lm_head, pairs]],
            "model_type": self.model_type,
            **encoder_values(config),
            "max_position_embeddings": config.position_sizes[0],
            "type_vocab_size": config.position_sizes[-1],
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return BERT's names; a model without heads has no `bert.` (in variants, their own name) before them."""
        pairs = config.pooler and config.pair_classifier
        own = self.model_type + "."
        base = own if config.lm_head or pairs else ""
        rules = [
            *encoder_rules(config, base),
            *plain({"positions.0.weight": f"{base}embeddings.position_embeddings.weight",
                    "positions.1.weight": f"{base}embeddings.token_type_embeddings.weight"}),
        ]  # fmt: skip
        if config.head_transform:
            head = "cls.predictions."
            rules += both({"lm_head.dense": f"{head}transform.dense", "lm_head.norm": f"{head}transform.LayerNorm"})
            rules += output_rules(config, f"{head}bias", f"{head}decoder")
        if config.pooler:
            rules += both({"pooler.dense": f"{base}pooler.dense"})
        if pairs:
            rules += both({"classifier": "cls.seq_relationship"})
        prefix = (rf"^(?!{self.model_type}\.|cls\.)", own) if base else (rf"^{self.model_type}\.", "")
        return Table(
            tuple(rules), BUFFERS, (*OLD_NAMES, prefix), **output_copies(config, "cls.predictions.decoder", base)
        )

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: masked words over all positions, with pairs if the model has their classifier."""
        return Bert(config.position_sizes[0], next_sentence=config.pooler and config.pair_classifier)


BERT_PRESET: dict[str, Any] = {
    "norm": "post",
    "norm_eps": 1e-12,
    "embedding_norm": True,
    "activation": "gelu_tanh",
    "head_transform": True,
    "head_bias": True,
    "pooler": True,
    "init": "truncated_normal",
}

BERT = FamilySpec(
    name="bert",
    source="Devlin et al. 2018; google-research/bert modeling.py",
    preset=BERT_PRESET,
    channels=("pos", "type"),
    weight_names=BertNames(),
    default_for=("bert", "unilm"),
    recipes=("bert-nano", "bert-base", "bert-large"),
    docs="objectives/bert",
)


def encoder_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the config.json of BERT and its variants share."""
    return {
        "vocab_size": number(values, "vocab_size"),
        "hidden_size": number(values, "hidden_size"),
        "num_layers": number(values, "num_hidden_layers"),
        "num_heads": number(values, "num_attention_heads"),
        "ffn_size": number(values, "intermediate_size"),
        "norm": "post",
        "embedding_norm": True,
        "activation": activation_of(values, "hidden_act", "gelu"),
        "dropout": real(values, "hidden_dropout_prob", 0.1),
        "attention_dropout": real(values, "attention_probs_dropout_prob", 0.1),
        "init_std": real(values, "initializer_range", 0.02),
    }


def encoder_values(config: TransformerConfig) -> dict[str, Any]:
    """Return the inverse of `encoder_sizes`."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "hidden_act": activation_name(config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
    }


def encoder_rules(config: TransformerConfig, base: str) -> list[Rule]:
    """Return the rules of token embeddings, their norm, and layers, which have the same names in BERT and RoBERTa.
    base: the prefix, with its dot."""
    layer = base + "encoder.layer.{k}."
    rules = plain({"token_embeddings.weight": f"{base}embeddings.word_embeddings.weight"})
    rules += both({"embedding_norm": f"{base}embeddings.LayerNorm"})
    rules += layers(config.num_layers, "layers.{k}.", layer, {
        "attention.output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "ffn.inner": "intermediate.dense", "ffn.output": "output.dense", "ffn_norm": "output.LayerNorm",
    })  # fmt: skip
    for k in range(config.num_layers):
        for part in ("weight", "bias"):
            three = tuple(f"{layer.format(k=k)}attention.self.{name}.{part}" for name in ("query", "key", "value"))
            rules.append(Fused(f"layers.{k}.attention.qkv.{part}", three))
    return rules


def output_rules(config: TransformerConfig, bias: str, decoder: str) -> list[Rule]:
    """Return the rules of the output bias, and of the output embeddings if they are not tied. If a file has a bias of
    the decoder too, transformers adds that one."""
    biases = (bias, f"{decoder}.bias")
    if config.tied:
        return [Preferred("lm_head.bias", biases)]
    return [Copied("lm_head.bias", biases), Rule("lm_head.table", (f"{decoder}.weight",))]


def output_copies(config: TransformerConfig, decoder: str, base: str) -> dict[str, Any]:
    """Return the `optional` names and the `copies` of a table with `output_rules`. base: the prefix of the token
    embeddings."""
    if not config.lm_head:
        return {}
    words = f"{base}embeddings.word_embeddings.weight"
    return {
        "optional": frozenset({f"{decoder}.bias"}),
        "copies": {f"{decoder}.weight": words} if config.tied else {},
    }
