"""Objectives on equal terms: one text, one size of Transformer, the same processor time; then fine-tuned alike.

    python bench/equal_terms.py CORPUS --data DATA --out RUNS --seconds 300 --threads 1

CORPUS is a folder of `blankfill prepare`, with one tokenizer for all. The recipes are the nano ones, whose models have
the same layers and width. First a few steps measure the processor time of a step; then each recipe is trained for as
many steps as fit into --seconds, so that its schedule ends with its time. The runs are fine-tuned as in
`bench/pretraining.py`, from which the tasks come. Finished runs in --out are not repeated. Losses are printed beside
the unigram baseline of the same targets: the targets differ, so the losses are not comparable between objectives.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import write

from pretraining import TASKS, row

RECIPES = (
    "bert",
    "mlm",
    "albert",
    "spanbert",
    "ernie",
    "unilm",
    "unilm2",
    "xlnet",
    "gpt",
    "glm",
    "t5",
    "bart",
    "electra",
)
MORE = {"ernie": ("--objective.phrase", "0")}
"""Options of a recipe: in English ERNIE finds no phrases without a list of them, so it masks words."""
SHORT, LONG = 8, 56
"""Steps of the two runs whose difference gives the cost of a step."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("corpus", type=Path, help="a folder of `blankfill prepare`")
    parser.add_argument("--data", type=Path, required=True, help="the data sets of the tasks")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="without -nano")
    parser.add_argument("--seconds", type=float, default=900.0, help="of processor time, for each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--tasks", nargs="*", choices=TASKS, default=["sst2-2000-head", "cola-1000-head", "wikigold-4-head"]
    )
    parser.add_argument("--lrs", type=float, nargs="+", default=[3e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for recipe in given.recipes:
        result = pretrained(recipe, given)
        print(
            f"| {recipe} | {result['weights']:,} | {result['steps']:,} | {result['tokens'] / 1e6:.2f} M | "
            f"{result['tokens_per_second']:,.0f} | {result['loss']:.3f} of {result['baseline']:.3f} |",
            flush=True,
        )
        scores = [row(task, f"{recipe}={given.out / recipe}", False, given) for task in given.tasks]
        for score in scores:
            listed = " ".join(f"{score:.4f}" for score in score["scores"])
            print(f"| {recipe} | {score['task']} | {statistics.fmean(score['scores']):.4f} ± {score['deviation']:.4f} "
                  f"({listed}) | {score['metric']}, {score['baseline']:.4f} without reading |", flush=True)  # fmt: skip
        results.append({**result, "scores": scores})
        write(given.json, results)


def pretrained(recipe: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the facts and losses of the run of a recipe, after training it unless it is finished."""
    folder, noted = given.out / recipe, given.out / f"{recipe}.json"
    if not noted.exists():
        pace = step_cost(recipe, given)
        steps = max(1, round(given.seconds / pace))
        spent = pretrain(recipe, given, folder, steps, max(1, steps // 4))
        write(noted, {"pace": pace, "steps": steps, "processor_seconds": spent})
    facts: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = next(line for line in reversed(lines) if line["split"] == "valid")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "recipe": f"{recipe}-nano", **facts, "weights": run["parameters"], "tokens": last["tokens"],
        "loss": last["loss"], "baseline": run["baseline"],
        "tokens_per_second": last["tokens"] / facts["steps"] / facts["pace"],
    }  # fmt: skip


def step_cost(recipe: str, given: argparse.Namespace) -> float:
    """Return the processor seconds of a step: those of a long run less those of a short run, over the difference in
    steps."""
    with tempfile.TemporaryDirectory() as folder:
        spent = [
            pretrain(recipe, given, Path(folder) / str(k), steps, steps) for k, steps in enumerate((SHORT, SHORT, LONG))
        ]
    return (spent[2] - spent[1]) / (LONG - SHORT)  # the first one makes plans that are kept with the corpus


def pretrain(recipe: str, given: argparse.Namespace, folder: Path, steps: int, every: int) -> float:
    """Train a recipe for `steps` steps; return its processor seconds, including those of its child processes."""
    before = processor_seconds()
    command = [
        sys.executable, "-m", "blankfill", "pretrain", str(given.corpus), "--recipe", f"{recipe}-nano", "--out",
        str(folder), "--train.steps", str(steps), "--train.threads", str(given.threads), "--train.precision", "fp32",
        "--train.eval-every", str(every), *MORE.get(recipe, ()),
    ]  # fmt: skip
    with (given.out / f"{recipe}.log").open("a", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return processor_seconds() - before


def processor_seconds() -> float:
    """Return the processor seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
