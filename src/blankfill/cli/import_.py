"""`blankfill import`: import a model that another program trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from blankfill.checkpoint.dtypes import WeightType
from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.system.bounds import Bound, at_least
from blankfill.system.schema import Option


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Import a model that another program trained.

    PATH is a transformers folder (config.json, safetensors or .bin, a tokenizer), or a checkpoint of the original GLM.
    No code in it is run. The new folder works with fill, generate, finetune, embed and export.
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
    """Number of attention heads of a GLM checkpoint, which does not store it; without it, heads of width 64."""
    dtype: WeightType = "auto"
    """Number type of the weights in the new folder: fp32, bf16 or fp16; auto: as they are stored."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(ImportArguments, argv, "import")
    from blankfill.convert.importing import import_model
    from blankfill.system.console import as_json, show
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    made = import_model(args.path, args.out, args.tokenizer, args.heads, args.dtype)
    text = f"{made.family}, {made.parameters:,} parameters; the model is in {made.folder}"
    return Result(values=as_json(made), show=lambda: show(text))
