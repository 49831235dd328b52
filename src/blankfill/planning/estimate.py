"""Estimates of a run before it starts: parameters, memory and disk.

No weight is allocated and no number computed. `planning.fit_check` compares the estimates with this machine,
`planning.flops` counts floating-point operations, and `planning.timing` measures hours.

Weights, gradients and optimiser states are fp32 whatever the precision. What a model keeps for its backward pass is
counted in passes of small copies of it, through its own modules (`planning.activations`); a test compares it with the
tensors that torch saves, and `bench/memory.py` compares the peak with that of processes (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from blankfill.model.config import TransformerConfig
from blankfill.training.options import DistilOptions, TrainOptions
from blankfill.types import Example

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from blankfill.attention.kernels import Kernel
    from blankfill.data.sampler import Sampler
    from blankfill.types import Batch

FP32 = 4
SAMPLED_ROWS = 64
"""Rows that the shape of a batch is taken from."""
STEPS_READY = 5
"""Number of steps whose batches are in memory: those of the loader and the current one."""
HOLES = 1.25
"""Factor for memory that is allocated and freed within a step: it leaves holes between blocks (docs/log.md)."""
PROCESS = {FP32: 64 << 20, 2: 96 << 20}
"""Bytes that the first step adds to a process besides tensors, by the bytes of a number of the compute type: code of
kernels, their buffers, threads (docs/log.md)."""


@dataclass(frozen=True)
class RowShape:
    """The shape of the rows of a batch; counts are means over its rows."""

    columns: int
    """Columns of a row, padding included."""
    tokens: float
    """Tokens of a row, without padding; with those of the encoder's side, where there is one."""
    targets: float
    """Targets of the language model in a row."""
    mask: str
    """Attention mask: "none", "causal" or "rule", as in `types.Batch`."""
    pairs: float = 0.0
    """Labels of whole Examples in a row, such as BERT's next sentence."""
    ids: int = 0
    """One more than the largest token id, on both sides."""
    positions: tuple[int, ...] = ()
    """One more than the largest position of each channel, on both sides."""
    span_boundary_targets: float = 0.0
    """Targets of the span-boundary head in a row."""
    context: RowShape | None = None
    """The encoder's side of the rows, where the model has an encoder."""

    def shortened(self, share: float) -> RowShape:
        """Return the shape with a share of the columns, on both sides, and of the targets."""
        return replace(
            self, columns=max(1, round(self.columns * share)), targets=self.targets * share,
            span_boundary_targets=self.span_boundary_targets * share,
            context=None if self.context is None else self.context.shortened(share),
        )  # fmt: skip


@dataclass(frozen=True)
class Computing:
    """How a step is computed. width: bytes of a number of the compute type, 2 under autocast. half: whether it is fp16,
    and not bf16: on a CPU without units for it, attention is computed in fp32 (`kernels.half`)."""

    width: int = FP32
    kernel: Kernel = "sdpa"
    device: str = "cpu"
    half: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype, kernel: Kernel, device: str = "cpu") -> Computing:
        """Return what a compute type, a kernel of attention and the kind of a device are to an estimate."""
        return cls(dtype.itemsize, kernel, device, str(dtype) == "torch.float16")


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a run: its steps with rows of one length."""

    shape: RowShape
    """Shape of the rows."""
    rows: int
    """Number of rows in the phase."""
    micro_batch: int
    """Rows of a micro-batch."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes."""

    micro_batch: int
    """Rows of the micro-batch that the other fields are for."""
    weights: int
    """Weights of the model, fp32."""
    gradients: int
    """Gradients of the weights, fp32."""
    optimizer: int
    """States of the optimiser."""
    activations: int
    """Tensors that the model keeps for the backward pass of a micro-batch."""
    loss: int
    """Gradients that the language-model loss computes before the backward pass."""
    working: int
    """The largest temporary tensors."""
    batches: int
    """Batches that are in memory before their step."""
    saving: int
    """The copy that a checkpoint is written from while training continues; 0 on a GPU, where it is in main memory."""
    teacher: int
    """Weights of the teacher and temporary tensors of its losses; 0 without a teacher."""
    peak: int
    """All at the worst moment. In a step of one micro-batch, gradients are made while activations are freed, so the
    peak may be less than the sum."""


