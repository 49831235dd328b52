"""Print how many lines of each package the tests reached, from the file that `make test COVERAGE=1` writes.

    python tools/show_coverage.py build/coverage.json

Below the table stand the files with the most lines that no test reached. Ends with status 1 where the share of all
lines is below `floor` of `[tool.show_coverage]` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LISTED = 12
"""Files that are named below the table."""


def room_of(file: str) -> str:
    """Return the package that a file is in, two levels deep at most; the top files are "blankfill"."""
    parts = Path(file).parts
    inside = parts[parts.index("blankfill") + 1 : -1]
    return "/".join(inside[:2]) or "blankfill"


def rooms(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the lines of each package and those of them that the tests reached, by name."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file, facts in report["files"].items():
        room = counts[room_of(file)]
        summary = facts["summary"]
        room[0] += summary["covered_lines"] + summary["missing_lines"]
        room[1] += summary["covered_lines"]
    return {name: (lines, reached) for name, (lines, reached) in sorted(counts.items()) if lines}


def table(report: dict[str, Any]) -> str:
    """Return the packages and their shares as text, the total below, and the files that lack the most lines."""
    lines = [f"{'package':<24} {'lines':>6} {'reached':>8}"]
    counts = rooms(report)
    total = sum(count for count, _ in counts.values()), sum(reached for _, reached in counts.values())
    for name, (count, reached) in {**counts, "all": total}.items():
        lines.append(f"{name:<24} {count:>6} {share(count, reached):>8.1%}")
    lacking = sorted(report["files"].items(), key=lambda pair: -pair[1]["summary"]["missing_lines"])[:LISTED]
    lines += [
        f"{file}: {facts['summary']['missing_lines']} lines not reached"
        for file, facts in lacking
        if facts["summary"]["missing_lines"]
    ]
    return "\n".join(lines)


def share(count: int, reached: int) -> float:
    """Return the share of lines that were reached."""
    return reached / count if count else 1.0


def floor(file: Path = ROOT / "pyproject.toml") -> float:
    """Return the least share of lines in percent; 0 where none is set."""
    settings = tomllib.loads(file.read_text(encoding="utf-8"))
    return float(settings.get("tool", {}).get("show_coverage", {}).get("floor", 0))


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("report", type=Path)
    report = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
    print(table(report))
    counts = rooms(report).values()
    reached = 100 * share(sum(count for count, _ in counts), sum(inside for _, inside in counts))
    if reached < floor():
        print(f"the tests reach {reached:.1f}% of the lines, less than the {floor():g}% in pyproject.toml")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
