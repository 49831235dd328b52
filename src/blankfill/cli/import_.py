"""`blankfill import`: import a model that another program trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from blankfill.checkpoint.dtypes import WeightType
from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.system.bounds import Bound, at_least
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.convert.importing import Imported


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Import a model that another program trained.

    PATH is a transformers folder (config.json, safetensors or .bin, a tokenizer), ChatGLM-6B as released, or a
    checkpoint of the original GLM or of SwissArmyTransformer.
    No code in it is run. The new folder works with fill, generate, finetune, embed and export. A model with a
    fine-tuned head (classes, numbers, labels, tags, answers, choices) keeps it, and works with predict and finetune.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"heads": at_least(1, 100_000)}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill import bert-base-uncased --out models/bert",)

    path: Annotated[Path, Option(positional=True)]
    """The folder, or a weight file in it."""
    out: Path
    """Folder to write; it must be new or empty."""
    tokenizer: Path | None = None
    """File or folder of the tokenizer, where it is not beside the weights."""
    heads: int | None = None
    """Number of attention heads of a GLM checkpoint, which does not store it; without it, heads of width 64, or 128 for
    GLM-130B."""
    dtype: WeightType = "auto"
    """Number type of the weights in the new folder: fp32, bf16 or fp16; auto: as they are stored."""
    leave_out: tuple[str, ...] = ()
    """Beginnings of the names of weights to leave out, such as cls.species: heads that this program does not have. With
    the head of a fine-tuned model, such as classifier, the encoder alone is imported."""
    qkv: Literal["heads", "blocks"] = "heads"
    """Order of the joint rows of queries, keys and values in a ChatGLM-6B or GLM-130B. heads: those of each head
    together, as released; blocks: all queries, all keys, all values, as SwissArmyTransformer writes ChatGLM-6B since
    version 0.4.1."""
    drop_image_rows: bool = False
    """Leave out the 20,000 rows of image tokens in the first release of ChatGLM-6B; the model gets the ids of the later
    one."""
    rotary_rounding: Literal["auto", "none", "frequencies", "angles"] = "auto"
    """What a ChatGLM-6B rounds to fp16 in its rotary positions. none: nothing, for exact positions; frequencies: as
    the release in fp32; angles: as the release in fp16; auto: what config.json names, else frequencies."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(ImportArguments, argv, "import")
    from blankfill.finetuning.importing import import_model
    from blankfill.system.console import as_json
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    made = import_model(
        args.path,
        args.out,
        args.tokenizer,
        args.heads,
        args.dtype,
        args.leave_out,
        args.qkv,
        args.drop_image_rows,
        None if args.rotary_rounding == "auto" else args.rotary_rounding,
    )
    return Result(values=as_json(made), show=lambda: show_made(made))


def show_made(made: Imported) -> None:
    """Print what was imported, and how a fine-tuned model is tried."""
    from blankfill.system.console import quoted, show
    from blankfill.tasks.items import listed

    show(f"{made.family}, {made.parameters:,} parameters; the model is in {made.folder}")
    if made.task:
        labels = f", with the labels {listed(made.labels)}" if made.labels else ""
        show(f"it is fine-tuned for the task {made.task}{labels}")
        show(f"try: blankfill predict --model {quoted(made.folder)} rows.txt")