def sampled_rows(sampler: Sampler, count: int = SAMPLED_ROWS) -> list[list[Example]]:
    """Return `count` rows of a run, evenly spaced in its first epoch."""
    available = sampler.rows_in_epoch(0)
    return [sampler.row(sampler.first + k * available // count) for k in range(count)]


def row_shape(rows: Sequence[Sequence[Example]], pad: int, counts: NDArray[np.int64] | None = None) -> RowShape:
    """Return the shape of a batch of these rows, as `sampled_rows` returns them.

    pad: the id of padding. counts: int64[V], how often each id occurs in the training text, so that `ids` is that of
    all of it and not of these rows only.
    """
    from blankfill.data.batching import collate

    batch = collate(rows, pad)
    sides = [side for side in (batch, batch.context) if side is not None]
    positions = tuple(
        1 + max(int(channel.max()) for channel in channels)
        for channels in zip(*(s.positions for s in sides), strict=True)
    )
    ids = 1 + max(
        int(tensor.max()) for tensor in (*(side.input_ids for side in sides), batch.target_ids) if tensor.numel()
    )
    if counts is not None and counts.any():
        ids = max(ids, 1 + int(counts.nonzero()[0][-1]))
    return replace(batch_shape(batch), ids=ids, positions=positions)


def _pairs(batch: Batch) -> int:
    return sum(len(value) for _, value in batch.labels.values())


def _borders(batch: Batch) -> int:
    return 0 if batch.span_boundary_targets is None else batch.span_boundary_targets.shape[1]


def parameters(config: TransformerConfig) -> dict[str, int]:
    """Return the number of weights of each part: token embeddings, positions, layers, norms, heads, and the encoder.

    Output embeddings that are tied count once, with the token embeddings.
    """
    parts = dict.fromkeys(("token_embeddings", "positions", "layers", "norms", "heads"), 0)
    if config.encoder_layers:
        parts["encoder"] = 0
    if config.generator_size:
        parts["generator"] = 0
    names = {
        "query": "token_embeddings", "embedding_projection": "token_embeddings", "position_bias": "positions",
        "embedding_norm": "norms", "final_norm": "norms", "lm_head": "heads", "pooler": "heads",
        "classifier": "heads", "span_boundary_head": "heads",
    }  # fmt: skip
    for name, shape in weight_shapes(config):
        first = "generator" if ".generator." in name else name.split(".", 1)[0]
        parts[names.get(first, first)] += math.prod(shape)
    return parts


@lru_cache(maxsize=64)
def weight_shapes(config: TransformerConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the name and shape of every weight; nothing is allocated."""
    import torch

    from blankfill.model.transformer import Transformer

    with torch.device("meta"):
        model = Transformer(config)
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def batch_shape(batch: Batch) -> RowShape:
    """Return the shape of the rows of a batch."""
    rows, columns = batch.input_ids.shape
    return RowShape(
        columns, batch.tokens / rows, len(batch.target_ids) / rows, batch.mask, _pairs(batch) / rows,
        span_boundary_targets=_borders(batch) / rows,
        context=None if batch.context is None else batch_shape(batch.context),
    )  # fmt: skip


def distil_bytes(teacher: TransformerConfig, student: TransformerConfig, options: DistilOptions) -> int:
    """Return the bytes that distillation adds: the teacher's weights, the gradient of the output embeddings that the
    loss computes before the backward pass, and the current scores."""
    from blankfill.kernels.lm_loss import SCORES

    soft = FP32 * (student.vocab_size * student.word_size + 2 * SCORES) if options.soft_weight else 0
    return FP32 * sum(parameters(teacher).values()) + soft


def planned_phases(options: TrainOptions, shapes: Sequence[RowShape], lengths: Sequence[int]) -> list[PlannedPhase]:
    """Return the phases of a run. shapes and lengths: of the rows of each phase, the short one first."""
    bounds = [0, options.steps] if len(shapes) == 1 else [0, options.long_from, options.steps]
    rows = [options.row_schedule.first(step) for step in bounds]
    return [
        PlannedPhase(shape, after - before, micro_rows(options, length, lengths[-1]))
        for shape, length, before, after in zip(shapes, lengths, rows, rows[1:], strict=False)
    ]


def micro_rows(options: TrainOptions, length: int, full: int) -> int:
    """Return the rows of a micro-batch in a phase of this length; `micro_batch` counts rows of the full length."""
    return min(options.batch_size, (options.micro_batch or options.batch_size) * max(1, full // length))


def optimizer_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """Return the bytes of the optimiser's states."""
    shapes = [shape for _, shape in weight_shapes(config)]
    count = sum(map(math.prod, shapes))
    if options.optimizer == "sgd":
        return FP32 * count if options.momentum else 0
    if options.optimizer == "adafactor":
        return FP32 * sum(math.prod(s[:-1]) + math.prod(s[:-2]) * s[-1] if len(s) > 1 else s[0] for s in shapes)
    return 2 * FP32 * count


def memory(
    config: TransformerConfig,
    shape: RowShape,
    options: TrainOptions,
    computing: Computing,
    micro: int,
    checkpointing: bool,
    teacher: int = 0,
) -> Memory:
    """Estimate the memory of a training step with `micro` rows in a micro-batch.

    Activations and temporary tensors are counted in passes of small copies of the model (`planning.activations`).
    checkpointing: whether layers are computed again. teacher: bytes of a teacher (`distil_bytes`).
    """
    from blankfill.kernels.lm_loss import GPU_ROWS, SCORES
    from blankfill.planning.activations import activations

    measured = activations(config, shape, computing)
    stored = measured.kept_by_inputs(config, shape, micro) if checkpointing else measured.kept(config, micro)
    table = FP32 * config.vocab_size * config.word_size
    targets, borders = math.ceil(micro * shape.targets), math.ceil(micro * shape.span_boundary_targets)
    # gradients made in the forward pass; words predicted from borders are multiplied with the table once more
    loss = table * (2 if config.max_span_positions else 1) + (targets + borders) * FP32 * config.word_size
    block = SCORES if computing.device == "cpu" else GPU_ROWS * config.vocab_size
    working = max(FP32 * min(targets * config.vocab_size, block), measured.taken(micro))
    weights = gradients = FP32 * sum(parameters(config).values())
    states = optimizer_bytes(config, options)
    columns = shape.columns + (0 if shape.context is None else shape.context.columns)
    row_bytes = columns * (8 + 8 * len(config.position_sizes) + 12) + 16 * math.ceil(shape.targets)
    batches = (STEPS_READY * options.batch_size + options.eval_rows) * row_bytes
    saving = checkpoint_bytes(config, options) if computing.device == "cpu" else 0
    before = gradients if micro < options.batch_size else 0
    forward = before + HOLES * (stored + loss + working)
    backward = gradients + HOLES * max(2 * table, optimizer_temporaries(config, options))
    peak = int(weights + states + batches + saving + teacher + max(forward, backward)) + PROCESS[computing.width]
    return Memory(
        micro, weights, gradients, states, round(stored), loss, round(working), batches, saving, teacher, peak
    )


def optimizer_temporaries(config: TransformerConfig, options: TrainOptions) -> int:
    """Return the bytes that a step of the optimiser takes besides its states: none for fused kernels."""
    table = config.vocab_size * config.word_size
    rest = sum(parameters(config).values()) - table
    if options.optimizer == "lamb":
        return FP32 * max(table, rest)
    own = 1 if config.shared == "all" else max(1, config.num_layers + config.encoder_layers)
    return 2 * FP32 * max(table, rest // own // 3) if options.optimizer == "adafactor" else 0


def checkpoint_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """Return the bytes of a checkpoint on disk: weights and optimiser."""
    return FP32 * sum(parameters(config).values()) + optimizer_bytes(config, options)


def disk_bytes(config: TransformerConfig, options: TrainOptions) -> int:
    """Return the bytes of all checkpoints at most: those that are kept, the best one, and the one being written."""
    return (options.save_total_limit + 2) * checkpoint_bytes(config, options)
