"""The queue of a model: batches by tokens, turns of requests and kinds, dropped jobs; and the thread that computes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from blankfill.serving.batches import Batches, Job, Owner
from blankfill.serving.engine import Engine
from blankfill.serving.errors import ApiError
from blankfill.serving.settings import ServeSettings


class Doubles:
    """Doubles numbers; the size of a number is the number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    async def busy(self, engine: Engine) -> asyncio.Task[Any]:
        """A request whose job is computed until `go` is set."""
        self.go.clear()
        task = asyncio.create_task(engine.compute(self, [1]))
        await asyncio.to_thread(self.begun.wait, 60)
        return task

    def size(self, item: int) -> int:
        return item

    def compute(self, items: Sequence[int]) -> list[int | Exception]:
        self.begun.set()
        assert self.go.wait(30)
        self.batches.append(list(items))
        return [ValueError("seven") if item == 7 else 2 * item for item in items]


@pytest.fixture
def loop() -> Any:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def owned(loop: asyncio.AbstractEventLoop, kind: Doubles, sizes: Sequence[int]) -> list[Job[Any, Any]]:
    """The jobs of a new request."""
    owner: Owner[int] = Owner(loop.create_future(), loop, [None] * len(sizes), len(sizes))
    return [Job(kind, size, size, owner, number) for number, size in enumerate(sizes)]


def taken(batches: Batches) -> list[int]:
    return [job.size for job in batches.take()]


def test_a_batch_is_full_by_tokens_and_a_large_job_has_its_own(loop: asyncio.AbstractEventLoop) -> None:
    batches, kind = Batches(10), Doubles()
    batches.add(owned(loop, kind, [4, 30, 3, 5]))
    assert (len(batches), batches.tokens) == (4, 42)
    assert taken(batches) == [3, 4]  # in the order of their length
    assert taken(batches) == [5]
    assert taken(batches) == [30]
    assert (taken(batches), len(batches), batches.tokens) == ([], 0, 0)


def test_requests_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    """A request of one text is in the next batch, however many texts came before it."""
    batches, kind = Batches(10), Doubles()
    batches.add(owned(loop, kind, [2] * 2048))
    assert taken(batches) == [2] * 5
    batches.add(owned(loop, kind, [3]))
    batches.add(owned(loop, kind, [1]))
    assert sorted(taken(batches)) == [1, 2, 2, 2, 3]
    assert len(batches) == 2048 - 8


def test_a_job_that_did_not_fit_is_first_in_the_next_batch(loop: asyncio.AbstractEventLoop) -> None:
    batches, kind = Batches(10), Doubles()
    batches.add(owned(loop, kind, [6, 6, 6]))
    batches.add(owned(loop, kind, [9]))
    assert taken(batches) == [6]
    assert taken(batches) == [9]
    assert taken(batches) == [6]


def test_kinds_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    batches, first, second = Batches(4), Doubles(), Doubles()
    batches.add(owned(loop, first, [2] * 4))
    batches.add(owned(loop, second, [4]))
    kinds = []
    while batch := batches.take():
        assert len({id(job.kind) for job in batch}) == 1
        kinds.append(batch[0].kind)
    assert kinds == [first, second, first]


def test_dropped_jobs_leave_the_queue(loop: asyncio.AbstractEventLoop) -> None:
    batches, kind = Batches(10), Doubles()
    gone, stays = owned(loop, kind, [2] * 100), owned(loop, kind, [3])
    batches.add(gone)
    batches.add(stays)
    batches.take()
    batches.drop(gone[0].owner)
    assert (len(batches), batches.tokens, gone[0].owner.dropped) == (0, 0, True)
    assert batches.take() == []


@pytest.fixture
def engine() -> Any:
    made = Engine("small", ServeSettings(batch_tokens=100, max_queue=50, max_texts=50))
    yield made
    made.close(30)


