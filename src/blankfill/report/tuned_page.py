"""The page of a fine-tuning run: the score beside the baseline, curves, confusions, mistakes with their texts.

Not here: the frame (`document`), reading the folder (`tuned`), the sections (`tuned_sections`, `sections`).
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

from blankfill.report import sections, tuned_chat, tuned_sections
from blankfill.report.charts import find_charts, payload, short
from blankfill.report.document import document
from blankfill.report.live import live_values, seconds_between
from blankfill.report.masthead import MOST_EVENTS, Card, masthead, progress, state_of, time_cards
from blankfill.report.snapshot import number, part
from blankfill.report.tuned import Tuned, between, read_tuned, written_pair

IN_SETTINGS = ("steps", "items", "primary_metric", "baseline", "model", "objective")
"""Facts of run.json that the page shows elsewhere."""


def page_of(run: Path, now: datetime, live: bool = False) -> str:
    """Return the HTML of a fine-tuning run. live: whether the page will be written again. Raises UserError when `run`
    is not a folder."""
    tuned = read_tuned(run)
    snapshot, best = tuned.snapshot, tuned.best
    baseline = tuned.baseline
    scores = {name: (tuned.compared_with, baseline[name]) if name in baseline else None for name in tuned.metrics}
    charts = find_charts(snapshot, scores)
    events = snapshot.events[-MOST_EVENTS:]
    facts = {name: value for name, value in snapshot.facts.items() if name not in IN_SETTINGS}
    parts = {
        "Not learnt": tuned_sections.verdict_section(tuned),
        "Scores": tuned_sections.scores_section(tuned),
        "Curves": sections.curves_section(charts),
        "Confusions": tuned_sections.confusions_section(tuned.results),
        "Entities": tuned_sections.entities_section(tuned.results),
        "Questions": tuned_sections.questions_section(tuned.results),
        "Numbers": tuned_sections.numbers_section(tuned.results),
        "Answers before and after": tuned_chat.answers_section(tuned.results),
        "Forgetting": tuned_chat.forgetting_section(tuned.results),
        "Rows": tuned_chat.examples_section(tuned.results),
        "Mistakes": tuned_sections.mistakes_section(tuned.results),
        "Settings": tuned_sections.settings_section(tuned),
        "Events": sections.events_section(events, len(snapshot.events) - len(events)),
        "Environment": sections.environment_section(dataclasses.replace(snapshot, facts=facts)),
    }
    title = f"{snapshot.name} – {tuned.task}, {_state(tuned)[1]}"
    data = payload(snapshot, charts, events, (tuned.primary_metric, best))
    if live and not snapshot.finished:
        data["live"] = live_values(seconds_between(snapshot, now), now)
    return document(title, headline(tuned), parts, now, data)


def headline(tuned: Tuned) -> str:
    """Return name, state, task, model and the most important numbers."""
    facts = tuned.snapshot.facts
    model, items = part(facts, "model"), part(facts, "items")
    learning, train = number(facts.get("learning")), number(items.get("train"))
    pattern = f", pattern {tuned.options.get('pattern')}" if tuned.options.get("method") == "cloze" else ""
    about = [
        f"task {tuned.task}",
        f"{facts['objective']} of {model.get('num_layers')} layers of width {model.get('hidden_size')}"
        if facts.get("objective")
        else "",
        f"{tuned.options.get('method')}{pattern}" if tuned.options.get("method") else "",
        f"{short(learning)} weights learn" if learning else "",
        f"{train:,.0f} items to learn from" if train else "",
    ]
    return masthead(tuned.snapshot.name, _state(tuned), about, cards(tuned), progress(tuned.snapshot))


def cards(tuned: Tuned) -> list[Card]:
    """Return the numbers under the headline, each with a note on its meaning."""
    shown: list[Card] = []
    snapshot, metrics = tuned.snapshot, tuned.metrics
    score, plain = metrics.get(tuned.primary_metric), tuned.baseline.get(tuned.primary_metric)
    best = tuned.best
    if score is not None:
        span = tuned.intervals.get(tuned.primary_metric)
        note = [f"95%: {written_pair(span)}"] if span else []
        note += [f"dev set, at step {best.step:,}"] if best else []
        shown.append((f"Best {tuned.primary_metric}", f"{score:.4f}", "; ".join(note), ""))
    on_test = number(tuned.test.get("score"))
    if on_test is not None:
        span = between(tuned.test.get("intervals")).get(tuned.primary_metric)
        note = [f"95%: {written_pair(span)}"] if span else []
        note.append("test set, which chose nothing")
        shown.append((f"Test {tuned.primary_metric}", f"{on_test:.4f}", "; ".join(note), ""))
    if score is not None and plain is not None:
        better = part(tuned.results, "baseline").get("better", score > plain) is True
        note = [] if better or score <= plain else ["may be chance"]
        note.append(
            f"{plain:.4f} {tuned.compared_with}" if tuned.from_start else f"without reading the items {plain:.4f}"
        )
        kind = "good" if better else "bad"
        shown.append(("Against the baseline", f"{score - plain:+.4f}", "; ".join(note), kind))
    for name, value in [pair for pair in metrics.items() if pair[0] != tuned.primary_metric][:2]:
        shown.append((name[:1].upper() + name[1:], f"{value:.4f}", "of the same checkpoint", ""))
    if snapshot.step is not None:
        shown.append(("Steps", f"{snapshot.step:,}", f"of {snapshot.total:,}" if snapshot.total else "", ""))
    speed = number(tuned.results.get("items_per_second"))
    if speed:
        shown.append(("Speed", short(speed), "items a second, without the scoring", ""))
    return [*shown, *time_cards(snapshot)]


def _state(tuned: Tuned) -> tuple[str, str]:
    """Return the state as for any run, except that a stopped run is not finished."""
    if tuned.results.get("complete") is False and "stopped" not in tuned.snapshot.facts:  # a run of an older version
        return "early", f"stopped at step {tuned.snapshot.step or 0:,}; it can be resumed"
    return state_of(tuned.snapshot)
