"""`blankfill predict`: a fine-tuned model's answers for new rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tyro

from blankfill.cli.lines import lines_of
from blankfill.errors import UserError

WINDOW = 4096
"""Rows that are answered together, those of like length in one batch."""


@dataclass(frozen=True)
class PredictArguments:
    """Answers for new rows: blankfill predict --model RUN rows.txt --out answers.jsonl

    A row is a line: a text, or two with a tab between, or (tagging) words with spaces between; or a JSON object with
    text and second, words, question and context, or context and choices; SuperGLUE's tasks take their own rows. Answers
    are JSON lines with probabilities.
    """

    file: tyro.conf.Positional[Path]
    """A UTF-8 file with a row on each line; - reads standard input."""
    model: Path = tyro.MISSING
    """A run made by `blankfill finetune`, one of its checkpoints, or the folder of a grid or of all patterns."""
    out: Path | None = None
    """Where to write; without it, to standard output."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """CPU threads; 0 means all cores."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = tyro.cli(PredictArguments, args=list(argv), prog="blankfill predict")
    from blankfill.predict import items_of, open_predictor

    predictor = open_predictor(args.model, args.device, args.threads)
    items = items_of(predictor.task, lines_of(None if str(args.file) == "-" else args.file))
    with ExitStack() as stack:
        try:
            target = sys.stdout if args.out is None else stack.enter_context(args.out.open("w", encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--out {args.out}: cannot be written ({error.strerror})") from error
        while window := list(islice(items, WINDOW)):
            for item, one in zip(window, predictor.predict(window), strict=True):
                target.write(json.dumps({"id": item.id, **one.shown}, ensure_ascii=False) + "\n")
    return 0
