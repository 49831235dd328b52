"""The marks of slow tests follow the measured file, and the file names tests that there are."""

import json
from pathlib import Path

import pytest

import durations


def test_slow_tests_are_those_above_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "durations.json"
    durations.write({"a::x": durations.SLOW, "a::y": durations.SLOW * 0.9, "a::z": 0.1}, file)
    assert json.loads(file.read_text(encoding="utf-8")) == {"a::x": durations.SLOW, "a::y": durations.SLOW * 0.9}
    assert durations.slow_tests(file) == {"a::x"}


def test_the_file_names_tests_that_there_are() -> None:
    root = Path(__file__).resolve().parents[1]
    tests = json.loads(durations.FILE.read_text(encoding="utf-8"))
    missing = [test for test in tests if not (root / test.split("::")[0]).exists()]
    assert missing == [], "run `make durations`"


def test_marks_are_set(request: pytest.FixtureRequest) -> None:
    slow = durations.slow_tests()
    for item in request.session.items:
        assert (item.get_closest_marker("slow") is not None) == (item.nodeid in slow), item.nodeid
