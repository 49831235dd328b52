"""Wikipedia to passages: MediaWiki XML dumps and WikiExtractor's files.

A dump's page becomes its running prose, a paragraph a line: no headings, lists, tables, templates, references,
formulas, categories, pictures or links to other languages. Only articles (namespace 0), no redirects.

How: templates, links and language-conversion marks nest, so each is resolved by one pass with a stack, innermost
first; tables are cut line by line; the rest is regular expressions. Nothing is ever expanded (that needs the wiki's
own modules); the handful of templates that carry words of the sentence (`{{lang|fr|mot}}`, `{{convert|5|km}}`,
`{{nowrap|…}}`) give up their argument, and the brackets that others leave empty go. Marks that do not pair lose
themselves, not the text around them, so there is no page that this fails on.

A general parser was tried in its place: mwparserfromhell parses a sample dump at 1.5 MB/s before any of this
filtering is done; these passes do all of it at 9 MB/s. mwxml keeps an element for each page it has
passed, which grows with the dump; the few lines of iterparse here drop it.

WikiExtractor's files: `<doc …>` blocks here, its JSON Lines in `tables`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

from blankfill.corpus.clean import characters, join_lines
from blankfill.corpus.compression import open_binary
from blankfill.corpus.decoding import lines, read_text
from blankfill.errors import UserError

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI = re.compile(r"<nowiki\s*>(.*?)</nowiki\s*>|<nowiki\s*/>", re.DOTALL | re.IGNORECASE)
_DROPPED = (
    "ref|references|math|chem|ce|gallery|source|syntaxhighlight|timeline|score|hiero|pre|imagemap|templatedata|graph"
    "|mapframe|maplink|poem|table|categorytree|inputbox|section|noinclude|includeonly|templatestyles|indicator|dl|ul|ol"
)
_EMPTY_TAG = re.compile(rf"<(?:{_DROPPED})\b(?:[^<>\"]|\"[^\"<>]*\")*/>", re.IGNORECASE)
_FULL_TAG = re.compile(rf"<({_DROPPED})\b(?:[^<>\"/]|\"[^\"]*\"|/(?!>))*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_LINE_BREAK = re.compile(r"<(?:br|/?p|/?div|/?blockquote|/?center)\b[^<>]*>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_BRACES = re.compile(r"\{\{|\}\}")
_BRACKETS = re.compile(r"\[\[|\]\]")
_CONVERSION = re.compile(r"-\{|\}-")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//?[^\s\]]*(?:\s+([^\]\n]*))?\]")
_QUOTES = re.compile(r"'{2,}")
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_REDIRECT = re.compile(r"\s*#\s*(?:REDIRECT|重定向|転送|WEITERLEITUNG|REDIRECTION|REDIRECCIÓN)", re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r"[(（\[][ \xa0,;:，；：、·/–-]*[)）\]]")
_BRACKET_LEFTOVER = re.compile(r"(?<=[(（])[ \xa0]*[,;，；、][ \xa0]*|[,;，；、][ \xa0]*(?=[)）])")
_SPACED_MARK = re.compile(r"[ \xa0]+([,;.!?](?!\S)|[，。；：！？、）])")
_TERMINAL = re.compile(r"[.!?。！？…][\"'”’」』）)\]]*$")
_DROPPED_LINKS = frozenset(
    ("file", "image", "media", "category", "cat", "文件", "檔案", "档案", "图像", "圖像", "媒体", "媒體", "分类",
     "分類", "datei", "bild", "kategorie", "fichier", "catégorie", "archivo", "categoría", "ファイル", "画像",
     "カテゴリ", "파일", "분류", "файл", "категория", "immagine", "categoria", "ficheiro", "imagem",
     "bestand", "categorie")
)  # fmt: skip
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:")
_FIRST_ARGUMENT = frozenset(
    ("nowrap", "nobr", "nobreak", "small", "big", "em", "strong", "smallcaps", "sc", "abbr", "quote", "cquote",
     "blockquote", "quotation", "bquote", "term", "tq", "link-en", "link-ja", "internal-link-helper", "le", "tsl",
     "ill", "interlanguage-link", "visible-anchor", "vanchor", "nihongo", "not-a-typo", "sic", "linktext")
)  # fmt: skip
_SECOND_ARGUMENT = frozenset(
    ("lang", "lang-zh", "transl", "transliteration", "script", "color", "font-color", "fontcolor")
)  # fmt: skip
_WORDS = {
    "nbsp": " ", "snd": " – ", "spnd": " – ", "spaced-ndash": " – ", "ndash": "–", "–": "–", "mdash": "—", "—": "—",
    "em-dash": "—", "en-dash": "–", "'": "&#39;", "'s": "&#39;s", "\"": "\"", "!": "|", "=": "=", "·": "·", "dot": "·",
    "zwj": "", "shy": "", "-": "\n", "ndash-spaced": " – ", "c.": "c. ",
}  # fmt: skip


def read_dump(path: str, compression: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, paragraphs) for each article of a MediaWiki XML dump, a page at a time.

    Raises UserError when the XML is damaged or ends too early.
    """
    with open_binary(path, compression) as stream:
        events = ElementTree.iterparse(stream, events=("start", "end"))
        root: Any = None
        page: dict[str, str | None] = {}
        try:
            for event, element in events:
                tag = element.tag.rpartition("}")[2]
                if event == "start":
                    root = element if root is None else root
                    continue
                if tag in ("title", "ns", "text", "redirect"):
                    page[tag] = element.text or ""
                elif tag == "page":
                    text = page.get("text") or ""
                    if (page.get("ns") or "0").strip() == "0" and "redirect" not in page and not _REDIRECT.match(text):
                        paragraphs = passages(text)
                        if paragraphs:
                            yield page.get("title") or "", paragraphs
                    page = {}
                    root.clear()
        except ElementTree.ParseError as error:
            line, column = error.position
            raise UserError(
                f"{name}, line {line}, column {column} is not valid XML ({error}): the dump is damaged or truncated, "
                f"so copy or download it again."
            ) from error


