"""A fine-tuning run as its folder tells it at this moment: what was asked, what was measured, how it ended.

As with a pretraining run any file may be missing or half written. Not here: how any of it is shown (`tuned_page`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.report.snapshot import Best, Snapshot, number, read_json, read_snapshot
from blankfill.tasks.run_files import CONFIG, RESULTS


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning run, read. asked: finetune.json; results: results.json, {} while the run trains."""

    snapshot: Snapshot
    asked: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.asked.get("task", ""))

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that were given, defaults included."""
        return part(self.asked, "options")

    @property
    def primary_metric(self) -> str:
        """The metric by which the best checkpoint is chosen, "" when nobody knows yet."""
        return str(self.results.get("primary_metric") or self.snapshot.facts.get("primary_metric") or "")

    @property
    def baseline(self) -> dict[str, float]:
        """The metrics of who has not read the items."""
        told = part(self.results, "baseline").get("metrics") or self.snapshot.facts.get("baseline")
        return numbers(told)

    @property
    def best(self) -> Best | None:
        """The best score on the dev set so far; its `loss` is that score."""
        table = self.snapshot.split("valid")
        scores = table.column(self.primary_metric) if len(table) else np.zeros(0)
        if not len(scores) or np.isnan(scores).all():
            return None
        k = int(np.nanargmax(scores))
        return Best(k, int(table.steps[k]), float(table.column("tokens")[k]), float(scores[k]))

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the best checkpoint, the main one first."""
        best, table = self.best, self.snapshot.split("valid")
        found = numbers(self.results.get("metrics"))
        if not found and best is not None:
            found = {name: float(table.column(name)[best.row]) for name in self.baseline or {self.primary_metric: 0.0}}
        return {name: found[name] for name in sorted(found, key=lambda name: name != self.primary_metric)}


def read_tuned(run: Path) -> Tuned:
    """Read the folder of a fine-tuning run. Raises UserError when it is no folder."""
    found = read_snapshot(run)
    asked = read_json(run / CONFIG)
    options = part(asked, "options")
    training = {"steps": found.facts.get("steps"), "max_grad_norm": options.get("max_grad_norm")}
    return Tuned(dataclasses.replace(found, recipe={"train": training}), asked, read_json(run / RESULTS))


def part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping inside of another, {} when it is none."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def rows(values: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The mappings of a list inside of a mapping."""
    found = values.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def numbers(values: object) -> dict[str, float]:
    """The finite numbers of a mapping by name."""
    given = values if isinstance(values, dict) else {}
    found = {str(name): number(value) for name, value in given.items()}
    return {name: value for name, value in found.items() if value is not None}
