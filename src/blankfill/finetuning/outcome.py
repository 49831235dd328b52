"""Reports of a fine-tuning run: at its start, in `run.json`, and in its results."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blankfill.runs.folder import note_facts, renew_report
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.system.stopping import Stop
from blankfill.tasks.run_files import PREDICTIONS, RESULTS

if TYPE_CHECKING:
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.data import TaskData
    from blankfill.finetuning.model_setup import TaskSetup
    from blankfill.finetuning.training import Training
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start
    from blankfill.tasks.adapter import Prediction
    from blankfill.training.progress import Progress


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a fine-tuning run. metrics: of the best checkpoint on the dev set; score: its primary metric.

    steps: number of steps done, of `total`. items_per_second: training items, without the time of scoring. complete:
    False when the run was stopped before its end. stopped: the signal that it got, even after its last step.
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


def announce(config: FinetuneConfig, data: TaskData, setup: TaskSetup, steps: int, where: str) -> None:
    """Print the sizes of a run before its start."""
    learning = sum(parameter.numel() for parameter in setup.model.parameters() if parameter.requires_grad)
    say(
        f"{data.task.name}: {len(data.learnt):,} items to train on, {len(data.dev):,} to score; {learning:,} weights "
        f"learn, {steps:,} steps of {config.options.batch_size} items, {where}"
    )
    for remark in setup.adapter.remarks():
        say(remark)


def note_run(
    data: TaskData, setup: TaskSetup, context: RunContext, start: Start, steps: int, baseline: dict[str, float]
) -> None:
    """Write facts about the run, the model and the machine, for readers of the run folder: `run.json`."""
    from blankfill.model.config import config_values
    from blankfill.system.environment import environment

    parameters = list(setup.model.parameters())
    facts = {
        "steps": steps,
        "items": {"train": len(data.learnt), "dev": len(data.dev)},
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


def finish(training: Training, done: Progress, predictions: Sequence[Prediction]) -> FinetuneResult:
    """Write the results and the predictions of the best checkpoint, and update the report."""
    config, data, adapter = training.config, training.data, training.setup.adapter
    out, ended, main = training.context.folder, training.stopped, data.task.primary_metric
    dev = data.dev.items
    best_step = done.best_step if done.best_step >= 0 else done.step
    metrics, baseline = adapter.measure(dev, predictions), training.baseline
    threshold = getattr(adapter, "threshold", None)
    lines = [{"id": item.id, **adapter.record(prediction)} for item, prediction in zip(dev, predictions, strict=True)]
    write_file(out / PREDICTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    speed = done.step * config.options.batch_size / done.seconds if done.seconds else 0.0
    results = {
        **config.values(),
        "labels": list(adapter.labels),
        "items": {"train": len(data.learnt), "dev": len(dev)},
        "metrics": metrics,
        "primary_metric": main,
        "score": metrics[main],
        "baseline": {"metrics": baseline, "score": baseline[main]},
        **adapter.error_analysis(dev, predictions),
        **({} if threshold is None else {"threshold": threshold}),
        "complete": not ended,
        "best_step": best_step,
        "steps": done.step,
        "seconds": done.seconds,
        "items_per_second": speed,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_file(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    renew_report(out)
    return FinetuneResult(
        out, metrics, metrics[main], baseline[main], best_step, done.step, speed, not ended,
        training.settings.steps, training.context.stop_reason(False),
    )  # fmt: skip
