"""Floating-point operations of training steps, by arithmetic.

Floating-point operations (FLOPs) are those of the matrix products, 2·m·n·k each; norms, activations and softmax are
left out, as is usual. A row's forward pass takes, for each layer, 2·T·(4·D·A + 2·D·F) for the projections (3·D·F where
the feed-forward part is gated) and 4·T²·A for attention (scores and mixing), and 2·M·W·V for the output embeddings,
which are multiplied at the targets only; layers that share their weights take as much as others. A layer of a decoder
takes 4·D·A·(T + S) + 4·T·S·A more, and those of its encoder what others do. The backward pass takes twice as much.
Attention counts all T² pairs, but half of them where rows are plain left-to-right. PaLM (Chowdhery et al. 2022,
appendix B: 6·N + 12·layers·D·T a token) and Megatron-LM count all of them there too; Kaplan et al. 2020 (6·N, N without
embeddings) counts none; Chinchilla (Hoffmann et al. 2022, appendix F) counts all pairs and the embeddings. What
gradient checkpointing computes again is not counted: it is work of the machine, not of the model.

Shapes: T columns of a row, S columns of its context, M targets of a row, D width, A width of the queries of all heads
(D, unless heads have a width of their own), F width inside the feed-forward part, V vocabulary, W width of the token
embeddings (D, where they are not factorised). The work of heads that a program registers is not counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blankfill.model.config import PLACE_SIZE, TransformerConfig
from blankfill.planning.estimate import RowShape, batch_shape
from blankfill.training.options import DistilOptions

if TYPE_CHECKING:
    from blankfill.types import Batch

CHINCHILLA = 20
"""Tokens per parameter that Hoffmann et al. 2022 found best for a given amount of computation (left-to-right
models)."""


def forward_flops(config: TransformerConfig, shape: RowShape) -> float:
    """FLOPs of the forward pass of one row."""
    D, T, M, W = config.hidden_size, shape.columns, shape.targets, config.word_size
    if config.generator_size:
        generator = forward_flops(config.generator, shape)
        detector = 2 * shape.tokens * (D * D + D)
        return generator + forward_flops(config.discriminator, replace(shape, targets=0.0)) + detector
    layer, encoder = _layer_flops(config, shape), 0.0
    if shape.context is not None:
        S, A = shape.context.columns, config.attention_width
        layer += 4 * D * A * (T + S) + 4 * T * S * A
        encoder = config.encoder_layers * _layer_flops(config, shape.context)
    if config.position_scheme == "relative":  # the encodings of 2·T distances, and each query with all of them
        layer += 2 * 2 * T * (D * D + T * D)
    head = 2 * M * W * config.vocab_size + (2 * M * D * W if config.head_transform else 0)
    pooler = 2 * shape.pairs * (D * D + 2 * D) if config.pooler else 0
    projection = 2 * T * W * D if config.embedding_size else 0
    borders = 2 * shape.span_boundary_targets * (D * (2 * D + PLACE_SIZE) + D * W + W * config.vocab_size)
    return projection + encoder + config.num_layers * layer + head + pooler + borders


def _layer_flops(config: TransformerConfig, shape: RowShape) -> float:
    """FLOPs of a layer's own attention and feed-forward part."""
    D, T, A = config.hidden_size, shape.columns, config.attention_width
    pairs_seen = T * T / 2 if shape.mask == "causal" else T * T
    return 2 * T * (4 * D * A + _ffn_matrices(config) * D * config.ffn_size) + 4 * pairs_seen * A


def _ffn_matrices(config: TransformerConfig) -> int:
    """Number of matrices of the feed-forward part."""
    return 3 if config.gated else 2


def training_flops(config: TransformerConfig, shape: RowShape) -> float:
    """FLOPs of the forward and the backward pass of one row, and of a generator's samples."""
    M, W, sampling = shape.targets, config.word_size, 0.0
    if config.generator_size:  # the scores that are sampled from have no backward pass
        sampling = 2 * M * (W * config.vocab_size + config.generator_size * W)
    return 3 * forward_flops(config, shape) + sampling


def batch_flops(config: TransformerConfig, batch: Batch) -> float:
    """FLOPs of the forward and the backward pass of a batch."""
    return len(batch.input_ids) * training_flops(config, batch_shape(batch))


def distil_flops(
    teacher: TransformerConfig, student: TransformerConfig, options: DistilOptions, shape: RowShape
) -> float:
    """FLOPs that learning from a teacher adds to a row: its forward pass, and the student's scores once more."""
    compared = 0.0
    if options.soft_weight:
        compared = shape.tokens if options.over == "all" else shape.targets
    read = replace(shape, targets=compared, pairs=0.0, span_boundary_targets=0.0)
    again = 2 * compared * student.word_size * student.vocab_size
    if student.head_transform and options.over == "all":  # of the tokens that are not targets
        again += 2 * (compared - shape.targets) * student.hidden_size * student.word_size
    return forward_flops(teacher, read) + 3 * again
