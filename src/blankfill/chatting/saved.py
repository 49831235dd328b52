"""Conversations in files, as OpenAI's files have them: `{"messages": [{"role": "user", "content": "…"}, …]}`.

A file is one such object, a list of them, a list of messages, or JSON Lines with an object or a list of messages on
each line. What is written is one object on one line, so that it is JSON and JSON Lines, and `blankfill finetune --task
chat` learns from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blankfill.chatting.messages import Message, messages_of
from blankfill.errors import UserError
from blankfill.system.files import write_file
from blankfill.system.reading import parse_json, read_text


def read_dialogues(path: Path) -> list[tuple[str, list[Message]]]:
    """Return the conversations of a file, each with its place. Raises UserError for a file of another form, for an
    unknown role, and for a file without any."""
    dialogues = [(where, messages_of(value, where)) for where, value in _values(path)]
    if not dialogues:
        raise UserError(f'{path}: there is no conversation; give {{"messages": [{{"role": …, "content": …}}]}}')
    return dialogues


def write_dialogue(path: Path, messages: Sequence[Message]) -> None:
    """Write a conversation to a file."""
    value = {"messages": [message.to_json() for message in messages]}
    write_file(path, json.dumps(value, ensure_ascii=False) + "\n", "give another file")


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of each conversation."""
    text = read_text(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and (path.suffix.lower() == ".jsonl" or _is_json(lines[0][1])):
        for number, line in lines:
            yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}", object)
        return
    if not lines:
        return
    value = parse_json(text, path, object)
    if isinstance(value, list) and not _is_messages(value):
        for number, dialogue in enumerate(value, 1):
            yield f"{path}, conversation {number}", dialogue
    else:
        yield str(path), value


def _is_json(line: str) -> bool:
    """Return whether a line is a whole value of JSON, as the first line of JSON Lines is."""
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _is_messages(value: Sequence[Any]) -> bool:
    """Return whether a list is a conversation, and not a list of conversations."""
    return all(isinstance(entry, Mapping) and "messages" not in entry for entry in value) and bool(value)
