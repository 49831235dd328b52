"""`/v1/fill`, and texts with blanks that are filled together: the results of each text alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.errors import UserError
from blankfill.generation import fill_places
from blankfill.generation.blanks import FillResult
from blankfill.generation.cancel import CancelledError
from blankfill.inference import Model, load
from blankfill.serving.kinds.fill import FillKind
from written_models import write_model

FAMILIES = ["bert", "gpt2", "glm", "modernbert"]
TEXTS = [
    "the [MASK] boat", "the old lamp near the [MASK] sings.", "the [MASK] boat near the ____ sleeps", "[MASK:2] sings",
    "the [MASK] boat",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str, Model]:
    return {family: load(folder) for family, folder in folders.items()}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    with client_of(folders, max_texts=20, max_tokens=200) as client:
        yield client


def alike(first: Any, second: Any) -> bool:
    """Whether two results are the same up to rounding."""
    if isinstance(first, float) and isinstance(second, float):
        return first == pytest.approx(second, abs=1e-5)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)


def plain(result: FillResult) -> Any:
    return json.loads(json.dumps(result.to_json()))


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_together_are_filled_as_each_alone(family: str, client: TestClient, alone: dict[str, Model]) -> None:
    answer = client.post("/v1/fill", json={"model": family, "input": TEXTS, "top_k": 3})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [row.pop("index") for row in data] == [0, 1, 2, 3, 4]
    for row, text in zip(data, TEXTS, strict=True):
        assert alike(row, plain(alone[family].fill(text, top_k=3))), text
    many = alone[family].filler.fill_many(TEXTS, top_k=3)
    assert all(alike(plain(result), row) for result, row in zip(many, data, strict=True))


def test_texts_of_unlike_length_share_one_pass(alone: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    read = fill_places.read_places
    monkeypatch.setattr(fill_places, "read_places", lambda filler, rows: passes.append(len(rows)) or read(filler, rows))
    alone["bert"].filler.fill_many([TEXTS[0], TEXTS[1], TEXTS[4]])
    assert passes == [2]  # a text that comes twice is read once


def test_the_error_of_a_text_leaves_the_others(alone: dict[str, Model]) -> None:
    filler = alone["bert"].filler
    stopped = [filler.prepare(TEXTS[0], cancel=lambda: True), filler.prepare(TEXTS[1])]
    first, second = filler.fill_blanked(stopped)
    assert isinstance(first, CancelledError) and isinstance(second, FillResult)
    long = filler.prepare("the [MASK] boat " * 12)
    first, second = filler.fill_blanked([long, filler.prepare(TEXTS[1])])
    assert isinstance(first, UserError) and isinstance(second, FillResult)


def test_written_fills_count_their_beams(alone: dict[str, Model]) -> None:
    sizes = {}
    for family in ("bert", "glm"):
        kind = FillKind(alone[family].filler)
        item = kind.filler.prepare("the [MASK] boat [MASK:3]", top_k=5)
        sizes[family] = kind.size(item), kind.tokens(item)
    # bert: two rounds, in the second of which 2 · 10 more rows are read; glm: 10 beams of 40 and of 3 tokens
    assert sizes == {"bert": (6 * (2 + 2 * 20), 6), "glm": (10 * (6 + 40 + 6 + 3), 6)}


def test_options_reach_the_model(client: TestClient, alone: dict[str, Model]) -> None:
    body = {"model": "glm", "input": "the [MASK] boat", "top_k": 2, "lengths": "1-2", "length_penalty": 0.5}
    (row,) = client.post("/v1/fill", json=body).json()["data"]
    del row["index"]
    assert alike(row, plain(alone["glm"].fill("the [MASK] boat", 2, "1-2", 0.5)))


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (400, {"input": ["the [MASK] boat", "the boat"]}, "input.1: the text has no blank"),
        (400, {"input": "the [MASK] boat", "lengths": "x"}, 'lengths is "x"'),
        (400, {"input": "the [MASK] boat " * 12}, "tokens"),
        (400, {"input": "qqq www [MASK]"}, "unknown to the tokenizer"),
        (422, {"input": "the [MASK] boat", "top_k": 0}, "top_k: give at least 1"),
        (422, {"input": "the [MASK] boat", "top_k": "5"}, "top_k: give a whole number"),
        (422, {"input": ["the [MASK] boat", 5]}, "value 1 is a number"),
        (422, {"input": "the [MASK] boat", "lengths": "1-64", "top_k": 9}, "input: to fill the blanks the model would"),
        (422, {"model": "glm", "input": ["[MASK]", "the [MASK] boat"], "top_k": 999}, "input.0: to fill the blanks"),
        (400, {"input": "[MASK] " * 10_000}, "10,000 blanks, and the model reads"),
        (413, {"input": ["the [MASK] boat"] * 21}, "21 texts"),
        (413, {"input": ["the [MASK] boat " * 4] * 20}, "tokens, and a request may have 200"),
    ],
)
def test_mistakes_are_one_sentence(client: TestClient, status: int, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/v1/fill", json={"model": "bert", **body})
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_every_client_gets_its_own_fills(client: TestClient, alone: dict[str, Model]) -> None:
    words = ["the", "old", "boat", "lamp", "sings", "sleeps", "near", "sea"]
    texts = [
        " ".join(["[MASK]" if j == k % 5 else words[(k * 3 + j) % 8] for j in range(5 + k % 6)]) for k in range(30)
    ]

    def filled(text: str) -> Any:
        (row,) = client.post("/v1/fill", json={"model": "bert", "input": text, "top_k": 3}).json()["data"]
        del row["index"]
        return row

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(filled, texts))
    for text, row in zip(texts, made, strict=True):
        assert alike(row, plain(alone["bert"].fill(text, top_k=3)))
