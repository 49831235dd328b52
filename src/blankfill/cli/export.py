"""`blankfill export`: write a model in the format of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.errors import UserError, setting
from blankfill.system.console import as_json
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.convert.exporting import Exported
    from blankfill.convert.onnx import ExportedOnnx
    from blankfill.exporting.gguf import ExportedGguf


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a model in the format of another program.

    The folder opens in transformers as it is; a fine-tuned model keeps its head and the names of its labels. --format
    onnx writes model.onnx for onnxruntime (encoders with or without a head; T5 and BART that were fine-tuned to write).
    --format gguf writes model.gguf for llama.cpp and ollama (GPT-2; the encoders of BERT, RoBERTa, ModernBERT and their
    kin for vectors of texts). README.md is the model card. Where transformers, onnxruntime or llama.cpp (xllamacpp) is
    installed, its scores on real text are compared with ours. Types of fewer bits that lose too much are refused.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill export runs/bert --out exported",
        "blankfill export runs/sst2 --out classifier",
        "blankfill export runs/sst2 --format onnx --out classifier-onnx",
        "blankfill export runs/gpt2 --format gguf --type q8_0 --out gpt2-gguf",
    )

    model: Annotated[Path, Option(positional=True)]
    """A run of pretraining or fine-tuning, one of its checkpoints, or an imported model."""
    out: Path
    """Folder to write; it must be new or empty."""
    format: Literal["transformers", "onnx", "gguf"] = "transformers"
    """Format of the folder."""
    type: Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "int8", "int8_blocks"] = "auto"
    """Type of the matrices. auto: f16 for gguf, f32 for onnx. q8_0 to q4_0: 8 to 4 bits, for gguf. int8: 8 bits for
    weights and activations, for onnx; int8_blocks: with a scale for every 32 numbers, more exact and less fast. A
    transformers folder keeps the type of the model."""
    pooling: Literal["mean", "cls"] = "mean"
    """How llama.cpp makes the vector of a text from an encoder: the mean of its columns, or the first, as for embed."""
    reduce_range: bool = True
    """Weights of 7 bits with --type int8: with 8, products overflow silently on processors with AVX2 or AVX-512 and no
    VNNI. Switch it off where all processors have VNNI."""
    force: bool = False
    """Write a folder of fewer bits that loses more than is allowed."""
    part: Literal["model", "generator"] = "model"
    """Part of the model to write. generator: the small masked language model that a model of replaced-token detection
    (ELECTRA) was trained with; model: the discriminator, or a model without generator."""
    lora: Literal["merged", "adapter"] = "merged"
    """Matrices of LoRA, or a prefix. merged: added to the weights; adapter: written for peft, with the model that they
    belong to in the folder `base`, or a prefix of ChatGLM as its own code writes it."""
    shards: Literal["safetensors", "bin"] = "safetensors"
    """Files of the weights of a pretrained model, of at most 5 GiB each. bin: pickles, as older programs read them."""
    text: Path | None = None
    """UTF-8 file whose lines are compared; without it the dev set of a fine-tuned model, the validation text of a
    pretraining run, else Python's documentation and words of the vocabulary."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(ExportArguments, argv, "export")
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    check_type(args)
    if args.format == "onnx":
        return to_onnx(args)
    if args.format == "gguf":
        return to_gguf(args)
    from blankfill.exporting.model import export_model

    made = export_model(args.model, args.out, args.text, args.part, args.lora, args.shards)
    return Result(values=as_json(made), show=lambda: show_export(made))


def show_export(made: Exported) -> None:
    """Print where the model is, and how it compares with ours."""
    from blankfill.families.registry import own_classes
    from blankfill.system.console import show

    if made.difference is None and not made.note:
        show("transformers is not installed, so the export was not compared with it")
    elif made.difference is not None:
        compared = counted(made.texts, made.task)
        show(f"transformers gives the same scores on {compared}; largest difference {made.difference:.1e}")
    show(f"{made.architecture}; the model is in {made.folder}")
    if made.left_out:
        show(f"transformers has no place for the {made.left_out}; it was left out, and stays in the run's checkpoints")
    if made.note:
        show(made.note)
    if made.architecture in own_classes():
        show(f"transformers has no class {made.architecture}: `import blankfill.hf` before opening it")


def counted(texts: int, task: str = "") -> str:
    """Return a number of texts in words, or of items of a task's dev set."""
    what = f"dev item{'s' * (texts != 1)} of {task}" if task else f"text{'s' * (texts != 1)}"
    return f"{texts} {what}"


TYPES: dict[str, tuple[str, ...]] = {
    "transformers": (), "onnx": ("f32", "int8", "int8_blocks"),
    "gguf": ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"),
}  # fmt: skip
"""Types of the matrices for each format."""


def check_type(args: ExportArguments) -> None:
    """Raise UserError for a type that the format does not have."""
    known = ("auto", *TYPES[args.format])
    if args.type not in known:
        raise UserError(
            f"{setting('type', args.type)} is not for {setting('format', args.format)}, which has {', '.join(known)}"
        )


def to_gguf(args: ExportArguments) -> Result:
    """Write GGUF."""
    from blankfill.exporting.gguf import export_gguf

    if args.lora == "adapter":
        raise UserError(f"GGUF is written without adapters; leave out {setting('lora')} or {setting('format')}")
    kind: Any = "f16" if args.type == "auto" else args.type
    made = export_gguf(args.model, args.out, kind, args.text, args.part, args.pooling, args.force)
    return Result(values=as_json(made), show=lambda: show_gguf(made))


def show_gguf(made: ExportedGguf) -> None:
    """Print where the model is, what its type changes, and what llama.cpp reads."""
    from blankfill.convert.gguf import FILE
    from blankfill.system.console import amount, show

    show(f"against the model, on {counted(made.texts)}: {made.change.text()}")
    if made.check is None:
        show("xllamacpp is not installed, so llama.cpp did not read the file")
    else:
        show(made.check.text())
        if made.check.example:
            show(f"llama.cpp reads {made.check.example!r} as other tokens")
    for note in made.notes:
        show(note)
    if made.left_out:
        show(f"llama.cpp has no place for the {', '.join(made.left_out)}, which stays in the model's own folder")
    show(f"{made.architecture}, {made.type}, {amount(made.size, 'B')}; the model is {made.folder / FILE}")


def to_onnx(args: ExportArguments) -> Result:
    """Write ONNX; the result has the largest difference of its outputs."""
    from blankfill.exporting.model import export_onnx

    if args.lora == "adapter":
        raise UserError(f"ONNX has no adapters; leave out {setting('lora')} or {setting('format')}")
    kind: Any = "f32" if args.type == "auto" else args.type
    made = export_onnx(args.model, args.out, args.text, args.part, kind, args.reduce_range, args.force)
    return Result(values=as_json(made), show=lambda: show_onnx(made))


def show_onnx(made: ExportedOnnx) -> None:
    """Print where the model is, and how it compares with ours."""
    from blankfill.system.console import show

    compared = counted(made.texts, made.task)
    if made.difference is None:
        show("onnxruntime is not installed, so the export was not run")
    else:
        full = " with f32" if made.change is not None else ""
        show(f"onnxruntime gives what torch gives{full} on {compared}; largest difference {made.difference:.1e}")
    if made.change is not None:
        show(f"with 8 bits against f32, on {compared}: {made.change.text()}")
    show(f"{', '.join(made.outputs)}; the model is {' and '.join(str(made.folder / name) for name in made.files)}")
