"""Tagged words in CoNLL's form: a word and its tag on each line, an empty line after each sentence.

Columns are separated by tabs or spaces; the first is the word, the last the tag. Lines that begin with "# " before a
sentence are comments. `-DOCSTART-` begins a document. Tags of every scheme are read (`entities`) and returned as BIO.
Weibo's words are a character and the digit of its place in a word; the digit is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from blankfill.errors import UserError
from blankfill.tasks.datasets.files import text_lines
from blankfill.tasks.items import Split, TaggedItem, listed
from blankfill.tasks.metrics.entities import bio, is_tag, parts
from blankfill.tasks.task import Task

_INVISIBLE = " \t\r\n\x0b\x0c\xa0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Characters that nobody sees; alone on a line they are an empty line."""
_PLACE = re.compile(r"(?<=.)\d$", re.DOTALL)


def read_conll(path: Path, labels: tuple[str, ...] = (), digits: bool = False) -> Split:
    """Return a split from a CoNLL file; a file of words alone gives no tags.

    labels: the BIO tags known from training; a type that is not among them is refused. digits: words end with a digit
    that does not belong to them. Raises UserError for a line without a tag in a file with tags, and for an invalid tag.
    """
    items: list[TaggedItem] = []
    starts: list[tuple[str, int]] = []
    document, parted = 0, False
    for sentence in _sentences(path):
        if sentence is None:
            # WikiGold's first document has no such line before it.
            document += bool(items)
            parted = True
            continue
        words = [word for word, _, _ in sentence]
        if digits:
            words = [_PLACE.sub("", word) for word in words]
        tags = _tags(path, sentence)
        starts.append((sentence[0][0], sentence[0][2]))
        items.append(TaggedItem(str(len(items)), tuple(words), tags, document))
    if not parted:
        items = [replace(item, document=None) for item in items]
    if not items:
        raise UserError(f"{path} has no sentences: copy or download it again.")
    tagged = sum(item.tags is not None for item in items)
    if 0 < tagged < len(items):
        word, line = next(start for item, start in zip(items, starts, strict=True) if item.tags is None)
        raise UserError(
            f"{path}, line {line} has no tag for {word!r}, and only {tagged} of {len(items)} sentences have tags: give "
            "all a tag on each line."
        )
    names_in_file = tag_names(items)
    unknown = [name for name in names_in_file if labels and name not in labels]
    if unknown:
        raise UserError(
            f"{path} has the tags {listed(unknown)}, which the training data do not have: correct the tags."
        )
    return Split(items, labels or names_in_file)


@dataclass(frozen=True)
class _Line:
    """A line of a file. cells: its columns; empty for an empty line, a comment, and one that begins a document."""

    number: int
    text: str
    cells: Sequence[str] = ()
    document: bool = False


def _lines(path: Path) -> Iterator[_Line]:
    """Yield every line. Invisible characters alone are an empty line; lines that begin with "# " before a sentence are
    comments, unless they have as many columns as the word after them, and a tag in the last one."""
    held: list[_Line] = []
    inside = False
    for number, text in enumerate(text_lines(path), 1):
        cells = [cell for cell in (text.split("\t") if "\t" in text else text.split(" ")) if cell]
        if not text.strip(_INVISIBLE):
            line = _Line(number, text)
        elif cells[0] == "-DOCSTART-":
            line = _Line(number, text, document=True)
        else:
            line = _Line(number, text, cells)
            if not inside and text.startswith("# "):
                held.append(line)
                continue
        yield from (_word_or_comment(earlier, len(line.cells) or 2) for earlier in held)
        held = []
        inside = bool(line.cells)
        yield line
    yield from (_word_or_comment(earlier, 2) for earlier in held)


def _word_or_comment(line: _Line, columns: int) -> _Line:
    """Return a line that begins with "# ", without cells unless it has `columns` cells and a tag in the last one."""
    return line if len(line.cells) == columns and is_tag(line.cells[-1].strip()) else _Line(line.number, line.text)


def _sentences(path: Path) -> Iterator[list[tuple[str, str, int]] | None]:
    """Yield each sentence as (word, tag or "", line number); None where a document begins."""
    sentence: list[tuple[str, str, int]] = []
    for line in _lines(path):
        if line.cells:
            tag = line.cells[-1].strip() if len(line.cells) > 1 else ""
            sentence.append((line.cells[0], tag, line.number))
            continue
        if sentence:
            yield sentence
            sentence = []
        if line.document:
            yield None
    if sentence:
        yield sentence


def _tags(path: Path, sentence: list[tuple[str, str, int]]) -> tuple[str, ...] | None:
    if not any(tag for _, tag, _ in sentence):
        return None
    for word, tag, line in sentence:
        if not tag:
            raise UserError(f"{path}, line {line} has no tag for {word!r}: write one behind a tab or a space.")
        try:
            parts(tag)
        except UserError as error:
            raise UserError(f"{path}, line {line}: {error}") from error
    return bio([tag for _, tag, _ in sentence])


def tag_names(items: list[TaggedItem]) -> tuple[str, ...]:
    """Return the labels of a tagger for the items: O, then B- and I- of every type, by name."""
    kinds = sorted({parts(tag)[1] for item in items for tag in item.tags or ()} - {""})
    return ("O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI"))


def predicted_lines(path: Path, tags: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a CoNLL file with predicted tags, one tuple for each of its sentences: in the last column, or
    in a second column of a file of words alone. Everything else is unchanged."""
    tagged = any(tag for sentence in _sentences(path) for _, tag, _ in sentence or ())
    words = (tag for sentence in tags for tag in sentence)
    for line in _lines(path):
        text = line.text
        if not line.cells:
            yield text
        elif tagged:
            before, mark, _ = text.rstrip().rpartition("\t" if "\t" in text else " ")
            yield f"{before}{mark}{next(words)}"
        else:
            yield f"{text.rstrip()}\t{next(words)}"


_METRICS = ("precision", "recall", "f1")


def _labels(*kinds: str) -> tuple[str, ...]:
    return ("O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI"))


_NAMES = {
    "train": ("train.txt", "train.conll", "eng.train", "*train*.conll", "*.train"),
    "dev": ("dev.txt", "valid.txt", "dev.conll", "eng.testa", "*dev*.conll", "*.dev"),
    "test": ("test.txt", "test.conll", "eng.testb", "*test*.conll", "*.test"),
}

TAGGED = (
    Task("conll", "tag", _NAMES, read_conll, _METRICS, "f1"),
    Task(
        "wnut17", "tag",
        {
            "train": ("wnut17train.conll",), "dev": ("emerging.dev.conll",),
            "test": ("emerging.test.annotated", "emerging.test.conll"),
        },
        read_conll, _METRICS, "f1", folders=("wnut17",),
        labels=_labels("corporation", "creative-work", "group", "location", "person", "product"),
    ),
    Task(
        "wikigold", "tag", {"train": ("wikigold.conll.txt",)}, read_conll, _METRICS, "f1", folders=("wikigold",),
        labels=_labels("LOC", "MISC", "ORG", "PER"),
    ),
    Task(
        "weibo", "tag",
        {split: (f"weiboNER_2nd_conll.{split}", f"weiboNER.conll.{split}") for split in ("train", "dev", "test")},
        partial(read_conll, digits=True), _METRICS, "f1", folders=("weibo_ner",),
        labels=_labels(*(f"{kind}.{form}" for kind in ("GPE", "LOC", "ORG", "PER") for form in ("NAM", "NOM"))),
        by_characters=True,
    ),
)  # fmt: skip
