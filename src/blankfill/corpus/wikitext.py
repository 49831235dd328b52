r"""Turns the wikitext of an article into its running prose, a string for each paragraph.

Headings, lists, tables, templates, references, formulas, categories, pictures and links to other languages are dropped.
Nothing is ever expanded (that needs the modules of the wiki); the handful of templates that carry words of the sentence
(`{{lang|fr|mot}}`, `{{convert|5|km}}`, `{{nowrap|…}}`) are replaced by their argument, and brackets left empty are
removed. Marks without a partner are removed, not the text around them, so no page fails.

**How.** Templates, links and language-conversion marks nest, so each is resolved by one pass with a stack, innermost
first. Elements (`<ref>…</ref>`) and external links (`[http://… label]`) are found by their beginnings; the end is
looked up once for all beginnings that share it. Tables are cut line by line. The rest is regular expressions that never
read a character twice from the same beginning.

**Linear.** A page may hold any marks any number of times, closed or not, and the work stays proportional to its length.
A regular expression such as `<ref>.*?</ref>` does not have this property: it reads to the end of the page from every
`<ref>` that is not closed. Nested marks are resolved up to MediaWiki's own depth of 40.

We tried a general parser instead: mwparserfromhell parses a sample dump at 1.5 MB/s before any of this
filtering is done; these passes do all of it at 9 MB/s.
"""

from __future__ import annotations

import html
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cache, partial

from blankfill.corpus.clean import characters, join_lines
from blankfill.corpus.wikimarks import KNOWN, is_hidden, is_text, without_quotes, without_tags

DEEPEST = 40
"""Depth of nested templates, links or conversions that is resolved, as in MediaWiki; counted from the innermost."""

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI = re.compile(r"<nowiki\s*+(/?)>", re.IGNORECASE)
_EXTENSIONS = (
    "ref|references|math|chem|ce|gallery|source|syntaxhighlight|timeline|score|hiero|pre|imagemap|templatedata|graph"
    "|mapframe|maplink|poem|categorytree|inputbox|section|templatestyles|indicator"
)
_NESTING = "table|noinclude|includeonly|dl|ul|ol"
_EMPTY_TAG = re.compile(rf"<(?:{_EXTENSIONS}|{_NESTING})(?=[\s/])[^<>]*+(?<=/)>", re.IGNORECASE)
_OPENING_TAG = re.compile(rf"<(?:({_EXTENSIONS})|({_NESTING}))(?=[\s/>])[^<>]*+>", re.IGNORECASE)
_LINE_BREAK = re.compile(r"<(/?)(br|p|div|blockquote|center)(?=[\s/>])([^<>]*+)>", re.IGNORECASE)
_BRACES = re.compile(r"\{\{|\}\}")
_BRACKETS = re.compile(r"\[\[|\]\]")
_CONVERSION = re.compile(r"-\{|\}-")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?+/")
_ADDRESS_END = re.compile(r"[\s\]]")
_BLANKS = re.compile(r"\s*+")
_LABEL_END = re.compile(r"[\]\n]")
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
_EMPTY_BRACKETS = re.compile(r"[(（\[][ \xa0,;:，；：、·/–-]*[)）\]]")
_BRACKET_LEFTOVER = re.compile(r"(?<=[(（])[ \xa0]*[,;，；、][ \xa0]*|[,;，；、][ \xa0]*(?=[)）])")
_SPACED_MARK = re.compile(r"(?<![ \xa0])[ \xa0]++([,;.!?](?!\S)|[，。；：！？、）])")
_TERMINAL = re.compile(r"[.!?。！？…][\"'”’」』）)\]]*$")
_NAMED_ARGUMENT = re.compile(r"(?:\s*+\w[\w ]*+|\s*+(?<= ))=")
_MANY_ZEROS = re.compile(r"&#0{9,}+")
_MANY_DIGITS = re.compile(r"&#[0-9]{12,}+;?")
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


