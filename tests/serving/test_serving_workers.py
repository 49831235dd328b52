"""Several processes that share one address: they answer, add up their numbers, come back, and end in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from blankfill.errors import UserError
from blankfill.serving import workers
from blankfill.serving.lifecycle import listen
from blankfill.serving.run import sources_of
from blankfill.serving.settings import ServeSettings
from blankfill.serving.workers import RELOAD, STOP, Supervisor, Worker
from blankfill.system.stopping import Stop, StoppedError
from written_models import write_model

FILL = {"input": "the old [MASK] boat"}
SERVE = [sys.executable, "-m", "blankfill", "serve", "--port", "0", "--threads", "1", "--json"]


def wait_until(true: Any, what: str) -> None:
    """Wait until a function returns something true."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def pids_of(parent: psutil.Process) -> set[int]:
    """The workers of a server, without those that have died and without the process of Python that watches pipes."""
    pids = set()
    for child in parent.children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                pids.add(child.pid)
    return pids


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_share_an_address_and_come_back(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    process = subprocess.Popen(
        [*SERVE, "--model", f"small={folder}", "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8",
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["workers"] == 2
        parent = psutil.Process(process.pid)
        own = sorted(pids_of(parent))
        assert len(own) == 2
        for _ in range(20):
            assert httpx.post(f"{ready['url']}/v1/fill", json=FILL).status_code == 200
        counted = 'blankfill_requests_total{method="POST",route="/v1/fill",status="200"} 20.0'
        assert counted in httpx.get(f"{ready['url']}/metrics").text

        os.kill(own[0], signal.SIGKILL)

        def came_back() -> bool:
            now = pids_of(parent)
            return len(now) == 2 and own[0] not in now

        wait_until(came_back, "a worker that died is started again")
        assert httpx.post(f"{ready['url']}/v1/fill", json=FILL).status_code == 200
        assert (
            counted.replace("20.0", "21.0") in httpx.get(f"{ready['url']}/metrics").text
        )  # the dead one's count stays

        os.utime(folder / "state.json", ns=(1, 1))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: any("opened again: small" in line for line in list(lines)), "the models are opened again")
        for pid in own[1:]:
            os.kill(pid, signal.SIGTERM)  # as service managers do; the parent decides
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        reader.join(60)
        process.stdout.close()
        process.stderr.close()
    assert any(" ended with code -9; another one is started in 0.5 s" in line for line in lines), lines


class Pipe:
    """A pipe to a worker that writes down the words that it gets, and has messages to read."""

    def __init__(self, *messages: Any) -> None:
        self.words: list[bytes] = []
        self.messages = [json.dumps(message).encode() for message in messages]
        self.closed = False

    def send_bytes(self, word: bytes) -> None:
        if self.closed:
            raise OSError
        self.words.append(word)

    def poll(self) -> bool:
        return True

    def recv_bytes(self) -> bytes:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def close(self) -> None:
        self.closed = True


class Ended:
    """A process that has ended, or runs until it is killed."""

    pid, exitcode, sentinel = None, 1, 0

    def __init__(self) -> None:
        self.killed = False

    def join(self) -> None:
        return None

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def supervisor(tmp_path: Path) -> Any:
    """A supervisor whose workers are made of `Pipe` and `Ended`."""
    settings = ServeSettings(workers=2)
    made: Any = Supervisor(sources_of(tmp_path, None, "auto", "cpu", 1), settings, [], 1)
    made.workers = {place: Worker(Ended(), Pipe(), time.monotonic()) for place in range(2)}  # type: ignore[arg-type]
    return made


def test_words_go_to_every_worker(supervisor: Any) -> None:
    supervisor.workers[1].pipe.close()  # one that has just died
    supervisor.reload()
    supervisor.stop(Stop.TERMINATED)
    assert supervisor.workers[0].pipe.words == [RELOAD, STOP]


def test_a_second_signal_kills_the_workers(supervisor: Any) -> None:
    supervisor.stop(Stop.INTERRUPTED)
    assert not any(worker.process.killed for worker in supervisor.workers.values())
    supervisor.stop(Stop.TERMINATED)
    assert all(worker.process.killed for worker in supervisor.workers.values())
    supervisor.workers, supervisor.settings = {}, ServeSettings()
    supervisor._start = lambda place, died: None
    with pytest.raises(StoppedError, match="a second signal ended the server at once") as stopped:
        supervisor.run()
    assert stopped.value.why.exit_code == 130


def test_cancelled_requests_are_reported(supervisor: Any) -> None:
    for worker in supervisor.workers.values():
        worker.pipe = Pipe({"lost": 2})
        supervisor._hear(worker)
        assert worker.pipe.closed
    supervisor.workers, supervisor.stopped = {}, Stop.TERMINATED
    supervisor._start = lambda place, died: None
    with pytest.raises(StoppedError, match="4 requests did not finish"):
        supervisor.run()


def test_workers_that_cannot_open_a_model_end_the_server(supervisor: Any) -> None:
    supervisor.workers[0].pipe = Pipe({"failure": "there is no checkpoint"})
    supervisor._hear(supervisor.workers[0])
    assert supervisor.workers[1].pipe.words == [STOP]  # the other one ends too
    for place in range(2):
        supervisor._ended(place)
    assert not supervisor.waiting
    supervisor.settings = ServeSettings()
    supervisor._start = lambda place, died: None
    with pytest.raises(UserError, match="there is no checkpoint"):
        supervisor.run()


def test_a_worker_that_dies_again_is_started_later_each_time(
    supervisor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now)
    delays = []
    for died in range(9):
        supervisor.workers[0] = Worker(Ended(), Pipe(), now, died)  # type: ignore[arg-type]
        supervisor._ended(0)
        when, count = supervisor.waiting.pop(0)
        delays.append(when - now)
        assert count == died + 1
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    supervisor.workers[0] = Worker(Ended(), Pipe(), now - 61, 8)  # type: ignore[arg-type]
    supervisor._ended(0)
    assert supervisor.waiting[0] == (now + 0.5, 1)
    supervisor.stopped = Stop.TERMINATED
    supervisor._ended(1)
    assert 1 not in supervisor.waiting


def test_a_worker_that_fails_later_is_reported_and_the_others_stay(
    supervisor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.announced = True
    supervisor.workers[0].pipe = Pipe({"failure": "no such thing"})
    supervisor._hear(supervisor.workers[0])
    assert "a worker could not open its models: no such thing" in caplog.text
    assert supervisor.stopped is None and supervisor.failure is None


def test_workers_that_do_not_end_are_killed(supervisor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.connection, "wait", lambda things, seconds: [])
    supervisor.stop(Stop.TERMINATED)
    supervisor._step()
    assert not supervisor.workers[0].process.killed
    supervisor.deadline = 0.0
    supervisor._step()
    assert supervisor.workers[0].process.killed


def test_a_worker_does_what_its_parent_says(tmp_path: Path) -> None:
    """In this process: it opens its models before it listens, and ends when its parent is gone."""
    folder = write_model(tmp_path / "bert", "bert")
    sources = sources_of({"small": folder}, None, "auto", "cpu", 1)
    sent: list[Any] = []
    pipe: Any = Pipe()
    pipe.send_bytes = lambda data: sent.append(json.loads(data))
    assert workers._work(sources, ServeSettings(), listen("127.0.0.1", 0), pipe, False) == 0
    assert sent[0]["ready"][0]["name"] == "small" and sent[-1] == {"lost": 0}
    missing = sources_of({"small": tmp_path / "nothing"}, None, "auto", "cpu", 1)
    assert workers._work(missing, ServeSettings(), listen("127.0.0.1", 0), pipe, False) == 2
    assert "does not exist" in sent[-1]["failure"] or "nothing" in sent[-1]["failure"]


def test_a_worker_hears_words() -> None:
    class Service:
        done: list[Any]

        def __init__(self) -> None:
            self.done = []

        def reload_soon(self) -> None:
            self.done.append("reload")

        def stop_soon(self, why: Stop) -> None:
            self.done.append(why)

    for words, done in (
        ([RELOAD, b"interrupt"], ["reload", Stop.INTERRUPTED]), ([STOP], [Stop.TERMINATED]), ([], [Stop.TERMINATED])
    ):  # fmt: skip
        pipe: Any = Pipe()
        pipe.messages = list(words)
        service = Service()
        workers._obey(pipe, service)
        assert service.done == done


def test_several_processes_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str | None] = []

    def run(self: Supervisor) -> None:
        seen.append(os.environ.get(workers.FOLDER))
        raise UserError("no such thing")

    monkeypatch.setattr(Supervisor, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    for value in (None, "elsewhere"):
        if value is None:
            monkeypatch.delenv(workers.FOLDER, raising=False)
        else:
            monkeypatch.setenv(workers.FOLDER, value)
        with pytest.raises(UserError, match="no such thing"):
            workers.run_workers(sources_of(tmp_path, None, "auto", "cpu", 1), ServeSettings(workers=2), [], 1)
        assert os.environ.get(workers.FOLDER) == value
        assert seen[-1] is not None and not Path(seen[-1]).exists()
    assert signal.getsignal(signal.SIGTERM) is before
