"""`blankfill chat`: in a terminal, from standard input, and for a file of dialogues."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blankfill.chatting.session import Session
from blankfill.cli import chat_terminal
from blankfill.cli.chat_terminal import Reader
from blankfill.cli.main import main
from blankfill.generation.scheduler import Scheduler, Update
from blankfill.inference import load
from small_tasks import writing_model

SHORT = ["--max-new-tokens", "5", "--threads", "1", "--seed", "2", "--temperature", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(writing_model(tmp_path_factory.mktemp("chat"), "gpt"))


def piped(
    argv: list[str], text: str | bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    capsys.readouterr()
    code = main(["chat", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_each_line_of_standard_input_is_a_message_of_one_conversation(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = 'the cat sat\n\n/system play .\nred \\\nmat\n"""\nthe dog\nran\n"""\n/undo\n//big dog\n/exit\nnever\n'
    argv = ["--model", model, *SHORT]
    code, out, err = piped([*argv, "--json"], lines, monkeypatch, capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 4
    questions = [[message["content"] for message in row["messages"] if message["role"] == "user"][-1:] for row in rows]
    assert questions == [["the cat sat"], ["red \nmat"], ["the dog\nran"], ["/big dog"]]
    assert [row["messages"][0]["role"] for row in rows] == ["user", "system", "system", "system"]
    assert rows[3]["messages"][3]["content"] == "red \nmat" and len(rows[3]["messages"]) == 7, "one round was undone"
    assert "the message of the system is set\ntaken back: the dog ran\n" in err
    code, text, _ = piped(argv, lines, monkeypatch, capsys)
    assert code == 0 and text.splitlines() == [row["answer"] for row in rows]
    code, text, err = piped([*argv, "--quiet"], lines, monkeypatch, capsys)
    assert code == 0 and text.splitlines() == [row["answer"] for row in rows] and err == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the cat\n/nosuch\n", "standard input, line 2: there is no command /nosuch"),
        (b"the cat\n\xff\n", "standard input, line 2: byte 1 is not UTF-8"),
        (
            "the cat\n" + "the dog " * 60,
            "standard input, line 2: the message does not fit into the model",
        ),
        ("xyzzy plugh\n", "standard input, line 1: "),
    ],
)
def test_a_line_that_cannot_be_answered_ends_the_command(
    text: str | bytes,
    sentence: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = piped(["--model", model, *SHORT], text, monkeypatch, capsys)
    assert code == 2 and sentence in err


def test_dialogues_of_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dialogues = [
        [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "old"}],
        [{"role": "system", "content": "play"}, {"role": "user", "content": "the dog"}],
    ]
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps({"messages": said}) + "\n" for said in dialogues), encoding="utf-8")
    argv = ["chat", "--model", model, "--messages", str(file), *SHORT]
    assert main([*argv, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["messages"][:-1] for row in rows] == [dialogues[0][:1], dialogues[1]]
    assert all(row["messages"][-1]["content"] == row["answer"] != "old" for row in rows)
    assert main(argv) == 0
    assert capsys.readouterr().out == "".join(
        f"> {said[-1 - (k == 0)]['content']}\n{row['answer']}\n\n"
        for k, (said, row) in enumerate(zip(dialogues, rows, strict=True))
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([{"role": "tool", "content": "a"}], "message 1 has the role 'tool'; the roles are system, user, assistant"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}] * 2,
            "the answer is empty",
        ),
        ([{"role": "user", "content": "the dog " * 60}], "does not fit into the model"),
        ([{"role": "user", "content": "xyzzy plugh"}], "are unknown to the tokenizer"),
        ([{"role": "assistant", "content": "a"}], "there is no message; give at least one of the user"),
    ],
)
def test_dialogues_that_cannot_be_answered(
    value: object, sentence: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    assert main(["chat", "--model", model, "--messages", str(file), *SHORT]) == 2
    err = capsys.readouterr().err
    assert f"blankfill: {file}" in err and sentence in err


def test_mistakes_are_said_before_the_model_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jinja"
    bad.write_text("x\n{% if %}", encoding="utf-8")
    cases = {
        ("--template", "nosuch"): "nosuch: there is no such file, and no built-in chat template of this name (bare, ",
        ("--template", str(bad)): f"{bad}, line 2: the template cannot be read",
        ("--top-p", "2"): "--top-p is 2.0; it must be above 0",
        ("--max-new-tokens", "-1"): "--max-new-tokens is -1",
        ("--messages", "nosuch.json"): "nosuch.json does not exist",
        ("--messages", "d.json", "--system", "x"): "--system begins a conversation, and --messages names some",
    }
    for options, sentence in cases.items():
        assert main(["chat", "--model", str(tmp_path / "absent"), *options]) == 2
        assert sentence in capsys.readouterr().err, options


def test_models_that_do_not_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from small_tasks import model_folder

    code, _, err = piped(["--model", str(model_folder(tmp_path)), *SHORT], "the\n", monkeypatch, capsys)
    assert code == 2 and "a model of the objective bert does not write; chat with a model of the objective" in err


def test_messages_of_several_lines() -> None:
    def reader(*lines: str) -> Reader:
        left = iter(lines)

        def line(prompt: str) -> str:
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        return Reader(line)

    several = reader("", "  ", "a\\", "b\\", "c", '"""', "x", "", "y", '"""', "end\\")
    assert [several.read() for _ in range(4)] == ["a\nb\nc", "x\n\ny", "end", None]
    assert reader('"""', "x").read() == "x"
    assert reader().read() is None


