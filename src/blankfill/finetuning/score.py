"""Scores of predictions in a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tables.columns import listed
from blankfill.corpus.tables.options import TableOptions, roles_of
from blankfill.corpus.tables.reading import open_table, table_kind
from blankfill.errors import UserError, setting
from blankfill.finetuning.given import MAIN, PREDICTION
from blankfill.system.console import say
from blankfill.system.reading import parse_json
from blankfill.tasks.datasets.files import joined_lines
from blankfill.tasks.datasets.tabular import TABULAR, tabular_task
from blankfill.tasks.datasets.task_table import is_empty, label_name, listed_cell
from blankfill.tasks.items import Split, labelled
from blankfill.tasks.metrics.intervals import Scores
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.task import Task

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter, Prediction


def score_predictions(
    task: Task, data: Path, split: str, predictions: Path, na_prob_file: Path | None = None,
    tables: TableOptions | None = None,
) -> Scores:  # fmt: skip
    """Compute the task's metrics of a predictions file: JSON lines of `predict` or `finetune`, a table that `predict`
    wrote, or SQuAD's JSON object.

    tables: how the task reads the data, where they are a table; a column for the id is that of a table of predictions
    too, and without one its rows are those of the data in the same order, or have their ids in `id`.
    na_prob_file: for SQuAD 2.0, a JSON object of question ids with the log odds of no answer; adds the best exact match
    and F1 of any threshold, and these thresholds, as the official script's `--na-prob-file` does. Raises UserError for
    items without a prediction, for unknown ids, and for rows without a prediction.
    """
    from blankfill.tasks.adapters import ADAPTERS

    tables = tables or TableOptions()
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
    known = [item.id for item in read.items]
    shown = read_predictions(predictions, task, known, tables)
    # `predict` takes the column `id` for the ids of a table's rows, and a task on tables their numbers.
    again = None if set(known) <= shown.keys() else _by_ids(task, data, split, taught, tables)
    if again is not None and {item.id for item in again.items} <= shown.keys():
        read, known = again, [item.id for item in again.items]
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


def _by_ids(
    task: Task, data: Path, split: str, labels: tuple[str, ...], tables: TableOptions
) -> Split | None:  # fmt: skip
    """Return a split of a table by the ids in its column `id`; None where it has none, or another was named."""
    if task.name not in {table.name for table in TABULAR} or "id" in roles_of(tables.columns):
        return None
    with_id = dataclasses.replace(tables, columns=(*tables.columns, "id=id"))
    try:
        return tabular_task(task.name, with_id).read(data, split, labels)
    except UserError:
        return None


def _table_kind(path: Path) -> str:
    """Return the kind of table that holds predictions as `predict` adds them, "" for JSON of records."""
    kind = table_kind(path)
    if kind not in ("json", "jsonl"):
        return kind
    with suppress(UserError):
        if PREDICTION in open_table(path, kind=kind).columns:  # records of `predict` have no such field
            return kind
    return ""


def _of_table(
    path: Path, kind: str, task: Task, known: Sequence[str], tables: TableOptions
) -> dict[str, Mapping[str, Any]]:
    """Return the predictions in a table's column `prediction` by the ids of their items."""
    table = open_table(path, kind=kind)
    names = [name for name in table.columns if re.fullmatch(rf"{PREDICTION}(_\d+)?", name)]
    if not names or task.kind not in MAIN:
        raise UserError(
            f"{path} has no column {PREDICTION!r}; its columns are {listed(table.columns)}: give a table that "
            "`predict` wrote, or its JSON lines"
        )
    if len(names) > 1:
        say(f"{path}: of the columns {', '.join(names)} the last is scored")
    rows = [row for _, row in table.objects() if not all(map(is_empty, row.values()))]
    given = roles_of(tables.columns).get("id", ("id",))[0]
    ids = [label_name(row.get(given)) for row in rows]
    if not set(known) <= set(ids):
        ids = [str(number) for number in range(len(rows))]
    return {
        id: {MAIN[task.kind][0]: value}
        for id, row in zip(ids, rows, strict=True)
        if (value := _value(task.kind, row.get(names[-1]))) is not None
    }


def _value(kind: str, cell: Any) -> Any:
    """Return a prediction as a record has it, from a cell; None for a row that was not predicted."""
    if is_empty(cell):
        return [] if kind == "multilabel" and cell == [] else "" if kind in ("answer", "generate", "chat") else None
    if kind in ("tag", "multilabel"):
        parts = listed_cell(cell)
        if isinstance(parts, str):
            parts = parts.split() if kind == "tag" else [part.strip() for part in parts.split(",")]
        return [label_name(part) for part in parts] if isinstance(parts, list) else [label_name(parts)]
    return label_name(cell) if kind in ("classify", "choice") else cell


def read_predictions(
    path: Path, task: Task | None = None, known: Sequence[str] = (), tables: TableOptions | None = None
) -> dict[str, Mapping[str, Any]]:
    """Read predictions by the ids of their items.

    task, known, tables: for a table, the task, the ids of its items, and the options that may name the column of ids.
    """
    if task is not None and (kind := _table_kind(path)):
        return _of_table(path, kind, task, known, tables or TableOptions())
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
