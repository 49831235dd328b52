"""T5's names and config.json (transformers' `t5`; Raffel et al. 2020, and version 1.1).

Version 1.0 divides hidden states by √D and scores them with the token embeddings; version 1.1 has separate output
embeddings and does not divide. Older files distinguish the two by `tie_word_embeddings`, newer ones by
`scale_decoder_outputs`; output embeddings that differ from the token embeddings are separate, whatever these settings
say (`checkpoint.hf_loading`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    WHERE,
    Fused,
    Rule,
    Table,
    WeightNames,
    activation_name,
    activation_of,
    flag,
    number,
    plain,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import T5, Objective
from blankfill.system.reading import field

LENGTH = 512
"""Row length of the released models in tokens; it is no limit, since positions are distances."""


class T5Names(WeightNames):
    """T5 with its LM head; T5Model, which has none, if the head is tied."""

    name = "t5"
    model_type = "t5"
    objective = T5
    task_heads = TaskHeads(
        "T5", "transformer.", "classification_head.dense", kinds=("text", "token", "span"),
        text=("classification_head.dense", "classification_head.out_proj"), prefixes={"span": ""},
        encoder_only=("token",), left_out=("lm_head.",),
    )  # fmt: skip

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json; the names also show whether there are separate output embeddings."""
        refuse_options(values, {"is_encoder_decoder": True, "is_decoder": False})
        gate, _, activation = field(values, "feed_forward_proj", str, WHERE, "relu").rpartition("-")
        if gate == "gated" and activation == "gelu":
            activation = "gelu_new"  # what transformers takes it for
        said = flag(values, "tie_word_embeddings", True)
        scaled = flag(values, "scale_decoder_outputs", said)
        layers = number(values, "num_layers")
        width, heads, head_size = number(values, "d_model"), number(values, "num_heads"), number(values, "d_kv")
        dropout = real(values, "dropout_rate", 0.1)
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=width,
            num_layers=number(values, "num_decoder_layers") if values.get("num_decoder_layers") else layers,
            encoder_layers=layers,
            num_heads=heads,
            head_size=0 if heads * head_size == width else head_size,
            ffn_size=number(values, "d_ff"),
            position_sizes=(number(values, "n_positions", LENGTH),),
            position_scheme="none",
            relative_buckets=number(values, "relative_attention_num_buckets", 32),
            relative_distance=number(values, "relative_attention_max_distance", 128),
            norm="pre",
            norm_kind="rms",
            norm_eps=real(values, "layer_norm_epsilon", 1e-6),
            activation=activation_of({"feed_forward_proj": activation}, "feed_forward_proj", "relu"),
            gated=gate == "gated",
            attention_bias=False,
            ffn_bias=False,
            scale_scores=False,
            dropout=dropout,
            attention_dropout=dropout,
            more_dropout=True,
            tied=(said and scaled) or not any(name.endswith("lm_head.weight") for name in names),
            scale_logits=scaled,
            init="t5",
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `T5Config`, for its older and newer versions."""
        activation = activation_name(config.activation)
        if config.gated:  # where "gelu" is the one with tanh
            activation = f"gated-{'gelu' if activation == 'gelu_new' else activation}"
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": self.model_type,
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "d_kv": config.head_width,
            "d_ff": config.ffn_size,
            "num_layers": config.encoder_layers,
            "num_decoder_layers": config.num_layers,
            "num_heads": config.num_heads,
            "n_positions": config.position_sizes[0],
            "relative_attention_num_buckets": config.relative_buckets,
            "relative_attention_max_distance": config.relative_distance,
            "feed_forward_proj": activation,
            "dropout_rate": config.dropout,
            "layer_norm_epsilon": config.norm_eps,
            "initializer_factor": 1.0,
            "tie_word_embeddings": config.tied,
            "scale_decoder_outputs": config.scale_logits,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return T5's names: a block's parts are numbered, attention first."""
        rules = plain({
            "token_embeddings.weight": "shared.weight",
            "final_norm.weight": "decoder.final_layer_norm.weight",
            "encoder.final_norm.weight": "encoder.final_layer_norm.weight",
        })  # fmt: skip
        for ours, theirs, count in (("", "decoder", config.num_layers), ("encoder.", "encoder", config.encoder_layers)):
            bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            rules.append(Rule(f"{ours}position_bias.weight", (bias,)))
            for k in range(count):
                rules += _layer_rules(f"{ours}layers.{k}.", f"{theirs}.block.{k}.layer.", config, theirs == "decoder")
        if not config.tied:
            rules.append(Rule("lm_head.table", ("lm_head.weight",)))
        copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *(["lm_head.weight"] * config.tied)]
        ignored = (r"EncDecAttention\.relative_attention_bias\.weight$",)
        return Table(
            tuple(rules), ignored, ((r"^(module|transformer)\.", ""),), copies=dict.fromkeys(copies, "shared.weight")
        )

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: spans, in rows of the released models' length."""
        return T5(config.position_sizes[0])

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the id of the end token; the decoder reads the padding token first."""
        return {"eos_token_id": roles.get("eos"), "decoder_start_token_id": roles.get("pad")}


COMMON: dict[str, Any] = {
    "norm": "pre",
    "norm_kind": "rms",
    "norm_eps": 1e-6,
    "position_scheme": "none",
    "relative_buckets": 32,
    "attention_bias": False,
    "ffn_bias": False,
    "scale_scores": False,
    "more_dropout": True,
    "init": "t5",
}
"""The part of the preset that both versions of T5 share."""

T5_SPEC = FamilySpec(
    name="t5",
    source="Raffel et al. 2020; google-research/text-to-text-transfer-transformer with tensorflow/mesh",
    preset={**COMMON, "activation": "relu", "scale_logits": True},
    encoder_decoder=True,
    weight_names=T5Names(),
    default_for=("t5",),
    recipes=("t5-nano", "t5-small", "t5-base", "t5-large"),
    docs="objectives/t5",
)

T5_V1_1_SPEC = FamilySpec(
    name="t5-v1.1",
    source="Shazeer 2020; google-research/text-to-text-transfer-transformer, t5.1.1",
    preset={**COMMON, "activation": "gelu_tanh", "gated": True, "tied": False},
    encoder_decoder=True,
    weight_names=T5_SPEC.weight_names,
    recipes=("t5-v1.1-small", "t5-v1.1-base", "t5-v1.1-large"),
    docs="objectives/t5",
)


def _layer_rules(ours: str, theirs: str, config: TransformerConfig, crossed: bool) -> list[Rule]:
    attention, last = f"{theirs}0.SelfAttention.", f"{theirs}{2 if crossed else 1}."
    inner = ("wi_0", "wi_1") if config.gated else ("wi",)
    rules: list[Rule] = [
        Fused(f"{ours}attention.qkv.weight", tuple(f"{attention}{part}.weight" for part in "qkv")),
        Rule(f"{ours}attention.output.weight", (f"{attention}o.weight",)),
        Rule(f"{ours}attention_norm.weight", (f"{theirs}0.layer_norm.weight",)),
        Fused(f"{ours}ffn.inner.weight", tuple(f"{last}DenseReluDense.{part}.weight" for part in inner)),
        Rule(f"{ours}ffn.output.weight", (f"{last}DenseReluDense.wo.weight",)),
        Rule(f"{ours}ffn_norm.weight", (f"{last}layer_norm.weight",)),
    ]
    if crossed:
        cross = f"{theirs}1.EncDecAttention."
        rules += [
            Rule(f"{ours}cross.query.weight", (f"{cross}q.weight",)),
            Fused(f"{ours}cross.key_value.weight", (f"{cross}k.weight", f"{cross}v.weight")),
            Rule(f"{ours}cross.output.weight", (f"{cross}o.weight",)),
            Rule(f"{ours}cross_norm.weight", (f"{theirs}1.layer_norm.weight",)),
        ]
    return rules