pty = pytest.importorskip("pty", reason="a pseudo-terminal is needed")


class Terminal:
    """A `blankfill chat` in a pseudo-terminal of 50 columns."""

    def __init__(self, argv: list[str], **environment: str) -> None:
        import fcntl
        import struct
        import termios

        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
        env = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "", **environment}
        for name in ("COLUMNS", "LINES"):  # which outrank the terminal
            env.pop(name, None)
        self.fd = master
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WITH_TERMINAL, "chat", *argv],
            stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def until(self, text: str, seconds: float = 120) -> str:
        """What is printed up to a text, of which the end of the program is one: ""."""
        data, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([self.fd], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self.fd, 4096)
            except OSError:
                break
            data += piece
            if not piece or (text and text.encode() in data.replace(b"\r\n", b"\n")):
                break
        out = data.decode().replace("\r\n", "\n")
        assert text in out, out
        return out

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt(self, text: str) -> str:
        """What is printed after Ctrl-C. Readline notices a signal only while it waits for a key, so it is repeated."""
        for _ in range(30):
            self.type("\x03")
            try:
                return self.until(text, 4)
            except AssertionError as error:
                unanswered = error
        raise unanswered


_WITH_TERMINAL = (  # the controlling terminal, from which Ctrl-C comes
    "import fcntl, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.argv[0] = 'blankfill';"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a job in the background ignores it
    "from blankfill.cli.main import main; sys.exit(main())"
)


def test_a_conversation_in_a_terminal(model: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    terminal = Terminal(["--model", model, *SHORT], NO_COLOR="1")
    begin = terminal.until("> ")
    assert "template plain; /help lists the commands" in begin
    assert "\x1b[1m" not in begin
    terminal.type("the cat 猫\n")
    answer = terminal.until("\n> ")
    assert answer.startswith("the cat 猫\n") and "(the answer ends here: 5 tokens)" in answer
    terminal.type("/help\n")
    lines = terminal.until("\n> ").splitlines()
    assert max(map(len, lines)) <= 50 and any(line.strip() == "/system [TEXT]" for line in lines)
    terminal.type("/nosuch\n")
    assert "there is no command /nosuch; /help lists them" in terminal.until("\n> ")
    terminal.type("half a line")
    terminal.until("half a line")
    assert "Ctrl-D or /exit ends the conversation" in terminal.interrupt("conversation\n> ")
    terminal.type("red\\\n")
    terminal.until(". ")
    terminal.type("mat\n")
    terminal.until("\n> ")
    terminal.type(f"/save {saved}\n")
    assert "saved: 2 rounds" in terminal.until("\n> ")
    terminal.type("\x04")
    terminal.until("")
    assert terminal.process.wait(60) == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [message["content"] for message in messages if message["role"] == "user"] == ["the cat 猫", "red\nmat"]


class Interrupting:
    """A session whose first answer is interrupted by Ctrl-C after some tokens."""

    def __init__(self, model: str, monkeypatch: pytest.MonkeyPatch, tokens: int, presses: int = 1) -> None:
        chat = load(model).chat_engine("bare", max_new_tokens=30, temperature=3.0, seed=2)
        self.session, self.steps = Session(chat), 0
        step = Scheduler.step

        def interrupted(scheduler: Scheduler) -> dict[int, Update]:
            self.steps += 1
            if self.steps == tokens:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
            return step(scheduler)

        monkeypatch.setattr(Scheduler, "step", interrupted)


@pytest.mark.parametrize(("presses", "steps"), [(1, 6), (2, 5)])
def test_an_interrupt_ends_the_answer_and_keeps_the_session(
    presses: int, steps: int, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Interrupting(model, monkeypatch, 5, presses)
    lines = iter(["the cat", "/undo"])

    def line(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(chat_terminal, "_line_reader", lambda: line)
    chat_terminal.converse(talk.session)
    out, err = capsys.readouterr()
    assert "(interrupted; what was written stays in the conversation, /undo takes the round back)" in err
    assert talk.steps == steps, "the answer ended there"
    answer, note, *rest = out.splitlines()
    assert 0 < len(answer.split()) <= 5 and note == "taken back: the cat" and not "".join(rest)
    assert talk.session.messages == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_the_first_word_takes_the_question_back(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Interrupting(model, monkeypatch, 1, 2)
    lines = iter(["the cat", "/exit"])
    monkeypatch.setattr(chat_terminal, "_line_reader", lambda: lambda prompt: next(lines))
    chat_terminal.converse(talk.session)
    assert "(the answer is empty; the question is taken back)" in capsys.readouterr().err
    assert talk.session.messages == []
