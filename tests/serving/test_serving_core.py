"""The outline of the server: the description of its models, and how mistakes are answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from written_models import write_model


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = write_model(tmp_path_factory.mktemp("bert"), "bert")
    with client_of({"small": folder}) as client:
        yield client


def test_the_models_say_what_they_can_do(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "small"
    assert {"fill", "embed", "score"} <= set(model["abilities"])
    assert "chat" not in model["abilities"]


def test_an_unknown_field_is_an_error(client: TestClient) -> None:
    answer = client.post("/v1/fill", json={"input": "the [MASK] boat", "topk": 3})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "topk"


def test_a_mistake_of_the_user_is_one_sentence(client: TestClient) -> None:
    answer = client.post("/v1/fill", json={"input": "the old boat"})
    assert answer.status_code == 400
    assert "has no blank" in answer.json()["error"]["message"]


def test_a_model_that_is_not_there_is_named(client: TestClient) -> None:
    answer = client.post("/v1/fill", json={"model": "large", "input": "the [MASK] boat"})
    assert answer.status_code == 404
    assert "small" in answer.json()["error"]["message"]


def test_texts_are_filled_in_their_order(client: TestClient) -> None:
    texts = ["the [MASK] boat", "the old lamp near the [MASK] sings."]
    data = client.post("/v1/fill", json={"input": texts, "top_k": 2}).json()["data"]
    assert [row["text"] for row in data] == texts
    assert all(len(row["blanks"][0]["candidates"]) == 2 for row in data)
