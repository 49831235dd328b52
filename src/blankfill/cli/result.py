"""Results of commands: the one place where `--json` and `--quiet` decide about what is printed.

A command's `main` returns a `Result`, or `Rows` where results come one after another. Each holds its values for a
program and the function that prints it for a reader; `render` chooses. With `--json`, standard output has one JSON
document on one line (one line for each of `Rows`), and everything else is on standard error; a command that fails ends
with the object of `failure`. With `--quiet`, notices are dropped, and so is the text of a result that is also in files,
such as the losses of a run; errors are printed always.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from blankfill.system.console import is_json, is_quiet, show, show_json

T = TypeVar("T")

Values = Mapping[str, Any]


class Result(NamedTuple):
    """The result of a command. values: the JSON document, or a function that computes it. show: prints the result.

    is_output: whether the command is run for this text, which is then printed with `--quiet` too.
    """

    values: Values | Callable[[], Values]
    show: Callable[[], None]
    is_output: bool = False
    exit_code: int = 0
    problems: Sequence[str] = ()
    """Sentences about what is wrong with the result; the command then fails after printing it."""


class Rows(NamedTuple, Generic[T]):
    """Results that come one after another, and are the output of a command. values, show: as in `Result`, of a row."""

    rows: Iterable[T]
    values: Callable[[T], Any]
    show: Callable[[T], None]


def render(result: Result | Rows[Any]) -> int:
    """Print a result as `--json` and `--quiet` say; returns the exit code."""
    if isinstance(result, Rows):
        rows = iter(result.rows)
        try:
            for row in rows:
                if is_json():
                    show_json(result.values(row))
                else:
                    result.show(row)
        finally:
            if isinstance(rows, Generator):  # ends its progress bar before an error is printed
                rows.close()
        return 0
    if is_json():
        values = result.values() if callable(result.values) else result.values
        show_json(values)
    elif result.is_output or not is_quiet():
        result.show()
    return result.exit_code


def interim(text: str) -> None:
    """Print a part of a result as soon as it is known, before the whole: as text, not with `--quiet`."""
    if not is_quiet():
        show(text)


def page_of(folder: Path) -> Path | None:
    """Return the page of a run or a corpus, where one was written."""
    page = folder / "report.html"
    return page if page.is_file() else None


def show_page(folder: Path) -> None:
    """Name the page of a run or a corpus, where one was written."""
    if page := page_of(folder):
        show(f"the report, for a browser: {page}")


def failure(sentences: Sequence[str], exit_code: int) -> Values:
    """Return the JSON object of a command that failed, with its sentences and its exit code."""
    return {"error": "\n".join(sentences), "problems": list(sentences), "exit_code": exit_code}
