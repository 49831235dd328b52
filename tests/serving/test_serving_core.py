"""The outline of the server: the description of its models, and how mistakes are answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

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


def test_one_model_is_described_by_its_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bert")
    names = ["small", "a/b", "小 模型", "x=y?&"]
    with client_of(dict.fromkeys(names, folder)) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == names
        assert [client.get(f"/v1/models/{quote(name, safe='')}").json() for name in names] == listed
        answer = client.get("/v1/models/large")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": "the [MASK]", "topk": 3}, "topk", "topk: there is no such field; leave it out"),
        ({}, "input", "input: it is missing; give it"),
        ({"input": "the [MASK]", "top_k": 0}, "top_k", "top_k: give at least 1"),
        ({"input": "the [MASK]", "top_k": 2000}, "top_k", "top_k: give at most 1000"),
        ({"input": "the [MASK]", "top_k": 1.5}, "top_k", "top_k: give a whole number"),
        ({"input": "the [MASK]", "allow_unknown": 1}, "allow_unknown", "allow_unknown: give true or false"),
        ({"input": "the [MASK]", "length_penalty": "1"}, "length_penalty", "length_penalty: give a number"),
        ({"input": "the [MASK]", "model": 5}, "model", "model: give a text"),
        ([1], "body", "body: give a JSON object"),
    ],
)
def test_mistakes_in_fields_are_plain_sentences(client: TestClient, body: object, param: str, message: str) -> None:
    answer = client.post("/v1/fill", json=body)
    assert answer.status_code == 422
    assert (answer.json()["error"]["param"], answer.json()["error"]["message"]) == (param, message)


def test_a_path_with_a_slash_more_is_not_redirected(client: TestClient) -> None:
    answer = client.post("/v1/fill/", json={"input": "the [MASK]"}, follow_redirects=False)
    assert answer.status_code == 404  # a redirection would leave https behind a proxy, with the key


def test_an_empty_body_is_a_sentence(client: TestClient) -> None:
    answer = client.post("/v1/fill")
    assert answer.json()["error"]["message"] == "body: it is empty; send a JSON object"


def test_a_value_of_no_form_is_named_once(client: TestClient) -> None:
    body = {"prompt": "the", "stop": 5, "tools": [1]}
    error = client.post("/v1/completions", json=body).json()["error"]
    assert error["param"] == "stop"
    assert error["message"].startswith("stop: give a text, or give a list; ")
