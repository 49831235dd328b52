"""Compressed streams and encodings: what is read back, and what is said when it cannot be."""

import bz2
import gzip
import lzma
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import decoding
from blankfill.corpus.compression import open_binary, sniff_compression
from blankfill.corpus.decoding import lines, read_text, whole_lines
from blankfill.errors import UserError

TEXT = "The ferry was late again. Die Fähre kam spät. 渡船又迟到了。\n" * 4000
PACKERS = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
CHINESE = "渡船靠岸的时候，灯早已灭了。这是我们在那个地方的第一个晚上，大家都不说话，因为要下雨了。" * 3


@pytest.mark.parametrize("compression", PACKERS)
def test_every_compression_is_told_by_its_bytes_and_read_back(tmp_path: Path, compression: str):
    path = tmp_path / "file"
    path.write_bytes(PACKERS[compression](TEXT.encode()))
    assert sniff_compression(path.read_bytes()[:16]) == compression
    assert "".join(read_text(str(path), compression)) == TEXT


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_members_one_after_another_are_read_as_one(tmp_path: Path, compression: str):
    path = tmp_path / "file"
    path.write_bytes(PACKERS[compression](b"one\n") + PACKERS[compression](b"two\n"))
    assert list(lines(read_text(str(path), compression))) == ["one", "two"]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_file_is_named(tmp_path: Path, compression: str):
    path = tmp_path / "cut.txt"
    packed = PACKERS[compression](bytes(range(32, 127)) * 5 + TEXT.encode())
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(UserError, match=r"cut\.txt ends before its compressed data do"):
        list(read_text(str(path), compression))


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_damaged_data_are_named(tmp_path: Path, compression: str):
    path = tmp_path / "bad.txt"
    packed = bytearray(PACKERS[compression](TEXT.encode()))
    middle = len(packed) // 2
    packed[middle : middle + 8] = bytes(byte ^ 0xFF for byte in packed[middle : middle + 8])
    packed[-6] ^= 0xFF
    path.write_bytes(bytes(packed))
    with pytest.raises(UserError, match=r"bad\.txt (holds damaged compressed data|is not utf-8|ends before)"):
        list(read_text(str(path), compression))


def test_a_text_that_opens_like_bzip2_is_plain():
    assert sniff_compression(b"BZh is how bzip2 begins") == ""


def test_zstandard_missing_names_the_remedy(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"pip install 'blankfill\[text\]'"):
        open_binary(str(tmp_path / "x.zst"), "zst")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.txt cannot be read"):
        open_binary(str(tmp_path / "gone.txt"), "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "gb18030"])
def test_encodings_are_decoded_across_piece_borders(tmp_path: Path, monkeypatch, encoding: str):
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 7)
    path = tmp_path / "t.txt"
    path.write_text("ab渡船𝄞é\n" * 9, encoding=encoding, newline="")
    assert "".join(read_text(str(path), encoding=encoding)) == "ab渡船𝄞é\n" * 9


def test_a_byte_order_mark_of_utf8_is_dropped_only_at_the_start(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert "".join(read_text(str(path))) == "one\n\ufefftwo\n"


def test_the_first_bad_byte_is_named_with_a_likely_encoding(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 64)
    path = tmp_path / "old.txt"
    path.write_bytes(b"x" * 100 + "déjà vu".encode("latin-1"))
    with pytest.raises(UserError, match=r"old\.txt is not utf-8: byte 101 \(0xe9\).*encoding=cp1252"):
        list(read_text(str(path), encoding="utf-8"))
    assert "".join(read_text(str(path), encoding="latin-1")).endswith("déjà vu")


def test_the_offset_counts_from_the_file_when_a_range_is_read(tmp_path: Path):
    path = tmp_path / "old.txt"
    path.write_bytes(b"x" * 50 + b"\xff" + b"y" * 50)
    with pytest.raises(UserError, match="byte 50 "):
        list(read_text(str(path), "", "utf-8", start=20, end=80))
    assert "".join(read_text(str(path), start=60, end=63)) == "yyy"


def test_the_offset_is_right_in_a_multibyte_encoding_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 5)
    path = tmp_path / "t.txt"
    path.write_bytes("渡船靠岸".encode("gb18030") + b"\xff\xff")
    with pytest.raises(UserError, match="is not gb18030: byte 8 "):
        list(read_text(str(path), encoding="gb18030"))
    path.write_bytes(b"abc\xe6\xb8")
    with pytest.raises(UserError, match="byte 3 "):
        list(read_text(str(path), encoding="utf-8"))


def test_utf16_is_recognised_by_its_mark(tmp_path: Path):
    path = tmp_path / "notepad.txt"
    path.write_text("渡船\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"UTF-16 byte-order mark: pass encoding=utf-16\."):
        list(read_text(str(path), encoding="utf-8"))
    assert "".join(read_text(str(path))) == "渡船\n"


def test_utf8_read_as_something_else_and_one_broken_byte(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(CHINESE.encode())
    with pytest.raises(UserError, match="leave encoding out"):
        list(read_text(str(path), encoding="shift_jis"))
    path.write_bytes(CHINESE.encode() + b"\xff" + CHINESE.encode())
    with pytest.raises(UserError, match="correct or remove the damaged bytes, or give encoding=utf-8-replace"):
        list(read_text(str(path), encoding="utf-8"))
    for encoding in (None, "utf-8-replace"):
        assert "".join(read_text(str(path), encoding=encoding)) == f"{CHINESE}\ufffd{CHINESE}"
    path.write_bytes(bytes(range(128, 256)) * 9)
    for encoding in (None, "utf-8"):
        with pytest.raises(UserError, match="the file's own encoding"):
            list(read_text(str(path), encoding=encoding))


@given(st.lists(st.text(alphabet="ab\n\r ", max_size=9)))
def test_pieces_are_cut_into_lines_without_loss(pieces: list[str]):
    text = "".join(pieces)
    expected = text.split("\n")
    assert list(lines(iter(pieces))) == (expected[:-1] if expected[-1] == "" else expected)
    cut = list(whole_lines(iter(pieces)))
    assert "".join(cut) == text
    assert all(piece.endswith(("\n", "\r")) for piece in cut[:-1])
    assert not any(before.endswith("\r") and after.startswith("\n") for before, after in pairwise(cut))


def test_a_file_without_line_ends_is_cut_at_a_space():
    pieces = list(whole_lines(iter(["word " * 10] * 10), longest=100))
    assert max(map(len, pieces)) <= 151
    assert "".join(pieces).split() == ["word"] * 100
