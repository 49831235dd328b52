"""Output of commands: progress bars and notices on standard error, results on standard output.

Long work shows a bar on a terminal and a plain line now and then elsewhere. Everything here goes to standard error,
except that `show` and `table` write the output of a command to standard output. Names of files and texts may hold
characters that control a terminal, so those are made visible: in notices always, in the output of a command where
standard output is a terminal. In a file or a pipe the output is data and stays unchanged. A notice that cannot be
written is dropped, since it must not stop a run.

`output_mode` changes that for a process. With `json`, standard output has JSON alone: `show_json` writes it, and the
text of `show` and `table` becomes a notice. With `quiet`, notices and progress are dropped; `complain` writes errors in
any mode. NO_COLOR and FORCE_COLOR decide about styles, TERM=dumb and streams that are no terminals get plain lines.
Not here: logging of training metrics (they have their own file), colours for errors.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

from blankfill.errors import UserError, in_flags, in_keys

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task, TaskID

EVERY = 15.0
"""Seconds between two plain lines where standard error is not a terminal."""


class Bar(Protocol):
    """Progress of long work: counts finished units and shows named values beside them."""

    def advance(self, n: float = 1, **fields: object) -> None:
        """Count `n` more finished units; `fields` (such as `loss=3.21`) replace the values shown under those names."""

    def set(self, **fields: object) -> None:
        """Replace the values shown, without counting work."""


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal: C0 except tab and line feed, DEL, C1, and the marks that change the direction of
writing, by which a name can look like another (Unicode TR 36, 3.1)."""


def visible(text: str) -> str:
    """Return a text with control characters as escapes, such as `\\x1b` for the one that begins a terminal command."""
    return CONTROLS.sub(_escape, text)


def quoted(*arguments: object) -> str:
    """Return arguments, such as a path, as a shell reads them, for a command that is printed to be copied: with quotes
    where they have spaces, quotes or other characters that mean something to a shell."""
    texts = list(map(str, arguments))
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(texts)
    return shlex.join(texts)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_spelling: list[Callable[[str], str]] = [in_keys]


@contextmanager
def settings_as_flags() -> Iterator[None]:
    """Write the settings that sentences name as flags, as the command line has them, while the block runs."""
    _spelling.append(in_flags)
    try:
        yield
    finally:
        _spelling.pop()


def worded(sentence: str) -> str:
    """Return a sentence with the settings that it names (`errors.setting`) in the spelling of this process's user."""
    return _spelling[-1](sentence)


class _Mode(NamedTuple):
    json: bool = False
    quiet: bool = False


_mode: list[_Mode] = [_Mode()]


@contextmanager
def output_mode(json: bool = False, quiet: bool = False) -> Iterator[None]:
    """Change what is printed while the block runs. json: standard output has the values of `show_json` alone. quiet: no
    notices and no progress."""
    _mode.append(_Mode(json, quiet))
    try:
        yield
    finally:
        _mode.pop()


def is_json() -> bool:
    """Return whether results are printed as JSON."""
    return _mode[-1].json


