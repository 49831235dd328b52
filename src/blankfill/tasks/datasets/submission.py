"""Predictions in the format of a task's benchmark: the files of a submission.

GLUE          `CoLA.tsv`: index and prediction, labels by name; MNLI's two test sets are two files
SuperGLUE     `BoolQ.jsonl`: idx and label
CLUE          `afqmc_predict.json`, `tnews11_predict.json` (version 1.1), FewCLUE's `tnewsf_predict.json`: id and label
SQuAD's form  `predictions.json`: question id to answer; where there may be none also `null_odds.json`, and
              `best_answers.json`, the answers were there always one, from which the official script finds its threshold
CoNLL         the file itself with the predicted tags in the place of its own, or behind words that have none
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blankfill.errors import UserError, setting
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.datasets import glue, superglue
from blankfill.tasks.datasets.conll import predicted_lines
from blankfill.tasks.datasets.squad import answers_text
from blankfill.tasks.items import Item, TextItem
from blankfill.tasks.task import Task

_CLUE = {"afqmc": "afqmc", "tnews": "tnews11", "cluewsc": "cluewsc11"}
_FEWCLUE = {"tnews": "tnewsf", "cluewsc": "cluewscf"}


def submission(
    task: Task, split: str, file: Path, items: Sequence[Item], predictions: Sequence[Prediction]
) -> dict[str, str]:
    """Return the texts of the files by their names. file: the file of the items, with all of them in its order.

    Raises UserError for a task without a known submission format.
    """
    values = [prediction.value for prediction in predictions]
    if task in glue.GLUE:
        texts = [item for item in items if isinstance(item, TextItem)]
        return {glue.submission_name(task.name, split): _text(glue.submission_lines(task, texts, values))}
    if task in superglue.SUPERGLUE:
        return {superglue.submission_name(task.name): _text(superglue.submission_lines(task, items, values))}
    if task in superglue.CLUE:
        few = file.name == "test_public.json" and task.name in _FEWCLUE
        lines = [json.dumps({"id": _number(item.id), "label": task.labels[k]})
                 for item, k in zip(items, values, strict=True)]  # fmt: skip
        return {f"{(_FEWCLUE if few else _CLUE)[task.name]}_predict.json": _text(lines)}
    if task.kind == "answer":
        return _answers(task, items, [prediction.record for prediction in predictions])
    if task.kind == "tag":
        return {file.name: _text(list(predicted_lines(file, values)))}
    raise UserError(
        f"{setting('submission')}: no benchmark's form is known for {task.name}; leave it out, and the answers are "
        "JSON lines"
    )


def _answers(task: Task, items: Sequence[Item], shown: Sequence[dict[str, Any]]) -> dict[str, str]:
    ids = [item.id for item in items]
    files = {"predictions.json": {id: record["answer"] for id, record in zip(ids, shown, strict=True)}}
    if any(name.startswith("no-answer") for name in task.metrics):
        files["null_odds.json"] = {id: record["null_odds"] for id, record in zip(ids, shown, strict=True)}
        files["best_answers.json"] = {
            id: record["best"][0]["text"] if record["best"] else "" for id, record in zip(ids, shown, strict=True)
        }
    return {name: answers_text(values) for name, values in files.items()}


def _text(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _number(id: str) -> int | str:
    return int(id) if id.isdigit() else id
