"""Several fine-tuning runs: every setting of a grid, each with several seeds, and the table of what came out.

Runs lie in folders below one, named by what differs; those that are finished are not run again. The table and the page
that compares them are written anew after each.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from blankfill.console import say
from blankfill.errors import ConfigError
from blankfill.finetune import Request
from blankfill.run_folder import renew_report
from blankfill.several import check_same, finished, together
from blankfill.system.files import write_file
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import RESULTS

Setting = tuple[str, FinetuneOptions]
"""The name of a run's folder, and its options."""


def combinations(options: FinetuneOptions, grid: Sequence[str], restarts: int) -> list[Setting]:
    """Every combination of a grid's values, each with so many seeds.

    grid: `name=value,value` each. Raises ConfigError for names and values that there are none of.
    """
    problems: list[str] = []
    axes: list[list[tuple[str, Any]]] = []
    for text in grid:
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        axes.append([(name, value) for value in _values(name, values, problems)])
    if restarts < 1:
        problems.append(f"--restarts is {restarts}; it must be at least 1")
    if problems:
        raise ConfigError(problems)
    found = []
    for chosen in itertools.product(*axes):
        for number in range(restarts):
            made = dataclasses.replace(options, **dict(chosen), seed=options.seed + number)
            parts = [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}" for name, value in chosen]
            found.append(("_".join([*parts, f"seed-{made.seed}"]), made))
    return found


def _values(name: str, values: str, problems: list[str]) -> list[Any]:
    hints = get_type_hints(FinetuneOptions)
    known = [field.name for field in dataclasses.fields(FinetuneOptions) if field.name != "seed"]
    if name not in known or not values:
        close = difflib.get_close_matches(name[:100], known, 1)
        hint = f"did you mean {close[0]}?" if close and name not in known else f"the names are {', '.join(known)}"
        problems.append(f"--grid {name}={values}: give name=value,value; {hint}")
        return []
    kind = hints[name] if hints[name] in (int, float) else str
    found = []
    for value in values.split(","):
        try:
            found.append(kind(value))
        except ValueError:
            problems.append(f"--grid {name}: {value!r} is not a number")
    return found


def search(request: Request, settings: Sequence[Setting], out: Path) -> Iterator[str]:
    """Run every setting below `out`; yields the table, a line for each setting, the best last."""
    found: list[dict[str, Any]] = []
    check_same([(dataclasses.replace(request, options=options), out / name) for name, options in settings])
    alike = together(request.options, out)
    for number, (name, options) in enumerate(settings, 1):
        say(f"run {number} of {len(settings)}: {name}")
        results = finished(dataclasses.replace(request, options=options), out / name, alike)
        found.append({"folder": name, "setting": name.rpartition("_")[0] or "as given", **results})
        table = list(summary(found))
        best = max(table, key=lambda row: row["mean"])
        runs = [run["folder"] for run in found]
        kept = {"task": request.task, "main": results["main"], "settings": table, "best": best, "runs": runs}
        whole = {**kept, "complete": number == len(settings)}
        write_file(out / RESULTS, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
        renew_report(out)
    main = found[0]["main"]
    for row in table:
        counted = f"{row['runs']} runs" if row["runs"] > 1 else "1 run"
        spread = f"{row['mean']:.4f} ± {row['deviation']:.4f} ({counted}, best {row['best']:.4f})"
        yield f"{row['setting']}: {main} {spread}"
    yield f"without reading the texts: {found[0]['baseline']['score']:.4f}; the best setting: {best['setting']}"


def summary(runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each setting: how many runs, the mean, the deviation and the best of the main score."""
    for setting in dict.fromkeys(run["setting"] for run in runs):
        mine = [run for run in runs if run["setting"] == setting]
        scores = [run["score"] for run in mine]
        yield {
            "setting": setting,
            "runs": len(mine),
            "mean": statistics.fmean(scores),
            "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "best": max(scores),
            "best_run": max(mine, key=lambda run: run["score"])["folder"],
        }
