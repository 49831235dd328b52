"""Finds text that a corpus holds more than once: whole documents, lines, and documents that are nearly the same.

Exact duplicates are documents whose sentences are the same, white space aside (case counts); lines are paragraphs
that occur in several documents (headers, licences, navigation); near duplicates share at least 80% of their shingles
(five consecutive words; each Chinese character is a word). All of it works on hashes in numpy arrays and in passes
over ranges of the hash, so memory is bounded by the pass, not by the corpus.

Near duplicates follow Broder (1997): MinHash signatures (by rensa), cut into bands; documents that agree on a band are
candidates, and a candidate counts only when the exact Jaccard similarity of the two shingle sets says so. The bands
are sorted here one at a time instead of filling an index in memory, which costs a kilobyte a document in every library.
Not here: reading and writing the shards (`shards`), dropping the duplicates (`decide`, `stages`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError, setting

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

PER_PASS = 1 << 21
"""Number of hashes that are sorted together."""
SIMILARITY = 0.8
SHINGLE = 5
BANDS, ROWS = 20, 6
"""At similarity 0.8 a pair agrees on some band with probability 1 − (1 − 0.8⁶)²⁰ = 0.998; at 0.5 with 0.27."""
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def first_occurrences(
    high: UInt64, low: UInt64, among: NDArray[np.bool_] | None = None, per_pass: int = PER_PASS
) -> tuple[NDArray[np.bool_], dict[int, int]]:
    """Return which documents are the first with their 128-bit hash: bool[D], and a few examples {repeated: first}.

    Documents outside of `among` (bool[D]) are ignored and False in the result.
    """
    keep = np.ones(len(high), bool) if among is None else among.copy()
    examples: dict[int, int] = {}
    for members in _ranges(high, keep.copy(), per_pass):
        order = members[np.lexsort((members, low[members], high[members]))]
        same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
        repeated = np.flatnonzero(same) + 1
        keep[order[repeated]] = False
        for at in repeated[: max(0, 5 - len(examples))].tolist():
            begin = at
            while begin and same[begin - 1]:
                begin -= 1
            examples[int(order[at])] = int(order[begin])
    return keep, examples


@dataclass(frozen=True)
class LineHashes:
    """The countable lines of one shard: hashes uint64[L] sorted, their paragraph numbers, and a way from a paragraph
    number to its document (int64, -1 for a document that was dropped)."""

    hashes: UInt64
    paragraphs: NDArray[np.unsignedinteger]
    document_of: Callable[[Int64], Int64]


@dataclass(frozen=True)
class Repeated:
    """Lines of one pass that occur in several documents: hashes uint64[R] ascending, first int64[R] (shard << 32 |
    paragraph of the first occurrence), documents int64[R] that hold it, occurrences int64[R]."""

    hashes: UInt64
    first: Int64
    documents: Int64
    occurrences: Int64


def repeated_lines(shards: Sequence[LineHashes], per_pass: int = PER_PASS) -> Iterator[Repeated]:
    """Yield exact counts of the lines that occur in more than one document, in ascending order of hash."""
    total = sum(len(shard.hashes) for shard in shards)
    passes = max(1, -(-total // per_pass))
    bounds = [(1 << 64) * k // passes for k in range(1, passes)]
    cuts = [np.searchsorted(shard.hashes, np.array(bounds, np.uint64)) for shard in shards]
    for k in range(passes):
        hashes, places, documents = [], [], []
        for number, shard in enumerate(shards):
            begin = int(cuts[number][k - 1]) if k else 0
            end = int(cuts[number][k]) if k < passes - 1 else len(shard.hashes)
            paragraphs = np.asarray(shard.paragraphs[begin:end]).astype(np.int64)
            document = shard.document_of(paragraphs)
            in_kept_document = document >= 0
            hashes.append(np.asarray(shard.hashes[begin:end])[in_kept_document])
            places.append(paragraphs[in_kept_document] | number << 32)
            documents.append(document[in_kept_document])
        if not shards:
            return
        batch = _repeated(np.concatenate(hashes), np.concatenate(places), np.concatenate(documents))
        if len(batch.hashes):
            yield batch


def _repeated(hashes: UInt64, places: Int64, documents: Int64) -> Repeated:
    # Shards arrive in order and the sort is stable, so documents ascend inside a run of equal hashes, and the first
    # place of a run is its first place in the corpus.
    order = np.argsort(hashes, kind="stable")
    hashes, places, documents = hashes[order], places[order], documents[order]
    begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.empty(0, int)
    if not len(begins):
        return Repeated(hashes, places, documents, documents)
    new = np.ones(len(hashes), np.int64)
    new[1:] = (documents[1:] != documents[:-1]) | (hashes[1:] != hashes[:-1])
    distinct = np.add.reduceat(new, begins)
    sizes = np.diff(np.append(begins, len(hashes)))
    many = distinct > 1
    return Repeated(hashes[begins][many], places[begins][many], distinct[many], sizes[many])


def shingles(text: str) -> UInt64:
    """Return the distinct hashes of every five consecutive words of `text`, sorted, uint64[K].

    Case and punctuation do not count; a CJK character is a word. A text of fewer than five words has one shingle, a
    text without words none.
    """
    words = np.array([crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())], np.uint64)
    if not len(words):
        return words
    length = min(SHINGLE, len(words))
    value = np.zeros(len(words) - length + 1, np.uint64)
    for k in range(length):
        value = (value ^ words[k : len(words) - length + 1 + k]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return np.unique(value)


def jaccard(first: UInt64, second: UInt64) -> float:
    """Return the size of the intersection over the size of the union of two sets of shingles (each sorted and
    distinct)."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    either = len(first) + len(second) - both
    return both / either if either else 0.0


