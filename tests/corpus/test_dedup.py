"""Duplicates: worked-out cases, brute force, and agreement with datasketch."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import dedup
from blankfill.errors import UserError


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30), st.integers(1, 8))
def test_first_occurrences_are_those_of_a_set(hashes, per_pass):
    high = np.array([h << 61 for h, _, _ in hashes], np.uint64)
    low = np.array([low for _, low, _ in hashes], np.uint64)
    among = np.array([wanted for _, _, wanted in hashes], bool)
    keep, examples = dedup.first_occurrences(high, low, among, per_pass)
    seen: dict = {}
    for index, (*key, wanted) in enumerate(hashes):
        assert keep[index] == (wanted and tuple(key) not in seen)
        if wanted:
            seen.setdefault(tuple(key), index)
    assert all(seen[hashes[later][:2]] == earlier < later for later, earlier in examples.items())
    assert len(examples) == min(5, int(among.sum() - keep.sum()))


def lines_of(shards, dropped=()):
    """LineHashes of [[(document, [line hashes])]]; documents numbered over all shards."""
    made, number = [], 0
    for documents in shards:
        owners = [number + d for d, lines in enumerate(documents) for _ in lines]
        hashes = np.array([line for lines in documents for line in lines], np.uint64)
        order = np.argsort(hashes, kind="stable")
        owner = np.array([-1 if number in dropped else number for number in owners], np.int64)
        made.append(dedup.LineHashes(hashes[order], order.astype(np.uint64), lambda p, owner=owner: owner[p]))
        number += len(documents)
    return made


def flattened(actual):
    return [
        (int(h), int(f) >> 32, int(f) & 0xFFFFFFFF, int(d), int(o))
        for entry in actual
        for h, f, d, o in zip(entry.hashes, entry.first, entry.documents, entry.occurrences, strict=True)
    ]


@pytest.mark.parametrize("per_pass", [1, 3, 100])
def test_repeated_lines_worked_out(per_pass):
    top = (1 << 64) - 1
    shards = [[[7, 9, 7, top], [9]], [[8, 8]], [[5, 9, 7], [top, 1]]]
    # 9 stands in documents 0, 1 and 3; 7 twice in 0, once in 3; the greatest hash in 0 and 4; 8 twice in 2 alone.
    assert flattened(dedup.repeated_lines(lines_of(shards), per_pass)) == [
        (7, 0, 0, 2, 3), (9, 0, 1, 3, 3), (top, 0, 3, 2, 2),
    ]  # fmt: skip
    assert flattened(dedup.repeated_lines(lines_of(shards, dropped={0}), per_pass)) == [(9, 0, 4, 2, 2)]


def test_no_lines():
    assert flattened(dedup.repeated_lines([])) == []
    assert flattened(dedup.repeated_lines(lines_of([[[]]]))) == []


def test_shingles():
    assert len(dedup.shingles("One two, three four -- five! SIX")) == 2
    assert np.array_equal(
        dedup.shingles("one two three four five six"), dedup.shingles("One two, three four -- five! SIX")
    )
    assert len(dedup.shingles("今天天气很好。")) == 2
    assert len(dedup.shingles("two words")) == 1
    assert len(dedup.shingles("… — !")) == 0
    assert not np.array_equal(dedup.shingles("a b c d e"), dedup.shingles("e d c b a"))


def test_jaccard():
    a, b = np.array([1, 2, 3, 4], np.uint64), np.array([3, 4, 5], np.uint64)
    assert dedup.jaccard(a, b) == 2 / 5
    assert dedup.jaccard(a[:0], b[:0]) == 0


def corpus(seed: int = 0, documents: int = 300) -> tuple[list[str], set[tuple[int, int]]]:
    """Random documents, a third of which vary an earlier one by a few words; and the pairs (later, earlier)."""
    rng = np.random.default_rng(seed)
    words = [f"w{k}" for k in range(4000)]
    texts: list[list[str]] = []
    planted = set()
    for index in range(documents):
        if index > 20 and rng.random() < 0.33:
            earlier = int(rng.integers(index))
            copy = list(texts[earlier])
            for at in rng.integers(len(copy), size=int(rng.integers(1, 6))):
                copy[at] = words[rng.integers(4000)]
            texts.append(copy)
            planted.add((index, earlier))
        else:
            texts.append([words[k] for k in rng.integers(4000, size=int(rng.integers(80, 400)))])
    return [" ".join(text) for text in texts], planted


def similar(sets):
    """All pairs (later, earlier) at or above the threshold, by brute force with Python's sets."""
    plain = [set(members.tolist()) for members in sets]
    return {
        (i, j)
        for i in range(len(plain))
        for j in range(i)
        if len(plain[i] & plain[j]) >= dedup.SIMILARITY * len(plain[i] | plain[j])
    }


