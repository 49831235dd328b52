"""Reading a file of weights once: its checksum is computed while its tensors are converted.

One thread reads the file, one computes the checksum, and one converts each tensor as soon as the second has passed it,
while its bytes are in memory. Tensors that keep their type stay in the mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Condition

import torch
from torch import Tensor

from blankfill.checkpoint.weights import OwnWeights

READ = 8 << 20
"""Bytes that are read at a time."""
BLOCKS = 4
"""Number of such blocks in memory."""
AHEAD = 256 << 20
"""Bytes that the checksum may be ahead of the conversion."""
BLOCK = 1 << 15
"""Number of elements that are converted at a time."""


class ConvertedWeights(Mapping[str, Tensor]):
    """The weights of a file, of which some were converted; a converted tensor is returned once, so that what is made of
    it is not in memory beside it."""

    def __init__(self, weights: OwnWeights, converted: dict[str, Tensor]) -> None:
        self._weights, self._converted = weights, converted

    def __getitem__(self, name: str) -> Tensor:
        made = self._converted.pop(name, None)
        return self._weights[name] if made is None else made

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def read_with_checksum(path: Path, weights: OwnWeights) -> tuple[Mapping[str, Tensor], str]:
    """Return the weights of a safetensors file, converted where they must be, and the SHA-256 of the file."""
    progress = _Progress()
    with ThreadPoolExecutor(1, thread_name_prefix="blankfill-checksum") as pool:
        digest: Future[str] = pool.submit(_checksum, path, progress)
        converted: dict[str, Tensor] = {}
        try:
            for name, end in _in_file_order(path, weights):
                progress.wait_for(end)
                converted[name] = convert(weights.as_stored(name), weights.target)
                progress.done(end)
        finally:
            progress.finish()
        return (ConvertedWeights(weights, converted) if converted else weights), digest.result()


def _in_file_order(path: Path, weights: OwnWeights) -> list[tuple[str, int]]:
    """Return the names of the tensors to convert, and where each ends in the file."""
    names = [name for name in weights if weights.converts(name)]
    if not names:
        return []
    with open(path, "rb") as file:  # it has been opened before, so that it is well formed
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    ends = {name: 8 + size + header[name]["data_offsets"][1] for name in names}
    return sorted(ends.items(), key=lambda item: item[1])


class _Progress:
    """What two threads know of each other: how far the file is read, and how far it is converted."""

    def __init__(self) -> None:
        self._read = self._converted = 0
        self._changed = Condition()

    def read(self, count: int) -> None:
        """Note that more bytes were read; wait while they are far ahead of the conversion."""
        with self._changed:
            self._read += count
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._read - self._converted < AHEAD)

    def wait_for(self, end: int) -> None:
        """Wait until the file is read up to a place."""
        with self._changed:
            self._converted = max(self._converted, end - AHEAD // 2)  # a tensor may be larger than the distance
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._read >= end)

    def done(self, end: int) -> None:
        """Note that the file is converted up to a place."""
        with self._changed:
            self._converted = end
            self._changed.notify_all()

    def finish(self) -> None:
        """Let the checksum run to the end of the file."""
        self.done(1 << 62)

    def stop(self) -> None:
        """Note that nothing more will be read."""
        with self._changed:
            self._read = 1 << 62
            self._changed.notify_all()


def _checksum(path: Path, progress: _Progress) -> str:
    state, blocks = hashlib.sha256(), _Blocks(path)
    with ThreadPoolExecutor(1, thread_name_prefix="blankfill-reading") as pool:
        reading = pool.submit(blocks.read)
        try:
            for part in blocks:
                state.update(part)
                progress.read(len(part))
        finally:
            blocks.stop()
            progress.stop()
        reading.result()
    return state.hexdigest()


class _Blocks:
    """The blocks of a file, which one thread reads while another one uses them: disk and checksum take about the same
    time for a byte."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free, self._full = Queue[bytearray | None](), Queue[tuple[bytearray, int] | None]()
        for _ in range(BLOCKS):
            self._free.put(bytearray(READ))

    def read(self) -> None:
        """Read the file; raises OSError."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                while (block := self._free.get()) is not None and (count := file.readinto(block)):
                    self._full.put((block, count))
        finally:
            self._full.put(None)

    def stop(self) -> None:
        """Let the reading thread end."""
        self._free.put(None)

    def __iter__(self) -> Iterator[memoryview]:
        while (given := self._full.get()) is not None:
            block, count = given
            yield memoryview(block)[:count]
            self._free.put(block)


def convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another type, by way of fp32 in blocks that stay in the cache: torch converts between fp16 and
    bf16 at half the speed. A block is so small that one thread converts it, while the other computes the checksum."""
    made = torch.empty(tensor.shape, dtype=dtype)
    whole, source = made.view(-1), tensor.reshape(-1)
    wide = torch.empty(BLOCK)
    for k in range(0, len(source), BLOCK):
        part = source[k : k + BLOCK]
        whole[k : k + BLOCK].copy_(wide[: len(part)].copy_(part) if dtype.itemsize == part.itemsize == 2 else part)
    return made
