"""Held-out text for measurements: documents of any file that `prepare` reads, sentences by line, blanks drawn by seed.

Independent of models: every model gets the same blanks, whatever its tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.encodings import grouped_remarks
from blankfill.corpus.sources import SourceOptions, discover, read_if_possible
from blankfill.corpus.tables.given import USUAL_NAMES, TextTable, given_kind
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.system import console
from blankfill.tasks.datasets.files import text_lines
from blankfill.tasks.items import LanguageItem
from blankfill.types import Int32

_IDEOGRAPH = "\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")
PASSAGE = 48
"""Words of a passage with a blank; with any tokenizer it fits into a model of 128 positions."""
LENGTHS = (1, 2, 3, 5, 8, 13)
"""Lengths of blanks in words."""


def documents(path: Path, tables: TableOptions | None = None) -> Iterator[LanguageItem]:
    """Read the documents of a file or a folder, cleaned as by `prepare`; paragraphs are joined by a space.

    tables: how tables are read, with the column of the text. Words are runs between white space, or single characters
    of a script without spaces. Raises UserError for a missing file and for a file that is not text.
    """
    options, skipped = SourceOptions(**vars((tables or TableOptions()).table_options())), list[str]()
    sources = discover([path], options, skipped)
    for remark in grouped_remarks(
        (source.name or source.path, source.encoding) for source in sources if not source.start
    ):
        console.say(f"Note: {console.worded(remark)}")
    for source in sources:
        parts: list[str] = []
        name = ""
        for document in read_if_possible(source, options, skipped):
            if parts and not source.continues:
                yield _language(name, parts)
            name, parts = document.name, list(document.paragraphs)
        if parts:
            yield _language(name, parts)
    for line in skipped:
        console.say(f"Not read: {console.worded(line)}")


def _language(name: str, paragraphs: Sequence[str]) -> LanguageItem:
    text = " ".join(paragraphs)
    return LanguageItem(name, text, len(_WORD.findall(text)))


def sentences(path: Path, tables: TableOptions | None = None) -> list[LanguageItem]:
    """Read the non-empty lines of a UTF-8 file, or the texts of a table, each as a text of its own. tables: how a table
    is read, with the column of the text."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file with a sentence on each line")
    tables = tables or TableOptions()
    if path.exists() and (kind := given_kind(path, tables, USUAL_NAMES)):
        given = ((row.where, row.text) for row in TextTable(path, kind, tables).rows())
    else:
        given = ((f"{path}, line {number}", line) for number, line in enumerate(text_lines(path), 1))
    sentences = [LanguageItem(where, text.strip(), len(_WORD.findall(text))) for where, text in given if text.strip()]
    if not sentences:
        raise UserError(f"{path} has no text: give a file with a sentence on each line")
    return sentences


@dataclass(frozen=True)
class Cut:
    """A passage with a blank. words: number of words of the answer."""

    before: str
    answer: str
    after: str
    words: int


def passages(texts: Iterator[LanguageItem], words: int = PASSAGE) -> list[str]:
    """Return consecutive passages of `words` words from the beginning of each text; a shorter rest is left out."""
    passages = []
    for text in texts:
        starts = [match.start() for match in _WORD.finditer(text.text)]
        edges = [*starts[::words], len(text.text)] if len(starts) % words == 0 else starts[::words]
        passages += [text.text[begin:end].strip() for begin, end in pairwise(edges)]
    return passages


def cut_blanks(texts: Sequence[str], length: int, seed: int) -> list[Cut]:
    """Cut a blank of `length` words into each passage, at a place that depends only on (seed, number of the passage,
    length).

    At least one word stays before the blank and one after it.
    """
    cuts = []
    for number, text in enumerate(texts):
        places = [(match.start(), match.end()) for match in _WORD.finditer(text)]
        rng = np.random.Generator(np.random.Philox(key=[seed, number * 1024 + length]))
        first = 1 + int(rng.integers(0, len(places) - length - 1))
        begin, end = places[first][0], places[first + length - 1][1]
        cuts.append(Cut(text[:begin], text[begin:end], text[end:], length))
    return cuts


def chosen(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the items to measure, in order: all when limit is 0 or at least `count`, else `limit` of
    them drawn by seed."""
    if not limit or limit >= count:
        return np.arange(count)
    rng = np.random.Generator(np.random.Philox(key=[seed, count]))
    return np.sort(rng.permutation(count)[:limit])


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int32]:
    """Encode each text; special tokens written in a text are encoded as plain text."""
    if not texts:
        return []
    ids, lengths = tokenizer.encode_plain(texts)
    return np.split(ids, np.cumsum(lengths)[:-1])


def around(before: str, answer: str, spaced: bool) -> tuple[str, str]:
    """Return the text before a blank and the answer, as they are encoded separately: the space between them belongs to
    the answer where tokens include the space before them (`spaced`)."""
    stripped = before.rstrip()
    return (stripped, f" {answer}" if stripped != before else answer) if spaced else (before, answer)