def require_rensa() -> None:
    """Raise UserError when rensa is missing."""
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Finding near duplicates needs the package rensa: run `pip install 'blankfill[text]'` or use "
            f"{setting('dedup', 'exact')}."
        ) from error


def signatures(sets: Sequence[UInt64]) -> NDArray[np.uint32]:
    """Return MinHash signatures, uint32[D, 120]; the minimum of two is the signature of the union of their sets.

    Raises UserError when rensa is missing.
    """
    require_rensa()
    from rensa import RMinHash

    if not sets:
        return np.empty((0, BANDS * ROWS), np.uint32)
    offsets = np.concatenate([[0], np.cumsum([len(hashes) for hashes in sets])]).astype(np.uint64)
    flat = np.concatenate([np.empty(0, np.uint64), *sets])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, BANDS * ROWS, 1)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(sets), BANDS * ROWS)


def band_hashes(signature: NDArray[np.uint32]) -> UInt64:
    """Return a hash for each band of each signature uint32[D, 120], uint64[20, D]; 0 for a document without words."""
    empty = (signature == np.iinfo(np.uint32).max).all(axis=1)
    value = np.zeros((BANDS, len(signature)), np.uint64)
    for row in range(ROWS):
        value = (value ^ signature[:, row::ROWS].T.astype(np.uint64)) * np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
    value |= np.uint64(1)
    value[:, empty] = 0
    return value


def candidate_pairs(bands: Iterable[UInt64]) -> Int64:
    """Return pairs (later, earlier) of documents that agree on a band, sorted, int64[P, 2].

    bands: uint64[D] for each band in turn. In a large group each document is paired with the first two and with the two
    before it, so that a thousand copies of a template make thousands of pairs and not a million.
    """
    candidates = np.empty((0, 2), np.int64)
    for band in bands:
        order = np.argsort(band, kind="stable")
        values = band[order]
        begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else order[:0]
        sizes = np.diff(np.append(begins, len(values)))
        start = np.repeat(begins, sizes)
        at = np.arange(len(values))
        real = values != 0
        pairs = []
        for partner in (start, start + 1, at - 1, at - 2):
            good = real & (partner < at) & (partner >= start)
            pairs.append(np.stack([order[at[good]], order[partner[good]]], axis=1))
        candidates = np.unique(np.concatenate([candidates, *pairs]), axis=0)
    return candidates


def near_duplicates(
    pairs: Int64, shingles_of: Callable[[int, int], tuple[UInt64, UInt64]], similarity: float = SIMILARITY
) -> dict[int, int]:
    """Return {dropped document: earlier, kept document that it resembles} for candidate pairs sorted by the later
    document.

    shingles_of: a pair (a, b) → the shingles of both. A document is dropped only for a document that stays, so a chain
    A ~ B ~ C drops C only when C resembles A itself.
    """
    dropped: dict[int, int] = {}
    for later, earlier in pairs.tolist():
        if later in dropped or earlier in dropped:
            continue
        first, second = shingles_of(earlier, later)
        if min(len(first), len(second)) < similarity * max(len(first), len(second)):
            continue
        if jaccard(first, second) >= similarity:
            dropped[later] = earlier
    return dropped


def _ranges(high: UInt64, among: NDArray[np.bool_], per_pass: int) -> Iterator[Int64]:
    """Yield the indices of the documents whose hash lies in each of several equal ranges; equal hashes share a
    range."""
    passes = max(1, -(-len(high) // per_pass))
    if passes == 1:
        yield np.flatnonzero(among)
        return
    # The hashes have 127 bits, so their high words lie below 2^63.
    bucket = high >> np.uint64(31)
    bucket *= np.uint64(passes)
    bucket >>= np.uint64(32)
    narrow = bucket.astype(np.uint32)
    del bucket
    for k in range(passes):
        yield np.flatnonzero((narrow == k) & among)
