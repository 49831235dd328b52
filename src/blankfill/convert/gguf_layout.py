"""Which architecture of llama.cpp computes what a model of ours computes, with the names of its tensors and settings.

Three architectures are enough for the families here: `gpt2`; `bert` for all encoders with norms after the sums and
learned positions (BERT, RoBERTa, DistilBERT, SpanBERT, ERNIE, UniLM, ELECTRA's discriminator); `modern-bert`. The two
encoders give vectors of texts: llama.cpp has no language-model head for them. Names are those of the `gguf` package
(MODEL_TENSOR_NAMES and Keys in its constants.py). Not here: the tokenizer (`gguf_tokenizer`), the file (`gguf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective

Architecture = Literal["gpt2", "bert", "modern-bert"]
Pooling = Literal["mean", "cls"]
POOLING: dict[Pooling, int] = {"mean": 1, "cls": 2}
"""llama.cpp's numbers of the ways to make a vector of a text."""
SHARED_NEEDS: dict[str, Any] = {
    "norm_kind": "layer", "encoder_layers": 0, "shared": "none", "relative_buckets": 0, "scale_scores": True,
}  # fmt: skip
LEARNED_NEEDS: dict[str, Any] = {
    "norm_bias": True, "gated": False, "attention_bias": True, "ffn_bias": True, "position_scheme": "learned",
    "window": 0,
}  # fmt: skip
NEEDS: dict[Architecture, dict[str, Any]] = {
    "gpt2": {
        **SHARED_NEEDS, **LEARNED_NEEDS, "norm": "pre", "first_attention_norm": True, "embedding_norm": False,
        "lm_head": True, "head_transform": False, "head_bias": False, "scale_logits": False,
    },
    "bert": {**SHARED_NEEDS, **LEARNED_NEEDS, "norm": "post", "embedding_norm": True},
    "modern-bert": {
        **SHARED_NEEDS, "norm": "pre", "norm_bias": False, "first_attention_norm": False, "embedding_norm": True,
        "gated": True, "attention_bias": False, "ffn_bias": False, "position_scheme": "rotary",
        "rotary_rounding": "none",
    },
}  # fmt: skip
"""Settings that each architecture has built in."""
ACTIVATIONS = ("gelu", "gelu_tanh")
LAYER: dict[Architecture, dict[str, str]] = {
    "gpt2": {
        "attention_norm": "attn_norm", "attention.qkv": "attn_qkv", "attention.output": "attn_output",
        "ffn_norm": "ffn_norm", "ffn.inner": "ffn_up", "ffn.output": "ffn_down",
    },
    "bert": {
        "attention.output": "attn_output", "attention_norm": "attn_output_norm", "ffn.inner": "ffn_up",
        "ffn.output": "ffn_down", "ffn_norm": "layer_output_norm",
    },
    "modern-bert": {
        "attention_norm": "attn_norm", "attention.qkv": "attn_qkv", "attention.output": "attn_output",
        "ffn_norm": "ffn_norm", "ffn.inner": "ffn_up", "ffn.output": "ffn_down",
    },
}  # fmt: skip
"""Names of the parts of a layer: ours, and those behind `blk.N.`."""
OUTSIDE: dict[Architecture, dict[str, str]] = {
    "gpt2": {"token_embeddings": "token_embd", "final_norm": "output_norm"},
    "bert": {"token_embeddings": "token_embd", "embedding_norm": "token_embd_norm"},
    "modern-bert": {
        "token_embeddings": "token_embd", "embedding_norm": "token_embd_norm", "final_norm": "output_norm",
    },
}  # fmt: skip
EMBEDDINGS = ("token_embd.weight", "output.weight")
"""Tables of words."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file. name: there. source: the weight of ours that holds it. span: its first row there and the one
    behind its last; None for all rows. exact: whether it stays fp32 in every type, as in llama.cpp's own converter."""

    name: str
    source: str
    span: tuple[int, int] | None = None
    exact: bool = False

    @property
    def rows(self) -> slice:
        """Its rows in the weight of ours."""
        return slice(None) if self.span is None else slice(*self.span)


@dataclass(frozen=True)
class GgufLayout:
    """A model in an architecture of llama.cpp. settings: by their keys in the file. left_out: parts of ours that the
    architecture does not have."""

    architecture: Architecture
    tensors: tuple[GgufTensor, ...]
    settings: Mapping[str, Any]
    context: int
    left_out: tuple[str, ...] = ()


def layout_of(
    config: TransformerConfig, objective: Objective, shapes: Mapping[str, tuple[int, ...]], where: object,
    pooling: Pooling = "mean",
) -> GgufLayout:  # fmt: skip
    """Return the layout of a model.

    shapes: of its weights, by name. where: the model, for sentences. pooling: how an encoder's vectors of a text are
    made.

    Raises:
        UserError: llama.cpp has no architecture that computes the same.
    """
    architecture = architecture_of(config, objective, where)
    offset = objective.position_offset if config.position_scheme == "learned" else 0
    context = config.position_sizes[0] - objective.position_offset
    tensors = _tensors(architecture, config, objective, shapes, offset, context, where)
    written = {tensor.source for tensor in tensors}
    absent = {name.partition(".")[0].replace("_", " ") for name in shapes if name not in written}
    settings = _settings(architecture, config, context)
    if architecture != "gpt2":
        settings |= {f"{architecture}.attention.causal": False, f"{architecture}.pooling_type": POOLING[pooling]}
        types = next((t for t in tensors if t.name == "token_types.weight"), None)
        rows = 1 if types is None or types.span is not None else config.position_sizes[1]
        settings["tokenizer.ggml.token_type_count"] = rows
    return GgufLayout(architecture, tensors, settings, context, tuple(sorted(absent)))


