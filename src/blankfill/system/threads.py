"""Chooses the number of threads of torch: one rule for all commands.

A requested number wins, then `MKL_NUM_THREADS` and `OMP_NUM_THREADS`, then the number of usable cores that other
programs leave free. The threads of one matrix product wait for one another actively: a thread that shares its core
delays all others, and steps took up to thirty times as long (docs/performance.md).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from blankfill.errors import Problem, UserError, setting
from blankfill.system import environment
from blankfill.system.bounds import COMMON
from blankfill.system.console import say

VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables that give the number; torch uses the first where both are set."""


@dataclass(frozen=True)
class Threads:
    """count: number of threads. given: by an option or a variable, so that it must not be changed. why: a sentence for
    the user when there are fewer threads than cores, empty otherwise."""

    count: int
    given: bool
    why: str = ""


def choose_threads(requested: int = 0) -> Threads:
    """Return the number of threads; requested: 0 for automatic. Raises UserError for an invalid number."""
    if problems := check_threads(requested):
        raise UserError(problems[0])
    if requested:
        return Threads(requested, True)
    if number := from_variables():
        return Threads(number, True)
    cores, busy = environment.usable_cores(), environment.busy_cores()
    count = useful_threads(cores, busy)
    if count == cores:
        return Threads(cores, False)
    return Threads(
        count, False,
        Problem(
            f"other programs keep {busy:.1f} cores of this machine busy, so {counted(count)} of {cores} {verb(count)}; "
            f"{setting('threads', cores)} uses all cores"
        ),
    )  # fmt: skip


def check_threads(requested: int, option: str = "threads") -> list[str]:
    """Return the problems of a requested number of threads, a sentence each."""
    bound = COMMON["threads"]
    return [] if bound.holds(requested) else [f"{setting(option)} is {requested}; it {bound.words(requested)}"]


def from_variables() -> int:
    """Return the number in the environment, 0 where there is none. Of a list, as OpenMP allows, the first number
    counts."""
    for name in VARIABLES:
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and 0 < len(first) < 5 and 0 < int(first) <= COMMON["threads"].most:
            return int(first)
    return 0


def useful_threads(cores: int, busy: float) -> int:
    """Return the number of threads with a core of their own. cores: usable; busy: used by others among those."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = math.ceil(max(present, cores) - busy + environment.IDLE) - 1 if busy >= environment.IDLE else cores
    return max(1, min(cores, free))


def use_threads(requested: int = 0) -> int:
    """Set torch's number of threads by `choose_threads`; print a notice when it is smaller than the number of cores.

    Raises UserError for an invalid number.
    """
    import torch

    chosen = choose_threads(requested)
    torch.set_num_threads(chosen.count)
    if chosen.why:
        say(chosen.why)
    return chosen.count


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return f"{threads} thread{'s' * (threads != 1)}"


def verb(threads: int) -> str:
    """Return the verb for a number of threads."""
    return "computes" if threads == 1 else "compute"
