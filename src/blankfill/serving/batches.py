"""The queue of a model: jobs wait, and those of one kind are computed together, fairly for the requests.

A batch holds jobs of one kind up to a number of tokens. Requests take turns: each gives one job, the next in order of
length, until the batch is full; so a request of thousands of texts does not hold up a request of one. Kinds take turns
as well. Taking a batch costs time in proportion to the batch and not to the queue, and dropped jobs cost nothing.

Not here: padding. What computes a batch sorts its rows by length, or packs them (`kinds`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
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
class Owner(Generic[O]):
    """A request that waits for the results of its jobs. results: so far; left: number of jobs that are not done."""

    future: asyncio.Future[list[O]]
    loop: asyncio.AbstractEventLoop
    results: list[O | None]
    left: int
    dropped: bool = False

    def deliver(self, results: Sequence[tuple[int, O | Exception]]) -> None:
        """Take the results of some jobs, by their number; called in the event loop of the request."""
        if self.future.done():
            return
        for number, result in results:
            if isinstance(result, Exception):
                self.future.set_exception(result)
                return
            self.results[number] = result
        self.left -= len(results)
        if not self.left:
            self.future.set_result(self.results)  # type: ignore[arg-type]


@dataclass(eq=False, slots=True)
class Job(Generic[I, O]):
    """One item to compute. number: its place among the items of its owner. size: in tokens."""

    kind: Kind[I, O]
    item: I
    size: int
    owner: Owner[O]
    number: int


@dataclass(eq=False)
class _Queue:
    """The jobs of one kind, by their owners; the owner whose turn it is comes first."""

    owners: OrderedDict[Owner[Any], deque[Job[Any, Any]]] = field(default_factory=OrderedDict)


class Batches:
    """The jobs of a model that wait. Not for several threads at once: `Engine` holds its lock."""

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self.tokens = 0
        """Number of tokens that wait."""
        self._count = 0
        self._queues: OrderedDict[Kind[Any, Any], _Queue] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def add(self, jobs: Sequence[Job[Any, Any]]) -> None:
        """Add jobs; those of an owner are computed in the order of their length."""
        for job in sorted(jobs, key=_size) if len(jobs) > 1 else jobs:
            queue = self._queues.get(job.kind)
            if queue is None:
                queue = self._queues[job.kind] = _Queue()
            waiting = queue.owners.get(job.owner)
            if waiting is None:
                waiting = queue.owners[job.owner] = deque()
            waiting.append(job)
            self._count += 1
            self.tokens += job.size

    def drop(self, owner: Owner[Any]) -> None:
        """Remove the jobs of an owner that still wait."""
        owner.dropped = True
        for kind, queue in list(self._queues.items()):
            for job in queue.owners.pop(owner, ()):
                self._count -= 1
                self.tokens -= job.size
            if not queue.owners:
                del self._queues[kind]

    def take(self, tokens_at_most: int | None = None) -> list[Job[Any, Any]]:
        """Remove and return the jobs of the next batch; none when nothing waits. tokens_at_most: of a batch that must
        be smaller than usual."""
        if not self._queues:
            return []
        kind, queue = next(iter(self._queues.items()))
        batch: list[Job[Any, Any]] = []
        most = self.batch_tokens if tokens_at_most is None else min(tokens_at_most, self.batch_tokens)
        tokens, owners = 0, queue.owners
        while owners:
            owner, waiting = next(iter(owners.items()))
            if batch and tokens + waiting[0].size > most:
                break
            job = waiting.popleft()
            batch.append(job)
            tokens += job.size
            if waiting:
                owners.move_to_end(owner)
            else:
                del owners[owner]
        if owners:
            self._queues.move_to_end(kind)
        else:
            del self._queues[kind]
        self._count -= len(batch)
        self.tokens -= tokens
        return batch


def _size(job: Job[Any, Any]) -> int:
    return job.size
