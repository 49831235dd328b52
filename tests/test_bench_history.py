"""The history of ratios: lines can be read, table and picture hold every release, results give a ratio."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from blankfill import __version__
from module_files import module_at

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(scope="module")
def history() -> ModuleType:
    return module_at("bench/history.py")


def test_this_release_has_a_line(history: ModuleType) -> None:
    releases = history.read_history()
    assert __version__ in {release.version for release in releases}
    assert all(release.ratios and min(release.ratios.values()) > 0 for release in releases)


def test_the_table_has_a_column_for_each_release(history: ModuleType) -> None:
    first = history.Release("1.0", "a", "2026-01-01", "here", "2.11", "5.0", {"step": 2.0, "writing": 1.5})
    second = history.Release("1.1", "b", "2026-02-01", "here", "2.11", "5.0", {"step": 2.25})
    assert history.table([first, second]).splitlines() == [
        "here (times that transformers takes)",
        "              1.0       1.1",
        "step         2.00      2.25",
        "writing      1.50          ",
    ]


def test_the_picture_is_drawn(history: ModuleType, tmp_path: Path) -> None:
    history.draw(history.read_history(), tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_ratio_of_the_peer_is_the_median(history: ModuleType) -> None:
    lines = [
        {"contender": "blankfill", "seconds": 1.0},
        {"contender": "transformers-sdpa", "ratio": 2.0},
        {"contender": "transformers-sdpa", "ratio": 4.0},
        {"contender": "transformers-eager", "ratio": 9.0},
        {"contender": "ctranslate2", "ratio": 0.7},
    ]
    assert history.ratio([{"lines": lines}]) == 3.0
    assert history.ratio([{"contender": "transformers", "unable": "no bf16"}]) is None


def test_a_damaged_line_is_named(history: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"version": "1.0"}\n' + json.dumps({"strange": 1}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"history.jsonl, line 1"):
        history.read_history(path)
