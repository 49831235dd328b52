"""Several runs beside each other: their charts, their results, and the settings in which they differ.

Pretraining and fine-tuning runs, finished or not. Not here: the page (`compare_page`), the files for other programs
(`compare_files`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blankfill.errors import UserError
from blankfill.report.charts import KNOWN, Chart, Series, described, measured
from blankfill.report.masthead import state_of
from blankfill.report.sections import prepared_options
from blankfill.report.several_page import read_several
from blankfill.report.snapshot import Snapshot, number, part, read_snapshot
from blankfill.report.tuned import Tuned, read_tuned
from blankfill.tasks.run_files import CONFIG

Value = Any
"""A value of JSON or YAML, None where a run has none."""

COUNTS = ("steps", "tokens", "seconds", "parameters", "at step")
"""Results that are whole numbers or times."""
_FIRST = ("loss", "named_at_once", "named_among_5")
"""Metrics whose charts come first, each of the validation text before that of the training text."""
_SPLITS = {"valid": "Validation", "train": "Training", "old": "Old text", "hidden words": ""}


@dataclass(frozen=True)
class Run:
    """A run with a name that no other of the runs has. tuned: for a fine-tuning run."""

    name: str
    snapshot: Snapshot
    tuned: Tuned | None = None

    @property
    def state(self) -> str:
        """State of the run in words."""
        return state_of(self.snapshot)[1]

    @property
    def settings(self) -> dict[str, Value]:
        """Settings by their dotted name, as the run has them."""
        facts = self.snapshot.facts
        if self.tuned is not None:
            config = self.tuned.config
            start = {"task": self.tuned.task, "data": config.get("data"), "from": config.get("from")}
            return {**start, **flat(part(config, "tables"), "tables."), **flat(self.tuned.options, "")}
        recipe = {**self.snapshot.recipe, **prepared_options(self.snapshot)}
        start = {name: facts.get(name) for name in ("from", "replay_ratio", "teacher", "computed_on")}
        corpus = self.snapshot.corpus
        start["training tokens of the text"] = corpus.train.tokens if corpus else None
        return {**flat(recipe, ""), **start}

    @property
    def results(self) -> dict[str, float]:
        """Results by name; of a run that is not finished, those so far."""
        shot, values = self.snapshot, dict[str, float | None]()
        if self.tuned is not None:
            main = self.tuned.primary_metric
            values |= {f"dev {name}": value for name, value in self.tuned.metrics.items()}
            values["at step"] = self.tuned.best.step if self.tuned.best else None
            values[f"dev {main} without reading"] = self.tuned.baseline.get(main)
            test = part(self.tuned.test, "metrics")
            values |= {f"test {name}": number(value) for name, value in test.items()}
            values["parameters"] = number(shot.facts.get("weights"))
        else:
            values["best validation loss"] = shot.best.loss if shot.best else None
            values["at step"] = shot.best.step if shot.best else None
            values["loss of word frequencies alone"] = shot.baseline
            if words := shot.hidden_words:
                values["hidden words named at once"] = words.model.first
                values["hidden words named among five"] = words.model.among
            values["parameters"] = number(shot.facts.get("parameters"))
        values |= {"steps": shot.step, "tokens": shot.tokens, "seconds": shot.seconds}
        return {name: value for name, value in values.items() if value is not None}


def flat(values: Mapping[str, Value], before: str) -> dict[str, Value]:
    """Return the values of nested mappings by dotted names. before: the beginning of each name."""
    result: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{before}{name}.")
        else:
            result[f"{before}{name}"] = value
    return result


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs of some folders; a folder of several fine-tuning runs stands for each of them.

    Raises UserError for a folder without a run, and for fewer than two runs.
    """
    paths: list[Path] = []
    known: dict[Path, Tuned] = {}
    for folder in folders:
        several = read_several(folder) if folder.is_dir() and not (folder / CONFIG).exists() else None
        if several is not None:
            inside = {folder / name: run for name, run in several.runs.items()}
            known |= inside
            paths += inside
        elif not folder.is_dir() or not any((folder / name).is_file() for name in (CONFIG, "recipe.yaml")):
            why = "holds no run" if folder.is_dir() else "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {why}; name the folders of runs, as `pretrain` and `finetune` made them")
        else:
            paths.append(folder)
    paths = list({path.resolve(): path for path in paths}.values())
    if len(paths) < 2:
        raise UserError(f"only one run is named ({', '.join(map(str, paths))}); name two or more to compare them")
    runs = []
    for path, name in zip(paths, names_of(paths), strict=True):
        tuned = (known.get(path) or read_tuned(path)) if (path / CONFIG).exists() else None
        runs.append(Run(name, tuned.snapshot if tuned else read_snapshot(path), tuned))
    return runs


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, or as many more as make the names differ, else a number too."""
    parts = [path.resolve().parts for path in paths]
    for count in (1, 2, 3):
        names = ["/".join(of[1:][-count:]) or "run" for of in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number} {path.resolve().name}" for number, path in enumerate(paths, 1)]


def differing(runs: Sequence[Run]) -> dict[str, list[Value]]:
    """Return the settings in which the runs differ, each with its values in the order of the runs; first those that all
    of them have. A setting that is empty counts as one that a run does not have."""
    settings = [{name: value for name, value in run.settings.items() if value not in ([], (), "")} for run in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = {name: [values.get(name) for values in settings] for name in names}
    changed = {name: row for name, row in rows.items() if name != "name" and any(value != row[0] for value in row)}
    shared = {name for name in changed if all(name in values for values in settings)}
    return {name: changed[name] for name in sorted(changed, key=lambda name: name not in shared)}


def results_of(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Return the results of the runs, each with its values in the order of the runs."""
    results = [run.results for run in runs]
    names = sorted(dict.fromkeys(name for values in results for name in values), key=lambda name: name in COUNTS)
    return {name: [values.get(name) for values in results] for name in names}


