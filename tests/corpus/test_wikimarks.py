"""Apostrophes, angle brackets and hidden links of wikitext, and the namespaces of dumps in any language."""

import re
from pathlib import Path

import pytest

from blankfill.corpus.clean import characters
from blankfill.corpus.folder import is_prepared
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.wiki import read_dump
from blankfill.corpus.wikimarks import hidden_names, is_redirect, without_quotes
from blankfill.corpus.wikitext import passages

SWEDISH = {-2: "Media", -1: "Special", 0: "", 2: "Användare", 6: "Fil", 10: "Mall", 14: "Kategori"}
TURKISH = {-2: "Ortam", -1: "Özel", 0: "", 2: "Kullanıcı", 6: "Dosya", 10: "Şablon", 14: "Kategori"}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("''a'' '''b''' '''''c'''''", "a b c"),
        ("L''''armonium''' suona", "L'armonium suona"),
        ("''''''six''''''", "'six'"),
        ("''''''''eight", "'''eight"),
        # Both numbers are odd: the mark behind a single letter is an apostrophe and a mark of italic.
        ("écrivit l'''Iliade'' hier", "écrivit l'Iliade hier"),
        ("'''Le poète''' écrivit l'''Iliade'' hier", "Le poète écrivit l'Iliade hier"),
        # None is behind a single letter: the first behind a longer word, even where that is not French.
        ("chant de l' et aux'''Iliade'' hier", "chant de l' et aux'Iliade hier"),
        ("a '''word ''here", "a 'word here"),
        # Both are even: the marks behind a letter mark bold, as vectors of physics do.
        ("''F'' = ''m'''''a'''", "F = ma"),
        ("'''F''' = m'''a''' and x'''y'''z", "F = ma and xyz"),
        # An elided article keeps its apostrophe where MediaWiki prints none.
        ("L'''Andalousie''' est belle", "L'Andalousie est belle"),
        ("Connue pour l'''Alhambra''' et qu''Homère'' chante", "Connue pour l'Alhambra et qu'Homère chante"),
        ("dell'''Adriatico''' e all''Etna''", "dell'Adriatico e all'Etna"),
        ("'''l'''Alhambra", "lAlhambra"),
        ("th''is'' and n''o''", "this and no"),
        ("d'''A''' of a surface", "dA of a surface"),
    ],
)  # fmt: skip
def test_apostrophes(line: str, text: str):
    assert without_quotes(line) == text
    assert without_quotes(f"'' one\n{line}\n''' two") == f" one\n{text}\n two", "each line has marks of its own"


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("Use List<S>, Vector<int>, Map<K, V> and <stdio.h>.", ["Use List<S>, Vector<int>, Map<K, V> and <stdio.h>."]),
        ("If a < b, x <- y, c <b and d> e, f<i, g>h.", ["If a < b, x <- y, c <b and d> e, f<i, g>h."]),
        ("A &lt;b&gt; for H<SUB>2</SUB>O<S>old</S>, <span class=x>5</span> <u>kg</u>.", ["A <b> for H2Oold, 5 kg."]),
        ("<nowiki>List<S></nowiki> has <code>no</code> end.", ["List<S> has no end."]),
        ("One.<br />Two.<BR>Three.<p>Four.</p>", ["One.", "Two.", "Three.", "Four."]),
        ("Sold.<ref>Smith, p. 4. It sails.\n\nIt returns.", ["Sold.Smith, p. 4. It sails.", "It returns."]),
        ("Sold.<ref>Smith It sails.<ref name=a>b</ref> Old.", ["Sold.Smith It sails. Old."]),
        ("Sold.<ref name=\"a\" It sails.\n\nIt returns.<ref>b</ref>", ["Sold. It sails.", "It returns."]),
        ("Sold.<ref name=\"a>b</ref> He said \"no\".<ref>c</ref> So.", ["Sold. He said \"no\". So."]),
        ("Here <math>x is open.\n\nHere <math>y</math> is not.", ["Here x is open.", "Here is not."]),
        ("Sold.</ref> It sails.<references/>", ["Sold. It sails."]),
    ],
)  # fmt: skip
def test_angle_brackets(wikitext: str, prose: list[str]):
    assert passages(wikitext) == prose


