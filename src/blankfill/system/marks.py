"""Marks of files, by which a file that was changed is known from the one that was noted.

A mark is the size of a file and a fingerprint of its content that is cheap whatever the size: of small files it reads
all, of large ones blocks that are spread evenly over them, the first and the last among them. A change between the
blocks escapes it; the SHA-256 of the whole file, which a mark may hold as well, does not miss that.

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
"""Blocks that are read of a large file; a file that has no more bytes than these is read whole."""

Mark = dict[str, Any]
"""size: in bytes. sampled: the fingerprint, 32 hex digits. sha256: of the whole file, where it was computed."""


def fingerprint(path: Path) -> str:
    """32 hex digits that follow from the size and from the content as far as it is read. Raises UserError."""
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
    """SHA-256 of a file, in hexadecimal. Raises UserError."""
    regular_size(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def mark(path: Path, full: bool = False) -> Mark:
    """The mark of a file; `full` with its SHA-256. Raises UserError."""
    found: Mark = {"size": regular_size(path), "sampled": fingerprint(path)}
    return found | ({"sha256": checksum(path)} if full else {})


def marks(folder: Path, names: Iterable[str], full: bool = False) -> dict[str, Mark]:
    """The marks of the files of these names that a folder has. Raises UserError."""
    return {name: mark(folder / name, full) for name in names if (folder / name).exists()}


def changes(noted: Mapping[str, Any], now: Mapping[str, Mark]) -> list[str]:
    """What differs between noted marks and those of now, a phrase for each file."""
    found = []
    for name, before in noted.items():
        if not isinstance(before, Mapping):
            continue
        if (after := now.get(name)) is None:
            found.append(f"{name} is gone")
        elif isinstance(before.get("size"), int) and before["size"] != after["size"]:
            found.append(f"{name} has {after['size']:,} bytes and had {before['size']:,}")
        elif any(key in before and key in after and before[key] != after[key] for key in ("sampled", "sha256")):
            found.append(f"{name} has other content of the same size")
    return found + [f"{name} was not there" for name in now if name not in noted]


def unlike(folder: Path, noted: Mapping[str, Any]) -> list[str]:
    """The files of a folder whose whole content is not the one noted, a phrase for each. Raises UserError."""
    found = []
    for name, before in noted.items():
        if not isinstance(before, Mapping) or "sha256" not in before:
            continue
        if not (folder / name).exists():
            found.append(f"{name} is gone")
        elif checksum(folder / name) != before["sha256"]:
            found.append(f"{name} has another checksum than was noted")
    return found
