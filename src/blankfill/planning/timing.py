"""A few real steps of a run, timed, to say how long all of it would take.

The run's own loop, model, optimiser and rows are used, in a time box. Where a micro-batch of the whole model does not
fit into memory or into the box, smaller ones are timed: fewer rows at a time, and copies of the model with fewer
layers. A micro-batch's time is taken to be a fixed part (the word table is touched as a whole, however few the rows)
and a part for each row, which grows with the layers; two or three trials tell the parts. What is left out: waiting for
rows, which is made to overlap, samples, and writing checkpoints.
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
from blankfill.planning.estimate import Computing, Part, memory, parameters, training_flops
from blankfill.training.distil import Distillation
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.training.precision import peak_rate
from blankfill.training.progress import Progress
from blankfill.training.scaling import loss_scaler
from blankfill.types import Batch

ENDLESS = 10**9
"""So many steps that neither validation nor checkpoints come due."""
USUAL_SHARE = 0.35
"""The share of the rate of matrix products that a step reaches; only to choose what can be tried."""
LEAST_STEPS = 2
"""Steps that a trial should time, after a first one that warms up; one is timed even when the time is up."""

LEVER = 4
"""How many times more rows a second trial has: what is reckoned from a small difference is mostly noise."""

Size = tuple[int, int]
"""Layers and rows of a trial."""


@dataclass(frozen=True)
class Trial:
    """Timed steps. seconds: forward and backward pass of `rows` rows; update: the optimiser's step, in seconds too."""

    layers: int
    rows: int
    steps: int
    seconds: float
    update: float


@dataclass(frozen=True)
class Rehearsal:
    """What a phase takes, in seconds: a micro-batch, and a step of the optimiser. peak: the rate of square matrix
    products in the same type, in FLOP/s."""

    micro_seconds: float
    update_seconds: float
    peak: float
    trials: tuple[Trial, ...]


@dataclass
class _Clock:
    """Takes the loop's reports and notes when steps, and the optimiser's part of them, begin and end."""

    ends: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    began: float = 0.0

    def record(self, metrics: Metrics) -> None:
        """Metrics are of no interest."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Nor is what happens on the way."""

    def advance(self, step: int, fields: Metrics) -> None:
        """A step is done."""
        self.ends.append(time.perf_counter())

    def before_update(self, *_: object) -> None:
        """The optimiser begins."""
        self.began = time.perf_counter()

    def after_update(self, *_: object) -> None:
        """The optimiser is done."""
        self.updates.append(time.perf_counter() - self.began)


def rehearse(
    config: TransformerConfig,
    part: Part,
    options: TrainOptions,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    free: int,
    batch: Callable[[int], Batch],
    seconds: float = 20.0,
    learns: Distillation | None = None,
) -> Rehearsal | None:
    """Time steps of one phase of a run; None when not even one row with one layer fits.

    batch: makes a batch of so many rows. free: bytes of memory there are. seconds: the time box, model building
    included; a step that has begun is finished. learns: by what, when it is by a teacher's losses.
    """
    began = time.perf_counter()
    peak = peak_rate(device, dtype)
    sizes = what_to_try(config, part, options, computing, free, USUAL_SHARE * peak * seconds)
    trials = []
    for k, (layers, rows) in enumerate(sizes):
        until = began + seconds * (k + 1) / len(sizes)
        # a truncated normal takes seconds for a large word table, and how weights begin changes no time
        tried = dataclasses.replace(config.with_layers(layers), init="normal")
        trials.append(_trial(tried, batch(rows), options, computing, device, dtype, until, learns))
    if not trials:
        return None
    last = trials[-1]
    tried = config.with_layers(last.layers)
    update = last.update * sum(parameters(config).values()) / sum(parameters(tried).values())
    return Rehearsal(micro_seconds(trials, config.num_layers, part.micro), update, peak, tuple(trials))


def what_to_try(
    config: TransformerConfig, part: Part, options: TrainOptions, computing: Computing, free: int, work: float
) -> list[Size]:
    """The sizes of the trials, given the floating-point operations that the time box has room for.

    One trial if a whole micro-batch can be timed; two with fewer rows; three with fewer layers (two, if one row is all
    there is). The smallest of these when even they take longer; none if nothing fits into `free` bytes.
    """
    L, more = config.num_layers, min(LEVER, part.micro)
    ways = [[(L, part.micro)]]
    ways += [[(L, part.micro >> k), (L, LEVER * (part.micro >> k))] for k in range(3, part.micro.bit_length())]
    for layers in sorted({max(1, L >> k) for k in range(1, L.bit_length())}, reverse=True):
        deeper = [(2 * layers, 1)] if 2 * layers <= L else []
        seconds = sorted({more, min(2, more)}, reverse=True)
        ways += [[(layers, 1), *([(layers, rows)] if rows > 1 else []), *deeper] for rows in seconds]

    def work_of(sizes: Sequence[Size]) -> float:
        tried = [(config.with_layers(layers), rows) for layers, rows in sizes]
        return sum((1 + LEAST_STEPS) * rows * training_flops(one, part.shape) for one, rows in tried)

    def fits(sizes: Sequence[Size]) -> bool:
        tried = [(config.with_layers(layers), rows) for layers, rows in sizes]
        again = options.gradient_checkpointing
        return all(memory(one, part.shape, options, computing, rows, again).peak <= free for one, rows in tried)

    possible = [way for way in ways if fits(way)]
    return next((way for way in possible if work_of(way) <= work), min(possible, key=work_of, default=[]))


def micro_seconds(trials: Sequence[Trial], layers: int, rows: int) -> float:
    """Seconds of a micro-batch of `rows` rows of the whole model, from trials of the sizes of `what_to_try`."""
    first = trials[0]
    found = first.seconds
    for other in trials[1:]:
        if other.rows != first.rows:
            by_row = (other.seconds - first.seconds) / (other.rows - first.rows)
            found += max(0.0, by_row) * (rows - first.rows)
    for other in trials[1:]:
        if other.layers != first.layers:
            by_layer = (other.seconds - first.seconds) / (other.layers - first.layers) / first.rows
            found += max(0.0, by_layer) * (layers - first.layers) * rows
    return found


def _trial(
    config: TransformerConfig,
    batch: Batch,
    options: TrainOptions,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    until: float,
    learns: Distillation | None = None,
) -> Trial:
    """Steps on one batch until a time of `time.perf_counter`, through the one loop."""
    model = build(config, 0, device)
    model.use_kernel(computing.kernel)
    model.recompute = options.gradient_checkpointing
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
    if learns is not None:
        learns.teach(trainer)
    trainer.train(batches(), Progress())
    steps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    update = statistics.median(clock.updates[1:])
    seconds = max(1e-9, statistics.median(steps) - update)
    return Trial(config.num_layers, len(batch.input_ids), len(steps), seconds, update)


def run_seconds(
    rehearsals: Sequence[Rehearsal], parts: Sequence[Part], options: TrainOptions, validation_rows: int
) -> tuple[float, float]:
    """Seconds of all training steps, and of all validations. validation_rows: of one validation."""
    training = sum(part.rows / part.micro * one.micro_seconds for part, one in zip(parts, rehearsals, strict=True))
    training += options.steps * rehearsals[-1].update_seconds
    passes = 4 if options.gradient_checkpointing else 3
    validations = 1 + options.steps // options.every("eval")
    return training, validations * validation_rows / parts[-1].micro * rehearsals[-1].micro_seconds / passes
