"""A server in one process, from its start to its end: listen, load, serve, load again, drain.

The listener is up first, and models are opened in a thread meanwhile, so that `/health` can say "loading". A first
SIGTERM or Ctrl-C begins to drain: new requests are refused (503, on connections that are open and on new ones, so that
a load balancer sees it), those that run have `shutdown_timeout` seconds, then they are cancelled. A second signal ends
the process at once. SIGHUP opens the models whose files have changed again, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn

from blankfill.errors import UserError
from blankfill.serving.app import create_app
from blankfill.serving.errors import ApiError
from blankfill.serving.protocol import protocol
from blankfill.serving.state import Phase, ServerState
from blankfill.system.stopping import Stop

log = logging.getLogger("blankfill.serving")

AFTER_CANCEL = 2.0
"""Seconds that cancelled requests have to send their error."""
OBSERVED_EVERY = 1.0
"""Seconds between two looks at the lengths of queues, for the numbers of several processes."""
ENDING = ApiError(503, "the server ends, and the request did not finish in time; send it again later", "draining")


class Listener(uvicorn.Server):
    """uvicorn's server without signal handlers of its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `Service`."""
        yield


class Service:
    """A server in this process. ready: called in the event loop when requests are taken."""

    def __init__(
        self, state: ServerState, sockets: Sequence[socket.socket], ready: Callable[[], None], signals: bool = True
    ) -> None:
        self.state, self.sockets, self.ready, self.signals = state, list(sockets), ready, signals
        self.failure: BaseException | None = None
        self.stopped: Stop | None = None
        self.lost = 0
        """Number of requests that were cancelled at the end."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: threading.Thread | None = None
        self._early: Stop | None = None
        self._starting = threading.Lock()
        self._reloading = threading.Lock()
        self._listener = Listener(
            uvicorn.Config(
                create_app(state), http=protocol(), log_config=None, access_log=False, lifespan="off", ws="none",
                server_header=False, timeout_graceful_shutdown=5, proxy_headers=False,
            )
        )  # fmt: skip

    @property
    def computes(self) -> bool:
        """Whether a thread still opens models or computes with one."""
        return self.state.models.busy or (self._loading is not None and self._loading.is_alive())

    def run(self) -> None:
        """Serve until a signal or `stop`. Raises UserError for a model that cannot be opened."""
        try:
            with asyncio.Runner(loop_factory=quick_loop()) as runner:
                runner.run(self._main())
        finally:
            self.state.models.close(AFTER_CANCEL)
        if self.failure is not None:
            raise self.failure

    async def _main(self) -> None:
        with self._starting:
            self._loop = asyncio.get_running_loop()
            if self._early is not None:
                self._loop.call_soon(self.stop, self._early)
        with self._handlers():
            if self.state.phase is Phase.LOADING:
                self._loading = threading.Thread(target=self._load, name="loading", daemon=True)
                self._loading.start()
            else:
                self.ready()
            self._start(self._observe())
            await self._listener.serve(self.sockets)
        for task in self._tasks:
            task.cancel()

    def stop(self, why: Stop = Stop.TERMINATED) -> None:
        """Begin to drain; the second call ends the process at once. To be called in the event loop."""
        if self.stopped is not None:
            log.warning("a second signal: the server ends at once")
            exit_now(why.exit_code)
        self.stopped = why
        self.state.phase = Phase.DRAINING
        log.info("%s: %d requests finish their work", why.value, self.state.running)
        self._start(self._drain())

    def stop_soon(self, why: Stop = Stop.TERMINATED) -> None:
        """Begin to drain, from another thread; a service that does not run yet ends when it is run."""
        with self._starting:
            if self._loop is None:
                self._early = why
                return
        with suppress(RuntimeError):  # it has ended meanwhile
            self._loop.call_soon_threadsafe(self.stop, why)

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.state.settings.shutdown_timeout):
                await self.state.idle.wait()
        left = list(self.state.requests)
        self.lost = len(left)
        for request in left:
            request.end(ENDING)
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_CANCEL):
                await self.state.idle.wait()
        self._listener.should_exit = True

    def _load(self) -> None:
        """Open the models, in a thread."""
        failure: BaseException | None = None
        try:
            self.state.models.open_all()
        except BaseException as error:
            failure = error
        assert self._loop is not None
        with suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._loaded, failure)

    def _loaded(self, failure: BaseException | None) -> None:
        if failure is not None:
            self.failure = failure
            self._listener.should_exit = True
        elif self.state.phase is Phase.LOADING:
            self.state.phase = Phase.READY
            self.ready()

    def reload(self) -> None:
        """Open models whose files have changed again, without stopping. To be called in the event loop."""
        if self.state.phase is not Phase.READY:
            log.warning("the models are not opened again while the server is %s", self.state.phase.value)
            return
        threading.Thread(target=self._reload, name="opening again", daemon=True).start()

    def reload_soon(self) -> None:
        """Open models again, from another thread."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.reload)

    def _reload(self) -> None:
        with self._reloading:
            log.info("models whose files have changed are opened again")
            try:
                replaced, problems = self.state.models.reload()
            except Exception:
                log.exception("the models could not be opened again, and stay as they were")
                return
        for sentence in problems:
            log.error("a model stays as it was, since it could not be opened again: %s", sentence)
        log.info("opened again: %s", ", ".join(replaced) or "none, since no file has changed")

    async def _observe(self) -> None:
        while True:
            self.state.metrics.observe(self.state.models, self.state.running)
            await asyncio.sleep(OBSERVED_EVERY)

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        """Handle signals in the block, where this is the main thread and signals are wanted."""
        if not self.signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        assert self._loop is not None
        wanted: dict[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self.stop(Stop.TERMINATED),
            signal.SIGINT: lambda: self.stop(Stop.INTERRUPTED),
        }
        if hasattr(signal, "SIGHUP"):
            wanted[signal.SIGHUP] = self.reload
        before = {number: signal.getsignal(number) for number in wanted}
        for number, act in wanted.items():
            handle(self._loop, number, act)
        try:
            yield
        finally:
            for number, handler in before.items():
                with suppress(NotImplementedError):
                    self._loop.remove_signal_handler(number)
                signal.signal(number, handler)


def quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the maker of uvloop's event loops, None where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def handle(loop: asyncio.AbstractEventLoop, number: int, act: Callable[[], None]) -> None:
    """Let a signal call a function in the event loop."""
    try:
        loop.add_signal_handler(number, act)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


def exit_now(code: int) -> None:
    """End the process at once, threads that compute included, after its output is written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on an address, all of a name's on one port. port: 0 for a free one.

    Raises UserError when the address is not there or in use.
    """
    from blankfill.errors import setting

    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(
            f"{setting('host', host)} is not an address of this machine ({error.strerror or error}); give one, such as "
            "127.0.0.1 or 0.0.0.0"
        ) from error
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            made = socket.socket(family, kind, protocol)
            sockets.append(made)
            if os.name == "posix":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and hasattr(socket, "IPV6_V6ONLY"):
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address[0], port, *address[2:]))
            port = made.getsockname()[1]
            made.listen(2048)
            made.set_inheritable(True)
    except OSError as error:
        for made in sockets:
            made.close()
        raise UserError(
            f"{setting('port', port)} of {host} cannot be listened on ({error.strerror or error}); give another, or "
            f"{setting('port', 0)} for a free one"
        ) from error
    return sockets
