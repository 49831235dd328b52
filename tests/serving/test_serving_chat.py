"""Chat completions: pretrained and fine-tuned models, streams, and every field that is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from serving_writers import Server, in_process, listening, texts, writer

from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.run import finetune
from blankfill.tasks.options import FinetuneOptions
from small_tasks import write_lines, writing_model

QUESTION: list[Any] = [{"role": "user", "content": "the cat sat on the mat"}]
TALK: list[Any] = [
    {"role": "system", "content": "the dog ran"}, *QUESTION, {"role": "assistant", "content": "a dog"},
    {"role": "user", "content": "on the mat"},
]  # fmt: skip
MODELS = {"gpt": writer(), "glm": writer("glm"), "t5": writer("t5", sharp=2), "bart": writer("bart")}
NO_END = {str(MODELS["gpt"].loaded.vocabulary["eos"]): -100}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with listening(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(server: Server, **body: Any) -> Any:
    return server.post("chat/completions", **{"messages": QUESTION, "max_tokens": 12, **body})


def streamed(server: Server, **body: Any) -> list[Any]:
    answer = server.client.post("/v1/chat/completions", json={"messages": QUESTION, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    *lines, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("name", [*MODELS])
def test_answers_are_those_of_the_library(server: Server, name: str) -> None:
    model = MODELS[name]
    for messages, options in ((QUESTION, {"seed": 3}), (TALK, {"temperature": 0.0, "top_k": 9}), (TALK, {"seed": 4})):
        expected = model.chat(messages, max_new_tokens=12, **options)
        made = asked(server, model=name, messages=messages, **options)
        (choice,) = made["choices"]
        assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
        assert choice["finish_reason"] == ("stop" if expected.finish == "end" else "length")
        assert made["usage"]["prompt_tokens"] == expected.prompt_tokens
        assert made["usage"]["completion_tokens"] == expected.tokens
    several = asked(server, model=name, n=3, seed=5)
    expected_texts = [model.chat(QUESTION, max_new_tokens=12, seed=5, number=k).text for k in range(3)]
    assert texts(several) == expected_texts


def test_the_client_of_openai_chats(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "gpt", "seed": 11, "max_completion_tokens": 30, "logit_bias": NO_END}
    made = client.chat.completions.create(messages=TALK, **options)
    assert made.id.startswith("chatcmpl-") and made.object == "chat.completion" and made.model == "gpt"
    (choice,) = made.choices
    assert choice.message.role == "assistant" and choice.message.content
    stream = client.chat.completions.create(
        messages=TALK, stream=True, stream_options={"include_usage": True}, **options
    )
    first, *middle, last = stream
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content == ""
    assert {chunk.object for chunk in (first, *middle, last)} == {"chat.completion.chunk"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == choice.message.content
    assert middle[-1].choices[0].finish_reason == choice.finish_reason
    assert last.choices == [] and last.usage == made.usage
    # the answer can be sent back as the client has it
    back = [*TALK, choice.message.model_dump(), {"role": "user", "content": "a dog"}]
    assert client.chat.completions.create(messages=back, **options).choices


def test_a_content_may_be_a_list_of_texts(server: Server) -> None:
    parts = [{"type": "text", "text": "the cat sat"}, {"type": "text", "text": " on the mat"}]
    made = asked(server, messages=[{"role": "user", "content": parts}], seed=1)
    assert texts(made) == texts(asked(server, seed=1))


def test_a_stop_ends_the_answer_just_before_it(server: Server) -> None:
    options: dict[str, Any] = {"seed": 8, "max_tokens": 60, "logit_bias": NO_END}
    (whole,) = texts(asked(server, **options))
    assert len(whole) > 30
    stop = whole[12:14]
    (choice,) = asked(server, stop=stop, **options)["choices"]
    expected = whole[: whole.index(stop)].strip()
    assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
    events = streamed(server, stop=[stop], **options)
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(pieces) == expected and events[-1]["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_stand_beside_the_tokens(server: Server) -> None:
    options: dict[str, Any] = {"model": "glm", "seed": 8, "max_tokens": 9, "logprobs": True}
    (choice,) = asked(server, top_logprobs=2, **options)["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).strip() == choice["message"]["content"]
    for token in tokens:
        assert token["logprob"] <= 0 and bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] >= token["top_logprobs"][1]["logprob"]
    plain = asked(server, **options)["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in plain] == [[]] * len(plain)
    events = streamed(server, **options)
    assert [token for event in events for token in event["choices"][0]["logprobs"]["content"]] == plain


def test_the_template_is_that_of_the_model_or_a_built_in_one(server: Server) -> None:
    for template in ("plain-zh", "bare", "chatglm"):
        expected = MODELS["glm"].chat(QUESTION, template=template, max_new_tokens=12, seed=2, allow_unknown=True)
        made = asked(server, model="glm", template=template, seed=2, allow_unknown=True)
        assert texts(made) == [expected.text]


def test_rounds_are_left_out_only_where_the_request_says_so(server: Server) -> None:
    rounds = [{"role": "user", "content": "the cat sat on the mat"}, {"role": "assistant", "content": "a dog ran"}]
    long = [*rounds * 60, *QUESTION]
    status, error = server.refused("chat/completions", messages=long, max_tokens=5)
    assert (status, error["code"], error["param"]) == (422, "context_length_exceeded", "messages")
    assert "at most 512" in error["message"] and "truncate" in error["message"]
    made = asked(server, messages=long, truncate=True, seed=1)
    expected = MODELS["gpt"].chat(long, max_new_tokens=12, seed=1)
    assert expected.dropped and texts(made) == [expected.text] and made["choices"][0]["truncated"] is True
    assert streamed(server, messages=long, truncate=True, max_tokens=3)[-1]["choices"][0]["truncated"] is True
    single = [{"role": "user", "content": "the cat sat on the mat " * 200}]
    status, error = server.refused("chat/completions", messages=single, truncate=True)
    assert status == 422 and "does not fit into the model" in error["message"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "give at least 1"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "begins"),
    ({"messages": [*QUESTION, *QUESTION]}, "messages", "take turns"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'system', 'user' or 'assistant'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0", "'text'"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name", "leave the field out"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "give a text"),
    ({"messages": [{"role": "user", "content": "a", "weight": 1}]}, "messages.0.weight", "no such field"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differs from"),
    ({"top_logprobs": 2}, "top_logprobs", "only with logprobs true"),
    ({"template": "/etc/passwd"}, "template", "no built-in chat template"),
    ({"response_format": {"type": "json_object"}}, "response_format", "{'type': 'text'}"),
    ({"tools": [{"type": "function"}]}, "tools", "or give []"),
    ({"tool_choice": "required"}, "tool_choice", "not supported"),
    ({"store": True}, "store", "or give false"),
    ({"modalities": ["audio"]}, "modalities", "not supported"),
    ({"max_tokens": 0}, "max_tokens", "give at least 1"),
    ({"max_tokens": 4097}, "max_tokens", "4,097 tokens together"),
    ({"stop": ["", "a"]}, "stop", "1 to 1,000 characters"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "no token 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_field_that_does_not_suit_is_named(server: Server, fields: dict[str, Any], param: str, sentence: str) -> None:
    status, error = server.refused("chat/completions", **{"messages": QUESTION, **fields})
    assert status in (400, 422) and sentence in error["message"]
    assert error["param"].startswith(param)


def test_fields_with_their_neutral_values_are_accepted(server: Server) -> None:
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "user": "u", "metadata": {"a": "b"},
        "store": False, "service_tier": "auto", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "response_format": {"type": "text"}, "modalities": ["text"], "n": 1, "stop": None, "stream": False,
        "logprobs": False, "functions": [], "prediction": None,
    }  # fmt: skip
    assert texts(asked(server, seed=1, **neutral)) == texts(asked(server, seed=1))


def test_the_server_limits_an_answer_without_a_limit() -> None:
    with in_process({"gpt": MODELS["gpt"]}, max_new_tokens=7) as server:
        made = server.post("chat/completions", messages=QUESTION, n=2, logit_bias=NO_END)
        assert made["usage"]["completion_tokens"] == 6  # 7 for two answers


def dialogues() -> list[dict[str, Any]]:
    """Two words are answered the other way round."""
    words = ["red", "big", "cat", "dog", "mat"]
    return [
        {"messages": [{"role": "user", "content": f"{a} {b}"}, {"role": "assistant", "content": f"{b} {a}"}]}
        for a in words for b in words
    ]  # fmt: skip


def test_a_fine_tuned_model_chats_as_it_has_learnt(tmp_path: Path) -> None:
    data, model, out = tmp_path / "data", writing_model(tmp_path, "glm"), tmp_path / "run"
    for split in ("train", "dev"):
        write_lines(data / f"{split}.jsonl", dialogues())
    options = FinetuneOptions(
        allow_unknown=True, lr=5e-3, batch_size=16, epochs=1, threads=1, precision="fp32", device="cpu", max_length=40,
        max_target_length=6, eval_every=1000, weight_decay=0.0,
    )  # fmt: skip
    finetune(FinetuneConfig("chat", data, model, dataclasses.replace(options)), out)
    with in_process({"tuned": out}) as server:
        (described,) = server.client.get("/v1/models").json()["data"]
        assert "chat" in described["abilities"] and "complete" not in described["abilities"]
        messages = [{"role": "user", "content": "red cat"}]
        made = server.post("chat/completions", messages=messages, temperature=0, n=2)
        expected = server.state.models._models["tuned"].model.chat(messages, temperature=0.0)
        assert texts(made) == [expected.text] * 2 and expected.text
        status, error = server.refused("completions", prompt="red cat", model="tuned")
        assert status == 400 and "cannot complete" in error["message"]
