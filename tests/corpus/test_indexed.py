"""Token files: the byte layout worked out by hand, agreement with Megatron-LM, joins, and every refusal."""

import pickle
import struct
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter, token_dtype
from blankfill.errors import UserError

DOCUMENTS = [([5, 6, 7, 8, 9], [2, 3]), ([1], [1]), ([40000, 2, 2], [1, 1, 1])]


def write(prefix: Path, documents=DOCUMENTS, dtype=np.uint16) -> Path:
    with IndexedWriter(prefix, dtype) as writer:
        for ids, lengths in documents:
            writer.add_document(ids, lengths)
    return prefix


def test_layout_worked_out_by_hand(tmp_path):
    write(tmp_path / "a.b", [([5, 6, 7], [2, 1]), ([258], [1])])
    assert (tmp_path / "a.b.bin").read_bytes() == b"\x05\0\x06\0\x07\0\x02\x01"
    index = (tmp_path / "a.b.idx").read_bytes()
    assert index == (
        b"MMIDIDX\0\0" + b"\x01" + 7 * b"\0" + b"\x08" + b"\x03" + 7 * b"\0" + b"\x03" + 7 * b"\0"
        + b"\x02\0\0\0" + b"\x01\0\0\0" + b"\x01\0\0\0"
        + b"\0\0\0\0\0\0\0\0" + b"\x04\0\0\0\0\0\0\0" + b"\x06\0\0\0\0\0\0\0"
        + b"\0\0\0\0\0\0\0\0" + b"\x02\0\0\0\0\0\0\0" + b"\x03\0\0\0\0\0\0\0"
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.bin", "a.b.idx"]


def test_reading_back(tmp_path):
    corpus = IndexedCorpus(write(tmp_path / "c"))
    assert len(corpus) == 3 and corpus.dtype == np.uint16
    assert corpus.tokens.tolist() == [5, 6, 7, 8, 9, 1, 40000, 2, 2]
    assert corpus.sentence_starts.tolist() == [0, 2, 5, 6, 7, 8, 9]
    assert corpus.document_starts.tolist() == [0, 2, 3, 6]
    assert corpus.document_tokens.tolist() == [0, 5, 6, 9]
    assert len(IndexedCorpus(tmp_path / "c.idx")) == 3
    assert pickle.loads(pickle.dumps(corpus)).tokens.tolist() == corpus.tokens.tolist()
    assert len(pickle.dumps(corpus)) < 500


def test_fingerprint_follows_the_content(tmp_path):
    first, same = IndexedCorpus(write(tmp_path / "a")), IndexedCorpus(write(tmp_path / "b"))
    other = IndexedCorpus(write(tmp_path / "c", [([5, 6, 7, 8, 8], [2, 3]), *DOCUMENTS[1:]]))
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_fingerprint_follows_tokens_in_the_middle(tmp_path):
    """Two pairs alike in their index and at both ends of their tokens."""
    ids = np.arange(100_000) % 1000
    changed = np.concatenate([ids[:50_000], ids[50_001:50_002], ids[50_001:]])
    prints = []
    for number, some in enumerate((ids, changed)):
        with IndexedWriter(tmp_path / str(number), np.uint16) as writer:
            writer.add_document(some, [len(some)])
        prints.append(IndexedCorpus(tmp_path / str(number)).fingerprint)
    assert prints[0] != prints[1]


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=4), max_size=4), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 8), max_size=3),
    joins=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_appended_shards_equal_one_file(tmp_path_factory, documents, cuts, joins):
    folder = tmp_path_factory.mktemp("shards")
    bounds = sorted({0, len(documents), *(cut for cut in cuts if cut < len(documents))})
    expected: list[list[list[int]]] = []
    with IndexedWriter(folder / "merged", np.uint16) as merged:
        for shard, (begin, end) in enumerate(pairwise(bounds)):
            part = documents[begin:end]
            join = joins[shard] and bool(expected)
            with IndexedWriter(folder / f"s{shard}", np.uint16) as writer:
                for document in part:
                    writer.add_document(list(chain.from_iterable(document)), [len(sentence) for sentence in document])
            if not any(document for document in part) or not any(sum(map(len, document)) for document in part):
                merged.add_documents(np.empty(0), [len(s) for d in part for s in d], [len(d) for d in part], join=join)
            else:
                merged.append(IndexedCorpus(folder / f"s{shard}"), join=join)
            expected = [*expected[:-1], expected[-1] + part[0], *part[1:]] if join else expected + part
    flat = [token for document in expected for sentence in document for token in sentence]
    if not flat:
        return
    corpus = IndexedCorpus(folder / "merged")
    assert corpus.tokens.tolist() == flat
    assert np.diff(corpus.document_starts).tolist() == [len(document) for document in expected]
    assert corpus.lengths.tolist() == [len(sentence) for document in expected for sentence in document]
    assert np.diff(corpus.document_tokens).tolist() == [sum(map(len, document)) for document in expected]


