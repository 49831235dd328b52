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

from blankfill.errors import ConfigError, Problem, setting
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.several import check_inputs_unchanged, finish_run, shared_machine
from blankfill.runs.folder import renew_report
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.system.loader import MismatchError, convert_field
from blankfill.system.schema import fields_of, nearest
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import RESULTS

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
        table = list(summary(runs_done))
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
        renew_report(out)
    main = runs_done[0]["primary_metric"]
    for row in table:
        counted = f"{row['runs']} runs" if row["runs"] > 1 else "1 run"
        spread = f"{row['mean']:.4f} ± {row['deviation']:.4f} ({counted}, best {row['best']:.4f})"
        yield f"{row['setting']}: {main} {spread}"
    yield f"baseline (ignores the texts): {runs_done[0]['baseline']['score']:.4f}; the best setting: {best['setting']}"


def summary(runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield, for each setting, the number of runs, and the mean, deviation and best of the primary metric."""
    for combination in dict.fromkeys(run["setting"] for run in runs):
        mine = [run for run in runs if run["setting"] == combination]
        scores = [run["score"] for run in mine]
        yield {
            "setting": combination,
            "runs": len(mine),
            "mean": statistics.fmean(scores),
            "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "best": max(scores),
            "best_run": max(mine, key=lambda run: run["score"])["folder"],
        }
