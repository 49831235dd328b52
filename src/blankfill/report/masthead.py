"""The head of a page: name, state and progress of a run, and its most important numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from blankfill.report.charts import short
from blankfill.report.markup import said, tag
from blankfill.report.snapshot import Snapshot

MOST_EVENTS = 200
"""Number of events that are listed and drawn, the newest."""

LONG = 16
"""Number of characters of a card's value above which it is written smaller."""

Card = tuple[str, str, str, str]
"""Name of a number, its value, a note on its meaning, and its style ("good", "bad" or "")."""


def masthead(name: str, state: tuple[str, str], about: Sequence[str], cards: Sequence[Card], bar: str = "") -> str:
    """Return the head of a page. about: facts for one line (empty facts are left out); bar: see `progress`."""
    look, words = state
    title = said("h1", name) + tag("span", words, kind=f"state {look}")
    lines = "".join(
        f"<div>{tag('dt', name)}{tag('dd', value, kind=_kind(value, kind))}{tag('dd', note)}</div>"
        for name, value, note, kind in cards
    )
    numbers = f'<dl class="cards">{lines}</dl>' if cards else ""
    return f'<div class="name">{title}</div>{tag("p", " · ".join(filter(None, about)), kind="about")}{bar}{numbers}'


def _kind(value: str, kind: str) -> str:
    return f"{kind} long".strip() if len(value) > LONG else kind


def progress(snapshot: Snapshot) -> str:
    """Return a progress bar of the steps, "" when the number of steps is unknown."""
    if not snapshot.total or snapshot.step is None:
        return ""
    return (
        f'<div class="progress {state_of(snapshot)[0]}" role="progressbar" aria-label="steps done" aria-valuemin="0" '
        f'aria-valuemax="{snapshot.total}" aria-valuenow="{snapshot.step}">'
        f'<span style="width:{min(1.0, snapshot.step / snapshot.total):.2%}"></span></div>'
    )


def time_cards(snapshot: Snapshot) -> list[Card]:
    """Return cards with the elapsed and the remaining time."""
    shown: list[Card] = []
    if snapshot.seconds:
        note = f"{short(snapshot.speed)} tokens/s lately" if snapshot.speed else ""
        shown.append(("Training time", span(snapshot.seconds), note, ""))
    if snapshot.seconds_left:
        shown.append(("Time left, about", span(snapshot.seconds_left), "at the speed of the last lines", ""))
    return shown


def state_of(snapshot: Snapshot) -> tuple[str, str]:
    """Return the state of a run: its style ("new", "going", "early", "done"), and its wording."""
    if snapshot.early:
        return "early", f"stopped early at step {snapshot.step:,}"
    if snapshot.finished:
        return "done", "finished"
    if snapshot.stopped:
        return "early", f"stopped at step {snapshot.step or 0:,}; it can be resumed"
    if not snapshot.step:
        return "new", "nothing trained yet"
    if not snapshot.total:
        return "going", f"step {snapshot.step:,}"
    return "going", f"{math.floor(100 * snapshot.step / snapshot.total)}% done"


def span(seconds: float) -> str:
    """Return a duration in its two largest units: 45 s, 4 min 08 s, 2 h 05 min, 3 d 04 h."""
    whole = round(seconds)
    for size, unit, smaller, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller:02} {rest}"
    return f"{whole} s"
