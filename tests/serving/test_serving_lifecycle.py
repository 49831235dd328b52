"""A server from its start to its end: address, loading, loading again without a gap, draining, signals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_apps import client, state_of

from blankfill.errors import UserError
from blankfill.serving import lifecycle, served
from blankfill.serving.abilities import Ability
from blankfill.serving.engine import Engine
from blankfill.serving.lifecycle import Service, listen
from blankfill.serving.protocol import protocol
from blankfill.serving.requests import RunningRequest, current
from blankfill.serving.run import check_stopped, running
from blankfill.serving.served import ModelSource
from blankfill.serving.state import Phase
from blankfill.system.stopping import Stop, StoppedError
from written_models import write_model

FILL = {"input": "the old [MASK] boat"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "bert", "bert")


# The address


def test_a_port_in_use_is_a_sentence() -> None:
    first = listen("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    with pytest.raises(UserError, match=rf"port={port} of 127.0.0.1 cannot be listened on .*; give another"):
        listen("127.0.0.1", port)
    for made in first:
        made.close()


@pytest.mark.parametrize("host", ["256.1.1.1", "no such host", "203.0.113.7"])
def test_an_address_that_is_not_here_is_a_sentence(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(host: str, *given: Any, **more: Any) -> Any:
        if host != "203.0.113.7":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with pytest.raises(UserError, match=r"is not an address of this machine|cannot be listened on"):
        listen(host, 0)


def test_a_name_of_several_addresses_has_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *given, **more: [(*address, ("127.0.0.1", 0)), (*address, ("127.0.0.2", 0))]
    )
    try:
        sockets = listen("two", 0)
    except UserError as error:
        pytest.skip(f"this system has one address of its own: {error}")
    assert len({made.getsockname()[1] for made in sockets}) == 1 and len(sockets) == 2
    for made in sockets:
        made.close()


# In a thread of this process


def test_a_server_in_a_thread_serves_and_ends(folder: Path) -> None:
    with running({"small": folder}, device="cpu", threads=1) as url:
        assert httpx.get(f"{url}/health").json()["status"] == "ready"
        assert httpx.post(f"{url}/v1/fill", json=FILL).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
    assert not [thread for thread in threading.enumerate() if thread.name in ("server", "model small")]


def test_an_error_in_the_block_ends_the_server_too(folder: Path) -> None:
    with pytest.raises(ValueError, match="mine"), running(folder, device="cpu", threads=1):
        raise ValueError("mine")
    assert "server" not in [thread.name for thread in threading.enumerate()]


def test_a_model_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no checkpoint"), running(tmp_path / "empty", device="cpu"):
        pytest.fail("the server started")
    with pytest.raises(UserError, match="there is no such folder"), running(tmp_path / "nothing", device="cpu"):
        pytest.fail("the server started")


def test_a_thread_has_no_workers(folder: Path) -> None:
    with pytest.raises(UserError, match="leave out workers=2"), running(folder, workers=2):
        pytest.fail("the server started")


# Draining, in this process


class Slow:
    """A kind of job that waits until it may end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def size(self, item: str) -> int:
        return 1

    def compute(self, items: Sequence[str]) -> list[str]:
        self.began.set()
        self.may_end.wait(60)
        return list(items)


