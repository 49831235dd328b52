"""ModernBERT's names and config.json (transformers' `modernbert`; Warner et al. 2024)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import (
    WHERE,
    Table,
    WeightNames,
    activation_name,
    activation_of,
    flag,
    number,
    plain,
    real,
    refuse_options,
)  # fmt: skip
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Mlm, Objective
from blankfill.system.reading import field

PRESET: dict[str, Any] = {
    "norm": "pre", "norm_eps": 1e-5, "norm_bias": False, "embedding_norm": True, "first_attention_norm": False,
    "activation": "gelu", "gated": True, "attention_bias": False, "ffn_bias": False,
    "position_scheme": "rotary", "rotary_theta": 160_000.0, "local_rotary_theta": 10_000.0,
    "window": 64, "global_every": 3,
    "head_transform": True, "head_transform_bias": False, "head_bias": True, "init": "truncated_normal",
}  # fmt: skip
SIZES = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_heads": "num_attention_heads",
         "ffn_size": "intermediate_size"}  # fmt: skip
GLOBAL, LOCAL = "full_attention", "sliding_attention"
PARTS = {
    "attention_norm": "attn_norm", "attention.qkv": "attn.Wqkv", "attention.output": "attn.Wo", "ffn_norm": "mlp_norm",
    "ffn.inner": "mlp.Wi", "ffn.output": "mlp.Wo",
}  # fmt: skip


class ModernBertNames(WeightNames):
    """ModernBERT with its head for masked words, or bare."""

    name = "modernbert"
    model_type = "modernbert"
    objective = Mlm

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Sizes from config.json, as transformers writes it today or wrote it in 2024; the head from the names."""
        refuse_options(values, dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), False))
        refuse_options(values, {"classifier_activation": values.get("hidden_activation", "gelu")})
        words = any(name.startswith("head.") for name in names)
        count, every = number(values, "num_hidden_layers"), number(values, "global_attn_every_n_layers", 3)
        if isinstance(kinds := values.get("layer_types"), list):
            every = next((k for k, kind in enumerate(kinds) if k and kind == GLOBAL), max(count, every))
            refuse_options(values, {"layer_types": [LOCAL if k % every else GLOBAL for k in range(count)]})
        thetas, ropes = {}, field(values, "rope_parameters", dict, WHERE, {})
        for kind, old, ours in ((GLOBAL, "global", "rotary_theta"), (LOCAL, "local", "local_rotary_theta")):
            rope = field(ropes, kind, dict, WHERE, {})
            refuse_options(rope, {"rope_type": "default"})
            thetas[ours] = real(rope, "rope_theta", real(values, f"{old}_rope_theta", PRESET[ours]))
        return TransformerConfig(**{
            **PRESET, **thetas,
            "num_layers": count, "position_sizes": (number(values, "max_position_embeddings"),),
            **{ours: number(values, theirs) for ours, theirs in SIZES.items()},
            "activation": activation_of(values, "hidden_activation", "gelu"), "global_every": every,
            "window": number(values, "local_attention", 128) // 2, "norm_eps": real(values, "norm_eps", 1e-5),
            "dropout": real(values, "mlp_dropout", 0.0), "attention_dropout": real(values, "attention_dropout", 0.0),
            "lm_head": words, "head_transform": words, "head_bias": words and flag(values, "decoder_bias", True),
            "tied": flag(values, "tie_word_embeddings", True) or not words,
            "init_std": real(values, "initializer_range", 0.02),
        })  # fmt: skip

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """The values of transformers' `ModernBertConfig`."""
        thetas = {GLOBAL: config.rotary_theta, LOCAL: config.local_rotary_theta or config.rotary_theta}
        return {
            "architectures": ["ModernBertForMaskedLM" if config.lm_head else "ModernBertModel"],
            "model_type": self.model_type,
            **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
            "num_hidden_layers": config.num_layers, "max_position_embeddings": config.position_sizes[0],
            "norm_eps": config.norm_eps, "norm_bias": False, "attention_bias": False, "mlp_bias": False,
            "hidden_activation": activation_name(config.activation),
            "classifier_activation": activation_name(config.activation),
            "classifier_bias": False, "decoder_bias": config.head_bias,
            "layer_types": [LOCAL if config.layer_kind(k) == "local" else GLOBAL for k in range(config.num_layers)],
            "rope_parameters": {k: {"rope_type": "default", "rope_theta": theta} for k, theta in thetas.items()},
            "local_attention": 2 * config.window or 128, "global_attn_every_n_layers": config.global_every,
            "embedding_dropout": config.dropout, "mlp_dropout": config.dropout,
            "attention_dropout": config.attention_dropout, "initializer_range": config.init_std,
            "tie_word_embeddings": config.tied,
        }  # fmt: skip

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """ModernBERT's names; a model without the head has no `model.` before them."""
        base = "model." if config.lm_head else ""
        names = {"token_embeddings": f"{base}embeddings.tok_embeddings", "embedding_norm": f"{base}embeddings.norm",
                 "final_norm": f"{base}final_norm"}  # fmt: skip
        for k in range(config.num_layers):
            names |= {f"layers.{k}.{ours}": f"{base}layers.{k}.{theirs}" for ours, theirs in PARTS.items()}
        del names["layers.0.attention_norm"]
        if config.head_transform:
            names |= {"lm_head.dense": "head.dense", "lm_head.norm": "head.norm"}
        pairs = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}
        pairs |= {"lm_head.bias": "decoder.bias"} if config.head_bias else {}
        pairs |= {} if config.tied else {"lm_head.table": "decoder.weight"}
        aliases = (r"^(?!model\.|head\.|decoder\.)", "model.") if base else (r"^model\.", "")
        copies = {"decoder.weight": f"{base}embeddings.tok_embeddings.weight"} if config.lm_head and config.tied else {}
        return Table(tuple(plain(pairs)), aliases=(aliases,), copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Masked words, 30% of them."""
        return Mlm(config.position_sizes[0], mask_ratio=0.3, position_offset=0)


MODERNBERT = FamilySpec(
    name="modernbert", docs="modernbert",
    source="Warner et al. 2024; AnswerDotAI/ModernBERT", preset=PRESET, weight_names=ModernBertNames(),
    recipes=("modernbert-nano", "modernbert-base", "modernbert-large"),
)  # fmt: skip
