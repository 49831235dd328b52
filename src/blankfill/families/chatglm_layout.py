"""What the checkpoints of ChatGLM-6B and GLM-130B share: keys of config.json, names and order of the weights.

Both write DeepNorm shifted: the first input norm normalises the embeddings, each further one follows the feed-forward
part of the layer before it, and the final norm follows that of the last layer. Their joint matrix of queries, keys and
values has the rows of a head together. Frequencies of rotary positions in a file are computed again by both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blankfill.families.weight_names import WHERE, ByHead, Rule, Table, both, layers, number, plain, real
from blankfill.model.config import TransformerConfig
from blankfill.system.reading import field
from blankfill.types import RotaryRounding

SIZES = {
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_layers",
    "num_heads": "num_attention_heads", "ffn_size": "inner_hidden_size",
}  # fmt: skip
WORDS = "transformer.word_embeddings.weight"


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
    return Table(tuple(rules), (r"\.rotary_emb\.inv_freq$",), ((r"^module\.", ""),), copies=copies)
