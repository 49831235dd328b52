"""Word, PDF, EPUB and web pages: their running text, what is left out and counted, and the sentences about others."""

import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from blankfill.corpus import limits
from blankfill.corpus.documents import docx as docx_module
from blankfill.corpus.documents import epub as epub_module
from blankfill.corpus.documents.html import blocks, declared_encoding
from blankfill.corpus.faults import SourceError
from blankfill.corpus.sources import RawDocument, SourceOptions, discover, read, read_if_possible
from blankfill.errors import UserError
from documents import epub, pdf

OPTIONS = SourceOptions()
LONG = "The old ferry crossed the lake every morning before the bells rang, and nobody on board was awake."
PAGE = (
    "<html><head><title>News</title><style>p {}</style><script>var x = 1;</script></head><body>"
    "<nav><a href='/'>Home</a> <a href='/a'>About us</a></nav>"
    f"<article><h1>The ferry</h1><p>{LONG}</p><p>{LONG} It was late again that day.</p><img src='x.png'>"
    f"<table><tr><td>12</td><td>13</td></tr></table><p>{LONG} Then it sailed away.</p></article>"
    "<footer>Copyright, all rights reserved, cookies, imprint</footer></body></html>"
)


def only(path: str) -> tuple[list[str], RawDocument]:
    """The paragraphs of the one document of a file, and the document."""
    (source,) = discover([path], OPTIONS)
    (document,) = read(source, OPTIONS)
    return list(document.paragraphs), document


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.pdf", "not a document\n", "is text, and its name is that of a PDF document: name it .txt"),
        ("a.docx", "not a document\n", "is text, and its name is that of a Word document"),
        ("a.epub", "not a document\n", "is text, and its name is that of an EPUB book"),
        ("a.pdf", PAGE, "is a web page (HTML), not a PDF document: download the file itself"),
        ("a.docx", POINTER, "is a pointer of Git LFS, not a Word document: download"),
        ("a.txt", POINTER, "is a pointer of Git LFS: download the file itself"),
    ],
)
def test_files_in_place_of_a_document(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        discover([str(tmp_path / name)], OPTIONS)
    (tmp_path / "b.txt").write_text(LONG)
    skipped: list[str] = []
    assert [Path(source.path).name for source in discover([str(tmp_path)], OPTIONS, skipped)] == ["b.txt"]
    assert len(skipped) == 1 and said.removeprefix("is ") in skipped[0]


def test_a_word_document_gives_its_paragraphs_and_counts_the_rest(tmp_path: Path):
    docx = pytest.importorskip("docx")
    made = docx.Document()
    made.add_heading("The ferry", 1)
    made.add_paragraph(LONG)
    table = made.add_table(1, 2)
    table.cell(0, 0).text = "12"
    table.cell(0, 1).text = f"{LONG} In a table."
    broken = made.add_paragraph("one")
    broken.add_run().add_break()
    broken.add_run("two")
    # Text that was inserted and deleted with changes tracked, and a footnote.
    from docx.oxml import parse_xml

    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    made.add_paragraph("It ")._p.append(parse_xml(f"<w:ins {space}><w:r><w:t>was late.</w:t></w:r></w:ins>"))
    made.paragraphs[-1]._p.append(parse_xml(f"<w:del {space}><w:r><w:delText>no</w:delText></w:r></w:del>"))
    made.paragraphs[-1]._p.append(parse_xml(f"<w:r {space}><w:footnoteReference w:id='2'/></w:r>"))
    made.sections[0].header.paragraphs[0].text = "Confidential"
    made.sections[0].footer.paragraphs[0].text = " "
    made.save(tmp_path / "a.docx")
    paragraphs, document = only(str(tmp_path / "a.docx"))
    assert paragraphs == ["The ferry", LONG, f"{LONG} In a table.", "one", "two", "It was late."]
    assert document.dropped == {"tables, except sentences in them": 1, "footnotes": 1, "headers and footers": 1}


def test_a_pdf_is_read_page_by_page_without_headers_and_hyphens(tmp_path: Path):
    pytest.importorskip("pypdf")
    body = [
        ["The old ferry crossed the lake every mor-", "ning before the bells of the town rang and"],
        ["nobody on board was awake when the well-", "known captain came. The well-known man said"],
        ["that it would be late again, as it always", "had been in the winters of the last years."],
        ["Then it sailed, and the lake was still and", "nobody saw it again before the next spring."],
    ]
    pages = [["The Lake Herald", *lines, f"page {number}"] for number, lines in enumerate(body, 1)]
    paragraphs, document = only(pdf(tmp_path / "a.pdf", [*pages, []]))
    text = " ".join(paragraphs)
    assert "every morning before" in text and "the well-known captain" in text
    assert "Herald" not in text and "page 2" not in text
    assert document.dropped["page headers and footers"] == 8 and document.dropped["pages without text"] == 1


def test_pdfs_without_text_encrypted_and_damaged_ones(tmp_path: Path):
    pypdf = pytest.importorskip("pypdf")
    scanned = pdf(tmp_path / "scan.pdf", [[], []])
    with pytest.raises(SourceError, match=r"scan\.pdf has no text on its 2 pages, which are pictures.*ocrmypdf"):
        only(scanned)
    writer = pypdf.PdfWriter(pdf(tmp_path / "plain.pdf", [["Some text."]]))
    writer.encrypt("secret", algorithm="RC4-128")
    with open(tmp_path / "locked.pdf", "wb") as file:
        writer.write(file)
    with pytest.raises(SourceError, match=r"locked\.pdf is encrypted: save it without its password"):
        only(str(tmp_path / "locked.pdf"))
    (tmp_path / "cut.pdf").write_bytes((tmp_path / "plain.pdf").read_bytes()[:60])
    with pytest.raises(SourceError, match=r"cut\.pdf is not a readable PDF document"):
        only(str(tmp_path / "cut.pdf"))


def test_documents_of_a_folder_that_cannot_be_read_are_listed(tmp_path: Path):
    pytest.importorskip("pypdf")
    pdf(tmp_path / "scan.pdf", [[]])
    pdf(tmp_path / "text.pdf", [["It sails."]])
    skipped: list[str] = []
    texts = [
        list(document.paragraphs)
        for source in discover([tmp_path], OPTIONS)
        for document in read_if_possible(source, OPTIONS, skipped)
    ]
    assert texts == [["It sails."]]  # a document that cannot be read is no empty document
    assert len(skipped) == 1 and skipped[0].startswith(f"{tmp_path}/scan.pdf: has no text on its 1 page,")


def test_a_text_about_pdf_is_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("%PDF-1.7 is how such files begin.\n")
    assert only(str(tmp_path / "a.txt"))[0] == ["%PDF-1.7 is how such files begin."]


def test_a_web_page_gives_its_main_text(tmp_path: Path):
    pytest.importorskip("trafilatura")
    (tmp_path / "a.html").write_text(PAGE)
    paragraphs, document = only(str(tmp_path / "a.html"))
    text = " ".join(paragraphs)
    assert text.count(LONG) == 3 and "Then it sailed away." in text
    assert not any(word in text for word in ("About us", "cookies", "var x", "12"))
    assert document.dropped["navigation"] == 2 and document.dropped["pictures"] == 1


def test_a_page_without_a_main_text_is_read_as_a_whole_and_an_empty_one_refused(tmp_path: Path):
    pytest.importorskip("trafilatura")
    (tmp_path / "list.html").write_text("<html><body><div>one</div><div>two<br>three</div></body></html>")
    assert only(str(tmp_path / "list.html"))[0] == ["one", "two", "three"]
    (tmp_path / "app.html").write_text("<!doctype html><html><body><script>run()</script></body></html>")
    with pytest.raises(SourceError, match=r"app\.html has no text: if a script shows it"):
        only(str(tmp_path / "app.html"))


@pytest.mark.parametrize("declared", ["gb2312", "", "utf-9"])
def test_a_web_page_is_read_in_the_encoding_that_it_declares(tmp_path: Path, declared: str):
    pytest.importorskip("trafilatura")
    text = "渡船靠岸的时候，灯早已灭了。这是我们在那个地方的第一个晚上，大家都不说话，因为要下雨了。"
    page = f"<html><head><meta charset='{declared}'></head><body><p>{text}</p></body></html>"
    (tmp_path / "a.htm").write_bytes(page.encode("gb18030"))
    (source,) = discover([tmp_path / "a.htm"], OPTIONS)
    assert source.encoding.name == "gb18030"
    assert source.encoding.source == ("mark" if declared == "gb2312" else "guess")
    assert only(str(tmp_path / "a.htm"))[0] == [text]


def test_declared_encodings():
    assert declared_encoding(b'<?xml version="1.0" encoding="koi8-r"?><html>') == "koi8-r"
    assert declared_encoding(b'<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">') == "cp1252"
    assert declared_encoding(b"<p>charset=x") == ""


def test_blocks_end_paragraphs_and_very_deep_pages_are_read():
    html = pytest.importorskip("lxml.html")
    dropped: Counter[str] = Counter()
    page = "<body><p>a <b>b</b>\n c</p>d<ruby>漢<rt>かん</rt></ruby><pre>x\n  y</pre><svg>no</svg>e</body>"
    assert [text.strip() for text in blocks(html.document_fromstring(page), dropped)] == [
        "a b c", "d漢", "x\n  y", "e",
    ]  # fmt: skip
    assert dropped == {"pictures": 1}
    deep = html.document_fromstring(f"<body>{'<div>' * 200}deep{'</div>' * 200}</body>")
    assert list(blocks(deep, dropped)) == ["deep"]


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path):
    pytest.importorskip("lxml")
    chapters = {
        "b": f"<p>Second. {LONG}</p><aside epub:type='footnote'>A note.</aside>",
        "a": "<h1>One</h1><p>First.<a epub:type='noteref' href='#n'>1</a></p>",
        "n": "<p>Contents</p>",
        "z": "<p>never listed</p>",
    }
    spine = '<itemref idref="a"/><itemref idref="b"/><itemref idref="n" linear="no"/><itemref idref="gone"/>'
    paragraphs, document = only(epub(tmp_path / "a.epub", chapters, spine))
    assert paragraphs == ["One", "First.", f"Second. {LONG}"]
    assert document.dropped == {"footnotes": 1, "chapters outside the reading order": 1}


