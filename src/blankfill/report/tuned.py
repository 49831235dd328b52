"""Reads a fine-tuning run from its folder at any moment: configuration, measurements, results. As in a pretraining run
any file may be missing or half written. Not here: showing the run (`tuned_page`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.report.names import without_paths_in
from blankfill.report.snapshot import Best, Snapshot, number, part, read_json, read_snapshot
from blankfill.tasks.run_files import CONFIG, RESULTS

FROM_START = "chat"
"""The task whose baseline is the model before its fine-tuning."""


@dataclass(frozen=True)
class Tuned:
    """The content of a fine-tuning run. config: finetune.json; results: results.json, {} while the run trains."""

    snapshot: Snapshot
    config: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.config.get("task", ""))

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the run, defaults included."""
        return part(self.config, "options")

    @property
    def primary_metric(self) -> str:
        """Metric by which the best checkpoint is chosen, "" when not known yet."""
        return str(self.results.get("primary_metric") or self.snapshot.facts.get("primary_metric") or "")

    @property
    def baseline(self) -> dict[str, float]:
        """Metrics of predictions without reading the items."""
        metrics = part(self.results, "baseline").get("metrics") or self.snapshot.facts.get("baseline")
        return numbers(metrics)

    @property
    def from_start(self) -> bool:
        """Whether the baseline is the model before its fine-tuning."""
        return "samples" in self.results or self.task == FROM_START

    @property
    def compared_with(self) -> str:
        """What the baseline is, in a few words."""
        return "before" if self.from_start else "without reading"

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% bootstrap interval of each metric that has one."""
        return between(self.results.get("intervals"))

    @property
    def test(self) -> Mapping[str, Any]:
        """Results of the test set, {} without one and while the run trains."""
        return part(self.results, "test")

    @property
    def warnings(self) -> list[str]:
        """Sentences on why the model has not learnt the task."""
        return sentences(self.results.get("warnings"))

    @property
    def advice(self) -> list[str]:
        """Sentences on what to try then."""
        return sentences(self.results.get("advice"))

    @property
    def best(self) -> Best | None:
        """Best score on the dev set so far; its `loss` is that score."""
        table = self.snapshot.split("valid")
        scores = table.column(self.primary_metric) if len(table) else np.zeros(0)
        if not len(scores) or np.isnan(scores).all():
            return None
        k = int(np.nanargmax(scores))
        return Best(k, int(table.steps[k]), float(table.column("tokens")[k]), float(scores[k]))

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the best checkpoint, the primary metric first."""
        best, table = self.best, self.snapshot.split("valid")
        metrics = numbers(self.results.get("metrics"))
        if not metrics and best is not None:
            metrics = {
                name: float(table.column(name)[best.row]) for name in self.baseline or {self.primary_metric: 0.0}
            }
        return {name: metrics[name] for name in sorted(metrics, key=lambda name: name != self.primary_metric)}


def read_tuned(run: Path) -> Tuned:
    """Read the folder of a fine-tuning run. Raises UserError when `run` is not a folder."""
    snapshot = read_snapshot(run)
    config = without_paths_in(read_json(run / CONFIG))
    options = part(config, "options")
    training = {"steps": snapshot.facts.get("steps"), "max_grad_norm": options.get("max_grad_norm")}
    return Tuned(dataclasses.replace(snapshot, recipe={"train": training}), config, read_json(run / RESULTS))


def rows(values: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the mappings of a list inside a mapping."""
    value = values.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def numbers(values: object) -> dict[str, float]:
    """Return the finite numbers of a mapping by name."""
    given = values if isinstance(values, dict) else {}
    parsed = {str(name): number(value) for name, value in given.items()}
    return {name: value for name, value in parsed.items() if value is not None}


def between(values: object) -> dict[str, tuple[float, float]]:
    """Return the pairs of finite numbers of a mapping by name."""
    given = values if isinstance(values, dict) else {}
    pairs = {str(name): pair_of(value) for name, value in given.items()}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def pair_of(value: object) -> tuple[float, float] | None:
    """Return a list of two finite numbers as a pair, None for any other value."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)


def written_pair(pair: tuple[float, float] | None) -> str:
    """Return an interval as text, a dash for none."""
    return "–" if pair is None else f"{pair[0]:.4f} to {pair[1]:.4f}"


def sentences(value: object) -> list[str]:
    """Return the texts of a list."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
