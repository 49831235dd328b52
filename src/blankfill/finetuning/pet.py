"""PET: a model for each pattern of a task, and the ensemble of them.

The ensemble averages log-probabilities, once uniformly and once weighted by the accuracy of each pattern on the
training items before training (Schick and Schütze, arXiv 2001.07676, section 3.3).

With `--distil`, a head on the same pretrained model then learns the weighted ensemble's predictions on texts without
labels. Runs are in subfolders; finished runs are not repeated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blankfill.errors import ConfigError, UserError, setting
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.data import read_splits
from blankfill.finetuning.model_setup import build_adapter, build_model, load_pretrained
from blankfill.finetuning.predictor import EnsemblePredictor, open_predictor
from blankfill.finetuning.several import check_inputs_unchanged, finish_run, shared_machine
from blankfill.runs.folder import renew_report
from blankfill.runs.inputs import read_notes, refuse, write_note
from blankfill.system.console import quoted, say
from blankfill.system.files import write_file
from blankfill.system.loader import fitting
from blankfill.system.reading import LARGE, field, parse_json, read_json, read_text
from blankfill.tasks.cloze.pattern import pattern_text, read_patterns
from blankfill.tasks.cloze.soft_labels import SoftLabels, combined, logs_of, score_lines
from blankfill.tasks.content import items_mark
from blankfill.tasks.options import WITHOUT_ADAPTER
from blankfill.tasks.run_files import PREDICTIONS, RESULTS, TEST_PREDICTIONS

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Prediction
    from blankfill.tasks.items import Item, Split
    from blankfill.tasks.metrics.intervals import Scores
    from blankfill.tasks.task import Task
    from blankfill.training.machine import Machine

SOFT_LABELS = "soft_labels.jsonl"
"""The ensemble's predictions on the texts of `--distil`."""
DISTILLED = "distilled"
"""Folder of the run that learns from them."""


def run_pet(config: FinetuneConfig, out: Path) -> Iterator[str]:
    """Fine-tune a model for each pattern in `out` and score the ensemble; yields the table, line by line.

    Raises UserError or ConfigError for any problem that the user can solve.
    """
    if problems := config.options.problems():
        raise ConfigError(problems)
    task = config.build_task()
    train, dev, test = read_splits(task, config.data, config.options, config.tables)
    labels = None if task.kind == "choice" else task.labels or train.labels
    texts = unlabelled(config, task, task.labels or train.labels)
    patterns = read_patterns(*pattern_text(config.options.patterns, task.name), labels)
    count = len(patterns)
    requests = [
        dataclasses.replace(config, options=dataclasses.replace(config.options, pattern=str(k), distil=""))
        for k in range(count)
    ]
    check_inputs_unchanged([(config_k, out / f"pattern-{k}") for k, config_k in enumerate(requests)])
    shared = shared_machine(config.options, out)
    weights = untrained(requests, train, shared)
    runs: list[dict[str, Any]] = []
    for k, config_k in enumerate(requests):
        folder = out / f"pattern-{k}"
        say(f"pattern {k} of {count}")
        results = finish_run(config_k, folder, shared)
        runs.append({"folder": folder.name, "text": patterns[k].written, "untrained": weights[k], **_parts(results)})
        score = f"{results['primary_metric']} {results['score']:.4f}"
        yield f"pattern {k}: {score}; accuracy on the training items before training {weights[k]:.4f}"
    yield from _together(config, out, runs, dev, test)
    if texts is not None:
        yield from _distilled(config, out, texts, shared)


def untrained(requests: Sequence[FinetuneConfig], train: Split, machine: Machine) -> list[float]:
    """Return the accuracy of the untrained model on the training items with each pattern."""
    import torch

    from blankfill.tasks.training import HeadEvaluator

    torch.set_num_threads(machine.threads)
    device = torch.device(machine.device)
    loaded, _ = load_pretrained(requests[0])
    shares = []
    for config in requests:
        # LoRA has no effect before training, and a prefix has not learnt anything yet
        plain = dataclasses.replace(config.options, **WITHOUT_ADAPTER)
        adapter = build_adapter(config.build_task(), train.labels, loaded, plain)
        model = build_model(loaded, adapter, train.items, plain, device, machine.dtype)
        scored = HeadEvaluator(adapter, adapter.encode(train.items), loaded.vocabulary.roles.get("pad", 0))
        predictions, _ = scored.predict(model, device, machine.dtype)
        right = [prediction.value == _label(item) for prediction, item in zip(predictions, train.items, strict=True)]
        shares.append(float(np.mean(right)))
    return shares


