"""The table of paths answers as the routes behind it do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of, state_of
from starlette.routing import Match

from blankfill.serving.app import create_app
from blankfill.serving.paths import KnownPaths
from blankfill.serving.requests import RunningRequest
from written_models import write_model


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of({"bert": write_model(tmp_path_factory.mktemp("bert"), "bert")}) as made:
        yield made


def test_every_path_without_parameters_is_in_the_table(tmp_path: Path) -> None:
    app = create_app(state_of({"bert": tmp_path}))
    known = app.router.routes[0]
    assert isinstance(known, KnownPaths)
    described = {
        (path, method.upper())
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if "{" not in path
    }
    assert ("/v1/embeddings", "POST") in described and described <= set(known.table)
    for (path, method), route in known.table.items():
        scope = {"type": "http", "path": path, "method": method, "headers": []}
        behind = next(it for it in app.router.routes[1:] if it.matches(dict(scope))[0] is Match.FULL)
        assert behind is route
    for scope in (
        {"type": "http", "path": "/v1/models/bert", "method": "GET"},
        {"type": "http", "path": "/v1/embeddings", "method": "GET"},
        {"type": "websocket", "path": "/v1/embeddings"},
    ):
        assert known.matches(scope) == (Match.NONE, {})


def test_answers(client: TestClient) -> None:
    assert client.get("/v1/models").json()["data"][0]["id"] == "bert"
    body = {"input": "the cat", "allow_unknown": True}
    assert len(client.post("/v1/embeddings", json=body).json()["data"]) == 1


def test_other_methods_and_paths(client: TestClient) -> None:
    wrong = client.get("/v1/embeddings")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"
    assert client.post("/v1/nothing", json={}).status_code == 404
    assert client.post("/v1/classify/more", json={}).status_code == 404


def test_the_numbers_have_the_path_of_the_route(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"input": "the cat", "allow_unknown": True})
    client.get("/v1/models/bert")
    text = client.get("/metrics").text
    assert '"/v1/embeddings"' in text and "/v1/models/bert" not in text


def test_requests_have_numbers_of_their_own() -> None:
    ids = {RunningRequest().id for _ in range(1000)}
    assert len(ids) == 1000 and all(id.startswith("req-") and len(id) == 28 for id in ids)
