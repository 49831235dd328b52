"""`blankfill export`: write a model in the format of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.errors import UserError, setting
from blankfill.system.console import as_json
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.convert.exporting import Exported
    from blankfill.convert.onnx import ExportedOnnx


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a model in the format of another program.

    The folder opens in transformers as it is; a fine-tuned model keeps its head and the names of its labels. --format
    onnx writes model.onnx for onnxruntime (encoders with or without a head; T5 and BART that were fine-tuned to write).
    README.md is the model card. Where transformers or onnxruntime is installed, its scores on real text are compared
    with ours, and a difference above 1e-4 is an error.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill export runs/bert --out exported",
        "blankfill export runs/sst2 --out classifier",
        "blankfill export runs/sst2 --format onnx --out classifier-onnx",
    )

    model: Annotated[Path, Option(positional=True)]
    """A run of pretraining or fine-tuning, one of its checkpoints, or an imported model."""
    out: Path
    """Folder to write; it must be new or empty."""
    format: Literal["transformers", "onnx"] = "transformers"
    """Format of the folder."""
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
    if args.format == "onnx":
        return to_onnx(args)
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


def to_onnx(args: ExportArguments) -> Result:
    """Write ONNX; the result has the largest difference of its outputs."""
    from blankfill.exporting.model import export_onnx

    if args.lora == "adapter":
        raise UserError(f"ONNX has no adapters; leave out {setting('lora')} or {setting('format')}")
    made = export_onnx(args.model, args.out, args.text, args.part)
    return Result(values=as_json(made), show=lambda: show_onnx(made))


def show_onnx(made: ExportedOnnx) -> None:
    """Print where the model is, and how it compares with ours."""
    from blankfill.system.console import show

    if made.difference is None:
        show("onnxruntime is not installed, so the export was not run")
    else:
        compared = counted(made.texts, made.task)
        show(f"onnxruntime gives what torch gives on {compared}; largest difference {made.difference:.1e}")
    show(f"{', '.join(made.outputs)}; the model is {' and '.join(str(made.folder / name) for name in made.files)}")