class Draining:
    """A server in a thread with a path that waits for a slow job."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.state = state_of({"small": folder}, **settings)
        self.kind, self.ready = Slow(), threading.Event()
        self.sockets = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"
        self.service = Service(self.state, self.sockets, self.ready.set, signals=False)
        self.service._listener.config.app.add_api_route("/slow", self.slow)  # type: ignore[union-attr]
        self.answers: list[httpx.Response] = []
        self.thread = threading.Thread(target=self.service.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(60)
        self.client = threading.Thread(target=lambda: self.answers.append(httpx.get(f"{self.url}/slow", timeout=60)))

    async def slow(self) -> list[str]:
        served = self.state.models.named("small", Ability.FILL)
        return await served.engine.compute(self.kind, ["done"])

    def begin(self) -> None:
        self.client.start()
        assert self.kind.began.wait(60)


def test_a_request_that_runs_finishes_while_new_ones_are_refused(folder: Path) -> None:
    made = Draining(folder)
    with httpx.Client(base_url=made.url, timeout=60) as open_before:
        assert open_before.get("/health").status_code == 200
        made.begin()
        made.service.stop_soon()
        while made.state.phase is not Phase.DRAINING:
            time.sleep(0.01)
        refused = open_before.get("/v1/models")
        assert (refused.status_code, refused.headers["Connection"]) == (503, "close")
        assert httpx.get(f"{made.url}/health").status_code == 503  # on a new connection, as a load balancer asks
        made.kind.may_end.set()
        made.client.join(60)
        made.thread.join(60)
    assert made.answers[0].json() == ["done"] and made.answers[0].headers["Connection"] == "close"
    assert (made.service.lost, made.thread.is_alive()) == (0, False)


def test_a_request_that_does_not_finish_is_cancelled(folder: Path) -> None:
    made = Draining(folder, shutdown_timeout=0.0)
    made.begin()
    made.service.stop_soon()
    made.client.join(60)
    assert made.answers[0].status_code == 503
    assert made.answers[0].json()["error"]["code"] == "draining"
    made.kind.may_end.set()
    made.thread.join(60)
    assert made.service.lost == 1
    with pytest.raises(StoppedError, match="1 requests did not finish") as stopped:
        check_stopped(Stop.TERMINATED, made.service.lost)
    assert stopped.value.why.exit_code == 143
    check_stopped(Stop.TERMINATED, 0)
    check_stopped(None, 0)


def test_a_second_signal_ends_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(lifecycle, "exit_now", codes.append)
    made = Draining(folder)
    made.begin()
    made.service.stop_soon(Stop.INTERRUPTED)
    made.service.stop_soon(Stop.TERMINATED)
    while not codes:
        time.sleep(0.01)
    made.kind.may_end.set()
    made.thread.join(60)
    assert codes[0] == 143


def test_a_server_that_is_stopped_before_it_runs_ends_when_it_runs(folder: Path) -> None:
    state = state_of({"small": folder})
    state.phase = Phase.READY
    service = Service(state, listen("127.0.0.1", 0), lambda: None, signals=False)
    service.stop_soon()
    service.reload_soon()
    service.run()
    assert service.stopped is Stop.TERMINATED


def test_a_server_that_is_stopped_while_it_loads_ends_before_its_models_are_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of({"small": folder})
    loads, may_end = threading.Event(), threading.Event()

    def open_all() -> None:
        loads.set()
        may_end.wait(60)

    monkeypatch.setattr(state.models, "open_all", open_all)
    service = Service(state, listen("127.0.0.1", 0), lambda: pytest.fail("it is ready"), signals=False)
    thread = threading.Thread(target=service.run)
    thread.start()
    assert loads.wait(60)
    service.stop_soon()
    thread.join(60)
    assert not thread.is_alive() and service.computes and service.failure is None
    may_end.set()
    assert service._loading is not None
    service._loading.join(60)
    assert not service.computes


def test_packages_that_make_it_quick_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert lifecycle.quick_loop() is None
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    assert protocol() == "auto"


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_signals_are_handled_where_event_loops_do_not() -> None:
    """As on Windows."""
    before = signal.getsignal(signal.SIGTERM)

    async def run() -> list[str]:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        class Loop:
            def add_signal_handler(self, *given: Any) -> None:
                raise NotImplementedError

            def call_soon_threadsafe(self, act: Any) -> None:
                loop.call_soon_threadsafe(act)

        lifecycle.handle(Loop(), signal.SIGTERM, heard.set)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), 60)
        return ["heard"]

    try:
        assert asyncio.run(run()) == ["heard"]
    finally:
        signal.signal(signal.SIGTERM, before)


# Loading again


def test_a_model_is_replaced_when_its_files_have_changed(folder: Path) -> None:
    state = state_of({"small": folder})
    state.models.open_all()
    (before,) = state.models
    assert state.models.reload() == ([], [])
    assert next(iter(state.models)) is before
    os.utime(folder / "state.json", ns=(1, 1))
    assert state.models.reload() == (["small"], [])
    (after,) = state.models
    assert after is not before
    before.engine._thread.join(60)
    assert not before.engine.alive and after.engine.alive
    state.models.close(30)
    assert not state.models.busy


def test_a_request_finishes_with_the_model_that_it_began_with(folder: Path) -> None:
    state = state_of({"small": folder})
    state.models.open_all()
    first, second = RunningRequest(), RunningRequest()
    for request in (first, second, first):
        token = current.set(request)
        before = state.models.named(None, Ability.FILL)
        current.reset(token)
    os.utime(folder / "state.json", ns=(1, 1))
    state.models.reload()
    first.release()
    kind = Slow()
    kind.may_end.set()
    assert asyncio.run(before.engine.compute(kind, ["done"])) == ["done"]  # the second one still uses it
    second.release()
    before.engine._thread.join(60)
    assert not before.engine.alive
    state.models.close(30)


def test_a_model_that_cannot_be_opened_again_stays(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_of({"small": folder})
    state.models.open_all()
    state.phase = Phase.READY
    shutil.copy(folder / "state.json", folder / "kept.json")
    (folder / "state.json").write_text("{", encoding="utf-8")
    service = Service(state, [], lambda: None, signals=False)
    service._reload()
    assert "a model stays as it was, since it could not be opened again: small: " in caplog.text
    assert 'blankfill_model_loads_total{model="small",result="failed"} 1.0' in state.metrics.text().decode()
    with client(state) as made:
        assert made.post("/v1/fill", json=FILL).status_code == 200
    state.models.close(30)


def test_a_model_that_fails_does_not_keep_others_from_being_opened_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of({"first": folder, "second": folder})
    state.models.open_all()
    opened = ModelSource.open

    def fails(self: ModelSource) -> Any:
        if self.name == "first":
            raise RuntimeError("damaged")
        return opened(self)

    monkeypatch.setattr(ModelSource, "open", fails)
    os.utime(folder / "state.json", ns=(1, 1))
    assert state.models.reload() == (["second"], ["first: RuntimeError('damaged')"])
    state.models.close(30)


@pytest.mark.parametrize("name", [None, "small"])
def test_a_model_that_is_replaced_before_a_request_holds_it_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    state = state_of({"small": folder})
    state.models.open_all()
    (before,) = state.models

    def replaced(model: Any) -> Any:
        if model is before:
            os.utime(folder / "state.json", ns=(1, 1))
            assert state.models.reload() == (["small"], [])
        return model

    monkeypatch.setattr(served, "held", replaced)
    assert state.models.named(name, Ability.FILL) is next(iter(state.models)) is not before
    state.models.close(30)


def test_a_failure_of_loading_again_changes_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of({"small": folder})

    def fails() -> Any:
        raise MemoryError

    monkeypatch.setattr(state.models, "reload", fails)
    service = Service(state, [], lambda: None, signals=False)
    service._reload()
    assert "the models could not be opened again" in caplog.text
    service.reload()
    assert "are not opened again while the server is loading" in caplog.text


def test_a_closed_engine_takes_no_job(folder: Path) -> None:
    engine = Engine("a", state_of({}).settings)
    engine.close(30)
    with pytest.raises(RuntimeError, match="is closed"):
        asyncio.run(engine.compute(Slow(), ["x"]))


# A process


class Process:
    """`blankfill serve` in a process. lines: of standard error."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blankfill", "serve", "--port", "0", "--threads", "1", "--json", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.lines
        self.ready = json.loads(line)
        self.url = self.ready.get("url", "")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, words: str) -> None:
        """Wait until a line has some words."""
        end = time.monotonic() + 60
        while not any(words in line for line in list(self.lines)):
            assert time.monotonic() < end and self.process.poll() is None, self.lines
            time.sleep(0.02)

    def end(self) -> int:
        code = self.process.wait(60)
        self.reader.join(60)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_signals_of_a_process(folder: Path) -> None:
    made = Process("--model", f"small={folder}", "--request-timeout", "60")
    try:
        assert made.ready["models"][0]["name"] == "small" and made.ready["key_needed"] is False
        assert httpx.post(f"{made.url}/v1/fill", json=FILL).status_code == 200
        os.utime(folder / "state.json", ns=(1, 1))
        made.process.send_signal(signal.SIGHUP)
        made.wait_for("opened again: small")
        assert httpx.post(f"{made.url}/v1/fill", json=FILL).status_code == 200
        port = int(made.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as unfinished:
            head = b"POST /v1/fill HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
            unfinished.sendall(head)  # a request that runs, since its body does not end
            while "running 2" not in httpx.get(f"{made.url}/metrics").text.replace(".0", ""):
                time.sleep(0.02)
            made.process.send_signal(signal.SIGTERM)
            made.wait_for("terminated: 1 requests finish their work")
            assert httpx.get(f"{made.url}/health").status_code == 503
            made.process.send_signal(signal.SIGTERM)
            assert made.end() == 143
    finally:
        made.process.kill()
    assert not [line for line in made.lines if "Traceback" in line]


def test_a_process_that_ends_in_order_exits_with_0(folder: Path) -> None:
    made = Process("--model", str(folder), "-q")
    try:
        made.process.send_signal(signal.SIGTERM)
        assert (made.end(), made.lines) == (0, [])
    finally:
        made.process.kill()