def passages(wikitext: str, hidden: frozenset[str] = KNOWN) -> list[str]:
    """Return the running prose of an article's wikitext, one clean paragraph a string.

    hidden: names of the namespaces whose links are not text, see `wikimarks.hidden_names`.
    """
    text = wikitext.replace("\r\n", "\n")
    text = _COMMENT.sub("", text)
    text = _with_literal_text(text)
    text = _EMPTY_TAG.sub("", text)
    text = _without_elements(text)
    text = _resolved(text, _BRACES, _template, keep=False)
    text = _without_tables(text)
    text = _resolved(text, _CONVERSION, _converted, keep=True)
    text = _resolved(text, _BRACKETS, partial(_link, hidden), keep=True)
    text = _with_labels(text)
    text = without_quotes(text)
    text = _LINE_BREAK.sub(lambda tag: tag.group() if is_text(tag) else "\n\n", text)
    text = without_tags(text)
    text = _MAGIC_WORD.sub("", text)
    return [
        paragraph
        for paragraph in plain_paragraphs(unescaped("\n".join(_paragraph_rows(text))), tags=False)
        if len(paragraph.encode()) >= 60 or _TERMINAL.search(paragraph)
    ]


def plain_paragraphs(text: str, tags: bool = True) -> list[str]:
    """Return the paragraphs of a text, one on each line, with characters, white space, brackets and stray marks
    cleaned. tags: whether `<b>` and its like are tags and not text."""
    text = characters(text, tags)
    if "(" in text or "（" in text or "[" in text:
        text = _EMPTY_BRACKETS.sub("", _BRACKET_LEFTOVER.sub("", text))
    text = _SPACED_MARK.sub(r"\1", text)
    return [paragraph for row in text.split("\n") if (paragraph := " ".join(row.split()))]


def unescaped(text: str) -> str:
    """Return `text` with its HTML entities as characters; a number that is not a character becomes U+FFFD."""
    if "&#" in text:
        # Python refuses numbers of more than 4,300 digits.
        text = _MANY_DIGITS.sub("\ufffd", _MANY_ZEROS.sub("&#0", text))
    return html.unescape(text)


def _paragraph_rows(text: str) -> Iterator[str]:
    """Join the lines that MediaWiki shows as one paragraph; drop headings, lists, indented and preformatted lines."""
    lines: list[str] = []
    for row in [*text.split("\n"), ""]:
        plain = row.strip()
        preformatted = row[:1] == " " and not _TERMINAL.search(plain)
        if plain and plain[0] not in "=*#:;|!{}" and not preformatted:
            lines.append(plain)
        elif lines:
            yield join_lines("\n".join(lines)).replace("\n", " ") if len(lines) > 1 else lines[0]
            lines = []


def _with_literal_text(text: str) -> str:
    """Return `text` with the content of <nowiki> escaped, so that it stays literal."""
    closings = _Tags(text, _closing_tag)
    parts: list[str] = []
    at = copied = 0
    while opening := _NOWIKI.search(text, at):
        at = opening.end()
        closing = None if opening.group(1) else closings.after("nowiki", at)
        if opening.group(1) or closing:
            parts.append(text[copied : opening.start()])
            copied = at
        if closing:
            parts.append(_escaped(text[at : closing[0]]))
            at = copied = closing[1]
    return "".join(parts) + text[copied:]


def _escaped(text: str) -> str:
    """Return `text` with every character of wiki syntax as an entity."""
    return re.sub(r"[\[\]{}|'=*#:;!<>_-]", lambda match: f"&#{ord(match.group())};", text)


def _without_elements(text: str) -> str:
    """Return `text` without the elements that are not prose; a tag that is never closed stays and is removed later.

    An element of an extension does not contain another of its kind: of two opening tags before a closing one, the first
    is never closed.
    """
    closings, openings = _Tags(text, _closing_tag), _Tags(text, _opening_tag)
    parts: list[str] = []
    at = copied = 0
    while opening := _OPENING_TAG.search(text, at):
        at = opening.end()
        name = opening.group(1) or opening.group(2)
        closing = closings.after(name, at)
        if closing and opening.group(1) and (another := openings.after(name, at)) and another[0] < closing[0]:
            continue
        if closing:
            parts.append(text[copied : opening.start()])
            at = copied = closing[1]
    return "".join(parts) + text[copied:]


