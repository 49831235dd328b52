"""Paths without a model: what the error says about them, and models in folders below."""

from __future__ import annotations

from pathlib import Path

from blankfill.checkpoint.store import STATE
from blankfill.checkpoint.weights import weight_file
from blankfill.errors import UserError

DEEPEST = 3
"""Number of levels below a folder in which a model is looked for."""
MOST_FOLDERS = 500
"""Largest number of folders that are looked through."""


def check_exists(path: Path, wanted: str) -> None:
    """Raise UserError for a path that does not exist. wanted: what the command opens."""
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; give {wanted} (blankfill downloads nothing: download a model of a hub "
            "first, and give its folder)"
        )


def nearby(path: Path) -> str:
    """Return a phrase that names the models below a folder; empty where there are none, or more than three."""
    matches = models_below(path)
    return f"; did you mean {' or '.join(map(str, matches))}?" if 0 < len(matches) <= 3 else ""


def models_below(path: Path) -> list[Path]:
    """Return the nearest folders below a folder that hold a run or a model; all of them are on one level."""
    level, looked = [path], 0
    for _ in range(DEEPEST):
        try:
            level = sorted(folder for above in level for folder in above.iterdir() if folder.is_dir())
        except OSError:
            return []
        looked += len(level)
        if looked > MOST_FOLDERS:
            return []
        if matches := [folder for folder in level if _holds_model(folder)]:
            return matches
    return []


def _holds_model(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir() or (folder / STATE).is_file() or weight_file(folder) is not None
