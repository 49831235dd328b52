"""ModernBERT's names and config.json (transformers' `modernbert`; Warner et al. 2024)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.errors import UserError
from blankfill.families import weight_names as form
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import WHERE, Table, WeightNames
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Mlm, Objective
from blankfill.system.reading import field
from blankfill.types import LayerKind

KINDS: dict[LayerKind, str] = {"global": "full_attention", "local": "sliding_attention"}
THETAS: dict[LayerKind, float] = {"global": 160_000.0, "local": 10_000.0}
EVERY, WINDOW, LENGTH = 3, 128, 8192
COUNTS = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_hidden_layers",
          "num_heads": "num_attention_heads", "ffn_size": "intermediate_size"}  # fmt: skip
REALS = {"norm_eps": ("norm_eps", 1e-5), "init_std": ("initializer_range", 0.02), "dropout": ("embedding_dropout", 0.0),
         "attention_dropout": ("attention_dropout", 0.0)}  # fmt: skip
BIASES = {"norm_bias": "norm_bias", "attention_bias": "attention_bias", "ffn_bias": "mlp_bias",
          "head_transform_bias": "classifier_bias"}  # fmt: skip
FIXED: dict[str, Any] = {"position_scheme": "rotary", "first_attention_norm": False, "embedding_norm": True,
                         "gated": True, "init": "truncated_normal", "scaled_init": True}  # fmt: skip


class ModernBertNames(WeightNames):
    """ModernBERT with its word head, or the encoder alone."""

    name = model_type = "modernbert"
    objective = Mlm

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Sizes from config.json, the head from the names."""
        words = any(name.removeprefix("module.").startswith("head.") for name in names)
        activation = form.activation_of(values, "hidden_activation", "gelu")
        head_activation = form.activation_of(values, "classifier_activation", "gelu")
        fields: dict[str, Any] = {ours: form.number(values, theirs) for ours, theirs in COUNTS.items()}
        fields |= {ours: form.real(values, *theirs) for ours, theirs in REALS.items()}
        fields |= {ours: form.flag(values, theirs, False) for ours, theirs in BIASES.items()}
        return TransformerConfig(
            **FIXED,
            **fields,
            position_sizes=(form.number(values, "max_position_embeddings", LENGTH),),
            rotary_theta=_theta(values, "global"),
            local_rotary_theta=_theta(values, "local"),
            window=form.number(values, "local_attention", WINDOW) // 2,
            global_every=_global_every(values),
            activation=activation,
            head_activation="same" if head_activation == activation else head_activation,
            lm_head=words,
            tied=form.flag(values, "tie_word_embeddings", True) or not words,
            head_transform=words,
            head_bias=words and form.flag(values, "decoder_bias", True),
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """The values of transformers' `ModernBertConfig`, and the distance of global layers, as its first files did."""
        thetas = {"global": config.rotary_theta, "local": config.local_rotary_theta or config.rotary_theta}
        head_activation = config.activation if config.head_activation == "same" else config.head_activation
        return {
            "architectures": ["ModernBertForMaskedLM" if config.lm_head else "ModernBertModel"],
            "model_type": self.model_type,
            **{theirs: getattr(config, ours) for ours, theirs in (COUNTS | BIASES).items()},
            **{theirs: getattr(config, ours) for ours, (theirs, _) in REALS.items()},
            "mlp_dropout": config.dropout,
            "max_position_embeddings": config.position_sizes[0],
            "rope_parameters": {KINDS[k]: {"rope_type": "default", "rope_theta": thetas[k]} for k in KINDS},
            "local_attention": 2 * config.window or 1,
            "layer_types": [KINDS[config.layer_kind(k)] for k in range(config.num_layers)],
            "global_attn_every_n_layers": config.global_every,
            "hidden_activation": form.activation_name(config.activation),
            "classifier_activation": form.activation_name(head_activation),
            "decoder_bias": config.head_bias,
            "tie_word_embeddings": config.tied,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """ModernBERT's names; the encoder alone has no `model.` before them."""
        base = "model." if config.lm_head else ""
        norms = {"embedding_norm": f"{base}embeddings.norm", "final_norm": f"{base}final_norm"}
        attention: dict[str, str] = {}
        ffn: dict[str, str] = {}
        for k in range(config.num_layers):
            ours, theirs = f"layers.{k}.", f"{base}layers.{k}."
            norms |= {f"{ours}attention_norm": f"{theirs}attn_norm"} if k else {}
            norms[f"{ours}ffn_norm"] = f"{theirs}mlp_norm"
            attention |= {f"{ours}attention.qkv": f"{theirs}attn.Wqkv", f"{ours}attention.output": f"{theirs}attn.Wo"}
            ffn |= {f"{ours}ffn.inner": f"{theirs}mlp.Wi", f"{ours}ffn.output": f"{theirs}mlp.Wo"}
        norms |= {"lm_head.norm": "head.norm"} if config.head_transform else {}
        head = {"lm_head.dense": "head.dense"} if config.head_transform else {}
        tensors = {"token_embeddings.weight": f"{base}embeddings.tok_embeddings.weight"}
        for modules, bias in ((norms, config.norm_bias), (attention, config.attention_bias), (ffn, config.ffn_bias),
                              (head, config.head_transform_bias)):  # fmt: skip
            for part in ("weight", "bias") if bias else ("weight",):
                tensors |= {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items()}
        tensors |= {"lm_head.bias": "decoder.bias"} if config.head_bias else {}
        tensors |= {} if config.tied else {"lm_head.table": "decoder.weight"}
        prefix = (r"^(?!model\.|head\.|decoder\.)", base) if base else (r"^model\.", "")
        copies = {"decoder.weight": tensors["token_embeddings.weight"]} if config.tied and config.lm_head else {}
        return Table(tuple(form.plain(tensors)), (), ((r"^module\.", ""), prefix), copies=copies)

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Those of all families, and the same under names of its own."""
        return {**super().token_ids(roles), "cls_token_id": roles.get("cls"), "sep_token_id": roles.get("sep")}

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Masked words, three of ten, over all positions, numbered from 0."""
        return Mlm(config.position_sizes[0], position_offset=0, mask_ratio=0.3)


def _theta(values: Mapping[str, Any], kind: LayerKind) -> float:
    """The base of the rotary frequencies of a kind of layers, in either of the forms that files have."""
    both = field(values, "rope_parameters", dict, WHERE, {})
    parameters = field(both, KINDS[kind], dict, f"{WHERE}: rope_parameters", {})
    form.refuse_options(parameters, {"rope_type": "default", "partial_rotary_factor": 1.0})
    return form.real({**values, **parameters}, "rope_theta" if parameters else f"{kind}_rope_theta", THETAS[kind])


def _global_every(values: Mapping[str, Any]) -> int:
    """The distance between two layers that see the whole row; UserError where it is not always the same."""
    count, stated = form.number(values, "num_hidden_layers"), form.number(values, "global_attn_every_n_layers", EVERY)
    types = values.get("layer_types")
    for every in (stated, *range(1, count + 1)):
        if types is None or types == [KINDS["local" if k % every else "global"] for k in range(count)]:
            return every
    raise UserError(f"{WHERE}: layer_types is not one global layer and then the same number of local ones, repeated")


MODERNBERT = FamilySpec(
    name="modernbert",
    source="Warner et al. 2024; AnswerDotAI/ModernBERT",
    preset={
        **FIXED, "norm_bias": False, "attention_bias": False, "ffn_bias": False, "head_transform_bias": False,
        "activation": "gelu", "head_transform": True, "head_bias": True, "window": WINDOW // 2, "global_every": EVERY,
        "rotary_theta": THETAS["global"], "local_rotary_theta": THETAS["local"],
    },
    weight_names=ModernBertNames(),
    recipes=("modernbert-nano", "modernbert-base", "modernbert-large"),
    docs="modernbert",
)  # fmt: skip
