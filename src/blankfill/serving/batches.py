"""The queue of a model: jobs wait, and those of one kind and of similar length are computed together.

The job that has waited longest is always in the next batch, with those of its kind that are nearest to it in length, up
to a number of tokens; so little of a batch is padding, and no job waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Input = TypeVar("Input", contravariant=True)
Output = TypeVar("Output", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Kind(Protocol[Input, Output]):
    """A computation of one model: jobs of one kind share batches. Compared by identity."""

    def size(self, item: Input) -> int:
        """Return the number of tokens of an item; called in the event loop, so it must be quick."""
        ...

    def compute(self, items: Sequence[Input]) -> Sequence[Output | Exception]:
        """Compute the results of items in the thread of the model; an error belongs to its item."""
        ...


@dataclass(eq=False)
class Job(Generic[I, O]):
    """One item to compute. size: in tokens. owner: the request, shared by its jobs. queued: when, in seconds."""

    kind: Kind[I, O]
    item: I
    size: int
    owner: object
    future: asyncio.Future[O]
    loop: asyncio.AbstractEventLoop
    queued: float
    dropped: bool = False

    def drop(self) -> None:
        """Drop the job, if it has not been computed."""
        self.dropped = True
        if not self.future.done():
            self.future.cancel()


class Batches:
    """The jobs of a model that wait. Not for several threads at once: `Engine` holds its lock."""

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self._waiting: list[Job[Any, Any]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, jobs: Sequence[Job[Any, Any]]) -> None:
        """Add jobs behind the others."""
        self._waiting += jobs

    def take(self) -> list[Job[Any, Any]]:
        """Remove and return the jobs of the next batch; none when nothing waits."""
        self._waiting = [job for job in self._waiting if not job.dropped]
        if not self._waiting:
            return []
        first = self._waiting[0]
        alike = [job for job in self._waiting if job.kind is first.kind]
        alike.sort(key=lambda job: (abs(job.size - first.size), job.queued))
        batch: list[Job[Any, Any]] = []
        longest = 0
        for job in alike:
            longest = max(longest, job.size)
            if batch and longest * (len(batch) + 1) > self.batch_tokens:
                break
            batch.append(job)
        taken = set(map(id, batch))
        self._waiting = [job for job in self._waiting if id(job) not in taken]
        return batch
