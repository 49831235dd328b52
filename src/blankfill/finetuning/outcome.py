"""Reports of a fine-tuning run: at its start, in `run.json`, and in its results."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blankfill.errors import setting, template_of
from blankfill.finetuning.advice import advice, read_history
from blankfill.finetuning.forgetting import sentence_of
from blankfill.finetuning.verdict import Comparison, baseline_name, compare, same_for_all, warnings
from blankfill.runs.folder import note_facts, renew_report
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.system.stopping import Stop
from blankfill.tasks.chat.adapter import BEGIN_ASKED, END_ASKED
from blankfill.tasks.metrics.intervals import Scores
from blankfill.tasks.run_files import PREDICTIONS, RESAMPLES, RESULTS, TEST_PREDICTIONS

if TYPE_CHECKING:
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.data import TaskData
    from blankfill.finetuning.model_setup import TaskSetup
    from blankfill.finetuning.training import Training
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start
    from blankfill.tasks.adapter import Adapter, Prediction
    from blankfill.tasks.items import Item
    from blankfill.training.progress import Progress


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a fine-tuning run. metrics: of the best checkpoint on the dev set; score: its primary metric.

    steps: number of steps done, of `total`. items_per_second: training items, without the time of scoring. complete:
    False when the run was stopped before its end. stopped: the signal that it got, even after its last step. scored:
    the metrics with their intervals; against: the score beside the baseline; test, test_against: the same for the test
    set, None without one. evaluations: number of those from which the dev set chose the checkpoint. warnings: sentences
    on why the model has not learnt the task; advice: what to try then.
    """

    folder: Path
    metrics: dict[str, float]
    score: float
    baseline: float
    best_step: int
    steps: int
    items_per_second: float
    complete: bool
    total: int = 0
    stopped: Stop | None = None
    scored: Scores | None = None
    against: Comparison | None = None
    test: Scores | None = None
    test_against: Comparison | None = None
    evaluations: int = 0
    warnings: Sequence[str] = ()
    advice: Sequence[str] = ()
    kind: str = ""
    """The kind of the task."""
    forgetting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The loss of old text before and after, empty without old text."""

    def values(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        names = (
            "folder",
            "score",
            "baseline",
            "best_step",
            "steps",
            "total",
            "items_per_second",
            "complete",
            "metrics",
        )
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values["metrics"] = self.metrics
        if self.scored is not None and self.against is not None:
            values |= {**self.scored.values(), "against_baseline": self.against.values()}
        if self.test is not None and self.test_against is not None:
            values["test"] = {**self.test.values(), "against_baseline": self.test_against.values()}
        more = {"evaluations": self.evaluations, "warnings": list(self.warnings), "advice": list(self.advice)}
        if self.forgetting:
            more["forgetting"] = dict(self.forgetting)
        return {**values, **more, "stopped": self.stopped}

    def lines(self, task: str, metric: str) -> Iterator[str]:
        """Yield the result as lines for a reader: the scores, the baseline, warnings and advice."""
        if self.scored is None or self.against is None:
            return
        yield f"{task}: {self.scored.sentence()}, on the dev set at step {self.best_step:,} of {self.total:,}"
        if self.evaluations > 1:
            instead = "" if self.test else f"; {setting('test_split')} keeps a set apart that chooses nothing"
            yield chosen_by_dev(self.evaluations) + instead
        yield f"{baseline_name(self.kind)}: {self.baseline:.4f}, difference {self.against.sentence()}"
        if self.test is not None and self.test_against is not None:
            yield f"test set, scored once at the end: {self.test.sentence()}"
            plain = self.test.metrics[metric] - self.test_against.difference
            yield f"{baseline_name(self.kind)} on the test set: {plain:.4f}, difference {self.test_against.sentence()}"
        if self.forgetting:
            yield sentence_of(dict(self.forgetting))
        for warning in self.warnings:
            yield f"warning: {warning}"
        for sentence in self.advice:
            yield f"try {template_of(sentence)}"


def chosen_by_dev(evaluations: int) -> str:
    """Return the sentence on the score of a set that has chosen the checkpoint."""
    return (
        f"the dev set chose this checkpoint among {evaluations:,} evaluations, so its own score is slightly optimistic"
    )


def announce(config: FinetuneConfig, data: TaskData, setup: TaskSetup, steps: int, where: str) -> None:
    """Print the sizes of a run before its start."""
    learning = sum(parameter.numel() for parameter in setup.model.parameters() if parameter.requires_grad)
    tested = f", {len(data.test):,} to test at the end" if data.test is not None else ""
    say(
        f"{data.task.name}: {len(data.learnt):,} items to train on, {len(data.dev):,} to score{tested}; {learning:,} "
        f"weights learn, {steps:,} steps of {config.options.batch_size} items, {where}"
    )
    for remark in setup.adapter.remarks():
        say(remark)
    for number, example in enumerate(setup.adapter.examples(setup.encoded), 1):
        say(f"example {number}, what is learnt in {BEGIN_ASKED}{END_ASKED}: {' ⏎ '.join(example.splitlines())}")
    pad = setup.loaded.vocabulary.roles.get("pad", 0)
    if packed := setup.adapter.packing(setup.encoded, setup.adapter.epochs(setup.encoded), pad):
        say(packed)


def note_run(
    data: TaskData, setup: TaskSetup, context: RunContext, start: Start, steps: int, baseline: dict[str, float]
) -> None:
    """Write facts about the run, the model and the machine, for readers of the run folder: `run.json`."""
    from blankfill.model.config import config_values
    from blankfill.system.environment import environment

    parameters = list(setup.model.parameters())
    facts = {
        "steps": steps,
        "items": {
            "train": len(data.learnt),
            "dev": len(data.dev),
            **({} if data.test is None else {"test": len(data.test)}),
        },
        "computed_on": context.machine.where,
        "learning": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "weights": sum(parameter.numel() for parameter in parameters),
        "objective": setup.loaded.objective.name,
        "model": config_values(setup.loaded.model.config),
        "primary_metric": data.task.primary_metric,
        "baseline": baseline,
        "resumed" if start.resumed else "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
    }
    note_facts(context.folder, facts, start.resumed)


def finish(
    training: Training,
    done: Progress,
    predictions: Sequence[Prediction],
    test_predictions: Sequence[Prediction] | None = None,
) -> FinetuneResult:
    """Write the results and the predictions of the best checkpoint, and update the report."""
    config, data, adapter = training.config, training.data, training.setup.adapter
    out, ended, main = training.context.folder, training.stopped, data.task.primary_metric
    dev = data.dev.items
    best_step = done.best_step if done.best_step >= 0 else done.step
    adapter.tune(dev, predictions)
    on_dev = _assessed(adapter, dev, predictions, training.baseline, main)
    on_test = None
    if data.test is not None and test_predictions is not None:
        on_test = _assessed(adapter, data.test.items, test_predictions, training.test_baseline, main)
        _write_predictions(out / TEST_PREDICTIONS, adapter, data.test.items, test_predictions)
    scores, baseline, against = on_dev
    _write_predictions(out / PREDICTIONS, adapter, dev, predictions)
    history = read_history(out, main)
    signs: list[str] = []
    hints: list[str] = []
    if not ended:
        items, given, name = (dev, predictions, "dev")
        if on_test is not None and data.test is not None and test_predictions is not None:
            items, given, name = data.test.items, test_predictions, "test"
        judged = on_test or on_dev
        same = same_for_all(adapter, items, given)
        signs = warnings(judged[2], *judged[:2], main, data.task.kind, same, name)
        if signs:
            hints = advice(config.options, data.learnt.items, done.step, history, judged[2], name, bool(same))
    threshold = getattr(adapter, "threshold", None)
    speed = done.step * config.options.batch_size / done.seconds if done.seconds else 0.0
    results = {
        **config.values(),
        "labels": list(adapter.labels),
        "items": {"train": len(data.learnt), "dev": len(dev), **({"test": on_test[0].items} if on_test else {})},
        "metrics": scores.metrics,
        "primary_metric": main,
        "score": scores.metrics[main],
        "intervals": scores.values()["intervals"],
        "evaluations": history.evaluations,
        "baseline": {"metrics": baseline.metrics, "score": baseline.metrics[main], **against.values()},
        **({} if on_test is None else {"test": _values(*on_test, main, config.options.test_split)}),
        "warnings": signs,
        "advice": hints,
        **adapter.error_analysis(dev, predictions),
        **_beside(training, predictions),
        **({} if threshold is None else {"threshold": threshold}),
        "complete": not ended,
        "best_step": best_step,
        "steps": done.step,
        "seconds": done.seconds,
        "items_per_second": speed,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    drawn = {name: resamples_of(of[0], of[2], main) for name, of in (("dev", on_dev), ("test", on_test)) if of}
    write_file(out / RESAMPLES, json.dumps(drawn) + "\n")
    write_file(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    renew_report(out)
    return FinetuneResult(
        out, scores.metrics, scores.metrics[main], baseline.metrics[main], best_step, done.step, speed, not ended,
        training.settings.steps, training.context.stop_reason(False), scores, against,
        on_test[0] if on_test else None, on_test[2] if on_test else None, history.evaluations, signs, hints,
        data.task.kind, training.forgetting.values() if training.forgetting else {},
    )  # fmt: skip


def _beside(training: Training, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return what a task whose baseline is the model before fine-tuning shows of it, and the report on old text."""
    adapter, setup = training.setup.adapter, training.setup
    values: dict[str, Any] = {
        "examples": adapter.examples(setup.encoded),
        "samples": adapter.samples(training.data.dev.items, training.baseline, predictions),
        "forgetting": training.forgetting.values() if training.forgetting else {},
    }
    return {name: value for name, value in values.items() if value}


