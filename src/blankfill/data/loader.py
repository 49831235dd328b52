"""The batches of a run, step by step, made off the critical path.

Step s of a run holds rows s·B … (s+1)·B − 1 of its sampler, split into micro-batches; each rank takes its share of
them. A background thread (or worker processes) keeps a few steps ready; the batches do not depend on how many.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import torch.utils.data

from blankfill.data.packing import collate
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.types import Batch


class Steps(torch.utils.data.Dataset[list[Batch]]):
    """The micro-batches of each step. rows: of a step over all ranks; micro: the most rows of a micro-batch."""

    def __init__(self, sampler: Sampler, rows: int, micro: int, rank: int = 0, ranks: int = 1) -> None:
        self.sampler = sampler
        self.rows = rows
        self.micro = micro
        self.rank = rank
        self.ranks = ranks

    def __getitem__(self, step: int) -> list[Batch]:
        share = range(step * self.rows + self.rank, (step + 1) * self.rows, self.ranks)
        pad = self.sampler.vocabulary["pad"]
        return [
            collate([self.sampler.row(i) for i in share[k : k + self.micro]], pad)
            for k in range(0, len(share), self.micro)
        ]


class _Told(torch.utils.data.Dataset[list[Batch] | UserError]):
    """Hands a UserError over as it is: DataLoader would raise it with a worker's traceback in its sentence."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> list[Batch] | UserError:
        try:
            return self.steps[step]
        except UserError as error:
            return error


def load(steps: Steps, first: int, stop: int, workers: int = 0, ahead: int = 4) -> Iterator[tuple[int, list[Batch]]]:
    """Yield (step, its micro-batches) for first ≤ step < stop, a few prepared ahead.

    workers: processes that prepare them; 0 uses a thread of this process. An error in preparing a step is raised here.
    """
    if workers:
        loader = torch.utils.data.DataLoader(
            _Told(steps),
            batch_size=None,
            sampler=range(first, stop),
            num_workers=workers,
            prefetch_factor=max(2, ahead // workers),
            persistent_workers=False,
        )
        try:
            for step, batches in zip(range(first, stop), loader, strict=True):
                if isinstance(batches, UserError):
                    raise batches
                yield step, batches
        except Exception as error:
            # Its frames here hold the loader, whose workers would then be waited for at exit; those of the worker,
            # which matter, are told in the message.
            raise error.with_traceback(None) from None
        return
    ready: queue.Queue[tuple[int, list[Batch]] | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: tuple[int, list[Batch]] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue
        return None

    def prepare() -> None:
        try:
            for step in range(first, stop):
                if stopped.is_set():
                    return
                put((step, steps[step]))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=prepare, name="blankfill-loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