def cautions(runs: Sequence[Run]) -> list[str]:
    """Return sentences on what must not be concluded from the numbers."""
    sentences = []
    trained = [run.snapshot for run in runs if run.tuned is None]
    if len({str(shot.section("objective").get("name")) for shot in trained}) > 1:
        sentences.append(
            "The objectives differ, so the losses are means over other targets: a lower loss is not a better model. "
            "Compare the hidden words, or the scores of a task after fine-tuning."
        )
    elif len({shot.vocabulary for shot in trained}) > 1 or len({_text_of(shot) for shot in trained}) > 1:
        sentences.append(
            "The vocabularies or the texts differ, so the losses are of other tokens: compare each with the loss of "
            "word frequencies alone."
        )
    if len({_text_of(shot) for shot in trained if shot.hidden_words}) > 1:
        sentences.append("The hidden words are drawn from different texts, so their shares differ by the text as well.")
    tasks = {(run.tuned.task, str(run.tuned.config.get("data"))) for run in runs if run.tuned is not None}
    if len(tasks) > 1:
        sentences.append("The tasks or their data differ, so the scores are of different questions.")
    if unfinished := [run.name for run in runs if not run.snapshot.finished]:
        sentences.append(f"Not finished: {', '.join(unfinished)}; their results are those so far.")
    return sentences


def _text_of(snapshot: Snapshot) -> str:
    return snapshot.corpus.fingerprint if snapshot.corpus else ""


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """Return a chart for each metric of a split, with a curve for each run that has it; the scores come first."""
    by_chart: dict[tuple[str, str], list[Series]] = {}
    scores = {run.tuned.primary_metric for run in runs if run.tuned is not None}
    others = {name for run in runs if run.tuned is not None for name in run.tuned.metrics} - scores
    for place, run in enumerate(runs):
        for name, series in measured(run.snapshot, run.name, place):
            by_chart.setdefault((name, series.split), []).append(series)
    order = [*sorted(scores), *_FIRST, *sorted(others), *KNOWN]
    splits = list(_SPLITS)

    def rank(key: tuple[str, str]) -> tuple[int, int]:
        name, split = key
        return (
            order.index(name) if name in order else len(order),
            splits.index(split) if split in splits else len(splits),
        )

    return [_chart(*key, by_chart[key], key[0] in scores | others) for key in sorted(by_chart, key=rank)]


def _chart(name: str, split: str, series: Sequence[Series], is_score: bool) -> Chart:
    title, unit, style = described(name, is_score)
    kind = _SPLITS.get(split, split)
    if (name == "loss" or name.endswith("_loss")) and kind:
        title = f"{kind} {title[:1].lower()}{title[1:]}"
    return Chart(f"{name} {split}", title, unit, style, tuple(series))
