"""The original GLM's names (THUDM/GLM, `GLMModel`; Du et al. 2021) and the config.json of `blankfill.hf`.

transformers has no class for this model (its `glm` is the later GLM-4), so the config.json that is written is of the
type "blankfill-glm", which `import blankfill.hf` registers. The config.json that came with the authors' own uploads
("glm" with `max_sequence_length`) is read as well; the released checkpoints themselves have none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from blankfill.errors import UserError
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import (
    Table,
    WeightNames,
    activation_name,
    activation_of,
    both,
    heads_of,
    layers,
    number,
    plain,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Glm, Objective

PARTS = {
    "attention_norm": "input_layernorm", "attention.qkv": "attention.query_key_value",
    "attention.output": "attention.dense", "ffn_norm": "post_attention_layernorm",
    "ffn.inner": "mlp.dense_h_to_4h", "ffn.output": "mlp.dense_4h_to_h",
}  # fmt: skip
BLOCKS = "transformer.block_position_embeddings.weight"
"""Embeddings of the positions inside a blank, which no other family has."""
PREFIX = r"^(module\.|glm\.|model\.)+"
"""Prefixes of wrappers."""
HEAD_SIZE = 64
"""Width of a head in all released models; their checkpoints do not store it."""


class GlmNames(WeightNames):
    """GLM with two position tables of the same size."""

    name = "glm"
    model_type = "blankfill-glm"
    own_class = "GlmForBlankFilling"
    also_reads = ("glm",)
    added_roles = ("sop", "eop", "gmask", "smask")
    objective = Glm

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from either kind of config.json."""
        if values.get("model_type") == "glm":
            values = from_authors(values)
        rows = number(values, "max_position_embeddings")
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=number(values, "hidden_size"),
            num_layers=number(values, "num_hidden_layers"),
            num_heads=number(values, "num_attention_heads"),
            ffn_size=number(values, "intermediate_size"),
            position_sizes=(rows, rows),
            norm_eps=real(values, "layer_norm_eps", 1e-5),
            activation=activation_of(values, "hidden_act", "gelu_new"),
            dropout=real(values, "hidden_dropout_prob", 0.1),
            attention_dropout=real(values, "attention_probs_dropout_prob", 0.1),
            init_std=real(values, "initializer_range", 0.02),
            scaled_init=True,
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of `blankfill.hf.GlmConfig`."""
        return {
            "architectures": [self.own_class],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "intermediate_size": config.ffn_size,
            "max_position_embeddings": config.position_sizes[0],
            "layer_norm_eps": config.norm_eps,
            "hidden_act": activation_name(config.activation),
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "initializer_range": config.init_std,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return the names of `GLMModel`."""
        rules = plain({
            "token_embeddings.weight": "word_embeddings.weight",
            "positions.0.weight": "transformer.position_embeddings.weight",
            "positions.1.weight": BLOCKS,
        })  # fmt: skip
        rules += both({"final_norm": "transformer.final_layernorm"})
        rules += layers(config.num_layers, "layers.{k}.", "transformer.layers.{k}.", PARTS)
        copies = {"lm_head.weight": "word_embeddings.weight"}
        return Table(tuple(rules), (), ((PREFIX, ""),), copies=copies)

    def values_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any] | None:
        """Return the sizes; see `sizes_from_shapes`."""
        plain_names = {re.sub(PREFIX, "", name): shape for name, shape in shapes.items()}
        if BLOCKS not in plain_names or "word_embeddings.weight" not in plain_names:
            return None
        return sizes_from_shapes(plain_names, heads)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: words, sentences and documents are blanked, in rows as long as the position tables."""
        return Glm(config.position_sizes[0] - 1, document=1.0)

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the ids of the tokens of blanks, and of the ends of a blank and of the text."""
        ids: dict[str, int | list[int] | None] = {
            f"{role}_token_id": roles.get(role) for role in ("mask", "gmask", "smask", "sop", "eop")
        }
        ends = [roles[role] for role in ("eop", "eos") if role in roles]
        return {**ids, "bos_token_id": roles.get("cls"), "eos_token_id": ends}

    def unnamed_roles(self, roles: Mapping[str, int]) -> dict[str, int]:
        """Return the role of [PAD], which ends a text in a GLM with BERT's vocabulary."""
        return {"eos": roles["pad"]} if roles.get("eos") == roles.get("sep") and "pad" in roles else {}


GLM = FamilySpec(
    name="glm",
    source="Du et al. 2021; THUDM/GLM mpu/transformer.py",
    preset={"norm": "pre", "norm_eps": 1e-5, "activation": "gelu_tanh", "scaled_init": True},
    channels=("pos 1", "pos 2"),
    equal_position_tables=True,  # a blank can be as long as the text
    weight_names=GlmNames(),
    default_for=("glm",),
    recipes=("glm-nano", "glm-base", "glm-large"),
    docs="objectives/glm",
)


def from_authors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the authors' config.json under the names used here."""
    if "max_sequence_length" not in values or "num_layers" not in values:
        raise UserError(
            "config.json: model_type is glm without max_sequence_length, which is GLM-4 or a later model; "
            "only the original GLM (Du et al. 2021) is known here"
        )
    refuse_options(values, {"block_position_encoding": True, "relative_encoding": False})
    width = number(values, "hidden_size")
    return {
        "vocab_size": values.get("vocab_size"),
        "hidden_size": width,
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values.get("num_attention_heads"),
        "intermediate_size": 4 * width,
        "max_position_embeddings": number(values, "max_sequence_length") + 1,
        "hidden_dropout_prob": values.get("output_dropout_prob", 0.1),
        "attention_probs_dropout_prob": values.get("attention_dropout_prob", 0.1),
    }


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any]:
    """Return config.json values for a checkpoint without this file. shapes: by name; heads: None: heads of width 64.

    Raises UserError when the number of heads cannot be inferred.
    """
    vocabulary, width = shapes["word_embeddings.weight"]
    count = sum(name.endswith("input_layernorm.weight") for name in shapes)
    inner = next((shape[0] for name, shape in shapes.items() if name.endswith("dense_h_to_4h.weight")), 4 * width)
    return {
        "model_type": GlmNames.model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": count,
        "num_attention_heads": heads_of(width, heads, HEAD_SIZE),
        "intermediate_size": inner,
        "max_position_embeddings": shapes[BLOCKS][0],
    }
