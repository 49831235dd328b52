"""Grids: a fine-tuning run for every setting with each of several seeds, and a table that compares them.

Runs are in subfolders named by their settings; finished runs are not repeated. The table and the page are updated after
each run.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.errors import ConfigError, Problem, UserError, setting
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.several import check_inputs_unchanged, finish_run, shared_machine
from blankfill.finetuning.verdict import baseline_name
from blankfill.runs.folder import renew_report
from blankfill.system.console import say, worded
from blankfill.system.files import write_file
from blankfill.system.loader import MismatchError, convert_field
from blankfill.system.reading import read_json
from blankfill.system.schema import fields_of, nearest
from blankfill.tasks.metrics.intervals import FEWEST_ROWS, figure, interval
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import RESAMPLES, RESULTS

ALL_PATTERNS = (
    f"{setting('pattern', 'all')} is a run for each pattern; leave out {setting('grid')} and {setting('num_seeds')}, "
    "or it"
)
"""Why a grid of all patterns is rejected."""
Setting = tuple[str, FinetuneOptions]
"""Folder name of a run, and its options."""


def combinations(options: FinetuneOptions, grid: Sequence[str], num_seeds: int) -> list[Setting]:
    """Return every combination of a grid's values, each with `num_seeds` seeds.

    grid: `name=value,value` each. Raises ConfigError for unknown names and values, and for settings that cannot be
    trained; all settings are checked before the first run.
    """
    problems: list[str] = []
    axes: dict[str, list[Any]] = {}
    for text in grid:
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        if name in axes:
            problems.append(
                Problem(f"{setting('grid')} {name} is given twice; put all its values into one, as {name}=value,value")
            )
        axes[name] = _values(name, values, problems)
    if num_seeds < 1:
        problems.append(Problem(f"{setting('num_seeds')} is {num_seeds}; it must be at least 1"))
    if problems:
        raise ConfigError(problems)
    settings: dict[str, FinetuneOptions] = {}
    for chosen in itertools.product(*axes.values()):
        named = dict(zip(axes, chosen, strict=True))
        combination = "_".join(f"{name}-{_written(value)}" for name, value in named.items())
        for number in range(num_seeds):
            made = dataclasses.replace(options, **named, seed=options.seed + number)
            folder = "_".join([*([combination] if combination else []), f"seed-{made.seed}"])
            if folder in settings:
                problems.append(
                    Problem(f"{setting('grid')}: two settings would be in the folder {folder}; give each value once")
                )
            settings[folder] = made
            wrong = made.problems()
            if made.method == "cloze" and made.pattern == "all":
                wrong.append(Problem(ALL_PATTERNS))
            problems += [about(combination, problem) for problem in wrong]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return list(settings.items())


def about(combination: str, problem: str) -> str:
    """Add the name of its combination to a sentence about options; without a grid, return the sentence."""
    if not combination:
        return problem
    sentence = problem.template if isinstance(problem, Problem) else problem
    return Problem(f"{setting('grid')}, {combination}: {sentence}")


def _values(name: str, values: str, problems: list[str]) -> list[Any]:
    """Parse the values of one option of a grid like the option itself; problems are appended to `problems`."""
    fields = {field.name: field for field in fields_of(FinetuneOptions) if field.name != "seed"}
    if name == "test_split":
        problems.append(
            Problem(
                f"{setting('grid')} {name}={values}: all runs of a grid have the same test set; give "
                f"{setting('test_split', values.split(',')[0])} beside the grid"
            )
        )
        return []
    if name not in fields or not values:
        close = nearest(name, fields) if name not in fields else ""
        hint = f"did you mean {close}?" if close else f"the names are {', '.join(fields)}"
        problems.append(Problem(f"{setting('grid')} {name}={values}: give name=value,value; {hint}"))
        return []
    converted = []
    for text in values.split(","):
        try:
            converted.append(convert_field(fields[name], text, texts=True))
        except MismatchError as error:
            problems.append(Problem(f"{setting('grid')} {name} {error.sentence}"))
    return converted


def _written(value: Any) -> str:
    """Return a value as part of a folder name."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_grid(config: FinetuneConfig, settings: Sequence[Setting], out: Path) -> Iterator[str]:
    """Run every setting in `out`; yields the table, a line for each setting, the best last."""
    runs_done: list[dict[str, Any]] = []
    check_inputs_unchanged([(dataclasses.replace(config, options=options), out / name) for name, options in settings])
    shared = shared_machine(config.options, out)
    for number, (name, options) in enumerate(settings, 1):
        say(f"run {number} of {len(settings)}: {name}")
        results = finish_run(dataclasses.replace(config, options=options), out / name, shared)
        runs_done.append({"folder": name, "setting": name.rpartition("_")[0] or "as given", **results})
        table = list(summary(runs_done, out))
        best = max(table, key=lambda row: row["mean"])
        runs = [run["folder"] for run in runs_done]
        table_of_task = {
            "task": config.task,
            "primary_metric": results["primary_metric"],
            "settings": table,
            "best": best,
            "runs": runs,
        }
        whole = {**table_of_task, "complete": number == len(settings)}
        write_file(out / RESULTS, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        renew_report(out, live=True)
    main = runs_done[0]["primary_metric"]
    items = runs_done[0]["items"]
    yield f"on the {items['dev']:,} examples of the dev set; in brackets the 95% bootstrap interval over examples"
    for row in table:
        counted = f"{row['runs']} runs" if row["runs"] > 1 else "1 run"
        spread = f"{figure(row['mean'], row.get('interval'))} ± {row['deviation']:.4f}"
        yield f"{row['setting']}: {main} {spread} ({counted}, best {row['best']:.4f})"
    plain = f"{baseline_name(config.build_task().kind)}: {runs_done[0]['baseline']['score']:.4f}"
    yield f"{plain}; the best setting: {best['setting']}"
    if "test" in best:
        test = best["test"]
        yield (
            f"test set ({items['test']:,} examples), which chose nothing: {main} "
            f"{figure(test['mean'], test.get('interval'))} ± {test['deviation']:.4f} (the best setting, {best['runs']} "
            f"{'runs' if best['runs'] > 1 else 'run'}); baseline {test['baseline']:.4f}"
        )
    else:
        yield worded(_chosen(table, best))
    if not best["better"]:
        yield (
            f"warning: the best setting is not clearly better than the baseline (difference "
            f"{best['mean'] - runs_done[0]['baseline']['score']:+.4f})"
        )
        mine = [run for run in runs_done if run["setting"] == best["setting"]]
        for run in mine:
            yield from (f"warning: {run['folder']}: {sentence}" for sentence in run.get("warnings", ()))
        for sentence in dict.fromkeys(sentence for run in mine for sentence in run.get("advice", ())):
            yield f"try {sentence}"


def _chosen(table: Sequence[dict[str, Any]], best: dict[str, Any]) -> str:
    """Return the sentence on scores of a dev set that has chosen among checkpoints and settings."""
    settings = f"among {len(table)} settings, and " if len(table) > 1 else ""
    return (
        f"the dev set chose {settings}the checkpoint of each run, so these scores are slightly optimistic; "
        f"{setting('test_split')} keeps a set apart that chooses nothing"
    )


def summary(runs: Sequence[dict[str, Any]], out: Path) -> Iterator[dict[str, Any]]:
    """Yield, for each setting, the number of runs, and the mean, deviation and best of the primary metric.

    The interval of a mean is that of its runs on the same items; it is left out where a run has no resamples. better:
    whether the mean is above the baseline by more than chance explains. test: the same for the test set.
    """
    for combination in dict.fromkeys(run["setting"] for run in runs):
        mine = [run for run in runs if run["setting"] == combination]
        scores = [run["score"] for run in mine]
        row = {
            "setting": combination,
            "runs": len(mine),
            **_together(scores, mine, out, "dev"),
            "best": max(scores),
            "best_run": max(mine, key=lambda run: run["score"])["folder"],
        }
        tests = [run["test"] for run in mine if isinstance(run.get("test"), dict)]
        if len(tests) == len(mine):
            plain = statistics.fmean(test["baseline"]["score"] for test in tests)
            row["test"] = {**_together([test["score"] for test in tests], mine, out, "test"), "baseline": plain}
        yield row


def _together(scores: Sequence[float], runs: Sequence[dict[str, Any]], out: Path, name: str) -> dict[str, Any]:
    """Return mean and deviation of some runs' scores, with the interval of the mean. name: of the set of items."""
    drawn = [_resamples(out / run["folder"] / RESAMPLES, name) for run in runs]
    values: dict[str, Any] = {
        "mean": statistics.fmean(scores),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
    }
    means = {}
    for kind in ("score", "difference"):
        of_each = [of[kind] for of in drawn if kind in of]
        if len(of_each) == len(runs) and len(set(map(len, of_each))) == 1:
            means[kind] = interval(np.mean(of_each, axis=0))
    if "score" in means:
        values["interval"] = list(means["score"])
    known = "difference" in means and (runs[0]["items"].get(name) or 0) >= FEWEST_ROWS
    values["better"] = means["difference"][0] > 0 if known else all(run["baseline"].get("better", True) for run in runs)
    return values


def _resamples(path: Path, name: str) -> dict[str, list[float]]:
    """Return the resamples of a run on a set of items, {} where there are none."""
    try:
        values = read_json(path).get(name)
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}
