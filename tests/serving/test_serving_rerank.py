"""`/rerank` with a pretrained model: documents sorted by the cosine of their vectors with that of the query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.inference import load
from blankfill.serving.routes.rerank import relevance
from written_models import write_model

DOCUMENTS = ["the lamp", "the old boat", "sings on the red sea", "the boat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with client_of({"small": folder}, max_texts=10) as client:
        yield client


def ranked(client: TestClient, path: str = "/rerank", **body: Any) -> dict[str, Any]:
    answer = client.post(path, json={"query": "the boat", "documents": DOCUMENTS, **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_cosine_sorts(path: str, client: TestClient, folder: Path) -> None:
    query, *others = load(folder).embed(["the boat", *DOCUMENTS])
    cosines = np.clip(np.stack(others) @ query, 0, 1)
    results = ranked(client, path)["results"]
    assert [result["index"] for result in results] == np.argsort(-cosines, kind="stable").tolist()
    assert np.allclose([result["relevance_score"] for result in results], np.sort(cosines)[::-1], atol=1e-5)
    assert results[0]["index"] == 3 and results[0]["relevance_score"] <= 1


def test_the_best_with_their_texts(client: TestClient) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    results = ranked(client, documents=documents, top_n=2, return_documents=True)["results"]
    assert [result["document"]["text"] for result in results] == [DOCUMENTS[result["index"]] for result in results]
    assert len(results) == 2
    assert len(ranked(client, top_n=100)["results"]) == 4


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (422, {"query": ""}, "query: the value is empty"), (422, {"query": 3}, "query: the value is a number"),
        (422, {"documents": "the"}, "documents: a text in place of a list"),
        (422, {"documents": []}, "documents: the list is empty"),
        (422, {"documents": ["the", 3]}, "value 1 is a number"),
        (422, {"documents": [{"title": "the"}]}, "value 0 has other fields than text"),
        (422, {"documents": [{"text": None}]}, "value 0 is null"), (422, {"top_n": 0}, "top_n"),
        (413, {"documents": ["the"] * 11}, "documents: 11 texts"),
        (422, {"documents": ["the", "the boat " * 20]}, "documents.1: the text has 40 tokens"),
        (422, {"query": "the boat " * 20}, "query: the text has 40 tokens"),
        (400, {"query": "qqq www"}, "unknown to the tokenizer"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(client: TestClient, status: int, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/rerank", json={"query": "the boat", "documents": DOCUMENTS, **body})
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_scores_are_between_0_and_1() -> None:
    assert relevance({"score": 0.0}, ()) == 0.5
    assert 0 <= relevance({"score": -1e9}, ()) < relevance({"score": 1e9}, ()) <= 1
    assert relevance({"probabilities": {"no": 0.25, "yes": 0.75}}, ("no", "yes")) == 0.75
