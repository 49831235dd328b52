"""What a run costs, by arithmetic: parameters, floating-point operations, memory and disk.

Nothing is measured and no tensor is allocated here, so the answer comes in milliseconds. Whether it fits is
`planning.fit_check`'s to say; `planning.timing` measures hours. T columns of a row, S columns of its context, M
targets of a
row, D width, A width of the queries of all heads (D, unless heads have a width of their own), F width inside the
feed-forward part, V vocabulary, W width of the word table (D, where embeddings are not factorised).

Floating-point operations (FLOPs) are those of the matrix products, 2·m·n·k each; norms, activations and softmax are
left out, as is usual. A row's forward pass takes, for each layer, 2·T·(4·D·A + 2·D·F) for the projections (3·D·F where
the feed-forward part is gated) and 4·T²·A for attention (scores and mixing), and 2·M·W·V for the word table, which
meets the targets only; layers that share their weights take as much as others. A layer of a decoder takes 4·D·A·(T + S)
+ 4·T·S·A more, and those of its encoder what others do. The backward pass takes twice as much. Attention counts all T²
pairs, but half of them where rows are plain left-to-right. PaLM (Chowdhery et al. 2022, appendix B: 6·N + 12·layers·D·T
a token) and Megatron-LM count all of them there too; Kaplan et al. 2020 (6·N, N without embeddings) counts none;
Chinchilla (Hoffmann et al. 2022, appendix F) counts all pairs and the embeddings. What gradient checkpointing computes
again is not counted: it is work of the machine, not of the model.

Memory follows what this program really keeps for the backward pass; a test holds it against torch's saved tensors.
Weights, gradients and optimiser states are always fp32. On a GPU the same sums are used with dropout masks of one byte
and attention weights that are never stored; that case follows torch's kernels and has not been measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from blankfill.model.config import PLACE_SIZE, TransformerConfig
from blankfill.training.options import DistilOptions, TrainOptions
from blankfill.types import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blankfill.attention.kernels import Kernel
    from blankfill.data.sampler import Sampler
    from blankfill.types import Batch

FP32 = 4
CHINCHILLA = 20
"""Tokens per parameter that Hoffmann et al. 2022 found best for a given amount of computing (left-to-right models)."""
SAMPLED_ROWS = 64
"""Rows that the shape of a batch is taken from."""
STEPS_READY = 5
"""Steps whose batches lie ready: those of the loader and the one at work."""
HOLES = 1.25
"""Memory that comes and goes within a step leaves holes: this much of it was taken from the system (docs/log.md)."""
PROCESS = 64 << 20
"""What the first step adds to a process beside tensors: code of kernels, their buffers, threads."""


@dataclass(frozen=True)
class RowShape:
    """What the rows of a batch look like. columns: T, padding included; the others: means a row.

    mask: "none", "causal" or "rule", as in `types.Batch`. ids and positions: one more than the largest in the rows (of
    each position channel), in both sides of them.
    """

    columns: int
    tokens: float
    targets: float
    mask: str
    pairs: float = 0.0
    ids: int = 0
    positions: tuple[int, ...] = ()
    span_boundary_targets: float = 0.0
    context: RowShape | None = None
    """Of the encoder's side; `tokens` counts both."""

    def shortened(self, share: float) -> RowShape:
        """Rows of so much of their length, on both sides, and as much of their targets."""
        context = None if self.context is None else self.context.shortened(share)
        columns = max(1, round(self.columns * share))
        return replace(self, columns=columns, targets=self.targets * share, context=context)


@dataclass(frozen=True)
class Computing:
    """How a step is computed. width: bytes of the compute type, 2 under autocast."""

    width: int = FP32
    kernel: Kernel = "sdpa"
    device: str = "cpu"


