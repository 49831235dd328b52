"""Several processes that share one address (`--workers`), and the process that watches over them.

The parent makes the listening sockets and every worker accepts from them. It opens no model: it starts workers again
that have died (after 0.5 s, then twice as long each time, up to 30 s), passes on what signals say, and keeps the folder
in which the workers write down their numbers for `/metrics`. Workers ignore signals and read words from a pipe, since
Ctrl-C in a terminal and service managers send signals to every process of a group; a worker whose pipe is closed has
lost its parent, and ends in order.

Not here: what a worker does (`serving.lifecycle`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from blankfill.errors import UserError
from blankfill.serving.metrics import FOLDER
from blankfill.serving.run import announce, check_stopped, described, log_to_standard_error
from blankfill.serving.served import ModelSet, ModelSource
from blankfill.serving.settings import ServeSettings
from blankfill.system.console import output_mode, say
from blankfill.system.stopping import Stop, StoppedError

log = logging.getLogger("blankfill.serving")

STOP, INTERRUPT, RELOAD = b"stop", b"interrupt", b"reload"
"""Words of the parent."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a worker that died is started again: the first time, and at most."""
STEADY = 60.0
"""Seconds after which a worker that dies counts as the first one again."""
MARGIN = 10.0
"""Seconds beyond `shutdown_timeout` after which a worker that does not end is killed."""


@dataclass
class Worker:
    """A worker process. pipe: to it. began: when it was started. died: how often workers in its place have."""

    process: BaseProcess
    pipe: Connection
    began: float
    died: int = 0
    ready: bool = False


class Supervisor:
    """Starts the workers, starts those again that die, and ends them."""

    def __init__(
        self, sources: Sequence[ModelSource], settings: ServeSettings, sockets: Sequence[socket.socket], port: int
    ) -> None:
        self.sources, self.settings, self.sockets, self.port = sources, settings, sockets, port
        self.workers: dict[int, Worker] = {}
        self.waiting: dict[int, tuple[float, int]] = {}
        """When a worker is started in each empty place, and how often workers there have died."""
        self.stopped: Stop | None = None
        self.lost = 0
        self.at_once = False
        self.failure: UserError | None = None
        self.announced = False
        self.deadline = 0.0
        self._begin = time.monotonic()

    def run(self) -> None:
        """Run until a signal has ended all workers. Raises UserError when the models cannot be opened."""
        for place in range(self.settings.workers):
            self._start(place, 0)
        while self.workers or (self.waiting and self.stopped is None):
            self._step()
        if self.failure is not None:
            raise self.failure
        if self.at_once and self.stopped is not None:
            raise StoppedError(self.stopped, f"{self.stopped.value}: a second signal ended the server at once")
        check_stopped(self.stopped, self.lost)

    def stop(self, why: Stop) -> None:
        """Let the workers drain; the second call ends everything at once."""
        if self.stopped is not None:
            for worker in self.workers.values():
                worker.process.kill()
            self.at_once = True
            return
        self.stopped, self.deadline = why, time.monotonic() + self.settings.shutdown_timeout + MARGIN
        self._tell(INTERRUPT if why is Stop.INTERRUPTED else STOP)

    def reload(self) -> None:
        """Let the workers open models again."""
        self._tell(RELOAD)

    def _tell(self, word: bytes) -> None:
        for worker in self.workers.values():
            with suppress(OSError):
                worker.pipe.send_bytes(word)

    def _start(self, place: int, died: int) -> None:
        context = get_context("spawn")
        own, other = context.Pipe()
        with _ignored():
            process = context.Process(
                target=work, name=f"worker {place}", daemon=True,
                args=(self.sources, self.settings, self.sockets, other, not self.announced),
            )  # fmt: skip
            process.start()
        other.close()
        self.workers[place] = Worker(process, own, time.monotonic(), died)

    def _step(self) -> None:
        """Wait for news for a moment, and act on them."""
        now = time.monotonic()
        if self.stopped is None:
            for place, (when, died) in list(self.waiting.items()):
                if now >= when:
                    del self.waiting[place]
                    self._start(place, died)
        elif now > self.deadline:
            for worker in self.workers.values():
                worker.process.kill()
        places: dict[Any, int] = {}
        for place, worker in self.workers.items():
            places[worker.process.sentinel] = place
            if not worker.pipe.closed:
                places[worker.pipe] = place
        if not places:
            time.sleep(0.2)
        news = connection.wait(list(places), 0.2) if places else []
        for place in sorted({places[thing] for thing in news}):
            self._hear(self.workers[place])
            if not self.workers[place].process.is_alive():
                self._ended(place)

    def _hear(self, worker: Worker) -> None:
        """Read what a worker says: that it is ready, that it cannot be, how many requests it cancelled."""
        try:
            while not worker.pipe.closed and worker.pipe.poll():
                message: Mapping[str, Any] = json.loads(worker.pipe.recv_bytes())
                if "ready" in message:
                    worker.ready = True
                    if not self.announced and all(other.ready for other in self.workers.values()):
                        self.announced = True
                        announce(self.settings, self.port, message["ready"], time.monotonic() - self._begin)
                elif "failure" in message and not self.announced:
                    self.failure = UserError(message["failure"])
                    if self.stopped is None:
                        self.stop(Stop.TERMINATED)
                elif "failure" in message:
                    log.error("a worker could not open its models: %s", message["failure"])
                self.lost += message.get("lost", 0)
        except (EOFError, OSError):
            worker.pipe.close()

    def _ended(self, place: int) -> None:
        worker = self.workers.pop(place)
        worker.process.join()
        worker.pipe.close()
        forget(worker.process.pid)
        if self.stopped is not None:
            return
        died = 0 if time.monotonic() - worker.began > STEADY else worker.died
        delay = min(FIRST_DELAY * 2**died, LONGEST_DELAY)
        log.error("worker %d ended with code %s; another one is started in %g s", place, worker.process.exitcode, delay)
        self.waiting[place] = (time.monotonic() + delay, died + 1)


