"""The page of a run: its folder as it is at any moment → one `report.html` that needs nothing else.

Styles, script and numbers stand in the file. Its content security policy refuses every request, and every script but
the page's own, so that a text of the run could not act even if it slipped through the escaping. Tables and texts are
complete without JavaScript; the script draws the curves and lets the samples be stepped through.

Not here: reading the folder (`snapshot`), which charts there are (`charts`), the parts of the page (`sections`).
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
from contextlib import suppress
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path

from blankfill._version import __version__
from blankfill.errors import UserError
from blankfill.report import sections
from blankfill.report.charts import find_charts, payload, short
from blankfill.report.markup import embedded, said, tag
from blankfill.report.snapshot import Snapshot, number, read_snapshot

FILE = "report.html"
MOST_EVENTS = 200
"""Events that are listed and drawn, the newest."""
SCRIPTS = ("numbers", "curves", "samples")
"""The script of the page, in parts."""


def write_page(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder as it is now; returns where it lies (`report.html` in the folder by default).

    The file is replaced at once, never seen half written. Raises UserError when `run` is no folder or `out` cannot be
    written.
    """
    out = out or run / FILE
    page = page_of(read_snapshot(run), datetime.now().astimezone())
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        # half of a surrogate pair can come out of an escape in a .jsonl, and UTF-8 has no place for it
        temporary.write_bytes(page.encode("utf-8", "replace"))
        temporary.replace(out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{out} cannot be written ({error.strerror}); name a file in a folder that exists") from error
    return out


def page_of(snapshot: Snapshot, now: datetime) -> str:
    """The HTML of a snapshot. now: the moment that it says it was written at."""
    charts = find_charts(snapshot)
    events = snapshot.events[-MOST_EVENTS:]
    parts = {
        "Curves": sections.curves_section(charts),
        "Samples": sections.samples_section(snapshot.samples),
        "Events": sections.events_section(events, len(snapshot.events) - len(events)),
        "Recipe": sections.recipe_section(snapshot),
        "Corpus": sections.corpus_section(snapshot),
        "Environment": sections.environment_section(snapshot),
    }
    there = {name: body for name, body in parts.items() if body}
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in there)
    script = "".join(_shipped(f"page_{part}.js") for part in SCRIPTS)
    filled = {
        "title": escape(f"{snapshot.name} – {state_of(snapshot)[1]}"),
        "version": __version__,
        "written": f"as of {now:%Y-%m-%d %H:%M} {now:%Z}",
        "headline": f'{headline(snapshot)}<nav class="contents" aria-label="Sections">{links}</nav>',
        "sections": "\n".join(f'<section id="{name.lower()}">{body}</section>' for name, body in there.items()),
        "data": embedded(payload(snapshot, charts, events)),
        "style": _shipped("page.css"),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    # in one go, so that a text of the run that looks like a name in the template stays a text
    return re.sub(r"\{\{(\w+)\}\}", lambda name: filled[name[1]], _shipped("page.html"))


def _shipped(name: str) -> str:
    return (resources.files("blankfill.report") / name).read_text(encoding="utf-8")


def state_of(snapshot: Snapshot) -> tuple[str, str]:
    """How far a run is: its look ("new", "going", "early", "done"), and the words."""
    if snapshot.early:
        return "early", f"stopped early at step {snapshot.step:,}"
    if snapshot.finished:
        return "done", "finished"
    if not snapshot.step:
        return "new", "nothing trained yet"
    if not snapshot.total:
        return "going", f"step {snapshot.step:,}"
    return "going", f"{math.floor(100 * snapshot.step / snapshot.total)}% done"


def headline(snapshot: Snapshot) -> str:
    """Name, state and the few numbers that matter most."""
    look, state = state_of(snapshot)
    objective, model, corpus = snapshot.section("objective"), snapshot.section("model"), snapshot.corpus
    parameters = number(snapshot.facts.get("parameters"))
    about = [
        f"objective {objective['name']}" if objective.get("name") else "",
        f"{model['num_layers']} layers of width {model.get('hidden_size')}" if model.get("num_layers") else "",
        f"{short(parameters)} parameters" if parameters else "",
        f"vocabulary of {corpus.vocabulary:,}" if corpus else "",
        f"{short(corpus.train.tokens)} tokens of text" if corpus else "",
    ]
    bar = ""
    if snapshot.total and snapshot.step is not None:
        bar = (
            f'<div class="progress {look}" role="progressbar" aria-label="steps done" aria-valuemin="0" '
            f'aria-valuemax="{snapshot.total}" aria-valuenow="{snapshot.step}">'
            f'<span style="width:{min(1.0, snapshot.step / snapshot.total):.2%}"></span></div>'
        )
    name = said("h1", snapshot.name) + tag("span", state, kind=f"state {look}")
    return (
        f'<div class="name">{name}</div>{tag("p", " · ".join(filter(None, about)), kind="about")}{bar}{cards(snapshot)}'
    )


def cards(snapshot: Snapshot) -> str:
    """The numbers under the headline, each with a word on what it means."""
    shown: list[tuple[str, str, str, str]] = []
    best, last, baseline = snapshot.best, snapshot.last_loss("valid"), snapshot.baseline
    if best and last:
        note = "the last" if best.step == last[0] else f"last {last[1]:.3f}"
        shown.append(("Best validation loss", f"{best.loss:.3f}", f"nats, at step {best.step:,} ({note})", ""))
    elif trained := snapshot.last_loss("train"):
        shown.append(("Training loss", f"{trained[1]:.3f}", f"nats, at step {trained[0]:,}; not validated", ""))
    if best and baseline is not None:
        kind, side = ("good", "below") if best.loss < baseline else ("bad", "above")
        note = f"nats {side} word frequencies alone ({baseline:.3f})"
        shown.append(("Against the baseline", f"{abs(baseline - best.loss):.3f}", note, kind))
    if snapshot.step is not None:
        shown.append(("Steps", f"{snapshot.step:,}", f"of {snapshot.total:,}" if snapshot.total else "", ""))
    if snapshot.tokens:
        shown.append(("Tokens seen", short(snapshot.tokens), f"{snapshot.tokens:,}", ""))
    if snapshot.seconds:
        note = f"{short(snapshot.speed)} tokens/s lately" if snapshot.speed else ""
        shown.append(("Training time", span(snapshot.seconds), note, ""))
    if snapshot.seconds_left:
        shown.append(("Time left, about", span(snapshot.seconds_left), "at the speed of the last lines", ""))
    lines = "".join(
        f"<div>{tag('dt', name)}{tag('dd', value, kind=kind)}{tag('dd', note)}</div>"
        for name, value, note, kind in shown
    )
    return f'<dl class="cards">{lines}</dl>' if shown else ""


def span(seconds: float) -> str:
    """A stretch of time in its two largest units: 45 s, 4 min 08 s, 2 h 05 min, 3 d 04 h."""
    whole = round(seconds)
    for size, unit, smaller, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller:02} {rest}"
    return f"{whole} s"
