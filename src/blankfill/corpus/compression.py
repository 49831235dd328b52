"""Opening compressed and plain files as one stream of bytes: gzip, bzip2, xz and zstandard.

The compression is told by the first bytes, not by the name, because names lie more often than content does. Every
failure of a decompressor (a truncated download, a flipped byte) becomes a UserError that names the file. Not here:
turning bytes into text (`decoding`), archives of several files (tar, zip), which are refused where files are found.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from blankfill.errors import UserError

MAGIC = (
    (b"\x1f\x8b\x08", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
SUFFIXES = {".gz": "gz", ".gzip": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
READ_BYTES = 1 << 17


def sniff_compression(head: bytes) -> str:
    """The compression that the first bytes of a file announce: "gz", "bz2", "xz", "zst", or "" for none."""
    for magic, name in MAGIC:
        # "BZh" could open a text, so bzip2 must also show its block size and the magic of its first block.
        if head.startswith(magic) and (name != "bz2" or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")):
            return name
    return ""


def open_binary(path: str, compression: str) -> BinaryIO:
    """Open `path` for reading its uncompressed bytes as a stream.

    `compression` is one of "", "gz", "bz2", "xz", "zst". Raises UserError for a file that cannot be opened, and, from
    the reads, for one whose compressed data are damaged or end too early.
    """
    if compression == "zst":
        _zstandard()
    try:
        raw = Path(path).open("rb")  # noqa: SIM115  (closed by the stream that is returned)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not compression:
        return raw
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        "gz": _open_gzip,
        "bz2": bz2.open,
        "xz": lzma.open,
        "zst": _ZstdStream,
    }
    opener = openers[compression]
    return cast(BinaryIO, io.BufferedReader(_Guarded(opener(raw), raw, path), READ_BYTES))


def _open_gzip(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=raw, mode="rb")


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError("Reading .zst files needs the zstandard package: pip install 'blankfill[text]'.") from error
    return zstandard


class _Guarded(io.RawIOBase):
    """A decompressor's output, whose errors name the file and say what to do."""

    def __init__(self, inner: Any, raw: BinaryIO, path: str) -> None:
        self._inner, self._raw, self._path = inner, raw, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except EOFError as error:
            raise UserError(
                f"{self._path} ends before its compressed data do: it is truncated, so copy or download it again."
            ) from error
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise UserError(
                f"{self._path} holds damaged compressed data ({error}): copy or download it again."
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._raw.close()
        super().close()


class _ZstdStream:
    """Zstandard frames one after another; unlike the library's own stream reader it notices a truncated frame."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._library = _zstandard()
        self._frame: Any = None
        self._ready = b""
        self._input = b""

    def read(self, size: int) -> bytes:
        while not self._ready:
            if not self._input:
                self._input = self._raw.read(READ_BYTES)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError
                    return b""
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            data, self._input = self._input, b""
            try:
                self._ready = self._frame.decompress(data)
            except self._library.ZstdError as error:
                raise ValueError(str(error)) from error
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def close(self) -> None:
        self._ready = b""
