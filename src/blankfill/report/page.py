"""The page of a run: its folder at any moment → one self-contained `report.html`.

Tables and texts are complete without JavaScript; the script draws the curves and steps through the samples.

Not here: the frame (`document`), reading the folder (`snapshot`), which charts there are (`charts`), the parts of the
page (`sections`), the pages of fine-tuning runs (`tuned_page`) and of several runs (`several_page`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from blankfill.errors import UserError
from blankfill.report import sections, several_page, tuned_page
from blankfill.report.charts import find_charts, payload, short
from blankfill.report.document import document
from blankfill.report.hidden_words import hidden_words_section
from blankfill.report.live import live_values, seconds_between
from blankfill.report.masthead import MOST_EVENTS, Card, masthead, progress, state_of, time_cards
from blankfill.report.snapshot import Snapshot, number, read_snapshot
from blankfill.system.files import is_special, write_file
from blankfill.tasks.run_files import CONFIG

FILE = "report.html"


def write_page(run: Path, out: Path | None = None, live: bool = False) -> Path:
    """Write the report of a run folder and return its path (`report.html` in the folder by default). The file is
    replaced atomically. live: whether the caller trains this run and will write the page again. Raises UserError when
    `run` is not a folder or `out` cannot be written.
    """
    if out is None and is_special(run / FILE):
        raise UserError(f"{run / FILE} is a pipe, a device or a socket, and the report is written there; remove it")
    out = out or run / FILE
    page = any_page(run, datetime.now().astimezone(), live)
    # an escape in a .jsonl can be half of a surrogate pair, which UTF-8 cannot encode
    write_file(out, page.encode("utf-8", "replace"), "name a file in a folder that exists")
    return out


def any_page(run: Path, now: datetime, live: bool = False) -> str:
    """Return the HTML of a folder: a fine-tuning run, several of them, or a pretraining run. live: whether the page
    will be written again. Raises UserError when `run` is not a folder.
    """
    if (run / CONFIG).exists():
        return tuned_page.page_of(run, now, live)
    if several := several_page.read_several(run):
        return several_page.page_of(several, now, live)
    return page_of(read_snapshot(run), now, live)


def page_of(snapshot: Snapshot, now: datetime, live: bool = False) -> str:
    """Return the HTML of a pretraining run. now: the time shown on the page. live: whether the page will be written
    again."""
    charts = find_charts(snapshot)
    events = snapshot.events[-MOST_EVENTS:]
    parts = {
        "Curves": sections.curves_section(charts),
        "Hidden words": hidden_words_section(snapshot.hidden_words),
        "Samples": sections.samples_section(snapshot.samples),
        "Events": sections.events_section(events, len(snapshot.events) - len(events)),
        "Recipe": sections.recipe_section(snapshot),
        "Prompted data sets": sections.prompts_section(prompted_sets(snapshot)),
        "Corpus": sections.corpus_section(snapshot.corpus),
        "Environment": sections.environment_section(snapshot),
    }
    title = f"{snapshot.name} – {state_of(snapshot)[1]}"
    data = payload(snapshot, charts, events)
    if live and not snapshot.finished:
        data["live"] = live_values(seconds_between(snapshot, now), now)
    return document(title, headline(snapshot), parts, now, data)


def prompted_sets(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return what the run noted of each prompted data set; damaged notes are left out."""
    noted = snapshot.facts.get("prompts")
    return [entry for entry in noted if isinstance(entry, dict)] if isinstance(noted, list) else []


def headline(snapshot: Snapshot) -> str:
    """Return name, state and the most important numbers."""
    objective, model, corpus = snapshot.section("objective"), snapshot.section("model"), snapshot.corpus
    parameters = number(snapshot.facts.get("parameters"))
    about = [
        f"objective {objective['name']}" if objective.get("name") else "",
        f"{model['num_layers']} layers of width {model.get('hidden_size')}" if model.get("num_layers") else "",
        f"{short(parameters)} parameters" if parameters else "",
        f"vocabulary of {snapshot.vocabulary:,}" if snapshot.vocabulary else "",
        f"{short(corpus.train.tokens)} tokens of text" if corpus else "",
    ]
    return masthead(snapshot.name, state_of(snapshot), about, cards(snapshot), progress(snapshot))


def cards(snapshot: Snapshot) -> list[Card]:
    """Return the numbers under the headline, each with a note on its meaning."""
    shown: list[Card] = []
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
    return [*shown, *time_cards(snapshot)]
