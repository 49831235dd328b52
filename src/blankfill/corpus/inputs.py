"""The sources of a corpus: found, identified by size and time, and grouped into tasks of reading.

Not here: how a source is read (`sources`), the stages of `prepare` (`prepare`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.stages import ExtractTask
from blankfill.errors import UserError

if TYPE_CHECKING:
    from blankfill.corpus.sources import Source, SourceOptions

TASK_BYTES = (1_000_000, 24_000_000)
"""Smallest and largest size in bytes of a task of reading."""
RANGE_BYTES = 16 << 20
"""Size in bytes of the ranges that large files are cut into."""
EXPANSION = 4.0
"""Ratio of unpacked to packed text, for estimates of size."""


def source_options(config: PrepareConfig) -> SourceOptions:
    """Return how the sources are read."""
    from blankfill.corpus.sources import SourceOptions

    return SourceOptions(documents=config.documents, strip=config.strip, **vars(config.table_options()))


def found_sources(paths: Sequence[str], out: Path, options: SourceOptions, skipped: list[str]) -> list[Source]:
    """Return the sources to read, without those inside `out`."""
    from blankfill.corpus.sources import discover

    inside = out.resolve()
    sources = discover(paths, options, skipped, RANGE_BYTES)
    outside = [s for s in sources if not (Path(s.path).is_file() and Path(s.path).resolve().is_relative_to(inside))]
    if not outside:
        raise UserError(f"There is nothing to read in {', '.join(map(str, paths))} but {out} itself: name a text file.")
    return outside


def identity_of(sources: Sequence[Source]) -> str:
    """Return a hash of all sources: path, range, size and time of change; for piped input, the content."""
    state = hashlib.blake2b(digest_size=16)
    for source in sources:
        path = Path(source.path)
        described: list[Any] = [source.kind, source.start, source.end, source.size, source.encoding.name]
        if source.name:
            with open(path, "rb") as file:
                described.append(hashlib.file_digest(file, "blake2b").hexdigest())
        elif path.is_file():
            described += [str(path.resolve()), path.stat().st_mtime_ns]
        state.update(json.dumps(described).encode())
    return state.hexdigest()


def extract_tasks(sources: Sequence[Source], folder: Path, options: SourceOptions) -> list[ExtractTask]:
    """Group consecutive sources into tasks of about equal size, which does not depend on the number of workers."""
    total = sum(estimated_bytes(source) for source in sources)
    target = min(max(total // 64, TASK_BYTES[0]), TASK_BYTES[1])
    groups: list[list[tuple[Source, int]]] = []
    size = target
    number, last = -1, None
    for source in sources:
        number += source.path != last
        last = source.path
        if size >= target:
            groups.append([])
            size = 0
        groups[-1].append((source, number))
        size += estimated_bytes(source)
    return [
        ExtractTask(
            prefix=folder / f"{n:05}", sources=tuple(source for source, _ in group),
            paths=tuple(path for _, path in group), options=options,
            size=sum(source.size for source, _ in group),
        )
        for n, group in enumerate(groups)
    ]  # fmt: skip


def estimated_bytes(source: Source) -> int:
    """Return about how many bytes of text a source has."""
    return int(source.size * (EXPANSION if source.compression else 1.0))


def names_of(sources: Sequence[Source]) -> str:
    """Return the names of a few sources, for a message."""
    names = list(dict.fromkeys(source.name or source.path for source in sources))
    return ", ".join(map(str, names[:3])) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
