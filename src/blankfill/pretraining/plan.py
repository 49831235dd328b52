"""The plan of a run before it starts: the function behind `blankfill plan`.

Estimates are from `planning.estimate` and `planning.flops`, the check from `planning.fit_check`, times from
`planning.timing`. Not here: printing (`cli.plan`).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe
from blankfill.planning.estimate import Memory, PlannedPhase
from blankfill.planning.fit_check import AvailableSpace

if TYPE_CHECKING:
    import torch

    from blankfill.model.config import TransformerConfig
    from blankfill.planning.estimate import Computing
    from blankfill.planning.timing import Timing
    from blankfill.pretraining.plan_text import PlannedText
    from blankfill.pretraining.teacher import Teacher


@dataclass(frozen=True)
class PlannedDisk:
    """Bytes that a run takes on disk."""

    checkpoint: int
    """One checkpoint."""
    checkpoints: int
    """All checkpoints at most: those that are kept, the best one, and the one being written."""
    token_files: int
    """Token files of the corpus."""


@dataclass(frozen=True)
class PlannedWork:
    """The steps of a run, their rows, tokens and floating-point operations."""

    steps: int
    """Number of steps."""
    rows: int
    """Number of rows in all steps."""
    tokens_per_step: float
    """Tokens of a step at the full length."""
    tokens: float
    """Tokens of all steps."""
    epochs: float | None
    """How many times the run reads the text; None without text."""
    epochs_exact: bool
    """Whether the text was counted; otherwise its tokens are estimated from the sizes of files."""
    tokens_per_parameter: float
    """Tokens of all steps per weight of the model."""
    flops_per_step: float
    """Floating-point operations of a step at the full length, with those of a teacher."""
    flops: float
    """Floating-point operations of all steps."""


@dataclass(frozen=True)
class PlannedTime:
    """Times of a run on this machine, from timed steps; samples and the writing of checkpoints are left out."""

    training: float
    """Seconds of all training steps."""
    validation: float
    """Seconds of all validations."""
    step: float
    """Seconds of a step at the full length."""
    tokens_per_second: float
    """Mean tokens per second of training."""
    flops_per_second: float
    """Mean floating-point operations per second of training."""
    matmul_rate: float
    """Rate of large matrix products alone in the same type, in FLOP/s."""
    timings: Sequence[Timing]
    """The measured times of each phase."""
    layers: int
    """Layers of the whole model, of which a trial may have fewer."""


@dataclass(frozen=True)
class Plan:
    """What a run takes, and whether it fits on this machine."""

    recipe: str
    """Name of the recipe."""
    text: str
    """Description of the text."""
    device: str
    """Type of the device that trains, as torch names it."""
    compute_type: str
    """Type of matrix products: float32, bfloat16 or float16."""
    parameters: Mapping[str, int]
    """Number of weights by part of the model, and in "total"."""
    phases: Sequence[PlannedPhase]
    """Phases of the run, each with rows of one length; the full length is last."""
    memory: Memory
    """Bytes in memory, for the phase that needs most."""
    disk: PlannedDisk
    """Bytes on disk."""
    available: AvailableSpace
    """Free memory and disk of this machine."""
    work: PlannedWork
    """Steps, tokens and floating-point operations."""
    time: PlannedTime | None
    """Times on this machine; None if no steps were timed, or if nothing fits."""
    notes: Sequence[str]
    """Remarks on the figures, a sentence each."""
    problems: Sequence[str]
    """What keeps the run from working on this machine, a sentence each with the settings that would fit; empty if it
    fits."""

    @property
    def fits(self) -> bool:
        """Whether the run fits on this machine."""
        return not self.problems

    def values(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return dataclasses.asdict(self)


def plan(
    recipe: Recipe,
    paths: Sequence[str | Path] = (),
    out: str | Path = "runs/blankfill",
    teacher: str | Path | None = None,
    timing_seconds: float = 0.0,
) -> Plan:
    """Estimate what a run takes before it starts; nothing is trained or written to the run folder.

    Args:
        recipe: The recipe of the run.
        paths: Text, or a folder made by `prepare`, as for `pretrain`; without any, random rows are used.
        out: The run folder, for the free space on its disk; it may not exist yet.
        teacher: The model that the run learns from, as for `pretrain`.
        timing_seconds: Seconds for timed steps, usually 20; 0 times none.

    Returns:
        Parameters, memory, disk, work and times of the run, and the problems that keep it from fitting.

    Raises:
        UserError: When the text, the teacher or the device cannot be used; ConfigError, with all problems, when recipe
            and teacher do not belong together.
    """
    from blankfill.attention.kernels import best_kernel
    from blankfill.planning import estimate, fit_check
    from blankfill.pretraining.plan_text import open_text
    from blankfill.pretraining.teacher import open_teacher
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.system.device import pick_device
    from blankfill.system.threads import use_threads
    from blankfill.training.precision import pick_dtype

    options = recipe.check().train
    use_threads(options.threads)
    keep_freed_memory()
    device = pick_device(options.device)
    available = fit_check.available_space(str(device), Path(out))
    dtype = pick_dtype(options.precision, device)
    computing = estimate.Computing.of(dtype, best_kernel(device, dtype), device.type)
    opened = open_teacher(teacher, device) if teacher else None
    if opened is not None:
        opened.check(recipe, opened.tokenizer)
        opened.loaded.model.use_kernel(computing.kernel)
    with tempfile.TemporaryDirectory(prefix="blankfill-", ignore_cleanup_errors=True) as folder:
        text = open_text(paths, recipe, Path(folder), opened)
        size = text.vocabulary.size
        config = recipe.model_config(size)
        config = opened.student_config(config, recipe) if opened else config
        teacher_bytes = estimate.distil_bytes(opened.config, config, recipe.distil) if opened else 0
        shapes = [
            estimate.row_shape(estimate.sampled_rows(sampler), text.vocabulary["pad"], text.counts)
            for sampler in text.samplers
        ]
        phases = estimate.planned_phases(options, shapes, [sampler.objective.length for sampler in text.samplers])
        problems = fit_check.fit_problems(config, phases, options, computing, available, size, teacher_bytes)
        timings = None
        if timing_seconds and not fit_check.table_problems(config, shapes, size):
            free = available.memory - teacher_bytes
            timings = time_phases(
                config, phases, recipe, computing, device, dtype, free, text, opened, timing_seconds
            )  # fmt: skip
        text.samplers.clear()  # their files are open, and Windows removes no open files
    needs = [
        estimate.memory(
            config, phase.shape, options, computing, phase.micro_batch, options.gradient_checkpointing, teacher_bytes
        )
        for phase in phases
    ]
    parameters = estimate.parameters(config)
    count = sum(parameters.values())
    work = planned_work(recipe, config, phases, text, count, opened)
    return Plan(
        recipe.name, text.description, device.type, str(dtype).removeprefix("torch."), {**parameters, "total": count},
        phases, max(needs, key=lambda need: need.peak),
        PlannedDisk(estimate.checkpoint_bytes(config, options), estimate.disk_bytes(config, options), text.disk),
        available, work, planned_time(recipe, config, phases, timings, text, work) if timings else None,
        notes(recipe, work, text, bool(timings)), problems,
    )  # fmt: skip


def time_phases(
    config: TransformerConfig,
    phases: Sequence[PlannedPhase],
    recipe: Recipe,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    free: int,
    text: PlannedText,
    teacher: Teacher | None,
    seconds: float,
) -> list[Timing] | None:
    """Time steps of each phase; None when not even one layer fits into `free` bytes."""
    from blankfill.data.batching import collate
    from blankfill.data.sampler import Sampler
    from blankfill.planning.estimate import SAMPLED_ROWS, sampled_rows
    from blankfill.planning.timing import time_phase
    from blankfill.system.console import say
    from blankfill.types import Batch

    say(f"timing some steps on {device.type}, about {seconds:.0f} s")
    distillation = teacher.distillation(recipe) if teacher else None
    timings = []
    for phase, sampler in zip(phases, text.samplers, strict=True):

        def batch(rows: int, sampler: Sampler = sampler) -> Batch:
            candidates = sampled_rows(sampler, max(rows, SAMPLED_ROWS))
            widest = sorted(candidates, key=lambda row: sum(map(len, row)), reverse=True)[:rows]
            return collate(widest, text.vocabulary["pad"])

        timing = time_phase(
            config, phase, recipe.train, computing, device, dtype, free, batch, seconds / len(phases), distillation
        )
        if timing is None:
            return None
        timings.append(timing)
    return timings


def planned_work(
    recipe: Recipe,
    config: TransformerConfig,
    phases: Sequence[PlannedPhase],
    text: PlannedText,
    parameters: int,
    teacher: Teacher | None,
) -> PlannedWork:
    """Return the work of a run. parameters: number of weights of the model."""
    from blankfill.planning.flops import distil_flops, training_flops

    options = recipe.train
    row_flops = [
        training_flops(config, phase.shape)
        + (distil_flops(teacher.config, config, recipe.distil, phase.shape) if teacher else 0.0)
        for phase in phases
    ]
    rows, tokens = sum(phase.rows for phase in phases), sum(phase.rows * phase.shape.tokens for phase in phases)
    epochs = None
    if text.tokens:
        epochs = rows / text.rows if text.rows and len(phases) == 1 else tokens / text.tokens
    return PlannedWork(
        options.steps, rows, options.batch_size * phases[-1].shape.tokens, tokens, epochs, text.exact,
        tokens / parameters, options.batch_size * row_flops[-1],
        sum(phase.rows * flops for phase, flops in zip(phases, row_flops, strict=True)),
    )  # fmt: skip


def planned_time(
    recipe: Recipe,
    config: TransformerConfig,
    phases: Sequence[PlannedPhase],
    timings: Sequence[Timing],
    text: PlannedText,
    work: PlannedWork,
) -> PlannedTime:
    """Return the times of a run from those of its phases."""
    from blankfill.planning.timing import run_seconds

    options = recipe.train
    rows = options.eval_rows if text.valid_rows is None else min(options.eval_rows, text.valid_rows)
    training, validation = run_seconds(timings, phases, options, rows)
    last = timings[-1]
    step = options.batch_size / phases[-1].micro_batch * last.micro_batch_seconds + last.update_seconds
    return PlannedTime(
        training, validation, step, work.tokens / training, work.flops / training, last.matmul_rate, tuple(timings),
        config.num_layers,
    )  # fmt: skip


def notes(recipe: Recipe, work: PlannedWork, text: PlannedText, timed: bool) -> list[str]:
    """Return remarks on the figures of a plan, a sentence each."""
    from blankfill.planning.flops import CHINCHILLA

    sentences = []
    if recipe.objective.causal:
        sentences.append(
            f"{work.tokens_per_parameter:,.1f} tokens per parameter; for left-to-right models Hoffmann et al. 2022 "
            f"found about {CHINCHILLA} best for a given amount of computation: with fewer a smaller model would do as "
            "well, with more a larger one"
        )
    if recipe.corpus.vocab_size and not recipe.corpus.vocab_exact and not text.exact:
        sentences.append("the vocabulary size is an upper limit; a small text gets fewer tokens, and a smaller model")
    if timed and hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        sentences.append("other programs keep this machine busy, so the times are too long")
    return sentences
