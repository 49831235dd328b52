"""Rows that write for requests: they share steps, leave when their client goes away, and fail alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from serving_writers import LONG, Server, by_hand, listening, texts, writer

import blankfill.serving.writing as writing_module
from blankfill.generation.continuation import Continuation, PromptReader
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import Update
from blankfill.serving.writing import Answer

MODEL = writer()
LONG_PROMPT = "naïve café 🙂 " * 40
NO_END = {"logit_bias": {str(MODEL.loaded.vocabulary["eos"]): -100}}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with listening({"gpt": MODEL}, slots=3) as server:
        yield server


def opened(server: Server, **body: Any) -> http.client.HTTPConnection:
    """A connection that has sent a request."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=LONG)
    body = {"prompt": "the cat", "max_tokens": 60, **NO_END, **body}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def answer_of(connection: http.client.HTTPConnection) -> Any:
    """The body of the answer."""
    response = connection.getresponse()
    made = json.loads(response.read())
    assert response.status == 200, made
    connection.close()
    return made


def hang_up(connection: http.client.HTTPConnection) -> None:
    assert connection.sock is not None
    connection.sock.close()


def test_texts_are_those_of_generation_alone_whatever_else_runs(server: Server) -> None:
    prompts = ["the cat", "a dog", "one\n", "naïve", "猫", LONG_PROMPT, "two three", "on", "ran a"]
    bodies: list[dict[str, Any]] = [
        {"prompt": prompt, "max_tokens": 10 + k, "seed": k, "temperature": (0, 0.7, 1.0)[k % 3], "n": 1 + k % 2}
        for k, prompt in enumerate(prompts)
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        made = [*pool.map(lambda body: texts(answer_of(opened(server, **body, logit_bias={}))), bodies)]
    for body, answers in zip(bodies, made, strict=True):
        expected = MODEL.generate_many(
            [body["prompt"]] * body["n"], body["max_tokens"], seed=body["seed"], temperature=body["temperature"]
        )
        assert answers == [generation.text for generation in expected]


@pytest.mark.parametrize("stream", [False, True])
def test_rows_leave_when_the_client_goes_away(server: Server, stream: bool) -> None:
    with by_hand(server, "gpt") as hand:
        writing, scheduler = hand.writing, hand.writing._scheduler
        read = opened(server, prompt=LONG_PROMPT, stream=stream)
        hand.come.wait(1)
        written = opened(server, n=2, stream=stream)
        hand.come.wait(2)
        queued = opened(server, stream=stream)
        hand.come.wait(1)
        assert writing.waiting == 4
        hand.step()
        assert (writing.rows, writing.waiting, scheduler.free, scheduler._long is not None) == (4, 1, 0, True)
        for connection, rows, left in ((queued, 1, 3), (read, 1, 2), (written, 2, 0)):
            hang_up(connection)
            hand.gone.wait(rows)
            hand.step()
            assert writing.rows == left and writing.waiting == 0
        assert not scheduler.busy and not scheduler._slots._cache  # the buffers are given back
        unseen = opened(server, stream=stream)
        hand.come.wait()
        hang_up(unseen)
        hand.gone.wait()
        hand.step()
        assert writing.rows == 0 and not writing.busy


def test_rows_of_one_event_loop_are_handed_over_in_one_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    with by_hand(server, "gpt") as hand:
        connections = [opened(server, max_tokens=2, stream=True) for _ in range(3)]
        hand.come.wait(3)
        put = writing_module._put

        def counted(arrived: Sequence[Any]) -> None:
            calls.append(len(arrived))
            put(arrived)

        monkeypatch.setattr(writing_module, "_put", counted)
        hand.step(2)
        for connection in connections:
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
            connection.close()
    assert calls[-1] == 3 and len(calls) <= 2


def test_a_failing_step_is_the_error_of_its_rows_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with by_hand(server, "gpt") as hand:
        whole, stream = opened(server), opened(server, stream=True)
        hand.come.wait(2)
        hand.step(2)
        monkeypatch.setattr(hand.writing._scheduler._slots, "step", _fail)
        hand.step()
    failed = whole.getresponse()
    assert failed.status == 500 and "out of order" not in failed.read().decode()
    *_, error = _events(stream)
    assert error["error"]["code"] == "internal_error"
    assert len(texts(server.post("completions", prompt="the", max_tokens=3))) == 1


def test_scores_that_are_not_finite_end_their_row(server: Server) -> None:
    with by_hand(server, "gpt") as hand:
        bad = opened(server, prompt="a dog", stream=True)
        hand.come.wait()
        good = opened(server, max_tokens=4)
        hand.come.wait()
        hand.step()
        slots = hand.writing._scheduler._slots
        with torch.inference_mode():
            slots._cache[0].kept[:, 0] = float("nan")
        hand.step(3)
    *_, error = _events(bad)
    assert error["error"]["code"] == "scores_not_finite" and "1 tokens" in error["error"]["message"]
    assert answer_of(good)["usage"]["completion_tokens"] == 4


def test_answers_that_wait_fill_the_queue() -> None:
    with listening({"gpt": MODEL}, slots=1, max_queue=3, max_texts=3) as server:
        with by_hand(server, "gpt") as hand:
            first = opened(server, n=3, max_tokens=2)
            hand.come.wait(3)
            status, error = server.refused("completions", prompt="the", max_tokens=1)
            assert status == 429 and "has room for 3" in error["message"]
            hand.step()
            assert hand.writing.waiting == 2
            second = opened(server, max_tokens=2)
            hand.come.wait()
            status, _ = server.refused("completions", prompt="the", max_tokens=1)
            assert status == 429
        assert len(texts(answer_of(first))) == 3 and len(texts(answer_of(second))) == 1


def test_a_request_ends_after_its_time() -> None:
    with listening({"gpt": MODEL}, request_timeout=0.2) as late, by_hand(late, "gpt") as hand:
        whole, stream = opened(late), opened(late, stream=True)
        response = whole.getresponse()
        assert response.status == 504 and "0.2 seconds" in response.read().decode()
        assert _events(stream)[-1]["error"]["code"] == "timeout"
        hand.gone.wait(2)
        hand.step()
        assert hand.writing.rows == 0


def _events(connection: http.client.HTTPConnection) -> list[Any]:
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def _fail(ids: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of order")


def test_requests_take_turns_where_slots_are_few() -> None:
    with listening({"gpt": MODEL}, slots=2) as server, by_hand(server, "gpt") as hand:
        many = opened(server, n=20, max_tokens=3)
        hand.come.wait(20)
        hand.step()
        single = opened(server, max_tokens=1)
        hand.come.wait()
        for _ in range(8):
            hand.step()
        assert len(texts(answer_of(single))) == 1 and hand.writing.waiting > 8
        hang_up(many)
        hand.gone.wait(21)
        hand.step()
        assert (hand.writing.rows, hand.writing.waiting, hand.writing.busy) == (0, 0, False)


def test_a_text_that_is_stopped_by_its_last_word_says_so() -> None:
    reader = PromptReader(MODEL.loaded)
    prompt, stop = reader.read("the cat"), "mat"
    ids = MODEL.loaded.tokenizer.encode(" on the mat")
    sampled = SampledRow(Sampling(), prompt.ids, reader.banned_V)
    text = Continuation(reader, prompt, reader.row(prompt), sampled, len(ids), [stop])
    answer, piece = Answer(0, text, MODEL.loaded.tokenizer), None
    for place, id in enumerate(ids):
        piece = answer.take(Update(id, "length" if place == len(ids) - 1 else None))
    assert piece is not None and (piece.text, piece.finish) == (" on the ", "stop")
