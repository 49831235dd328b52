"""Wiki pages to prose: each construct of wikitext, the two forms of WikiExtractor, dumps, and the real dump."""

import bz2
import re
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import wiki
from blankfill.corpus.sources import SourceOptions, discover, read
from blankfill.corpus.wiki import extractor_paragraphs, passages, read_dump, read_extractor
from blankfill.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
data = pytest.mark.data
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("The '''Ferry''' is ''old''.", "The Ferry is old."),
        ("A [[quay]] and [[harbour town|towns]]s.", "A quay and townss."),
        ("See [[:Category:Boats]] and [[#Routes|below]].", "See Category:Boats and below."),
        ("[[File:boat.jpg|thumb|A [[boat]] of {{lang|de|Holz}}]]It sails.", "It sails."),
        ("[[Category:Boats]][[Kategorie:Boote]][[de:Fähre]][[zh-min-nan:X]]It sails.", "It sails."),
        ("Sold.<ref name=\"a/b\">{{cite|x}}</ref> Lost.<ref name=x /> Found.", "Sold. Lost. Found."),
        ("{{Infobox|a={{b|c}}|d=[[e]]}}\nIt sails.", "It sails."),
        ("{{convert|5|km|mi}} long, {{lang|de|breit}}{{nbsp}}and {{nowrap|old}}.", "5 km long, breit and old."),
        ("The ''Eagle''{{'}}s mast.", "The Eagle's mast."),
        ("Ferry ({{IPA|x}}; {{lang-de|Fähre}}) sails ({{foo}}) daily.", "Ferry (Fähre) sails daily."),
        ("Open {{brace and never closed.", "Open brace and never closed."),
        ("Closed}} too ]] early.", "Closed too early."),
        ("One<!-- hidden [[x --> two.", "One two."),
        ("Write <nowiki>[[x]] ''y''</nowiki> so.", "Write [[x]] ''y'' so."),
        ("See [http://a.example/b the page] and [https://a.example].", "See the page and."),
        ("Fish &amp; chips&nbsp;&lt;daily&gt;.", "Fish & chips <daily>."),
        ("__NOTOC__It <span style=\"x\">is</span> H<sub>2</sub>O.", "It is H2O."),
        ("若要-{zh-hans:计算机; zh-hant:電腦;}-则可。", "若要计算机则可。"),
        ("-{T|zh-hans:甲;zh-hant:乙}--{H|zh-cn:丙}-这里是-{原文}-不变，-{zh-tw:丁}-也在。", "这里是原文不变，丁也在。"),
        ("-{A|zh-cn:软件;zh-tw:軟體}-很好。", "软件很好。"),
        ("渡船很旧。\n岸边无人。", "渡船很旧。岸边无人。"),
        ("One line\nand its next.", "One line and its next."),
    ],
)  # fmt: skip
def test_wikitext(wikitext: str, prose: str):
    assert passages(wikitext) == [prose]


def test_headings_lists_tables_and_preformatted_lines_go():
    text = (
        "== History ==\nIt was built here.\n\n* one\n# two\n: three\n; four\n----\n"
        "{| class=x\n! head\n|-\n| cell {| inner\n| deep.\n|}\n|}\nIt burnt down.\n code = 1\nSee also:\n"
    )
    assert passages(text) == ["It was built here.", "It burnt down."]


def test_a_table_that_is_never_closed_does_not_swallow_the_page():
    assert passages("{| class=x\n| cell.\n\nIt sails on Sundays.\n") == ["It sails on Sundays."]


def test_short_rows_that_are_no_sentences_go():
    assert passages("Books\n\nA row of text that says a good deal but ends without any mark at all\n\nYes.") == [
        "A row of text that says a good deal but ends without any mark at all", "Yes.",
    ]  # fmt: skip


@given(st.text(alphabet=st.sampled_from("{}[]|-'<>!=a渡 \n:;zh&#/refmath\"")))
def test_no_page_makes_it_fail(text: str):
    for paragraph in passages(text):
        assert paragraph == " ".join(paragraph.split()) != ""


def test_deep_nesting_is_no_recursion():
    assert passages("{{" * 50_000 + "It sails." + "}}" * 50_000 + "On.") == ["On."]


def dump(*pages: str) -> str:
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo/>{"".join(pages)}</mediawiki>'


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><text>{text}</text></revision></page>"


