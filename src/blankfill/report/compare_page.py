"""The page of several runs of any kind: results, curves over steps, tokens and time, and settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.report.charts import MOST_POINTS, Chart, points_of, short, tone_of_run
from blankfill.report.compare import Run, cautions, charts_of, differing, results_of
from blankfill.report.curves import bucket_starts, rounded, thinned
from blankfill.report.document import document
from blankfill.report.markup import panel, plain, said, tag
from blankfill.report.masthead import masthead, span
from blankfill.report.sections import curves_section

MOST_NAMED = 120
"""Largest number of characters of the names of the runs in the headline."""


def page_of(runs: Sequence[Run], now: datetime) -> str:
    """Return the HTML of several runs. now: the time shown on the page."""
    charts = charts_of(runs)
    parts = {
        "Results": results_section(runs),
        "Curves": curves_section(charts),
        "Settings": settings_section(runs),
    }
    title = f"{len(runs)} runs compared"
    left = sum(not run.snapshot.finished for run in runs)
    state = ("done", "all finished") if not left else ("early", f"{left} not finished")
    about = [run.name for run in runs] if sum(len(run.name) for run in runs) <= MOST_NAMED else []
    return document(title, masthead(title, state, about, []), parts, now, payload(runs, charts))


def payload(runs: Sequence[Run], charts: Sequence[Chart]) -> dict[str, Any]:
    """Return the data that the script of the page draws: as `charts.payload`, with splits of each run."""
    most = max(200, MOST_POINTS // max(1, len(runs) // 4))
    starts: dict[tuple[int, str], NDArray[np.int64]] = {}
    splits: dict[str, Any] = {}
    for place, run in enumerate(runs):
        for split, table in run.snapshot.metrics.items():
            first = starts[place, split] = bucket_starts(len(table), most, [0])
            splits[f"{place} {split}"] = points_of(run.snapshot, table, first)
    drawn = []
    for chart in charts:
        curves = [
            {"split": f"{series.number} {series.split}", "name": series.name, "tone": series.tone,
             "kind": series.split, "y": rounded(thinned(series.values, starts[series.number or 0, series.split]).mean)}
            for series in chart.series
        ]  # fmt: skip
        drawn.append({"key": chart.key, "style": chart.style, "series": curves, "span": chart.span})
    return {"splits": splits, "charts": drawn, "events": []}


def written(name: str, value: float | None) -> str:
    """Return a result as text."""
    if value is None:
        return "–"
    if name == "seconds":
        return span(value)
    if name in ("parameters", "tokens"):
        return short(value)
    if name.startswith("hidden words"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if name in ("steps", "at step") else f"{value:.4f}"


def results_section(runs: Sequence[Run]) -> str:
    """Return a table of the results, a line for each run, and what must not be concluded from it."""
    results = results_of(runs)
    columns = {"seconds": "training time"}
    head = "".join(tag("th", columns.get(name, name), scope="col", kind="n") for name in results)
    body = ""
    for place, run in enumerate(runs):
        cells = "".join(tag("td", written(name, values[place]), kind="n") for name, values in results.items())
        key = f'<i class="{tone_of_run(place)}"></i>'
        body += f'<tr><th scope="row">{key}{said("span", run.name)}</th>{tag("td", run.state)}{cells}</tr>'
    table = (
        f'<div class="scroll"><table class="runs"><thead><tr><th scope="col">run</th><th scope="col">state</th>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
    notes = "".join(tag("p", sentence, kind="notice") for sentence in cautions(runs))
    return f'<div class="head"><h2>Results</h2></div>{notes}{panel("", table)}'


def settings_section(runs: Sequence[Run]) -> str:
    """Return a table of the settings in which the runs differ, a line for each setting."""
    rows = differing(runs)
    note = "only those that differ; all others are alike" if rows else ""
    head = f'<div class="head"><h2>Settings</h2>{tag("span", note, kind="note")}</div>'
    if not rows:
        return head + panel("", tag("p", "The runs have the same settings."))
    names = "".join(tag("th", run.name, scope="col") for run in runs)
    body = "".join(
        f"<tr>{tag('th', name, scope='row')}{''.join(said('td', plain(value)) for value in values)}</tr>"
        for name, values in rows.items()
    )
    table = f'<table><thead><tr><th scope="col">setting</th>{names}</tr></thead><tbody>{body}</tbody></table>'
    return head + panel("", f'<div class="scroll">{table}</div>')