def test_parameters_of_types_in_any_text():
    assert characters("A List<S> of <b>bold</b> words<I>x</I>, <S>old</S>") == "A List<S> of bold wordsx, old"


@pytest.mark.parametrize(
    "link", ["[[Fil:x.jpg|thumb|A [[boat]]]]", "[[ kategori : Boats]]", "[[FIL:x]]", "[[Media:x.ogg|y]]"]
)
def test_links_of_the_wiki_itself(link: str):
    assert passages(f"{link}It sails.", hidden_names(SWEDISH)) == ["It sails."]
    assert passages("It sails to [[Dosya:x]].", hidden_names(SWEDISH)) == ["It sails to Dosya:x."]


def test_links_to_pictures_by_any_name():
    assert passages("[[Grafika:stary most.JPG|thumb|x]][[Bild:a_b.svg ]]It sails.") == ["It sails."]
    assert passages("See [[:Grafika:a.jpg]] and [[Star Wars: Episode IV|a film]].") == ["See Grafika:a.jpg and a film."]


@pytest.mark.parametrize(
    "text", ["#REDIRECT [[A]]", " # redirect[[A]] {{R}}", "#PRZEKIERUJ [[A]]\n[[Kategoria:B]]",
             "#перенаправление [[A]]", "#تحويل [[A]]", "#पुनर्प्रेषित [[A]]", "#تغییر_مسیر [[A#b]]", "#YÖNLENDİRME: [[A]]"],
)  # fmt: skip
def test_redirects_of_any_language(text: str):
    assert is_redirect(text)


@pytest.mark.parametrize("text", ["#[[A]] is one", "#One [[A]]\n#Two [[B]]", "#One [[A]] of many", "It sails."])
def test_lists_are_no_redirects(text: str):
    assert not is_redirect(text)


def dump(names: dict[int, str], *pages: str) -> str:
    listed = "".join(f'<namespace key="{key}">{name}</namespace>' for key, name in names.items())
    return f"<mediawiki><siteinfo><namespaces>{listed}</namespaces></siteinfo>{''.join(pages)}</mediawiki>"


def page(title: str, text: str, extra: str = "<ns>0</ns>") -> str:
    return f"<page><title>{title}</title>{extra}<revision><text>{text}</text></revision></page>"


def test_old_dumps_number_no_namespaces(tmp_path: Path):
    path = tmp_path / "old.xml"
    titles = ["Färja", "Mall:Färja", "användare:Ann", "Kategori:Båtar", "Special:Sök", "Fil 2: en film", ": Färja"]
    path.write_text(dump(SWEDISH, *(page(title, "Den seglar.", "") for title in titles)), encoding="utf-8")
    assert [title for title, _ in read_dump(str(path), "", "x")] == ["Färja", "Fil 2: en film", ": Färja"]


def test_a_damaged_list_of_namespaces_is_no_reason_to_stop(tmp_path: Path):
    path = tmp_path / "odd.xml"
    odd = '<namespace key="six">Fil</namespace><namespace>x</namespace><namespace key="14"/>'
    text = dump({}, page("A", "[[File:a]]It sails.")).replace("<namespaces>", f"<namespaces>{odd}")
    path.write_text(text, encoding="utf-8")
    assert list(read_dump(str(path), "", "x")) == [("A", ["It sails."])]


def test_each_dump_has_names_of_its_own_with_several_workers(tmp_path: Path):
    body = "[[{}:x|thumb|Hidden]]The ferry number {} sails to the island every morning. [[{}:y]]"
    for code, names in (("sv", SWEDISH), ("tr", TURKISH)):
        pages = (page(f"{code}{n}", body.format(names[6], n, names[14])) for n in range(40))
        (tmp_path / f"{code}.xml").write_text(dump(names, *pages), encoding="utf-8")
    out = tmp_path / "out"
    config = PrepareConfig(workers=2, dedup="none", validation=0)
    prepare([str(tmp_path / "sv.xml"), str(tmp_path / "tr.xml")], out, config)
    text = Tokenizer.load(out).decode(IndexedCorpus(out / "train").tokens.tolist())
    assert is_prepared(out)
    assert len(re.findall("the ferry number", text)) == 80
    assert not re.search("hidden|thumb|fil|dosya|kategori", text)
