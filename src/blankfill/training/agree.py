"""Decisions that must be the same in all processes of a run.

Processes that train one model together see different rows, clocks and signals. A process that alone stops, halves its
rows or skips an update leaves the others waiting in a collective operation, or trains another model than they do. So
each such decision passes through `agree`: every process gives its own value, and every process gets the same value.
With one process `agree` returns the value that it was given, and nothing is communicated.

`Group` is the interface of a set of processes; `ALONE` is a group of one process. Not here: sums of gradients, and the
distribution of rows over processes (`data.loader`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")

Decision = Literal[
    "stop", "out of memory", "rows at once", "target counts", "losses", "finite", "validation", "checkpoint now",
    "compute type", "attention kernel",
]  # fmt: skip


class Group(Protocol):
    """The processes of a run."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        """Return the values of all processes, in the order of their ranks; all processes call it for the same
        decision."""


class Alone:
    """A group of one process."""

    rank = 0
    world_size = 1

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        """Return the value in a list."""
        return [value]


ALONE = Alone()


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _sums(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add values by name; a name that a process lacks counts as 0."""
    totals: dict[str, Any] = {}
    for mapping in values:
        for name, value in mapping.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def _same_or(fallback: str) -> Callable[[Sequence[str]], str]:
    """Return a rule: the value that all processes have, else `fallback`, which works everywhere."""
    return lambda values: values[0] if len(set(values)) == 1 else fallback


RULES: Mapping[Decision, Callable[[Sequence[Any]], Any]] = {
    "stop": any,
    "out of memory": any,
    "rows at once": max,
    "target counts": _sums,
    "losses": _sums,
    "finite": all,
    "validation": _first,
    "checkpoint now": any,
    "compute type": _same_or("float32"),
    "attention kernel": _same_or("sdpa"),
}
"""How the values of all processes are combined.

stop: a process got a signal, or its time is up. out of memory: a process has no memory left, so all processes halve
their micro-batches; rows at once: rows of the largest micro-batch, which decide whether halving is possible. target
counts: divisors of the losses of a step. losses: each process's share of the losses of a step. finite: whether losses
and gradient of a step are finite, so that all processes update, skip, stop or roll back together. validation: the
figure that chooses the best checkpoint and ends a run early; that of process 0 counts. checkpoint now: a process has
changed its computation.
"""


def agree(group: Group, decision: Decision, value: T) -> T:
    """Return the common result of a decision.

    Args:
        group: The processes that decide.
        decision: What is decided; `RULES` says how the values are combined.
        value: The value of this process.

    Returns:
        The same value in every process; `value` itself where there is one process only.
    """
    if group.world_size == 1:
        return value
    result: T = RULES[decision](group.gather(decision, value))
    return result
