"""The numbers at /metrics, and the description of the API with its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from serving_apps import client, client_of, state_of

from blankfill.serving.metrics import Metrics
from blankfill.serving.page.reference import reference
from blankfill.serving.reference import ERRORS, EXAMPLES
from blankfill.serving.requests import RunningRequest, counted, current
from written_models import write_model


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[TestClient]:
    with client_of({"small": write_model(tmp_path, "bert")}) as made:
        yield made


def numbers(text: str) -> dict[str, float]:
    """The samples of a text, as `name{label=value}`; a text in another form is an error."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_and_batches_are_counted(filled: TestClient) -> None:
    for text in ("the [MASK] boat", "the [MASK] lamp", "no blank"):
        filled.post("/v1/fill", json={"input": text})
    for path in ("/v1/a", "/v1/b"):
        filled.request("BREW", path)
    answer = filled.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = numbers(answer.text)
    assert values["blankfill_requests_total method=POST route=/v1/fill status=200"] == 2
    assert values["blankfill_requests_total method=POST route=/v1/fill status=400"] == 1
    assert values["blankfill_requests_total method=other route=other status=404"] == 2
    assert values["blankfill_request_seconds_count route=/v1/fill"] == 3
    assert values["blankfill_batch_texts_count model=small"] == 2
    assert values["blankfill_model_loads_total model=small result=opened"] == 1
    assert values["blankfill_model_load_seconds model=small"] > 0
    assert values["blankfill_requests_running"] == 1
    assert values["blankfill_queue_length model=small"] == values["blankfill_slots_in_use model=small"] == 0
    assert not [name for name in values if name.endswith("_created")]


def test_tokens_are_counted_for_the_model_and_for_the_request() -> None:
    metrics = Metrics()
    request = RunningRequest(count=metrics.tokens)
    counted(read=100)  # outside of a request
    token = current.set(request)
    try:
        counted(read=100)  # of no model
        request.model = "a"
        counted(read=5)
        counted(2, 3)
    finally:
        current.reset(token)
    metrics.texts("a", 4)
    values = numbers(metrics.text().decode())
    assert values["blankfill_tokens_read_total model=a"] == 7
    assert values["blankfill_tokens_written_total model=a"] == 3
    assert values["blankfill_texts_total model=a"] == 4
    assert (request.read, request.written) == (7, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_answers_are_those_of_their_usage(tmp_path: Path, stream: bool) -> None:
    with client_of({"writer": write_model(tmp_path, "gpt2")}) as made:
        body = {"prompt": "the old boat", "max_tokens": 3, "stream": stream, "temperature": 0}
        answer = made.post("/v1/completions", json=body)
        assert answer.status_code == 200
        values = numbers(made.get("/metrics").text)
    if not stream:
        usage = answer.json()["usage"]
        assert values["blankfill_tokens_read_total model=writer"] == usage["prompt_tokens"] > 0
        assert values["blankfill_tokens_written_total model=writer"] == usage["completion_tokens"] > 0
    assert 1 <= values["blankfill_tokens_written_total model=writer"] <= 3
    assert values["blankfill_tokens_read_total model=writer"] > 0


def test_tokens_of_texts_are_those_of_their_usage(filled: TestClient) -> None:
    usage = filled.post("/v1/embeddings", json={"input": ["the old boat", "the lamp"]}).json()["usage"]
    values = numbers(filled.get("/metrics").text)
    assert values["blankfill_tokens_read_total model=small"] == usage["prompt_tokens"] > 0
    assert values["blankfill_texts_total model=small"] == 2


def test_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.tokens("a", 5, 0)
    assert "blankfill_tokens_read_total{" not in second.text().decode()


SHARED = """
import os, sys
from blankfill.serving.metrics import Metrics
metrics = Metrics()
metrics.tokens("a", 5, 0)
metrics.observe([], 2)
if sys.argv[1] == "last":
    print(metrics.text().decode())
"""


def test_processes_add_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for which in ("first", "last"):
        run = subprocess.run(
            [sys.executable, "-c", SHARED, which], env=environment, capture_output=True, text=True, check=True
        )
    values = numbers(run.stdout)
    assert values["blankfill_tokens_read_total model=a"] == 10


@pytest.fixture(scope="module")
def described() -> Iterator[TestClient]:
    with client(state_of({}, api_keys=("a-key",))) as made:
        yield made


def test_every_route_is_described(described: TestClient) -> None:
    whole = described.get("/openapi.json").json()
    names = []
    for path, methods in whole["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"] and operation.get("description"), path
            if "requestBody" not in operation:
                continue
            assert {"401", "413", "422", "429", "503"} <= set(operation["responses"]), path
            assert set(ERRORS) <= set(operation["responses"]), path
            assert operation["requestBody"]["content"]["application/json"]["example"] == EXAMPLES[path]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert whole["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "security" not in whole["paths"]["/health"]["get"]
    assert whole["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "HTTPValidationError" not in json.dumps(whole)


def test_the_keys_of_errors_are_those_of_answers(described: TestClient) -> None:
    whole = described.get("/openapi.json").json()
    error = whole["components"]["schemas"]["Error"]["properties"]["error"]
    given = described.get("/v1/models").json()["error"]
    assert set(error["required"]) == set(given)
    assert given["type"] in error["properties"]["type"]["enum"]


def test_the_page_of_the_api_needs_nothing_from_elsewhere(described: TestClient) -> None:
    answer = described.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "'sha256-" in policy
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", answer.text)
    assert "/*SCRIPT*/" not in answer.text and "openapi.json" in answer.text
    assert reference().document.decode() == answer.text
