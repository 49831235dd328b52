"""Scores of predictions in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.system.reading import parse_json
from blankfill.tasks.datasets.files import joined_lines
from blankfill.tasks.items import Split, labelled
from blankfill.tasks.metrics.intervals import Scores
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.task import Task

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter, Prediction


def score_predictions(
    task: Task, data: Path, split: str, predictions: Path, na_prob_file: Path | None = None
) -> Scores:
    """Compute the task's metrics of a predictions file: JSON lines of `predict` or `finetune`, or SQuAD's JSON object.

    na_prob_file: for SQuAD 2.0, a JSON object of question ids with the log odds of no answer; adds the best exact match
    and F1 of any threshold, and these thresholds, as the official script's `--na-prob-file` does. Raises UserError for
    items without a prediction, for unknown ids, and for rows without a prediction.
    """
    from blankfill.tasks.adapters import ADAPTERS

    if task.kind not in ADAPTERS:
        raise UserError(
            f"{task.name} is a task of kind {task.kind}, for which no file of predictions is scored; "
            f"{setting('model')} measures "
            "a model on wikitext2 and lambada"
        )
    taught = task.read(data, "train").labels if data.is_dir() and "train" in task.splits(data) else ()
    read = task.read(data, split, taught)
    adapter = ADAPTERS[task.kind](task, task.labels or taught or read.labels, FinetuneOptions())
    for problem in read.problems:
        say(problem)
    shown = read_predictions(predictions)
    known = [item.id for item in read.items]
    if missing := [id for id in known if id not in shown]:
        raise UserError(f"{predictions}: {len(missing)} of {len(known)} items have no prediction, such as {missing[0]}")
    if strange := sorted(shown.keys() - set(known)):
        others = f"{predictions}: {len(strange)} ids are not in {data}, such as {strange[0]}"
        if not read.losses():
            raise UserError(others)
        say(f"{others}; some of its rows are left out, and these predictions are not scored")
    parsed = [_parsed(adapter, shown[id], id, predictions) for id in known]
    best = {} if na_prob_file is None else _best_of_odds(task, read, {id: shown[id] for id in known}, na_prob_file)
    unlabelled = sum(not labelled(item) for item in read.items)
    if unlabelled == len(read.items):
        raise UserError(f"{data}: the {split} split of {task.name} has no labels, so predictions cannot be scored")
    scores = adapter.assess(read.items, parsed)
    return dataclasses.replace(scores, metrics=scores.metrics | best)


def _best_of_odds(
    task: Task, read: Split, shown: Mapping[str, Mapping[str, Any]], na_prob_file: Path
) -> dict[str, float]:
    from blankfill.tasks.datasets.squad import read_null_odds
    from blankfill.tasks.metrics.questions import best_threshold

    if not any(name.startswith("no-answer") for name in task.metrics):
        raise UserError(f"{setting('na_prob_file')}: every question of {task.name} has an answer; leave it out")
    odds = read_null_odds(na_prob_file)
    predicted = {id: str(row["answer"]) for id, row in shown.items()}
    best: dict[str, float] = {}
    for metric in ("exact", "f1"):
        value, threshold = best_threshold(read.questions(), predicted, odds, metric)
        best |= {f"best-{metric}": value, f"best-{metric}-threshold": threshold}
    return best


def _parsed(adapter: Adapter, shown: Mapping[str, Any], id: str, path: Path) -> Prediction:
    try:
        return adapter.parse(shown)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path}: the prediction for {id} cannot be read ({error}); see docs/finetune.md") from error


def read_predictions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Read predictions by the ids of their items."""
    text = joined_lines(path).strip()
    with suppress(UserError):  # several lines
        whole = parse_json(text, path)
        if "id" not in whole:
            return {str(id): {"answer": answer} for id, answer in whole.items()}
    rows: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        row = parse_json(line, f"{path}, line {number}")
        if type(row.get("id")) not in (str, int):
            raise UserError(f"{path}, line {number}: not a prediction (a JSON object with an id)")
        rows[str(row["id"])] = row
    return rows
