"""DistilBERT's names and config.json (transformers' `distilbert`; Sanh et al. 2019).

BERT's encoder without token types and pooler. Its positions are numbered from 0, and its norms always have eps 1e-12.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.bert import OLD_NAMES
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    Fused,
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
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Mlm, Objective


class DistilbertNames(WeightNames):
    """DistilBERT with its language-model head, or bare."""

    name = "distilbert"
    model_type = "distilbert"
    objective = Mlm
    task_heads = TaskHeads("DistilBert", "distilbert.", "pre_classifier", "relu")
    text_heads_as = "bert"

    def trained_as(self, objective: Objective) -> bool:
        """Return whether the objective masks words in single texts, with positions from 0."""
        return super().trained_as(objective) and objective.position_offset == 0

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, the head from the names. Files hold sinusoidal positions like learned ones."""
        words = any(name.removeprefix("module.").startswith("vocab_") for name in names)
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=number(values, "dim"),
            num_layers=number(values, "n_layers"),
            num_heads=number(values, "n_heads"),
            ffn_size=number(values, "hidden_dim"),
            position_sizes=(number(values, "max_position_embeddings"),),
            norm="post",
            norm_eps=1e-12,
            embedding_norm=True,
            activation=activation_of(values, "activation", "gelu"),
            dropout=real(values, "dropout", 0.1),
            attention_dropout=real(values, "attention_dropout", 0.1),
            init_std=real(values, "initializer_range", 0.02),
            lm_head=words,
            head_transform=words,
            head_bias=words,
            tied=flag(values, "tie_word_embeddings", True) or not words,
            classifier_transform="relu",
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `DistilBertConfig`."""
        return {
            "architectures": ["DistilBertForMaskedLM" if config.lm_head else "DistilBertModel"],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "dim": config.hidden_size,
            "n_layers": config.num_layers,
            "n_heads": config.num_heads,
            "hidden_dim": config.ffn_size,
            "max_position_embeddings": config.position_sizes[0],
            "activation": activation_name(config.activation),
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tied,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return DistilBERT's names; a model without the language-model head has no `distilbert.` before them."""
        base = "distilbert." if config.lm_head else ""
        layer = base + "transformer.layer.{k}."
        rules = plain({
            "token_embeddings.weight": f"{base}embeddings.word_embeddings.weight",
            "positions.0.weight": f"{base}embeddings.position_embeddings.weight",
        })  # fmt: skip
        rules += both({"embedding_norm": f"{base}embeddings.LayerNorm"})
        rules += layers(config.num_layers, "layers.{k}.", layer, {
            "attention.output": "attention.out_lin", "attention_norm": "sa_layer_norm",
            "ffn.inner": "ffn.lin1", "ffn.output": "ffn.lin2", "ffn_norm": "output_layer_norm",
        })  # fmt: skip
        for k in range(config.num_layers):
            for part in ("weight", "bias"):
                three = tuple(f"{layer.format(k=k)}attention.{name}_lin.{part}" for name in "qkv")
                rules.append(Fused(f"layers.{k}.attention.qkv.{part}", three))
        if config.head_transform:
            rules += both({"lm_head.dense": "vocab_transform", "lm_head.norm": "vocab_layer_norm"})
            rules.append(Rule("lm_head.bias", ("vocab_projector.bias",)))  # the projector's own, tied or not
        if config.head_transform and not config.tied:
            rules.append(Rule("lm_head.table", ("vocab_projector.weight",)))
        copies = {"vocab_projector.weight": f"{base}embeddings.word_embeddings.weight"}
        prefix = (r"^(?!distilbert\.|vocab_)", "distilbert.") if base else (r"^distilbert\.", "")
        tied = copies if config.tied and config.lm_head else {}
        return Table(tuple(rules), (r"embeddings\.position_ids$",), (*OLD_NAMES, prefix), copies=tied)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: masked words over all positions, numbered from 0."""
        return Mlm(config.position_sizes[0], across_documents=False, position_offset=0)


DISTILBERT = FamilySpec(
    name="distilbert",
    source="Sanh et al. 2019",
    preset={
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
        "classifier_transform": "relu",
    },
    weight_names=DistilbertNames(),
    recipes=("distilbert-nano", "distilbert-base"),
    docs="objectives/distilbert",
)
