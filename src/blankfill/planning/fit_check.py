"""The fit check: whether a run fits on this machine, before its first step, and which settings would fit.

It compares the estimates of `planning.estimate` with what is free. Nothing is timed, so `pretrain` checks every time.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blankfill.errors import Problem, UserError, setting
from blankfill.model.config import TransformerConfig
from blankfill.planning.estimate import Computing, PlannedPhase, RowShape, checkpoint_bytes, disk_bytes, memory
from blankfill.system.console import amount
from blankfill.system.environment import usable_memory
from blankfill.training.options import TrainOptions

LENGTH_STEP = 8
"""Shorter rows are tried in multiples of this number of columns."""


@dataclass(frozen=True)
class AvailableSpace:
    """Free memory and disk of a machine, in bytes."""

    memory: int
    """Free memory of the device that trains: main memory for a CPU."""
    main_memory: int
    """Free main memory, to which a checkpoint is copied before it is written."""
    disk: int
    """Free space on the disk of the run folder."""


def available_space(device: str, out: Path) -> AvailableSpace:
    """Return what is free now on a device, named as in torch, and on the disk of a run folder that may not exist yet.

    Raises UserError for a CUDA device that is not there.
    """
    main = usable_memory()
    on_device = main
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"{setting('train.device')} is {device}, and torch finds no CUDA GPU here; use "
                f"{setting('train.device', 'cpu')} or auto"
            )
        on_device = torch.cuda.mem_get_info(torch.device(device))[0]
    folder = out.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return AvailableSpace(on_device, main, shutil.disk_usage(folder).free)


def fit_problems(
    config: TransformerConfig,
    phases: Sequence[PlannedPhase],
    options: TrainOptions,
    computing: Computing,
    available: AvailableSpace,
    vocabulary: int,
    teacher: int = 0,
) -> list[str]:
    """Return what keeps a run from working, a sentence each with its remedy; empty when the run fits.

    phases: of the run. vocabulary: the tokenizer's size. teacher: bytes of a teacher. To be called before the model is
    built, since `available` is what is free then; raise `ConfigError` with the result. A resumed run has checkpoints on
    disk already, which new ones replace: add their size to `available.disk`.
    """
    problems = table_problems(config, [phase.shape for phase in phases], vocabulary)
    if problems:
        return [Problem(sentence) for sentence in problems]
    again, free = options.gradient_checkpointing, available.memory - teacher
    peaks = [memory(config, phase.shape, options, computing, phase.micro_batch, again).peak for phase in phases]
    if max(peaks) > free:
        worst = phases[peaks.index(max(peaks))]
        problems.append(
            f"with {worst.micro_batch} rows of {worst.shape.columns:,} tokens at a time this run takes about "
            f"{amount(max(peaks) + teacher, 'B')} of memory, and {amount(available.memory, 'B')} is free; "
            f"{memory_remedy(config, phases, options, computing, free)}"
        )
    size = checkpoint_bytes(config, options)
    if computing.device != "cpu" and size > available.main_memory:
        problems.append(
            f"a checkpoint of {amount(size, 'B')} is copied to main memory before it is written, and only "
            f"{amount(available.main_memory, 'B')} is free there; "
            f"{setting('train.optimizer', 'adafactor')} has less state, or choose a smaller model"
        )
    if (need := disk_bytes(config, options)) > available.disk:
        fewer = ""
        if (
            options.save_total_limit > 1
            and (least := disk_bytes(config, dataclasses.replace(options, save_total_limit=1))) <= available.disk
        ):
            fewer = f"{setting('train.save_total_limit', 1)} needs {amount(least, 'B')} and fits; or "
        sentence = (
            f"the checkpoints of this run take up to {amount(need, 'B')} on disk ({options.save_total_limit + 2} of "
            f"{amount(size, 'B')}: those that are kept, the best one and the one being written), and "
            f"{amount(available.disk, 'B')} is free; {fewer}free {amount(need - available.disk, 'B')} more, or give "
            f"{setting('out')} a folder on another disk"
        )
        problems.append(sentence)
    return [Problem(sentence) for sentence in problems]


def table_problems(config: TransformerConfig, shapes: Sequence[RowShape], vocabulary: int) -> list[str]:
    """Return which tables of the model are too small for the rows, a sentence each: for ids or for positions."""
    problems = []
    if vocabulary > config.vocab_size:
        problems.append(
            f"the tokenizer has {vocabulary:,} tokens and the model's token embeddings only {config.vocab_size:,} "
            "rows; they do not belong together: use the tokenizer that the model was made with"
        )
    if (ids := max(shape.ids for shape in shapes)) > vocabulary:
        problems.append(
            f"the token files hold the id {ids - 1:,} and the tokenizer has only {vocabulary:,} tokens; they do not "
            "belong together: prepare the text again"
        )
    for channel, size in enumerate(config.position_sizes):
        need = max((shape.positions[channel] for shape in shapes if channel < len(shape.positions)), default=0)
        if need > size:
            problems.append(
                f"the rows name position {need - 1:,}, and position table {channel + 1} of the model has only {size:,} "
                f"rows; raise {setting('model.positions')} or lower {setting('objective.length')}"
            )
    return problems


def memory_remedy(
    config: TransformerConfig, phases: Sequence[PlannedPhase], options: TrainOptions, computing: Computing, free: int
) -> str:
    """Return which settings would make a run fit into `free` bytes, as the end of a sentence.

    phases: of the run, that of the full length last, whose rows train.micro_batch counts.
    """

    def rows_that_fit(checkpointing: bool) -> int:
        return min(
            largest_micro(config, phase.shape, options, computing, free, checkpointing)
            // max(1, phase.micro_batch // phases[-1].micro_batch)
            for phase in phases
        )

    ways = []
    plain = rows_that_fit(options.gradient_checkpointing)
    if plain:
        ways.append(f"{setting('train.micro_batch', plain)} fits and computes the same but for dropout and rounding")
    if not options.gradient_checkpointing:
        again = rows_that_fit(True)
        if again > plain:
            ways.append(
                f"{setting('train.gradient_checkpointing', True)} with {setting('train.micro_batch', again)} fits, at "
                "a third more work"
            )
    if ways:
        return ", or ".join(ways)
    shape = max((phase.shape for phase in phases), key=lambda shape: shape.columns)
    one_row = f"{setting('train.gradient_checkpointing', True)} and {setting('train.micro_batch', 1)}"

    def fits(config: TransformerConfig, shape: RowShape, options: TrainOptions) -> bool:
        return memory(config, shape, options, computing, 1, True).peak <= free

    if options.optimizer != "adafactor" and fits(config, shape, dataclasses.replace(options, optimizer="adafactor")):
        ways.append(f"{setting('train.optimizer', 'adafactor')} with {one_row}")

    length = shape.columns if shape.context is None else shape.context.columns  # objective.length is the encoder's

    def shorter(steps: int) -> RowShape:
        return shape.shortened(LENGTH_STEP * steps / length)

    if steps := largest(length // LENGTH_STEP, lambda steps: fits(config, shorter(steps), options)):
        ways.append(f"{one_row} with rows of {LENGTH_STEP * steps:,} tokens ({setting('objective.length')})")
    if layers := largest(config.num_layers - 1, lambda layers: fits(config.with_layers(layers), shape, options)):
        ways.append(f"{setting('model.num_layers', layers)} with {one_row}")
    least = memory(config, shape, options, computing, 1, True)
    fixed = amount(least.weights + least.gradients + least.optimizer + least.saving, "B")
    remedy = f"these would fit: {'; '.join(ways)}" if ways else "choose a smaller recipe or a smaller vocabulary"
    return f"weights, gradients, optimiser and the copy that checkpoints are written from are {fixed}; {remedy}"


def largest_micro(
    config: TransformerConfig,
    shape: RowShape,
    options: TrainOptions,
    computing: Computing,
    free: int,
    checkpointing: bool,
) -> int:
    """Return the largest micro-batch that fits into `free` bytes, at most a step's rows; 0 if not even one row fits."""

    def fits(rows: int) -> bool:
        return memory(config, shape, options, computing, rows, checkpointing).peak <= free

    return largest(options.batch_size, fits)


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `limit` that fits, 0 if none does; below a number that fits, all fit."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
