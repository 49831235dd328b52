"""ModernBERT's names and config.json (transformers' `modernbert`; Warner et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    Table,
    WeightNames,
    activation_name,
    activation_of,
    flag,
    number,
    plain,
    real,
    refuse_options,
    rope_theta,
)  # fmt: skip
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Mlm, Objective

PRESET: dict[str, Any] = {
    "norm": "pre", "norm_eps": 1e-5, "norm_bias": False, "embedding_norm": True, "first_attention_norm": False,
    "activation": "gelu", "gated": True, "attention_bias": False, "ffn_bias": False,
    "position_scheme": "rotary", "rotary_theta": 160_000.0, "local_rotary_theta": 10_000.0,
    "window": 64, "global_every": 3, "head_transform": True, "head_transform_bias": False, "head_bias": True,
    "classifier_transform": "lm_head", "classifier_pooling": "mean", "init": "truncated_normal", "scaled_init": True,
}  # fmt: skip
SIZES = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_hidden_layers",
         "num_heads": "num_attention_heads", "ffn_size": "intermediate_size"}  # fmt: skip
REALS = {"norm_eps": ("norm_eps", 1e-5), "dropout": ("mlp_dropout", 0.0), "init_std": ("initializer_range", 0.02),
         "attention_dropout": ("attention_dropout", 0.0)}  # fmt: skip
BIASES = {r"norm$": ("norm_bias",) * 2, r"attention\.": ("attention_bias",) * 2, r"ffn\.": ("ffn_bias", "mlp_bias"),
          r"lm_head\.dense$": ("head_transform_bias", "classifier_bias")}  # fmt: skip
"""For our names of modules: the field of the configuration, and the field of config.json."""
GLOBAL, LOCAL = "full_attention", "sliding_attention"
PARTS = {"attention_norm": "attn_norm", "attention.qkv": "attn.Wqkv", "attention.output": "attn.Wo",
         "ffn_norm": "mlp_norm", "ffn.inner": "mlp.Wi", "ffn.output": "mlp.Wo"}  # fmt: skip


class ModernBertNames(WeightNames):
    """ModernBERT with its head for masked words, or bare."""

    name = model_type = "modernbert"
    objective = Mlm
    token_roles = {**WeightNames.token_roles, "cls_token_id": "cls", "sep_token_id": "sep"}  # noqa: RUF012
    task_heads = TaskHeads("ModernBert", "model.", "head.dense", "lm_head", norm="head.norm", span="classifier")

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, in today's form or that of 2024; the head from the names."""
        words = any(name.startswith("head.") for name in names)
        layer, head = (activation_of(values, f"{of}_activation", "gelu") for of in ("hidden", "classifier"))
        count, every = number(values, "num_hidden_layers"), number(values, "global_attn_every_n_layers", 3)
        if isinstance(kinds := values.get("layer_types"), list):
            every = next((k for k, kind in enumerate(kinds) if k and kind == GLOBAL), max(count, every))
            refuse_options(values, {"layer_types": [LOCAL if k % every else GLOBAL for k in range(count)]})
        window = number(values, "local_attention", 128) // 2
        theta = rope_theta(values, GLOBAL, "global_rope_theta", PRESET["rotary_theta"])
        local_theta = rope_theta(values, LOCAL, "local_rope_theta", PRESET["local_rotary_theta"])
        return TransformerConfig(**{**PRESET, "position_sizes": (number(values, "max_position_embeddings"),),
            **{ours: number(values, theirs) for ours, theirs in SIZES.items()},
            **{ours: real(values, *theirs) for ours, theirs in REALS.items()},
            **{ours: flag(values, theirs, False) for ours, theirs in BIASES.values()},
            "activation": layer, "head_activation": "same" if head == layer else head, "global_every": every,
            "lm_head": words, "head_transform": words, "head_bias": words and flag(values, "decoder_bias", True),
            "tied": flag(values, "tie_word_embeddings", True) or not words, "window": window,
            "rotary_theta": theta, "local_rotary_theta": local_theta,
            "classifier_pooling": values.get("classifier_pooling", "cls"),
        })  # fmt: skip

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """The values of transformers' `ModernBertConfig`."""
        head = config.activation if config.head_activation == "same" else config.head_activation
        thetas = {GLOBAL: config.rotary_theta, LOCAL: config.local_rotary_theta or config.rotary_theta}
        return {
            "architectures": ["ModernBertForMaskedLM" if config.lm_head else "ModernBertModel"],
            "model_type": self.model_type, "classifier_pooling": config.classifier_pooling,
            **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
            **{theirs: getattr(config, ours) for ours, (theirs, _) in REALS.items()},
            **{theirs: getattr(config, ours) for ours, theirs in BIASES.values()},
            "max_position_embeddings": config.position_sizes[0], "embedding_dropout": config.dropout,
            "hidden_activation": activation_name(config.activation), "classifier_activation": activation_name(head),
            "layer_types": [LOCAL if config.layer_kind(k) == "local" else GLOBAL for k in range(config.num_layers)],
            "rope_parameters": {k: {"rope_type": "default", "rope_theta": theta} for k, theta in thetas.items()},
            "local_attention": 2 * config.window or 1, "global_attn_every_n_layers": config.global_every,
            "decoder_bias": config.head_bias, "tie_word_embeddings": config.tied,
        }  # fmt: skip

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """ModernBERT's names; a model without the head has no `model.` before them."""
        base = "model." if config.lm_head else ""
        words, norms = f"{base}embeddings.tok_embeddings", (f"{base}embeddings.norm", f"{base}final_norm")
        names = {"token_embeddings": words, "embedding_norm": norms[0], "final_norm": norms[1]}
        for k in range(config.num_layers):
            names |= {f"layers.{k}.{ours}": f"{base}layers.{k}.{theirs}" for ours, theirs in PARTS.items()}
        del names["layers.0.attention_norm"]
        names |= {"lm_head.dense": "head.dense", "lm_head.norm": "head.norm"} if config.head_transform else {}
        pairs = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}
        for pattern in (pattern for pattern, (name, _) in BIASES.items() if getattr(config, name)):
            pairs |= {f"{ours}.bias": f"{theirs}.bias" for ours, theirs in names.items() if re.search(pattern, ours)}
        pairs |= {"lm_head.bias": "decoder.bias"} if config.head_bias else {}
        pairs |= {} if config.tied else {"lm_head.table": "decoder.weight"}
        aliases = (r"^(?!model\.|head\.|decoder\.)", "model.") if base else (r"^model\.", "")
        copies = {"decoder.weight": f"{words}.weight"} if config.lm_head and config.tied else {}
        return Table(tuple(plain(pairs)), aliases=(aliases,), copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Masked words, 30% of them."""
        return Mlm(config.position_sizes[0], mask_ratio=0.3, position_offset=0)


MODERNBERT = FamilySpec(
    name="modernbert", docs="modernbert", source="Warner et al. 2024; AnswerDotAI/ModernBERT", preset=PRESET,
    weight_names=ModernBertNames(), recipes=("modernbert-nano", "modernbert-base", "modernbert-large"),
)  # fmt: skip
