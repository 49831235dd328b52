"""Limits of requests: size, type, time, and whether the server takes any; nothing is computed for a refused one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serving_apps import client, client_of, state_of
from serving_asgi import Answer, call
from starlette.datastructures import Headers
from starlette.responses import StreamingResponse

from blankfill.errors import ConfigError
from blankfill.serving import limits, protocol
from blankfill.serving.app import create_app
from blankfill.serving.errors import ApiError
from blankfill.serving.requests import GONE
from blankfill.serving.run import running
from blankfill.serving.schemas import Body
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase, ServerState
from written_models import write_model

JSON = {"Content-Type": "application/json"}
LEAST = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("limits") / "bert", "bert")


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[TestClient]:
    """A client of a server that takes 1,024 bytes."""
    with client_of({"small": folder}, max_body_bytes=LEAST) as made:
        yield made


class Text(Body):
    """A body for the routes below."""

    text: str = ""


class Trial:
    """An application without models and with routes that wait, for what surrounds the routes."""

    def __init__(self, **settings: object) -> None:
        self.state: ServerState = state_of({}, **settings)
        self.state.phase = Phase.READY
        self.app: FastAPI = create_app(self.state)
        self.cancelled = 0
        self.began = asyncio.Event()
        self.app.add_api_route("/wait", self.wait, methods=["POST"])
        self.app.add_api_route("/fail", self.fail, methods=["POST"])
        self.app.add_api_route("/events", self.events, methods=["POST"])
        self.app.add_api_route("/lines", self.lines, methods=["POST"])
        self.app.add_api_route("/broken", self.broken, methods=["POST"])

    async def wait(self, body: Text) -> dict[str, Any]:
        await self._forever()
        return {}

    async def fail(self, body: Text) -> dict[str, Any]:
        raise RuntimeError(f"a secret of the server: {body.text}")

    async def events(self, body: Text) -> StreamingResponse:
        return StreamingResponse(self._parts(), media_type="text/event-stream")

    async def lines(self, body: Text) -> StreamingResponse:
        return StreamingResponse(self._parts(), media_type="text/plain")

    async def broken(self, body: Text) -> StreamingResponse:
        return StreamingResponse(self._break(), media_type="text/event-stream")

    async def _parts(self) -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await self._forever()

    async def _break(self) -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise RuntimeError("a secret of the server")

    async def _forever(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1


def error_of(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_body_is_too_large_by_its_length_or_while_it_is_read(
    small: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.01)  # the client of tests has no end of a body to read
    body = json.dumps({"input": "the [MASK] boat" + " " * LEAST}).encode()
    by_length = small.post("/v1/fill", content=body, headers=JSON)
    in_parts = small.post("/v1/fill", content=iter([body[:500], body[500:]]), headers=JSON)
    for answer in (by_length, in_parts):
        assert answer.status_code == 413
        assert error_of(answer)["message"] == "the body is larger than 1,024 bytes; send fewer texts at a time"
        assert answer.headers["Connection"] == "close"


def test_a_body_of_the_largest_size_is_read(small: TestClient) -> None:
    body = json.dumps({"input": "the [MASK] boat"}).encode()
    assert small.post("/v1/fill", content=body + b" " * (LEAST - len(body)), headers=JSON).status_code == 200
    assert small.post("/v1/fill", content=iter([body[:5], body[5:]]), headers=JSON).status_code == 200


def test_the_rest_of_a_large_body_is_dropped_before_the_connection_ends() -> None:
    """So that a client that sends all of it first sees the answer; each part is read, and none is kept."""

    async def run() -> None:
        answer = await call(Trial(max_body_bytes=LEAST).app, "/wait", [b"x" * 600] * 50)
        assert answer.status == 413 and answer.complete

    asyncio.run(run())


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "json",
     "application/json; charset=latin-1", "application/jsonish"],
)  # fmt: skip
def test_a_body_that_is_not_json_by_its_type_is_refused(small: TestClient, kind: str) -> None:
    answer = small.post("/v1/fill", content=b'{"input": "the [MASK]"}', headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert "JSON" in error_of(answer)["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.a+json"])
def test_json_has_several_types(small: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert small.post("/v1/fill", content=b'{"input": "the [MASK]"}', headers=headers).status_code == 200


def test_a_compressed_body_is_refused(small: TestClient) -> None:
    answer = small.post("/v1/fill", content=b"...", headers={**JSON, "Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "compressed" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "it is not JSON"),
        (b"nothing", "it is not JSON"),
        (b'{"input": "\xff"}', "it is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"input": ' + b"9" * 100_000 + b"}", "it has a number of too many digits"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder: Path, body: bytes, why: str) -> None:
    trial = Trial()
    with client(trial.state) as made:
        answer = made.post("/v1/fill", content=body, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["message"] == f"the body cannot be read: {why}; send JSON in UTF-8"


def test_long_and_half_names_do_not_return_whole(small: TestClient) -> None:
    answer = small.post("/v1/fill", json={"input": "the [MASK]", "x" * 900: 1})
    assert answer.status_code == 422
    assert len(error_of(answer)["message"]) < 300 and len(error_of(answer)["param"]) < 110
    half = small.post("/v1/fill", content=b'{"input": "the [MASK]", "\\ud800": 1}', headers=JSON)
    assert half.status_code == 422


def test_a_model_with_a_long_name_is_an_error_of_one_line(small: TestClient) -> None:
    with client_of({}, max_body_bytes=1 << 20) as made:
        answer = made.post("/v1/fill", json={"model": "m" * 100_000, "input": "the [MASK]"})
    assert answer.status_code == 404
    assert len(error_of(answer)["message"]) < 2100


def test_a_request_that_takes_too_long_ends() -> None:
    async def run() -> None:
        trial = Trial(request_timeout=0.01)
        answer = await call(trial.app, "/wait", [b"{}"])
        assert (answer.status, trial.cancelled) == (504, 1)
        assert error_of(answer)["message"] == "the request took longer than 0.01 seconds; send less at a time"
        assert trial.state.running == 0 and trial.state.idle.is_set()

    asyncio.run(run())


def test_a_body_that_arrives_too_slowly_ends() -> None:
    async def run() -> None:
        answer = await call(Trial(request_timeout=0.01).app, "/wait", [b"{"], ends=False)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "did not arrive" in error_of(answer)["message"]

    asyncio.run(run())


async def ended_late(trial: Trial, path: str, reads: bool = True) -> Answer:
    """The answer of a stream whose time is over when its first part has been sent."""
    calling = asyncio.create_task(call(trial.app, path, [b"{}"], reads=reads))
    await trial.began.wait()
    for request in trial.state.requests:
        request.end(limits.late(1.0, False))
    return await calling


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    async def run() -> None:
        trial = Trial()
        answer = await ended_late(trial, "/events")
        first, last = answer.body.split(b"\n\n")[:2]
        assert (answer.status, answer.complete, first) == (200, True, b"data: 1")
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "timeout"
        assert trial.cancelled == 1

    asyncio.run(run())


def test_a_client_that_does_not_read_holds_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.01)

    async def run() -> None:
        trial = Trial()
        answer = await ended_late(trial, "/events", reads=False)
        assert (answer.status, answer.complete, trial.state.running) == (200, False, 0)

    asyncio.run(run())


def test_a_long_content_type_is_not_read() -> None:
    given = Headers({"content-type": 'application/json; a="' + ";" * 60_000})
    with pytest.raises(ApiError) as error:
        limits.check_type("POST", given, b"{}")
    assert error.value.status == 415


def test_an_answer_that_is_no_stream_of_events_is_left_incomplete() -> None:
    """The server then closes the connection, and the client sees that the end is missing."""

    async def run() -> None:
        answer = await ended_late(Trial(), "/lines")
        assert (answer.status, answer.complete, answer.body) == (200, False, b"data: 1\n\n")

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/wait", "/events"])
def test_a_handler_is_cancelled_when_its_client_goes(path: str) -> None:
    async def run() -> None:
        trial, gone = Trial(), asyncio.Event()
        calling = asyncio.create_task(call(trial.app, path, [b"{}"], gone=gone))
        await trial.began.wait()
        assert trial.state.running == 1
        gone.set()
        answer = await calling
        assert trial.cancelled == 1 and trial.state.running == 0
        assert not answer.complete or path == "/events"
        assert 'status="499"' in trial.state.metrics.text().decode() or path == "/events"

    asyncio.run(run())


def test_a_client_that_goes_before_its_body_is_complete_gets_nothing() -> None:
    async def run() -> None:
        trial, gone = Trial(), asyncio.Event()
        gone.set()
        answer = await call(trial.app, "/wait", [b"{"], ends=False, gone=gone)
        assert (answer.status, trial.cancelled, trial.state.running) == (0, 0, 0)

    asyncio.run(run())


def test_a_cancelled_server_cancels_its_requests() -> None:
    async def run() -> None:
        trial = Trial()
        calling = asyncio.create_task(call(trial.app, "/wait", [b"{}"]))
        await trial.began.wait()
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
        assert calling.cancelled() and trial.cancelled == 1 and trial.state.running == 0

    asyncio.run(run())


def test_a_request_ends_early_once() -> None:
    async def run() -> None:
        trial = Trial()
        calling = asyncio.create_task(call(trial.app, "/wait", [b"{}"]))
        await trial.began.wait()
        (request,) = trial.state.requests
        request.end(GONE)
        why = request.why
        request.end(GONE)
        assert request.why is why
        await calling

    asyncio.run(run())


def test_a_failure_has_no_traceback_and_none_of_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        answer = await call(Trial().app, "/fail", [b'{"text": "private"}'])
        assert (answer.status, error_of(answer)["message"]) == (500, "the server failed; its log says why")
        broken = await call(Trial().app, "/broken", [b"{}"])
        assert broken.status == 200 and broken.complete and b"internal_error" in broken.body
        assert b"secret" not in answer.body + broken.body

    asyncio.run(run())
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize(("phase", "code"), [(Phase.LOADING, "loading"), (Phase.DRAINING, "draining")])
def test_requests_are_refused_while_the_server_loads_or_ends(phase: Phase, code: str) -> None:
    trial = Trial()
    trial.state.phase = phase
    with client(trial.state) as made:
        for answer in (made.post("/v1/fill", json={"input": "the [MASK]"}), made.get("/v1/models")):
            assert (answer.status_code, error_of(answer)["code"]) == (503, code)
            assert int(answer.headers["Retry-After"]) > 0
        health = made.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, code)
        assert int(health.headers["Retry-After"]) > 0
        assert made.get("/metrics").status_code == made.get("/").status_code == made.get("/docs").status_code == 200
        closes = made.get("/").headers.get("Connection") == "close"
        assert closes == (phase is Phase.DRAINING)


def test_paths_and_methods_that_are_not_there_are_sentences(small: TestClient) -> None:
    assert error_of(small.get("/v1/nothing"))["message"] == "there is no such path; /docs lists the paths"
    wrong = small.get("/v1/fill")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_texts": 10, "max_queue": 9}, "max_texts=10 is more than max_queue=9"),
        ({"slots": 10, "max_queue": 9, "max_texts": 9}, "slots=10 is more than max_queue=9"),
        ({"host": "0.0.0.0"}, "can be reached from other machines"),
        ({"host": "example.org"}, "can be reached from other machines"),
        ({"api_keys": ("a b",)}, "cannot be sent in a header"),
        ({"api_keys": ("schlüssel",)}, "cannot be sent in a header"),
        ({"api_keys": ("",)}, "cannot be sent in a header"),
        ({"cors_origins": ("*",)}, "lets every web page use the server"),
        ({"cors_origins": ("example.org",)}, "an origin is a scheme and a host"),
        ({"cors_origins": ("https://example.org/page",)}, "an origin is a scheme and a host"),
        ({"allowed_hosts": ("example.org:80",)}, "without a port"),
        ({"allowed_hosts": ("[nothing]",)}, "without a port"),
        ({"port": 65536}, "port is 65536"),
        ({"request_timeout": 0.0}, "request_timeout is 0.0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_settings_that_contradict_one_another_are_errors(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        ServeSettings(**settings).check()


def test_settings_that_agree_are_none() -> None:
    ServeSettings(host="::1").check()
    ServeSettings(host="0.0.0.0", api_keys=("k",), cors_origins=("*",)).check()
    origins = ("https://example.org", "http://127.0.0.1:3000", "http://[::1]:3000")
    ServeSettings(cors_origins=origins, allowed_hosts=("a.example", "[::1]")).check()


def answer_to(url: str, data: bytes) -> bytes:
    """What a server sends to bytes of a connection, until it closes it."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def test_the_head_of_a_request_has_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httptools", reason="needs httptools")
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "HEAD_BYTES", 2000)
    with running({"small": folder}, device="cpu", threads=1) as url:
        long = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 4000
        assert answer_to(url, long).startswith(b"HTTP/1.1 431 ")
        assert answer_to(url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") == b""
        assert answer_to(url, b"nothing\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert b'"status":"ready"' in answer_to(url, whole)
        twice = whole.replace(b"close", b"keep-alive") + whole
        assert answer_to(url, twice).count(b'"status":"ready"') == 2
