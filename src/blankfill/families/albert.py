"""ALBERT's names and config.json (transformers' `albert`; Lan et al. 2019).

Its layers are in groups, each with one set of weights. With one group all layers share everything, as published; with
as many groups as layers they share nothing. transformers cannot share only attention or only feed-forward parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.errors import UserError
from blankfill.families.bert import (
    BUFFERS,
    OLD_NAMES,
    encoder_sizes,
    encoder_values,
    output_copies,
    output_rules,
)
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    Fused,
    Rule,
    Table,
    WeightNames,
    both,
    flag,
    number,
    plain,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Albert, Objective

PARTS = {
    "attention.output": "attention.dense", "attention_norm": "attention.LayerNorm",
    "ffn.inner": "ffn", "ffn.output": "ffn_output", "ffn_norm": "full_layer_layer_norm",
}  # fmt: skip
"""Our names of the parts of a layer and theirs, without queries, keys and values."""


class AlbertNames(WeightNames):
    """ALBERT with the LM head and sentence order, with the LM head alone, or bare."""

    name = "albert"
    model_type = "albert"
    objective = Albert
    task_heads = TaskHeads("Albert", "albert.", "albert.pooler")
    inputs = ("input_ids", "token_type_ids", "attention_mask")

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, heads from the names."""
        refuse_options(values, {"inner_group_num": 1, "position_embedding_type": "absolute"})
        groups, layers = number(values, "num_hidden_groups", 1), number(values, "num_hidden_layers")
        if groups not in (1, layers):
            raise UserError(
                f"config.json: num_hidden_groups is {groups}, and only 1 or as many as layers ({layers}) is known "
                "here; this checkpoint cannot be imported"
            )
        present = {name.removeprefix("module.") for name in names}
        order = any(name.startswith("sop_classifier.") for name in present)
        words = order or any(name.startswith("predictions.") for name in present)
        pooler = order or any("pooler." in name for name in present)
        return TransformerConfig(
            **encoder_sizes({"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0,
                             "attention_probs_dropout_prob": 0.0, **values}),
            embedding_size=number(values, "embedding_size"),
            shared="all" if groups == 1 else "none",
            position_sizes=(number(values, "max_position_embeddings"), number(values, "type_vocab_size")),
            norm_eps=real(values, "layer_norm_eps", 1e-12),
            lm_head=words,
            head_transform=words,
            head_bias=words,
            tied=flag(values, "tie_word_embeddings", True) or not words,
            pooler=pooler,
            pair_classifier=order or not pooler,
            init="truncated_normal",
        )  # fmt: skip

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `AlbertConfig`."""
        kind = "AlbertForMaskedLM" if config.lm_head else "AlbertModel"
        return {
            "architectures": ["AlbertForPreTraining" if config.pooler and config.pair_classifier else kind],
            "model_type": self.model_type,
            **encoder_values(config),
            "embedding_size": config.word_size,
            "num_hidden_groups": 1 if config.shared == "all" else config.num_layers,
            "inner_group_num": 1,
            "classifier_dropout_prob": 0.1,
            "max_position_embeddings": config.position_sizes[0],
            "type_vocab_size": config.position_sizes[-1],
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return ALBERT's names; a model without the language-model head has no `albert.` before them."""
        base = "albert." if config.lm_head else ""
        rules = plain({
            "token_embeddings.weight": f"{base}embeddings.word_embeddings.weight",
            "positions.0.weight": f"{base}embeddings.position_embeddings.weight",
            "positions.1.weight": f"{base}embeddings.token_type_embeddings.weight",
        })  # fmt: skip
        rules += both({
            "embedding_norm": f"{base}embeddings.LayerNorm",
            "embedding_projection": f"{base}encoder.embedding_hidden_mapping_in",
        })  # fmt: skip
        for k in range(1 if config.shared == "all" else config.num_layers):
            rules += layer_rules(k, f"{base}encoder.albert_layer_groups.{k}.albert_layers.0.")
        if config.head_transform:
            rules += both({"lm_head.dense": "predictions.dense", "lm_head.norm": "predictions.LayerNorm"})
            rules += output_rules(config, "predictions.bias", "predictions.decoder")
        if config.pooler:
            rules += both({"pooler.dense": f"{base}pooler"})
        if config.pooler and config.pair_classifier:
            rules += both({"classifier": "sop_classifier.classifier"})
        prefix = (r"^(?!albert\.|predictions\.|sop_classifier\.)", "albert.") if base else (r"^albert\.", "")
        return Table(tuple(rules), BUFFERS, (*OLD_NAMES, prefix), **output_copies(config, "predictions.decoder", base))

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: masked words over all positions, with sentence order if the model has its
        classifier."""
        return Albert(config.position_sizes[0], sentence_order=config.pooler and config.pair_classifier)


ALBERT = FamilySpec(
    name="albert",
    source="Lan et al. 2019; google-research/albert modeling.py",
    preset={
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_size": 128,
        "embedding_norm": True,
        "shared": "all",
        "activation": "gelu_tanh",
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
        "init": "truncated_normal",
    },
    channels=("pos", "type"),
    weight_names=AlbertNames(),
    default_for=("albert",),
    recipes=("albert-nano", "albert-base", "albert-large"),
    docs="objectives/albert",
)


def layer_rules(k: int, theirs: str) -> list[Rule]:
    """Return the weights of our layer k. theirs: the prefix of its group, with its dot."""
    rules = both({f"layers.{k}.{mine}": theirs + other for mine, other in PARTS.items()})
    for part in ("weight", "bias"):
        three = tuple(f"{theirs}attention.{name}.{part}" for name in ("query", "key", "value"))
        rules.append(Fused(f"layers.{k}.attention.qkv.{part}", three))
    return rules
