"""Marks of files: any change of a small file, sampled blocks of a large one, and what is said of each."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.errors import UserError
from blankfill.system import marks
from blankfill.system.marks import BLOCK, BLOCKS, changes, checksum, fingerprint, mark, unlike


@settings(max_examples=40)
@given(data=st.binary(min_size=1, max_size=300), place=st.integers(0, 299), bit=st.integers(0, 7))
def test_any_bit_of_a_small_file_counts(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("marks") / "file"
    path.write_bytes(data)
    before = mark(path, full=True)
    assert before["size"] == len(data) and before["sha256"] == hashlib.sha256(data).hexdigest()
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << bit
    path.write_bytes(changed)
    assert changes({"file": before}, {"file": mark(path)}) == ["file has other content of the same size"]
    assert unlike(path.parent, {"file": before}) == ["file does not match its recorded checksum"]


def test_a_large_file_is_sampled_at_both_ends_and_between(tmp_path: Path) -> None:
    size = BLOCK * BLOCKS * 2 + 1
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(size)
    before = fingerprint(path)
    sampled = [k * (size - BLOCK) // (BLOCKS - 1) for k in range(BLOCKS)]
    assert sampled[0] == 0 and sampled[-1] == size - BLOCK

    def written(place: int) -> str:
        with open(path, "rb+") as file:
            file.seek(place)
            file.write(b"x")
        try:
            return fingerprint(path)
        finally:
            with open(path, "rb+") as file:
                file.seek(place)
                file.write(b"\0")

    for place in (0, size - 1, sampled[100], sampled[200] + BLOCK - 1):
        assert written(place) != before
    between = sampled[100] + BLOCK + 10
    assert between < sampled[101] and written(between) == before  # which only the checksum finds
    whole = checksum(path)
    with open(path, "rb+") as file:
        file.seek(between)
        file.write(b"x")
    assert checksum(path) != whole


def test_what_is_said(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"12")
    before = marks.marks(tmp_path, "abcd", full=True)
    assert list(before) == ["a", "b", "c"] and not changes(before, before) and not unlike(tmp_path, before)
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"")
    now = marks.marks(tmp_path, "abcd")
    assert changes(before, now) == ["a is gone", "b has 3 bytes and had 2", "d was not there"]
    assert unlike(tmp_path, before) == ["a is gone", "b does not match its recorded checksum"]
    assert changes({"c": "no mark"}, {"c": before["c"]}) == []  # an odd note says nothing


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        with pytest.raises(UserError):
            fingerprint(path)
        with pytest.raises(UserError):
            checksum(path)