def test_only_articles_come_out_of_a_dump(tmp_path: Path):
    path = tmp_path / "pages.xml.bz2"
    pages = [
        page("Ferry", "It sails &amp;amp; returns."),
        page("Talk:Ferry", "I disagree.", ns=1),
        page("Boat", "#REDIRECT [[Ferry]] Not this."),
        page("Ship", "Nor this.", extra='<redirect title="Ferry" />'),
        page("Empty", ""),
        page("Quay", "One.\n\nTwo."),
    ]
    path.write_bytes(bz2.compress(dump(*pages).encode()))
    assert list(read_dump(str(path), "bz2", "x")) == [("Ferry", ["It sails & returns."]), ("Quay", ["One.", "Two."])]
    sources = discover([str(path)], SourceOptions())
    assert [(source.kind, source.compression) for source in sources] == [("mediawiki", "bz2")]
    assert [document.name for document in read(sources[0], SourceOptions())] == [f"{path}#Ferry", f"{path}#Quay"]


def test_a_truncated_dump_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "pages.xml"
    path.write_text(dump(page("Ferry", "It sails.\n\nIt returns."))[:-30], encoding="utf-8")
    with pytest.raises(UserError, match=r"pages\.xml, line 3, column \d+ is not valid XML"):
        list(read_dump(str(path), "", str(path)))


def test_memory_does_not_grow_with_a_dump(tmp_path: Path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.xml"
        path.write_text(dump(*(page(f"P{n}", "It sails.") for n in range(count))), encoding="utf-8")
        tracemalloc.start()
        assert sum(1 for _ in read_dump(str(path), "", "x")) == count
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(10)
    # Elements kept for the 10,000 pages more would take 700 kB.
    assert peak(12_000) < peak(2000) + 200_000


def test_wikiextractor_files(tmp_path: Path):
    path = tmp_path / "wiki_00"
    path.write_text(
        '<doc id="1" url="u" title="The &quot;Ferry&quot;">\nThe "Ferry"\n\n'
        "It () sails &lt;daily&gt;.\n\nSection::::X.\n\n</doc>\n"
        '<doc id="2" url="u" title="Empty">\nEmpty\n\n</doc>\n<doc id="3" title="Quay">\nQuay\n\nOne.\nTwo.\n</doc>\n',
        encoding="utf-8",
    )
    assert list(read_extractor(str(path), "", 0, None, "utf-8", "x")) == [
        ('The "Ferry"', ["It sails <daily>."]), ("Quay", ["One.", "Two."]),
    ]  # fmt: skip
    assert [source.kind for source in discover([str(tmp_path)], SourceOptions())] == ["wikiextractor"]
    assert extractor_paragraphs("Quay", ["Quay is a word."]) == ["Quay is a word."]


@data
@needs_data
def test_both_forms_of_wikiextractor_give_the_same_prose():
    folder = DATA / "wikiextractor_en"
    forms = []
    for form in ("xml", "json"):
        (source,) = discover([str(folder / form)], SourceOptions())
        forms.append({document.name[-20:]: list(document.paragraphs) for document in read(source, SourceOptions())})
    assert len(forms[0]) == len(forms[1]) == 37
    words = [
        {word for documents in form.values() for document in documents for word in document.split()} for form in forms
    ]
    assert len(words[0] & words[1]) > 0.95 * len(words[0] | words[1])


@data
@needs_data
def test_the_real_dump_agrees_with_a_general_parser(monkeypatch):
    mwparserfromhell = pytest.importorskip("mwparserfromhell")
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    raw: dict[str, list[str]] = {}

    def keep(text: str, hidden: frozenset[str]) -> list[str]:
        raw[text] = passages(text, hidden)
        return raw[text]

    monkeypatch.setattr(wiki, "passages", keep)
    for title, paragraphs in islice(read_dump(str(DATA / "wiki_dump" / name), "bz2", "dump"), 15):
        assert not re.search(r"\[\[|\]\]|\{\{|\}\}|'''|&nbsp;|<ref|thumb\|", "\n".join(paragraphs)), title
    # Every word that comes out is one that the parser finds too, in the text or in what it drops as a template.
    for text, paragraphs in list(raw.items())[:6]:
        reference = set(re.findall(r"\w+", mwparserfromhell.parse(text).strip_code(keep_template_params=True)))
        words = set(re.findall(r"\w+", "\n".join(paragraphs)))
        assert len(words - reference) <= 0.01 * len(words)
