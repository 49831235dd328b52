"""Dev scores of fine-tuning here and with transformers, under the same settings, seed by seed.

    python bench/finetune_scores.py MODEL --data GLUE --task cola --seeds 0 1 2 3 4 --json cola.json
    python bench/finetune_scores.py MODEL --data wikigold --task wikigold --validation-split 0.2 --lr 1e-4 --seeds 0 1 2

MODEL is a transformers folder of a BERT encoder; the task is one of texts or pairs (classes or scores), of tags, or of
questions. Both learn from the same items and are scored on the same, use the model's dropout, AdamW without decay on
biases and norms, linear warm-up over a tenth of the steps and linear decay, and are scored after each epoch; the best
counts. What each draws from its seed differs: the head, dropout and the order. Times are processor seconds
of everything, the scoring between included.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from side_by_side import write

if TYPE_CHECKING:
    from blankfill.tasks.options import FinetuneOptions


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="a transformers folder of a BERT encoder")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument(
        "--max-train-samples", type=int, default=0, help="number of training items, drawn by the seed; 0: all"
    )
    parser.add_argument("--validation-split", type=float, default=0.1, help="where there is no dev set")
    parser.add_argument("--answer-columns", choices=["context", "all"], default="context", help="of questions, here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", choices=["blankfill", "transformers"], help="one of the two")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from blankfill.finetuning.data import read_splits
    from blankfill.tasks.datasets.registry import task_named
    from blankfill.tasks.options import FinetuneOptions

    options = FinetuneOptions(
        lr=given.lr, batch_size=given.batch, epochs=given.epochs, max_length=given.max_length, precision="fp32",
        threads=given.threads, max_train_samples=given.max_train_samples, validation_split=given.validation_split,
        answer_columns=given.answer_columns,
    )  # fmt: skip
    train, dev, _ = read_splits(task_named(given.task), given.data, options)
    options = dataclasses.replace(options, eval_every=-(-len(train) // given.batch))
    print(f"{given.task}: {len(train)} items to learn from, {len(dev)} to score", flush=True)
    contenders = {"blankfill": ours, "transformers": theirs}
    results: dict[str, list[dict[str, float]]] = {}
    for name, run in contenders.items():
        if given.only in (None, name):
            results[name] = [
                run(given.model, given.task, given.data, dataclasses.replace(options, seed=seed))
                for seed in given.seeds
            ]
            scores = [result["score"] for result in results[name]]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            seconds = statistics.fmean(result["seconds"] for result in results[name])
            listed = " ".join(f"{score:.4f}" for score in scores)
            print(
                f"{given.task} {name:<13} {statistics.fmean(scores):.4f}{spread}  ({listed})  {seconds:.0f} s",
                flush=True,
            )
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    write(given.json, {**settings, "scores": results})


def ours(model: Path, task: str, data: Path, options: FinetuneOptions) -> dict[str, float]:
    """Return the scores of a run of this program, with all of its processor seconds."""
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.run import finetune

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(FinetuneConfig(task, data, model, options), Path(folder) / "run")
    return {"score": result.score, "seconds": time.process_time() - began}


def theirs(model: Path, task: str, data: Path, options: FinetuneOptions) -> dict[str, float]:
    """Return the scores of transformers' model on the same items."""
    from finetune_peers import run

    from blankfill.finetuning.data import read_splits
    from blankfill.tasks.datasets.registry import task_named

    train, dev, _ = read_splits(task_named(task), data, options)
    return run(model, task_named(task), train, dev, options)


if __name__ == "__main__":
    sys.exit(main())
