"""What a task of `prepare` leaves to say that it is done: a marker that vouches for the task's files.

The marker `PREFIX.json` is written last, after the files were pushed to the disk; it holds what the task returned, and
the size and CRC-32 of each file. A run that continues another one believes a marker only when it is whole and its files
are as it says, so whatever a kill, a power cut or a damaged disk did to the work folder, the worst is work done again.

Not here: which tasks there are (`stages`, `decide`, `prepare`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blankfill.corpus.indexed import path_of
from blankfill.errors import UserError
from blankfill.system.files import sync_file, write_file
from blankfill.system.reading import read_json

READ_AT_ONCE = 1 << 20


def write_marker(prefix: Path, result: dict[str, Any], made: Sequence[Path] = ()) -> dict[str, Any]:
    """Push the files `made`, which lie beside the marker, to the disk, then write `prefix.json`; returns `result`.

    Raises OSError or DiskError.
    """
    for path in made:
        sync_file(path)
    kept = {"result": result, "files": {path.name: _measured(path) for path in made}}
    write_file(path_of(prefix, ".json"), json.dumps({**kept, "sum": _sum(kept)}))
    return result


def read_marker(prefix: Path) -> dict[str, Any]:
    """What the task of a marker returned. Raises UserError when it is missing or not whole."""
    result: dict[str, Any] = _kept(prefix)["result"]
    return result


def is_done(prefix: Path) -> bool:
    """Whether the task has a whole marker and its files are as they were when it was written; reads them."""
    try:
        noted = _kept(prefix)["files"]
        return all(_measured(prefix.with_name(name)) == size_and_sum for name, size_and_sum in noted.items())
    except (OSError, UserError):
        return False


def _kept(prefix: Path) -> dict[str, Any]:
    path = path_of(prefix, ".json")
    kept = read_json(path)
    if kept.pop("sum", None) != _sum(kept):
        raise UserError(f"{path} is damaged: its checksum is another than the one noted in it")
    return kept


def _measured(path: Path) -> list[int]:
    """The size of a file, and its CRC-32."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(READ_AT_ONCE):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _sum(kept: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(kept, sort_keys=True).encode())
