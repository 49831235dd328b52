"""Token files: Megatron-LM's `.bin` + `.idx`, written as a stream and read through a memory map.

`.bin` holds only token ids, one after the other. `.idx` holds where they are cut (all little-endian):

    b"MMIDIDX\\0\\0"   u64 version 1   u8 dtype code   u64 S sequences   u64 E entries of the document array
    i32[S] tokens in each sequence   i64[S] byte offset of each sequence   i64[E] document array

A *sequence* is a sentence here. The document array holds sequence numbers: entry 0 is 0 and entry d+1 is where document
d ends, so E = documents + 1. Layout after Megatron-LM, `megatron/core/datasets/indexed_dataset.py`; files of Megatron's
builder open here and ours open there. Not here: what the ids mean (`tokenizer`), which text went in (`prepare`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from blankfill.errors import UserError
from blankfill.system.files import part_of, sync_file, sync_folder
from blankfill.system.marks import fingerprint

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
CHUNK = 1 << 20
"""Number of sequences that are handled together where an index is read or written piece by piece."""

Int64 = NDArray[np.int64]


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype of token files for a vocabulary: uint16 while every id fits (up to 65,536 ids), else int32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


class IndexedWriter:
    """Writes one pair of token files in constant memory.

    `prefix` is the path without `.bin`/`.idx`. Data go to temporary files beside it; `finish` syncs and renames them,
    so that a pair under its own name is always whole. With `synced` False the caller syncs the files. As a context
    manager it finishes on success and removes the temporary files after an exception.
    """

    def __init__(self, prefix: str | os.PathLike[str], dtype: DTypeLike, synced: bool = True) -> None:
        self.prefix = Path(prefix)
        self.synced = synced
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = {np.dtype(name): code for code, name in DTYPES.items()}
        if self.dtype not in codes:
            raise ValueError(f"token files cannot hold {self.dtype}")
        self.code = codes[self.dtype]
        self.sequences = self.documents = self.tokens = 0
        self._pending: int | None = None
        self._paths = {
            part: part_of(path_of(self.prefix, f".{part}")) for part in ("bin", "idx", "lengths", "documents")
        }
        self._files: dict[str, BinaryIO] = {
            part: open(self._paths[part], "wb")  # noqa: SIM115 - closed by finish or abandon
            for part in ("bin", "lengths", "documents")
        }
        self._files["documents"].write(struct.pack("<q", 0))

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    def add_document(self, ids: ArrayLike, lengths: ArrayLike) -> None:
        """Add one document: ids int[N] flat, lengths int[S] tokens of each of its sentences (sum N)."""
        self.add_documents(ids, lengths, [len(np.atleast_1d(np.asarray(lengths)))])

    def add_documents(self, ids: ArrayLike, lengths: ArrayLike, sentences: ArrayLike, join: bool = False) -> None:
        """Add several documents at once: ids int[N], lengths int[S] (sum N), sentences int[D] of each document (sum S).

        join: the first of them continues the document that was added last. Raises ValueError where the sums disagree or
        an id does not fit the dtype.
        """
        ids, lengths = np.asarray(ids), np.asarray(lengths, dtype="<i4")
        ends = np.cumsum(np.asarray(sentences, dtype="<i8"))
        if int(lengths.sum(dtype=np.int64)) != len(ids) or (int(ends[-1]) if len(ends) else 0) != len(lengths):
            raise ValueError("lengths must sum to the number of ids, and sentences to the number of lengths")
        if len(ids) and self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            if ids.min() < limits.min or ids.max() > limits.max:
                raise ValueError(f"a token id does not fit {self.dtype}: {ids.min()}…{ids.max()}")
        self._files["bin"].write(np.ascontiguousarray(ids, self.dtype).data)
        self._files["lengths"].write(np.ascontiguousarray(lengths).data)
        self._add_ends(ends, join)
        self.sequences += len(lengths)
        self.tokens += len(ids)

    def append(self, other: IndexedCorpus, join: bool = False) -> None:
        """Add all documents of another pair by copying bytes; `join` as in `add_documents`. Dtypes must be equal."""
        if other.dtype != self.dtype:
            raise ValueError(f"cannot append {other.dtype} tokens to {self.dtype} tokens")
        with open(path_of(other.prefix, ".bin"), "rb") as source:
            shutil.copyfileobj(source, self._files["bin"], 1 << 22)
        for begin in range(0, len(other.lengths), CHUNK):
            self._files["lengths"].write(np.ascontiguousarray(other.lengths[begin : begin + CHUNK]).data)
        self._add_ends(other.document_starts[1:], join)
        self.sequences += len(other.lengths)
        self.tokens += len(other.tokens)

    def finish(self) -> None:
        """Write the index, sync both files and give them their names."""
        if self._pending is not None:
            self._files["documents"].write(struct.pack("<q", self._pending))
            self._pending = None
        for part in ("lengths", "documents"):
            self._files[part].close()
        with open(self._paths["idx"], "wb") as index:
            index.write(HEADER.pack(MAGIC, 1, self.code, self.sequences, self.documents + 1))
            with open(self._paths["lengths"], "rb") as lengths:
                shutil.copyfileobj(lengths, index, 1 << 22)
                lengths.seek(0)
                offset = 0
                while block := lengths.read(4 * CHUNK):
                    sizes = np.frombuffer(block, "<i4").astype(np.int64) * self.dtype.itemsize
                    ends = np.cumsum(sizes) + offset
                    index.write((ends - sizes).astype("<i8").data)
                    offset = int(ends[-1])
            with open(self._paths["documents"], "rb") as documents:
                shutil.copyfileobj(documents, index, 1 << 22)
        self._files["bin"].close()
        if self.synced:
            for part in ("bin", "idx"):
                sync_file(self._paths[part])
        path_of(self.prefix, ".idx").unlink(missing_ok=True)
        self._paths["bin"].replace(path_of(self.prefix, ".bin"))
        self._paths["idx"].replace(path_of(self.prefix, ".idx"))
        if self.synced:
            sync_folder(self.prefix.parent)
        self._paths["lengths"].unlink()
        self._paths["documents"].unlink()

    def abandon(self) -> None:
        """Close and remove the temporary files; no file is left under `prefix`."""
        for file in self._files.values():
            file.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def _add_ends(self, ends: NDArray[np.int64], join: bool) -> None:
        if not len(ends):
            return
        if self._pending is not None and not join:
            self._files["documents"].write(struct.pack("<q", self._pending))
        self.documents += len(ends) - (1 if join and self._pending is not None else 0)
        absolute = np.asarray(ends, dtype="<i8") + self.sequences
        self._files["documents"].write(np.ascontiguousarray(absolute[:-1]).data)
        self._pending = int(absolute[-1])


class IndexedCorpus:
    """Memory-mapped pair of token files; opening it reads the index once and no tokens.

    tokens: the whole of `.bin`, flat, of `dtype` (read-only memory map). lengths: int32[S], tokens of each sentence.
    document_starts: int64[D+1], in sentences. `len()` is the number of documents D. Raises UserError when the files
    are missing, are not token files, are cut short, disagree with each other, or are empty.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = Path(prefix)
        if self.prefix.suffix in (".bin", ".idx"):
            self.prefix = self.prefix.with_suffix("")
        index, tokens = path_of(self.prefix, ".idx"), path_of(self.prefix, ".bin")
        for path in (index, tokens):
            if not path.is_file():
                raise UserError(f"{path} does not exist: make token files with `blankfill prepare`.")
        code, self.sequences, entries = self._header(index)
        if code not in DTYPES or DTYPES[code][-2] == "f":
            kind = f"{np.dtype(DTYPES[code])} values" if code in DTYPES else f"an unknown dtype (code {code})"
            raise UserError(f"{index} describes {kind}, not token ids: prepare the text with `blankfill prepare`.")
        self.dtype = np.dtype(DTYPES[code])
        size, want = index.stat().st_size, HEADER.size + 12 * self.sequences + 8 * entries
        if size < want:
            raise UserError(
                f"{index} is cut short ({size:,} bytes of {want:,}): copy it again, or prepare the text again."
            )
        if not self.sequences or entries < 2:
            raise UserError(f"{index} holds no document: prepare some text with `blankfill prepare`.")
        at = HEADER.size
        self.lengths: NDArray[np.int32] = np.memmap(index, "<i4", "r", at, (self.sequences,))
        self.offsets: Int64 = np.memmap(index, "<i8", "r", at + 4 * self.sequences, (self.sequences,))
        starts = np.memmap(index, "<i8", "r", at + 12 * self.sequences, (entries,))
        self.document_starts: Int64 = starts
        self._check_documents(index, starts)
        total = self._check_contiguous(index)
        size = tokens.stat().st_size
        if size != total * self.dtype.itemsize:
            raise UserError(
                f"{tokens} has {size:,} bytes where its index describes {total * self.dtype.itemsize:,}: one of "
                "the two files is cut short or belongs to another pair; copy both again, or prepare the text again."
            )
        if not total:
            raise UserError(f"{tokens} holds no tokens: prepare some text with `blankfill prepare`.")
        self.tokens: NDArray[np.integer] = np.memmap(tokens, self.dtype, "r", 0, (total,))

    def __len__(self) -> int:
        return len(self.document_starts) - 1

    def __reduce__(self) -> tuple[type[IndexedCorpus], tuple[str]]:
        return IndexedCorpus, (str(self.prefix),)

    @cached_property
    def sentence_starts(self) -> Int64:
        """int64[S+1]: where each sentence begins in `tokens`, and the total at the end (8 bytes a sentence)."""
        starts = np.empty(self.sequences + 1, np.int64)
        np.floor_divide(self.offsets, self.dtype.itemsize, out=starts[:-1])
        starts[-1] = len(self.tokens)
        return starts

    @cached_property
    def document_tokens(self) -> Int64:
        """int64[D+1]: where each document begins in `tokens`, and the total at the end."""
        first = np.asarray(self.document_starts)
        inside = np.minimum(first, self.sequences - 1)
        return np.where(first < self.sequences, self.offsets[inside] // self.dtype.itemsize, len(self.tokens))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the index and of the fingerprint of the tokens, 32 hex digits."""
        state = hashlib.blake2b(digest_size=16)
        with open(path_of(self.prefix, ".idx"), "rb") as index:
            while block := index.read(1 << 22):
                state.update(block)
        state.update(fingerprint(path_of(self.prefix, ".bin")).encode())
        return state.hexdigest()

    def _header(self, index: Path) -> tuple[int, int, int]:
        with open(index, "rb") as file:
            head = file.read(HEADER.size)
        if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
            raise UserError(
                f"{index} is not a token index (it does not begin with MMIDIDX): make token files with "
                "`blankfill prepare`, or with Megatron-LM's preprocess_data.py."
            )
        if len(head) < HEADER.size:
            raise UserError(f"{index} is cut short ({len(head)} bytes, not even its header): copy or prepare it again.")
        _, version, code, sequences, entries = HEADER.unpack(head)
        if version != 1:
            raise UserError(f"{index} is version {version} of the format; only version 1 is known: prepare it again.")
        return code, sequences, entries

    def _check_documents(self, index: Path, starts: Int64) -> None:
        bad = int(starts[0]) != 0 or int(starts[-1]) != self.sequences
        for begin in range(0, len(starts) - 1, CHUNK):
            bad = bad or bool((np.diff(starts[begin : begin + CHUNK + 1]) < 0).any())
        if bad:
            raise UserError(
                f"{index} is damaged: its document starts do not run from 0 to {self.sequences:,} in order; "
                "copy it again, or prepare the text again."
            )

    def _check_contiguous(self, index: Path) -> int:
        """Return the number of tokens that the sentences cover; sentences must follow each other in order, without
        gaps."""
        total = 0
        for begin in range(0, self.sequences, CHUNK):
            lengths = self.lengths[begin : begin + CHUNK].astype(np.int64)
            if (lengths < 0).any():
                raise UserError(f"{index} is damaged: it holds a negative sentence length; prepare the text again.")
            ends = np.cumsum(lengths) + total
            wrong = np.flatnonzero((ends - lengths) * self.dtype.itemsize != self.offsets[begin : begin + CHUNK])
            if len(wrong):
                raise UserError(
                    f"{index}: sentence {begin + int(wrong[0]):,} does not begin where the one before it ends; only "
                    " files without gaps can be read, so write this pair again with Megatron-LM's builder, in order."
                )
            total = int(ends[-1])
        return total


def path_of(prefix: str | os.PathLike[str], suffix: str) -> Path:
    """Return `prefix` with `suffix` added to its last name (a dot in the name is kept: `wiki.en` → `wiki.en.bin`)."""
    path = Path(prefix)
    return path.with_name(path.name + suffix)