class _Tags:
    """Positions of tags of a text; each name is searched for once, however often it is looked up."""

    def __init__(self, text: str, pattern: Callable[[str], re.Pattern[str]]) -> None:
        self._text = text
        self._pattern = pattern
        self._places: dict[str, tuple[array[int], array[int]]] = {}

    def after(self, name: str, at: int) -> tuple[int, int] | None:
        """Return (start, end) of the first tag of `name` at or after `at`, None without one."""
        name = name.lower()
        if name not in self._places:
            starts, ends = array("q"), array("q")
            for tag in self._pattern(name).finditer(self._text):
                starts.append(tag.start())
                ends.append(tag.end())
            self._places[name] = starts, ends
        starts, ends = self._places[name]
        place = bisect_left(starts, at)
        return (starts[place], ends[place]) if place < len(starts) else None


@cache
def _closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}\s*+>", re.IGNORECASE)


@cache
def _opening_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<{name}(?=[\s/>])[^<>]*+>", re.IGNORECASE)


def _with_labels(text: str) -> str:
    """Return `text` with each external link replaced by its label, or removed where it has no label."""
    parts: list[str] = []
    # The last ends of an address and of a label; they also serve earlier beginnings.
    copied, address, label = 0, -1, -1
    for link in _EXTERNAL.finditer(text):
        if link.start() < copied:
            continue
        if link.end() > address:
            end = _ADDRESS_END.search(text, link.end())
            if end is None:
                break
            address = end.start()
        begin = stop = address
        if text[address] != "]":
            begin = _BLANKS.match(text, address).end()  # type: ignore[union-attr]
            if begin > label:
                end = _LABEL_END.search(text, begin)
                label = end.start() if end else len(text)
            stop = label
        if text[stop : stop + 1] == "]":
            parts += (text[copied : link.start()], text[begin:stop])
            copied = stop + 1
    return "".join(parts) + text[copied:]


def _resolved(text: str, mark: re.Pattern[str], resolve: Callable[[str], str], keep: bool) -> str:
    """Replace each pair of marks and its content by `resolve` of the content, innermost first, in one pass.

    keep: whether the content of a pair with more than DEEPEST nested pairs stays.
    """
    pieces: list[str] = []
    begins: list[int] = []
    # For each open pair, the depth of nested pairs inside it so far.
    heights = [0]
    at = 0
    for match in mark.finditer(text):
        pieces.append(text[at : match.start()])
        at = match.end()
        # Closing marks end in a closing bracket, or in a hyphen.
        if match.group()[-1] not in "}]-":
            begins.append(len(pieces))
            heights.append(0)
        elif begins:
            begin, height = begins.pop(), heights.pop() + 1
            if height <= DEEPEST:
                pieces[begin:] = [resolve("".join(pieces[begin:]))]
            elif not keep:
                del pieces[begin:]
            heights[-1] = max(heights[-1], height)
    pieces.append(text[at:])
    return "".join(pieces)


def _template(body: str) -> str:
    if len(body) > 2000 and "|" not in body[:100]:
        return ""
    name, *arguments = body.split("|")
    name = re.sub(r"[\s_]+", "-", name.strip().lower())
    if name in _WORDS:
        return _WORDS[name]
    plain = [argument.strip() for argument in arguments if not _NAMED_ARGUMENT.match(argument)]
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
    """Return the text of a language-conversion mark of the Chinese Wikipedia: the simplified wording, or the first."""
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


def _link(hidden: frozenset[str], body: str) -> str:
    target, pipe, label = body.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and is_hidden(target, prefix, hidden):
        return ""
    if not pipe:
        return "" if _LANGUAGE_LINK.match(target) else target.strip().lstrip(":")
    return label


def _without_tables(text: str) -> str:
    if "{|" not in text:
        return text
    outside: list[str] = []
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
                outside.append(start[2:])
            continue
        (inside if depth else outside).append(row)
    # A table that is never closed would swallow the page: keep those of its lines that do not belong to a table.
    outside.extend(row for row in inside if not row.lstrip().startswith(("{|", "|", "!")))
    return "\n".join(outside)
