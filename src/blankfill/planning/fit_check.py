"""Whether a run will work on this machine, said before its first step: what does not fit, and what would.

The costs are `planning.estimate`'s. Nothing is measured here, so `pretrain` can ask it every time.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blankfill.errors import Problem, UserError, setting
from blankfill.model.config import TransformerConfig
from blankfill.planning.estimate import Computing, Part, RowShape, checkpoint_bytes, disk_bytes, memory
from blankfill.system.console import amount
from blankfill.system.environment import usable_memory
from blankfill.training.options import TrainOptions

LENGTH_STEP = 8
"""Shorter rows are tried in multiples of so many columns."""


@dataclass(frozen=True)
class Room:
    """What a machine has to spare, in bytes. memory: where the model lies; main: where checkpoints are copied to first
    (the same on a CPU); disk: where the run is written."""

    memory: int
    main: int
    disk: int


def room(device: str, out: Path) -> Room:
    """What is free now, on a device (as torch names it) and where a run folder is, or will be.

    Raises UserError for a CUDA device that is not there.
    """
    main = usable_memory()
    on_device = main
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"train.device is {device}, and torch finds no CUDA GPU here; use train.device cpu or auto")
        on_device = torch.cuda.mem_get_info(torch.device(device))[0]
    folder = out.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return Room(on_device, main, shutil.disk_usage(folder).free)


def verdict(
    config: TransformerConfig,
    parts: Sequence[Part],
    options: TrainOptions,
    computing: Computing,
    room: Room,
    vocabulary: int,
) -> list[str]:
    """What keeps a run from working, a sentence each with its remedy; empty when it will fit. Measures nothing.

    parts: the phases of the run. vocabulary: the tokenizer's size. To be called before the model is built, since `room`
    is what is free then; raise `ConfigError` with what it returns. A run that is resumed has checkpoints on disk
    already, which new ones replace: add their size to `room.disk`.
    """
    found = misfits(config, [part.shape for part in parts], vocabulary)
    if found:
        return found
    again = options.gradient_checkpointing
    needs = [memory(config, part.shape, options, computing, part.micro, again).peak for part in parts]
    if max(needs) > room.memory:
        worst = parts[needs.index(max(needs))]
        found.append(
            f"with {worst.micro} rows of {worst.shape.columns:,} tokens at a time this run takes about "
            f"{amount(max(needs), 'B')} of memory, and {amount(room.memory, 'B')} is free; "
            f"{memory_remedy(config, parts, options, computing, room.memory)}"
        )
    one = checkpoint_bytes(config, options)
    if computing.device != "cpu" and one > room.main:
        found.append(
            f"a checkpoint of {amount(one, 'B')} is copied to main memory before it is written, and only "
            f"{amount(room.main, 'B')} is free there; train.optimizer adafactor keeps less, or choose a smaller model"
        )
    if (need := disk_bytes(config, options)) > room.disk:
        fewer = ""
        if (
            options.save_total_limit > 1
            and (least := disk_bytes(config, dataclasses.replace(options, save_total_limit=1))) <= room.disk
        ):
            fewer = f"train.save_total_limit 1 needs {amount(least, 'B')} and fits; or "
        taken = (
            f"the checkpoints of this run take up to {amount(need, 'B')} on disk ({options.save_total_limit + 2} of "
            f"{amount(one, 'B')}: those kept, the best one and the one being written), and {amount(room.disk, 'B')} is "
            f"free; {fewer}free {amount(need - room.disk, 'B')} more, or give {setting('out')} a folder on another disk"
        )
        found.append(Problem(taken))
    return found


def misfits(config: TransformerConfig, shapes: Sequence[RowShape], vocabulary: int) -> list[str]:
    """What would fail at some row: a vocabulary, ids or positions past their tables; a sentence each."""
    found = []
    if vocabulary > config.vocab_size:
        found.append(
            f"the tokenizer has {vocabulary:,} tokens and the model's word table only {config.vocab_size:,} rows; they "
            "do not belong together: use the tokenizer that the model was made with"
        )
    if (ids := max(shape.ids for shape in shapes)) > vocabulary:
        found.append(
            f"the token files hold the id {ids - 1:,} and the tokenizer has only {vocabulary:,} tokens; they do not "
            "belong together: prepare the text again"
        )
    for channel, size in enumerate(config.position_sizes):
        need = max((shape.positions[channel] for shape in shapes if channel < len(shape.positions)), default=0)
        if need > size:
            found.append(
                f"the rows name position {need - 1:,}, and position table {channel + 1} of the model has only {size:,} "
                "rows; raise model.positions or lower objective.length"
            )
    return found


def memory_remedy(
    config: TransformerConfig, parts: Sequence[Part], options: TrainOptions, computing: Computing, free: int
) -> str:
    """What would make a run fit into so many bytes, as the end of a sentence.

    parts: its phases, that of the full length last; its rows are those that train.micro_batch counts.
    """

    def rows_that_fit(checkpointing: bool) -> int:
        return min(
            largest_micro(config, part.shape, options, computing, free, checkpointing)
            // max(1, part.micro // parts[-1].micro)
            for part in parts
        )

    ways = []
    plain = rows_that_fit(options.gradient_checkpointing)
    if plain:
        ways.append(f"train.micro_batch {plain} fits and computes the same but for dropout and rounding")
    if not options.gradient_checkpointing:
        again = rows_that_fit(True)
        if again > plain:
            ways.append(f"train.gradient_checkpointing with train.micro_batch {again} fits, at a third more work")
    if ways:
        return ", or ".join(ways)
    shape = max((part.shape for part in parts), key=lambda shape: shape.columns)
    one_row = "train.gradient_checkpointing and train.micro_batch 1"

    def fits(config: TransformerConfig, shape: RowShape, options: TrainOptions) -> bool:
        return memory(config, shape, options, computing, 1, True).peak <= free

    if options.optimizer != "adafactor" and fits(config, shape, dataclasses.replace(options, optimizer="adafactor")):
        ways.append(f"train.optimizer adafactor with {one_row}")

    length = shape.columns if shape.context is None else shape.context.columns  # objective.length is the encoder's

    def shorter(steps: int) -> RowShape:
        return shape.shortened(LENGTH_STEP * steps / length)

    if steps := largest(length // LENGTH_STEP, lambda steps: fits(config, shorter(steps), options)):
        ways.append(f"{one_row} with rows of {LENGTH_STEP * steps:,} tokens (objective.length)")
    if layers := largest(config.num_layers - 1, lambda layers: fits(config.with_layers(layers), shape, options)):
        ways.append(f"model.num_layers {layers} with {one_row}")
    least = memory(config, shape, options, computing, 1, True)
    fixed = amount(least.weights + least.gradients + least.optimizer + least.saving, "B")
    told = f"these would fit: {'; '.join(ways)}" if ways else "choose a smaller recipe or a smaller vocabulary"
    return f"weights, gradients, optimiser and the copy that checkpoints are written from are {fixed}; {told}"


def largest_micro(
    config: TransformerConfig,
    shape: RowShape,
    options: TrainOptions,
    computing: Computing,
    free: int,
    checkpointing: bool,
) -> int:
    """The most rows at a time that fit into so many bytes, at most a step's; 0 when not even one does."""

    def fits(rows: int) -> bool:
        return memory(config, shape, options, computing, rows, checkpointing).peak <= free

    return largest(options.batch_size, fits)


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, 0 when none does; below one that fits, all do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
