"""Discovery and reading: kinds by content and name, order, ranges that add up to the file, and every refusal."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blankfill.corpus import sources
from blankfill.corpus.sources import Source, SourceOptions, discover, read, read_if_possible
from blankfill.corpus.spool import remove_leftovers
from blankfill.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")
FILE = SourceOptions()
BLOCKS = SourceOptions(documents="paragraphs")


def everything(sources: list[Source], options: SourceOptions = FILE) -> list[tuple[str, list[str]]]:
    """All documents; those that continue in the next range are joined as in the pipeline."""
    documents: list[tuple[str, list[str]]] = []
    for source in sources:
        for number, document in enumerate(read(source, options)):
            if number == 0 and source.continues:
                documents[-1][1].extend(document.paragraphs)
            else:
                documents.append((document.name, list(document.paragraphs)))
    return documents


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", "It sails.\n", "text"),
        ("a", "It sails.\n", "text"),
        ("a.md", "{not json\n", "text"),
        ("a.txt", '{"text": "x y"}\n{"text": "z"}\n', "jsonl"),
        ("a.txt", '{"text": "x y"}\nIt sails.\n', "text"),
        ("a.txt", "{}\n{}\n", "text"),
        ("wiki_00", '{"id": "1", "url": "u", "title": "T", "text": "T\\n\\nIt."}\n', "jsonl"),
        ("wiki_00", '<doc id="1" url="u" title="T">\nT\n</doc>\n', "wikiextractor"),
        ("a.jsonl", "not yet json\n", "jsonl"),
        ("a.json", '[{"text": "x"}]', "json"),
        ("a.json", '{\n"text": "x"\n}', "json"),
        ("a.json", '{"text": "x y"}\n{"text": "y z"}\n', "jsonl"),
        ("a.csv", "id,text\n1,x\n", "csv"),
        ("a.tsv", "id\ttext\n1\tx\n", "tsv"),
        ("a.xml", '<mediawiki xmlns="x"></mediawiki>', "mediawiki"),
        ("long.txt", json.dumps({"text": "word " * 50_000}) + "\n", "jsonl"),
    ],
)
@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zst"])
def test_kinds_are_told_by_content_and_name(tmp_path: Path, name: str, content: str, kind: str, compression: str):
    pack = {
        "": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }[compression]  # fmt: skip
    data = pack(content.encode())
    sources = discover([write(tmp_path / (f"{name}.{compression}" if compression else name), data)], FILE)
    assert [(source.kind, source.compression, source.size) for source in sources] == [(kind, compression, len(data))]
    assert pickle.loads(pickle.dumps(sources)) == sources


def test_compression_is_told_by_content_whatever_the_name(tmp_path: Path):
    path = write(tmp_path / "a.txt", gzip.compress(b"It sails.\n"))
    assert everything(discover([path], FILE)) == [(path, ["It sails."])]
    path = write(tmp_path / "b.gz", "It returns.\n")
    assert everything(discover([path], FILE)) == [(path, ["It returns."])]


def test_folders_are_walked_in_order_without_hidden_and_binary_files(tmp_path: Path):
    write(tmp_path / "b" / "2.txt", "two\n")
    write(tmp_path / "b" / "1.txt", "one\n")
    write(tmp_path / "a.txt", "zero\n")
    write(tmp_path / ".hidden.txt", "no\n")
    write(tmp_path / ".git" / "x.txt", "no\n")
    write(tmp_path / "b" / "boat.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
    write(tmp_path / "b" / "empty.txt", "")
    skipped: list[str] = []
    sources = discover([tmp_path], FILE, skipped)
    assert [Path(source.path).relative_to(tmp_path).as_posix() for source in sources] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert [line.rpartition(": ")[0] or line for line in skipped]
    assert "a picture, not text" in skipped[0] and skipped[1] == f"{tmp_path / 'b' / 'empty.txt'}: empty"
    assert discover([tmp_path], FILE) == sources


def test_patterns_are_expanded_where_the_shell_does_not(tmp_path: Path):
    for name in ("b.txt", "a.txt", "c.md"):
        write(tmp_path / name, "text\n")
    sources = discover([str(tmp_path / "*.txt")], FILE)
    assert [Path(source.path).name for source in sources] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x01\x02" * 30, "is a binary file"),
        (b"PK\x03\x04....", "is a damaged zip archive"),
        (b"\x01\x02\x03\x04text", "is a binary file"),
        (b"x" * 257 + b"ustar" + bytes(200), "is a tar archive: unpack it first"),
        (b"SQLite format 3\0" + bytes(80), "is a database"),
        (b"GIF89a\x20\x00\x10\x00\xf7\x00\x00" + bytes(80), "is a picture"),
        (gzip.compress(b"x" * 257 + b"ustar" + bytes(200), mtime=0), "is a tar archive: unpack it first"),
        (b"PAR1junk", "is a truncated Parquet file"),
        (gzip.compress(b"PAR1", mtime=0), "is a compressed Parquet file: decompress it first"),
        (b"<?xml version='1.0'?><p>x</p>", "is XML, not plain text"),
        (bytes(range(128, 256)) * 9, "is in an encoding that is not recognised"),
    ],
)
def test_files_that_are_not_text_are_refused_when_named_and_skipped_in_a_folder(
    tmp_path: Path, content: bytes, said: str
):
    path = write(tmp_path / "file", content)
    with pytest.raises(UserError, match=f"^{path} {said}"):
        discover([path], FILE)
    skipped: list[str] = []
    write(tmp_path / "text.txt", "text\n")
    assert len(discover([tmp_path], FILE, skipped)) == 1
    assert len(skipped) == 1 and said.removeprefix("is ") in skipped[0]


@pytest.mark.parametrize(("name", "form"), [("a.parquet", "a Parquet file"), ("a.xlsx", "a spreadsheet")])
def test_text_under_the_name_of_another_form_is_refused(tmp_path: Path, name: str, form: str):
    with pytest.raises(UserError, match=f"{name} is text, and its name is that of {form}: give its name the suffix"):
        discover([write(tmp_path / name, "id,text\n1,It sails.\n")], FILE)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.tsv"])
def test_what_is_stored_in_place_of_a_table_is_refused(tmp_path: Path, name: str):
    for text, what in (
        ("<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ):
        with pytest.raises(UserError, match=f"{name} is {what}.*, not a table: download the file itself"):
            discover([write(tmp_path / name, text)], FILE)


def test_damaged_compressed_files_of_a_folder_are_listed(tmp_path: Path):
    good = gzip.compress(os.urandom(4000).hex().encode())
    files = {"noise.gz": good[:10] + os.urandom(300), "cut.txt.gz": good[:-900]}
    for name, content in files.items():
        with pytest.raises(UserError, match=r"damaged compressed data|ends before its compressed data"):
            discover([write(tmp_path / name, content)], FILE)
    write(tmp_path / "text.txt", "text\n")
    skipped: list[str] = []
    assert [Path(source.path).name for source in discover([tmp_path], FILE, skipped)] == ["text.txt"]
    assert [line.partition(": ")[0] for line in skipped] == [str(tmp_path / "cut.txt.gz"), str(tmp_path / "noise.gz")]
    assert all(line.endswith("copy or download it again") for line in skipped)


def test_utf16_is_read_when_asked_for(tmp_path: Path):
    options = SourceOptions(encoding="utf-16")
    path = write(tmp_path / "notepad.txt", "渡船很旧。\r\n它开了。\r\n".encode("utf-16"))
    assert everything(discover([path], options), options) == [(path, ["渡船很旧。", "它开了。"])]
    options = SourceOptions(encoding="utf-16-le")
    path = write(tmp_path / "a.jsonl", '{"text": "渡船"}\n'.encode("utf-16-le"))
    assert everything(discover([path], options), options) == [(f"{path}#1", ["渡船"])]


def test_paths_that_are_missing_empty_or_forbidden(tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match="gone does not exist"):
        discover([str(tmp_path / "gone")], FILE)
    with pytest.raises(UserError, match=r"gone-\* does not exist"):
        discover([str(tmp_path / "gone-*")], FILE)
    with pytest.raises(UserError, match="nothing to read in no paths"):
        discover([], FILE)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match=f"nothing to read in {folder}: name a text file"):
        discover([folder], FILE)
    write(folder / "a.png", b"\x89PNG\r\n\x1a\n")
    write(folder / "b.txt", "")
    with pytest.raises(UserError, match=r"a\.png: a picture.*; .*b\.txt: empty"):
        discover([folder], FILE)
    with pytest.raises(UserError, match="encoding=utf-9 is not a known text encoding"):
        discover([folder], SourceOptions(encoding="utf-9"))

    path = write(tmp_path / "c.txt", "text\n")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"c\.txt cannot be read \(Permission denied\)"):
        discover([path], FILE)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch):
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be read \\(Permission denied\\)"):
        discover([tmp_path], FILE)


def test_standard_input_is_spooled_and_named(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b'{"text": "a boat"}\n'))))
    sources = discover(["-"], FILE)
    assert [(source.kind, source.compression, source.name) for source in sources] == [("jsonl", "gz", "standard input")]
    for _ in range(2):
        assert everything(sources) == [("standard input#1", ["a boat"])]
    Path(sources[0].path).unlink()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(UserError, match=r"nothing to read in - \(standard input: empty"):
        discover(["-"], FILE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_spooled(tmp_path: Path):
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("It sails.\n",))
    writer.start()
    sources = discover([pipe], FILE)
    writer.join()
    assert everything(sources) == [(str(pipe), ["It sails."])]
    Path(sources[0].path).unlink()


def test_blank_lines_part_documents_when_asked(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\ntwo\n\n\nthree\n")
    assert everything(discover([path], BLOCKS), BLOCKS) == [(f"{path}#1", ["one", "two"]), (f"{path}#2", ["three"])]


def test_gutenberg_is_stripped_and_never_cut(tmp_path: Path):
    options = SourceOptions(strip="gutenberg")
    middle = "It sails.\n\n" * 200
    path = write(
        tmp_path / "a.txt",
        f"x\n*** START OF THIS PROJECT GUTENBERG EBOOK ***\n{middle}*** END OF THIS PROJECT GUTENBERG\n",
    )
    sources = discover([path], options, large_bytes=100)
    assert len(sources) == 1
    assert everything(sources, options) == [(path, ["It sails."] * 200)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["渡船很旧。", "It sails on.", "éa", "", "", "　　它开了。", "tail"]), min_size=1, max_size=60
    ),
    st.integers(8, 200),
    st.sampled_from(["\n", "\r\n"]),
)
def test_ranges_read_what_the_whole_file_holds(tmp_path: Path, lines: list[str], large: int, end: str):
    path = write(tmp_path / "a.txt", end.join(["first", *lines, "last", ""]))
    for options in (FILE, BLOCKS):
        whole = discover([path], options)
        parts = discover([path], options, large_bytes=large)
        assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
        assert parts[-1].end is None and sum(part.size for part in parts) == whole[0].size
        assert [part.continues for part in parts] == [options is FILE and n > 0 for n in range(len(parts))]
        assert [paragraphs for _, paragraphs in everything(parts, options)] == [
            paragraphs for _, paragraphs in everything(whole, options)
        ]
        names = [name for name, _ in everything(parts, options)]
        assert len(set(names)) == len(names)


@given(st.integers(20, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_ranges_of_records_and_pages_add_up(tmp_path: Path, large: int):
    rows = "".join(json.dumps({"text": f"渡船 {n}"}, ensure_ascii=False) + "\n" for n in range(40))
    pages = "".join(f'<doc id="{n}" url="u" title="T{n}">\nT{n}\n\nIt sails {n}.\n</doc>\n' for n in range(40))
    for name, content in (("a.jsonl", rows), ("wiki_00", pages)):
        path = write(tmp_path / name, content)
        parts = discover([path], FILE, large_bytes=large)
        assert len(parts) > 2 and not any(part.continues for part in parts)
        assert [p for _, p in everything(parts)] == [p for _, p in everything(discover([path], FILE))]


def test_cuts_are_made_at_blank_lines_and_never_inside_a_character(tmp_path: Path):
    path = write(tmp_path / "a.txt", "渡" * 100 + "\n" + "船" * 100 + "\n\n" + "来" * 100 + "\n")
    sources = discover([path], FILE, large_bytes=100)
    assert [source.start for source in sources] == [0, 603]
    path = write(tmp_path / "b.txt", "渡" * 100 + "\n" + "船" * 100 + "\n")
    assert [source.start for source in discover([path], FILE, large_bytes=100)] == [0, 301]
    assert len(discover([path], BLOCKS, large_bytes=100)) == 1
    path = write(tmp_path / "c.txt", "渡" * 300)
    assert len(discover([path], FILE, large_bytes=100)) == 1


def test_other_encodings_and_compressed_files_are_not_cut(tmp_path: Path):
    options = SourceOptions(encoding="gb18030")
    path = write(tmp_path / "a.txt", ("渡船很旧。\n\n" * 50).encode("gb18030"))
    sources = discover([path], options, large_bytes=50)
    assert len(sources) == 1 and everything(sources, options) == [(path, ["渡船很旧。"] * 50)]
    assert (
        len(discover([write(tmp_path / "b.gz", gzip.compress(os.urandom(400).hex().encode()))], FILE, large_bytes=50))
        == 1
    )


def test_a_file_that_is_not_utf8_names_the_byte_and_the_remedy(tmp_path: Path):
    path = write(tmp_path / "old.txt", "Heute fährt sie nicht.\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"old\.txt is not UTF-8 \(line 1\): it looks like cp1252, so give encoding=cp1252"
    ):
        discover([path], SourceOptions(encoding="utf-8"))
    assert everything(discover([path], FILE)) == [(path, ["Heute fährt sie nicht."])]


@pytest.mark.untraced  # the probes of lines are memory too
@pytest.mark.parametrize("shape", ["lines", "wrapped", "one line"])
def test_memory_does_not_grow_with_a_text(tmp_path: Path, shape: str):
    line = "the ferry sailed past the old customs house and nobody on board was awake\n"
    text = {"lines": line.replace("e\n", "e.\n").capitalize(), "wrapped": line, "one line": line.replace("\n", " ")}

    def peak(size: int) -> int:
        (source,) = discover([write(tmp_path / "a.txt", text[shape] * (size // len(line)))], FILE)
        tracemalloc.start()
        (document,) = read(source, FILE)
        assert sum(map(len, document.paragraphs)) > 0.95 * size
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(4_000_000) < 1.2 * peak(1_000_000)


@pytest.mark.data
@needs_data
def test_real_folders_are_discovered():
    skipped: list[str] = []
    named = "wikiextractor_en wiki_zh wiki_dump wikitext2 weibo_ner afqmc xquad glue swag squad_v1.1"
    sources = discover([DATA / name for name in named.split()], FILE, skipped)
    kinds = {Path(source.path).relative_to(DATA).as_posix(): source.kind for source in sources}
    assert kinds["wikiextractor_en/xml/AA/wiki_00"] == "wikiextractor"
    assert kinds["wikiextractor_en/json/AA/wiki_00"] == kinds["wiki_zh/AB/wiki_00"] == "jsonl"
    assert kinds["wiki_dump/enwiki-table-markup.xml.bz2"] == "mediawiki"
    assert kinds["wikitext2/wiki.test.tokens"] == kinds["weibo_ner/weiboNER_2nd_conll.dev"] == "text"
    assert kinds["afqmc/dev.json"] == "jsonl" and kinds["xquad/xquad.en.json"] == "json"
    assert kinds["glue/SST-2/train.tsv"] == "tsv" and kinds["swag/swag_sample.csv"] == "csv"
    assert "dev-v1.1.json.zip" in [Path(line.partition(":")[0]).name for line in skipped]


@pytest.mark.data
@needs_data
def test_a_real_novel_is_the_same_in_ranges():
    whole = everything(discover([DATA / "zh_novels"], FILE))
    parts = discover([DATA / "zh_novels"], FILE, large_bytes=200_000)
    assert len(parts) == 13
    assert everything(parts) == whole
    assert sources.LARGE_BYTES == 64 << 20


def test_links_are_entered_once(tmp_path: Path) -> None:
    """A link to the parent, two links to one folder, a link to a file that is read, and a link out of the folder."""
    root, other = tmp_path / "root", tmp_path / "other"
    write(root / "a.txt", "one\n")
    write(root / "sub" / "b.txt", "two\n")
    write(other / "c.txt", "three\n")
    (root / "sub" / "up").symlink_to(root)
    (root / "x1").symlink_to(other)
    (root / "x2").symlink_to(other)
    (root / "z.txt").symlink_to("a.txt")
    (root / "y.txt").hardlink_to(root / "a.txt")
    skipped: list[str] = []
    sources = discover([root], FILE, skipped)
    assert [Path(source.path).relative_to(root).as_posix() for source in sources] == [
        "a.txt", "y.txt", "sub/b.txt", "x1/c.txt",
    ]  # fmt: skip
    assert [line.removeprefix(f"{root}/") for line in skipped] == [
        f"z.txt: the same file as {root}/a.txt, which is read",
        f"sub/up: the same folder as {root}, which is read",
        f"x2: the same folder as {root}/x1, which is read",
    ]
    assert [source.folder for source in sources] == [str(root)] * 4
    assert [source.path for source in discover([root / "z.txt"], FILE)] == [str(root / "z.txt")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n")
    write(tmp_path / os.fsdecode(b"caf\xe9.txt"), "two\n")
    write(tmp_path / os.fsdecode(b"d\xe9") / "b.txt", "three\n")
    skipped: list[str] = []
    assert len(discover([tmp_path], FILE, skipped)) == 1
    assert skipped == [
        f"{tmp_path}/caf\ufffd.txt: its name is not UTF-8; rename it",
        f"{tmp_path}/d\ufffd: its name is not UTF-8; rename it",
    ]


def test_what_may_not_be_read_in_a_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "inner/c.txt"):
        write(tmp_path / name, "text\n")
    scandir, opened = os.scandir, Path.open

    def no_folder(path):
        if Path(path).name == "inner":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def no_file(self, *args, **named):
        if self.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **named)

    monkeypatch.setattr(os, "scandir", no_folder)
    monkeypatch.setattr(Path, "open", no_file)
    skipped: list[str] = []
    assert [Path(source.path).name for source in discover([tmp_path], FILE, skipped)] == ["a.txt"]
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in skipped) == [
        "b.txt: cannot be read (Permission denied)", "inner: cannot be read (Permission denied)",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"b\.txt cannot be read \(Permission denied\)"):
        discover([tmp_path / "b.txt"], FILE)


def test_a_file_that_vanishes_between_listing_and_reading_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n")
    write(tmp_path / "b.jsonl", '{"text": "two"}\n')
    inside, named = discover([tmp_path], FILE), discover([tmp_path / "a.txt"], FILE)
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).unlink()
    skipped: list[str] = []
    for source in inside:
        assert not [text for document in read_if_possible(source, FILE, skipped) for text in document.paragraphs]
    assert [line.removeprefix(f"{tmp_path}/") for line in skipped] == [
        "a.txt: cannot be read (No such file or directory)", "b.jsonl: cannot be read (No such file or directory)",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a\.txt cannot be read"):
        [text for document in read_if_possible(named[0], FILE, skipped) for text in document.paragraphs]


def test_files_that_begin_like_pictures_and_databases_are_text(tmp_path: Path) -> None:
    for text in ("SQLite format 3 is a file format.", "GIF89a is one too.", "PAR1 is short", "Rar! said the bird"):
        path = write(tmp_path / "a.txt", text + "\n")
        assert everything(discover([path], FILE)) == [(path, [text])]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_what_is_no_file_in_a_folder_is_passed_over_and_listed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A sentence.\n", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    skipped: list[str] = []
    sources = discover([tmp_path], SourceOptions(), skipped)
    assert [Path(source.path).name for source in sources] == ["a.txt"]
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in skipped) == [
        "endless.txt: is a device; give a regular file",
        "gone.txt: is a link to nowhere.txt, which does not exist",
        "pipe.txt: is a named pipe; give a regular file",
    ]
    for name, said in (("endless.txt", "is a device"), ("gone.txt", "does not exist")):
        with pytest.raises(UserError, match=said):
            discover([tmp_path / name], SourceOptions())


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks on Windows")
def test_piped_text_of_a_killed_process_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a process which is alive stays, and goes with it."""
    spool = "import os, signal, sys\nfrom blankfill.corpus.spool import spooled\nprint(spooled('-'), flush=True)\n"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", f"{spool}os.kill(os.getpid(), signal.SIGKILL)"],
        input=b"a boat", capture_output=True, env=environment, check=False,
    )  # fmt: skip
    left = Path(killed.stdout.decode().strip())
    assert killed.returncode == -9 and left.read_bytes() == b"a boat"
    with subprocess.Popen(
        [sys.executable, "-c", f"{spool}signal.pause()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    ) as alive:  # fmt: skip
        assert alive.stdin is not None and alive.stdout is not None
        alive.stdin.close()
        held = Path(alive.stdout.readline().decode().strip())
        assert held.exists() and not left.exists()
        remove_leftovers(tmp_path)
        assert held.exists()
        alive.kill()
    remove_leftovers(tmp_path)
    assert not held.exists()