def is_quiet() -> bool:
    """Return whether notices and progress are dropped."""
    return _mode[-1].quiet


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can draw over its own lines."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def is_styled(stream: TextIO | None) -> bool:
    """Return whether a stream gets bold and coloured text: a terminal does, unless NO_COLOR is set; FORCE_COLOR extends
    that to files and pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def say(text: str) -> None:
    """Print a notice on standard error, above a progress bar that may be running; nothing where notices are dropped."""
    if not is_quiet():
        complain(text)


def complain(text: str) -> None:
    """Print an error on standard error, also where notices are dropped."""
    try:
        _write(sys.stderr, visible(worded(text)))
    except (OSError, ValueError, RuntimeError):  # full, closed, or interrupted by a signal in the middle of a line
        return


def show(text: str, end: str = "\n") -> None:
    """Print one piece of a command's output on standard output; characters that its encoding lacks become `?`.

    Where results are JSON, the text is a notice. Raises OutputError when standard output cannot be written,
    BrokenPipeError when its reader is gone.
    """
    if is_json():
        say(text)
    else:
        _put(text, end)


def show_json(value: object) -> None:
    """Print a value as one line of JSON on standard output, with escapes for characters that its encoding lacks.

    Paths become texts, dataclasses objects; a number that is not finite becomes null. Raises as `show` does.
    """
    import json

    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
    _put(json.dumps(as_json(value), ensure_ascii=not encoding.startswith("utf"), allow_nan=False))


_PLAIN = frozenset({type(None), bool, int, str})


def as_json(value: Any) -> Any:
    """Return a value with nothing in it but what JSON has."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if type(value) in _PLAIN:  # most values, as those of a vector, before whatever is looked up or imported
        return value
    from dataclasses import fields, is_dataclass
    from enum import Enum

    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, int | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [as_json(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy or torch
        return as_json(value.item())
    return worded(str(value))


def _put(text: str, end: str = "\n") -> None:
    try:
        _write(sys.stdout, product(text), end)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise OutputError.of(error) from error


def product(text: str) -> str:
    """Return text for a command's output: without control characters on a terminal, unchanged elsewhere."""
    return visible(text) if sys.stdout is not None and sys.stdout.isatty() else text


class OutputError(UserError):
    """Standard output cannot be written: the disk behind it is full, or it is closed."""

    @classmethod
    def of(cls, error: Exception) -> OutputError:
        """Return the sentence for an error of the stream."""
        lost = isinstance(error, OSError) and error.errno not in (None, errno.EBADF)
        why = getattr(error, "strerror", "") if lost else "it is closed"
        return cls(f"standard output cannot be written ({why}); free some space, or send it elsewhere")


def table(title: str, rows: Sequence[Sequence[object]], headers: Sequence[str] = ()) -> None:
    """Print a small table on standard output: drawn by rich on a terminal, aligned plain text elsewhere (never cut)."""
    cells = [[product(str(cell)) for cell in row] for row in rows]
    title, headers = product(title), [product(name) for name in headers]
    if is_json() or not is_terminal(sys.stdout):
        show(plain_table(title, cells, headers, bold=is_styled(sys.stdout) and not is_json()))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", box=box.SIMPLE, show_header=bool(headers))
    for column in range(max(len(row) for row in [*cells, headers])):
        numeric = all(_numeric(row[column]) for row in cells if column < len(row))
        name = headers[column] if column < len(headers) else ""
        drawn.add_column(Text(name), justify="right" if numeric and column else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, **_style(sys.stdout)).print(drawn)


def _style(stream: TextIO | None) -> dict[str, Any]:
    """Return how rich styles a stream."""
    return {} if is_styled(stream) else {"color_system": None}


def plain_table(title: str, rows: Sequence[Sequence[str]], headers: Sequence[str] = (), bold: bool = False) -> str:
    """Return a table as text: the title, then a line for each row, columns padded by their width on screen. bold: print
    the title and the headers in bold type."""
    from rich.cells import cell_len

    lines = [list(headers), *map(list, rows)] if headers else [list(row) for row in rows]
    columns = max((len(line) for line in lines), default=0)
    widths = [max((cell_len(line[c]) for line in lines if c < len(line)), default=0) for c in range(columns)]
    out = [title]
    for line in lines:
        padded = [cell + " " * (widths[c] - cell_len(cell)) for c, cell in enumerate(line)]
        out.append("  " + "  ".join(padded).rstrip())
    for number in range(bool(title) + bool(headers)) if bold else ():
        row = number if title else 1
        out[row] = f"\x1b[1m{out[row]}\x1b[0m"
    return "\n".join(out)


def amount(value: float, unit: str) -> str:
    """Return a count with its unit; bytes (unit "B") become kB, MB, GB (decimal), large counts get thousands
    separators."""
    if unit != "B":
        return f"{value:,.0f} {unit}".rstrip()
    for name in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {name}" if name == "B" or value >= 99.5 else f"{value:.3g} {name}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1000 else f"{value:,.0f} TB"


def duration(seconds: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(description: str, total: float | None, unit: str = "", done: float = 0) -> Iterator[Bar]:
    """Show a progress bar while the block works.

    On a terminal: a bar with share, rate, time left and the named fields. Elsewhere: a line on standard error at the
    start, at most every 15 seconds, and at the end; nothing where notices are dropped. Rate
    and time left count the work of this run only.

    total: units of work (None when unknown), of which an earlier run finished `done`.
    """
    description = visible(description)
    if is_quiet() or not is_terminal(sys.stderr):
        plain = _PlainBar(description, total, unit, done)
        plain.line()
        finished = False
        try:
            yield plain
            finished = True
        finally:
            plain.line(last=finished)
        return
    with _rich_progress(unit) as drawn:
        task = drawn.add_task(description, total=total, completed=done, shown="")
        yield _RichBar(drawn, task, done)


def _write(stream: TextIO | None, text: str, end: str = "\n") -> None:
    if stream is None:  # closed before this process started
        raise ValueError("closed")
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end=end, file=stream, flush=True)


def _numeric(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("%", "").replace(" ", "").isdigit()


def _fields_text(fields: dict[str, object]) -> str:
    return "  ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={visible(str(value))}"
                     for name, value in fields.items())  # fmt: skip


class _PlainBar:
    def __init__(self, description: str, total: float | None, unit: str, done: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.first = self.done = done
        self.fields: dict[str, object] = {}
        self.began = self.printed = time.monotonic()

    def advance(self, n: float = 1, **fields: object) -> None:
        self.done += n
        self.set(**fields)

    def set(self, **fields: object) -> None:
        self.fields.update(fields)
        if time.monotonic() - self.printed >= EVERY:
            self.line()

    def line(self, last: bool = False) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.began
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        parts = [amount(self.done, self.unit)]
        if self.total:
            done = parts[0] if self.unit == "B" else amount(self.done, "")
            parts[0] = f"{done} of {amount(self.total, self.unit)} ({self.done / self.total:.0%})"
        if rate:
            parts.append(f"{amount(rate, self.unit) if rate >= 10 else f'{rate:.2g} {self.unit}'.rstrip()}/s")
        if last:
            parts.append(f"done in {duration(seconds)}")
        elif rate and self.total and self.total > self.done:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.fields:
            parts.append(_fields_text(self.fields))
        say(f"{self.description}: {', '.join(parts)}")


class _RichBar:
    def __init__(self, drawn: Progress, task: TaskID, done: float) -> None:
        self.drawn, self.task = drawn, task
        self.fields: dict[str, object] = {}

    def advance(self, n: float = 1, **fields: object) -> None:
        self.set(**fields)
        self.drawn.advance(self.task, n)

    def set(self, **fields: object) -> None:
        if fields:
            self.fields.update(fields)
            self.drawn.update(self.task, shown=_fields_text(self.fields))


def _rich_progress(unit: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import ProgressColumn as Column
    from rich.text import Text

    class Rate(Column):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{amount(speed, unit) if speed >= 10 or unit == 'B' else f'{speed:.2g} {unit}'}/s")

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), TaskProgressColumn(), Rate(),
        TimeRemainingColumn(compact=True), TextColumn("{task.fields[shown]}", markup=False),
    ]  # fmt: skip
    console = Console(file=sys.stderr, **_style(sys.stderr))
    return Progress(*columns, console=console, redirect_stdout=True, redirect_stderr=True)
