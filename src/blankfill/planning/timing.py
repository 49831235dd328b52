"""Timed steps of a run, to estimate how long all of it takes.

The run's own loop, model, optimiser and rows are used, for a limited time. Where a micro-batch of the whole model does
not fit into memory or takes too long, smaller ones are timed: fewer rows in a micro-batch, and copies of the model with
fewer layers. The time of a micro-batch is taken to be a constant (the gradient of the token embeddings is as large for
one row as for many) and a time for each row, which grows with the layers; two or three trials give these terms. Left
out are waiting for rows, which overlaps with computing, samples, and writing checkpoints.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.planning.estimate import Computing, PlannedPhase, memory, parameters
from blankfill.planning.flops import training_flops
from blankfill.training.distil import Distillation
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.training.precision import peak_rate
from blankfill.training.progress import Progress
from blankfill.training.scaling import loss_scaler
from blankfill.types import Batch

ENDLESS = 10**9
"""Number of steps after which validations and checkpoints would come due."""
USUAL_SHARE = 0.35
"""Share of the rate of matrix products that a step usually reaches; only to choose the sizes of trials."""
LEAST_STEPS = 2
"""Steps that a trial should time, after a first step that warms up; one is timed even when the time is over."""

LEVER = 4
"""Ratio of the rows of two trials: a slope between sizes that differ little is mostly noise."""

Size = tuple[int, int]
"""Layers and rows of a trial."""


@dataclass(frozen=True)
class Trial:
    """Timed steps of one size."""

    layers: int
    """Layers of the model that was timed."""
    rows: int
    """Rows of its micro-batch."""
    steps: int
    """Number of timed steps."""
    seconds: float
    """Median seconds of the forward and backward pass of a micro-batch."""
    update: float
    """Median seconds of a step of the optimiser."""


@dataclass(frozen=True)
class Timing:
    """Measured times of a phase of a run."""

    micro_batch_seconds: float
    """Seconds of the forward and backward pass of a micro-batch."""
    update_seconds: float
    """Seconds of a step of the optimiser."""
    matmul_rate: float
    """Rate of large matrix products in the same type, in FLOP/s."""
    trials: tuple[Trial, ...]
    """The timed steps from which the times were computed."""


@dataclass
class _Clock:
    """A recorder for the loop that notes when steps, and those of the optimiser, begin and end."""

    ends: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    began: float = 0.0

    def record(self, metrics: Metrics) -> None:
        """Ignore metrics."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Ignore events."""

    def advance(self, step: int, fields: Metrics) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())

    def before_update(self, *_: object) -> None:
        """Note the beginning of the optimiser's step."""
        self.began = time.perf_counter()

    def after_update(self, *_: object) -> None:
        """Note the end of the optimiser's step."""
        self.updates.append(time.perf_counter() - self.began)


def time_phase(
    config: TransformerConfig,
    phase: PlannedPhase,
    options: TrainOptions,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    free: int,
    batch: Callable[[int], Batch],
    seconds: float = 20.0,
    distillation: Distillation | None = None,
) -> Timing | None:
    """Time steps of one phase of a run; None when not even one row with one layer fits.

    batch: returns a batch of a number of rows. free: bytes of free memory. seconds: the limit, model building included;
    a step that has begun is finished. distillation: the losses of a teacher, for a run that has one.
    """
    began = time.perf_counter()
    rate = peak_rate(device, dtype)
    sizes = trial_sizes(config, phase, options, computing, free, USUAL_SHARE * rate * seconds)
    trials = []
    for k, (layers, rows) in enumerate(sizes):
        until = began + seconds * (k + 1) / len(sizes)
        tried = config.with_layers(layers)
        trials.append(_trial(tried, batch(rows), options, computing, device, dtype, until, distillation))
    if not trials:
        return None
    last = trials[-1]
    tried = config.with_layers(last.layers)
    update = last.update * sum(parameters(config).values()) / sum(parameters(tried).values())
    return Timing(micro_batch_seconds(trials, config.num_layers, phase.micro_batch), update, rate, tuple(trials))


