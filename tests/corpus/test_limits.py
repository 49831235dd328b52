"""Input of any size is read in bounded memory, or refused in one sentence before it is in memory as a whole."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise, repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blankfill.cli.embed import count_lines
from blankfill.cli.lines import decoded, windows
from blankfill.corpus import archives, limits, wiki
from blankfill.corpus.compression import open_binary
from blankfill.corpus.decoding import lines, read_text
from blankfill.corpus.encodings import check_encoding
from blankfill.corpus.limits import LONGEST_GIVEN, LONGEST_PAGE, LONGEST_RECORD
from blankfill.corpus.sources import SourceOptions, discover, read
from blankfill.corpus.tables.json_rows import json_values
from blankfill.corpus.tables.reading import open_table
from blankfill.corpus.tokenizer_formats import read_tokenizer
from blankfill.errors import UserError
from blankfill.tasks.datasets import files
from blankfill.tasks.datasets.files import json_document

MB = 1 << 20


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python held during `work` beyond those before it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def consumed(stream) -> int:
    size = 0
    while data := stream.read(MB):
        size += len(data)
    return size


def packed(compression: str, piece: bytes, times: int) -> bytes:
    """`piece` repeated, packed without holding it."""
    makers = {
        "gz": lambda: zlib.compressobj(wbits=31), "bz2": bz2.BZ2Compressor, "xz": lzma.LZMACompressor,
        "zst": zstandard.ZstdCompressor().compressobj,
    }  # fmt: skip
    made = makers[compression]()
    return b"".join([*map(made.compress, repeat(piece, times)), made.flush()])


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_small_file_that_unpacks_to_a_large_one_is_streamed(tmp_path: Path, compression: str):
    path = tmp_path / "bomb"
    path.write_bytes(packed(compression, bytes(MB), 256))
    assert path.stat().st_size < 300_000
    sizes: list[int] = []
    assert peak(lambda: sizes.append(consumed(open_binary(str(path), compression)))) < 40 * MB
    assert sizes == [256 * MB]


def test_a_window_that_zstd_itself_would_refuse_is_refused(tmp_path: Path):
    path = tmp_path / "wide.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=28, hash_log=10, chain_log=10)
    made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(made.compress(b"It sails.\n") + made.flush())
    with pytest.raises(UserError, match=r"wide\.zst takes more than 128 MiB of memory .*zstd -d --long=31"):
        list(read_text(str(path), "zst"))


def test_a_dictionary_of_xz_beyond_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "wide.xz"
    data = bytearray(lzma.compress(b"It sails.\n"))
    header = slice(12, 12 + 4 * (data[12] + 1))
    assert data[14] == 0x21
    data[16] = 36  # a dictionary of 1 GiB
    data[header.stop - 4 : header.stop] = struct.pack("<I", zlib.crc32(data[12 : header.stop - 4]))
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"wide\.xz takes more than 256 MiB of memory .*xz -d"):
        list(read_text(str(path), "xz"))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_streams_of_xz_with_padding_are_all_read(parts: list[bytes], words: int, odd: bool):
    data = b"".join(lzma.compress(part) + bytes(4 * words + odd) for part in parts)
    with Folder() as folder:
        path = folder / "x.xz"
        path.write_bytes(data)
        if odd:
            with pytest.raises(UserError, match="damaged compressed data"):
                consumed(open_binary(str(path), "xz"))
        else:
            assert open_binary(str(path), "xz").read() == b"".join(parts)


class Folder:
    def __enter__(self) -> Path:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        return Path(self.folder.name)

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()


def test_a_line_beyond_the_limit_is_refused_before_it_is_read():
    taken: list[str] = []

    def pieces():
        for piece in ["one\n", "two\nthr", *["e" * 10] * 100]:
            taken.append(piece)
            yield piece

    with pytest.raises(UserError, match=r"x, line 3 is longer than 50 characters"):
        list(lines(pieces(), "x", 50))
    assert len(taken) == 7
    assert list(lines(iter(["a" * 50 + "\n" + "b" * 50]), "x", 50)) == ["a" * 50, "b" * 50]


def endless(folder: Path, name: str, begin: bytes, piece: bytes) -> Path:
    """A small file of 100 million characters without the end of its record."""
    path = folder / name
    made = zlib.compressobj(1, wbits=31)
    repeated = repeat(piece * 1000, 100_000 // len(piece))
    path.write_bytes(b"".join([made.compress(begin), *map(made.compress, repeated), made.flush()]))
    return path


@pytest.mark.parametrize(
    ("name", "begin", "piece", "said"),
    [
        ("a.jsonl", b'{"text": "It sails."}\n{"text": "', b"aaaaaaaaaa", "line 2 is longer than"),
        ("a.json", b'[{"text": "It sails."},\n{"text": "', b"aaaaaaaaaa", "line 2: a record is longer than"),
        ("a.csv", b'id,text\n1,"It sails.', b'\n","aaaaa', "a row of more than .* never closed"),
        ("a.tsv", b"id\ttext\n1\t", b"aaaaaaaaaa", "line 2 is longer than"),
    ],
)  # fmt: skip
def test_a_record_without_end_is_refused(tmp_path: Path, monkeypatch, name: str, begin: bytes, piece: bytes, said: str):
    longest = MB if name == "a.csv" else LONGEST_RECORD
    monkeypatch.setattr(limits, "LONGEST_RECORD", longest)
    path = endless(tmp_path, f"{name}.gz", begin, piece)
    options = SourceOptions(columns=("text=text",))

    def refused() -> None:
        (source,) = discover([str(path)], options)
        with pytest.raises(UserError, match=said):
            for document in read(source, options):
                list(document.paragraphs)

    # a row of short cells takes some ten times its length; the others are one string, twice
    assert peak(refused) < (24 if name == "a.csv" else 3) * longest
    if not name.endswith("json"):
        with pytest.raises(UserError, match=said):
            list(open_table(path).rows())


def test_json_that_breaks_is_not_called_too_long(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_RECORD", 1000)
    with pytest.raises(UserError, match=r"x, line 2 is not valid JSON \(Expecting"):
        list(json_values(iter(['{"a": 1}\n{"a": x', *["y" * 100] * 99]), "x"))
    with pytest.raises(UserError, match="x, line 2: a record is longer than 1,000 characters"):
        list(json_values(iter(['{"a": 1}\n["a"', *[', "b"'] * 999]), "x"))
    value = {"text": "a" * 980}
    assert list(json_values(iter(json.dumps(value)), "x")) == [value]


@pytest.mark.parametrize("depth", [*range(100, 1000, 60), 5000, 200_000])
def test_records_nested_deeper_than_python_can_follow(tmp_path: Path, depth: int):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "It sails."}\n{"text": ' + "[" * depth + '"x"' + "]" * depth + "}\n", encoding="utf-8")
    (source,) = discover([str(path)], SourceOptions())
    try:
        results = [list(document.paragraphs) for document in read(source, SourceOptions())]
    except UserError as error:
        assert "a.jsonl, line 2 is n" in str(error) and depth > 200
    else:
        assert results == [["It sails."], ["x"]]


def wiki_file(folder: Path, pages: str, head: str = "") -> Path:
    path = folder / "dump.xml.gz"
    path.write_bytes(gzip.compress(f"{head}<mediawiki>{pages}</mediawiki>".encode(), 1))
    return path


def test_a_page_of_a_wiki_beyond_the_limit_is_named(tmp_path: Path):
    path = wiki_file(tmp_path, f"<page><title>Ferry</title><revision><text>{'It sails. ' * LONGEST_PAGE}</text>")

    def refused() -> None:
        with pytest.raises(UserError, match=r"page 'Ferry' is longer than 8,388,608 characters.*leave that page out"):
            list(wiki.read_dump(str(path), "gz", "x"))

    assert peak(refused) < 4 * LONGEST_PAGE
    path = wiki_file(tmp_path, f"<!--{'It sails. ' * LONGEST_PAGE}-->")
    with pytest.raises(UserError, match="a tag or comment is longer than"):
        list(wiki.read_dump(str(path), "gz", "x"))


def test_revisions_of_a_page_are_not_kept(tmp_path: Path):
    revision = f"<revision><text>{'It sails. ' * 100}</text></revision>"
    path = wiki_file(tmp_path, f"<page><title>Ferry</title><ns>0</ns>{revision * 20_000}</page>")
    results: list[object] = []
    assert peak(lambda: results.extend(wiki.read_dump(str(path), "gz", "x"))) < 2 * MB
    assert results == [("Ferry", [" ".join(["It sails."] * 100)])]


def test_a_dump_that_declares_entities_is_refused(tmp_path: Path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    path = wiki_file(tmp_path, "<page><title>T</title><revision><text>&b;</text></revision></page>", bomb)
    with pytest.raises(UserError, match="declares the entity 'a', which no dump of MediaWiki does"):
        list(wiki.read_dump(str(path), "gz", "x"))
    path = wiki_file(
        tmp_path, "<page><title>T</title><revision><text>It&nbsp;sails.</text></revision></page>",
        '<!DOCTYPE x SYSTEM "x.dtd">',
    )  # fmt: skip
    assert list(wiki.read_dump(str(path), "gz", "x")) == [("T", ["It sails."])]


def test_a_column_of_parquet_that_unpacks_a_hundredfold_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(limits, "LARGEST_COLUMN", MB)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * (8 * MB)]}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(UserError, match=r"row group 1: column 'text' unpacks .* more than 100 times"):
        list(open_table(path, name="x").rows(["text"]))
    with pytest.raises(UserError, match=r"row group 1: column 'text' unpacks"):
        list(open_table(path).rows())


@pytest.mark.parametrize(
    ("kind", "numbers", "said"),
    [
        ("string", None, "a text after row 0 is not UTF-8"),
        ("date32", [10**8], "a value after row 0 cannot be read"),
        ("timestamp[us]", [2**62], "a value after row 0 cannot be read"),
    ],
)
def test_values_of_parquet_that_python_cannot_hold_are_named(
    tmp_path: Path, kind: str, numbers: list[int] | None, said: str
):
    if numbers is None:
        column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"caf\xe9"], pa.binary()).buffers())
    else:
        column = pa.array(numbers, pa.int32() if kind == "date32" else pa.int64()).view(pa.type_for_alias(kind))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path)
    with pytest.raises(UserError, match=said):
        list(open_table(path).rows())
    if numbers is None:
        with pytest.raises(UserError, match=said):
            list(open_table(path, name="x").rows(["text"]))


def archive(path: Path, *members: tuple[str, bytes]) -> bytearray:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members:
            made.writestr(name, data)
    return bytearray(path.read_bytes())


def test_a_member_of_a_zip_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_DOCUMENT", MB)
    path = tmp_path / "a.zip"
    data = archive(path, ("dev.json", b" " * (64 * MB)))
    # an archive that lies about the size of its member
    central = data.rfind(b"PK\x01\x02")
    for changed in (bytes(data), bytes(data[: central + 24] + struct.pack("<I", 10) + data[central + 28 :])):
        path.write_bytes(changed)

        def refused() -> None:
            with pytest.raises(UserError, match=r"dev\.json in .*a\.zip is longer than 1,048,576 bytes|not a readable"):
                json_document(path)

        assert peak(refused) < 8 * MB
    plain = tmp_path / "a.json.gz"
    plain.write_bytes(gzip.compress(b"[\n" + b"1,\n" * MB + b"1]"))
    with pytest.raises(UserError, match=r"a\.json\.gz is longer than 1,048,576 characters"):
        json_document(plain)


def test_zip_archives_that_cannot_be_read(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.zip"
    data = archive(path, ("dev.json", json.dumps({"a": list(range(500))}).encode()))
    assert json_document(path)["a"][499] == 499
    locked = bytearray(data)
    locked[6] |= 1
    locked[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(locked))
    with pytest.raises(UserError, match=r"a\.zip is encrypted: unpack it with its password"):
        json_document(path)
    for at in range(10, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            result = json_document(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert result["a"][499] == 499
    archive(path, *((f"{n}.json", b"1") for n in range(30)))
    monkeypatch.setattr(archives, "LARGEST_DIRECTORY", 1000)
    with pytest.raises(UserError, match="holds too many files to look into"):
        json_document(path)


def test_a_line_given_to_a_command_is_limited():
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            buffer[:] = b"a" * len(buffer)
            return len(buffer)

    def refused() -> None:
        with pytest.raises(UserError, match="standard input, line 1 is longer than 4,194,304 bytes"):
            list(decoded(io.BufferedReader(Endless()), "standard input"))

    assert peak(refused) < 4 * LONGEST_GIVEN
    for end in (b"\n", b"\r\n"):
        results = [text for _, text in decoded(io.BytesIO(b"a" * LONGEST_GIVEN + end + b"b"), "x")]
        assert results == ["a" * LONGEST_GIVEN, "b"]
        with pytest.raises(UserError, match="line 1 is longer"):
            list(decoded(io.BytesIO(b"a" * (LONGEST_GIVEN + 1) + end), "x"))
    assert list(decoded(io.StringIO("one\r\ntwo"), "x")) == [("x, line 1", "one"), ("x, line 2", "two")]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_windows_hold_all_texts_in_order(sizes: list[int], most: int):
    result = list(windows(sizes, most, lambda size: size * LONGEST_GIVEN // 2))
    assert [size for window in result for size in window] == sizes
    for window in result:
        assert len(window) <= most
        assert sum(window) <= 2 or len(window) == 1
    # no window could have taken the first text of the next
    for before, after in pairwise(result):
        assert len(before) == most or sum(before) + after[0] > 2


@pytest.mark.parametrize("data", [b"", b"one", b"one\n", b"one\n\ntwo", b"\n\n"])
def test_lines_are_counted_without_being_read(tmp_path: Path, data: bytes):
    path = tmp_path / "x"
    path.write_bytes(data)
    assert count_lines(path) == len(data.splitlines())


def test_an_id_far_beyond_the_others_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    spec = {"version": "1.0", "added_tokens": [], **empty, "model": model}
    path.write_text(json.dumps(spec), encoding="utf-8")
    assert read_tokenizer(path).get_vocab_size() == 2
    spec["model"]["vocab"]["b"] = 2**31
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match=r"gives a token the id 2147483648, and with its 3 tokens .* 0 and 1,005"):
        read_tokenizer(path)
    del spec["model"]["vocab"]["b"]
    spec["added_tokens"] = [{"id": -5, "content": "b", "single_word": False, "lstrip": False, "rstrip": False,
                             "normalized": False, "special": False}]  # fmt: skip
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match="the id -5"):
        read_tokenizer(path)
    (tmp_path / "vocab.json").write_text(json.dumps({"Ġ": 0, "a": 2**40}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab\.json gives a token the id 1099511627776"):
        read_tokenizer(tmp_path / "vocab.json")


@pytest.mark.parametrize(
    ("encoding", "text", "said"),
    [
        ("utf-16", "It sails.", "utf-16-le"),
        ("utf-32", "It sails.", "utf-32-le"),
        ("UTF_16", "渡船靠岸", "utf-16-le or utf-16-be"),
    ],
)  # fmt: skip
def test_a_missing_byte_order_mark_is_told(tmp_path: Path, encoding: str, text: str, said: str):
    path = tmp_path / "a.txt"
    path.write_text(text * 20, encoding=encoding.lower().replace("_", "-") + "-le")
    with pytest.raises(UserError, match=f"a.txt has no byte-order mark, .*: pass encoding={said}\\.$"):
        list(read_text(str(path), encoding=encoding))
    path.write_text(text, encoding=encoding)
    assert "".join(read_text(str(path), encoding=encoding)) == text


@pytest.mark.parametrize("encoding", ["undefined", "idna", "punycode", "rot13", "zip"])
def test_codecs_that_are_no_encodings_of_texts_are_refused(encoding: str):
    with pytest.raises(UserError, match=f"encoding={encoding} is not a known text encoding"):
        check_encoding(encoding)
