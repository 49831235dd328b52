"""The page of several fine-tuning runs below one folder: the settings of a grid compared, or a task's patterns.

Not here: the frame (`document`), the pages of the runs themselves (`tuned_page`), to which it links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blankfill.report.document import NOTHING_DRAWN, document
from blankfill.report.figures import Dots, dot_lines
from blankfill.report.live import live_values
from blankfill.report.markup import panel, said, tag
from blankfill.report.masthead import Card, masthead
from blankfill.report.snapshot import number, part, read_json
from blankfill.report.tuned import Tuned, pair_of, read_tuned, rows, written_pair
from blankfill.report.tuned_sections import head, settings_section, table
from blankfill.tasks.run_files import RESULTS

WAYS = {"alike": "all patterns, alike", "weighted": "all patterns, weighted", "distilled": "learnt from all of them"}
"""Ways to combine the patterns of an ensemble."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Several:
    """Several runs. results: results.json of the folder. runs: the runs that it names, by their folders."""

    folder: Path
    results: Values
    runs: Mapping[str, Tuned]

    @property
    def primary_metric(self) -> str:
        """Metric that is compared."""
        return str(self.results.get("primary_metric") or next((run.primary_metric for run in self.runs.values()), ""))

    @property
    def baseline(self) -> float | None:
        """Score without reading the items."""
        return next((run.baseline.get(self.primary_metric) for run in self.runs.values()), None)


def read_several(folder: Path) -> Several | None:
    """Return the runs of a folder, None when the folder does not hold several runs."""
    results = read_json(folder / RESULTS)
    if not rows(results, "settings") and not rows(results, "patterns"):
        return None
    listed = results.get("runs")
    given = [str(item) for item in listed] if isinstance(listed, list) else []
    names = given or [str(row.get("folder")) for row in rows(results, "patterns")]
    inside = [name for name in names if Path(name).name == name and (folder / name).is_dir()]
    return Several(folder, results, {name: read_tuned(folder / name) for name in inside})


def page_of(several: Several, now: datetime, live: bool = False) -> str:
    """Return the HTML of several runs. now: the time shown on the page. live: whether the page will be written
    again."""
    patterns = rows(several.results, "patterns")
    body = _patterns(several, patterns) if patterns else _settings(several)
    name = several.folder.resolve().name
    what = f"{len(patterns)} patterns" if patterns else f"{len(several.runs)} runs"
    complete = several.results.get("complete", True) is True
    state = ("done", "finished") if complete else ("going", "not all runs are finished")
    first = next(iter(several.runs.values()), None)
    task = str(several.results.get("task") or (first.task if first else ""))
    about = [f"task {task}", what, f"chosen by {several.primary_metric}" if several.primary_metric else ""]
    settings = settings_section(first) if first else ""
    note = '<p class="note">Those of the first run; the names of the runs hold the differences.</p>' if settings else ""
    parts = {"Patterns" if patterns else "Comparison": body, "Settings": settings + note}
    data = dict(NOTHING_DRAWN)
    if live and not complete:
        took = (number(run.results.get("seconds")) or 0.0 for run in several.runs.values())
        data["live"] = live_values(max(took, default=None), now)
    return document(f"{name} – {task}, {what}", masthead(name, state, about, _cards(several)), parts, now, data)


def _cards(several: Several) -> list[Card]:
    shown: list[Card] = []
    best = part(several.results, "best")
    mean, deviation = number(best.get("mean")), number(best.get("deviation"))
    if mean is not None:
        runs = int(number(best.get("runs")) or 1)
        spread = f"± {deviation or 0.0:.4f} over {runs} runs" if runs > 1 else "one run"
        span = pair_of(best.get("interval"))
        note = f"{spread}; 95%: {written_pair(span)}" if span else spread
        shown.append((f"Best mean {several.primary_metric}", f"{mean:.4f}", note, ""))
        test = part(best, "test")
        if (on_test := number(test.get("mean"))) is not None:
            span = pair_of(test.get("interval"))
            note = f"95%: {written_pair(span)}; " if span else ""
            note += "the best setting on the test set, which chose nothing"
            shown.append((f"Test {several.primary_metric}", f"{on_test:.4f}", note, ""))
        shown.append(("Best setting", str(best.get("setting", "")), f"best run {best.get('best_run', '')}", ""))
    for way, name in WAYS.items():
        score = number(part(part(several.results, "together"), way).get("score"))
        if score is not None:
            shown.append((name[:1].upper() + name[1:], f"{score:.4f}", several.primary_metric, ""))
    if several.baseline is not None:
        kind = "bad" if best.get("better") is False else ""
        note = "without reading the items" + ("; the best setting is not clearly better" if kind else "")
        shown.append(("Baseline", f"{several.baseline:.4f}", note, kind))
    return shown