def trial_sizes(
    config: TransformerConfig, phase: PlannedPhase, options: TrainOptions, computing: Computing, free: int, work: float
) -> list[Size]:
    """Return the sizes of the trials. work: the floating-point operations that fit into the time limit.

    One trial if a whole micro-batch can be timed; two with fewer rows; three with fewer layers (two, if the micro-batch
    is one row). The smallest of these when even they take longer; none if nothing fits into `free` bytes.
    """
    L, more = config.num_layers, min(LEVER, phase.micro_batch)
    ways = [[(L, phase.micro_batch)]]
    whole = phase.micro_batch
    ways += [[(L, whole >> k), (L, LEVER * (whole >> k))] for k in range(3, whole.bit_length())]
    for layers in sorted({max(1, L >> k) for k in range(1, L.bit_length())}, reverse=True):
        deeper = [(2 * layers, 1)] if 2 * layers <= L else []
        seconds = sorted({more, min(2, more)}, reverse=True)
        ways += [[(layers, 1), *([(layers, rows)] if rows > 1 else []), *deeper] for rows in seconds]

    def work_of(sizes: Sequence[Size]) -> float:
        tried = [(config.with_layers(layers), rows) for layers, rows in sizes]
        return sum((1 + LEAST_STEPS) * rows * training_flops(copy, phase.shape) for copy, rows in tried)

    def fits(sizes: Sequence[Size]) -> bool:
        tried = [(config.with_layers(layers), rows) for layers, rows in sizes]
        again = options.gradient_checkpointing
        return all(memory(copy, phase.shape, options, computing, rows, again).peak <= free for copy, rows in tried)

    possible = [way for way in ways if fits(way)]
    return next((way for way in possible if work_of(way) <= work), min(possible, key=work_of, default=[]))


def micro_batch_seconds(trials: Sequence[Trial], layers: int, rows: int) -> float:
    """Return the seconds of a micro-batch of the whole model with `rows` rows, from trials of `trial_sizes`."""
    first = trials[0]
    total = first.seconds
    for other in trials[1:]:
        if other.rows != first.rows:
            by_row = (other.seconds - first.seconds) / (other.rows - first.rows)
            total += max(0.0, by_row) * (rows - first.rows)
    for other in trials[1:]:
        if other.layers != first.layers:
            by_layer = (other.seconds - first.seconds) / (other.layers - first.layers) / first.rows
            total += max(0.0, by_layer) * (layers - first.layers) * rows
    return total


def _trial(
    config: TransformerConfig,
    batch: Batch,
    options: TrainOptions,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    until: float,
    distillation: Distillation | None = None,
) -> Trial:
    """Time steps on one batch until a time of `time.perf_counter`, in the training loop."""
    model = build(config, 0, device)
    model.use_kernel(computing.kernel)
    model.recompute = options.gradient_checkpointing
    model.token_embeddings.gradient_shrink = options.embedding_gradient_shrink
    optimizer = build_optimizer(model, options)
    clock = _Clock()
    optimizer.register_step_pre_hook(clock.before_update)
    optimizer.register_step_post_hook(clock.after_update)
    endless = dataclasses.replace(
        options, steps=ENDLESS, log_every=ENDLESS, eval_every=ENDLESS, save_every=ENDLESS, sample_every=ENDLESS
    )

    def batches() -> Iterator[tuple[int, list[Batch]]]:
        for step in range(ENDLESS):
            if step > 1 and time.perf_counter() > until:
                return
            yield step, [batch]

    trainer = Trainer(
        model, optimizer, endless, 0, device, dtype, clock, lambda step: [], lambda progress: None,
        options.row_schedule, loss_scaler(device, dtype), on_nan="skip",
    )  # fmt: skip
    if distillation is not None:
        distillation.teach(trainer)
    trainer.train(batches(), Progress())
    steps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    update = statistics.median(clock.updates[1:])
    seconds = max(1e-9, statistics.median(steps) - update)
    return Trial(config.num_layers, len(batch.input_ids), len(steps), seconds, update)


def run_seconds(
    timings: Sequence[Timing], phases: Sequence[PlannedPhase], options: TrainOptions, validation_rows: int
) -> tuple[float, float]:
    """Return the seconds of all training steps, and of all validations. validation_rows: of one validation."""
    training = sum(
        phase.rows / phase.micro_batch * timing.micro_batch_seconds
        for phase, timing in zip(phases, timings, strict=True)
    )
    training += options.steps * timings[-1].update_seconds
    passes = 4 if options.gradient_checkpointing else 3
    validations = 1 + options.steps // options.every("eval")
    one_pass = timings[-1].micro_batch_seconds / passes
    return training, validations * validation_rows / phases[-1].micro_batch * one_pass
