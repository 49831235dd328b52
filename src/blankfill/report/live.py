"""The page of a run that is training: how often a browser reads it again, and until when news can be expected.

The run writes its page after each validation. A run that was killed cannot write that it ended, so a page carries the
time after which its silence means that; the script of the page then says so and reads it no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise

from blankfill.report.snapshot import Snapshot

SHORTEST_SILENCE = 600.0
"""Seconds of silence that mean nothing, however short the time between validations."""
PATIENCE = 4.0
"""Number of times between two validations after which silence means that a run has ended."""
OFTENEST, SELDOMEST = 5.0, 60.0
"""Bounds of the seconds between two readings of a page."""


def live_values(seconds_between: float | None, now: datetime) -> dict[str, float]:
    """Return what the script of a page needs: when it was written, the seconds until it is read again, and the seconds
    after which silence means the end. seconds_between: between two writings of the page, None where unknown."""
    between = seconds_between or 0.0
    return {
        "written": round(now.timestamp(), 3),
        "every": round(min(SELDOMEST, max(OFTENEST, between / 2)), 1),
        "until": round(max(SHORTEST_SILENCE, PATIENCE * between), 1),
    }


def seconds_between(snapshot: Snapshot, now: datetime) -> float | None:
    """Return the longest time between two validations, as far as known: by the speed of training, and by the clock."""
    steps = [0, *snapshot.split("valid").steps.tolist()]
    widest = max((b - a for a, b in pairwise(steps)), default=0)
    lengths = []
    if snapshot.seconds and snapshot.step and widest:
        lengths.append(snapshot.seconds / snapshot.step * widest)
    if (begun := began(snapshot.facts)) is not None and len(steps) > 1:
        lengths.append((now - begun).total_seconds() / (len(steps) - 1))
    return max(lengths, default=None)


def began(facts: Mapping[str, object]) -> datetime | None:
    """Return when a run was started or resumed last, None where that is unknown."""
    for name in ("resumed", "started"):
        value = facts.get(name)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).astimezone()
            except ValueError:
                continue
    return None
