"""Replacements for slow parts of small runs in tests (`quick_runs` of conftest)."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from blankfill.report.curves import read_curves
from blankfill.report.plots import loss_plot
from blankfill.system.files import whole_path


@functools.cache
def picture() -> bytes:
    """Return a picture of no losses, drawn once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "metrics.jsonl").touch()
        loss_plot(Path(folder) / "metrics.jsonl", Path(folder) / "loss.png")
        return (Path(folder) / "loss.png").read_bytes()


def copied_picture(metrics: Path, out: Path, baseline: float | None = None, title: str = "") -> None:
    """Read and write as `loss_plot` does, without drawing: a copy of `picture`."""
    read_curves(metrics)
    with whole_path(out, "name a file in a folder that exists") as temporary:
        temporary.write_bytes(picture())
