"""`/v1/classify`, `/v1/tag` and `/v1/answer`: what `predict` prints, with places in the text and contributions of
words; and `/rerank` with a model of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of, tuned_models

from blankfill.finetuning.predictor import EnsemblePredictor
from blankfill.finetuning.prepared import predict_prepared, prepare
from blankfill.finetuning.rows import items_of_one
from blankfill.inference import Model, load

ROWS: dict[str, list[Any]] = {
    "sst2": ["the cat sat fine", "poor", "the dog sat on the mat"],
    "stsb": [{"text": "the cat sat", "second": "the cat"}, {"text": "the dog", "second": "the dog sat on the mat"}],
    "conll": [{"words": ["the", "cat", "sat"]}, {"words": ["the"]}],
    "squad2": [
        {"question": "the cat", "context": "the cat sat on the mat"}, {"question": "the", "context": "the cat " * 40},
    ],
    "copa": [
        {"premise": "the cat sat", "choice1": "the fine cat", "choice2": "poor", "question": "cause"},
        {"premise": "the cat", "choice1": "fine", "choice2": "the poor cat", "question": "effect"},
    ],
}  # fmt: skip
PATHS = {"sst2": "classify", "stsb": "classify", "copa": "classify", "conll": "tag", "squad2": "answer"}
ADDED = {"index", "words", "start", "end"}
"""Fields beside those of `predict`."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return tuned_models(tmp_path_factory)


@pytest.fixture(scope="module")
def alone(tuned: Mapping[str, Path]) -> dict[str, Model]:
    return {task: load(folder) for task, folder in tuned.items()}


@pytest.fixture(scope="module")
def client(tuned: Mapping[str, Path]) -> Iterator[TestClient]:
    with client_of(tuned, max_texts=300, max_tokens=3000) as client:
        yield client


