"""What the checkpoints of ChatGLM-6B and GLM-130B share: keys of config.json, names and order of the weights.

Both write DeepNorm shifted: the first input norm normalises the embeddings, each further one follows the feed-forward
part of the layer before it, and the final norm follows that of the last layer. Their joint matrix of queries, keys and
values has the rows of a head together. Frequencies of rotary positions in a file are computed again by both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from blankfill.families.weight_names import WHERE, ByHead, Rule, Table, both, heads_of, layers, number, plain, real
from blankfill.model.config import TransformerConfig
from blankfill.system.reading import field
from blankfill.types import RotaryRounding

SIZES = {
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_layers",
    "num_heads": "num_attention_heads", "ffn_size": "inner_hidden_size",
}  # fmt: skip
WORDS = "transformer.word_embeddings.weight"
PREFIX_ENCODER = "transformer.prefix_encoder."
"""Beginning of the names of a prefix in ChatGLM-6B's checkpoints of P-tuning v2."""


def read_sizes(values: Mapping[str, Any], alpha: float, rounding: RotaryRounding, channels: int) -> dict[str, Any]:
    """Return the fields of a config.json. alpha, rounding: those of the original code, for a file without the keys
    `residual_scale` and `rotary_rounding`, which are ours. channels: number of position channels."""
    return {
        **{ours: number(values, theirs) for ours, theirs in SIZES.items()},
        "position_sizes": (number(values, "max_sequence_length", 2048),) * channels,
        "norm_eps": real(values, "layernorm_epsilon", 1e-5),
        "residual_scale": real(values, "residual_scale", alpha),
        "rotary_rounding": field(values, "rotary_rounding", str, WHERE, rounding),
        "dropout": 0.0, "attention_dropout": 0.0,
    }  # fmt: skip


def written_sizes(config: TransformerConfig, alpha: float, rounding: RotaryRounding) -> dict[str, Any]:
    """Return the inverse of `read_sizes`."""
    own = {"residual_scale": alpha, "rotary_rounding": rounding}
    return {
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        "max_sequence_length": config.position_sizes[0],
        "layernorm_epsilon": config.norm_eps,
        **{key: getattr(config, key) for key, value in own.items() if getattr(config, key) != value},
    }


def weight_table(config: TransformerConfig, inner: type[Rule], output: str = "") -> Table:
    """Return the name table. inner: the rule of the inner dense layer; output: name of the output embeddings, if files
    have them."""
    base, last = "transformer.layers.{k}.", config.num_layers - 1
    rules = plain({"token_embeddings.weight": WORDS})
    rules += both({"embedding_norm": f"{base.format(k=0)}input_layernorm"})
    rules += layers(config.num_layers, "layers.{k}.", base, {
        "attention.output": "attention.dense", "attention_norm": "post_attention_layernorm",
        "ffn.output": "mlp.dense_4h_to_h",
    })  # fmt: skip
    rules += layers(config.num_layers, "layers.{k}.", base, {"ffn.inner": "mlp.dense_h_to_4h"}, inner)
    for k in range(config.num_layers):
        after = f"{base.format(k=k + 1)}input_layernorm" if k < last else "transformer.final_layernorm"
        rules += both({f"layers.{k}.ffn_norm": after})
        for part in ("weight", "bias"):
            joint = f"{base.format(k=k)}attention.query_key_value.{part}"
            rules.append(ByHead(f"layers.{k}.attention.qkv.{part}", (joint,), config.num_heads))
    if output and not config.tied:
        rules.append(Rule("lm_head.table", (output,)))
    copies = {output: WORDS} if output and config.tied else {}
    ignored = (r"\.rotary_emb\.inv_freq$", r"^transformer\.position_embeddings\.weight$")
    return Table(tuple(rules), ignored, ((r"^module\.", ""), (r"^mixins\.chatglm-final\.", "")), copies=copies)


HEAD_SIZE = 128
"""Width of a head in the released models; SwissArmyTransformer's checkpoints do not store it."""
INNER, OUTER, DENSE = (
    f"transformer.layers.0.{part}.weight" for part in ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense")
)
BY_ROWS = r"word_embeddings\.weight|lm_head\.weight|query_key_value\.(weight|bias)|dense_h_to_4h\.(weight|bias)"
BY_COLUMNS = r"attention\.dense\.weight|dense_4h_to_h\.weight"


def is_sat(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether names and shapes are those of SwissArmyTransformer's GLM-130B or ChatGLM-6B."""
    positions = any("block_position_embeddings" in name for name in shapes)
    return {WORDS, INNER, OUTER, DENSE} <= shapes.keys() and not positions


def is_gated(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the inner layer has two halves, which makes a model GLM-130B."""
    return shapes[INNER][0] == 2 * shapes[OUTER][1]


def cut_of(name: str, gated: bool, blocks: bool) -> tuple[int, int] | None:
    """Return how tensor-parallel parts of a tensor are joined: (dimension, number of pieces in each part); None for one
    that all ranks have whole. blocks: whether queries, keys and values are three blocks."""
    if re.search(rf"({BY_COLUMNS})$", name):
        return 1, 1
    if not re.search(rf"({BY_ROWS})$", name):
        return None
    if "dense_h_to_4h" in name and gated:
        return 0, 2
    return 0, 3 if blocks and "query_key_value" in name else 1


def sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any]:
    """Return config.json values of SwissArmyTransformer's checkpoints, without `model_type`.

    heads: None: heads of width 128. Raises UserError when the number of heads cannot be inferred.
    """
    vocabulary, width = shapes[WORDS]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_layers": sum(bool(re.search(r"layers\.\d+\.input_layernorm\.weight$", name)) for name in shapes),
        "num_attention_heads": heads_of(width, heads, HEAD_SIZE),
        "inner_hidden_size": shapes[OUTER][1],
    }
