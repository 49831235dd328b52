"""The thread of a model: it computes batches of jobs, and steps of the rows that write between the batches.

Each model has one thread, so that models never wait for one another, and the work of all requests for a model is done
in one place, where it can share batches. Handlers of requests run in the event loop; they hand over jobs and await
their results:

    vectors = await engine.compute(kind, texts)       # as many jobs as texts, in batches with those of other requests

A job is dropped when its request is cancelled before it is computed. Rows that write are a `Stepper`: the thread calls
`step` while it is busy, and computes at most one small batch between two steps, so that neither kind of work starves
and streams do not stall.

Not here: which jobs share a batch (`batches`), what a job computes (`kinds`), rows that write (`writing`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from blankfill.serving.batches import Batches, Job, Kind, Owner
from blankfill.serving.errors import busy
from blankfill.serving.metrics import Metrics
from blankfill.serving.settings import ServeSettings

Input = TypeVar("Input")
Output = TypeVar("Output")
BETWEEN_STEPS = 256
"""Number of tokens, about, of a batch between two steps of rows that write."""

log = logging.getLogger("blankfill.serving")


class Stepper(Protocol):
    """Work that is done in steps, such as rows that write."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        ...

    @property
    def waiting(self) -> int:
        """Number of texts or answers that have not begun."""
        ...

    @property
    def slots_in_use(self) -> int:
        """Number of rows that are written now."""
        ...

    def step(self) -> None:
        """Do one step. It must not raise: an error belongs to the requests that it concerns."""
        ...


class Engine:
    """The thread that computes with a model, and what waits for it."""

    def __init__(self, name: str, settings: ServeSettings, metrics: Metrics | None = None) -> None:
        self.name, self.settings, self.metrics = name, settings, metrics
        self.batches = Batches(settings.batch_tokens)
        self.steppers: list[Stepper] = []
        self._wakes = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs and answers that wait."""
        return len(self.batches) + sum(stepper.waiting for stepper in self.steppers)

    @property
    def slots_in_use(self) -> int:
        """Number of rows that write now."""
        return sum(stepper.slots_in_use for stepper in self.steppers)

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def check_room(self, count: int) -> None:
        """Raise ApiError (429) when `count` more jobs have no room in the queue."""
        if self.waiting + count > self.settings.max_queue:
            raise busy(
                f"{self.waiting:,} texts wait for the model {self.name}, and its queue has room for "
                f"{self.settings.max_queue:,}; try again later"
            )

    async def compute(self, kind: Kind[Input, Output], items: Sequence[Input]) -> list[Output]:
        """Compute the results of some items, in order. An item that fails raises its error, and the others are dropped.

        Raises ApiError (429) when the queue is full. Cancelling the call drops what has not been computed.
        """
        self.check_room(len(items))
        if not items:
            return []
        if self.metrics is not None:
            self.metrics.texts(self.name, len(items))
        loop = asyncio.get_running_loop()
        owner: Owner[Output] = Owner(loop.create_future(), loop, [None] * len(items), len(items))
        self.add([Job(kind, item, kind.size(item), owner, number) for number, item in enumerate(items)])
        try:
            return await owner.future
        finally:
            if owner.left:
                self.drop(owner)

    def add(self, jobs: Sequence[Job[Any, Any]]) -> None:
        """Add jobs to the queue."""
        self.hand_over(lambda: self.batches.add(jobs))

    def hand_over(self, put: Callable[[], None]) -> None:
        """Call a function that adds work for the thread, and let it look for work."""
        with self._wakes:
            if self._closing:
                raise RuntimeError(f"the model {self.name} is closed")
            put()
            self._wakes.notify()

    def drop(self, owner: Owner[Any]) -> None:
        """Drop the jobs of a request that have not been computed."""
        with self._wakes:
            self.batches.drop(owner)

    def wake(self) -> None:
        """Let the thread look for work; called when a stepper has become busy."""
        with self._wakes:
            self._wakes.notify()

    def close(self, timeout: float | None = None) -> None:
        """End the thread after the work that waits. timeout: seconds to wait for it; None: no limit."""
        with self._wakes:
            self._closing = True
            self._wakes.notify()
        self._thread.join(timeout)

    @property
    def _busy(self) -> bool:
        return bool(len(self.batches)) or any(stepper.busy for stepper in self.steppers)

    def _run(self) -> None:
        while True:
            with self._wakes:
                self._wakes.wait_for(lambda: self._busy or self._closing)
                if not self._busy:
                    return
            try:
                self._work()
            except Exception:  # the thread must live as long as requests wait for it
                log.exception("the thread of the model %s failed, and continues", self.name)

    def _work(self) -> None:
        """Do a step of the rows that write, and compute a batch."""
        writes = False
        for stepper in self.steppers:
            if stepper.busy:
                writes = True
                stepper.step()
        with self._wakes:
            batch = self.batches.take(BETWEEN_STEPS if writes else None)
        if batch:
            try:
                if self.metrics is not None:
                    self.metrics.batch(self.name, len(batch), sum(job.size for job in batch))
            finally:
                compute(batch)


def compute(batch: Sequence[Job[Any, Any]]) -> None:
    """Compute jobs of one kind together, and give each its result. Where that fails, the jobs of each request are
    computed alone, so that a request fails alone; the error is then the error of each of its jobs."""
    try:
        made = batch[0].kind.compute([job.item for job in batch])
        results = [*zip(batch, made, strict=True)]
    except Exception as error:
        own: dict[Owner[Any], list[Job[Any, Any]]] = {}
        for job in batch:
            own.setdefault(job.owner, []).append(job)
        if len(own) > 1:
            log.warning("a batch failed, and each of its %d requests is computed alone", len(own), exc_info=error)
            for owner, jobs in own.items():
                if not owner.dropped:
                    compute(jobs)
            return
        results = [(job, error) for job in batch]
    _hand_over(results)


def _hand_over(results: Sequence[tuple[Job[Any, Any], Any]]) -> None:
    """Give results to their requests, in one call for each event loop."""
    owners: dict[Owner[Any], list[tuple[int, Any]]] = {}
    for job, result in results:
        owners.setdefault(job.owner, []).append((job.number, result))
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Owner[Any], list[tuple[int, Any]]]]] = {}
    for owner, numbered in owners.items():
        if not owner.dropped:
            by_loop.setdefault(owner.loop, []).append((owner, numbered))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, pairs)
        except RuntimeError:  # the loop was closed meanwhile, and nobody awaits the results
            log.debug("results for a closed event loop are dropped")


def _deliver(pairs: Sequence[tuple[Owner[Any], list[tuple[int, Any]]]]) -> None:
    """Give results to their requests, in the event loop."""
    for owner, numbered in pairs:
        owner.deliver(numbered)
