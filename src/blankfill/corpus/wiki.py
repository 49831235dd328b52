"""Files of Wikipedia to passages: MediaWiki XML dumps and WikiExtractor's files.

Of a dump only articles (namespace 0) are read, no redirects; `wikitext` cleans the text of a page. A dump names its
namespaces in its `<siteinfo>`; an old dump that does not number its pages by namespace is read by these names. A dump
is read with expat, which builds no tree: of a page only the title and the text are kept, up to LONGEST_PAGE. A dump
declares no entities, so a file that does is refused before any entity is expanded.

WikiExtractor's files: `<doc …>` blocks here, its JSON Lines in `tables`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from xml.parsers import expat

from blankfill.corpus.compression import open_binary
from blankfill.corpus.decoding import lines, read_text
from blankfill.corpus.limits import LONGEST_PAGE, too_long
from blankfill.corpus.wikimarks import KNOWN, hidden_names, is_redirect, normal
from blankfill.corpus.wikitext import passages, plain_paragraphs, unescaped
from blankfill.errors import UserError

_PIECE_BYTES = 1 << 14
_KEPT = frozenset(("title", "ns", "text", "redirect", "namespace"))
_SHORTER = "leave that page out of the dump"
_TITLE = re.compile(r'title="(.*?)"(?=\s+\w+=|\s*>)')


def read_dump(path: str, compression: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, paragraphs) for each article of a MediaWiki XML dump, a page at a time.

    Raises UserError when the XML is damaged or ends too early, and for a page longer than LONGEST_PAGE.
    """
    with open_binary(path, compression) as stream:
        reader = _DumpReader(name)
        data = None
        while data != b"":
            data = stream.read(_PIECE_BYTES)
            for title, text in reader.feed(data):
                paragraphs = passages(text, reader.hidden)
                if paragraphs:
                    yield title, paragraphs


class _DumpReader:
    """Collects the articles of a dump that is fed piece by piece."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.buffer_size = _PIECE_BYTES
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.DefaultHandler = self._other
        parser.EntityDeclHandler = self._refuse_entity
        self.hidden = KNOWN
        """Names of the namespaces whose links are not text."""
        self._namespaces: dict[int, str] = {}
        self._others: frozenset[str] = frozenset()
        self._articles: list[tuple[str, str]] = []
        self._page: dict[str, str] = {}
        self._tag = ""
        self._kept: list[str] = []
        self._size = 0
        # Bytes since the last parsed item: expat holds an unfinished tag or comment as a whole.
        self._pending = 0

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Return the (title, wikitext) of the articles that are complete now; b"" ends the dump."""
        self._articles = []
        self._pending += len(data)
        try:
            self._parser.Parse(data, not data)
        except expat.ExpatError as error:
            raise UserError(
                f"{self._name}, line {error.lineno}, column {error.offset} is not valid XML ({error}): the dump is "
                f"damaged or truncated, so copy or download it again."
            ) from error
        except (ValueError, LookupError) as error:
            raise UserError(
                f"{self._name} is in an encoding that the XML reader does not know ({error}): convert it to UTF-8."
            ) from error
        if self._pending > LONGEST_PAGE:
            raise too_long(f"{self._name}: a tag or comment", LONGEST_PAGE, "this is not a dump of MediaWiki", "bytes")
        return self._articles

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._pending = 0
        if self._tag:  # the text of an element ends where another element begins in it
            self._page[self._tag] = "".join(self._kept)
        tag = name.rpartition("}")[2]
        self._tag = tag if tag in _KEPT else ""
        self._kept, self._size = [], 0
        if self._tag:
            self._page[tag] = ""
        if tag == "namespace":
            self._page["key"] = attributes.get("key", "")

    def _data(self, text: str) -> None:
        self._pending = 0
        if not self._tag:
            return
        self._kept.append(text)
        self._size += len(text)
        if self._size > LONGEST_PAGE:
            where = f"{self._name}, line {self._parser.CurrentLineNumber}"
            title = self._page.get("title")
            raise too_long(f"{where}, page {title!r}" if title else where, LONGEST_PAGE, _SHORTER)

    def _end(self, name: str) -> None:
        self._pending = 0
        tag = name.rpartition("}")[2]
        if self._tag:
            self._page[self._tag] = "".join(self._kept)
            self._tag = ""
        if tag == "namespace":
            with suppress(ValueError):
                self._namespaces[int(self._page["key"])] = self._page["namespace"]
        elif tag == "namespaces":
            self.hidden = hidden_names(self._namespaces)
            self._others = frozenset(normal(other) for key, other in self._namespaces.items() if key and other)
        elif tag == "page":
            page, self._page = self._page, {}
            text = page.get("text", "")
            if self._is_article(page) and "redirect" not in page and not is_redirect(text):
                self._articles.append((page.get("title", ""), text))

    def _is_article(self, page: dict[str, str]) -> bool:
        """Return whether a page is in namespace 0: by its number, or without one by the beginning of its title."""
        if number := page.get("ns", "").strip():
            return number == "0"
        prefix, colon, _ = page.get("title", "").partition(":")
        return not colon or normal(prefix) not in self._others

    def _other(self, data: str) -> None:
        self._pending = 0
        if data.startswith("&"):  # an entity of an external DTD; `wikitext` knows those of HTML
            self._data(data)

    def _refuse_entity(self, entity: str, *rest: object) -> None:
        raise UserError(
            f"{self._name}, line {self._parser.CurrentLineNumber} declares the entity {entity[:40]!r}, which no dump "
            f"of MediaWiki does: get the dump from its publisher."
        )


def read_extractor(
    path: str, compression: str, start: int, end: int | None, encoding: str, name: str
) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, paragraphs) for each `<doc …>` of a WikiExtractor file."""
    title = ""
    body: list[str] = []
    size = 0
    for line in lines(read_text(path, compression, encoding, start, end, name), name, LONGEST_PAGE):
        if line.startswith("<doc "):
            at = line.find('title="')
            opening = _TITLE.match(line, at) if at >= 0 else None
            title, body, size = unescaped(opening.group(1)) if opening else "", [], 0
        elif line.startswith("</doc>"):
            paragraphs = extractor_paragraphs(title, body)
            if paragraphs:
                yield title, paragraphs
            body, size = [], 0
        else:
            body.append(line)
            size += len(line) + 1
            if size > LONGEST_PAGE:
                raise too_long(f"{name}: the article {title!r}", LONGEST_PAGE, "split it, or leave it out")


def extractor_paragraphs(title: str, rows: Iterable[str]) -> list[str]:
    """Return the passages of an article of WikiExtractor without the title line, section marks and empty brackets."""
    prose_rows = (row for row in rows if row and not row.startswith(("Section::::", "BULLET::::")))
    paragraphs = plain_paragraphs(unescaped("\n".join(prose_rows)))
    return paragraphs[1:] if paragraphs[:1] == [title] else paragraphs
