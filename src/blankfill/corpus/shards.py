"""Text shards: cleaned sentences between extraction and encoding, in the work folder of `prepare`.

A shard holds about 24 MB of text as pieces of documents, in corpus order, and is read back as a stream. A document may
continue in the next shard (`continues`), so no document is ever held whole. Four files under one prefix:

    .text       sentences, one a line, in gzip members of about 64 kB that end with a paragraph (`zcat` reads it)
    .npz        arrays about each part of a document and each paragraph, and where the members begin
    .lines.npy  uint64[2, L]: hashes of paragraphs worth counting, sorted, and the paragraph that each belongs to
    .names.gz   one line a part: the name of its document

The hash of a document is a polynomial over the hashes of its sentences, modulo a Mersenne prime, so that the hashes of
two parts give the hash of the whole, wherever it was cut. Not here: which documents are kept (`decide`).
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.indexed import path_of

PRIME = (1 << 127) - 1
BASE = 0x5A17_3C94_E2B1_6D0F_8457_9ACB_1F2E_3D4B
BLOCK_BYTES = 1 << 16
SHARD_BYTES = 24_000_000
FILES = (".text", ".npz", ".lines.npy", ".names.gz")
LINE_BYTES = 20
"""Paragraphs under 20 bytes of UTF-8 (20 Latin letters, 7 Chinese characters) are not counted as repeated lines."""


class ShardWriter:
    """Writes one shard; memory holds a few bytes for each paragraph, not the text."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.bytes = 0
        self._text: BinaryIO = open(path_of(prefix, ".text"), "wb")  # noqa: SIM115 - closed by finish
        self._block: list[str] = []
        self._block_bytes = 0
        self._block_offsets, self._block_paragraphs = array("q", [0]), array("q", [0])
        self._paragraph_sentences = array("i")
        self._lines, self._line_paragraphs = array("Q"), array("Q")
        self._part: dict[str, Any] = {
            "path": array("q"), "continues": array("b"), "paragraphs": array("q"), "sentences": array("q"),
            "characters": array("q"), "bytes": array("q"), "high": array("Q"), "low": array("Q"),
        }  # fmt: skip
        self._names: list[str] = []
        self._hash = self._sentences = self._characters = self._bytes = self._paragraphs = 0

    def begin(self, path: int, name: str, continues: bool) -> None:
        """Begin a part of a document; path: number of its file; continues: whether it continues the document of the
        last part."""
        self._part["path"].append(path)
        self._part["continues"].append(continues)
        self._names.append(" ".join(name.split()))
        self._hash = self._sentences = self._characters = self._bytes = self._paragraphs = 0

    def add_paragraph(self, sentences: Sequence[str]) -> None:
        """Add one paragraph to the open part: its sentences, none empty."""
        text = "\n".join(sentences)
        if "\r" in text or text.count("\n") >= len(sentences):
            sentences = [" ".join(sentence.splitlines()) for sentence in sentences]
            text = "\n".join(sentences)
        data = text.encode("utf-8", "replace")
        state = self._hash
        for sentence in data.split(b"\n"):
            state = (state * BASE + int.from_bytes(blake2b(sentence, digest_size=16).digest(), "little") + 1) % PRIME
        if len(data) >= LINE_BYTES:
            self._lines.append(int.from_bytes(blake2b(data, digest_size=8).digest(), "little"))
            self._line_paragraphs.append(len(self._paragraph_sentences))
        self._hash = state
        self._sentences += len(sentences)
        self._characters += len(text)
        self._bytes += len(data)
        self._paragraphs += 1
        self._paragraph_sentences.append(len(sentences))
        self._block.append(text)
        self._block_bytes += len(data)
        self.bytes += len(data)
        if self._block_bytes >= BLOCK_BYTES:
            self._end_block()

    def end(self) -> None:
        """End the open part."""
        part = self._part
        part["paragraphs"].append(self._paragraphs)
        part["sentences"].append(self._sentences)
        part["characters"].append(self._characters)
        part["bytes"].append(self._bytes)
        part["high"].append(self._hash >> 64)
        part["low"].append(self._hash & 0xFFFF_FFFF_FFFF_FFFF)

    def finish(self) -> None:
        """Write the rest. The marker of the task (`markers`) records whether the shard is whole."""
        self._end_block()
        self._text.close()
        with gzip.open(path_of(self.prefix, ".names.gz"), "wt", compresslevel=1, encoding="utf-8", newline="\n",
                       errors="replace") as names:  # fmt: skip
            names.writelines(name + "\n" for name in self._names)
        lines = np.stack([np.frombuffer(self._lines, np.uint64), np.frombuffer(self._line_paragraphs, np.uint64)])
        order = np.argsort(lines[0], kind="stable")
        np.save(path_of(self.prefix, ".lines.npy"), np.ascontiguousarray(lines[:, order]))
        arrays: dict[str, Any] = {name: np.array(values) for name, values in self._part.items()}
        arrays["paragraph_sentences"] = np.array(self._paragraph_sentences, np.int32)
        arrays["block_offsets"] = np.array(self._block_offsets)
        arrays["block_paragraphs"] = np.array(self._block_paragraphs)
        with open(path_of(self.prefix, ".npz"), "wb") as file:
            np.savez(file, **arrays)

    def close(self) -> None:
        """Close the file after an exception; the next run overwrites it."""
        self._text.close()

    def _end_block(self) -> None:
        if not self._block:
            return
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        data = ("\n".join(self._block) + "\n").encode("utf-8", "replace")
        self._text.write(packer.compress(data) + packer.flush())
        self._block_offsets.append(self._text.tell())
        self._block_paragraphs.append(len(self._paragraph_sentences))
        self._block, self._block_bytes = [], 0


