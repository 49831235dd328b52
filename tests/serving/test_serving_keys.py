"""Who may use the server: keys, host names, origins; and what browsers and logs get to see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_apps import client, client_of, state_of

from blankfill.serving.access import HEADERS
from blankfill.serving.app import host_names
from blankfill.serving.auth import Keys, host_of
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase
from written_models import write_model

FILL = {"input": "the old [MASK] boat"}
ORIGIN = "https://example.org"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("keys") / "bert", "bert")


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[TestClient]:
    """A client of a server with two keys, for pages of one origin."""
    with client_of({"small": folder}, api_keys=("first-key", "second-key"), cors_origins=(ORIGIN,)) as made:
        yield made


@pytest.mark.parametrize("key", ["first-key", "second-key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_each_key_opens_the_server(locked: TestClient, key: str, scheme: str) -> None:
    assert locked.post("/v1/fill", json=FILL, headers={"Authorization": f"{scheme} {key}"}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-keys", "Basic first-key", "first-key",
     "Bearer first-key second-key", "Bearer FIRST-KEY", b"Bearer sch\xfcssel"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/fill", "/v1/nothing"])
def test_anything_else_does_not(locked: TestClient, value: Any, path: str) -> None:
    answer = locked.post(path, json=FILL, headers={} if value is None else {"Authorization": value})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="blankfill"'
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_keys_are_compared_as_a_whole_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that ended early would say by its time how much of a key is right."""
    from starlette.datastructures import Headers

    import blankfill.serving.auth as auth

    compared: list[tuple[bytes, bytes]] = []
    whole = auth.hmac.compare_digest

    def noted(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return whole(known, given)

    monkeypatch.setattr(auth.hmac, "compare_digest", noted)

    async def nothing(*given: Any) -> None:
        return None

    keys = Keys(nothing, ("a-key", "b-key"))
    assert keys.holds(Headers({"authorization": "Bearer a-key"}))
    first, second = (sha256(key).digest() for key in (b"a-key", b"b-key"))
    assert compared == [(first, first), (second, first)]


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json"])
def test_pages_and_health_need_no_key(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/v1/models"])
def test_numbers_and_models_need_one(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 401
    assert locked.get(path, headers={"Authorization": "Bearer first-key"}).status_code == 200


def test_health_says_whether_a_key_is_needed(locked: TestClient) -> None:
    assert locked.get("/health").json() == {"status": "ready", "key_needed": True}
    with client(state_of({})) as made:
        assert made.get("/health").json()["key_needed"] is False


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "box.example", "localhost."]
)
def test_a_local_server_answers_under_its_names(folder: Path, name: str) -> None:
    state = state_of({}, allowed_hosts=("Box.example",))
    state.phase = Phase.READY
    with client(state) as made:
        assert made.get("/health", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8000", "[::2]"])
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models"])
def test_and_under_no_other(name: str, path: str) -> None:
    state = state_of({})
    state.phase = Phase.READY
    with client(state) as made:
        answer = made.get(path, headers={"Host": name})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")


def test_the_names_of_a_server_follow_from_its_address() -> None:
    assert host_names(ServeSettings()) == ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")
    assert "[::1]" in host_names(ServeSettings(host="::1"))
    assert host_names(ServeSettings(host="0.0.0.0", api_keys=("k",))) == ()
    assert host_names(ServeSettings(host="0.0.0.0", api_keys=("k",), allowed_hosts=("a.b",))) == ("a.b",)
    assert [host_of(value) for value in ("A.b:80", "[::1]:80", "[::1]", "a.b.", "")] == [
        "a.b",
        "[::1]",
        "[::1]",
        "a.b",
        "",
    ]


def test_pages_of_a_given_origin_may_use_the_server(locked: TestClient) -> None:
    asks = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    before = locked.options("/v1/fill", headers=asks)
    assert (before.status_code, before.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    headers = {"Origin": ORIGIN, "Authorization": "Bearer first-key"}
    assert locked.post("/v1/fill", json=FILL, headers=headers).headers["Access-Control-Allow-Origin"] == ORIGIN
    refused = locked.post("/v1/fill", json=FILL, headers={"Origin": ORIGIN})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)


def test_pages_of_other_origins_may_not(locked: TestClient, folder: Path) -> None:
    for made in (locked, client(state_of({}))):
        headers = {"Origin": "https://evil.example", "Authorization": "Bearer first-key"}
        assert "Access-Control-Allow-Origin" not in made.get("/health", headers=headers).headers


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/nothing", "/", "/docs"])
def test_every_answer_has_careful_headers(locked: TestClient, path: str) -> None:
    answer = locked.get(path)
    assert set(HEADERS) <= {name.title() for name in answer.headers} | set(HEADERS) & set(answer.headers)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "server" not in answer.headers


def test_a_request_has_a_number(locked: TestClient) -> None:
    assert locked.get("/health", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    own = [locked.get("/health", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] for _ in range(2)]
    assert own[0].startswith("req-") and own[0] != own[1]
    assert locked.post("/v1/fill", json=FILL).headers["X-Request-ID"].startswith("req-")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "blankfill.serving.access"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of requests, whatever another test has done to its parents."""
    logger = logging.getLogger("blankfill.serving.access")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "blankfill.serving.access")
    propagates, logger.propagate = logger.propagate, False
    yield caplog
    logger.propagate = propagates
    logger.removeHandler(caplog.handler)


def test_the_log_has_no_texts(folder: Path, log: pytest.LogCaptureFixture) -> None:
    with client_of({"small": folder}) as made:
        made.post("/v1/fill?private=query", json={"input": "the private [MASK]"}, headers={"X-Request-ID": "n1"})
        made.post("/v1/fill", json={"input": "the private text"})
        made.get("/v1/private%1b%0a" + "x" * 500)
        made.get("/health")
    first, second, third = lines(log)
    assert first.startswith("POST /v1/fill 200 ") and " model=small read=" in first and first.endswith(" id=n1")
    assert second.startswith("POST /v1/fill 400 ")
    assert "private\\x1b\\nxxx" in third and "…" in third and len(third) < 350
    assert "private" not in first + second


def test_the_log_has_texts_where_they_are_let_in(folder: Path, log: pytest.LogCaptureFixture) -> None:
    with client_of({"small": folder}, log_texts=True) as made:
        made.post("/v1/fill", json={"input": "the private [MASK]"})
        made.post("/v1/fill", json={"input": "the long [MASK]" + " long" * 2000})
    first, second = lines(log)
    assert 'body={"input":"the private [MASK]"}' in first
    assert second.endswith("…") and len(second) < 2300
