"""Zip archives that are not trusted: how large they are, before anything is unpacked.

`zipfile` never unpacks more of a member than the archive says that it holds, so the sizes that it says are limits.
"""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path

from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_DIRECTORY

DAMAGES = (
    zipfile.BadZipFile, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, struct.error,
    zlib.error, lzma.LZMAError,
)  # fmt: skip
"""Exceptions of damaged archives."""
_DIRECTORY_END = (1 << 16) + 22
"""Bytes at the end of a zip archive in which its last record begins: that record and a comment."""


def checked_members(path: str | Path, name: str, largest: int, remedy: str) -> list[zipfile.ZipInfo]:
    """Return the members of an archive. Raises SourceError for one that unpacks to more than `largest` bytes, or that
    has too many members; one of `DAMAGES` for a damaged archive."""
    check_directory(path, name)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > largest:
        raise SourceError(
            f"{name} unpacks to {size:,} bytes, more than the {largest:,} that are read at once: {remedy}."
        )
    return members


def check_directory(path: str | Path, name: str = "") -> None:
    """Raise SourceError for an archive whose table of contents is so large that listing it would fill the memory, and
    BadZipFile for one without an end."""
    with Path(path).open("rb") as file:
        file.seek(max(0, Path(path).stat().st_size - _DIRECTORY_END), os.SEEK_SET)
        tail = file.read(_DIRECTORY_END)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 16 > len(tail):
        raise zipfile.BadZipFile("its end is missing")
    if int.from_bytes(tail[at + 12 : at + 16], "little") > LARGEST_DIRECTORY:
        raise SourceError(
            f"{name or path} holds too many files to look into: unpack it, and name the file that you want."
        )