def run_workers(
    sources: Sequence[ModelSource], settings: ServeSettings, sockets: Sequence[socket.socket], port: int
) -> None:
    """Serve with several processes until a signal; see `serving.run.serve`."""
    say(f"{settings.workers} workers open the models, with {sources[0].threads} threads for each model")
    before_folder = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="blankfill-metrics-") as folder:
        os.environ[FOLDER] = folder
        supervisor = Supervisor(sources, settings, sockets, port)
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = _handle(supervisor)
        try:
            supervisor.run()
        finally:
            for worker in supervisor.workers.values():
                worker.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
            for made in sockets:
                made.close()
            if before_folder is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = before_folder


def _handle(supervisor: Supervisor) -> dict[int, Any]:
    """Let signals act on a supervisor; returns the handlers of before."""
    before = {}
    wanted: dict[int, Any] = {
        signal.SIGTERM: lambda *_: supervisor.stop(Stop.TERMINATED),
        signal.SIGINT: lambda *_: supervisor.stop(Stop.INTERRUPTED),
    }
    if hasattr(signal, "SIGHUP"):
        wanted[signal.SIGHUP] = lambda *_: supervisor.reload()
    for number, act in wanted.items():
        before[number] = signal.signal(number, act)
    return before


class _ignored:  # noqa: N801
    """Signals are ignored in the block, and by the processes that are started in it."""

    def __enter__(self) -> None:
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGHUP"):
                if (number := getattr(signal, name, None)) is not None:
                    self.before[number] = signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def forget(process: int | None) -> None:
    """Take the numbers of a process that has ended out of those that only count while it lives."""
    if process is not None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(process)  # type: ignore[no-untyped-call]


def work(
    sources: Sequence[ModelSource],
    settings: ServeSettings,
    sockets: Sequence[socket.socket],
    pipe: Connection,
    listens: bool,
) -> None:
    """Serve in a worker process. listens: whether connections are accepted while the models are opened; a worker that
    is started again leaves them to the others meanwhile."""
    with output_mode(quiet=True):
        log_to_standard_error()
        logging.getLogger("blankfill.serving").setLevel(logging.INFO)
        code = _work(sources, settings, sockets, pipe, listens)
    from blankfill.serving.lifecycle import exit_now

    exit_now(code)


def _work(
    sources: Sequence[ModelSource],
    settings: ServeSettings,
    sockets: Sequence[socket.socket],
    pipe: Connection,
    listens: bool,
) -> int:
    from blankfill.serving.lifecycle import Service
    from blankfill.serving.state import Phase, ServerState

    def say_to_parent(**message: object) -> None:
        with suppress(OSError):
            pipe.send_bytes(json.dumps(message).encode())

    state = ServerState(ModelSet({source.name: source for source in sources}, settings), settings)
    service = Service(state, sockets, lambda: say_to_parent(ready=described(state.models)), signals=False)
    threading.Thread(target=_obey, args=(pipe, service), name="parent", daemon=True).start()
    try:
        if not listens:
            state.models.open_all()
            state.phase = Phase.READY
        service.run()
    except UserError as error:
        say_to_parent(failure=error.template)
        return 2
    say_to_parent(lost=service.lost)
    return 0


def _obey(pipe: Connection, service: Any) -> None:
    """Do what the parent says, in a thread; end in order when it is gone."""
    while True:
        try:
            word = pipe.recv_bytes()
        except (EOFError, OSError):
            word = STOP
        if word == RELOAD:
            service.reload_soon()
            continue
        service.stop_soon(Stop.INTERRUPTED if word == INTERRUPT else Stop.TERMINATED)
        return
