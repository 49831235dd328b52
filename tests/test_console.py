"""Progress lines off a terminal, a bar on one, tables, and units."""

import io
import sys

import pytest

from blankfill import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until told otherwise."""
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
        "training: 95 steps of 100 steps (95%), 0.25 steps/s, 0:20 left",
        "training: 95 steps of 100 steps (95%), 0.25 steps/s, done in 0:20",
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
