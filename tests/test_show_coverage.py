"""The table of coverage: lines are summed for each package, and the floor of pyproject.toml is kept."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from module_files import module_at

TOOL = Path(__file__).resolve().parents[1] / "tools" / "show_coverage.py"
FILES = {
    "src/blankfill/types.py": (10, 10),
    "src/blankfill/tasks/text/mixing.py": (30, 15),
    "src/blankfill/tasks/text/writing.py": (10, 9),
    "src/blankfill/tasks/task.py": (50, 50),
    "src/blankfill/tasks/__init__.py": (0, 0),
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return module_at("tools/show_coverage.py")


def report() -> dict[str, Any]:
    summaries = {
        file: {"covered_lines": reached, "missing_lines": lines - reached} for file, (lines, reached) in FILES.items()
    }
    return {"files": {file: {"summary": summary} for file, summary in summaries.items()}}


def test_lines_are_summed_for_each_package(tool: ModuleType) -> None:
    assert tool.rooms(report()) == {"blankfill": (10, 10), "tasks": (50, 50), "tasks/text": (40, 24)}
    printed = tool.table(report()).splitlines()
    assert [" ".join(line.split()) for line in printed[1:5]] == [
        "blankfill 10 100.0%",
        "tasks 50 100.0%",
        "tasks/text 40 60.0%",
        "all 100 84.0%",
    ]
    assert printed[5:] == [
        "src/blankfill/tasks/text/mixing.py: 15 lines not reached",
        "src/blankfill/tasks/text/writing.py: 1 lines not reached",
    ]


@pytest.mark.parametrize(("floor", "status"), [(84, 0), (84.5, 1)])
def test_less_than_the_floor_fails(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    floor: float, status: int,
) -> None:  # fmt: skip
    (tmp_path / "coverage.json").write_text(json.dumps(report()), "utf-8")
    (tmp_path / "pyproject.toml").write_text(f"[tool.show_coverage]\nfloor = {floor}\n", "utf-8")
    set_floor = tool.floor(tmp_path / "pyproject.toml")
    monkeypatch.setattr(tool, "floor", lambda: set_floor)
    monkeypatch.setattr(sys, "argv", ["show_coverage.py", str(tmp_path / "coverage.json")])
    assert tool.main() == status
    assert ("less than the 84.5% in pyproject.toml" in capsys.readouterr().out) == bool(status)


def test_without_a_floor_everything_passes(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.slipcover]\n", "utf-8")
    assert tool.floor(tmp_path / "pyproject.toml") == 0
