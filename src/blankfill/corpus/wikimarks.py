"""Marks of wikitext that need a decision: which apostrophes are letters, which `<` begins a tag, which links are
hidden.

**Apostrophes** follow MediaWiki's rule, line by line. A run of 2 is a mark of italic, 3 of bold, 5 of both; of a run of
4, one apostrophe is a letter, and of a longer one all but 5. Where the numbers of italic and of bold marks of a line
are both odd, one mark of bold is an apostrophe and a mark of italic: the one behind a single letter (`l'''Iliade''`),
or else the first behind a longer word, or else the first behind a space. One rule goes beyond MediaWiki's: where a mark
opens directly behind an elided article, the apostrophe of the article stays (`L'''Andalousie'''` is *L'Andalousie*,
which MediaWiki prints without an apostrophe).

**Tags** are the elements of HTML and of MediaWiki's extensions; anything else in angle brackets is text (`List<int>`,
`a < b`), as MediaWiki prints it. A single capital that is glued to a word and is never closed (`List<S>`) is text too.

**Hidden links** lead to files and categories. A dump names these namespaces in its `<siteinfo>`; the English names hold
everywhere. Older names (Polish `Grafika:` for `Plik:`) are no longer in dumps, so a link to a name that ends as a file
of pictures, sounds or films does is hidden as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from blankfill.corpus.clean import is_parameter

ENGLISH = frozenset(("file", "image", "media", "category"))
"""Names of the namespaces of files and categories that every wiki knows."""
KNOWN = ENGLISH | frozenset(
    ("cat", "文件", "檔案", "档案", "图像", "圖像", "媒体", "媒體", "分类", "分類", "datei", "bild", "kategorie",
     "fichier", "catégorie", "archivo", "categoría", "ファイル", "画像", "カテゴリ", "파일", "분류", "файл",
     "категория", "immagine", "categoria", "ficheiro", "imagem", "bestand", "categorie")
)  # fmt: skip
"""Names of some more languages, for text without `<siteinfo>`, and older names that dumps do not list."""
HIDDEN_KEYS = frozenset((-2, 6, 14))
"""Numbers of the namespaces of media, files and categories."""

_RUN = re.compile(r"'{2,}")
_ELIDED = re.compile(
    r"(?<![^\W_])(?:[ld]|qu|jusqu|lorsqu|puisqu|quoiqu|all|dall|dell|nell|sull|coll|quell|quest|sant)$", re.IGNORECASE
)
_VOWEL = re.compile(r"[aeiouyhàâäáæèéêëìíîïòóôöœùúûüAEIOUYHÀÂÄÁÆÈÉÊËÌÍÎÏÒÓÔÖŒÙÚÛÜ][^\W\d_]")

_HTML = (
    "a abbr acronym address area article aside audio b base basefont bdi bdo big blockquote body br button canvas "
    "caption center cite code col colgroup data dd del details dfn dialog dir div dl dt em embed fieldset "
    "figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins "
    "kbd label legend li link main map mark menu meta meter nav noframes noscript object ol optgroup option output "
    "p param picture pre progress q rb rbc rp rt rtc ruby s samp script section select small source span strike "
    "strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul "
    "var video wbr xmp"
)
_EXTENSIONS = (
    "categorytree ce charinsert chem dynamicpagelist gallery graph hiero imagemap includeonly indicator inputbox "
    "langconvert languages listing mapframe maplink math noinclude nowiki onlyinclude page pagelist pages phonos poem "
    "quiz ref references rss score section source syntaxhighlight talkpage templatedata templatestyles thread timeline "
    "translate tvar"
)
TAGS = frozenset((*_HTML.split(), *_EXTENSIONS.split()))
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)(?=[\s/>|])([^<>]*+)>")
_ATTRIBUTES = re.compile(r"(?:\s++(?:[\w:-]++\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s\"'=]++)))*+\s*+/?+\s*+")
_OPEN_REF = re.compile(
    r"</?ref(?![\w-])(?:\s++(?:name|group|follow|extends)\s*+=\s*+(?:\"[^\"\n<>]*+\"|[^\s<>\"]++))*+(?:[ \t]*+/?+>)?+",
    re.IGNORECASE,
)  # fmt: skip
_FILE_NAME = re.compile(
    r"\.(?:jpe?g|png|gif|svg|tiff?|webp|xcf|bmp|djvu|pdf|og[agv]|opus|mp3|wav|flac|midi?|webm|mpe?g|mp4|stl)\s*$",
    re.IGNORECASE,
)
_REDIRECT = re.compile(
    r"\s*#\s*(?:REDIRECT|重定向|転送|WEITERLEITUNG|REDIRECTION|REDIRECCIÓN|[^\s\[\]#:*;]{2,24}\s?:?\s?(?=\[\[[^\[\]\n]*\]\]"
    r"\s*(?:$|\[\[|\{\{|<!--|__)))",
    re.IGNORECASE,
)


def without_quotes(text: str) -> str:
    """Return `text` without the marks of italic and bold, with the apostrophes that are letters."""
    if "''" not in text:
        return text
    return "\n".join(_unquoted(line) if "''" in line else line for line in text.split("\n"))


def _unquoted(line: str) -> str:
    """Return a line without its marks of italic and bold."""
    parts: list[str] = []
    marks: list[int] = []
    at = 0
    for run in _RUN.finditer(line):
        length = run.end() - run.start()
        mark = length if length < 4 else 3 if length == 4 else 5
        parts.append(line[at : run.start()] + "'" * (length - mark))
        marks.append(mark)
        at = run.end()
    parts.append(line[at:])
    both = marks.count(5)
    if (marks.count(2) + both) % 2 and (marks.count(3) + both) % 2 and 3 in marks:
        place = _apostrophe(parts, marks)
        marks[place] = 2
        parts[place] += "'"
    bold = italic = False
    for place, mark in enumerate(marks):
        opens = not (bold if mark == 3 else italic if mark == 2 else bold or italic)
        bold ^= mark != 2
        italic ^= mark != 3
        if opens and _VOWEL.match(parts[place + 1]) and _ELIDED.search(parts[place][-8:]):
            parts[place] += "'"
    return "".join(parts)


def _apostrophe(parts: list[str], marks: list[int]) -> int:
    """Return which mark of bold of an unbalanced line is an apostrophe and a mark of italic."""
    longer = spaced = -1
    for place, mark in enumerate(marks):
        if mark != 3:
            continue
        before = parts[place]
        if before[-1:] == " ":
            spaced = place if spaced < 0 else spaced
        elif before[-2:-1] == " ":
            return place
        elif longer < 0:
            longer = place
    return longer if longer >= 0 else spaced


def without_tags(text: str) -> str:
    """Return `text` without tags; other text in angle brackets stays."""
    if "<" not in text:
        return text
    text = _OPEN_REF.sub("", text)
    return _TAG.sub(lambda tag: tag.group() if is_text(tag) else "", text)


def is_text(tag: re.Match[str]) -> bool:
    """Return whether a match of `<name …>` or `</name …>` is text and no tag."""
    closing, name, rest = tag.groups()
    if name.lower() not in TAGS:
        return True
    if len(name) > 1 or closing:
        return False
    if not _ATTRIBUTES.fullmatch(rest):
        return True
    return not rest and is_parameter(tag.string, tag.start(), tag.end())


def is_hidden(target: str, prefix: str, names: frozenset[str]) -> bool:
    """Return whether a link to `target` is to a file or a category. prefix: the part of it before the first colon."""
    return normal(prefix) in names or (target[:1] != ":" and _FILE_NAME.search(target[-16:]) is not None)


def hidden_names(namespaces: Mapping[int, str]) -> frozenset[str]:
    """Return the names of files, media and categories, given the names of the namespaces of a dump by number."""
    return KNOWN | {normal(name) for key, name in namespaces.items() if key in HIDDEN_KEYS and name}


def normal(name: str) -> str:
    """Return the name of a namespace in the form in which names are compared."""
    return " ".join(name.replace("_", " ").split()).casefold()


def is_redirect(text: str) -> bool:
    """Return whether the text of a page is a redirect, in any language: `#WORD [[target]]` alone, or a known word."""
    return _REDIRECT.match(text) is not None
