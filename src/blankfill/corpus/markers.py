"""Markers of finished tasks of `prepare`: each records the files of its task and their checksums.

The marker `PREFIX.json` is written last, after the files were synced to the disk; it holds the result of the task, and
the size and CRC-32 of each file. A resumed run accepts a marker only when the marker is whole and its files match, so
whatever a kill, a power cut or a damaged disk did to the work folder, the worst case is that work is repeated.

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
    """Sync the files `made`, which lie beside the marker, to the disk, then write `prefix.json`; return `result`.

    Raises OSError or DiskError.
    """
    for path in made:
        sync_file(path)
    content = {"result": result, "files": {path.name: _measured(path) for path in made}}
    write_file(path_of(prefix, ".json"), json.dumps({**content, "sum": _sum(content)}))
    return result


def read_marker(prefix: Path) -> dict[str, Any]:
    """Return the result of the task of a marker. Raises UserError when the marker is missing or not whole."""
    result: dict[str, Any] = _kept(prefix)["result"]
    return result


def is_done(prefix: Path) -> bool:
    """Return whether the task has a whole marker and its files match it; reads the files."""
    try:
        noted = _kept(prefix)["files"]
        return all(_measured(prefix.with_name(name)) == size_and_sum for name, size_and_sum in noted.items())
    except (OSError, UserError):
        return False


def _kept(prefix: Path) -> dict[str, Any]:
    path = path_of(prefix, ".json")
    content = read_json(path)
    if content.pop("sum", None) != _sum(content):
        raise UserError(f"{path} is damaged: its checksum is another than the one noted in it")
    return content


def _measured(path: Path) -> list[int]:
    """Return the size of a file, and its CRC-32."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(READ_AT_ONCE):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _sum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
