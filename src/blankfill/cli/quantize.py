"""`blankfill quantize`: make a model smaller by storing its weights in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result

if TYPE_CHECKING:
    from blankfill.quantizing.run import Quantized


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments:
    """Store the weights of a model in 8 or 4 bits.

    The matrices of attention and feed-forward layers become integers with a scale for each row; embeddings, norms and
    heads stay as they are. The new folder works with fill, generate, chat, predict, embed and evaluate, and finetune
    trains LoRA or a prefix on it. One layer is in memory at a time. The command prints the size and the error of the
    weights; it does not measure what the model loses.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill quantize --model models/bert --bits 8 --out models/bert-int8",)

    model: Path
    """A run of pretraining or fine-tuning, one of its checkpoints, or an imported model."""
    out: Path
    """Folder to write; it must be new or empty."""
    bits: Literal["8", "4"] = "8"
    """Bits of a weight."""
    rounding: Literal["exact", "released"] = "exact"
    """exact: the nearest integers. released: as the original code of ChatGLM-6B rounds, with quotients of fp16."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(QuantizeArguments, argv, "quantize")
    from blankfill.quantizing.run import quantize_model
    from blankfill.system.console import as_json
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    made = quantize_model(args.model, args.out, int(args.bits), args.rounding)
    return Result(values=as_json(made), show=lambda: show_made(made))


def show_made(made: Quantized) -> None:
    """Print sizes and errors."""
    from blankfill.system.console import amount, show

    show(f"{made.layers} layers of {made.bits} bits; {amount(made.before, 'B')} → {amount(made.after, 'B')}")
    show(
        f"error of the weights {made.error:.2%}, of {made.worst.name} {made.worst.relative:.2%}; measure what the "
        "model loses with `blankfill evaluate`"
    )
    show(f"the model is in {made.folder}")
