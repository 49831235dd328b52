"""Runs tasks in worker processes: in any order, bounded, and stopped cleanly whatever happens to parent or worker.

Workers are spawned, never forked, so that all systems behave alike. Workers ignore Ctrl-C (the parent decides), and
exit when the parent is gone, even by `kill -9`, so that a restarted run never meets an orphan that still writes. An
exception of a worker is raised again in the parent. Not here: what a task does, and its marker (`markers`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from blankfill.errors import UserError, setting

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    work: Callable[[T], R], tasks: Sequence[T], workers: int, tick: float = 2.0
) -> Iterator[tuple[T, R] | None]:
    """Yield (task, result) as tasks finish, and None every `tick` seconds in between.

    With one worker or one task everything runs in this process, in order. `work` must be a function at the top level of
    a module. Raises the exception of a task (and stops the others), and UserError when a worker is killed from outside.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    count = min(workers, len(tasks))
    executor = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker)
    waiting = iter(tasks)
    running: dict[Future[R], T] = {}
    finished = False
    try:
        while True:
            with _main_hidden():
                for task in islice(waiting, 2 * count - len(running)):
                    running[executor.submit(work, task)] = task
            if not running:
                break
            done, _ = wait(running, timeout=tick, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
            if not done:
                yield None
        finished = True
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process was killed, most likely because memory ran out: repeat the same command with fewer "
            f"workers ({setting('workers', 1)}); it continues where it stopped."
        ) from error
    finally:
        if not finished:
            _stop(executor)
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """While workers start, let the main module look as if it had no file.

    A spawned process imports its parent's main script, and a script without the usual guard would run again. The tasks
    are functions of this package, so a worker does not need that script.
    """
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {name: main.__dict__[name] for name in ("__spec__", "__file__") if name in main.__dict__}
    main.__dict__.update(__spec__=None)
    main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        main.__dict__.update(saved)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process per core is already one thread per core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _stop(executor: Any) -> None:
    # Python 3.14 has `terminate_workers`; before it, the executor's own table is the only list of its processes.
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.terminate()
