"""Progress lines off a terminal, a bar on one, tables, and units."""

import io
import shlex
import sys
from pathlib import Path

import pytest

from blankfill.system import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_first_now_and_then_last(capsys, clock):
    with console.progress("reading", 200e6, "B") as bar:
        clock[0] += 10
        bar.advance(50e6)
        clock[0] += 10
        bar.advance(50e6, loss=3.21456)
        clock[0] += 1
        bar.set(loss=3.0)
        clock[0] += 9
        bar.advance(100e6)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 B of 200 MB (0%)",
        "reading: 100 MB of 200 MB (50%), 5 MB/s, 0:20 left, loss=3.215",
        "reading: 200 MB of 200 MB (100%), 6.67 MB/s, done in 0:30, loss=3",
    ]


def test_work_of_an_earlier_run_does_not_count_for_the_rate(capsys, clock):
    with console.progress("training", 100, "steps", done=90) as bar:
        clock[0] += 20
        bar.advance(5)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "training: 95 of 100 steps (95%), 0.25 steps/s, 0:20 left",
        "training: 95 of 100 steps (95%), 0.25 steps/s, done in 0:20",
    ]


def test_an_exception_ends_the_lines_without_calling_it_done(capsys, clock):
    with pytest.raises(KeyError), console.progress("training", None, "steps") as bar:
        bar.advance(2)
        raise KeyError
    assert capsys.readouterr().err.splitlines() == ["training: 0 steps", "training: 2 steps"]


def test_bar_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("reading", 10, "files") as bar:
        bar.advance(10, loss=3.21)
    assert "reading" in screen.getvalue() and "100%" in screen.getvalue() and "loss=3.21" in screen.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0, "B", "0 B"), (999, "B", "999 B"), (1000, "B", "1 kB"), (1_234_567, "B", "1.23 MB"), (999_700, "B", "1 MB"),
     (123_456_789, "B", "123 MB"), (2.5e12, "B", "2.5 TB"), (3e15, "B", "3,000 TB"), (12345, "steps", "12,345 steps"),
     (7, "", "7")],
)  # fmt: skip
def test_amounts(value, unit, text):
    assert console.amount(value, unit) == text


def test_durations():
    assert [console.duration(s) for s in (0, 59.6, 61, 3600, 86_399)] == ["0:00", "1:00", "1:01", "1:00:00", "23:59:59"]


def test_table_aligns_by_width_on_screen(capsys):
    console.table("Lines", [("中文", "1"), ("abc", "22")], ("line", "n"))
    assert capsys.readouterr().out == "Lines\n  line  n\n  中文  1\n  abc   22\n"


def test_table_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    console.table("Counts", [("[bold]", "1,234")], ("what", "n"))
    assert "[bold]" in screen.getvalue() and "1,234" in screen.getvalue()


def test_a_narrow_encoding_is_no_error(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    console.show("naïve 中")
    assert raw.getvalue().decode("cp1252").strip() == "naïve ?"


NASTY = "a\x1b]0;owned\x07b\rc\x7f\x9b31m\u202egpj.exe\u2066x\u2069\x00"
SHOWN = r"a\x1b]0;owned\x07b\x0dc\x7f\x9b31m\u202egpj.exe\u2066x\u2069\x00"


def test_control_characters_are_shown_and_others_kept():
    assert console.visible(NASTY) == SHOWN
    text = "tab\tline\n«ü» 上海 👍🏽 \u200d ل"
    assert console.visible(text) == text
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            obeyed = (code < 32 and code not in (9, 10)) or 0x7F <= code < 0xA0
            obeyed = obeyed or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
            assert (console.visible(chr(code)) != chr(code)) == obeyed


def test_notices_never_carry_control_characters(capsys, clock):
    console.say(NASTY)
    with console.progress(f"reading {NASTY}", 10, "B") as bar:
        bar.set(file=NASTY)
    err = capsys.readouterr().err
    assert err.splitlines()[0] == SHOWN and err.count(SHOWN) == 4
    assert not any(character in err for character in "\x1b\x07\r\x7f\x9b\u202e\u2066\x00")


def test_the_product_is_data_in_a_pipe_and_harmless_on_a_terminal(capsys, monkeypatch):
    console.show(NASTY)
    console.table(NASTY, [[NASTY, 1]], (NASTY, "n"))
    assert capsys.readouterr().out.count("\x1b]0;owned\x07") == 4
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "300")
    console.show(NASTY)
    console.table(NASTY, [[NASTY, 1]], (NASTY, "n"))
    assert screen.getvalue().count(SHOWN) == 4 and "\x1b]" not in screen.getvalue()


def test_a_bar_on_a_terminal_shows_names_harmlessly(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    with console.progress("reading [red]x[/red] \x1b]0;owned\x07", 10, "B") as bar:
        bar.advance(10)
    assert r"[red]x[/red] \x1b]0;owned\x07" in screen.getvalue() and "\x1b]0;owned" not in screen.getvalue()


def test_a_commands_mistake_is_told_harmlessly(capsys):
    from blankfill.cli.main import main

    for argv in (["fill", "--model", NASTY[:-1], "a [MASK]"], ["x" + NASTY[:-1]], ["pretrain", "--recipe", NASTY[:-1]]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert SHOWN[:-4] in err and "\x1b" not in err
    assert main(["fill", "--no\x1b]0;owned\x07"]) == 2
    err = capsys.readouterr().err
    assert r"--no\x1b]0;owned\x07" in err and "\x1b" not in err


def test_a_notice_that_cannot_be_written_is_lost(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (Full(), closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        console.say("x")
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(console.OutputError, match="standard output cannot be written"):
            console.show("x")


@pytest.mark.parametrize("name", ["run", "my run", 'it\'s "mine"', "$HOME;ls", "-x y", "Пример"])
def test_a_path_in_a_printed_command_is_one_word_of_a_shell(name: str) -> None:
    assert shlex.split(f"blankfill fill --model {console.quoted(Path(name))} TEXT")[3] == name
    assert console.quoted(Path("runs/glm-1_a.b")) == "runs/glm-1_a.b"
