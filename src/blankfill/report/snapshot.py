"""Reads a run from its folder at any moment: recipe, measurements, events and samples.

Every file of the folder may be missing, and the last line of each may be half written; unreadable files count as
missing. Not here: showing a run (`page`), and writing its files (`runs.recorder`, `generation.samples`).

"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.summary import CorpusReport
from blankfill.errors import UserError
from blankfill.generation import hidden_words_report
from blankfill.generation.hidden_words_report import Report
from blankfill.report.curves import Row, Table, is_step, latest, read_tables
from blankfill.report.names import without_paths, without_paths_in
from blankfill.system.loader import build
from blankfill.system.reading import parse_json, parse_yaml, read_bytes, read_json_lines, read_path
from blankfill.training.options import TrainOptions

RECENT = 20
"""Number of training lines from which the remaining time is estimated."""


@dataclass(frozen=True)
class Sample:
    """One fixed text and the outputs of the model. answer: the original text of its blank, "" when unknown; None for a
    prompt to continue. at: (step, outputs, best first), in order of steps.
    """

    text: str
    answer: str | None
    at: Sequence[tuple[int, Sequence[str]]]


@dataclass(frozen=True)
class Event:
    """An event of a run at a step."""

    step: int
    kind: str
    text: str
    time: str


@dataclass(frozen=True)
class Best:
    """The validation with the lowest loss: row number, step, tokens (NaN where unknown), loss in nats per target."""

    row: int
    step: int
    tokens: float
    loss: float


@dataclass(frozen=True)
class Snapshot:
    """The content of a run folder. metrics: lines by split. facts: run.json. recipe: its values, {} when it cannot be
    read. Absolute paths in facts, recipe, events and corpus are names only."""

    folder: Path
    metrics: Mapping[str, Table]
    samples: Sequence[Sample]
    events: Sequence[Event]
    facts: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_text: str
    corpus: CorpusReport | None
    hidden_words: Report | None = None

    @property
    def name(self) -> str:
        """Name of the run: that of its recipe, otherwise of its folder."""
        return str(self.recipe.get("name") or self.folder.resolve().name)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the recipe."""
        value = self.recipe.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def vocabulary(self) -> int | None:
        """Size of the vocabulary that the model has, or of the prepared text; None where neither is known."""
        noted = self.facts.get("vocabulary")
        return noted if is_step(noted) else self.corpus.vocabulary if self.corpus else None

    @property
    def total(self) -> int | None:
        """Number of steps of the whole run."""
        steps = self.section("train").get("steps")
        return steps if is_step(steps) else None

    def split(self, name: str) -> Table:
        """Return the lines of a split, none when it was not measured."""
        return self.metrics.get(name) or Table([])

    @property
    def step(self) -> int | None:
        """Number of finished steps, as measured, or recorded at the end of the run."""
        known = [int(table.steps[-1]) for table in self.metrics.values()]
        noted = self.facts.get("step")
        return max([*known, noted] if is_step(noted) else known, default=None)

    @property
    def tokens(self) -> int | None:
        """Number of tokens seen, as measured, or recorded at the end of the run."""
        last = [float(table.column("tokens")[-1]) for table in self.metrics.values()]
        if last and (noted := number(self.facts.get("tokens"))) is not None:
            last.append(noted)
        return int(max(last)) if last and all(map(math.isfinite, last)) else None

    @property
    def baseline(self) -> float | None:
        """Validation loss of a model that knows only word frequencies, in nats per target."""
        return number(self.facts.get("baseline"))

    @property
    def early(self) -> Event | None:
        """Event that ended the run before its last step, None without one."""
        last = self.events[-1] if self.events else None
        if last is None or last.kind != "early stop" or self.step is None or last.step < self.step:
            return None
        return last

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped before its last step and has not been resumed since."""
        return bool(self.facts.get("stopped")) and not self.finished

    @property
    def finished(self) -> bool:
        """Whether no step remains."""
        return self.early is not None or (self.step is not None and self.total is not None and self.step >= self.total)

    @property
    def _long_from(self) -> int:
        """Step from which rows are long, -1 when they always are or the recipe does not say."""
        names = ("steps", "phase1_length", "phase1_steps")
        given = {name: value for name, value in self.section("train").items() if name in names}
        try:
            return build(TrainOptions, given, "train").long_from or -1
        except UserError:
            return -1

    @cached_property
    def best(self) -> Best | None:
        """The best validation; in the phase of long rows only validations of that phase, since the losses differ."""
        table = self.split("valid")
        losses = table.column("loss")
        if len(table) and table.steps[-1] > self._long_from:
            losses = np.where(table.steps > self._long_from, losses, np.nan)
        if np.isnan(losses).all():
            return None
        k = int(np.nanargmin(losses))
        return Best(k, int(table.steps[k]), float(table.column("tokens")[k]), float(losses[k]))

    def last_loss(self, split: str) -> tuple[int, float] | None:
        """Return the newest loss of a split and its step."""
        table = self.split(split)
        there = np.flatnonzero(~np.isnan(table.column("loss")))
        return (int(table.steps[there[-1]]), float(table.column("loss")[there[-1]])) if len(there) else None

    def seconds_at(self, steps: Sequence[int]) -> NDArray[np.float64]:
        """Return the training time until some steps, interpolated between lines, float64[N]; NaN where unknown."""
        table, between = self.split("train"), self._seconds_between
        known = ~np.isnan(between)
        if not known.any():
            return np.full(len(steps), np.nan)
        at, seconds = np.append(0, table.steps[known]), np.append(0.0, np.cumsum(between[known]))
        result: NDArray[np.float64] = np.interp(steps, at, seconds)
        return result

    @cached_property
    def _seconds_between(self) -> NDArray[np.float64]:
        """Seconds between each line of training metrics and the previous line, float64[N]; NaN where unknown."""
        table = self.split("train")
        rate = np.where(table.column("tokens_per_s") > 0, table.column("tokens_per_s"), np.nan)
        return np.diff(table.column("tokens"), prepend=0.0) / rate

    @property
    def seconds(self) -> float | None:
        """Time spent on training steps, None when unknown."""
        total = float(np.nansum(self._seconds_between))
        return total if total > 0 else None

    @property
    def speed(self) -> float | None:
        """Tokens per second over the last lines of training metrics."""
        rate = self.split("train").column("tokens_per_s")[-RECENT:]
        rate = rate[rate > 0]
        return float(len(rate) / (1 / rate).sum()) if len(rate) else None

    @property
    def seconds_left(self) -> float | None:
        """Training time of the remaining steps at the speed of the last lines, None when unknown or finished."""
        steps = np.diff(self.split("train").steps, prepend=0)[-RECENT:]
        seconds = self._seconds_between[-RECENT:]
        known = ~np.isnan(seconds)
        took, done = float(seconds[known].sum()), int(steps[known].sum())
        if self.finished or self.step is None or self.total is None or not done:
            return None
        return took / done * (self.total - self.step)

    def tokens_at(self, steps: Sequence[int]) -> NDArray[np.float64]:
        """Return the tokens seen by some steps, interpolated between lines, float64[N]; NaN where no line counts
        tokens."""
        known = [np.stack([table.steps, table.column("tokens")]) for table in self.metrics.values()]
        at, seen = np.concatenate([np.empty((2, 0)), *known], axis=1)
        at, seen = at[~np.isnan(seen)], seen[~np.isnan(seen)]
        if not len(at):
            return np.full(len(steps), np.nan)
        order = np.argsort(at, kind="stable")
        result: NDArray[np.float64] = np.interp(steps, at[order], seen[order])
        return result


def read_snapshot(run: Path) -> Snapshot:
    """Read a run folder, however incomplete. Raises UserError when `run` is not a folder."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; name the folder of a run")
    text = _text(run / "recipe.yaml")
    return Snapshot(
        folder=run,
        metrics=_metrics(run / "metrics.jsonl"),
        samples=_samples(_objects(run / "samples.jsonl")),
        events=_events(_objects(run / "events.jsonl")),
        facts=without_paths_in(read_json(run / "run.json")),
        recipe=without_paths_in(_yaml(text)),
        recipe_text=without_paths(text),
        corpus=_corpus(run),
        hidden_words=hidden_words_report.read(run),
    )


