"""`blankfill import`: take over a model that another program trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from blankfill.checkpoint.dtypes import WeightType
from blankfill.cli.arguments import parsed
from blankfill.system.bounds import Bound, at_least


@dataclass(frozen=True)
class ImportArguments:
    """Take over a model: blankfill import PATH --out DIR

    PATH is a transformers folder of a BERT, RoBERTa or GPT-2 (config.json, safetensors or .bin, a tokenizer), or a
    checkpoint of the original GLM. Nothing in it is run. The new folder works with fill, generate and export.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"heads": at_least(1, 100_000)}

    path: tyro.conf.Positional[Path]
    """The folder, or a weight file in it."""
    out: Path = tyro.MISSING
    """The folder to write; it must be new or empty."""
    tokenizer: Path | None = None
    """The tokenizer, when it does not lie beside the weights: a file or folder."""
    heads: int | None = None
    """Attention heads of a GLM checkpoint, which does not tell them; without it, heads of width 64."""
    dtype: WeightType = "auto"
    """Type of the weights in the new folder: fp32, bf16 or fp16; auto: as they are stored."""
    threads: int = 0
    """CPU threads; 0: as OMP_NUM_THREADS says, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parsed(ImportArguments, argv, "import")
    from blankfill.convert.importing import import_model
    from blankfill.system.console import show
    from blankfill.system.threads import use_threads

    use_threads(args.threads)
    made = import_model(args.path, args.out, args.tokenizer, args.heads, args.dtype)
    show(f"{made.family}, {made.parameters:,} parameters; the model is in {made.folder}")
    return 0