@dataclass(frozen=True)
class Part:
    """A phase of a run. rows: how many in all; micro: how many at a time."""

    shape: RowShape
    rows: int
    micro: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes. loss: gradients that the chunked word loss makes ahead of the backward pass.

    working: the largest temporaries. batches: rows that lie ready. saving: the copy that a checkpoint is written from
    while training goes on. peak: at the worst moment; where a step has one micro-batch, its gradients come into being
    while the activations go, so it can be below the sum.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    working: int
    batches: int
    saving: int
    peak: int


def sampled_rows(sampler: Sampler, count: int = SAMPLED_ROWS) -> list[list[Example]]:
    """So many rows of a run, evenly from its first epoch."""
    available = sampler.rows_in_epoch(0)
    return [sampler.row(sampler.first + k * available // count) for k in range(count)]


def row_shape(rows: Sequence[Sequence[Example]], pad: int, counts: NDArray[np.int64] | None = None) -> RowShape:
    """The shape of a batch that is made of these rows, as `sampled_rows` gives them.

    pad: the id of padding. counts: int64[V], how often each id occurs in the training text, so that `ids` tells of all
    of it and not of these rows only.
    """
    from blankfill.data.batching import collate

    batch = collate(rows, pad)
    sides = [side for side in (batch, batch.context) if side is not None]
    positions = tuple(
        1 + max(int(channel.max()) for channel in channels)
        for channels in zip(*(s.positions for s in sides), strict=True)
    )
    ids = 1 + max(
        int(found.max()) for found in (*(side.input_ids for side in sides), batch.target_ids) if found.numel()
    )
    if counts is not None and counts.any():
        ids = max(ids, 1 + int(counts.nonzero()[0][-1]))
    return replace(batch_shape(batch), ids=ids, positions=positions)


def _pairs(batch: Batch) -> int:
    return sum(len(value) for _, value in batch.labels.values())


def _borders(batch: Batch) -> int:
    return 0 if batch.span_boundary_targets is None else batch.span_boundary_targets.shape[1]


def parameters(config: TransformerConfig) -> dict[str, int]:
    """How many weights each part of a model has: words (tied with the output), positions, layers, norms, heads."""
    parts = dict.fromkeys(("words", "positions", "layers", "norms", "heads"), 0)
    if config.encoder_layers:
        parts["encoder"] = 0
    if config.generator_size:
        parts["generator"] = 0
    names = {
        "token_embeddings": "words", "query": "words", "embedding_projection": "words", "position_bias": "positions",
        "embedding_norm": "norms", "final_norm": "norms", "lm_head": "heads", "pooler": "heads",
        "classifier": "heads", "span_boundary_head": "heads",
    }  # fmt: skip
    for name, shape in weight_shapes(config):
        first = "generator" if ".generator." in name else name.split(".", 1)[0]
        parts[names.get(first, first)] += math.prod(shape)
    return parts


@lru_cache(maxsize=64)
def weight_shapes(config: TransformerConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The name and shape of every weight; nothing is allocated."""
    import torch

    from blankfill.model.transformer import Transformer

    with torch.device("meta"):
        model = Transformer(config)
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def forward_flops(config: TransformerConfig, shape: RowShape) -> float:
    """FLOPs of the forward pass of one row."""
    if config.generator_size:
        generator = forward_flops(config.generator, shape)
        return generator + forward_flops(config.discriminator, replace(shape, targets=0.0))
    D, T, M, W = config.hidden_size, shape.columns, shape.targets, config.word_size
    layer, encoder = _layer_flops(config, shape), 0.0
    if shape.context is not None:
        S, A = shape.context.columns, config.attention_width
        layer += 4 * D * A * (T + S) + 4 * T * S * A
        encoder = config.encoder_layers * _layer_flops(config, shape.context)
    if config.position_scheme == "relative":  # the encodings of 2·T distances, and each query with all of them
        layer += 2 * 2 * T * (D * D + T * D)
    head = 2 * M * W * config.vocab_size + (2 * M * D * W if config.head_transform else 0)
    pooler = 2 * shape.pairs * (D * D + 2 * D) if config.pooler else 0
    widen = 2 * T * W * D if config.embedding_size else 0
    borders = 2 * shape.span_boundary_targets * (D * (2 * D + PLACE_SIZE) + D * W + W * config.vocab_size)
    detector = 2 * shape.tokens * (D * D + D) if config.heads and shape.pairs else 0
    return widen + encoder + config.num_layers * layer + head + pooler + borders + detector


def _layer_flops(config: TransformerConfig, shape: RowShape) -> float:
    """FLOPs of a layer's own attention and feed-forward part."""
    D, T, A = config.hidden_size, shape.columns, config.attention_width
    pairs_seen = T * T / 2 if shape.mask == "causal" else T * T
    return 2 * T * (4 * D * A + dense(config) * D * config.ffn_size) + 4 * pairs_seen * A


def dense(config: TransformerConfig) -> int:
    """How many matrices the feed-forward part has."""
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


def batch_shape(batch: Batch) -> RowShape:
    """What the rows of a batch look like."""
    rows, columns = batch.input_ids.shape
    return RowShape(
        columns, batch.tokens / rows, len(batch.target_ids) / rows, batch.mask, _pairs(batch) / rows,
        span_boundary_targets=_borders(batch) / rows,
        context=None if batch.context is None else batch_shape(batch.context),
    )  # fmt: skip


def distil_flops(
    teacher: TransformerConfig, student: TransformerConfig, options: DistilOptions, shape: RowShape
) -> float:
    """FLOPs that learning from a teacher adds to a row: its forward pass, and the student's scores once more."""
    compared = 0.0
    if options.soft_weight:
        compared = shape.tokens if options.over == "all" else shape.targets
    read = replace(shape, targets=compared, pairs=0.0, span_boundary_targets=0.0)
    again = 2 * compared * student.word_size * student.vocab_size
    if student.head_transform and options.over == "all":  # of the tokens that are not asked for
        again += 2 * (compared - shape.targets) * student.hidden_size * student.word_size
    return forward_flops(teacher, read) + 3 * again


def distil_bytes(teacher: TransformerConfig, student: TransformerConfig, options: DistilOptions) -> int:
    """Memory that learning from a teacher takes: its weights, the gradient of the word table that the loss against it
    makes ahead, and the scores at work."""
    from blankfill.kernels.lm_loss import SCORES

    soft = FP32 * (student.vocab_size * student.word_size + 2 * SCORES) if options.soft_weight else 0
    return FP32 * sum(parameters(teacher).values()) + soft


def parts(options: TrainOptions, shapes: Sequence[RowShape], lengths: Sequence[int]) -> list[Part]:
    """The phases of a run. shapes and lengths: of its rows, those of the short phase first when there is one."""
    bounds = [0, options.steps] if len(shapes) == 1 else [0, options.long_from, options.steps]
    rows = [options.row_schedule.first(step) for step in bounds]
    return [
        Part(shape, after - before, micro_rows(options, length, lengths[-1]))
        for shape, length, before, after in zip(shapes, lengths, rows, rows[1:], strict=False)
    ]


def micro_rows(options: TrainOptions, length: int, full: int) -> int:
    """Rows computed at once in a phase of this length: micro_batch counts rows of the full one."""
    return min(options.batch_size, (options.micro_batch or options.batch_size) * max(1, full // length))


def optimizer_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """Bytes of the optimiser's states."""
    shapes = [shape for _, shape in weight_shapes(config)]
    count = sum(map(math.prod, shapes))
    if options.optimizer == "sgd":
        return FP32 * count if options.momentum else 0
    if options.optimizer == "adafactor":
        return FP32 * sum(math.prod(s[:-1]) + math.prod(s[:-2]) * s[-1] if len(s) > 1 else s[0] for s in shapes)
    return 2 * FP32 * count


def layer_bytes(config: TransformerConfig, shape: RowShape, computing: Computing, rows: int) -> int:
    """What one layer keeps for its backward pass, for so many rows."""
    from blankfill.kernels.blocked_attention import KEEP

    D, A, T, s = config.hidden_size, config.attention_width, shape.columns, computing.width
    tokens, weights = rows * T, rows * config.num_heads * T * T
    norms = tokens * 2 * (FP32 * D + (2 if config.norm_kind == "layer" else 1) * FP32)
    linears = tokens * s * (2 * D + A + _inner_columns(config, computing))
    noise = tokens * 2 * D if config.dropout else 0  # a byte for each element
    if config.dropout and config.more_dropout and not _kept_by_zeros(config, computing):
        noise += tokens * config.ffn_size
    casts = own_matrices(config) * s // config.num_layers if s < FP32 else 0
    attention = tokens * s * 3 * A
    if blocked(config, shape, computing):
        attention += weights * ((s if T <= KEEP else 0) + (1 if config.attention_dropout else 0))
    elif not _stores_weights(config, computing):
        attention += tokens * config.num_heads * FP32
    elif config.position_scheme == "relative":
        # the queries with u, v and w, and for each row the encodings of 2·T distances
        attention += weights * s * (3 if config.attention_dropout else 1) + tokens * s * (3 + 2) * D
    elif computing.kernel == "explicit":
        attention += weights * s * (3 if config.attention_dropout else 1)
    else:
        # with dropout on a CPU, SDPA takes the plain road, in fp32 whatever the inputs are
        attention = tokens * FP32 * 3 * A + weights * FP32 * 3
    return norms + linears + noise + casts + attention


def _inner_columns(config: TransformerConfig, computing: Computing) -> int:
    """Columns inside the feed-forward part that are kept for each token: what goes into the activation and what comes
    out of it; gated, also what that is multiplied with, and the product. Fused, what the inner dense makes."""
    if _fused(config, computing):
        return (2 if config.gated else 1) * config.ffn_size
    if config.gated:
        return 4 * config.ffn_size
    if config.more_dropout and config.dropout:
        return 2 * config.ffn_size
    return (1 if config.activation == "relu" else 2) * config.ffn_size  # ReLU's gradient asks for its output alone


def _kept_by_zeros(config: TransformerConfig, computing: Computing) -> bool:
    """Whether dropout inside the feed-forward part needs no mask, what it drops being 0 as what ReLU stops is."""
    return _fused(config, computing) and config.activation == "relu" and not config.gated


def _fused(config: TransformerConfig, computing: Computing) -> bool:
    """Whether `kernels.feed_forward` computes the feed-forward part; the conditions of `model.layers.FeedForward`."""
    return computing.device == "cpu" and computing.width == FP32 and (config.gated or config.activation != "gelu")


def cross_bytes(config: TransformerConfig, shape: RowShape, computing: Computing, rows: int) -> int:
    """What attending to the context adds to `layer_bytes`."""
    from blankfill.kernels.blocked_attention import KEEP

    if shape.context is None:
        return 0
    D, A, s = config.hidden_size, config.attention_width, computing.width
    T, S = rows * shape.columns, rows * shape.context.columns
    pairs = config.num_heads * T * shape.context.columns
    norm = T * (FP32 * D + (2 if config.norm_kind == "layer" else 1) * FP32)
    noise = T * D if config.dropout else 0
    casts = 4 * D * A * s if s < FP32 else 0
    projected = s * (T * (D + 2 * A) + S * 2 * A)
    if computing.kernel == "blocked" and (config.attention_dropout > 0 or s < FP32):
        kept = s if shape.context.columns <= KEEP else 0
        weights = pairs * (kept + (1 if config.attention_dropout else 0))
    elif computing.kernel == "explicit":
        weights = pairs * s * (3 if config.attention_dropout else 1)
    elif config.attention_dropout and computing.device == "cpu":
        projected += FP32 * (T + 2 * S) * A
        weights = pairs * FP32 * 3
    else:
        weights = T * config.num_heads * FP32
    return norm + noise + casts + projected + weights


def own_matrices(config: TransformerConfig) -> int:
    """Elements of the matrices of all layers, shared ones once: each has a copy in the compute type."""
    attention = 4 * config.hidden_size * config.attention_width
    ffn = dense(config) * config.hidden_size * config.ffn_size
    L = config.num_layers
    return attention * (1 if config.shared in ("all", "attention") else L) + ffn * (
        1 if config.shared in ("all", "ffn") else L
    )


def activation_bytes(
    config: TransformerConfig, shape: RowShape, computing: Computing, rows: int, checkpointing: bool = False
) -> int:
    """What a model keeps for the backward pass of a micro-batch of so many rows, the word loss aside.

    checkpointing: each layer keeps its input only, and one layer at a time is computed again.
    """
    if config.generator_size:
        read = replace(shape, targets=0.0)
        both = ((config.generator, shape), (config.discriminator, read))
        return sum(activation_bytes(part, seen, computing, rows, checkpointing) for part, seen in both)
    D, T, P, W = config.hidden_size, shape.columns, len(config.position_sizes), config.word_size
    tokens, targets = rows * T, math.ceil(rows * shape.targets)
    layer = layer_bytes(config, shape, computing, rows) + cross_bytes(config, shape, computing, rows)
    layers = config.num_layers * layer
    if checkpointing:
        layers = config.num_layers * tokens * FP32 * D + layer
    if shape.context is not None:
        layers += _encoder_bytes(config, shape, computing, rows, checkpointing)
    plain = _stores_weights(config, computing) and not blocked(config, shape, computing)
    bare = shape.mask != "rule" or (plain and not checkpointing)
    mask = 0 if bare else rows * T * T * computing.width
    normed = (W + 2) * int(config.embedding_norm) + (D + 2) * int(config.norm == "pre")
    embeddings = tokens * 8 * (1 + P) + (tokens * W if config.dropout else 0)
    if config.embedding_size:
        embeddings += (tokens + D) * W * computing.width
    if config.position_scheme == "relative":
        embeddings += tokens * 8 * T  # which distance each pair has
    if config.relative_buckets:
        embeddings += T * T * (8 + FP32 * config.num_heads)  # which bucket, and what it adds, alike in all rows
    head = targets * (computing.width * (D + W) + FP32 * W) if config.head_transform else 0
    borders = math.ceil(rows * shape.span_boundary_targets)
    head += borders * (computing.width * (4 * D + PLACE_SIZE + W) + FP32 * (D + W)) if config.max_span_positions else 0
    if config.heads and shape.pairs:  # a head on all columns: what it reads, and its dense layer before and behind
        head += 3 * tokens * computing.width * D
    return layers + mask + embeddings + tokens * FP32 * normed + head


def _encoder_bytes(
    config: TransformerConfig, shape: RowShape, computing: Computing, rows: int, checkpointing: bool
) -> int:
    """What the encoder keeps: all that a model of its own keeps, heads aside, and its output, once more where that goes
    into the decoder in another type, with what a decoder's column sees of it."""
    context = shape.context
    assert context is not None
    alone = replace(config, num_layers=config.encoder_layers, encoder_layers=0)
    read = replace(context, targets=0.0, pairs=0.0, span_boundary_targets=0.0)
    own = activation_bytes(alone, read, computing, rows, checkpointing)
    output = rows * context.columns * config.hidden_size * (FP32 if computing.width == FP32 else 2)
    mask = rows * shape.columns * context.columns * computing.width if context.mask != "none" else 0
    return own + output + mask


def blocked(config: TransformerConfig, shape: RowShape, computing: Computing) -> bool:
    """Whether attention goes block by block; the conditions of `attention.kernels.self_attend`."""
    from blankfill.kernels.blocked_attention import QUERIES

    long = shape.mask in ("causal", "rule") and shape.columns >= 2 * QUERIES
    if config.position_scheme == "relative":
        return False
    always = config.attention_dropout > 0 or config.relative_buckets > 0 or computing.width < FP32
    return computing.kernel == "blocked" and (always or long)


def _stores_weights(config: TransformerConfig, computing: Computing) -> bool:
    """Whether attention weights, T² of them a head, are kept for the backward pass."""
    if computing.kernel == "explicit" or config.position_scheme == "relative" or config.relative_buckets:
        return True
    return computing.device == "cpu" and config.attention_dropout > 0


def memory(
    config: TransformerConfig,
    shape: RowShape,
    options: TrainOptions,
    computing: Computing,
    micro: int,
    checkpointing: bool,
) -> Memory:
    """What training takes with so many rows at a time. checkpointing: whether layers are computed again."""
    from blankfill.kernels.lm_loss import GPU_ROWS, SCORES

    D, T, V, W, s = config.hidden_size, shape.columns, config.vocab_size, config.word_size, computing.width
    if shape.context is not None:
        T = max(T, shape.context.columns)
    tokens, table = micro * T, FP32 * V * W
    weights = gradients = FP32 * sum(parameters(config).values())
    states = optimizer_bytes(config, options)
    activations = activation_bytes(config, shape, computing, micro, checkpointing)
    targets, borders = math.ceil(micro * shape.targets), math.ceil(micro * shape.span_boundary_targets)
    # gradients made in the forward pass; words asked from borders meet the table once more
    loss = table * (2 if config.max_span_positions else 1) + (targets + borders) * FP32 * W
    logits = FP32 * min(targets * V, SCORES if computing.device == "cpu" else GPU_ROWS * V)
    plain = _stores_weights(config, computing) and not blocked(config, shape, computing)
    tables = 4 if config.position_scheme == "relative" else 2  # that of all distances is twice as wide
    scores = tables * micro * config.num_heads * T * T * FP32 if plain else 0
    inner = dense(config) * config.ffn_size
    working = max(tokens * (s * inner + 2 * FP32 * D), scores + 3 * tokens * s * config.attention_width)
    columns = shape.columns + (0 if shape.context is None else shape.context.columns)
    row_bytes = columns * (8 + 8 * len(config.position_sizes) + 12) + 16 * math.ceil(shape.targets)
    batches = (STEPS_READY * options.batch_size + options.eval_rows) * row_bytes
    saving = checkpoint_bytes(config, options) if computing.device == "cpu" else 0
    before = gradients if micro < options.batch_size else 0
    forward = before + HOLES * (activations + loss + max(logits, working))
    backward = gradients + HOLES * max(2 * table, optimizer_temporaries(config, options))
    peak = int(weights + states + batches + saving + max(forward, backward)) + PROCESS
    return Memory(weights, gradients, states, activations, loss, working, batches, saving, peak)


def optimizer_temporaries(config: TransformerConfig, options: TrainOptions) -> int:
    """Bytes that a step of the optimiser takes besides its states: fused kernels none."""
    table = config.vocab_size * config.word_size
    rest = sum(parameters(config).values()) - table
    if options.optimizer == "lamb":
        return FP32 * max(table, rest)
    own = 1 if config.shared == "all" else max(1, config.num_layers + config.encoder_layers)
    return 2 * FP32 * max(table, rest // own // 3) if options.optimizer == "adafactor" else 0


def checkpoint_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """One checkpoint on disk: weights and optimiser."""
    return FP32 * sum(parameters(config).values()) + optimizer_bytes(config, options)


def disk_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """All checkpoints at the worst moment: those kept, the best one, and the one being written."""
    return (options.save_total_limit + 2) * checkpoint_bytes(config, options)
