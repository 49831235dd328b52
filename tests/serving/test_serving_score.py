"""`/v1/score`: the log-probabilities of the measurements of `evaluate`, for every kind of model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.evaluation.answers import answered
from blankfill.evaluation.perplexity import perplexity
from blankfill.evaluation.pseudo import pseudo_perplexity
from blankfill.evaluation.scorers import Scorer
from blankfill.inference import load
from blankfill.serving.kinds.score import ScoreKind
from blankfill.tasks.items import LanguageItem
from head_models import family_folder
from written_models import write_model

TEXT = "the old boat sleeps on the sea"
LONG = "the old boat sleeps on the sea near the red lamp " * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: write_model(tmp_path_factory.mktemp(family), family) for family in ("bert", "gpt2", "glm")}
    return {**made, "t5": family_folder(tmp_path_factory.mktemp("t5") / "t5", "t5")}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    with client_of(folders, max_tokens=5000) as client:
        yield client


def scored(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    for row in rows:
        total = sum(token["logprob"] for token in row["tokens"])
        assert row["total"] == pytest.approx(total, abs=1e-4)
        assert row["perplexity"] == pytest.approx(math.exp(-total / len(row["tokens"])), rel=1e-4)
    return rows


@pytest.mark.parametrize(("family", "text"), [("gpt2", TEXT), ("glm", TEXT), ("gpt2", LONG)])
def test_a_model_from_left_to_right(family: str, text: str, client: TestClient, folders: dict[str, Path]) -> None:
    short, row = scored(client, model=family, input=["the boat", text])
    assert short["kind"] == row["kind"] == "causal"
    count = perplexity(Scorer(load(folders[family]).loaded, both_ways=False), [LanguageItem("0", text, 1)])
    assert row["total"] == pytest.approx(-count.nats, abs=1e-3)


@pytest.mark.parametrize(("family", "at_once"), [("bert", 1), ("bert", 40), ("gpt2", 1), ("t5", 30)])
def test_the_rows_of_a_text_are_scored_in_several_jobs(
    client: TestClient, folders: dict[str, Path], family: str, at_once: int
) -> None:
    kind = ScoreKind(load(folders[family]).loaded)
    text = "the cat sat on the mat " * 4 if family == "t5" else LONG
    ids, _ = kind.loaded.tokenizer.encode_places(text)
    items = kind.items(ids, at_once)
    assert [item.first for item in items[1:]] == [item.stop for item in items[:-1]] and len(items) > 1
    assert all(item.columns <= at_once or item.stop == item.first + 1 for item in items)
    (row,) = scored(client, model=family, input=text)
    made = np.concatenate([part for part in kind.compute(items) if not isinstance(part, Exception)])
    assert np.allclose(made, [token["logprob"] for token in row["tokens"]], atol=1e-4)


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_a_masked_model(text: str, client: TestClient, folders: dict[str, Path]) -> None:
    (row,) = scored(client, model="bert", input=text)
    assert row["kind"] == "masked"
    count = pseudo_perplexity(Scorer(load(folders["bert"]).loaded), [LanguageItem("0", text, 1)])
    assert row["total"] == pytest.approx(-count.nats, abs=1e-3)


def test_a_model_of_two_stacks_reads_each_token_as_a_blank(client: TestClient, folders: dict[str, Path]) -> None:
    text = "the cat sat on the mat"
    (row,) = scored(client, model="t5", input=text)
    assert row["kind"] == "blank"
    loaded = load(folders["t5"]).loaded
    ids, _ = loaded.tokenizer.encode_places(text)
    scorer = Scorer(loaded)
    examples = [example for k in range(len(ids)) for example in scorer.blank(ids[:k], ids[k : k + 1], ids[k + 1 :])]
    firsts = [float(answer.log_probabilities[0]) for answer in answered(loaded, examples)]
    assert np.allclose([token["logprob"] for token in row["tokens"]], firsts, atol=1e-5)


def test_tokens_stand_as_in_the_text(client: TestClient) -> None:
    (row,) = scored(client, model="gpt2", input="the  old boats")
    assert [token["text"] for token in row["tokens"]] == ["the", "old", "boat", "s"]


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (422, {"input": "\x01"}, "empty"), (422, {"input": 3}, "is a number"),
        (413, {"model": "bert", "input": "the " * 400}, "tokens, and a request may have 5,000"),
        (400, {"input": "qqq www"}, "unknown to the tokenizer"), (404, {"model": "x", "input": "the"}, "no model"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(client: TestClient, status: int, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]
