"""Messages: which values are read, and which make a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from blankfill.chatting.messages import Message, assistant, check, messages_of, system, user
from blankfill.errors import UserError


def test_reads_openai_messages() -> None:
    values = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hello", "weight": 0},
    ]
    expected = [system("Be kind."), user("Hi there"), assistant("Hello")]
    assert messages_of(values) == expected
    assert messages_of({"messages": values}) == expected
    assert messages_of(expected) == expected
    assert [Message(**message.to_json()) for message in expected] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("hello", 'f.json: not a list of messages; write [{"role": "user", "content": "…"}, …]'),
        ({"role": "user", "content": "x"}, "f.json: not a list of messages"),
        ([1], "f.json, message 1 is not an object with role and content"),
        (
            [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}],
            "f.json, message 2 has the role 'tool'; the roles are system, user, assistant",
        ),
        ([{"content": "x"}], "f.json, message 1 has no role"),
        ([{"role": ["user"], "content": "x"}], "f.json, message 1 has the role"),
        ([{"role": "user"}], "f.json, message 1 has no content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "f.json, message 1 has a part without text"),
    ],
)
def test_other_values_are_refused(values: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=r"^f\.json") as raised:
        messages_of(values, "f.json")
    assert str(raised.value).startswith(sentence)


def test_conversations() -> None:
    check([user("a")])
    check([system(""), user("a"), assistant("b"), user("c")])
    check([user("a"), assistant("b")], answered=True)


@pytest.mark.parametrize(
    ("messages", "answered", "sentence"),
    [
        ([], False, "the messages: there is no message"),
        ([system("a")], False, "the messages: the last message is of the system"),
        (
            [user("a"), assistant("b")],
            False,
            "the messages: the last message is of the assistant; it must be a message",
        ),
        ([user("a")], True, "the messages: the last message is of the user; it must be an answer of the assistant"),
        ([assistant("a")], True, "the messages, message 1: a message of the assistant begins the conversation"),
        (
            [user("a"), user("b")],
            False,
            "the messages, message 2: a message of the user follows one of the user; a conversation begins with",
        ),
        ([user("a"), system("b")], False, "the messages, message 2: a message of the system must be the first one"),
        ([user(" \n")], False, "the messages, message 1: the message of the user is empty"),
        ([user("a"), assistant("")], True, "the messages, message 2: the answer is empty"),
    ],
)
def test_what_is_no_conversation(messages: list[Message], answered: bool, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        check(messages, answered=answered)
    assert str(raised.value).startswith(sentence)
