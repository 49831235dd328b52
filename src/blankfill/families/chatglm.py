"""ChatGLM-6B's names and config.json (THUDM/chatglm-6b `modeling_chatglm.py`; Zeng et al. 2022 for its block).

The original writes DeepNorm shifted: the first input norm normalises the embeddings, each further one follows the
feed-forward part of the layer before it, and the final norm follows that of the last layer. Its joint matrix of
queries, keys and values has the rows of a head together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from blankfill.errors import UserError
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import (
    WHERE,
    ByHead,
    Rule,
    Table,
    WeightNames,
    both,
    flag,
    layers,
    number,
    plain,
    real,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Glm, Objective

ALPHA = math.sqrt(2 * 28)
"""Factor of the residual stream in the original code, whatever the number of layers."""
SIZES = {
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_layers",
    "num_heads": "num_attention_heads", "ffn_size": "inner_hidden_size",
}  # fmt: skip
SUCCESSORS = ("multi_query_attention", "ffn_hidden_size", "padded_vocab_size", "rmsnorm")
"""Keys of the config.json of ChatGLM2-6B and later models, whose `model_type` is the same."""
PRESET: dict[str, Any] = {
    "norm": "post", "norm_eps": 1e-5, "embedding_norm": True, "residual_scale": 0.0, "activation": "gelu_tanh",
    "position_scheme": "rotary_2d", "init": "deepnorm",
}  # fmt: skip


class ChatglmNames(WeightNames):
    """ChatGLM-6B with its language-model head, tied or not."""

    name = "chatglm"
    model_type = "chatglm"
    released_prefix = True
    objective = Glm
    inputs = ("input_ids", "position_ids", "attention_mask")
    token_roles = {  # noqa: RUF012
        "bos_token_id": "sop", "eos_token_id": "eop", "mask_token_id": "mask", "gmask_token_id": "gmask",
    }  # fmt: skip

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json; `residual_scale` and `rotary_rounding` are keys of ours, which the original does
        not have."""
        if later := [key for key in SUCCESSORS if key in values]:
            raise UserError(
                f"{WHERE}: model_type is chatglm with {later[0]}, which is ChatGLM2-6B or a later model; "
                "only ChatGLM-6B is known here"
            )
        two = flag(values, "position_encoding_2d", True)
        changed = {} if two else {"position_scheme": "rotary"}
        return read_sizes(values, PRESET | changed | {
            "residual_scale": real(values, "residual_scale", ALPHA),
            "rotary_rounding": values.get("rotary_rounding", "frequencies"),
            "tied": flag(values, "tie_word_embeddings", True),
        }, channels=2 if two else 1)  # fmt: skip

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of the original's `ChatGLMConfig`, and keys of ours for what its code does not support."""
        own = {"residual_scale": ALPHA, "rotary_rounding": "frequencies"}
        return {
            "architectures": ["ChatGLMForConditionalGeneration"],
            "model_type": self.model_type,
            **written_sizes(config),
            "position_encoding_2d": config.position_scheme == "rotary_2d",
            "use_cache": True,
            "tie_word_embeddings": config.tied,
            **{key: getattr(config, key) for key, value in own.items() if getattr(config, key) != value},
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return the original's names."""
        rules = shifted_rules(config)
        rules += layers(config.num_layers, "layers.{k}.", "transformer.layers.{k}.", {"ffn.inner": "mlp.dense_h_to_4h"})
        words, output = "transformer.word_embeddings.weight", "lm_head.weight"
        if not config.tied:
            rules.append(Rule("lm_head.table", (output,)))
        copies = {output: words} if config.tied else {}
        return Table(tuple(rules), IGNORED, ALIASES, copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: blanks in rows as long as the positions."""
        return Glm(config.position_sizes[0])


IGNORED = (r"\.rotary_emb\.inv_freq$",)
"""The frequencies, which the original computes again too."""
ALIASES = ((r"^module\.", ""),)


def read_sizes(values: Mapping[str, Any], preset: Mapping[str, Any], channels: int) -> TransformerConfig:
    """Return the configuration of a config.json with the original's keys. channels: number of position channels."""
    return TransformerConfig(**{
        **preset,
        **{ours: number(values, theirs) for ours, theirs in SIZES.items()},
        "position_sizes": (number(values, "max_sequence_length", 2048),) * channels,
        "norm_eps": real(values, "layernorm_epsilon", 1e-5),
        "dropout": 0.0, "attention_dropout": 0.0,
    })  # fmt: skip


def written_sizes(config: TransformerConfig) -> dict[str, Any]:
    """Return the inverse of `read_sizes`."""
    return {
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        "max_sequence_length": config.position_sizes[0],
        "layernorm_epsilon": config.norm_eps,
    }


def shifted_rules(config: TransformerConfig) -> list[Rule]:
    """Return the rules of all weights whose names and order ChatGLM-6B and GLM-130B share."""
    base, last = "transformer.layers.{k}.", config.num_layers - 1
    rules = plain({"token_embeddings.weight": "transformer.word_embeddings.weight"})
    rules += both({"embedding_norm": f"{base.format(k=0)}input_layernorm"})
    rules += layers(config.num_layers, "layers.{k}.", base, {
        "attention.output": "attention.dense", "attention_norm": "post_attention_layernorm",
        "ffn.output": "mlp.dense_4h_to_h",
    })  # fmt: skip
    for k in range(config.num_layers):
        after = f"{base.format(k=k + 1)}input_layernorm" if k < last else "transformer.final_layernorm"
        rules += both({f"layers.{k}.ffn_norm": after})
        for part in ("weight", "bias"):
            joint = f"{base.format(k=k)}attention.query_key_value.{part}"
            rules.append(ByHead(f"layers.{k}.attention.qkv.{part}", (joint,), config.num_heads))
    return rules


CHATGLM = FamilySpec(
    name="chatglm",
    source="THUDM/chatglm-6b modeling_chatglm.py; Zeng et al. 2022 (GLM-130B)",
    preset=PRESET,
    channels=("pos 1", "pos 2"),
    equal_position_tables=True,
    weight_names=ChatglmNames(),
    docs="chatglm",
)
