"""A conversation in progress: what was said, and the commands by which its user changes it.

A line that begins with `/` is a command; `//` begins a message with a slash. An answer that the user interrupts stays
as far as it was written, so that the conversation can refer to it; `/undo` takes the round back. A round whose answer
is empty is taken back at once: it would show the model that nothing is an answer.

Not here: terminals (`cli.chat_terminal`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blankfill.chatting.engine import Answering, Chat, Reply
from blankfill.chatting.messages import Message, check, system, user
from blankfill.chatting.saved import read_dialogues, write_dialogue
from blankfill.errors import UserError
from blankfill.generation.cancel import CancelFlag

HELP: dict[str, str] = {
    "/clear": "forget the conversation, but not the message of the system",
    "/undo": "take the last question and its answer back",
    "/system [TEXT]": "set the message of the system, which the model reads first; without a text, remove it",
    "/save FILE": "write the conversation to a JSON file, from which finetune can learn",
    "/load FILE": "continue a conversation of such a file",
    "/help": "show this list",
    "/exit": "end; so does Ctrl-D",
}
"""The commands with their purposes."""


class EndedError(Exception):
    """The user ends the conversation."""


class Session:
    """A conversation with a model."""

    def __init__(self, chat: Chat, system_text: str = "") -> None:
        """system_text: the message of the system; "" for none."""
        self.chat, self.system_text = chat, system_text
        self.spoken: list[Message] = []
        """The messages of user and assistant."""
        self.answers = 0
        """Number of answers so far, taken back or not; each is another draw of the seed."""
        self.dropped = 0
        """Number of the oldest rounds that the last prompt left out."""
        self._files: set[Path] = set()

    @property
    def messages(self) -> list[Message]:
        """The conversation, with the message of the system."""
        return [*([system(self.system_text)] if self.system_text else []), *self.spoken]

    def ask(self, text: str, cancel: CancelFlag | None = None) -> Answering:
        """Return the answer to a message, to be iterated and then kept by `keep`. Raises UserError for a message that
        cannot be answered."""
        answering = self.chat.answer([*self.messages, user(text)], cancel, self.answers)
        self.answers += 1
        return answering

    def keep(self, answering: Answering) -> Reply:
        """Add the round of an answer to the conversation, unless it is empty; returns the answer."""
        reply = answering.reply
        if reply.text:
            self.spoken += reply.messages[-2:]
        return reply

    def left_out(self, answering: Answering) -> str:
        """Return a sentence about the rounds that do not fit into the prompt of an answer, when their number has
        changed; "" otherwise."""
        dropped, before = answering.prompt.dropped, self.dropped
        self.dropped = dropped
        if not dropped or dropped == before:
            return ""
        rounds = "oldest round is" if dropped == 1 else f"{dropped} oldest rounds are"
        return f"(the conversation is longer than the model's context: its {rounds} not read any more)"

    def command(self, line: str) -> str:
        """Carry out a command; returns what to print. Raises UserError for an unknown one, EndedError for the end."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        known: dict[str, tuple[Callable[[str], str], bool]] = {
            "/clear": (self._clear, False), "/undo": (self._undo, False), "/system": (self._system, True),
            "/save": (self._save, True), "/load": (self._load, True), "/help": (_help, False), "/exit": (_exit, False),
        }  # fmt: skip
        if name not in known:
            raise UserError(
                f"there is no command {name[:40]}; /help lists them, and // begins a message that starts with a slash"
            )
        method, takes_text = known[name]
        if rest and not takes_text:
            raise UserError(f"{name} takes no text; leave out {rest[:40]!r}")
        return method(rest)

    def _clear(self, _: str) -> str:
        rounds = len(self.spoken) // 2
        self.spoken, self.dropped = [], 0
        return f"cleared: {_counted(rounds)}"

    def _undo(self, _: str) -> str:
        if not self.spoken:
            return "there is no round to take back"
        question = " ".join(self.spoken[-2].content.split())
        del self.spoken[-2:]
        return f"taken back: {question if len(question) <= 60 else f'{question[:59]}…'}"

    def _system(self, text: str) -> str:
        removed = bool(self.system_text) and not text
        self.system_text = text
        if text:
            return "the message of the system is set"
        return "the message of the system is removed" if removed else "there is no message of the system"

    def _save(self, name: str) -> str:
        if not name:
            raise UserError("/save needs the name of a file, such as /save talk.json")
        if not self.spoken:
            raise UserError("there is nothing to save yet")
        path = _path_of(name)
        if path.exists() and path.resolve() not in self._files:
            raise UserError(f"{name} exists; give another name")
        write_dialogue(path, self.messages)
        self._files.add(path.resolve())
        return f"saved: {_counted(len(self.spoken) // 2)} in {name}"

    def _load(self, name: str) -> str:
        if not name:
            raise UserError("/load needs the name of a file, such as /load talk.json")
        path = _path_of(name)
        dialogues = read_dialogues(path)
        if len(dialogues) > 1:
            raise UserError(f"{name} has {len(dialogues)} conversations; give a file with one")
        where, messages = dialogues[0]
        open_question = messages[-1:] if messages and messages[-1].role == "user" else []
        rounds = messages[: len(messages) - len(open_question)]
        if rounds and rounds[-1].role != "system":
            check(rounds, where, answered=True)
        self.system_text = rounds[0].content if rounds and rounds[0].role == "system" else ""
        self.spoken = [message for message in rounds if message.role != "system"]
        self.dropped = 0
        self._files.add(path.resolve())
        note = "; its last message has no answer and is left out" if open_question else ""
        return f"loaded: {_counted(len(self.spoken) // 2)}{note}"


def is_command(line: str) -> bool:
    """Return whether a line is a command."""
    return line.lstrip().startswith("/") and not line.lstrip().startswith("//")


def message_in(line: str) -> str:
    """Return the message of a line that is no command: without the first of two slashes, and white space around."""
    text = line.strip()
    return text[1:] if text.startswith("//") else text


def _path_of(name: str) -> Path:
    """Return the path that a user types; no shell has replaced `~`."""
    with suppress(RuntimeError):  # there is no home folder
        return Path(name).expanduser()
    return Path(name)


def _counted(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _help(_: str) -> str:
    return "\n".join(f"{usage}: {purpose}" for usage, purpose in HELP.items())


def _exit(_: str) -> str:
    raise EndedError
