"""With how many threads torch computes: one rule for all commands.

A number that is asked for wins, then `MKL_NUM_THREADS` and `OMP_NUM_THREADS`, then as many as there are cores to use
and other programs leave free. Threads of one matrix product wait for one another, actively: one that has to share its
core holds up all the others, and steps were seen to take up to thirty times as long (docs/performance.md).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from blankfill.errors import UserError
from blankfill.system import environment
from blankfill.system.bounds import COMMON
from blankfill.system.console import say

VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables that give the number; torch lets the first one win where both are set."""


@dataclass(frozen=True)
class Threads:
    """count: how many. given: by an option or a variable, so that it is not changed unasked. why: a sentence for the
    user when there are fewer than cores, empty otherwise."""

    count: int
    given: bool
    why: str = ""


def choose_threads(asked: int = 0) -> Threads:
    """The number of threads, 0 asking for the usual one. Raises UserError for one that cannot be."""
    if problems := check_threads(asked):
        raise UserError(problems[0])
    if asked:
        return Threads(asked, True)
    if number := from_variables():
        return Threads(number, True)
    cores, busy = environment.usable_cores(), environment.busy_cores()
    count = useful_threads(cores, busy)
    if count == cores:
        return Threads(cores, False)
    return Threads(
        count, False,
        f"other programs keep {busy:.1f} cores of this machine busy, so {counted(count)} of {cores} {verb(count)}; "
        f"--threads {cores} uses all cores",
    )  # fmt: skip


def check_threads(asked: int, option: str = "--threads") -> list[str]:
    """What is wrong with a number of threads that was asked for, as a list of sentences."""
    bound = COMMON["threads"]
    return [] if bound.holds(asked) else [f"{option} is {asked}; it {bound.words(asked)}"]


def from_variables() -> int:
    """The number in the environment, 0 where there is none. Of a list, as OpenMP allows, the first one counts."""
    for name in VARIABLES:
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and 0 < len(first) < 5 and 0 < int(first) <= COMMON["threads"].most:
            return int(first)
    return 0


def useful_threads(cores: int, busy: float) -> int:
    """How many threads have a core for themselves. cores: usable ones; busy: of those this process may run on."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = math.ceil(max(present, cores) - busy + environment.IDLE) - 1 if busy >= environment.IDLE else cores
    return max(1, min(cores, free))


def use_threads(asked: int = 0) -> int:
    """Let torch compute with as many threads as `choose_threads` finds; says when they are fewer than cores.

    Raises UserError for a number that cannot be.
    """
    import torch

    chosen = choose_threads(asked)
    torch.set_num_threads(chosen.count)
    if chosen.why:
        say(chosen.why)
    return chosen.count


def counted(threads: int) -> str:
    """So many threads, in words."""
    return f"{threads} thread{'s' * (threads != 1)}"


def verb(threads: int) -> str:
    """The verb for a number of threads."""
    return "computes" if threads == 1 else "compute"
