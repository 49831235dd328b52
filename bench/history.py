"""The history of the ratios against peers: one line a release in `history.jsonl`, and a picture of them.

    python bench/history.py add --machine "2 cores, AVX-512 with bf16"   # measures, and adds the line of this release
    python bench/history.py draw --out history.png                        # draws, and prints the table

A line holds the version, the commit, the date, the machine and, for each measurement, how many times longer the peer
took (above 1: this program is faster). Ratios of one run on one machine can be compared between releases; seconds
cannot, so they are left out. A release that was measured on several machines has a line for each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HISTORY = HERE / "history.jsonl"
MEASUREMENTS: dict[str, list[str]] = {
    "training step, BERT 4x256, fp32": ["training_step.py", "--shapes", "bert-4x256", "--dropout", "0.1"],
    "training step, GPT 4x256, fp32": ["training_step.py", "--shapes", "gpt-4x256", "--dropout", "0.1"],
    "training step, BERT 4x256, bf16": [
        "training_step.py", "--shapes", "bert-4x256", "--dropout", "0.1", "--precision", "bf16",
    ],
    "writing one text greedily, GPT-2 4x256": [
        "generation.py", "gpt2", "--layers", "4", "--width", "256", "--heads", "4", "--words", "16000", "--rows", "1",
        "--beams", "1",
    ],
}  # fmt: skip
PEER = "transformers"


@dataclass(frozen=True)
class Release:
    """A line of the history. ratios: seconds of the peer divided by those of this program, by measurement."""

    version: str
    commit: str
    date: str
    machine: str
    torch: str
    transformers: str
    ratios: dict[str, float] = field(default_factory=dict)


def read_history(path: Path = HISTORY) -> list[Release]:
    """Read the lines of a history, the oldest first. Raises ValueError with the number of a line that is damaged."""
    releases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            releases.append(Release(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from error
    return releases


def ratio(results: Any) -> float | None:
    """Return the median ratio of transformers in the results of a benchmark; None where it did not run."""
    ratios: list[float] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            name = str(value.get("contender", ""))
            if name.startswith(PEER) and "eager" not in name and isinstance(value.get("ratio"), float):
                ratios.append(value["ratio"])
            for inner in value.values():
                visit(inner)
        elif isinstance(value, list):
            for inner in value:
                visit(inner)

    visit(results)
    return statistics.median(ratios) if ratios else None


def measure(arguments: Sequence[str], rounds: int) -> float | None:
    """Run one benchmark; returns the ratio of the peer, None where the machine cannot run it."""
    script, *rest = arguments
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        option = "--out" if script == "generation.py" else "--json"
        same_clock = ("--threads", "1", "--clock", "processor")  # a busy machine matters less
        command = [sys.executable, HERE / script, *rest, *same_clock, "--rounds", str(rounds), option, out]
        done = subprocess.run([str(part) for part in command], cwd=HERE, check=False)
        if done.returncode or not out.exists():
            return None
        return ratio(json.loads(out.read_text(encoding="utf-8")))


def add(machine: str, rounds: int, path: Path = HISTORY) -> Release:
    """Measure, and append the line of the version that is installed."""
    import torch
    import transformers

    from blankfill import __version__

    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    ratios = {}
    for name, arguments in MEASUREMENTS.items():
        value = measure(arguments, rounds)
        if value is not None:
            ratios[name] = round(value, 3)
    today = datetime.now(UTC).date().isoformat()
    described = machine or f"{os.cpu_count()} cores, {platform.machine()}"
    release = Release(__version__, commit, today, described, torch.__version__, transformers.__version__, ratios)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(release), ensure_ascii=False) + "\n")
    return release


def table(releases: Sequence[Release]) -> str:
    """Return the history as text: a block for each machine, a row for each measurement, a column for each release."""
    lines = []
    for machine in dict.fromkeys(release.machine for release in releases):
        of_machine = [release for release in releases if release.machine == machine]
        names = list(dict.fromkeys(name for release in of_machine for name in release.ratios))
        width = max([len(name) for name in names], default=0)
        lines.append(f"{machine} (times that {PEER} takes)")
        lines.append(" " * width + "".join(f"{release.version:>10}" for release in of_machine))
        for name in names:
            cells = (f"{release.ratios[name]:>10.2f}" if name in release.ratios else " " * 10 for release in of_machine)
            lines.append(f"{name:<{width}}{''.join(cells)}")
    return "\n".join(lines)


def draw(releases: Sequence[Release], out: Path) -> None:
    """Draw a line for each measurement and machine over the releases, into an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    versions = list(dict.fromkeys(release.version for release in releases))
    for machine in dict.fromkeys(release.machine for release in releases):
        of_machine = [release for release in releases if release.machine == machine]
        for name in dict.fromkeys(name for release in of_machine for name in release.ratios):
            points = [
                (versions.index(release.version), release.ratios[name])
                for release in of_machine
                if name in release.ratios
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{name} ({machine})")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(versions)), versions)
    axes.set_ylabel(f"time of {PEER} / time of blankfill")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.savefig(out, dpi=120)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="measure this release and add its line")
    adding.add_argument("--machine", default="", help="what the machine is, in words")
    adding.add_argument("--rounds", type=int, default=5)
    drawing = commands.add_parser("draw", help="print the table and draw the picture")
    drawing.add_argument("--out", type=Path, default=Path("history.png"))
    given = parser.parse_args()
    if given.command == "add":
        print(json.dumps(asdict(add(given.machine, given.rounds)), indent=1))
        return
    releases = read_history()
    print(table(releases))
    draw(releases, given.out)
    print(f"drawn in {given.out}")


if __name__ == "__main__":
    main()
