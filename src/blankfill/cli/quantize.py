"""`blankfill quantize`: make a model smaller by storing its weights in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.quantizing.gate_options import GateOptions

if TYPE_CHECKING:
    from blankfill.quantizing.gate import GateReport
    from blankfill.quantizing.run import Quantized


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments(GateOptions):
    """Store the weights of a model in 8 or 4 bits.

    The matrices of attention and feed-forward layers become integers with a scale for each row; embeddings, norms and
    heads stay as they are. The new folder works with fill, generate, chat, predict, embed and evaluate, and finetune
    trains LoRA or a prefix on it. One layer is in memory at a time. The new model is then measured against the old one:
    loss on held-out text or the metric of its task, divergence, times. Where it loses more than --max-loss or is
    slower, it is not written, unless with --force.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model out bits rounding",
        "Gate": "text data max_loss min_cosine gate_rows gate_seconds force dtype",
        "Machine": "threads",
    }

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
    from blankfill.quantizing.gate import through_gate
    from blankfill.quantizing.run import quantize_model
    from blankfill.system.console import as_json
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    made, report = through_gate(
        args.model,
        args.out,
        lambda folder: quantize_model(args.model, folder, int(args.bits), args.rounding),
        args.gate_options(),
    )
    placed = args.force or not report.refused
    return Result(
        values={**as_json(made), "folder": as_json(made.folder) if placed else None, "gate": report.values()},
        show=lambda: show_made(made, report, placed),
        exit_code=0 if placed else 2,
        problems=() if placed else report.refused,
    )


def show_made(made: Quantized, report: GateReport, placed: bool) -> None:
    """Print sizes and errors."""
    from blankfill.system.console import amount, show, worded

    show(f"{made.layers} layers of {made.bits} bits; {amount(made.before, 'B')} → {amount(made.after, 'B')}")
    show(f"error of the weights {made.error:.2%}, of {made.worst.name} {made.worst.relative:.2%}")
    show_gate(report)
    if placed and report.refused:
        show("the model is kept although it would be refused: " + "; ".join(map(worded, report.refused)))
    show(f"the model is in {made.folder}" if placed else "the model is refused and was not written")


def show_gate(report: GateReport) -> None:
    """Print the table of the gate, and what a reader must know of it."""
    from blankfill.quantizing.gate import HEADERS, table_rows
    from blankfill.system.console import show, table, worded

    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    title = f"Measured on {report.text} ({counts})" if report.text else "Measured"
    table(title, table_rows(report), HEADERS)
    for sentence in report.missing:
        show(f"not measured: {worded(sentence)}")
    for sentence in report.notes:
        show(worded(sentence))