def read_extractor(
    path: str, compression: str, start: int, end: int | None, encoding: str, name: str
) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, paragraphs) for each `<doc …>` of a WikiExtractor file."""
    title = ""
    kept: list[str] = []
    for line in lines(read_text(path, compression, encoding, start, end, name)):
        if line.startswith("<doc "):
            found = re.search(r'title="(.*?)"(?=\s+\w+=|\s*>)', line)
            title, kept = html.unescape(found.group(1)) if found else "", []
        elif line.startswith("</doc>"):
            paragraphs = extractor_paragraphs(title, kept)
            if paragraphs:
                yield title, paragraphs
            kept = []
        else:
            kept.append(line)


def extractor_paragraphs(title: str, rows: Iterable[str]) -> list[str]:
    """The passages of an article as WikiExtractor wrote it: the title line, section marks and empty brackets go."""
    kept = (row for row in rows if row and not row.startswith(("Section::::", "BULLET::::")))
    found = _plain(html.unescape("\n".join(kept)))
    return found[1:] if found[:1] == [title] else found


def passages(wikitext: str) -> list[str]:
    """The running prose of an article's wikitext, one clean paragraph a string."""
    text = wikitext.replace("\r\n", "\n")
    text = _COMMENT.sub("", text)
    text = _NOWIKI.sub(lambda match: _escaped(match.group(1) or ""), text)
    text = _EMPTY_TAG.sub("", text)
    text = _FULL_TAG.sub("", text)
    text = _resolved(text, _BRACES, _template)
    text = _without_tables(text)
    text = _resolved(text, _CONVERSION, _converted)
    text = _resolved(text, _BRACKETS, _link)
    text = _EXTERNAL.sub(lambda match: match.group(1) or "", text)
    text = _LINE_BREAK.sub("\n\n", text)
    text = _ANY_TAG.sub("", text)
    text = _MAGIC_WORD.sub("", _QUOTES.sub("", text))
    return [
        paragraph
        for paragraph in _plain(html.unescape("\n".join(_paragraph_rows(text))))
        if len(paragraph.encode()) >= 60 or _TERMINAL.search(paragraph)
    ]


def _paragraph_rows(text: str) -> Iterator[str]:
    """Join the lines that MediaWiki shows as one paragraph; headings, lists, indented and preformatted lines go."""
    kept: list[str] = []
    for row in [*text.split("\n"), ""]:
        plain = row.strip()
        preformatted = row[:1] == " " and not _TERMINAL.search(plain)
        if plain and plain[0] not in "=*#:;|!{}" and not preformatted:
            kept.append(plain)
        elif kept:
            yield join_lines("\n".join(kept)).replace("\n", " ") if len(kept) > 1 else kept[0]
            kept = []


