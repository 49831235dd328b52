"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.inference import load
from written_models import write_model


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folders = {family: write_model(tmp_path_factory.mktemp(family), family) for family in ("bert", "gpt2")}
    with client_of(folders, max_tokens=100) as client:
        client.tokenizer = load(folders["bert"]).loaded.tokenizer  # type: ignore[attr-defined]
        yield client


def cut(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/tokenize", json=body)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def test_tokens_have_their_places(client: TestClient) -> None:
    text = "The  old boats [MASK]."
    row, other = cut(client, input=[text, "sea"])
    assert row["ids"] == client.tokenizer.encode(text)  # type: ignore[attr-defined]
    assert [text[token["start"] : token["end"]] for token in row["tokens"]] == [
        "The",
        "old",
        "boat",
        "s",
        "[MASK]",
        ".",
    ]
    assert [token["text"] for token in row["tokens"]] == ["the", "old", "boat", "##s", "[MASK]", "."]
    assert (row["count"], other["count"], other["index"]) == (6, 1, 1)


def test_special_tokens_stand_around_the_text_on_request(client: TestClient) -> None:
    (row,) = cut(client, input="the sea", special=True)
    assert [token["text"] for token in row["tokens"]] == ["[CLS]", "the", "sea", "[SEP]"]
    assert row["tokens"][0]["start"] is None
    (row,) = cut(client, model="gpt2", input="the sea", special=True)
    assert row["tokens"][0]["text"] == "<|endoftext|>"


def test_ids_are_written_as_a_text(client: TestClient) -> None:
    (row,) = cut(client, input="the old boats.", special=True)
    answer = client.post("/detokenize", json={"ids": row["ids"]})
    assert answer.json() == {"model": "bert", "text": "the old boats."}
    assert "[CLS]" in client.post("/detokenize", json={"ids": row["ids"], "special": True}).json()["text"]
    assert client.post("/detokenize", json={"ids": []}).json()["text"] == ""


@pytest.mark.parametrize(
    ("path", "status", "body", "sentence"),
    [
        ("/detokenize", 422, {"ids": [11, 999]}, "ids.1: the id 999 is not in the vocabulary"),
        ("/detokenize", 422, {"ids": [-1]}, "ids.0"), ("/detokenize", 422, {"ids": ["a"]}, "ids.0"),
        ("/detokenize", 413, {"ids": [11] * 101}, "101 tokens"),
        ("/tokenize", 413, {"input": "the " * 101}, "101 tokens"),
        ("/tokenize", 422, {"input": ""}, "empty"), ("/tokenize", 422, {"text": "the"}, "input"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    client: TestClient, path: str, status: int, body: dict[str, Any], sentence: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]
