"""`blankfill quantize`: make a model smaller by storing its weights in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.quantizing.gate_options import GATE_BOUNDS, GateOptions
from blankfill.system.bounds import COUNT, Bound, at_least

if TYPE_CHECKING:
    from blankfill.quantizing.gate_report import GateReport
    from blankfill.quantizing.run import Quantized
    from blankfill.quantizing.settings import QuantizeSettings


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments(GateOptions):
    """Store the weights of a model in 8 or 4 bits.

    The matrices of attention and feed-forward layers become integers with scales; norms, biases, position tables and
    heads of tasks stay as they are. The new folder works with fill, generate, chat, predict, embed and evaluate, and
    finetune trains LoRA or a prefix on it. The new model is measured against the old one: loss on held-out text or the
    metric of its task, divergence, times. Where it loses more than --max-loss or is slower, it is not written, unless
    with --force.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill quantize --model models/bert --bits 8 --out models/bert-int8",
        "blankfill quantize --model runs/gpt --bits 4 --method gptq --out models/gpt-int4",
        "blankfill quantize --model runs/gpt --target-size 40% --out models/gpt-small",
    )
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model out",
        "Weights": "bits group_size scheme method embeddings rounding target_size activations",
        "Calibration": "calibration calibration_rows seed",
        "Gate": "text data max_loss min_cosine gate_rows gate_seconds force dtype",
        "Machine": "threads",
    }
    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **GATE_BOUNDS, "calibration_rows": at_least(1), "seed": COUNT, "threads": COUNT,
    }  # fmt: skip

    model: Path
    """A run of pretraining or fine-tuning, one of its checkpoints, or an imported model."""
    out: Path
    """Folder to write; it must be new or empty."""
    bits: Literal["auto", "8", "4"] = "auto"
    """Bits of a weight. auto: 8; with --target-size, 4 or 8 for each layer."""
    group_size: Literal["auto", "0", "32", "64", "128"] = "auto"
    """Number of inputs that share a scale; 0: a whole row. auto: a row with 8 bits, 64 with 4. Layers whose number of
    inputs it does not divide have smaller groups, or the row."""
    scheme: Literal["auto", "absmax", "zero-point"] = "auto"
    """absmax: integers symmetric about 0. zero-point: an offset beside each scale. auto: absmax with 8 bits, zero-point
    with 4."""
    method: Literal["auto", "nearest", "hqq", "gptq"] = "auto"
    """How the integers are chosen. nearest: each by rounding. hqq: with scales or zero points that make a robust error
    small. gptq: so that the outputs of each layer change least, from calibration text. auto: nearest with 8 bits; with
    4, gptq where there is calibration text, else hqq."""
    embeddings: Literal["auto", "8", "keep"] = "auto"
    """Tables of tokens, and dense layers beside them: 8 bits, or as they are. auto: 8, and as they are in the format of
    ChatGLM-6B."""
    rounding: Literal["exact", "released"] = "exact"
    """exact: the nearest integers. released: the format of ChatGLM-6B's released checkpoints (rows, absmax), with
    quotients of fp16 as its code rounds them."""
    target_size: str = ""
    """Largest size of the weights, such as 60MB, or their share of the original's, such as 0.4 or 40%. Layers that
    change the model's predictions most get 8 bits or stay as they are; this needs calibration text."""
    activations: Literal["auto", "int8", "keep"] = "auto"
    """int8: layers of 8 bits round their input to 8 bits too, with a scale for each token: faster for many rows. keep:
    only weights are rounded. auto: int8 for models that read in both directions and do not write (BERT), and for
    fine-tuned models of tasks without writing, such as classes and tags; else keep."""
    calibration: tuple[Path, ...] = ()
    """Files or folders of text for gptq and --target-size; for a fine-tuned model, data of its task. Without it: the
    training text of the run, or the data of its task, where they are still there."""
    calibration_rows: int = 128
    """Largest number of rows, or of items of a task, to read for calibration; usually 64 to 512."""
    seed: int = 0
    """Seed by which these are drawn."""
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
        lambda folder: quantize_model(args.model, folder, settings_of(args)),
        args.gate_options(),
    )
    placed = args.force or not report.refused
    return Result(
        values={**as_json(made), "folder": as_json(made.folder) if placed else None, "gate": report.values()},
        show=lambda: show_made(made, report, placed),
        exit_code=0 if placed else 2,
        problems=() if placed else report.refused,
    )


def settings_of(args: QuantizeArguments) -> QuantizeSettings:
    """Return the settings of a command line."""
    from blankfill.quantizing.settings import QuantizeSettings

    return QuantizeSettings(
        bits=None if args.bits == "auto" else 8 if args.bits == "8" else 4,
        group_size=None if args.group_size == "auto" else int(args.group_size),  # type: ignore[arg-type]
        scheme=None if args.scheme == "auto" else args.scheme,
        method=None if args.method == "auto" else args.method,
        embeddings=None if args.embeddings == "auto" else args.embeddings,
        rounding=args.rounding,
        target_size=args.target_size,
        activations=None if args.activations == "auto" else args.activations,
        calibration=args.calibration,
        calibration_rows=args.calibration_rows,
        seed=args.seed,
    )


def show_made(made: Quantized, report: GateReport, placed: bool) -> None:
    """Print sizes and errors."""
    from blankfill.system.console import amount, show, worded

    parts = " and ".join(f"{count} layers of {bits} bits" for bits, count in made.by_bits.items())
    unchanged = f", {len(made.skipped)} as they are" if made.skipped else ""
    unchanged += ", tables of tokens of 8 bits" if made.tables else ""
    show(f"{parts}{unchanged} ({made.method}); {amount(made.before, 'B')} → {amount(made.after, 'B')}")
    show(f"error of the weights {made.error:.2%}, of {made.worst.name} {made.worst.relative:.2%}")
    show_gate(report)
    if placed and report.refused:
        show("the model is kept although it would be refused: " + "; ".join(map(worded, report.refused)))
    show(f"the model is in {made.folder}" if placed else "the model is refused and was not written")


def show_gate(report: GateReport) -> None:
    """Print the table of the gate, and what a reader must know of it."""
    from blankfill.quantizing.gate_report import HEADERS, table_rows
    from blankfill.system.console import show, table, worded

    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    title = f"Measured on {report.text} ({counts})" if report.text else "Measured"
    table(title, table_rows(report), HEADERS)
    for sentence in report.missing:
        show(f"not measured: {worded(sentence)}")
    for sentence in report.notes:
        show(worded(sentence))
