"""BART's names and config.json (transformers' `bart`; Lewis et al. 2020).

Its positions are numbered from 2, whatever the padding's id; for a run with another first position the rows are
shifted. transformers adds a bias to the scores that training does not change: it must be zero here, and is written as
zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    Fused,
    Rule,
    Shifted,
    Table,
    WeightNames,
    activation_name,
    activation_of,
    both,
    number,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Bart, Objective

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 2
"""The row of the first position."""
BIAS = "final_logits_bias"
SIDES = {"decoder_layers": "encoder_layers", "decoder_ffn_dim": "encoder_ffn_dim",
         "decoder_attention_heads": "encoder_attention_heads"}  # fmt: skip
PLAIN_OPTIONS = {
    "is_encoder_decoder": True, "is_decoder": False, "tie_word_embeddings": True, "scale_embedding": False,
    "normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False, "add_bias_logits": False,
    "static_position_embeddings": False, "extra_pos_embeddings": 2,
}  # fmt: skip


class WithoutBias(Rule):
    """The token embeddings beside a bias for each token, which must be zero."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """The table; UserError when a bias is not zero."""
        if any(bool((bias != 0).any()) for bias in theirs[1:]):
            raise UserError(
                f"{BIAS} is not zero, and this model scores words without a bias; this checkpoint cannot be imported"
            )
        return theirs[0]

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """The table and zeros."""
        return [ours, ours.new_zeros(1, len(ours))]


class BartNames(WeightNames):
    """BART with or without its LM head, which is the same here, since the head has only the token embeddings as
    weights."""

    name = "bart"
    model_type = "bart"
    objective = Bart
    task_heads = TaskHeads(
        "Bart", "model.", "classification_head.dense", kinds=("text", "span"), bare="model.",
        text=("classification_head.dense", "classification_head.out_proj"), left_out=(BIAS,),
    )  # fmt: skip

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json."""
        refuse_options(values, PLAIN_OPTIONS)
        refuse_options(values, {other: values.get(key) for key, other in SIDES.items() if key != "decoder_layers"})
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=number(values, "d_model"),
            num_layers=number(values, "decoder_layers"),
            encoder_layers=number(values, "encoder_layers"),
            num_heads=number(values, "decoder_attention_heads"),
            ffn_size=number(values, "decoder_ffn_dim"),
            position_sizes=(number(values, "max_position_embeddings") + FIRST,),
            norm="post",
            norm_eps=1e-5,
            embedding_norm=True,
            activation=activation_of(values, "activation_function", "gelu"),
            dropout=real(values, "dropout", 0.1),
            attention_dropout=real(values, "attention_dropout", 0.0),
            init_std=real(values, "init_std", 0.02),
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `BartConfig`. shift: number of rows by which the tables are longer
        there."""
        sizes = {"layers": config.num_layers, "ffn_dim": config.ffn_size, "attention_heads": config.num_heads}
        both_sides = {f"{side}_{name}": size for name, size in sizes.items() for side in ("encoder", "decoder")}
        return {
            "architectures": ["BartForConditionalGeneration"],
            "model_type": self.model_type,
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            **both_sides,
            "encoder_layers": config.encoder_layers,
            "max_position_embeddings": config.position_sizes[0] + shift - FIRST,
            "activation_function": activation_name(config.activation),
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "activation_dropout": 0.0,
            "init_std": config.init_std,
            "scale_embedding": False,
            "tie_word_embeddings": True,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return BART's names; the model without the head has no `model.` before them."""
        rules: list[Rule] = [WithoutBias("token_embeddings.weight", ("model.shared.weight", BIAS))]
        for ours, theirs, count in (("", "decoder", config.num_layers), ("encoder.", "encoder", config.encoder_layers)):
            base = f"model.{theirs}."
            rules.append(Shifted(f"{ours}positions.0.weight", (f"{base}embed_positions.weight",), shift))
            rules += both({f"{ours}embedding_norm": f"{base}layernorm_embedding"})
            for k in range(count):
                rules += _layer_rules(f"{ours}layers.{k}.", f"{base}layers.{k}.", theirs == "decoder")
        copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
        prefixes = ((r"^module\.", ""), (r"^(?!model\.|lm_head\.|final_logits_bias)", "model."))
        return Table(
            tuple(rules), (), prefixes, optional=frozenset({BIAS}), copies=dict.fromkeys(copies, "model.shared.weight")
        )

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Rows over all positions that text can have."""
        return Bart(config.position_sizes[0] - FIRST, position_offset=FIRST)

    def shift(self, objective: Objective, pad: int) -> int:
        """Return the shift: their first position is 2, ours is the objective's offset."""
        return FIRST - objective.position_offset

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the tokens around a text; the decoder reads the end token first."""
        end = roles.get("sep")
        return {
            "bos_token_id": roles.get("cls"), "eos_token_id": end, "decoder_start_token_id": end,
            "forced_eos_token_id": end,
        }  # fmt: skip


BART = FamilySpec(
    name="bart",
    source="Lewis et al. 2020; fairseq bart",
    preset={"norm": "post", "norm_eps": 1e-5, "embedding_norm": True, "activation": "gelu"},
    encoder_decoder=True,
    weight_names=BartNames(),
    default_for=("bart",),
    recipes=("bart-nano", "bart-base", "bart-large"),
    docs="objectives/bart",
)


def _layer_rules(ours: str, theirs: str, crossed: bool) -> list[Rule]:
    attention, cross = f"{theirs}self_attn.", f"{theirs}encoder_attn."
    pairs = {
        "attention.output": "self_attn.out_proj", "attention_norm": "self_attn_layer_norm", "ffn.inner": "fc1",
        "ffn.output": "fc2", "ffn_norm": "final_layer_norm",
    }  # fmt: skip
    if crossed:
        pairs |= {
            "cross.query": "encoder_attn.q_proj", "cross.output": "encoder_attn.out_proj",
            "cross_norm": "encoder_attn_layer_norm",
        }  # fmt: skip
    rules = both({f"{ours}{mine}": f"{theirs}{other}" for mine, other in pairs.items()})
    for part in ("weight", "bias"):
        rules.append(Fused(f"{ours}attention.qkv.{part}", tuple(f"{attention}{name}_proj.{part}" for name in "qkv")))
        if crossed:
            rules.append(Fused(f"{ours}cross.key_value.{part}", tuple(f"{cross}{name}_proj.{part}" for name in "kv")))
    return rules