class Shard:
    """Reads one shard: each array on its first use, the text block by block.

    For P parts: path, paragraphs, sentences, characters, bytes int64[P]; continues bool[P]; high, low uint64[P].
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        with np.load(path_of(self.prefix, ".npz")) as stored:
            array: NDArray[Any] = stored[name]
        # From now on this is an ordinary attribute.
        setattr(self, name, array)
        return array

    def __len__(self) -> int:
        return len(self.path)

    @property
    def lines(self) -> NDArray[np.uint64]:
        """Sorted hashes of the paragraphs worth counting, and the paragraph numbers, uint64[2, L], memory-mapped."""
        loaded: NDArray[np.uint64] = np.load(path_of(self.prefix, ".lines.npy"), mmap_mode="r")
        return loaded

    @property
    def blocks(self) -> int:
        """Number of gzip members of the text."""
        return len(self.block_offsets) - 1

    def block(self, number: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the paragraphs of one block: (number in the shard, sentences)."""
        with open(path_of(self.prefix, ".text"), "rb") as file:
            yield from self._read(file, number)

    def text(self) -> Iterator[tuple[int, list[str]]]:
        """Yield all paragraphs in order: (number in the shard, sentences)."""
        with open(path_of(self.prefix, ".text"), "rb") as file:
            for number in range(self.blocks):
                yield from self._read(file, number)

    def paragraph(self, number: int) -> list[str]:
        """Return the sentences of one paragraph, by reading only its block."""
        block = int(np.searchsorted(self.block_paragraphs, number, "right")) - 1
        return next(sentences for index, sentences in self.block(block) if index == number)

    def names(self, wanted: Sequence[int]) -> list[str]:
        """Return the names of some parts."""
        with gzip.open(path_of(self.prefix, ".names.gz"), "rt", encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")
        return [lines[number] for number in wanted]

    def _read(self, file: BinaryIO, number: int) -> Iterator[tuple[int, list[str]]]:
        begin, end = int(self.block_offsets[number]), int(self.block_offsets[number + 1])
        file.seek(begin)
        sentences = zlib.decompress(file.read(end - begin), 31).decode("utf-8").split("\n")
        first, last = int(self.block_paragraphs[number]), int(self.block_paragraphs[number + 1])
        at = 0
        for paragraph, count in enumerate(self.paragraph_sentences[first:last].tolist(), first):
            yield paragraph, sentences[at : at + count]
            at += count


def join_hashes(first: int, second: int, sentences: int) -> int:
    """Return the hash of a document from the hashes of its two parts and the number of sentences of the second."""
    return (first * pow(BASE, sentences, PRIME) + second) % PRIME


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64-bit values evenly over their range (the finaliser of splitmix64, Steele et al. 2014)."""
    z = np.asarray(values, np.uint64).copy()
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))


class DocumentTable:
    """All documents of the corpus in order, put together from the parts in the shards (24 bytes a document).

    For D documents: high, low uint64[D] (hash); bytes, characters uint32[D], at most 2³² − 1. `parts(s)` gives for
    shard s the document number of each of its parts, `joined[s]` whether its first part continues a document of the
    previous shard.
    """

    def __init__(self, prefixes: Sequence[Path]) -> None:
        self.first_document: list[int] = []
        self.joined: list[bool] = []
        count, last_path = 0, -1
        for prefix in prefixes:
            shard = Shard(prefix)
            fresh = starts_of(shard, last_path)
            self.joined.append(bool(len(shard)) and not bool(fresh[0]))
            self.first_document.append(count - self.joined[-1])
            count += int(fresh.sum())
            last_path = int(shard.path[-1]) if len(shard) else last_path
        self.high, self.low = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        self.bytes, self.characters = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
        for number, prefix in enumerate(prefixes):
            shard = Shard(prefix)
            parts = self.parts(number, shard)
            begins = np.flatnonzero(np.diff(parts, prepend=-2))
            for name in ("bytes", "characters"):
                held = getattr(self, name)
                total = held[parts[begins]] + (np.add.reduceat(getattr(shard, name), begins) if len(begins) else 0)
                held[parts[begins]] = np.minimum(total, np.iinfo(np.uint32).max)
            self._add_hashes(shard, parts, begins, self.joined[number])

    def _add_hashes(self, shard: Shard, parts: NDArray[np.int64], begins: NDArray[np.int64], joined: bool) -> None:
        whole = np.diff(np.append(begins, len(parts))) == 1
        whole[:1] &= not joined
        alone = begins[whole]
        self.high[parts[alone]], self.low[parts[alone]] = shard.high[alone], shard.low[alone]
        ends = np.append(begins[1:], len(parts))
        for begin, end in zip(begins[~whole].tolist(), ends[~whole].tolist(), strict=True):
            document = parts[begin]
            value = int(self.high[document]) << 64 | int(self.low[document])
            for part in range(begin, end):
                own = int(shard.high[part]) << 64 | int(shard.low[part])
                value = join_hashes(value, own, int(shard.sentences[part]))
            self.high[document], self.low[document] = value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF

    def __len__(self) -> int:
        return len(self.high)

    def parts(self, number: int, shard: Shard) -> NDArray[np.int64]:
        """Return the document that each part of shard `number` belongs to, int64[P]."""
        if not len(shard):
            return np.empty(0, np.int64)
        fresh = starts_of(shard, None)
        fresh[0] = not self.joined[number]
        return self.first_document[number] + np.cumsum(fresh) - (0 if self.joined[number] else 1)


def starts_of(shard: Shard, last_path: int | None) -> NDArray[np.bool_]:
    """Return whether each part begins a document, bool[P]; a part that `continues` a different file does too."""
    if not len(shard):
        return np.empty(0, bool)
    before = np.concatenate([[-1 if last_path is None else last_path], shard.path[:-1]])
    result: NDArray[np.bool_] = (shard.continues == 0) | (before != shard.path)
    return result