def test_dtype_by_vocabulary():
    assert token_dtype(30_000) == token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.int32


def test_mistakes_of_the_caller(tmp_path):
    writer = IndexedWriter(tmp_path / "a", np.uint16)
    with pytest.raises(ValueError, match="sum"):
        writer.add_document([1, 2, 3], [1, 1])
    with pytest.raises(ValueError, match="fit"):
        writer.add_document([65_536], [1])
    write(tmp_path / "wide", [([70_000], [1])], np.int32)
    with pytest.raises(ValueError, match="append"):
        writer.append(IndexedCorpus(tmp_path / "wide"))
    writer.abandon()
    with pytest.raises(ValueError, match="hold"):
        IndexedWriter(tmp_path / "b", np.float16)
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "c", np.uint16) as broken:
        broken.add_document([1], [1])
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wide.bin", "wide.idx"]


def damage_magic(index: bytes) -> bytes:
    return b"PK\x03\x04" + index[4:]


def set_field(offset: int, layout: str, value: int):
    return lambda index: index[:offset] + struct.pack(layout, value) + index[offset + struct.calcsize(layout) :]


LENGTHS, OFFSETS, STARTS = 34, 34 + 4 * 6, 34 + 12 * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage_magic, "not a token index"),
        (lambda index: b"", "not a token index"),
        (lambda index: index[:20], "cut short"),
        (lambda index: index[:-1], "cut short"),
        (set_field(9, "<Q", 2), "version 2"),
        (set_field(17, "<B", 99), "unknown dtype"),
        (set_field(17, "<B", 7), "float32"),
        (set_field(18, "<Q", 0), "no document"),
        (set_field(26, "<Q", 1), "no document"),
        (set_field(OFFSETS + 8, "<q", 6), "sentence 1 does not begin"),
        (set_field(LENGTHS, "<i", -2), "negative"),
        (set_field(STARTS, "<q", 1), "document starts"),
        (set_field(STARTS + 8, "<q", 5), "document starts"),
    ],
)
def test_damaged_index(tmp_path, change, words):
    path = write(tmp_path / "c").with_suffix(".idx")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=words) as caught:
        IndexedCorpus(tmp_path / "c")
    assert "c.idx" in str(caught.value)


def test_damaged_or_missing_tokens(tmp_path):
    path = write(tmp_path / "c").with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"c\.bin has 16 bytes where its index describes 18"):
        IndexedCorpus(tmp_path / "c")
    path.unlink()
    with pytest.raises(UserError, match=r"c\.bin does not exist"):
        IndexedCorpus(tmp_path / "c")
    write(tmp_path / "empty", [([], [0])])
    with pytest.raises(UserError, match="no tokens"):
        IndexedCorpus(tmp_path / "empty")


def megatron():
    return pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")


def test_megatron_reads_ours(tmp_path):
    module = megatron()
    write(tmp_path / "ours")
    theirs = module.IndexedDataset(str(tmp_path / "ours"))
    assert theirs.document_indices.tolist() == [0, 2, 3, 6]
    assert [theirs[i].tolist() for i in range(len(theirs))] == [[5, 6], [7, 8, 9], [1], [40000], [2], [2]]


def test_we_read_megatrons(tmp_path):
    module = megatron()
    builder = module.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    import torch

    for ids, lengths in DOCUMENTS:
        builder.add_document(torch.tensor(ids), lengths)
    builder.finalize(str(tmp_path / "theirs.idx"))
    write(tmp_path / "ours")
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"theirs{suffix}").read_bytes() == (tmp_path / f"ours{suffix}").read_bytes()
    assert IndexedCorpus(tmp_path / "theirs").tokens.tolist() == [5, 6, 7, 8, 9, 1, 40000, 2, 2]