def number(value: object) -> float | None:
    """Return a finite number, None for any other value."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    return None


def part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a mapping inside another, {} when the value is not a mapping."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except UserError:
        return ""


def _objects(path: Path) -> list[Row]:
    try:
        return read_json_lines(path)[0]
    except UserError:
        return []


def _metrics(path: Path) -> dict[str, Table]:
    try:
        return read_tables(path)
    except UserError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, {} when it cannot be read."""
    try:
        return parse_json(_text(path), path)
    except UserError:
        return {}


def _yaml(text: str) -> dict[str, Any]:
    try:
        value = parse_yaml(text, "recipe.yaml")
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def _corpus(run: Path) -> CorpusReport | None:
    try:
        corpus = CorpusReport.read(run / read_path(run / "corpus_path.txt"))
    except UserError:
        return None
    return corpus_without_paths(corpus)


def corpus_without_paths(corpus: CorpusReport) -> CorpusReport:
    """Return the report of a corpus with the name of a file or a folder in place of each absolute path."""
    names = ("skipped", "notices", "config", "sources", "duplicates")
    inventory = [dataclasses.replace(line, source=without_paths(line.source)) for line in corpus.inventory]
    changed = {name: without_paths_in(getattr(corpus, name)) for name in names}
    return dataclasses.replace(corpus, inventory=tuple(inventory), **changed)


def _samples(rows: Sequence[Row]) -> list[Sample]:
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        key: tuple[str, str | None]
        if isinstance(row.get("text"), str):
            key, made = (row["text"], str(row.get("answer", ""))), row.get("fills")
        elif isinstance(row.get("prompt"), str):
            key, made = (row["prompt"], None), row.get("continuation")
        else:
            continue
        answers = [made] if isinstance(made, str) else made
        if is_step(row.get("step")) and isinstance(answers, list):
            groups.setdefault(key, []).append({"step": row["step"], "answers": list(map(str, answers))})
    return [
        Sample(text, answer, [(row["step"], row["answers"]) for row in latest(lines)])
        for (text, answer), lines in groups.items()
    ]


def _events(rows: Sequence[Row]) -> list[Event]:
    return [
        Event(row["step"], *(without_paths(str(row.get(name) or "")) for name in ("kind", "text", "time")))
        for row in rows
        if is_step(row.get("step"))
    ]