Assessed = tuple[Scores, Scores, Comparison]
"""The scores of a model, those of the baseline, and both compared."""


def _assessed(
    adapter: Adapter, items: Sequence[Item], given: Sequence[Prediction], plain: Sequence[Prediction], metric: str
) -> Assessed:
    scores, baseline = adapter.assess(items, given), adapter.assess(items, plain)
    return scores, baseline, compare(scores, baseline, metric)


def _values(scores: Scores, baseline: Scores, against: Comparison, metric: str, split: str) -> dict[str, Any]:
    """Return the results of the test set as JSON values. split: as `--test-split` names it."""
    plain = {"metrics": baseline.metrics, "score": baseline.metrics[metric], **against.values()}
    return {"split": split, **scores.values(), "score": scores.metrics[metric], "baseline": plain}


def resamples_of(scores: Scores, against: Comparison, metric: str) -> dict[str, list[float]]:
    """Return the resamples of the primary metric and of its difference from the baseline, for `resamples.json`."""
    values = {"score": scores.resamples.get(metric), "difference": against.resamples}
    return {name: np.round(of, 6).tolist() for name, of in values.items() if of is not None}


def _write_predictions(path: Path, adapter: Adapter, items: Sequence[Item], predictions: Sequence[Prediction]) -> None:
    lines = [{"id": item.id, **adapter.record(prediction)} for item, prediction in zip(items, predictions, strict=True)]
    write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