def _together(
    config: FinetuneConfig, out: Path, runs: Sequence[dict[str, Any]], dev: Split, test: Split | None
) -> Iterator[str]:
    """Score the ensemble, uniform and weighted, and write the results."""
    task = config.build_task()
    scores: dict[str, Any] = {}
    for way, weights in (("alike", None), ("weighted", [run["untrained"] for run in runs])):
        predictions = _joined(out, runs, weights, PREDICTIONS)
        scored = _scores(task, dev, predictions)
        scores[way] = {**scored.values(), "score": scored.metrics[task.primary_metric]}
        yield f"all patterns, {way}: {scored.sentence()}"
        if test is not None:
            on_test = _scores(task, test, _joined(out, runs, weights, TEST_PREDICTIONS))
            scores[way]["test"] = {**on_test.values(), "score": on_test.metrics[task.primary_metric]}
            yield f"all patterns, {way}, on the test set, which chose nothing: {on_test.sentence()}"
    rows = [{"id": item.id, **prediction.record} for item, prediction in zip(dev.items, predictions, strict=True)]
    write_file(out / PREDICTIONS, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    results = {**config.values(), "primary_metric": task.primary_metric, "patterns": list(runs), "together": scores}
    complete = not config.options.distil
    _keep(out, {**results, "complete": complete})


def _joined(out: Path, runs: Sequence[dict[str, Any]], weights: Sequence[float] | None, name: str) -> list[Prediction]:
    """Return the predictions of all patterns together. name: of the file with those of each; weights: of the
    patterns."""
    from blankfill.tasks.heads.texts import classified

    said = [_said(out / run["folder"] / name) for run in runs]
    names = [list(probabilities) for probabilities in said[0]]
    joined = [combined(logs_of(item), weights).astype(np.float32) for item in zip(*said, strict=True)]
    return [classified(logs_C, labels) for logs_C, labels in zip(joined, names, strict=True)]


def _scores(task: Task, split: Split, predictions: Sequence[Prediction]) -> Scores:
    from blankfill.tasks.metrics.bootstrap import scored

    return scored(task, split, [prediction.value for prediction in predictions])


def unlabelled(config: FinetuneConfig, task: Task, labels: tuple[str, ...]) -> Split | None:
    """Read the texts of `--distil`, None without it; UserError when they cannot be read, or the task has no labels."""
    if not config.options.distil:
        return None
    if task.kind != "classify":
        raise UserError(
            f"{task.name}: {setting('distil')} is for tasks with labels, and the items here have choices of their own"
        )
    texts = task.read(Path(config.options.distil), "train", labels)
    for problem in texts.problems:
        say(problem)
    return dataclasses.replace(texts, labels=labels)


def _distilled(config: FinetuneConfig, out: Path, texts: Split, shared: Machine) -> Iterator[str]:
    """Train a head on the weighted ensemble's predictions for the texts, and write its scores."""
    options, scores = config.options, out / SOFT_LABELS
    mark = items_mark(texts.items, texts.labels)
    if scores.exists() and (notes := read_notes(out)) and notes[0].get("texts") not in (None, mark):
        refuse(out, [f"the texts of {options.distil} are others"], f"Put them back, or remove {scores} and that run.")
    write_note(out, {"texts": mark})
    if not scores.exists():
        teachers = open_predictor(out, shared.device, shared.threads)
        assert isinstance(teachers, EnsemblePredictor)
        write_file(scores, score_lines(texts, teachers.logs(texts.items)))
    learning = dataclasses.replace(
        options, method="head", pattern="0", patterns="", mlm_weight=0.0, unlabelled="", distil="",
        multi_token="surest-first", epochs=options.distil_epochs,
    )  # fmt: skip
    soft_labels = SoftLabels(Path(options.distil), scores)
    say(f"a head learns the ensemble's predictions on {len(texts):,} texts")
    student = dataclasses.replace(config, options=learning, soft_labels=soft_labels)
    check_inputs_unchanged([(student, out / DISTILLED)])
    results = finish_run(student, out / DISTILLED, shared)
    whole = read_json(out / RESULTS)
    field(whole, "together", dict, out / RESULTS)[DISTILLED] = {
        "metrics": results["metrics"],
        "score": results["score"],
    }
    _keep(out, {**whole, "complete": True})
    score = f"{results['primary_metric']} {results['score']:.4f}"
    yield f"learnt from all patterns: {score}; predict with: blankfill predict --model {quoted(out / DISTILLED)}"


def _keep(out: Path, results: dict[str, Any]) -> None:
    write_file(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    renew_report(out)


def _said(path: Path) -> list[dict[str, float]]:
    """Read the probabilities of a run's predictions, in the order of its items."""
    rows = [parse_json(line, path) for line in read_text(path, LARGE).split("\n") if line]
    where = f"{path}: `probabilities`"
    return [fitting(field(row, "probabilities", dict, path), dict[str, float], where) for row in rows]


def _parts(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("score", "metrics", "best_step", "steps")}


def _label(item: Item) -> object:
    return getattr(item, "label", None)
