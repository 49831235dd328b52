"""A conversation in a terminal: reading messages line by line, and printing answers while they are written.

Editing and the history of lines are the terminal's own where Python has readline. Ctrl-C ends an answer, which stays in
the conversation as far as it was written; a second Ctrl-C does not wait for the token in progress.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from blankfill.errors import UserError
from blankfill.system.console import complain, is_styled, say, show, visible, worded
from blankfill.system.stopping import Terminated

if TYPE_CHECKING:
    from blankfill.chatting.engine import Answering
    from blankfill.chatting.session import Session

FIRST, NEXT = "> ", ". "
"""Prompts of the first line of a message, and of its further lines."""
QUOTES = '"""'
"""A line of these begins and ends a message of several lines."""


class Reader:
    """Reads messages of one or several lines. line: returns the next line for a prompt; EOFError at the end."""

    def __init__(self, line: Callable[[str], str]) -> None:
        self._line = line

    def read(self) -> str | None:
        """Return the next message that is not empty; None at the end."""
        while True:
            try:
                text = self._message()
            except EOFError:
                return None
            if text.strip():
                return text

    def _message(self) -> str:
        line = self._line(FIRST)
        if line.strip() == QUOTES:
            return "\n".join(self._until_quotes())
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._line(NEXT))
            except EOFError:
                break
        return "\n".join(lines)

    def _until_quotes(self) -> Iterator[str]:
        with suppress(EOFError):
            while (line := self._line(NEXT)).strip() != QUOTES:
                yield line


def is_interactive() -> bool:
    """Return whether a person is at both ends: standard input and standard output are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def converse(session: Session) -> None:
    """Hold a conversation in the terminal until its user ends it."""
    from blankfill.chatting.session import EndedError, is_command, message_in

    chat = session.chat
    template = chat.template.name or chat.template.where
    say(f"{chat.speaker.path}: template {template}; /help lists the commands, Ctrl-D ends the conversation")
    reader = Reader(_line_reader())
    while True:
        try:
            text = reader.read()
            if text is None:
                show("")
                return
            if is_command(text) and "\n" not in text:
                show(_carried_out(session, text))
            else:
                _answer(session, message_in(text))
        except EndedError:
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            show("")
            say("Ctrl-D or /exit ends the conversation")
        except UnicodeDecodeError as error:
            complain(f"the line cannot be read as {error.encoding}: byte {error.start + 1}; type it again")
        except UserError as error:
            complain(worded(error.template))


def _carried_out(session: Session, line: str) -> str:
    """Carry out a command; returns what to print. The help is laid out for the terminal's width."""
    from blankfill.chatting.session import HELP
    from blankfill.cli.layout import columns, group

    if line.strip() != "/help":
        return session.command(line)
    return group("", [((usage,), purpose) for usage, purpose in HELP.items()], columns(), 20)


def _answer(session: Session, text: str) -> None:
    """Print the answer to a message while it is written, and add the round to the conversation."""
    flag = threading.Event()
    with _interrupts(flag):
        answering = session.ask(text, flag)
        if sentence := session.left_out(answering):
            say(sentence)
        stopped = _print(answering)
    reply = session.keep(answering)
    if not reply.text:
        say("(the answer is empty; the question is taken back)")
    elif stopped or reply.finish == "cancelled":
        say("(interrupted; what was written stays in the conversation, /undo takes the round back)")
    elif reply.finish in ("length", "positions"):
        why = "the model's context is full" if reply.finish == "positions" else f"{reply.tokens} tokens"
        say(f"(the answer ends here: {why})")


def _print(answering: Answering) -> bool:
    """Print the pieces of an answer; returns whether it was interrupted without waiting for the end of a token."""
    try:
        for piece in answering:
            show(piece, end="")
    except Terminated:
        raise
    except KeyboardInterrupt:
        return True
    finally:
        show("")
    return False


@contextmanager
def _interrupts(flag: threading.Event) -> Iterator[None]:
    """Set a flag at the first Ctrl-C in the block, and raise KeyboardInterrupt at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _line_reader() -> Callable[[str], str]:
    """Return `input`, with editing and a history of lines where Python has readline, and a bold prompt where the
    terminal has styles."""
    try:
        import readline
    except ImportError:
        return input
    readline.set_history_length(1000)
    if not is_styled(sys.stdout):
        return input
    return lambda prompt: input(f"\001\x1b[1m\002{visible(prompt)}\001\x1b[0m\002")