def _plain(text: str) -> list[str]:
    """The paragraphs of a text with one a line: characters, white space, empty brackets and stray marks put right."""
    text = characters(text)
    if "(" in text or "（" in text or "[" in text:
        text = _EMPTY_BRACKETS.sub("", _BRACKET_LEFTOVER.sub("", text))
    text = _SPACED_MARK.sub(r"\1", text)
    return [paragraph for row in text.split("\n") if (paragraph := " ".join(row.split()))]


def _escaped(text: str) -> str:
    """`text` with every character of wiki syntax as an entity, so that it comes out as it is written."""
    return re.sub(r"[\[\]{}|'=*#:;!<>_-]", lambda match: f"&#{ord(match.group())};", text)


def _resolved(text: str, mark: re.Pattern[str], resolve: Callable[[str], str]) -> str:
    """Replace each pair of marks and what it encloses by `resolve` of that, innermost first, in one pass."""
    stack: list[list[str]] = [[]]
    at = 0
    for match in mark.finditer(text):
        stack[-1].append(text[at : match.start()])
        at = match.end()
        # The closing marks are those that end in a closing bracket, or in a hyphen.
        if match.group()[-1] not in "}]-":
            stack.append([])
        elif len(stack) > 1:
            inside = resolve("".join(stack.pop()))
            stack[-1].append(inside)
    stack[-1].append(text[at:])
    return "".join("".join(level) for level in stack)


def _template(body: str) -> str:
    if len(body) > 2000 and "|" not in body[:100]:
        return ""
    name, *arguments = body.split("|")
    name = re.sub(r"[\s_]+", "-", name.strip().lower())
    if name in _WORDS:
        return _WORDS[name]
    plain = [argument.strip() for argument in arguments if not re.match(r"\s*[\w ]+=", argument)]
    if name in _FIRST_ARGUMENT:
        named = dict(argument.split("=", 1) for argument in arguments if re.match(r"\s*(?:text|1|quote)\s*=", argument))
        return next((value.strip() for value in named.values()), plain[0] if plain else "")
    if name in _SECOND_ARGUMENT and len(plain) > 1:
        return plain[1]
    if name.startswith("lang-") and plain:
        return plain[0]
    if name in ("convert", "cvt") and len(plain) > 1:
        ranged = plain[1] in ("-", "–", "to", "and", "by", "x", "or") and len(plain) > 3
        return " ".join(plain[:4] if ranged else plain[:2])
    if name in ("frac", "sfrac") and plain:
        return "/".join(plain[-2:])
    if name in ("circa", "ca") and plain:
        return "c. " + plain[0]
    if name == "as-of" and plain:
        return "As of " + " ".join(plain[:1])
    if name in ("val", "gaps", "num") and plain:
        return plain[0]
    if name.startswith("formatnum:"):
        return name.removeprefix("formatnum:")
    return ""


def _converted(body: str) -> str:
    """What a language-conversion mark of the Chinese Wikipedia shows: the simplified wording, or the first given."""
    flags, pipe, rules = body.partition("|")
    if pipe and re.fullmatch(r"[A-Z+\-]{0,3}", flags.strip()):
        if set(flags) & set("HTD-"):
            return ""
        body = rules
    elif pipe and re.fullmatch(r"[\s;a-z-]+", flags):
        body = rules
    wordings: dict[str, str] = {}
    for rule in body.split(";"):
        variant, colon, wording = rule.partition(":")
        if colon and re.fullmatch(r"\s*zh(?:-\w+)*\s*", variant):
            wordings[variant.strip().lower()] = wording.strip()
    if not wordings:
        return body
    return next((wordings[variant] for variant in ("zh-hans", "zh-cn", "zh") if variant in wordings), None) or next(
        iter(wordings.values())
    )


def _link(body: str) -> str:
    target, pipe, label = body.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and prefix.strip().lower() in _DROPPED_LINKS:
        return ""
    if not pipe:
        return "" if _LANGUAGE_LINK.match(target) else target.strip().lstrip(":")
    return label


def _without_tables(text: str) -> str:
    if "{|" not in text:
        return text
    kept: list[str] = []
    inside: list[str] = []
    depth = 0
    for row in text.split("\n"):
        start = row.lstrip(" \t:*#")
        if start.startswith("{|"):
            depth += 1
        elif depth and start.startswith("|}"):
            depth -= 1
            if not depth:
                inside = []
                kept.append(start[2:])
            continue
        (inside if depth else kept).append(row)
    # A table that is never closed would swallow the page: keep those of its lines that are not a table's.
    kept.extend(row for row in inside if not row.lstrip().startswith(("{|", "|", "!")))
    return "\n".join(kept)
