"""Families: published architectures as presets of `TransformerConfig`.

A family fixes what its paper fixes (norms, activation, heads, initialisation); a recipe gives sizes and dropout. The
position tables come from the objective and the vocabulary from the tokenizer. Sources: google-research/bert and
google-research/albert modeling.py, fairseq roberta, facebookresearch/SpanBERT, PaddlePaddle/ERNIE,
openai/gpt-2 model.py, THUDM/GLM mpu/transformer.py, google-research/text-to-text-transfer-transformer with
tensorflow/mesh, fairseq bart (see the docs page on recipes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from blankfill.model.config import TransformerConfig
from blankfill.system.bounds import Bound, at_least, below, out_of_bounds

BOTH_SIDES, BEFORE = (-1, 1, -2, 2), (-1, -2, -3, -4)
"""Neighbours that the first heads begin with, for models that read both ways and for those that read one."""

Family = Literal[
    "bert", "distilbert", "roberta", "albert", "spanbert", "ernie", "unilm2", "gpt2", "glm", "xlnet", "t5", "t5-v1.1",
    "bart",
]  # fmt: skip

TWO_STACKS: tuple[Family, ...] = ("t5", "t5-v1.1", "bart")
"""Families with an encoder and a decoder."""

T5: dict[str, Any] = {
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
"""What both versions of T5 have in common."""

BERT: dict[str, Any] = {
    "norm": "post",
    "norm_eps": 1e-12,
    "embedding_norm": True,
    "activation": "gelu_tanh",
    "head_transform": True,
    "head_bias": True,
    "pooler": True,
    "init": "truncated_normal",
}
"""What UniLM v2 has too."""

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "distilbert": {
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
    },
    "roberta": {
        "norm": "post",
        "norm_eps": 1e-5,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
    },
    "albert": {
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_size": 128,
        "embedding_norm": True,
        "shared": "all",
        "activation": "gelu_tanh",
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
        "init": "truncated_normal",
    },
    "spanbert": {
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
    },
    "ernie": {
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "relu",
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
        "init": "truncated_normal",
    },
    "unilm2": {**BERT, "relative_buckets": 32},
    "gpt2": {"norm": "pre", "norm_eps": 1e-5, "activation": "gelu_tanh", "scaled_init": True},
    "glm": {"norm": "pre", "norm_eps": 1e-5, "activation": "gelu_tanh", "scaled_init": True},
    "xlnet": {
        "norm": "post",
        "norm_eps": 1e-12,
        "activation": "gelu_tanh",
        "head_bias": True,
        "position_scheme": "relative",
        "attention_bias": False,
    },
    "t5": {**T5, "activation": "relu", "scale_logits": True},
    "t5-v1.1": {**T5, "activation": "gelu_tanh", "gated": True, "tied": False},
    "bart": {"norm": "post", "norm_eps": 1e-5, "embedding_norm": True, "activation": "gelu"},
}
"""GPT-2's release draws positions with std 0.01 and has no residual scaling; its paper has the scaling, as here."""


WIDEST = 2**24
"""The largest size of a table's or a layer's side."""
DEEPEST = 10_000
"""The most layers."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model section of a recipe: a family and its sizes."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("hidden_size", "num_heads", "vocab_multiple"), at_least(1, WIDEST)),
        **dict.fromkeys(("head_size", "ffn_size", "embedding_size", "positions"), at_least(0, WIDEST)),
        "num_layers": at_least(1, DEEPEST),
        "encoder_layers": at_least(0, DEEPEST),
        **dict.fromkeys(("dropout", "attention_dropout"), below(1)),
    }

    family: Family = "bert"
    """Architecture preset: norms, activation, heads, initialisation."""
    hidden_size: int = 768
    """Width of the model."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Attention heads; they divide the width, unless they have a width of their own."""
    head_size: int = 0
    """Width of a head; 0 means the model's, divided by the heads."""
    encoder_layers: int = 0
    """Layers of the encoder, in families that have one (t5, t5-v1.1, bart); 0 means as many as num_layers."""
    ffn_size: int = 0
    """Width inside the feed-forward part; 0 means four times the width."""
    embedding_size: int = 0
    """Width of the word and position tables, before a dense layer; 0 means the family's: 128 for ALBERT, the model's
    own width, without that layer, for the others."""
    shared: Literal["family", "none", "attention", "ffn", "all"] = "family"
    """Which weights all layers have in common, when it should differ from the family's."""
    norm: Literal["family", "pre", "post"] = "family"
    """Where the norms stand, when it should differ from the family's."""
    start: Literal["family", "neighbours"] = "family"
    """Weights as the family's paper draws them, or with heads that begin by looking at the neighbours: short runs
    learn much faster."""
    positions: int = 0
    """Rows of the first position table; 0 means as many as the objective's length needs."""
    dropout: float = 0.1
    """On embeddings and sublayer outputs."""
    attention_dropout: float = 0.1
    """On attention weights."""
    vocab_multiple: int = 1
    """The word table is padded to a multiple of this (GLM: 128)."""

    def problems(self) -> list[str]:
        """What is wrong with these options alone, a sentence each; `TransformerConfig.problems` tells the rest."""
        return out_of_bounds(self, "model.")

    def config(
        self,
        vocab_size: int,
        position_sizes: tuple[int, ...],
        pairs: bool = True,
        max_span_positions: int = 0,
        causal: bool = False,
    ) -> TransformerConfig:
        """The full configuration. pairs: whether the objective uses the head for pairs, if the family has one;
        max_span_positions: `Objective.max_span_positions`; causal: whether each column sees only what stands before it,
        whatever the family."""
        preset = dict(FAMILIES[self.family])
        if self.norm != "family":
            preset["norm"] = self.norm
        if self.embedding_size:
            preset["embedding_size"] = self.embedding_size
        if self.shared != "family":
            preset["shared"] = self.shared
        preset["pooler"] = bool(preset.get("pooler")) and pairs
        if self.start == "neighbours":
            preset["neighbours"] = BEFORE if causal or self.family == "gpt2" else BOTH_SIDES
        first = max(self.positions, position_sizes[0]) if self.positions else position_sizes[0]
        # GLM's two tables grow together: a blank can be as long as the text
        sizes = (first, first) if self.family == "glm" else (first, *position_sizes[1:])
        return TransformerConfig(
            vocab_size=-(-vocab_size // self.vocab_multiple) * self.vocab_multiple,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_size=0 if self.head_size * self.num_heads == self.hidden_size else self.head_size,
            encoder_layers=(self.encoder_layers or self.num_layers) if self.family in TWO_STACKS else 0,
            ffn_size=self.ffn_size or 4 * self.hidden_size,
            position_sizes=sizes,
            max_span_positions=max_span_positions,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            **preset,
        )
