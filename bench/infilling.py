"""Blanks of several lengths, filled by pretrained models: how probable the true words are, by the objective.

    python bench/infilling.py bert=runs/bert glm=runs/glm t5=runs/t5 --data held-out.txt --limit 500

Every model gets the same blanks, cut by seed (`blankfill evaluate --task infill`); docs/evaluate.md describes the
inputs of each model. Prints a table for each metric: the share of tokens with the highest score given the right tokens
before them, the share of blanks that are entirely right, and nats of the true words, including the end where a model
predicts it. Models that are given a blank's length, see only one side or predict the end are not comparable with the
others: the tables mark them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from side_by_side import write

FIGURES = {"token_accuracy": "tokens right", "exact": "blanks right", "nats_per_word": "nats a word"}


def main() -> None:
    """Measure, print and write."""
    from blankfill.evaluation.run import EvaluationOptions, evaluate
    from blankfill.evaluation.texts import LENGTHS

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="runs or imported models")
    parser.add_argument("--data", type=Path, required=True, help="text that no model has seen")
    parser.add_argument("--limit", type=int, default=500, help="passages, each with a blank of every length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = EvaluationOptions(limit=given.limit, seed=given.seed)
    results: list[dict[str, Any]] = []
    for model in given.models:
        name, _, path = model.partition("=")
        result = evaluate(path, "infill", given.data, options, device="cpu", threads=given.threads)
        results.append({"name": name, **result.values()})
        write(given.json, results)
    for figure, metric in FIGURES.items():
        print(f"\n| {metric} | sees | length | {' | '.join(map(str, LENGTHS))} |")
        print(f"| --- | --- | --- |{' --- |' * len(LENGTHS)}")
        for result in results:
            cells = (f"{result['metrics'][str(length)][figure]:.3f}" for length in LENGTHS)
            print(f"| {result['name']} | {result['sees']} | {result['length']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
