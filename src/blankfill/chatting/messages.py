"""Messages of a conversation, as OpenAI's files and transformers' chat templates have them.

A conversation is a list of messages: at most one of the system, at its beginning, then those of the user and of the
assistant by turns. Here are the checks that every reader shares. Not here: the forms of data sets (`tasks`), and how a
conversation becomes the text that a model reads (`templates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from blankfill.errors import UserError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
"""The roles of messages."""


@dataclass(frozen=True)
class Message:
    """One message. role: who speaks: system, user or assistant. content: the text."""

    role: Role
    content: str

    def to_json(self) -> dict[str, str]:
        """Return the message as plain values for `json.dumps`."""
        return {"role": self.role, "content": self.content}


def system(content: str) -> Message:
    """Make a message of the system: an instruction for the whole conversation."""
    return Message("system", content)


def user(content: str) -> Message:
    """Make a message of the user."""
    return Message("user", content)


def assistant(content: str) -> Message:
    """Make a message of the assistant: an answer of the model."""
    return Message("assistant", content)


def messages_of(values: object, where: str = "the messages") -> list[Message]:
    """Read messages from plain values.

    Args:
        values: A list of messages, or of mappings with `role` and `content`; an object with such a list under
            `messages` will do. A content may be a list of parts with `text`, which are joined.
        where: The place of the values, for sentences, such as a file and a line.

    Returns:
        The messages, in order; `check` says whether they make a conversation.

    Raises:
        UserError: A value has another form, or a role is unknown.
    """
    if isinstance(values, Mapping) and "messages" in values:
        values = values["messages"]
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise UserError(f'{where}: not a list of messages; write [{{"role": "user", "content": "…"}}, …]')
    return [_message(value, f"{where}, message {number}") for number, value in enumerate(values, 1)]


def _message(value: Any, where: str) -> Message:
    if isinstance(value, Message):
        value = value.to_json()
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is not an object with role and content")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        has = "no role" if role is None else f"the role {str(role)[:40]!r}"
        raise UserError(f"{where} has {has}; the roles are {', '.join(ROLES)}")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"{where} has a part without text; only text can be read")
        content = "".join(cast(list[str], parts))
    if not isinstance(content, str):
        raise UserError(f"{where} has no content; give its text")
    return Message(cast(Role, role), content)


def check(messages: Sequence[Message], where: str = "the messages", answered: bool = False) -> None:
    """Raise UserError unless messages make a conversation.

    answered: whether the last message must be an answer of the assistant, as in training; otherwise it must be one of
    the user, which the model is to answer.
    """
    spoken = [*messages]
    if not spoken:
        raise UserError(f"{where}: there is no message; give at least one of the user")
    begin = 1 if spoken[0].role == "system" else 0
    for number, message in enumerate(spoken, 1):
        if message.role != "system" and not message.content.strip():
            what = "answer" if message.role == "assistant" else "message of the user"
            raise UserError(f"{where}, message {number}: the {what} is empty; give its text, or leave the round out")
    for index in range(begin, len(spoken)):
        role, wanted = spoken[index].role, ROLES[1 + (index - begin) % 2]
        if role == "system":
            raise UserError(f"{where}, message {index + 1}: a message of the system must be the first one")
        if role != wanted:
            before = f"follows one of the {spoken[index - 1].role}" if index > begin else "begins the conversation"
            raise UserError(
                f"{where}, message {index + 1}: a message of the {role} {before}; a conversation begins with the user, "
                "and user and assistant take turns"
            )
    last = "assistant" if answered else "user"
    if spoken[-1].role != last:
        what = "an answer of the assistant" if answered else "a message of the user, which is to be answered"
        raise UserError(f"{where}: the last message is of the {spoken[-1].role}; it must be {what}")