def _settings(several: Several) -> str:
    """Return every setting: mean and deviation, with links to its runs."""
    lines, body = [], ""
    with_test = any("test" in row for row in rows(several.results, "settings"))

    def tested(setting: Values) -> str:
        mean = number(part(setting, "test").get("mean"))
        return tag("td", "–" if mean is None else f"{mean:.4f}", kind="n") if with_test else ""

    settings = sorted(rows(several.results, "settings"), key=lambda row: -(number(row.get("mean")) or 0.0))
    for setting in settings:
        between = written_pair(pair_of(setting.get("interval")))
        name = str(setting.get("setting", ""))
        folders = [run for run in several.runs if (run.rpartition("_")[0] or "as given") == name]
        scores = {run: several.runs[run].metrics.get(several.primary_metric) for run in folders}
        known = [score for score in scores.values() if score is not None]
        mean, deviation = (number(setting.get(key)) or 0.0 for key in ("mean", "deviation"))
        lines.append(Dots(name, known, mean))
        links = ", ".join(_link(run, _short(run, score)) for run, score in scores.items())
        body += (
            f'<tr>{said("th", name, scope="row")}<td class="n">{mean:.4f}</td><td class="n">{between}</td>'
            f'<td class="n">± {deviation:.4f}</td>{tested(setting)}'
            f'<td class="n">{number(setting.get("best")) or 0.0:.4f}</td><td>{links}</td></tr>'
        )
    columns = ("setting", "mean", "95% interval", "deviation", *(["test"] if with_test else []), "best", "runs")
    note = (
        "a dot is a run, the line their mean; the dev set chose the checkpoints and the best setting, so its scores "
        "are slightly optimistic"
    )
    return head("Comparison", note) + _both(several, lines, table(columns, body, words=1))


def _patterns(several: Several, patterns: Sequence[Values]) -> str:
    """Return every pattern, and the combinations of all patterns."""
    lines, body = [], ""
    for pattern in patterns:
        folder, score = str(pattern.get("folder", "")), number(pattern.get("score")) or 0.0
        lines.append(Dots(folder, [score], score))
        untrained = number(pattern.get("untrained"))
        weight = "–" if untrained is None else f"{untrained:.4f}"
        text = said("td", str(pattern.get("text", "")))
        numbers = f'<td class="n">{score:.4f}</td><td class="n">{weight}</td>'
        body += f'<tr><th scope="row">{_link(folder, folder)}</th>{numbers}{text}</tr>'
    for way, name in WAYS.items():
        reached = number(part(part(several.results, "together"), way).get("score"))
        if reached is not None:
            lines.append(Dots(name, [reached], reached))
            shown = _link(way, name) if way == "distilled" else escape(name)
            numbers = f'<td class="n">{reached:.4f}</td><td class="n">–</td>'
            body += f'<tr><th scope="row">{shown}</th>{numbers}<td></td></tr>'
    columns = ("pattern", several.primary_metric, "untrained", "text and words")
    note = "untrained: the share of the training items that a pattern gets right before it learns, its weight"
    return head("Patterns", note) + _both(several, lines, table(columns, body, words=1))


def _both(several: Several, lines: Sequence[Dots], written: str) -> str:
    if not lines:
        return ""
    summary = "; ".join(f"{line.name} {line.middle:.4f}" for line in lines)
    baseline = several.baseline
    reference = (f"without reading {baseline:.4f}", baseline) if baseline is not None else None
    picture = dot_lines(lines, f"{several.primary_metric} of each: {summary}.", reference)
    return f'<div class="stack">{panel("", picture)}{panel("", written)}</div>'


def _short(run: str, score: float | None) -> str:
    seed = run.rpartition("_")[2]
    return seed if score is None else f"{seed}: {score:.4f}"


def _link(folder: str, text: str) -> str:
    return f'<a href="{quote(folder)}/report.html">{tag("span", text)}</a>'