def predicted(client: TestClient, task: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(f"/v1/{PATHS[task]}", json={"model": task, "allow_unknown": True, **body})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def only(row: Any) -> Any:
    """A row without the fields that the server adds."""
    if isinstance(row, dict):
        return {key: only(value) for key, value in row.items() if key not in ADDED}
    return [only(value) for value in row] if isinstance(row, list) else row


def near(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, abs_tol=2e-4)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(near(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(near, first, second))
    return bool(first == second)


@pytest.mark.parametrize("task", ROWS)
def test_the_rows_are_those_of_predict(task: str, client: TestClient, alone: dict[str, Model]) -> None:
    rows = predicted(client, task, input=ROWS[task])
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert near(only(rows), only(alone[task].predict(ROWS[task], allow_unknown=True)))
    (single,) = predicted(client, task, input=ROWS[task][0])
    assert near(only(single), only(rows[0]))


def test_tags_and_entities_have_places_in_a_text(client: TestClient, alone: dict[str, Model]) -> None:
    text = "the  cat sat"
    (row,) = predicted(client, "conll", input=text)
    assert [text[word["start"] : word["end"]] for word in row["words"]] == ["the", "cat", "sat"]
    assert [word["tag"] for word in row["words"]] == row["tags"]
    (given,) = predicted(client, "conll", input={"words": ["the", "cat", "sat"]})
    assert given["tags"] == row["tags"] and "start" not in given["words"][0]


def test_entities_have_the_places_of_their_words() -> None:
    from blankfill.serving.task_rows import TaskRow, shown
    from blankfill.tasks.adapter import Prediction
    from blankfill.tasks.items import TaggedItem

    item = TaggedItem("0", ("in", "New", "York", "today"))
    tags = ["O", "B-LOC", "I-LOC", "O"]
    record = {"tags": tags, "entities": [{"type": "LOC", "text": "New York"}]}
    row = shown(TaskRow(item, 0, ((0, 2), (3, 6), (7, 11), (12, 17))), Prediction(tuple(tags), record))
    assert row["entities"] == [{"type": "LOC", "text": "New York", "first": 1, "stop": 3, "start": 3, "end": 11}]


def test_answers_have_places_in_the_context(client: TestClient) -> None:
    context = "the cat sat on the mat and the cat sat"
    (row,) = predicted(client, "squad2", input={"question": "the cat", "context": context})
    assert row["best"]
    for answer in row["best"]:
        assert context[answer["start"] : answer["end"]] == answer["text"]
    if row["answer"]:
        assert context[row["start"] : row["end"]] == row["answer"]


@pytest.mark.parametrize("task", ["sst2", "stsb", "copa"])
def test_a_word_contributes_what_is_lost_without_it(task: str, client: TestClient, alone: dict[str, Model]) -> None:
    (row,) = predicted(client, task, input=ROWS[task][0], explain=True)
    assert row["contributions"]
    given = ROWS[task][0]
    if task != "copa":
        text = given if isinstance(given, str) else given["text"]
        word = row["contributions"][1]
        assert (word["text"], text[word["start"] : word["end"]]) == ("cat", "cat")
        without = text[: word["start"]] + text[word["end"] :]
        other = without if isinstance(given, str) else {**given, "text": without}
        (whole,), (rest,) = (alone[task].predict([r], allow_unknown=True) for r in (given, other))
        if "label" in whole:
            expected = whole["probabilities"][whole["label"]] - rest["probabilities"][whole["label"]]
        else:
            expected = whole["score"] - rest["score"]
        assert word["change"] == pytest.approx(expected, abs=1e-4)


def test_a_text_is_cut_only_on_request(client: TestClient) -> None:
    long = "the cat " * 60
    answer = client.post("/v1/classify", json={"model": "sst2", "input": ["the cat", long]})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("input.1: the text is longer than the ")
    first, second = predicted(client, "sst2", input=["the cat", long], truncate=True)
    assert "truncated" not in first and second["truncated"]


@pytest.mark.parametrize(
    ("path", "status", "body", "sentence"),
    [
        ("classify", 422, {"model": "sst2", "input": 3}, "the value is a number"),
        ("classify", 422, {"model": "sst2", "input": ["the", None]}, "value 1 is null"),
        ("classify", 422, {"model": "sst2", "input": []}, "the list is empty"),
        ("classify", 422, {"model": "sst2", "input": "\x00"}, "empty"),
        ("classify", 400, {"model": "sst2", "input": {"texts": "the"}}, "there is no text"),
        ("classify", 400, {"model": "sst2", "input": ["the cat", {"text": ["the"]}]}, "input.1: `text`: a list"),
        ("classify", 400, {"model": "copa", "input": "the cat"}, "give an object with premise"),
        ("classify", 400, {"model": "sst2", "input": "qqq www"}, "unknown to the tokenizer"),
        ("classify", 400, {"model": "conll", "input": "the cat"}, "cannot classify; it can: tag"),
        ("classify", 422, {"model": "sst2", "input": "the " * 201, "explain": True, "truncate": True}, "201 words"),
        ("classify", 413, {"model": "sst2", "input": ["the cat"] * 301}, "301 texts"),
        ("classify", 413, {"model": "sst2", "input": ["the cat"] * 101, "explain": True}, "303 texts with each word"),
        ("answer", 400, {"model": "squad2", "input": {"question": "the", "context": " "}}, "has no tokens"),
        ("answer", 400, {"model": "squad2", "input": {"question": "the"}}, "there is no context"),
    ],
)
def test_mistakes_are_one_sentence(
    client: TestClient, path: str, status: int, body: dict[str, Any], sentence: str
) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_deep_and_broken_objects_are_refused(client: TestClient) -> None:
    head = {"Content-Type": "application/json"}
    for inner in ('"\\ud800"', "[" * 20 + "]" * 20):
        content = f'{{"model": "sst2", "input": {{"text": {inner}}}}}'
        answer = client.post("/v1/classify", content=content, headers=head)
        assert answer.status_code == 422, answer.text


def test_pairs_are_ranked_by_their_score(client: TestClient, alone: dict[str, Model]) -> None:
    documents = ["the cat", "sat on the mat", "dog"]
    body = {"model": "stsb", "query": "the cat", "documents": documents, "allow_unknown": True}
    answer = client.post("/v2/rerank", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    rows = [{"text": "the cat", "second": document} for document in documents]
    scores = [row["score"] for row in alone["stsb"].predict(rows, allow_unknown=True)]
    assert [result["index"] for result in results] == sorted(range(3), key=lambda k: -scores[k])
    for result in results:
        assert result["relevance_score"] == pytest.approx(1 / (1 + math.exp(-scores[result["index"]])), abs=1e-4)
    two = client.post("/rerank", json={**body, "model": "sst2"}).json()["results"]
    likely = [row["probabilities"]["1"] for row in alone["sst2"].predict(rows, allow_unknown=True)]
    assert [result["relevance_score"] for result in two] == pytest.approx(sorted(likely, reverse=True), abs=1e-4)


def test_an_ensemble_predicts_prepared_items_as_others(alone: dict[str, Model]) -> None:
    predictor: Any = alone["sst2"].predictor
    ensemble = EnsemblePredictor([predictor, predictor], [1.0, 3.0])
    items = [item for k, row in enumerate(ROWS["sst2"]) for item in items_of_one(ensemble.task, k, "", {"text": row})]
    made = predict_prepared(ensemble, [prepare(ensemble, item) for item in items])
    assert near([p.record for p in made], [p.record for p in ensemble.predict(items)])
