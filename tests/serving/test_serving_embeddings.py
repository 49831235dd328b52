"""`/v1/embeddings`: the vectors of `Model.embed`, in OpenAI's shape and for OpenAI's client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.inference import Model, load
from written_models import write_model

TEXTS = ["the old boat", "the lamp", "the red boat sleeps near the sea.", "sings"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_model(tmp_path_factory.mktemp(family), family) for family in ("bert", "gpt2")}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    with client_of(folders, max_texts=50, max_tokens=300) as client:
        yield client


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str, Model]:
    return {family: load(folder) for family, folder in folders.items()}


def vectors(client: TestClient, **body: Any) -> np.ndarray:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return np.array([row["embedding"] for row in data], np.float32)


def refused(client: TestClient, status: int, **body: Any) -> str:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_they_are_the_vectors_of_the_model_alone(family: str, client: TestClient, alone: dict[str, Model]) -> None:
    made = vectors(client, model=family, input=TEXTS)
    assert np.allclose(made, alone[family].embed(TEXTS), atol=1e-5)
    each = np.concatenate([alone[family].embed([text]) for text in TEXTS])
    assert np.allclose(made, each, atol=1e-5)
    plain = vectors(client, model=family, input=TEXTS, normalize=False)
    assert np.allclose(plain, alone[family].embed(TEXTS, normalize=False), atol=1e-5)


def test_the_first_column_is_another_pooling(client: TestClient, alone: dict[str, Model]) -> None:
    assert np.allclose(vectors(client, input=TEXTS, pooling="cls"), alone["bert"].embed(TEXTS, "cls"), atol=1e-5)
    assert "use pooling=mean" in refused(client, 400, model="gpt2", input=TEXTS, pooling="cls")


def test_base64_holds_the_same_numbers(client: TestClient) -> None:
    numbers = vectors(client, input=TEXTS)
    rows = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()["data"]
    read = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    assert np.array_equal(np.stack(read), numbers)


def test_openais_client_reads_them(client: TestClient, alone: dict[str, Model]) -> None:
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    pytest.importorskip("httpx", reason="the package httpx is not installed")
    openai_client = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)
    try:
        made = openai_client.embeddings.create(model="bert", input=TEXTS)
    except TypeError:
        pytest.skip("this version of openai takes no client of tests")
    assert np.allclose([row.embedding for row in made.data], alone["bert"].embed(TEXTS), atol=1e-5)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 0


def test_ids_are_read_as_the_text_that_they_stand_for(client: TestClient, alone: dict[str, Model]) -> None:
    ids = [alone["bert"].loaded.tokenizer.encode(text) for text in TEXTS]
    assert np.array_equal(vectors(client, input=ids), vectors(client, input=TEXTS))
    assert np.allclose(vectors(client, input=ids[0]), vectors(client, input=TEXTS[0]), atol=1e-6)
    assert "the id 999 is not in the vocabulary" in refused(client, 422, input=[[11], [999]])


def test_fewer_dimensions_have_length_1_again(client: TestClient) -> None:
    whole, short = vectors(client, input=TEXTS), vectors(client, input=TEXTS, dimensions=5)
    assert short.shape == (4, 5)
    assert np.allclose(short, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(vectors(client, input=TEXTS, dimensions=5, normalize=False)[0].shape, (5,))
    assert "have 16" in refused(client, 422, input=TEXTS, dimensions=17)


def test_a_text_is_cut_only_on_request(client: TestClient, alone: dict[str, Model]) -> None:
    long = "the boat " * 15
    message = refused(client, 422, input=["the boat", long])
    assert message.startswith("input.1: the text has 30 tokens, and the model reads 22;") and "truncate" in message
    answer = client.post("/v1/embeddings", json={"input": ["the boat", long], "truncate": True}).json()
    assert [row.get("truncated") for row in answer["data"]] == [None, True]
    assert np.allclose(answer["data"][1]["embedding"], alone["bert"].embed([long])[0], atol=1e-5)
    assert answer["usage"] == {"prompt_tokens": 4 + 24, "total_tokens": 28}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "the value is a number"), (None, "the value is null"), ({}, "the value is an object"),
        (True, "the value is true or false"), ("", "the text is empty"), (" \n", "the text is empty"),
        ("\x00", "the text is empty"), ([], "the list is empty"), (["the", ""], "value 1 is empty"),
        (["the", 3], "value 1 is a number"), ([1.5], "value 0 is a number"), ([[]], "value 0 has no token"),
        ([[3], "the"], "value 1 is a text among lists"), ([3, "the"], "a text among token ids"),
        ([[3, True]], "true or false among token ids"), ([-1], "the id -1 is not in the vocabulary"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_one_sentence(client: TestClient, given: Any, sentence: str) -> None:
    assert sentence in refused(client, 422, input=given)


def test_half_of_a_surrogate_pair_is_refused(client: TestClient) -> None:
    head = {"Content-Type": "application/json"}
    answer = client.post("/v1/embeddings", content='{"input": "the \\ud800 boat"}', headers=head)
    assert answer.status_code == 422 and "surrogate" in answer.json()["error"]["message"]


def test_limits_are_checked_before_work(client: TestClient) -> None:
    assert "51 texts" in refused(client, 413, input=["the boat"] * 51)
    assert "tokens, and a request may have 300" in refused(client, 413, input=["the boat " * 10] * 20)
    assert "tokens, and a request may have 300" in refused(client, 413, input="the " * 250_000)


def test_unknown_texts_are_refused_unless_allowed(client: TestClient) -> None:
    text = "qqq www eee rrr"
    assert "unknown to the tokenizer" in refused(client, 400, input=text)
    assert vectors(client, input=text, allow_unknown=True).shape == (1, 16)


def test_every_client_gets_its_own_vectors(client: TestClient, alone: dict[str, Model]) -> None:
    """Requests of unlike sizes at the same time share batches, and each gets its own vectors in their order."""
    words = ["the", "old", "boat", "lamp", "sings", "sleeps", "near", "sea"]
    texts = [
        [" ".join(words[(k + j) % 8] for j in range(1 + (k * i) % 7)) for i in range(1 + k % 5)] for k in range(40)
    ]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda own: vectors(client, input=own), texts))
    for own, result in zip(texts, made, strict=True):
        assert np.allclose(result, alone["bert"].embed(own), atol=1e-5)
