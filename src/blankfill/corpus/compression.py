"""Opens compressed and plain files as streams of bytes: gzip, bzip2, xz and zstandard.

A read returns at most the requested number of bytes, however large the unpacked file is: 33 kB of zstandard may unpack
to 1 GB. The memory of a decompressor itself is limited (LARGEST_WINDOW, LARGEST_DICTIONARY).

The first bytes of a file decide its compression, not its name, because names are wrong more often than content. Every
failure of a decompressor (a truncated download, a flipped byte) becomes a SourceError that names the file. Not here:
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
from typing import Any, BinaryIO, Protocol, cast

from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_DICTIONARY, LARGEST_WINDOW

MAGIC = (
    (b"\x1f\x8b\x08", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
SUFFIXES = {".gz": "gz", ".gzip": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
READ_BYTES = 1 << 17
_ZSTD_STEP = 1 << 9
"""Bytes of zstandard unpacked at once: they expand to at most 16 MB, and larger steps are not faster."""


def sniff_compression(head: bytes) -> str:
    """Return the compression that the first bytes of a file announce: "gz", "bz2", "xz", "zst", or "" for none."""
    for magic, name in MAGIC:
        # "BZh" could begin a text, so the block size and the magic of the first block are checked as well.
        if head.startswith(magic) and (name != "bz2" or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")):
            return name
    return ""


def plain_suffix(name: str | Path) -> str:
    """Return the suffix of a name in small letters, without that of its compression: ".csv" of "a.CSV.gz"."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def compression_of(path: str | Path) -> str:
    """Return the compression of a file, see `sniff_compression`. Raises SourceError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return sniff_compression(file.read(16))
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}).") from error


def open_binary(path: str, compression: str) -> BinaryIO:
    """Open `path` for reading its uncompressed bytes as a stream.

    `compression` is one of "", "gz", "bz2", "xz", "zst". Raises SourceError when the file cannot be opened; reads raise
    SourceError when the compressed data are damaged or end too early.
    """
    if compression == "zst":
        _zstandard(path)
    try:
        raw = Path(path).open("rb")  # noqa: SIM115  (closed by the stream that is returned)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}).") from error
    if not compression:
        return raw
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        "gz": _open_gzip,
        "bz2": bz2.open,
        "xz": lambda raw: _Frames(raw, _XzFrame, READ_BYTES, padding=4),
        "zst": lambda raw: _Frames(raw, _ZstdFrame, _ZSTD_STEP),
    }
    opener = openers[compression]
    return cast(BinaryIO, io.BufferedReader(_Guarded(opener(raw), raw, path), READ_BYTES))


def _open_gzip(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=raw, mode="rb")


def _zstandard(path: str = "a .zst file") -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise SourceError(f"{path} needs the zstandard package to be read: pip install 'blankfill[text]'.") from error
    return zstandard


class _Guarded(io.RawIOBase):
    """Output of a decompressor; its errors name the file and the remedy."""

    def __init__(self, inner: Any, raw: BinaryIO, path: str) -> None:
        self._inner, self._raw, self._path = inner, raw, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except _TooMuchMemoryError as error:
            limit, program = error.args
            raise SourceError(
                f"{self._path} takes more than {limit >> 20} MiB of memory to unpack, which is the limit: "
                f"unpack it first with `{program}`."
            ) from error
        except EOFError as error:
            raise SourceError(
                f"{self._path} ends before its compressed data do: it is truncated, so copy or download it again."
            ) from error
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise SourceError(
                f"{self._path} holds damaged compressed data ({error}): copy or download it again."
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._raw.close()
        super().close()


class _Frame(Protocol):
    """A decompressor of one frame. Raises ValueError for damaged data, _TooMuchMemoryError for a frame that needs too
    much memory."""

    @property
    def eof(self) -> bool:
        """Whether the frame is complete."""

    @property
    def rest(self) -> bytes:
        """Bytes that followed the frame in the last input."""

    @property
    def hungry(self) -> bool:
        """Whether the decompressor needs more input before it can give more output."""

    def decompress(self, data: bytes) -> bytes:
        """Return the next bytes: a bounded number, however large `data` is."""


class _Frames:
    """Consecutive frames; unlike the readers of some libraries, this reader detects a truncated last frame.

    step: bytes given to a frame at once. padding: zero bytes between frames come in multiples of this number.
    """

    def __init__(self, raw: BinaryIO, make: Callable[[], _Frame], step: int, padding: int = 0) -> None:
        self._raw, self._make, self._step, self._padding = raw, make, step, padding
        self._frame: _Frame | None = None
        self._ready = memoryview(b"")
        self._input = b""
        self._zeros = 0

    def read(self, size: int) -> bytes:
        while not self._ready:
            if not self._input and (self._frame is None or self._frame.hungry):
                self._input = self._raw.read(self._step)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError
                    if self._padding and self._zeros % self._padding:
                        raise ValueError("odd padding")
                    return b""
            if self._frame is None:
                if self._padding and not self._between_frames():
                    continue
                self._frame = self._make()
            data, self._input = self._input, b""
            self._ready = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._input, self._frame = self._frame.rest, None
        data, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return data

    def _between_frames(self) -> bool:
        """Skip padding; return whether a frame begins."""
        rest = self._input.lstrip(b"\0")
        self._zeros += len(self._input) - len(rest)
        self._input = rest
        if rest and self._zeros % self._padding:
            raise ValueError("odd padding")
        self._zeros = 0 if rest else self._zeros
        return bool(rest)

    def close(self) -> None:
        self._ready = memoryview(b"")


class _ZstdFrame:
    """Unpacks all of its input at once, so the input must be small: a block of four bytes unpacks to up to 128 kB."""

    hungry = True

    def __init__(self) -> None:
        self._library = _zstandard()
        self._inner = self._library.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes) -> bytes:
        try:
            return bytes(self._inner.decompress(data))
        except self._library.ZstdError as error:
            if "too much memory" in str(error):
                raise _TooMuchMemoryError(LARGEST_WINDOW, "zstd -d --long=31") from error
            raise ValueError(str(error)) from error


class _XzFrame:
    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_DICTIONARY)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    @property
    def hungry(self) -> bool:
        return self._inner.needs_input

    def decompress(self, data: bytes) -> bytes:
        try:
            return self._inner.decompress(data, READ_BYTES)
        except lzma.LZMAError as error:
            if "Memory usage limit" in str(error):
                raise _TooMuchMemoryError(LARGEST_DICTIONARY, "xz -d") from error
            raise


class _TooMuchMemoryError(Exception):
    """A frame would take more than `args[0]` bytes of memory; the program `args[1]` unpacks it."""
