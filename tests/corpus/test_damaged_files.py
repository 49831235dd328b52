"""Damaged files: an error where the file was named, a line in the list of a folder, and nothing else is lost."""

import gzip
import io
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from blankfill.corpus.documents.epub import epub_paragraphs
from blankfill.corpus.documents.pdf import pdf_text
from blankfill.corpus.encodings import decide_encoding
from blankfill.corpus.faults import SourceError
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.sources import SourceOptions, discover, read_if_possible
from blankfill.corpus.tables.prose import text_choices, text_rows
from blankfill.corpus.tables.reading import open_table
from blankfill.errors import UserError, in_flags
from blankfill.evaluation.texts import documents
from documents import pdf

OPTIONS = SourceOptions()
SENTENCES = "".join(f"The ferry number {k} sails again before the bells ring.\n\n" for k in range(3000))


def parquet(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(range(200)) + b"PAR1")


def truncated(path: Path, times: int = 1) -> None:
    packed = gzip.compress(SENTENCES.encode() * times, mtime=0)
    path.write_bytes(packed[: len(packed) * 2 // 3])


def flipped(path: Path) -> None:
    packed = bytearray(gzip.compress(SENTENCES.encode(), mtime=0))
    packed[len(packed) // 2] ^= 255
    path.write_bytes(packed)


def workbook(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 nothing else")


DAMAGED = {
    "a.txt.gz": (truncated, "ends before its compressed data do"),
    "b.txt.gz": (flipped, "damaged compressed data"),
    "c.parquet": (parquet, "not a readable Parquet file"),
    "d.xlsx": (workbook, "not a readable spreadsheet"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_an_error_when_named_and_a_line_in_a_folder(name: str, tmp_path: Path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("python_calamine")
    make, said = DAMAGED[name]
    make(tmp_path / name)
    (tmp_path / "whole.txt").write_text("It sails.\n", encoding="utf-8")
    skipped: list[str] = []
    texts = [
        (document.name, list(document.paragraphs))
        for source in discover([tmp_path], OPTIONS, skipped)
        for document in read_if_possible(source, OPTIONS, skipped)
    ]
    assert texts == [(str(tmp_path / "whole.txt"), ["It sails."])]
    (line,) = skipped
    assert line.startswith(f"{tmp_path / name}: ") and said in line
    with pytest.raises(SourceError, match=said):
        for source in discover([tmp_path / name], OPTIONS):
            for document in read_if_possible(source, OPTIONS, skipped):
                list(document.paragraphs)


def test_what_stands_before_the_damage_is_read_and_that_is_listed(tmp_path: Path):
    truncated(tmp_path / "a.txt.gz", times=10)
    skipped: list[str] = []
    (source,) = discover([tmp_path], OPTIONS, skipped, most_bytes=4096)
    (document,) = read_if_possible(source, OPTIONS, skipped)
    assert next(document.paragraphs) == "The ferry number 0 sails again before the bells ring."
    assert len(list(document.paragraphs)) > 100
    (line,) = skipped
    assert line.endswith("copy or download it again; the text before that was read")


def test_a_folder_with_damaged_files_is_prepared_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "texts"
    folder.mkdir()
    truncated(folder / "a.txt.gz")
    (folder / "whole.txt").write_text(SENTENCES, encoding="utf-8")
    report = prepare([folder], tmp_path / "out", PrepareConfig(vocab_size=0, workers=1))
    assert report.documents == 1
    assert [line.partition(": ")[0] for line in report.skipped] == [str(folder / "a.txt.gz")]
    capsys.readouterr()
    assert [item.id for item in documents(folder)] == [str(folder / "whole.txt")]
    assert f"Not read: {folder / 'a.txt.gz'}: ends before its compressed data do" in capsys.readouterr().err


def test_a_folder_that_may_be_listed_but_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.txt").write_text("Hidden.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("It sails.\n", encoding="utf-8")
    stat = os.stat

    def refuse(path, *args, **named):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **named)

    monkeypatch.setattr(os, "stat", refuse)
    skipped: list[str] = []
    assert [Path(source.path).name for source in discover([tmp_path], OPTIONS, skipped)] == ["b.txt"]
    assert skipped == [f"{tmp_path / 'closed'}: cannot be read (Permission denied)"]


RUSSIAN = "Паром снова отходит от берега раньше, чем звонят колокола города. " * 3
FRENCH = "Le ferry repart déjà avant que les cloches de la cité ne sonnent à l'aube. " * 3


@pytest.mark.parametrize(
    ("text", "written", "given", "likelier"),
    [
        (RUSSIAN, "cp1251", "latin-1", "cp1251"), (RUSSIAN, "koi8-r", "cp1252", "koi8-r"),
        (RUSSIAN, "cp1251", "cp1251", ""), (FRENCH, "latin-1", "latin-1", ""), (FRENCH, "cp1252", "latin-1", ""),
        ("渡船在钟声之前又一次开走了，城里的人都还在睡觉。" * 5, "gb18030", "gb18030", ""),
    ],
)  # fmt: skip
def test_a_named_encoding_that_gives_odd_characters_is_doubted(
    text: str, written: str, given: str, likelier: str, tmp_path: Path
):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(written))
    encoding = decide_encoding(str(path), wanted=given)
    assert (encoding.name, encoding.likelier) == (given, likelier)
    remarks = [in_flags(remark) for remark in encoding.remarks("a.txt")]
    wanted = f"a.txt was read as {given}, and looks like {likelier}: if its text is wrong, give --encoding {likelier}, "
    assert remarks == ([f"{wanted}or leave --encoding out."] if likelier else [])


def test_a_page_in_the_encoding_that_it_declares_with_a_damaged_end(tmp_path: Path):
    pytest.importorskip("trafilatura")
    page = f"<html><head><meta charset=shift_jis></head><body><p>{'船は鐘が鳴る前に出た。' * 20}</p></body></html>"
    data = page.encode("cp932")
    (tmp_path / "a.html").write_bytes(data.replace(b"</p>", b"\x81</p>"))
    (source,) = discover([tmp_path], OPTIONS)
    assert source.encoding.codec == "cp932" and source.encoding.damaged <= 3
    (document,) = read_if_possible(source, OPTIONS, [])
    assert "船は鐘が鳴る前に出た。" in " ".join(document.paragraphs)


def prose(path: Path) -> list[list[str]]:
    table = open_table(path)
    return [texts for _, texts in text_rows(table, text_choices(table, OPTIONS))]


def test_several_arrays_in_one_file_are_all_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "two"}]\n[{"text": "three"}]\n', encoding="utf-8")
    assert prose(tmp_path / "a.json") == [["one"], ["two"], ["three"]]
    (tmp_path / "b.json").write_text('[{"text": "one"}] trailing', encoding="utf-8")
    with pytest.raises(UserError, match="is not valid JSON"):
        prose(tmp_path / "b.json")


def test_nul_characters_do_not_end_cells(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"text\nIt sa\0ils.\nAgain.\n")
    assert prose(tmp_path / "a.csv") == [["It sails."], ["Again."]]


def test_one_row_with_more_cells_is_noted_once(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two, more\n3,three\n", encoding="utf-8")
    table = open_table(tmp_path / "a.csv")
    for _ in range(2):
        assert len(list(table.rows(["text"], rest=True))) == 3
    (note,) = table.notes
    assert "1 row has more cells than the header" in note


def test_a_book_without_a_root_and_many_damaged_files(tmp_path: Path):
    pytest.importorskip("lxml")
    pytest.importorskip("pypdf")
    with zipfile.ZipFile(tmp_path / "a.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", "<container/>")
    with pytest.raises(SourceError, match=r"a\.epub is not a readable EPUB book"):
        list(epub_paragraphs(str(tmp_path / "a.epub"), "a.epub", Counter()))
    whole = Path(pdf(tmp_path / "a.pdf", [["The ferry sails."], ["Again."]])).read_bytes()
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place : place + 3] = b"\xff<<"
        (tmp_path / "b.pdf").write_bytes(damaged)
        try:
            list(pdf_text(str(tmp_path / "b.pdf"), "b.pdf", Counter()))
        except SourceError:
            refused += 1
    assert refused


def test_notes_of_workers_name_options_as_the_command_line_does(tmp_path: Path):
    openpyxl = pytest.importorskip("openpyxl")
    pytest.importorskip("python_calamine")
    book = openpyxl.Workbook()
    book.active.append(["text"])
    for k in range(60):
        book.active.append([f"The ferry number {k} sails again."])
    book.create_sheet("Second").append(["text"])
    made = io.BytesIO()
    book.save(made)
    (tmp_path / "a.xlsx").write_bytes(made.getvalue())
    report = prepare([tmp_path / "a.xlsx"], tmp_path / "out", PrepareConfig(vocab_size=0, workers=1))
    assert any("choose another with --sheet" in in_flags(notice) for notice in report.notices)
