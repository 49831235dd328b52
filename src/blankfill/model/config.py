"""The one description of a Transformer that all families share.

A family (BERT, RoBERTa, GPT-2, GLM, …) is a preset of these fields, in `families`. Every option cites where it
comes from; options that concern norms, positions or heads belong to those files, not to flags through the stack.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from blankfill.errors import ConfigError
from blankfill.system.loader import build
from blankfill.system.reading import shown
from blankfill.types import LayerKind, RotaryRounding

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Shared = Literal["none", "attention", "ffn", "all"]
ClassifierTransform = Literal["tanh", "gelu", "relu", "lm_head"]
PositionSchemeName = Literal["learned", "relative", "rotary", "rotary_2d", "none"]

MOST_LAYERS = 4096
WIDEST = 1 << 20
"""Columns of the model, and of one head."""
MOST_ROWS = 1 << 28
"""Rows of a table, columns inside the feed-forward part. All three are far above every model that there is: they keep
sizes from a file that is damaged, or not meant well, from being allocated."""
PLACE_SIZE = 200
"""Columns of the table of places in a span, at every width of the model (SpanBERT's code)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes and choices of a Transformer. Immutable; build the model with `model.transformer.build`."""

    vocab_size: int
    """Rows of the token embeddings."""
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int = 0
    """Heads of keys and values, each shared by num_heads / num_kv_heads heads of queries (grouped-query attention,
    Ainslie et al. 2023); 0 means num_heads."""
    head_size: int = 0
    """Width of a head (T5's largest models: 128, whatever the width); 0 means hidden_size / num_heads."""
    ffn_size: int = 3072
    encoder_layers: int = 0
    """Layers of a second stack, which reads the context and whose output every layer of the first attends to (Vaswani
    et al. 2017); 0 means that there is none."""
    embedding_size: int = 0
    """Width of the embeddings, before a dense layer that makes hidden_size of it (ALBERT §3.1); 0 means hidden_size,
    without that layer."""
    shared: Shared = "none"
    """The weights that all layers share with the first (ALBERT §3.1); a norm belongs to the sublayer before it."""
    position_sizes: tuple[int, ...] = (512,)
    """Rows of each learned position table, summed with the words: BERT position + token type, GLM's two, GPT's one."""
    position_scheme: PositionSchemeName = "learned"
    """learned: tables of positions. relative: Transformer-XL's distances between columns, and whether two columns are
    of one segment (`model.relative`); the channels are then position, segment and stream. rotary: queries and keys
    rotated by the first channel (Su et al. 2021). rotary_2d: one half of each head rotated by the first channel, the
    other half by the second one (ChatGLM). none: none of these. Without tables, `position_sizes` are the limits of the
    channels."""
    rotary_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rotary_rounding: RotaryRounding = "none"
    """Rounding of the rotary frequencies to fp16, as the released ChatGLM-6B computes them. none: exact. frequencies:
    rounded and widened to fp32 (that model in fp32). angles: the product of position and frequency is rounded too (that
    model in fp16, as it is served)."""
    local_rotary_theta: float = 0.0
    """Base of the rotary frequencies in layers with local attention (ModernBERT); 0 means rotary_theta."""
    window: int = 0
    """Positions on either side that a query sees in layers with local attention (ModernBERT: 64, half of its
    `local_attention`); 0 means that all layers see the whole row."""
    global_every: int = 1
    """With a window, the distance between layers that see the whole row, the first layer among them; the others see
    their window (ModernBERT: 3)."""
    relative_buckets: int = 0
    """Rows of a table of biases for each head, one table for each stack; the bucket of a distance (channel 0) chooses
    the bias that attention adds to its scores (T5, Raffel et al. 2020, §2.1; beside learned positions: UniLM v2, Bao et
    al. 2020). Half of the buckets are for later keys, except in a decoder. 0: no such table."""
    relative_distance: int = 128
    """Distances from here on share a bucket."""
    clamp: int = 0
    """Relative: the largest distance; larger ones count as this one (Transformer-XL); 0: no limit."""
    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before each sublayer (GPT-2, GLM) or after each residual sum (BERT)."""
    norm_kind: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm: no mean is subtracted and no bias added (Zhang & Sennrich 2019; T5)."""
    norm_eps: float = 1e-5
    norm_bias: bool = True
    """Biases of LayerNorms (ModernBERT has none)."""
    first_attention_norm: bool = True
    """Whether a pre-norm model's first layer has a norm before attention (ModernBERT has none there, where the
    embeddings are normalised already)."""
    residual_scale: float = 1.0
    """Factor of the residual stream in the sum with each sublayer's output (DeepNorm's α, Wang et al. 2022); 0 means
    √(2 · num_layers), as GLM-130B has it."""
    embedding_norm: bool = False
    """LayerNorm on the summed embeddings (BERT)."""
    activation: Activation = "gelu_tanh"
    gated: bool = False
    """The feed-forward part multiplies the activation with another dense layer's output (GEGLU, Shazeer 2020; T5 v1.1,
    GLM-130B)."""
    attention_bias: bool = True
    """Biases of queries, keys, values and of attention's output (XLNet and T5 have none)."""
    ffn_bias: bool = True
    """Biases of the feed-forward part (T5 has none)."""
    scale_scores: bool = True
    """Whether attention divides its scores by √head size; T5 begins with smaller queries instead."""
    dropout: float = 0.1
    """Probability of dropout on embeddings and on each sublayer's output; usually 0.1."""
    more_dropout: bool = False
    """Whether dropout also applies inside the feed-forward part and after the final norm (T5)."""
    attention_dropout: float = 0.1
    lm_head: bool = True
    """Whether the model has a language-model head; False for a bare encoder, such as transformers' BertModel."""
    tied: bool = True
    """Whether the output embeddings are the token embeddings; False: a table of their own."""
    scale_logits: bool = False
    """Whether the input of the output embeddings is divided by √hidden_size (T5, whose token embeddings start with
    deviation 1)."""
    head_transform: bool = False
    """Whether the head has a dense layer, activation and LayerNorm before the output embeddings (BERT)."""
    head_transform_bias: bool = True
    """Bias of that dense layer (ModernBERT has none)."""
    head_activation: Literal["same", "gelu", "gelu_tanh", "relu", "silu"] = "same"
    """Activation of that transform: that of the layers, or another one (RoBERTa's is always the erf GELU)."""
    head_bias: bool = False
    """Whether the head has a bias for each token of the vocabulary."""
    pooler: bool = False
    """Whether the model has a pooler: a dense layer with tanh on the first column (BERT)."""
    pair_classifier: bool = True
    """Whether a model with a pooler has the two-way classifier of pairs (next sentence, sentence order)."""
    max_span_positions: int = 0
    """Rows of the position table in the span-boundary head (SpanBERT, section 3.2); 0 means that there is no such
    head."""
    classifier_transform: ClassifierTransform = "tanh"
    """The layer before the scores in a head that fine-tuning adds. tanh: dense with bias and tanh, on the column of a
    text (BERT's pooler, RoBERTa). gelu, relu: the same with another activation (ELECTRA; DistilBERT in transformers).
    lm_head: the transform of the language-model head (`head_transform_bias`, `head_activation`, and its norm) with its
    pretrained weights, on texts and on single tokens (ModernBERT). A model with a pooler uses its pooler for texts
    instead; only lm_head adds the layer to heads on tokens."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    """What the head of a text classifier reads: the column that represents the text, or the mean of all its columns,
    special tokens included (ModernBERT)."""
    heads: tuple[str, ...] = ()
    """Names of further heads of the model, registered with `model.heads.register_head`."""
    generator_size: int = 0
    """Width of the generator of a model that detects replaced tokens (ELECTRA, Clark et al. 2020: a quarter to a half
    of hidden_size; `model.replaced_tokens`); 0 means no generator. The language-model head belongs to the generator."""
    init: Literal["normal", "truncated_normal", "t5", "deepnorm"] = "normal"
    """t5: each matrix by the width of what it reads. deepnorm: Xavier normal, smaller by √(2 · num_layers) except for
    queries and keys (GLM-130B). See `model.initial`."""
    init_std: float = 0.02
    position_std: float = 0.02
    scaled_init: bool = False
    """Residual output projections start at init_std/√(2·num_layers) (GLM, nanoGPT)."""
    locality: tuple[int, ...] = ()
    """Relative positions that the first heads of layer 0 are initialised to attend to (`model.locality`)."""

    @property
    def alpha(self) -> float:
        """Factor of the residual stream, where `residual_scale` is 0 too."""
        return self.residual_scale or math.sqrt(2 * self.num_layers)

    @property
    def head_width(self) -> int:
        """Columns of a head's queries, keys and values."""
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def attention_width(self) -> int:
        """Columns of the queries of all heads."""
        return self.num_heads * self.head_width

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def kv_width(self) -> int:
        """Columns of the keys of all heads, and of the values."""
        return self.kv_heads * self.head_width

    def layer_kind(self, index: int) -> LayerKind:
        """Return the kind of a layer, from what it sees of a row; index: number of the layer, from 0."""
        return "local" if self.window and index % self.global_every else "global"

    @property
    def word_size(self) -> int:
        """Columns of the token embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def generator(self) -> TransformerConfig:
        """The generator as a model of its own: as many layers, heads as wide, the other widths in proportion."""
        G = self.generator_size
        return replace(
            self, hidden_size=G, num_heads=max(1, G // self.head_width), num_kv_heads=0, head_size=0,
            ffn_size=max(1, round(self.ffn_size * G / self.hidden_size)),
            embedding_size=0 if self.word_size == G else self.word_size, generator_size=0, heads=(), pooler=False,
            max_span_positions=0,
        )  # fmt: skip

    @property
    def discriminator(self) -> TransformerConfig:
        """The model without its generator and the language-model head on it."""
        return replace(
            self, generator_size=0, lm_head=False, head_transform=False, head_bias=False, tied=True,
            head_activation="same",
        )  # fmt: skip

    def with_layers(self, count: int) -> TransformerConfig:
        """Return the configuration with `count` layers, and encoder layers in proportion."""
        encoder = max(1, round(self.encoder_layers * count / self.num_layers)) if self.encoder_layers else 0
        return replace(self, num_layers=count, encoder_layers=encoder)

    def problems(self) -> list[str]:
        """Return a sentence for each impossible value."""
        problems = []
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "ffn_size"):
            if getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.position_sizes or any(not 1 <= rows <= MOST_ROWS for rows in self.position_sizes):
            problems.append(f"the position tables have {list(self.position_sizes)} rows; each must have at least 1")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                problems.append(f"model.{name} is {getattr(self, name)}; {most:,} is the most that any model may have")
        if problems:
            return problems  # what follows divides by them
        if self.hidden_size % self.num_heads and not self.head_size:
            problems.append(
                f"model.hidden_size {self.hidden_size} is not a multiple of model.num_heads {self.num_heads}; "
                f"try {self.hidden_size // self.num_heads * self.num_heads or self.num_heads}"
            )
        if self.embedding_size < 0:
            problems.append(
                f"model.embedding_size is {self.embedding_size}; it must be at least 1, or 0 for hidden_size"
            )
        if self.embedding_size and self.lm_head and not self.head_transform:
            problems.append(
                f"model.embedding_size is {self.embedding_size}, but this family has no dense layer that brings the "
                "output back to it; leave it at 0 or choose a family with one"
            )
        if self.classifier_pooling not in ("cls", "mean"):
            problems.append(f"model.classifier_pooling is {shown(self.classifier_pooling)}; it must be cls or mean")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                problems.append(f"model.{name} is {getattr(self, name)}; it must not be negative")
        if self.relative_buckets and self.relative_distance <= self.relative_buckets // 2:
            problems.append(
                f"model.relative_distance is {self.relative_distance}; it must be above half of model.relative_buckets "
                f"({self.relative_buckets // 2})"
            )
        if 0 < self.relative_buckets < 4:
            problems.append(f"model.relative_buckets is {self.relative_buckets}; it must be at least 4, or 0 for none")
        if self.position_scheme == "relative" and (self.encoder_layers or self.head_size or self.relative_buckets):
            problems.append(
                "the positions of this family (Transformer-XL's) know no encoder, no head_size and no "
                "relative_buckets; leave these at 0"
            )
        problems += self._position_problems() + self._generator_problems()
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            problems.append(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads {self.num_kv_heads}; "
                "choose a divisor, or 0 for as many as num_heads"
            )
        if not self.first_attention_norm and (self.norm != "pre" or self.shared in ("all", "attention")):
            problems.append(
                "model.first_attention_norm is false, which needs norm pre and a first layer that shares no attention; "
                "leave it at true"
            )
        if self.encoder_layers and (self.embedding_size or self.shared != "none"):
            problems.append(
                "an encoder and a decoder share their word table and nothing else; leave model.embedding_size at 0 and "
                "model.shared at none"
            )
        if self.encoder_layers and (not self.residual_scale or self.init == "deepnorm"):
            problems.append(
                "DeepNorm is for models of one stack here, and this family has an encoder; leave model.norm at family"
            )
        plain = self.position_scheme in ("learned", "relative") and not (self.head_size or self.num_kv_heads)
        if self.locality and (self.encoder_layers or not plain):
            problems.append(
                "model.init is locality, which sets heads of one stack by its position table; this family has no "
                "such table or two stacks: leave it at family"
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("norm_eps", "init_std", "position_std", "residual_scale", "rotary_theta", "local_rotary_theta"):
            if not 0 <= getattr(self, name) < math.inf:
                problems.append(f"model.{name} is {getattr(self, name)}; it must be a finite number and not negative")
        return problems

    def _generator_problems(self) -> list[str]:
        G = self.generator_size
        if G < 1:
            return []
        if G % max(1, G // self.head_width) or self.hidden_size < G:
            return [
                f"the generator would be {G} columns wide, and must be a multiple of the width of a head "
                f"({self.head_width}) and at most model.hidden_size ({self.hidden_size}); change "
                "objective.generator_size"
            ]
        if self.encoder_layers or self.relative_buckets or self.position_scheme == "relative" or self.more_dropout:
            return ["a generator needs one stack with learned or rotary positions; take another family"]
        return []

    def _position_problems(self) -> list[str]:
        problems = []
        if self.position_scheme in ("rotary", "rotary_2d"):
            axes = 2 if self.position_scheme == "rotary_2d" else 1
            if self.head_width % (2 * axes):
                problems.append(
                    f"a head is {self.head_width} columns wide, and rotary positions need a multiple of {2 * axes}; "
                    "change model.hidden_size or model.num_heads"
                )
            if len(self.position_sizes) < axes:
                problems.append(
                    f"model.position_scheme is {self.position_scheme}, which needs {axes} position channels"
                )
            if self.rotary_rounding not in get_args(RotaryRounding):
                problems.append(
                    f"model.rotary_rounding is {shown(self.rotary_rounding)}; it must be one of "
                    f"{', '.join(get_args(RotaryRounding))}"
                )
            if not self.rotary_theta:
                problems.append("model.rotary_theta is 0; it must be above 0, usually 10000")
            if self.encoder_layers or self.relative_buckets:
                problems.append(
                    f"model.position_scheme is {self.position_scheme}, which goes with neither an encoder nor "
                    "relative_buckets; leave these at 0"
                )
        if self.global_every < 1:
            problems.append(f"model.global_every is {self.global_every}; it must be at least 1")
        if self.window and (self.encoder_layers or self.relative_buckets or self.position_scheme == "relative"):
            problems.append(
                "model.window needs learned or rotary positions and no encoder; leave it at 0 for a family with others"
            )
        if self.num_kv_heads and self.position_scheme == "relative":
            problems.append("the positions of this family (Transformer-XL's) know no num_kv_heads; leave it at 0")
        return problems


NOT_NEGATIVE = (
    "clamp", "head_size", "encoder_layers", "relative_buckets", "max_span_positions", "num_kv_heads", "window",
    "generator_size",
)  # fmt: skip
LARGEST = {
    "vocab_size": MOST_ROWS, "hidden_size": WIDEST, "num_layers": MOST_LAYERS, "num_heads": WIDEST, "head_size": WIDEST,
    "ffn_size": MOST_ROWS, "encoder_layers": MOST_LAYERS, "embedding_size": WIDEST, "relative_buckets": WIDEST,
    "max_span_positions": WIDEST, "attention_width": WIDEST, "num_kv_heads": WIDEST, "window": MOST_ROWS,
    "global_every": MOST_LAYERS, "generator_size": WIDEST,
}  # fmt: skip


def config_from_values(values: object, where: object = "the model's sizes") -> TransformerConfig:
    """Return the configuration saved as JSON values, such as in a checkpoint's state.

    where: the file, for messages. Raises UserError or ConfigError for values that no model can have.
    """
    config = build(TransformerConfig, values, where)
    if problems := config.problems():
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return config


def config_values(config: TransformerConfig) -> dict[str, Any]:
    """Return a configuration as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
