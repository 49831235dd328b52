"""Marks of files, which show whether a file has changed since its mark was recorded.

A mark holds the size of a file and a fingerprint of its content that is cheap at any size: it covers all of a small
file, and of a large file blocks that are spread evenly over it, including the first and the last. A fingerprint misses
a change between the blocks; the SHA-256 of the whole file, which a mark may hold as well, does not.

Marks are JSON values. Not here: which files belong to what, and what to say of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blankfill.errors import UserError
from blankfill.system.reading import regular_size

BLOCK = 64 << 10
"""Bytes of a block."""
BLOCKS = 256
"""Number of blocks that are read of a large file; a smaller file is read whole."""

Mark = dict[str, Any]
"""size: in bytes. sampled: the fingerprint, 32 hex digits. sha256: of the whole file, where it was computed."""


def fingerprint(path: Path) -> str:
    """Return a hash of the size and of the sampled content of a file, 32 hex digits. Raises UserError."""
    size = regular_size(path)
    state = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    try:
        with open(path, "rb") as file:
            if size <= BLOCK * BLOCKS:
                while block := file.read(BLOCK * 16):
                    state.update(block)
            else:
                for number in range(BLOCKS):
                    file.seek(number * (size - BLOCK) // (BLOCKS - 1))
                    state.update(file.read(BLOCK))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    return state.hexdigest()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises UserError."""
    regular_size(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def mark(path: Path, full: bool = False) -> Mark:
    """Return the mark of a file; `full` with its SHA-256. Raises UserError."""
    result: Mark = {"size": regular_size(path), "sampled": fingerprint(path)}
    return result | ({"sha256": checksum(path)} if full else {})


def marks(folder: Path, names: Iterable[str], full: bool = False) -> dict[str, Mark]:
    """Return the marks of those files of these names that exist in a folder. Raises UserError."""
    return {name: mark(folder / name, full) for name in names if (folder / name).exists()}


def changes(noted: Mapping[str, Any], now: Mapping[str, Mark]) -> list[str]:
    """Return the differences between recorded and current marks, a phrase for each file."""
    differences = []
    for name, before in noted.items():
        if not isinstance(before, Mapping):
            continue
        if (after := now.get(name)) is None:
            differences.append(f"{name} is gone")
        elif isinstance(before.get("size"), int) and before["size"] != after["size"]:
            differences.append(f"{name} has {after['size']:,} bytes and had {before['size']:,}")
        elif any(key in before and key in after and before[key] != after[key] for key in ("sampled", "sha256")):
            differences.append(f"{name} has other content of the same size")
    return differences + [f"{name} was not there" for name in now if name not in noted]


def unlike(folder: Path, noted: Mapping[str, Any]) -> list[str]:
    """Return the files of a folder whose content does not match its recorded checksum, a phrase for each. Raises
    UserError."""
    damaged = []
    for name, before in noted.items():
        if not isinstance(before, Mapping) or "sha256" not in before:
            continue
        if not (folder / name).exists():
            damaged.append(f"{name} is gone")
        elif checksum(folder / name) != before["sha256"]:
            damaged.append(f"{name} does not match its recorded checksum")
    return damaged