@pytest.fixture(scope="module")
def sets():
    pytest.importorskip("rensa", reason="rensa is not installed")
    return [dedup.shingles(text) for text in corpus()[0]]


def test_candidates_hold_nearly_all_similar_pairs(sets):
    pairs = dedup.candidate_pairs(dedup.band_hashes(dedup.signatures(sets)))
    result, wanted = set(map(tuple, pairs.tolist())), similar(sets)
    assert len(wanted) > 40
    assert len(result & wanted) >= 0.98 * len(wanted)
    assert len(result) < 5 * len(wanted)
    assert all(later > earlier for later, earlier in result)


def test_agrees_with_datasketch(sets):
    datasketch = pytest.importorskip("datasketch", reason="datasketch is not installed")
    theirs: dict[int, int] = {}
    index = datasketch.MinHashLSH(params=(dedup.BANDS, dedup.ROWS), num_perm=dedup.BANDS * dedup.ROWS)
    for number, members in enumerate(sets):
        sketch = datasketch.MinHash(num_perm=dedup.BANDS * dedup.ROWS)
        sketch.update_batch([value.tobytes() for value in members])
        for earlier in sorted(index.query(sketch)):
            if earlier not in theirs and dedup.jaccard(sets[earlier], members) >= dedup.SIMILARITY:
                theirs[number] = earlier
                break
        index.insert(number, sketch)
    pairs = dedup.candidate_pairs(dedup.band_hashes(dedup.signatures(sets)))
    ours = dedup.near_duplicates(pairs, lambda a, b: (sets[a], sets[b]))
    assert len(ours) > 40
    assert len(ours.keys() ^ theirs.keys()) <= 0.03 * len(ours)


def test_a_chain_drops_only_what_resembles_a_kept_document():
    a = np.arange(100, dtype=np.uint64)
    by = {0: a, 1: a + np.uint64(10), 2: a + np.uint64(20), 3: a + np.uint64(21)}
    # 0 ~ 1 (90/110 = 0.818) and 1 ~ 2, but 0 and 2 share 80/120; 2 ~ 3.
    pairs = np.array([[1, 0], [2, 0], [2, 1], [3, 1], [3, 2]])
    assert dedup.near_duplicates(pairs, lambda x, y: (by[x], by[y])) == {1: 0, 3: 2}


def test_a_large_group_makes_few_pairs():
    pairs = dedup.candidate_pairs([np.full(1000, 5, np.uint64), np.zeros(1000, np.uint64)])
    assert len(pairs) < 4000
    assert {later for later, _ in pairs.tolist()} == set(range(1, 1000))


def test_signature_of_a_union_is_the_minimum(sets):
    union = np.union1d(sets[0], sets[1])
    first, two, both = dedup.signatures([sets[0], sets[1], union])
    assert np.array_equal(np.minimum(first, two), both)
    assert dedup.signatures([]).shape == (0, 120)
    assert not dedup.band_hashes(dedup.signatures([union[:0]])).any()


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UserError, match=r"pip install 'blankfill\[text\]'"):
        dedup.signatures([])