def test_protected_and_damaged_books(tmp_path: Path):
    pytest.importorskip("lxml")
    protection = (
        '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptionMethod Algorithm="{}"/></encryption>'
    )
    spine = '<itemref idref="a"/>'
    for algorithm, readable in (("http://www.w3.org/2001/04/xmlenc#aes128-cbc", False), (epub_module._FONTS[0], True)):
        member = {"META-INF/encryption.xml": protection.format(algorithm)}
        path = epub(tmp_path / "a.epub", {"a": "<p>Text.</p>"}, spine, member)
        if readable:
            assert only(path)[0] == ["Text."]
        else:
            with pytest.raises(SourceError, match=r"a\.epub is encrypted \(copy protection\)"):
                only(path)
    with pytest.raises(SourceError, match="has no text in its 1 chapters, only pictures"):
        only(epub(tmp_path / "b.epub", {"a": "<img src='x'/>"}, spine))
    with zipfile.ZipFile(tmp_path / "c.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
    with pytest.raises(SourceError, match=r"c\.epub is not a readable EPUB book"):
        only(str(tmp_path / "c.epub"))


def test_archives_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docx = pytest.importorskip("docx")
    docx.Document().save(tmp_path / "a.docx")
    monkeypatch.setattr(docx_module, "LARGEST_MARKUP", 1000)
    with pytest.raises(SourceError, match=r"a\.docx: its text is longer than 1,000 bytes"):
        only(str(tmp_path / "a.docx"))
    monkeypatch.setattr(epub_module, "LARGEST_OFFICE", 100)
    with pytest.raises(SourceError, match=r"a\.epub unpacks to \d+ bytes, more than the 100 that are read"):
        only(epub(tmp_path / "a.epub", {"a": "<p>Text.</p>"}, '<itemref idref="a"/>'))
    assert limits.LARGEST_OFFICE == 512 << 20


def odt(path: Path, mark: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", mark)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"),
            r"an old Word document \(\.doc\): save",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old or encrypted Office document: save it as"),
        (rb"{\rtf1\ansi Hello}", "an RTF document: save it as"),
        ("application/vnd.oasis.opendocument.text", r"an OpenDocument text \(\.odt\): save it as"),
        ("application/vnd.oasis.opendocument.graphics", "an OpenDocument file without running text"),
        ("x", "a zip archive, not text: unpack it first"),
        (b"PK\x03\x04junk", "a damaged zip archive or Office document: copy or download it again"),
    ],
)
def test_what_is_not_read_is_called_what_it_is(tmp_path: Path, content: bytes | str, said: str):
    path = tmp_path / "file"
    path.write_bytes(content) if isinstance(content, bytes) else odt(path, content)
    with pytest.raises(UserError, match=f"file is {said}"):
        discover([path], OPTIONS)


def test_a_missing_package_is_named_and_in_a_folder_the_file_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pdf(tmp_path / "a.pdf", [["It sails."]])
    (tmp_path / "b.html").write_text(PAGE)
    (tmp_path / "c.txt").write_text("text\n")
    for module in ("pypdf", "trafilatura"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"a PDF document, which needs the pypdf package: pip install 'blankfill\[off"):
        discover([tmp_path / "a.pdf"], OPTIONS)
    skipped: list[str] = []
    assert len(discover([tmp_path], OPTIONS, skipped)) == 1
    assert [line.partition(": ")[2].partition(",")[0] for line in skipped] == ["a PDF document", "a web page"]
