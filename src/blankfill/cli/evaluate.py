"""`blankfill evaluate`: the metrics of predictions that lie in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class EvaluateArguments:
    """Score predictions: blankfill evaluate --task squad --data DIR predictions.json

    Predictions are the JSON lines of `predict` and `finetune`, or for questions a JSON object of id and answer, as
    SQuAD's own script takes them.
    """

    predictions: tyro.conf.Positional[Path]
    """The file with the predictions."""
    task: str = tyro.MISSING
    """The task, such as sst2, squad, conll."""
    data: Path = tyro.MISSING
    """The task's folder, that of its benchmark, or the file itself."""
    split: str = "dev"
    """Which split the predictions are for."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = tyro.cli(EvaluateArguments, args=list(argv), prog="blankfill evaluate")
    from blankfill.console import show
    from blankfill.predict import score_predictions
    from blankfill.tasks.registry import task_named

    metrics = score_predictions(task_named(args.task), args.data, args.split, args.predictions)
    if args.json:
        print(json.dumps(metrics))
    else:
        for name, value in metrics.items():
            show(f"{name} {value:.4f}")
    return 0
