"""Dialogues in the usual forms of data sets, as messages of the system, the user and the assistant.

A row of a file is one of these:

* a list of messages with a role and a content each: OpenAI's `messages`, ShareGPT's `conversations` (`from`, `value`),
  SGD's `turns` (`speaker`, `utterance`), or any columns that are named; without roles, user and assistant take turns,
  as in KdConv;
* a prompt and its answer: ChatGLM's `content` and `summary`, or `prompt`, `response` and `history`; Alpaca's
  `instruction`, `input` and `output`;
* an instruction with its `instances` (self-instruct);
* MT-bench's `turns`, messages of the user alone.

A call of a tool is what the assistant writes, and its result what it reads: they become messages of the assistant and
of the user; the description of the tools belongs to the message of the system. Not here: files and the rows that are
left out (`chat`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blankfill.chatting.messages import Message, Role
from blankfill.corpus.tables.columns import MISSING, cell_at, kind_of
from blankfill.errors import UserError, setting
from blankfill.tasks.datasets.files import UnusableError
from blankfill.tasks.datasets.task_table import is_empty

Row = Mapping[str, Any]

LISTS = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue")
ROLE_NAMES = ("role", "from", "speaker")
CONTENT_NAMES = ("content", "value", "utterance", "message", "text")
PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("content", "summary"), ("prompt", "response"),
    ("prompt", "completion"), ("question", "answer"), ("query", "response"), ("query", "answer"),
)  # fmt: skip
"""Names of the columns of a prompt and of its answer, together."""
PROMPTS = ("instruction", "prompt", "question", "query", "content")
"""Names of a prompt in a row without an answer."""
SPOKEN: Mapping[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "usr", "用户", "问"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "chatglm", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("助手", "答"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function", "tool_response"), "user"),
}  # fmt: skip
"""Names of roles in data sets, in small letters → the role."""
CALLS = frozenset(("function_call", "tool_call"))
RESULTS = frozenset(("observation", "tool", "function", "tool_response"))
LABELLED_BY = ("loss_weight", "weight", "train")
"""Names of the field of a message that says whether it is learnt from."""

EMPTY_ANSWER = "has an empty answer"
EMPTY_MESSAGE = "has an empty message of the user"
TWO_USERS = "has two messages of the user in a row, so the first has no answer"
TWO_ANSWERS = "has two answers in a row"
BEGINS = "begins with an answer, to which there is no message of the user"
LATE_SYSTEM = "has a message of the system that is not the first one"
NO_MESSAGE = "has no message of the user"
WITHOUT_QUESTIONS = "has answers without the messages that they answer"


@dataclass
class Dialogue:
    """A dialogue as it is read. unasked: indices of answers that nothing is learnt from. later: as in `ChatItem`."""

    messages: list[Message]
    unasked: list[int] = field(default_factory=list)
    later: tuple[str, ...] = ()


@dataclass
class Reading:
    """Reads the rows of one file. roles: the names of columns that the user gives, by role. decided: how often
    something was decided about messages, by what it was. chosen: the columns that were read, by role."""

    roles: Mapping[str, Sequence[str]]
    decided: Counter[str] = field(default_factory=Counter)
    chosen: dict[str, str] = field(default_factory=dict)

    def dialogues(self, row: Row, where: str) -> Iterator[Dialogue]:
        """Yield the dialogues of a row. where: its place, for sentences.

        Raises UnusableError for a row that is to be left out, UserError for one of a form that is not known.
        """
        for dialogue in self._of_row(row, where):
            dialogue.messages = self._with_tools(row, dialogue.messages, where)
            if fault := fault_of(dialogue.messages):
                raise UnusableError(fault)
            yield dialogue

    def _of_row(self, row: Row, where: str) -> Iterator[Dialogue]:
        name = self._list_in(row)
        if name:
            self.chosen.setdefault("messages", name)
            yield self._from_list(_parsed(cell_at(row, name)), name, where)
        elif isinstance(row.get("instances"), list) and "instruction" in row and "prompt" not in self.roles:
            self.chosen.setdefault("prompt", "instruction")
            for instance in row["instances"]:
                if not isinstance(instance, Mapping):
                    raise UserError(f"{where} has an instance that is no object; each has input and output")
                yield self._from_pair({**row, **instance}, ("instruction", "output"), where)
        else:
            if "prompt" not in self.roles and str(row.get("role")).lower() in SPOKEN:
                raise UserError(
                    f'{where} is one message of a dialogue; write {{"messages": [...]}} around the messages of each '
                    "dialogue"
                )
            yield self._from_pair(row, self._pair_in(row, where), where)

    # lists of messages

    def _list_in(self, row: Row) -> str:
        given = self.roles.get("messages")
        if given:
            return given[0]
        if "prompt" in self.roles or "response" in self.roles:
            return ""
        return next((name for name in LISTS if isinstance(_parsed(row.get(name)), list)), "")

    def _from_list(self, entries: Any, name: str, where: str) -> Dialogue:
        if entries is MISSING or is_empty(entries):
            raise UnusableError(f"has no messages in {name!r}")
        if not isinstance(entries, list):
            raise UserError(f"{where} has {kind_of(entries)} in {name!r} where a list of messages is wanted")
        if all(isinstance(entry, str) for entry in entries):
            if name == "turns":  # MT-bench: the user's alone
                return Dialogue([Message("user", entries[0].strip())], later=tuple(map(str.strip, entries[1:])))
            return Dialogue([Message(_by_turns(k), entry.strip()) for k, entry in enumerate(entries)])
        said = [self._said(entry, f"{where}, message {number}") for number, entry in enumerate(entries, 1)]
        nameless = sum(role is None for role, _, _ in said)
        if 0 < nameless < len(said):
            first = next(number for number, (role, _, _) in enumerate(said, 1) if role is None)
            raise UserError(f"{where}, message {first} has no role, and others have one; give each its role")
        messages = [Message(role or _by_turns(k), text) for k, (role, text, _) in enumerate(said)]
        unasked = [
            k for k, (message, (_, _, weight)) in enumerate(zip(messages, said, strict=True))
            if message.role == "assistant" and weight == 0
        ]  # fmt: skip
        self.decided["unasked"] += len(unasked)
        self.decided["by turns"] += nameless > 0
        return Dialogue(messages, unasked)

    def _said(self, entry: Any, where: str) -> tuple[Role | None, str, float]:
        """Return role (None without one), text and weight of a message."""
        if not isinstance(entry, Mapping):
            raise UserError(f"{where} is {kind_of(entry)}, not an object with a role and a content")
        name = _first(entry, self.roles.get("role", ROLE_NAMES))
        weight = self._weight(entry, where)
        if name is None:
            return None, self._content(entry, where), weight
        spoken = str(entry[name]).strip()
        role = SPOKEN.get(spoken.lower())
        if name == "speaker" and spoken.lower() == "system":  # of a dialogue system
            role = "assistant"
        if role is None:
            raise UserError(
                f"{where} has the role {spoken[:40]!r}, which is not known; the roles are system, user and assistant, "
                "or their names human, gpt, function_call and observation"
            )
        self.decided["calls"] += spoken.lower() in CALLS
        self.decided["results"] += spoken.lower() in RESULTS
        return role, self._content(entry, where), weight

    def _content(self, entry: Row, where: str) -> str:
        name = _first(entry, self.roles.get("content", CONTENT_NAMES))
        content = None if name is None else entry[name]
        if calls := entry.get("tool_calls"):
            self.decided["calls"] += 1
            text = content.strip() + "\n" if isinstance(content, str) and content.strip() else ""
            return text + json.dumps(calls, ensure_ascii=False)
        if content is None:
            known = ", ".join(map(str, entry)) or "nothing"
            if name is None:
                raise UserError(f"{where} has no content, but {known}; name its field with {setting('columns')}")
            return ""
        return _text(content, where)

    def _weight(self, entry: Row, where: str) -> float:
        name = _first(entry, LABELLED_BY)
        if name is None or entry[name] is None:
            return 1.0
        weight = entry[name]
        if not isinstance(weight, int | float) or weight not in (0, 1):
            raise UserError(f"{where} has the {name} {str(weight)[:20]}; a message is learnt from (1) or not (0)")
        return float(weight)

    # prompts with their answers

    def _pair_in(self, row: Row, where: str) -> tuple[str, str]:
        """Return the columns of a prompt and of its answer; "" for a row without an answer."""
        prompt, answer = (next(iter(self.roles.get(role, ())), "") for role in ("prompt", "response"))
        lowered = {name.lower(): name for name in row if isinstance(name, str)}
        if not prompt:
            pairs = [pair for pair in PAIRS if pair[0] in lowered and (answer or pair[1] in lowered)]
            prompt = lowered[pairs[0][0]] if pairs else next((lowered[n] for n in PROMPTS if n in lowered), "")
            answer = answer or (lowered[pairs[0][1]] if pairs else "")
        elif not answer:
            answer = next((lowered[name] for _, name in PAIRS if name in lowered and lowered[name] != prompt), "")
        if not prompt and isinstance(row.get("choices"), list):
            raise UnusableError(WITHOUT_QUESTIONS)
        if not prompt:
            known = ", ".join(map(str, list(row)[:12])) or "nothing"
            raise UserError(
                f"{where} is no dialogue of a known form: it has {known}; wanted are messages, conversations, or a "
                f"prompt with its response, which {setting('columns', 'prompt=NAME response=NAME')} names"
            )
        return prompt, answer

    def _from_pair(self, row: Row, names: tuple[str, str], where: str) -> Dialogue:
        prompt, answer = names
        self.chosen.setdefault("prompt", prompt)
        if answer:
            self.chosen.setdefault("response", answer)
        question = self._cell(row, prompt, where)
        more = self._role_or(row, "input", ("input",) if prompt.lower() == "instruction" else ())
        if more and more != prompt and (beside := self._cell(row, more, where)):
            question = f"{question}\n{beside}" if question else beside
        messages: list[Message] = []
        before = self._role_or(row, "system", ("system", "system_prompt"))
        if before and (said := self._cell(row, before, where)):
            messages.append(Message("system", said))
        history = self._role_or(row, "history", ("history",))
        if history:
            messages += self._history(_parsed(cell_at(row, history)), history, where)
        messages.append(Message("user", question))
        written = cell_at(row, answer) if answer else MISSING
        if written is not MISSING and written is not None:
            messages.append(Message("assistant", _text(written, f"{where}, {answer!r}")))
        return Dialogue(messages)

    def _role_or(self, row: Row, role: str, usual: Sequence[str]) -> str:
        """Return the column of a role, given or usual; "" where the row has none."""
        given = self.roles.get(role)
        name = given[0] if given else next((name for name in usual if name in row), "")
        if name and not is_empty(cell_at(row, name) if cell_at(row, name) is not MISSING else None):
            self.chosen.setdefault(role, name)
            return name
        return ""

    def _cell(self, row: Row, name: str, where: str) -> str:
        value = cell_at(row, name)
        if value is MISSING:
            known = ", ".join(map(str, list(row)[:12]))
            raise UserError(f"{where} has no {name!r}; it has {known}: choose with {setting('columns')}")
        return "" if value is None else _text(value, f"{where}, {name!r}")

    def _history(self, rounds: Any, name: str, where: str) -> list[Message]:
        if isinstance(rounds, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in rounds):
            place = f"{where}, {name!r}"
            return [
                message
                for question, answer in rounds
                for message in (Message("user", _text(question, place)), Message("assistant", _text(answer, place)))
            ]
        if isinstance(rounds, list) and all(isinstance(entry, Mapping) for entry in rounds):
            return self._from_list(rounds, name, where).messages
        raise UserError(f"{where} has {kind_of(rounds)} in {name!r} where a list of [question, answer] is wanted")

    def _with_tools(self, row: Row, messages: list[Message], where: str) -> list[Message]:
        """Put a description of tools behind the message of the system."""
        tools = row.get("tools")
        if is_empty(tools) or tools == "[]" or not messages:
            return messages
        text = tools.strip() if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
        self.decided["tools"] += 1
        if messages[0].role == "system":
            return [Message("system", f"{messages[0].content}\n{text}"), *messages[1:]]
        return [Message("system", text), *messages]


def fault_of(messages: Sequence[Message]) -> str:
    """Return why messages make no dialogue, as in "has an empty answer"; "" where they do."""
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    if not spoken:
        return NO_MESSAGE
    if any(message.role == "system" for message in spoken):
        return LATE_SYSTEM
    if spoken[0].role == "assistant":
        return BEGINS
    for message, before in zip(spoken, (None, *spoken), strict=False):
        if before is not None and before.role == message.role:
            return TWO_ANSWERS if message.role == "assistant" else TWO_USERS
        if not message.content:
            return EMPTY_ANSWER if message.role == "assistant" else EMPTY_MESSAGE
    return ""


def _by_turns(number: int) -> Role:
    return "assistant" if number % 2 else "user"


def _first(entry: Row, names: Sequence[str]) -> str | None:
    """Return the first of some names that an object has."""
    return next((name for name in names if name in entry), None)


def _parsed(value: Any) -> Any:
    """Return a cell, parsed where it is the JSON text of a list, as a CSV file holds one."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _text(value: Any, where: str) -> str:
    """Return a text, or the joined text parts of a message. Raises UserError for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        texts = []
        for part in value:
            name = _first(part, ("text", "value", "content"))
            if part.get("type", "text") != "text" or name is None or not isinstance(part[name], str):
                kind = str(part.get("type", "no text"))[:40]
                raise UserError(f"{where} has a part of the type {kind!r}; a dialogue here is text alone")
            texts.append(part[name])
        return "".join(texts).strip()
    raise UserError(f"{where} has {kind_of(value)} where a text is wanted")
