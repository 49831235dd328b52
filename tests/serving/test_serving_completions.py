"""Completions: OpenAI's fields, through its client and plain HTTP; every field that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving_writers import BYTES, Server, in_process, listening, texts, writer

from blankfill.errors import UserError

MODEL = writer()
EOS = MODEL.loaded.vocabulary["eos"]
NO_END = {str(EOS): -100}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with listening({"gpt": MODEL, "glm": writer("glm"), "bart": writer("bart"), "t5": writer("t5", sharp=2)}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def streamed(server: Server, **body: Any) -> list[Any]:
    """The events of a stream, without the last."""
    answer = server.client.post("/v1/completions", json={"stream": True, **body})
    assert answer.status_code == 200, answer.text
    *lines, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_the_client_of_openai_gets_texts(client: openai.OpenAI) -> None:
    made = client.completions.create(model="gpt", prompt="the cat", max_tokens=5, temperature=0, logit_bias=NO_END)
    assert made.object == "text_completion" and made.id.startswith("cmpl-") and made.model == "gpt"
    assert made.system_fingerprint and made.system_fingerprint.startswith("fp_")
    (choice,) = made.choices
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("length", 0, None)
    assert made.usage and made.usage.completion_tokens == 5
    assert made.usage.prompt_tokens == 1 + len(BYTES.encode("the cat"))  # with the begin token
    assert made.usage.total_tokens == made.usage.prompt_tokens + 5
    again = client.completions.create(model="gpt", prompt="the cat", max_tokens=5, temperature=0, logit_bias=NO_END)
    assert again.choices[0].text == choice.text and again.id != made.id
    assert again.system_fingerprint == made.system_fingerprint


def test_a_stream_is_the_text_in_pieces(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "gpt", "max_tokens": 40, "seed": 5, "n": 2, "logit_bias": NO_END}
    whole = client.completions.create(prompt="a dog", **options)
    stream = client.completions.create(prompt="a dog", stream=True, stream_options={"include_usage": True}, **options)
    *chunks, last = stream
    assert last.choices == [] and last.usage == whole.usage
    assert {chunk.id for chunk in chunks} == {last.id} and all(chunk.usage is None for chunk in chunks)
    for index, choice in enumerate(whole.choices):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(piece.text for piece in own) == choice.text
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + ["length"]
        assert len(own) > 1


def test_headers_keep_proxies_from_collecting_events(server: Server) -> None:
    answer = server.client.post("/v1/completions", json={"prompt": "a", "stream": True, "max_tokens": 1})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


def test_prompts_are_texts_token_ids_or_lists_of_them(server: Server) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "seed": 2, "logit_bias": NO_END}
    prompts = ["the cat", "a dog"]
    ids = [BYTES.encode(prompt) for prompt in prompts]
    first = texts(server.post("completions", prompt=prompts[0], **options))
    assert texts(server.post("completions", prompt=ids[0], **options)) == first
    made = server.post("completions", prompt=prompts, n=2, **options)
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
    assert made["usage"]["prompt_tokens"] == 2 + sum(map(len, ids)) and made["usage"]["completion_tokens"] == 24
    assert texts(server.post("completions", prompt=ids, n=2, **options)) == texts(made)
    sampling: dict[str, Any] = {"seed": 2, "temperature": 1.0}
    expected = MODEL.generate_many([prompts[0], prompts[0], prompts[1], prompts[1]], 6, **sampling)
    plain = server.post("completions", prompt=prompts, n=2, max_tokens=6, seed=2)
    assert texts(plain) == [generation.text for generation in expected]
    assert [choice["finish_reason"] for choice in plain["choices"]] == [
        "stop" if generation.finish == "end" else "length" for generation in expected
    ]


def test_the_seed_decides_about_the_text(server: Server) -> None:
    def made(**more: Any) -> str:
        return texts(server.post("completions", prompt="the", max_tokens=12, logit_bias=NO_END, **more))[0]

    assert made(seed=-7) == made(seed=-7) != made(seed=7)
    assert len({made() for _ in range(4)}) > 1  # without a seed, another text each time
    assert made(seed=1, top_k=1) == made(temperature=0) != made(temperature=0, repetition_penalty=50.0)
    assert made(seed=1, top_p=1e-6) == made(temperature=0)
    single = made(temperature=0, no_repeat_ngram=1)
    ids = MODEL.generate_many(["the"], 12, temperature=0.0, no_repeat_ngram=1)[0].ids
    assert len(set(ids)) == len(ids) and single


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_and_biases_change_what_is_written(server: Server, penalty: str) -> None:
    options: dict[str, Any] = {"prompt": "the", "max_tokens": 30, "temperature": 0, "logprobs": 0}

    def tokens(**more: Any) -> list[str]:
        made = server.post("completions", **options, **more)
        return list(made["choices"][0]["logprobs"]["tokens"])

    plain = tokens(logit_bias=NO_END)
    assert tokens(logit_bias=NO_END, **{penalty: 0.0}) == plain
    fewer, more = (tokens(logit_bias=NO_END, **{penalty: value}) for value in (2.0, -2.0))
    assert len(set(more)) <= len(set(plain)) <= len(set(fewer)) and len(set(more)) < len(set(fewer))
    (forced,) = BYTES.encode("z")
    assert set(tokens(logit_bias={str(forced): 100})) == {"z"}


def test_a_stop_ends_the_text_just_before_it(server: Server) -> None:
    options: dict[str, Any] = {"prompt": "the cat", "max_tokens": 60, "seed": 8, "logit_bias": NO_END, "top_k": 60}
    (whole,) = texts(server.post("completions", **options))
    assert len(whole) > 40
    for begin, size in ((5, 1), (9, 2), (20, 4), (0, 3)):
        stop = whole[begin : begin + size]
        (choice,) = server.post("completions", **options, stop=stop)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")
        events = streamed(server, **options, stop=[stop, "never written"])
        assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
        assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert texts(server.post("completions", **options, stop=[]))[0] == whole


def test_log_probabilities_are_those_of_the_model(server: Server) -> None:
    options: dict[str, Any] = {"prompt": "the cat", "max_tokens": 9, "logit_bias": NO_END, "seed": 4}
    made = server.post("completions", logprobs=3, **options)["choices"][0]
    scores = made["logprobs"]
    assert [len(scores[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [9] * 4
    for token, value, best in zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True):
        assert value <= 0 and len(best) <= 3 and sum(map(math.exp, best.values())) <= 1 + 1e-5
        assert token not in best or value == best[token] or "\ufffd" in token
    # neither temperature nor filters nor biases count
    warm = server.post(
        "completions", logprobs=3, **{**options, "temperature": 2.0, "top_k": 2, "logit_bias": {"9": 50}}
    )
    assert warm["choices"][0]["logprobs"]["top_logprobs"][0] == pytest.approx(scores["top_logprobs"][0], abs=1e-5)
    chosen = server.post("completions", logprobs=0, **options)["choices"][0]["logprobs"]
    assert chosen["top_logprobs"] is None and chosen["token_logprobs"] == pytest.approx(scores["token_logprobs"])
    events = streamed(server, logprobs=3, **options)
    parts = [event["choices"][0]["logprobs"] for event in events]
    for name in ("tokens", "text_offset"):
        assert [value for part in parts for value in part[name]] == scores[name]


def test_a_prompt_is_repeated_and_scored(server: Server) -> None:
    prompt = ("the cat sat on the mat " * 9).strip()
    options: dict[str, Any] = {"prompt": prompt, "echo": True, "logprobs": 1, "temperature": 0, "logit_bias": NO_END}
    scored = server.post("completions", max_tokens=0, **options)
    (choice,) = scored["choices"]
    assert choice["text"] == prompt and choice["finish_reason"] == "length"
    assert scored["usage"]["completion_tokens"] == 0
    scores = choice["logprobs"]
    assert "".join(scores["tokens"]) == prompt and None not in scores["token_logprobs"]  # behind the begin token
    assert scores["text_offset"] == [len("".join(scores["tokens"][:k])) for k in range(len(scores["tokens"]))]
    (longer,) = server.post("completions", max_tokens=4, **options)["choices"]
    assert longer["text"].startswith(prompt) and len(longer["logprobs"]["tokens"]) == len(scores["tokens"]) + 4
    events = streamed(server, max_tokens=4, **options)
    assert "".join(event["choices"][0]["text"] for event in events) == longer["text"]
    tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    assert tokens == longer["logprobs"]["tokens"]
    ids = BYTES.encode(prompt)
    cut = {**options, "prompt": ids[:5]}
    (again,) = server.post("completions", max_tokens=0, **cut)["choices"]
    assert again["logprobs"]["token_logprobs"] == pytest.approx(scores["token_logprobs"][:5], abs=1e-4)
    del options["logprobs"]
    assert server.post("completions", max_tokens=4, **options)["choices"][0]["text"] == longer["text"]
    assert "".join(event["choices"][0]["text"] for event in streamed(server, max_tokens=4, **options)) == longer["text"]
    assert texts(server.post("completions", max_tokens=0, **options)) == [prompt]


def test_the_best_of_several_has_the_likeliest_tokens(server: Server) -> None:
    options: dict[str, Any] = {"prompt": "the", "max_tokens": 8, "seed": 3, "logit_bias": NO_END, "logprobs": 0}
    every = server.post("completions", n=5, **options)["choices"]
    means = sorted((sum(choice["logprobs"]["token_logprobs"]) / 8 for choice in every), reverse=True)
    best = server.post("completions", n=2, best_of=5, **options)
    got = [sum(choice["logprobs"]["token_logprobs"]) / 8 for choice in best["choices"]]
    assert got == pytest.approx(means[:2], abs=1e-5) and best["usage"]["completion_tokens"] == 40
    del options["logprobs"]
    assert [choice["logprobs"] for choice in server.post("completions", best_of=2, **options)["choices"]] == [None]


def test_glm_and_t5_write_into_a_blank_and_before_a_suffix(server: Server) -> None:
    for name in ("glm", "t5"):
        options: dict[str, Any] = {"model": name, "max_tokens": 6, "seed": 2}
        (blank,) = texts(server.post("completions", prompt="the cat [MASK] on the mat", **options))
        (suffix,) = texts(server.post("completions", prompt="the cat [MASK]", **options, echo=True))
        assert suffix.startswith("the cat ")
        (expected,) = server.state.models._models[name].model.generate_many(["the cat [MASK] on the mat"], 6, seed=2)
        assert blank == expected.text
        (whole,) = texts(server.post("completions", prompt="the cat [MASK] on the mat", echo=True, **options))
        assert whole == expected.whole
        events = streamed(server, prompt="the cat [MASK] on the mat", echo=True, **options)
        assert "".join(event["choices"][0]["text"] for event in events) == whole
    options = {"model": "t5", "max_tokens": 6, "seed": 2}
    (between,) = texts(server.post("completions", prompt="the cat ", suffix=" on the mat", **options))
    assert between == texts(server.post("completions", prompt="the cat [MASK] on the mat", **options))[0]
    (bart,) = texts(server.post("completions", model="bart", prompt="the cat", max_tokens=6, temperature=0))
    assert bart == server.state.models._models["bart"].model.generate_many(["the cat"], 6, temperature=0.0)[0].text
    status, error = server.refused("completions", model="bart", prompt="the cat", suffix="mat", max_tokens=3)
    assert status == 422 and "bart model continues texts" in error["message"] and error["param"] == "suffix"


def test_a_long_prompt_is_cut_only_where_the_request_says_so(server: Server) -> None:
    prompt = ("the cat sat on the mat " * 200).strip()
    status, error = server.refused("completions", prompt=["a", prompt], max_tokens=20)
    assert (status, error["code"], error["param"]) == (422, "context_length_exceeded", "prompt")
    assert "text 2" in error["message"] and "at most 512" in error["message"] and "truncate" in error["message"]
    made = server.post("completions", prompt=["a", prompt], max_tokens=20, truncate=True, logit_bias=NO_END)
    assert [choice.get("truncated") for choice in made["choices"]] == [None, True]
    ids = [EOS, *BYTES.encode(prompt)]
    assert made["usage"]["prompt_tokens"] == 2 + (512 - 20 + 1) and made["usage"]["completion_tokens"] == 40
    cut = server.post("completions", prompt=prompt, max_tokens=20, truncate=True, temperature=0)
    assert texts(cut) == texts(server.post("completions", prompt=ids[-492:], max_tokens=20, temperature=0))
    events = streamed(server, prompt=prompt, max_tokens=3, truncate=True)
    assert [event["choices"][0].get("truncated") for event in events] == [True, *[None] * (len(events) - 1)]
    full = server.post("completions", prompt=ids[1:512], max_tokens=20, logit_bias=NO_END)
    assert full["usage"]["completion_tokens"] == 1 and full["choices"][0]["finish_reason"] == "length"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"frequency_penalty": 3}, "frequency_penalty", "give at most 2"),
    ({"logit_bias": {"cat": 1}}, "logit_bias", "no token 'cat'"),
    ({"logit_bias": {"9999": 1}}, "logit_bias", "no token '9999'"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "give at most 100"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "5 texts, and there may be 4"),
    ({"stop": ""}, "stop", "1 to 1,000 characters"),
    ({"service_tier": "flex"}, "service_tier", "'auto' or 'default'"),
    ({"temperature": 1e-9}, "temperature", "0, or at least"),
    ({"temperature": -1}, "temperature", "give at least 0"),
    ({"top_p": 0}, "top_p", "give more than 0"),
    ({"n": 0}, "n", "give at least 1"),
    ({"n": 4, "best_of": 2}, "best_of", "n is 4"),
    ({"best_of": 2, "stream": True}, "best_of", "leave it out with stream"),
    ({"max_tokens": 0}, "max_tokens", "only for echo"),
    ({"max_tokens": 4097}, "max_tokens", "4,097 tokens together"),
    ({"max_tokens": 50, "n": 100}, "max_tokens", "5,000 tokens together"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream true"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options", "or give false"),
    ({"suffix": "."}, "suffix", "cannot write before another text"),
    ({"prompt": []}, "prompt", "the list is empty"),
    ({"prompt": [[]]}, "prompt", "has no tokens"),
    ({"prompt": [1, "a"]}, "prompt", "a list of token ids, or a list of such lists"),
    ({"prompt": [[1], "a"]}, "prompt", "a list of token ids, or a list of such lists"),
    ({"prompt": [True]}, "prompt", "a list of token ids, or a list of such lists"),
    ({"prompt": None}, "prompt", "should be a text"),
    ({"prompt": [1, 9999]}, "", "the token 9999"),
    ({"prompt": [1, -1]}, "", "the token -1"),
    ({"seed": 1.5}, "seed", "whole number"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"suffixes": ["."]}, "suffixes", "no such field"),
    ({"logprobs": 21}, "logprobs", "give at most 20"),
    ({"model": "glm", "echo": True, "logprobs": 1}, "logprobs", "does not read prompts from left to right"),
    ({"model": "glm", "prompt": "[MASK] [MASK]"}, "", "has 2 blanks"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_field_that_does_not_suit_is_named(server: Server, fields: dict[str, Any], param: str, sentence: str) -> None:
    status, error = server.refused("completions", **{"prompt": "the cat", **fields})
    assert status in (400, 422) and sentence in error["message"]
    assert (error["param"] or "").startswith(param)


def test_fields_with_their_neutral_values_are_accepted(server: Server) -> None:
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "user": "u", "metadata": {"a": "b"},
        "service_tier": "auto", "suffix": None, "best_of": 1, "stream": False, "stop": None, "logprobs": None,
    }  # fmt: skip
    plain = {"prompt": "the cat", "max_tokens": 5, "seed": 1}
    assert texts(server.post("completions", **plain, **neutral)) == texts(server.post("completions", **plain))


def test_limits_refuse_a_request_before_any_work() -> None:
    with in_process({"gpt": MODEL, "words": writer("glm")}, max_texts=2, max_tokens=30, max_new_tokens=10) as server:
        status, error = server.refused("completions", prompt=["a", "b", "c"])
        assert status == 413 and error["code"] == "request_too_large"
        status, error = server.refused("completions", prompt="one two " * 20, max_tokens=1)
        assert status == 413 and "a request may have 30" in error["message"]
        status, error = server.refused("completions", prompt=["a", "b"], max_tokens=6)
        assert status == 422 and "12 tokens together" in error["message"]
        assert not server.state.models._models["gpt"].engine.steppers
        status, error = server.refused("completions", model="words", prompt="xyzzy plugh", max_tokens=1)
        assert status == 400 and "unknown to the tokenizer" in error["message"]
        server.post("completions", model="words", prompt="xyzzy plugh", max_tokens=1, allow_unknown=True)


def test_a_prompt_that_is_read_at_once_has_a_limit() -> None:
    with in_process({"t5": writer("t5", sharp=2)}, batch_tokens=30) as server:
        prompt = "the cat sat on the mat " * 8
        status, error = server.refused("completions", prompt=prompt, max_tokens=3)
        assert (status, error["code"]) == (422, "context_length_exceeded") and "reads 30 at once" in error["message"]
        made = server.post("completions", prompt=prompt, max_tokens=3, truncate=True)
        assert made["usage"]["prompt_tokens"] <= 30 and made["choices"][0]["truncated"] is True
        messages = [{"role": "user", "content": prompt}]
        status, error = server.refused("chat/completions", messages=messages, allow_unknown=True)
        assert (status, error["code"]) == (422, "context_length_exceeded")


def test_a_row_that_has_used_every_token_harms_no_other(server: Server) -> None:
    made = server.post("completions", model="t5", prompt="the cat", n=2, max_tokens=60, no_repeat_ngram=1, seed=1)
    assert len(made["choices"]) == 2


def test_an_encoder_does_not_write() -> None:
    with in_process({"bert": writer("bert")}) as server:
        status, error = server.refused("completions", model="bert", prompt="the cat")
        assert status == 400 and "cannot complete" in error["message"]
        with pytest.raises(UserError):
            server.state.models._models["bert"].model.generate("the cat")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("completions", '{"prompt": "the \\ud83d cat", "echo": true, "max_tokens": 1}', "prompt"),
        ("completions", '{"prompt": "the cat", "stop": ["a", "\\udc00"]}', "stop"),
        ("chat/completions", '{"messages": [{"role": "user", "content": "the \\ud83d"}]}', "messages"),
        ("inspect", '{"input": "the \\ud83d cat", "use": "complete"}', "input"),
    ],
)
def test_half_of_a_surrogate_pair_is_a_mistake(server: Server, path: str, body: str, field: str) -> None:
    answer = server.client.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(f"body: {field} has half of a surrogate pair")


def test_the_likeliest_tokens_of_prompts_are_within_the_limit_of_tokens() -> None:
    """Each token of each answer has them in memory."""
    with in_process({"gpt": MODEL}, max_tokens=100) as server:
        body: dict[str, Any] = {"prompt": "the cat", "echo": True, "logprobs": 20, "max_tokens": 0}
        tokens = len(BYTES.encode("the cat")) * 21
        assert tokens <= 100 < 2 * tokens
        server.post("completions", **body)
        status, error = server.refused("completions", **body, n=2)
        assert status == 413 and f"{2 * tokens} tokens" in error["message"]
