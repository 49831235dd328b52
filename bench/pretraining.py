"""The effect of pretraining: models fine-tuned on the same tasks, with a head and as a cloze, beside models with random
initial weights.

    python bench/pretraining.py bert=runs/bert glm=runs/glm --data DATA --tasks sst2-head sst2-cloze --json found.json

DATA is a folder with the data sets by the names of `TASKS`. Each model is fine-tuned as pretrained and `--from-scratch`
(the same configuration with weights drawn anew), with the same settings, for every seed; the runs are kept in `--out`
and those that are finished are not run again. The learning rate is chosen for each row from `--lrs` by the first seed,
which does not count then: models differ in the rate that they like, and one rate for all would favour one of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import write

if TYPE_CHECKING:
    from blankfill.finetuning.config import FinetuneConfig

FEW: dict[str, Any] = {"max_train_samples": 100, "epochs": 10, "batch_size": 16, "eval_every": 14}
TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sst2-head": ("sst2", "glue", {"max_train_samples": 4000, "epochs": 3}),
    "sst2-cloze": ("sst2", "glue", {"max_train_samples": 4000, "epochs": 3, "method": "cloze"}),
    "sst2-2000-head": ("sst2", "glue", {"max_train_samples": 2000, "epochs": 3}),
    "sst2-100-head": ("sst2", "glue", FEW),
    "sst2-100-cloze": ("sst2", "glue", {**FEW, "method": "cloze"}),
    "cola-head": ("cola", "glue", {"epochs": 3}),
    "cola-1000-head": ("cola", "glue", {"max_train_samples": 1000, "epochs": 4}),
    "stsb-head": ("stsb", "glue", {"epochs": 3}),
    "rte-head": ("rte", "glue", {"epochs": 3}),
    "rte-cloze": ("rte", "glue", {"epochs": 3, "method": "cloze"}),
    "wikigold-4-head": ("wikigold", "wikigold", {"epochs": 4, "validation_split": 0.2, "batch_size": 16}),
    "wikigold-head": ("wikigold", "wikigold", {"epochs": 6, "validation_split": 0.2, "batch_size": 16}),
}
"""Name → the task, its folder, and its settings: so small and so short that a row takes minutes on a laptop."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="runs or imported models")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for task in given.tasks:
        for model in given.models:
            for scratch in (False, True):
                results.append(row(task, model, scratch, given))
                result = results[-1]
                listed = " ".join(f"{score:.4f}" for score in result["scores"])
                print(
                    f"| {task} | {result['model']} | {statistics.fmean(result['scores']):.4f} "
                    f"± {result['deviation']:.4f} ({listed}) | lr {result['lr']:g} | {result['metric']}, "
                    f"{result['baseline']:.4f} without reading |",
                    flush=True,
                )
                write(given.json, results)


def row(task: str, model: str, scratch: bool, given: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of one model on one task, with the rate of `--lrs` that was best for the first seed less
    one."""
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.several import finish_run
    from blankfill.tasks.options import FinetuneOptions

    name, _, path = model.partition("=")
    name_of_task, folder, settings = TASKS[task]
    options = FinetuneOptions(
        **settings, precision="fp32", threads=given.threads, max_length=128, from_scratch=scratch
    )  # fmt: skip
    place = given.out / task / f"{name}{'-scratch' if scratch else ''}"

    def results(lr: float, seed: int) -> dict[str, Any]:
        config: FinetuneConfig = FinetuneConfig(
            name_of_task, given.data / folder, Path(path), dataclasses.replace(options, lr=lr, seed=seed)
        )  # fmt: skip
        return finish_run(config, place / f"lr-{lr:g}_seed-{seed}")

    trial = min(given.seeds) - 1 if min(given.seeds) else max(given.seeds) + 1
    best = max(given.lrs, key=lambda lr: results(lr, trial)["score"]) if len(given.lrs) > 1 else given.lrs[0]
    runs = [results(best, seed) for seed in given.seeds]
    scores = [run["score"] for run in runs]
    return {
        "task": task, "model": f"{name}{', from scratch' if scratch else ''}", "lr": best, "scores": scores,
        "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0, "metric": runs[0]["primary_metric"],
        "baseline": runs[0]["baseline"]["score"], "items": runs[0]["items"],
        "seconds": sum(run["seconds"] for run in runs),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