def test_results_are_in_the_order_of_the_items(engine: Engine) -> None:
    kind = Doubles()

    async def run() -> list[list[int]]:
        requests = [engine.compute(kind, [9, 1, n]) for n in range(10, 20)]
        return await asyncio.gather(*requests)  # type: ignore[arg-type]

    assert asyncio.run(run()) == [[18, 2, 2 * n] for n in range(10, 20)]
    assert sum(map(len, kind.batches)) == 30


def test_requests_that_wait_share_a_batch(engine: Engine) -> None:
    kind = Doubles()

    async def run() -> None:
        first = await kind.busy(engine)
        others = [asyncio.create_task(engine.compute(kind, [n])) for n in range(2, 6)]
        await asyncio.sleep(0)
        kind.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert kind.batches == [[1], [2, 3, 4, 5]]


def test_an_error_belongs_to_its_request(engine: Engine) -> None:
    kind = Doubles()

    async def run() -> list[Any]:
        requests = [engine.compute(kind, items) for items in ([1, 7, 2], [3])]
        return await asyncio.gather(*requests, return_exceptions=True)

    failed, fine = asyncio.run(run())
    assert str(failed) == "seven" and fine == [6]


def test_a_request_that_is_cancelled_is_not_computed(engine: Engine) -> None:
    kind = Doubles()

    async def run() -> None:
        first = await kind.busy(engine)
        gone = asyncio.create_task(engine.compute(kind, [2] * 20))
        await asyncio.sleep(0)
        assert engine.waiting == 20
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert engine.waiting == 0
        kind.go.set()
        assert await first == [2]

    asyncio.run(run())
    assert kind.batches == [[1]]


def test_a_full_queue_refuses_before_any_work(engine: Engine) -> None:
    kind = Doubles()

    async def run() -> None:
        first = await kind.busy(engine)
        waiting = asyncio.create_task(engine.compute(kind, [1] * 40))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as error:
            await engine.compute(kind, [1] * 11)
        assert (error.value.status, error.value.retry_after) == (429, 1)
        kind.go.set()
        await asyncio.gather(first, waiting)

    asyncio.run(run())
    assert sum(map(len, kind.batches)) == 41


def test_a_batch_between_steps_is_small(loop: asyncio.AbstractEventLoop) -> None:
    batches, kind = Batches(10), Doubles()
    batches.add(owned(loop, kind, [2] * 9))
    assert [len(batches.take(most)) for most in (4, 100, None)] == [2, 5, 2]


class Fragile(Doubles):
    """Fails for a batch that has 13."""

    def compute(self, items: Sequence[int]) -> list[int | Exception]:
        if 13 in items:
            raise MemoryError("thirteen")
        return super().compute(items)


def test_a_batch_that_fails_is_the_error_of_one_request_alone(engine: Engine) -> None:
    kind = Fragile()

    async def run() -> list[Any]:
        requests = [engine.compute(kind, items) for items in ([3, 13], [4], [5, 6])]
        return await asyncio.gather(*requests, return_exceptions=True)

    failed, *fine = asyncio.run(run())
    assert isinstance(failed, MemoryError) and fine == [[8], [10, 12]]


def test_the_thread_of_a_model_outlives_errors_of_the_server_itself(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def texts(self, *given: Any) -> None: ...

        def batch(self, *given: Any) -> None:
            raise OSError("no space left")

    broken: Any = Broken()
    made = Engine("a", ServeSettings(), broken)
    assert [asyncio.run(made.compute(Doubles(), [n])) for n in (1, 2)] == [[2], [4]]
    made.close(30)
    assert "the thread of the model a failed, and continues" in caplog.text


def test_a_kind_with_too_few_results_fails_its_request(engine: Engine) -> None:
    class Short(Doubles):
        def compute(self, items: Sequence[int]) -> list[int | Exception]:
            return []

    with pytest.raises(ValueError):
        asyncio.run(engine.compute(Short(), [1]))
    assert asyncio.run(engine.compute(Doubles(), [1])) == [2]
