"""Decides, between reading and encoding, which documents and lines `prepare` keeps, and which split each is in.

Reads the records of the shards, writes for each shard an action for each of its parts (`NAME.actions.npy`) and the
paragraphs to leave out (`NAME.skip.npy`), and returns a `Decision`. Memory: about 40 bytes a document; no text. Not
here: how duplicates are found (`dedup`), how long documents are cut (`stages`).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus import dedup
from blankfill.corpus.indexed import path_of
from blankfill.corpus.shards import DocumentTable, Shard, mixed
from blankfill.corpus.stages import DROP, LONG_BYTES, SECTIONS, TRAIN, VALID, SketchTask, sketch

Progress = Callable[[Callable[[Any], Any], Sequence[Any], str], None]
"""Function that runs the tasks that have no marker yet, in worker processes, under a description."""

OUTCOMES = (".actions.npy", ".skip.npy")
"""Suffixes of the files written for each shard; the second only where lines are left out."""

Int64 = NDArray[np.int64]
SHINGLED_BYTES = 4_000_000
"""Size above which a document is compared by a sample of its shingles; the larger the document, the smaller the
share."""


@dataclass(frozen=True)
class Decision:
    """Result of `decide`: counts of dropped documents by reason, repeated lines, examples; written to `decide.json`."""

    documents: int
    kept: int
    dropped: dict[str, int]
    repeated_line_count: int
    repeated_lines: list[tuple[int, str]]
    duplicates: list[tuple[str, str]]
    joined: list[bool]
    """For each shard, whether its first part continues the last document of the previous shard."""


def decide(
    shards: Mapping[Path, int], folder: Path, mode: str, validation: float, min_chars: int, run: Progress
) -> Decision:
    """Decide about every document of the shards (prefix → bytes of text) and write the outcome under `folder`.

    mode: "exact", "lines", "near" or "none". validation: share of the text that goes to validation, 0 to 1.
    """
    prefixes = list(shards)
    table = DocumentTable(prefixes)
    keep = table.characters >= max(1, min_chars)
    dropped = {"empty or too short": int((~keep).sum())}
    examples: dict[int, int] = {}
    if mode != "none":
        first, examples = dedup.first_occurrences(table.high, table.low, among=keep)
        dropped["exact duplicates"] = int(keep.sum() - first.sum())
        keep = first
    if mode == "near":
        near = _near(shards, table, keep, folder, run)
        keep[list(near)] = False
        dropped["near duplicates"] = len(near)
        examples = {**dict(list(near.items())[:5]), **dict(list(examples.items())[:2])}
    count, lines = _lines(prefixes, table, keep, folder, drop=mode == "lines")
    actions = _actions(table, keep, validation)
    for number, prefix in enumerate(prefixes):
        np.save(path_of(folder / prefix.name, ".actions.npy"), actions[table.parts(number, Shard(prefix))])
    return Decision(
        documents=len(table), kept=int(keep.sum()), dropped=dropped, repeated_line_count=count, repeated_lines=lines,
        duplicates=_names(prefixes, table, examples), joined=table.joined,
    )  # fmt: skip


def _actions(table: DocumentTable, keep: NDArray[np.bool_], validation: float) -> NDArray[np.uint8]:
    actions = np.full(len(table), TRAIN, np.uint8)
    if validation > 0:
        limit = np.uint64(min(int(validation * 2.0**64), (1 << 64) - 1))
        for begin in range(0, len(table), dedup.PER_PASS):
            some = slice(begin, begin + dedup.PER_PASS)
            actions[some][mixed(table.high[some] ^ table.low[some]) < limit] = VALID
        actions[table.bytes > LONG_BYTES] = SECTIONS
    actions[~keep] = DROP
    return actions


def _lines(
    prefixes: Sequence[Path], table: DocumentTable, keep: NDArray[np.bool_], folder: Path, drop: bool, top: int = 20
) -> tuple[int, list[tuple[int, str]]]:
    """Return the number of lines that occur in several documents, and the most common ones; with `drop`, write which
    paragraphs to leave out."""
    count = 0
    best: list[tuple[int, int, int]] = []
    stored = [folder / "lines.hashes", folder / "lines.first"]
    with open(stored[0], "wb") as hashes, open(stored[1], "wb") as firsts:
        for batch in dedup.repeated_lines([_line_hashes(p, n, table, keep) for n, p in enumerate(prefixes)]):
            count += len(batch.hashes)
            if drop:
                hashes.write(np.ascontiguousarray(batch.hashes).data)
                firsts.write(np.ascontiguousarray(batch.first).data)
            for at in np.argsort(-batch.documents, kind="stable")[:top].tolist():
                entry = (int(batch.documents[at]), -int(batch.first[at]), int(batch.hashes[at]))
                (heapq.heappush if len(best) < top else heapq.heappushpop)(best, entry)
    texts = []
    for documents, first, _ in sorted(best, reverse=True):
        shard, paragraph = divmod(-first, 1 << 32)
        texts.append((documents, " ".join(Shard(prefixes[shard]).paragraph(paragraph))))
    if drop:
        known = np.memmap(stored[0], np.uint64, "r") if count else np.empty(0, np.uint64)
        first_places = np.memmap(stored[1], np.int64, "r") if count else np.empty(0, np.int64)
        for number, prefix in enumerate(prefixes):
            own = Shard(prefix).lines
            at = np.minimum(np.searchsorted(known, own[0]), max(0, count - 1))
            again = (known[at] == own[0]) & (first_places[at] != (own[1].astype(np.int64) | number << 32)) \
                if count else np.zeros(own.shape[1], bool)  # fmt: skip
            np.save(path_of(folder / prefix.name, ".skip.npy"), np.sort(own[1][again].astype(np.int64)))
    return count, texts


def _line_hashes(prefix: Path, number: int, table: DocumentTable, keep: NDArray[np.bool_]) -> dedup.LineHashes:
    def document_of(paragraphs: Int64) -> Int64:
        shard = Shard(prefix)
        part = np.searchsorted(np.cumsum(shard.paragraphs), paragraphs, "right")
        document: Int64 = table.parts(number, shard)[part]
        return np.where(keep[document], document, -1)

    lines = Shard(prefix).lines
    return dedup.LineHashes(lines[0], lines[1], document_of)


def _near(
    shards: Mapping[Path, int], table: DocumentTable, keep: NDArray[np.bool_], folder: Path, run: Progress
) -> dict[int, int]:
    """Return {dropped document: kept document}; signatures, bands and shingles are held on disk."""
    dedup.require_rensa()
    prefixes = list(shards)
    targets = [path_of(folder / prefix.name, ".signatures") for prefix in prefixes]
    run(
        sketch,
        [SketchTask(p, t, None, shards[p]) for p, t in zip(prefixes, targets, strict=True)],
        "comparing documents",
    )
    bands = _band_files(prefixes, targets, table, keep, folder)
    pairs = dedup.candidate_pairs(np.fromfile(band, np.uint64) for band in bands)
    for band in bands:
        band.unlink()
    sizes = {
        int(d): 1 << max(0, math.ceil(math.log2(max(1, table.bytes[d] / SHINGLED_BYTES)))) for d in np.unique(pairs)
    }
    shingles_of = _shingles(shards, table, sizes, folder, run)
    return dedup.near_duplicates(pairs, partial(_at_modulus, shingles_of, sizes))


def _at_modulus(load: Callable[[int], NDArray[np.uint64]], sizes: dict[int, int], a: int, b: int) -> Any:
    # Both documents of a pair must be sampled alike; the sample of the larger modulus is part of the other.
    modulus = np.uint64(max(sizes[a], sizes[b]))
    return tuple(hashes[hashes % modulus == 0] for hashes in (load(a), load(b)))


def _band_files(
    prefixes: Sequence[Path], targets: Sequence[Path], table: DocumentTable, keep: NDArray[np.bool_], folder: Path
) -> list[Path]:
    """Return one file of uint64[D] for each band, from the signatures of the parts of each document."""
    paths = [folder / f"band-{band}.u64" for band in range(dedup.BANDS)]
    files = [open(path, "wb") for path in paths]  # noqa: SIM115 - closed below
    open_row: NDArray[np.uint32] | None = None
    try:
        written = 0

        def write(rows: NDArray[np.uint32]) -> None:
            nonlocal written
            values = dedup.band_hashes(rows)
            values[:, ~keep[written : written + len(rows)]] = 0
            for file, row in zip(files, values, strict=True):
                file.write(np.ascontiguousarray(row).data)
            written += len(rows)

        for number, prefix in enumerate(prefixes):
            parts = table.parts(number, Shard(prefix))
            own = np.load(path_of(targets[number], ".npy"))
            rows = np.minimum.reduceat(own, np.flatnonzero(np.diff(parts, prepend=-2)), axis=0)
            if open_row is not None and table.joined[number]:
                rows[0] = np.minimum(rows[0], open_row)
            elif open_row is not None:
                write(open_row[None])
            write(rows[:-1])
            open_row = rows[-1]
        if open_row is not None:
            write(open_row[None])
    finally:
        for file in files:
            file.close()
    return paths


def _shingles(
    shards: Mapping[Path, int], table: DocumentTable, moduli: dict[int, int], folder: Path, run: Progress
) -> Callable[[int], NDArray[np.uint64]]:
    """Write the shingles of the documents in `moduli` to one file, and return a way to read them from it."""
    tasks: list[SketchTask] = []
    where: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    for number, prefix in enumerate(shards):
        wanted = []
        for part, document in enumerate(table.parts(number, Shard(prefix)).tolist()):
            if document in moduli:
                wanted.append((part, moduli[document]))
                where[document].append((len(tasks), str(part)))
        if wanted:
            tasks.append(SketchTask(prefix, path_of(folder / prefix.name, ".shingles"), tuple(wanted), shards[prefix]))
    for task in tasks:
        # An interrupted run may have wanted other parts.
        path_of(task.prefix, ".json").unlink(missing_ok=True)
    run(sketch, tasks, "checking candidates")
    place: dict[int, tuple[int, int]] = {}
    path = folder / "shingles.u64"
    with open(path, "wb") as file:
        at, loaded, arrays = 0, -1, None
        for document, parts in sorted(where.items()):
            pieces = []
            for source, key in parts:
                if source != loaded:
                    arrays, loaded = np.load(path_of(tasks[source].prefix, ".npz")), source
                assert arrays is not None
                if key in arrays:
                    pieces.append(arrays[key])
            values = np.unique(np.concatenate([np.empty(0, np.uint64), *pieces]))
            file.write(values.data)
            place[document] = (at, len(values))
            at += len(values)
    return partial(_read_shingles, path, place)


def _read_shingles(path: Path, place: dict[int, tuple[int, int]], document: int) -> NDArray[np.uint64]:
    begin, count = place[document]
    return np.fromfile(path, np.uint64, count, offset=8 * begin)


def _names(prefixes: Sequence[Path], table: DocumentTable, examples: dict[int, int]) -> list[tuple[str, str]]:
    """Return the names of a few pairs of documents (dropped, kept)."""
    wanted = sorted({document for pair in examples.items() for document in pair})
    names: dict[int, str] = {}
    bounds = [*table.first_document, len(table)]
    for document in wanted:
        number = int(np.searchsorted(bounds[:-1], document, "right")) - 1
        # A document that began in an earlier shard is named by that shard.
        while number and table.joined[number] and bounds[number] == document:
            number -= 1
        shard = Shard(prefixes[number])
        part = int(np.flatnonzero(table.parts(number, shard) == document)[0])
        names[document] = shard.names([part])[0]
    return [(names[later], names[earlier]) for later, earlier in examples.items()]
