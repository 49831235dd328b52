"""Which tests are slow, by measure: `make durations` writes how long tests took, and the marks follow the file.

A test counts as slow where it took longer than `SLOW` seconds on the machine that wrote `durations.json`, set-up
included. A test that the file does not know is not slow. Nothing is timed in an ordinary run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("durations.json")
SLOW = 4.0
"""Seconds from which a test is slow."""
_SPENT: dict[str, float] = defaultdict(float)


def slow_tests(file: Path = FILE) -> set[str]:
    """Return the node ids of the slow tests."""
    seconds = json.loads(file.read_text(encoding="utf-8"))
    return {test for test, spent in seconds.items() if spent >= SLOW}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the file."""
    parser.addoption(
        "--write-durations", action="store_true", help="write which tests are slow to tests/durations.json"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    slow = slow_tests()
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the seconds of one phase of a test."""
    _SPENT[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file, from the process that knows all tests."""
    if session.config.getoption("--write-durations") and not hasattr(session.config, "workerinput"):
        write(dict(_SPENT), FILE)


def write(seconds: dict[str, float], file: Path) -> None:
    """Write the tests that took at least half as long as a slow one, the slowest first."""
    chosen = sorted((item for item in seconds.items() if item[1] >= SLOW / 2), key=lambda item: -item[1])
    file.write_text(json.dumps({test: round(spent, 1) for test, spent in chosen}, indent=1) + "\n", encoding="utf-8")