def architecture_of(config: TransformerConfig, objective: Objective, where: object) -> Architecture:
    """Return the architecture that computes the same as a model; UserError says what none of them has."""
    if not (objective.causal or objective.masked) or objective.two_sided:
        raise UserError(
            f"{where} cannot be written as GGUF: llama.cpp has no architecture for models of the objective "
            f"{objective.name}; gpt2 models and encoders (BERT, RoBERTa, ModernBERT and their kin) can be written"
        )
    architecture: Architecture = "gpt2" if objective.causal else "bert" if config.norm == "post" else "modern-bert"
    lacking = {name: getattr(config, name) for name, value in NEEDS[architecture].items()
               if getattr(config, name) != value}  # fmt: skip
    if config.alpha != 1:
        lacking["residual_scale"] = config.residual_scale
    if config.word_size != config.hidden_size:
        lacking["embedding_size"] = config.embedding_size
    if config.kv_heads != config.num_heads:
        lacking["num_kv_heads"] = config.num_kv_heads
    if config.attention_width != config.hidden_size:
        lacking["head_size"] = config.head_size
    if config.activation not in ACTIVATIONS:
        lacking["activation"] = config.activation
    if len(config.position_sizes) > (2 if architecture == "bert" else 1):
        lacking["position_sizes"] = config.position_sizes
    if lacking:
        fields = ", ".join(f"model.{name} = {value}" for name, value in lacking.items())
        raise UserError(f"{where} cannot be written as GGUF: llama.cpp's {architecture} has no {fields}")
    return architecture


def _tensors(
    architecture: Architecture, config: TransformerConfig, objective: Objective,
    shapes: Mapping[str, tuple[int, ...]], offset: int, context: int, where: object,
) -> tuple[GgufTensor, ...]:  # fmt: skip
    made: list[GgufTensor] = []

    def add(theirs: str, ours: str, span: tuple[int, int] | None = None, exact: bool = False) -> None:
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in shapes:
                fp32 = exact or part == "bias" or "norm" in theirs
                made.append(GgufTensor(f"{theirs}.{part}", f"{ours}.{part}", span, fp32))

    for ours, theirs in OUTSIDE[architecture].items():
        add(theirs, ours)
    if config.position_scheme == "learned":
        add("position_embd", "positions.0", (offset, offset + context), exact=True)
    if architecture == "bert" and len(config.position_sizes) > 1:
        add("token_types", "positions.1", _type_rows(objective, context, where), exact=True)
    for k in range(config.num_layers):
        for ours, theirs in LAYER[architecture].items():
            add(f"blk.{k}.{theirs}", f"layers.{k}.{ours}")
        if architecture == "bert":  # older versions of llama.cpp read these three apart
            for place, theirs in enumerate(("attn_q", "attn_k", "attn_v")):
                span = (place * config.hidden_size, (place + 1) * config.hidden_size)
                add(f"blk.{k}.{theirs}", f"layers.{k}.attention.qkv", span)
    if architecture == "gpt2" and not config.tied:
        made.append(GgufTensor("output.weight", "lm_head.table"))
    return tuple(made)


def _type_rows(objective: Objective, context: int, where: object) -> tuple[int, int] | None:
    """Return the rows of the table of token types to write: all, or the row of a text that is read alone, since
    llama.cpp adds row 0 to every token."""
    kinds = np.unique(objective.row_positions(min(context, 16))[1:2])
    if len(kinds) > 1:
        raise UserError(
            f"{where} cannot be written as GGUF: it reads a text with several token types, and llama.cpp with one"
        )
    kind = int(kinds[0]) if len(kinds) else 0
    return (kind, kind + 1) if kind else None


def _settings(architecture: Architecture, config: TransformerConfig, context: int) -> dict[str, Any]:
    """Return the sizes by key."""
    values: dict[str, Any] = {
        "block_count": config.num_layers, "context_length": context, "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size, "attention.head_count": config.num_heads,
        "attention.layer_norm_epsilon": float(config.norm_eps),
    }  # fmt: skip
    if architecture == "modern-bert":
        values |= {
            "rope.freq_base": float(config.rotary_theta), "rope.scaling.type": "none", "vocab_size": config.vocab_size,
        }  # fmt: skip
        if config.window:
            values |= {
                "attention.sliding_window": 2 * config.window,
                "attention.sliding_window_pattern": config.global_every,
                "rope.freq_base_swa": float(config.local_rotary_theta or config.rotary_theta),
            }
    return {f"{architecture}.{name}": value for name, value in values.items()}
