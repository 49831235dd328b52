"""The last stage of `prepare`: token shards in corpus order → one pair of token files for each split, and counts.

A document that was cut between two shards is joined again if both parts are in the same split. Not here: moving the
files to their place (`prepare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter, path_of, token_dtype
from blankfill.corpus.stages import SIDES, TRAIN, VALID
from blankfill.corpus.summary import Split
from blankfill.system import console
from blankfill.system.files import whole_file


@dataclass(frozen=True)
class Merged:
    """Result of `merge`: splits by number, files to publish by name, unigram int64[V] (counts of the training tokens).

    swapped: all text had fallen to validation, so it became the training split.
    """

    splits: Mapping[int, Split]
    files: Mapping[str, Path]
    unigram: NDArray[np.int64]
    swapped: bool


def merge(
    shards: Sequence[Path], marks: Sequence[Mapping[str, Any]], joined: Sequence[bool], vocabulary: int, folder: Path
) -> Merged:
    """Join the token shards `shards` (prefixes) into `folder`.

    marks: the results of `stages.encode`. joined: whether a shard continues the last document of the previous shard.
    vocabulary: the number of ids.
    """
    swapped = not any(mark["documents"][SIDES[TRAIN]] for mark in marks)
    origins = {TRAIN: VALID} if swapped else {TRAIN: TRAIN, VALID: VALID}
    splits = {side: Split() for side in SIDES}
    files: dict[str, Path] = {}
    total = sum(path_of(shard, f".{name}.bin").stat().st_size for shard in shards for name in SIDES.values())
    with console.progress("4/4 merging", total, "B") as bar:
        for side, origin in origins.items():
            if not any(mark["documents"][SIDES[origin]] for mark in marks):
                continue
            target = folder / SIDES[side]
            writer = _merge_side(target, vocabulary, shards, marks, origin, joined, bar)
            files |= {target.name + suffix: path_of(target, suffix) for suffix in (".bin", ".idx")}
            characters = sum(mark["characters"][SIDES[origin]] for mark in marks)
            splits[side] = Split(writer.documents, writer.sequences, writer.tokens, characters)
    unigram = np.zeros(vocabulary, np.int64)
    with open(files["train.bin"], "rb") as file:
        while len(ids := np.fromfile(file, token_dtype(vocabulary), 1 << 20)):
            unigram += np.bincount(ids, minlength=vocabulary)
    files["unigram.npy"] = folder / "unigram.npy"
    with whole_file(files["unigram.npy"]) as file:
        np.save(file, unigram)
    return Merged(splits, files, unigram, swapped)


def _merge_side(
    target: Path, vocabulary: int, shards: Sequence[Path], marks: Sequence[Mapping[str, Any]], side: int,
    joined: Sequence[bool], bar: console.Bar,
) -> IndexedWriter:  # fmt: skip
    carried = 0
    with IndexedWriter(target, token_dtype(vocabulary)) as writer:
        for shard, mark, goes_on in zip(shards, marks, joined, strict=True):
            if mark["documents"][SIDES[side]]:
                part = IndexedCorpus(path_of(shard, f".{SIDES[side]}"))
                writer.append(part, join=goes_on and carried == mark["first"] == side)
                bar.advance(part.tokens.nbytes)
            carried = carried if mark["last"] == -1 and goes_on else max(0, mark["last"])
    return writer
