"""What was read: for each source its form, the column of its text, and how much came of it.

Many files of one form in a folder are one line. Not here: reading (`sources`), the report of a corpus (`summary`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blankfill.corpus.sources import RawDocument, Source

FORMS = {
    "text": "plain text", "wikiextractor": "WikiExtractor", "mediawiki": "MediaWiki dump", "html": "web page",
    "docx": "Word document", "pdf": "PDF document", "epub": "EPUB book", "python-docs": "documentation of Python",
}  # fmt: skip
"""Kind → its name for people; tables name their form themselves."""
MOST_LINES = 20
"""Lines beyond which the files of each folder that holds them are one line, even where each file was named."""
_HOW = {"option": "by option", "name": "by name", "guess": "guess"}


@dataclass(frozen=True)
class ReadSource:
    """One line of what was read.

    source: a file, or "12 files in FOLDER". form: such as "CSV, ';'", with the encoding where it is not UTF-8. text:
    the columns that hold the text and how they were chosen, "" without columns. dropped: numbers of things that were
    left out of documents, by what they are.
    """

    source: str
    form: str
    text: str
    documents: int
    characters: int
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts of what one source gave, as the marker of a task stores them."""

    source: Source
    documents: int = 0
    characters: int = 0
    form: str = ""
    text: str = ""
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, document: RawDocument, characters: int, continues: bool) -> None:
        """Count a document that was read to its end."""
        self.documents += bool(characters) and not continues
        self.characters += characters
        self.dropped.update(document.dropped)
        if document.choices and not self.text:
            self.form = document.choices[0].form
            self.text = ", ".join(f"{choice.field or 'each value'} ({_HOW[choice.by]})" for choice in document.choices)

    def values(self) -> dict[str, Any]:
        """Return the counts for the marker of a task."""
        source = self.source
        form = self.form or FORMS.get(source.kind, source.kind)
        if source.compression:
            form += f", {source.compression}"
        if source.encoding.codec not in ("utf-8", "utf-8-sig"):
            form += f", {source.encoding.shown}{' (guess)' if source.encoding.source == 'guess' else ''}"
        return {
            "source": source.name or source.path, "folder": source.folder, "form": form, "text": self.text,
            "documents": self.documents, "characters": self.characters,
            "dropped": {what: count for what, count in self.dropped.items() if what and count},
        }  # fmt: skip


def read_sources(tallies: Iterable[Mapping[str, Any]]) -> tuple[ReadSource, ...]:
    """Return the lines of what was read, from the counts in the markers of tasks, in their order."""
    of_files: dict[str, dict[str, Any]] = {}
    for tally in tallies:
        entry = of_files.setdefault(tally["source"], {**tally, "documents": 0, "characters": 0, "dropped": Counter()})
        _add(entry, tally)
    entries = list(of_files.values())
    lines = _grouped(entries, lambda entry: entry["folder"] or entry["source"])
    if len(lines) > MOST_LINES:
        lines = _grouped(entries, lambda entry: entry["folder"] or str(Path(entry["source"]).parent))
    return lines


def _add(entry: dict[str, Any], tally: Mapping[str, Any]) -> None:
    entry["documents"] += tally["documents"]
    entry["characters"] += tally["characters"]
    entry["dropped"].update(tally["dropped"])
    if tally["text"] and not entry["text"]:
        entry["form"], entry["text"] = tally["form"], tally["text"]


def _grouped(entries: Sequence[dict[str, Any]], place: Any) -> tuple[ReadSource, ...]:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((place(entry), entry["form"], entry["text"]), []).append(entry)
    lines = []
    for (where, form, text), members in groups.items():
        dropped: Counter[str] = Counter()
        for member in members:
            dropped.update(member["dropped"])
        name = members[0]["source"] if len(members) == 1 else f"{len(members):,} files in {where}"
        documents, characters = (sum(member[key] for member in members) for key in ("documents", "characters"))
        lines.append(ReadSource(name, form, text, documents, characters, dict(dropped)))
    return tuple(lines)


HEADERS = ("source", "form", "text", "documents", "characters")


def table_rows(lines: Sequence[ReadSource]) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of the table of what was read, under `HEADERS`; only the first lines of a long one."""
    rows = [
        (line.source, line.form, line.text or "–", f"{line.documents:,}", f"{line.characters:,}")
        for line in lines[:MOST_LINES]
    ]
    if (more := len(lines) - MOST_LINES) > 0:
        rest = lines[MOST_LINES:]
        documents, characters = sum(line.documents for line in rest), sum(line.characters for line in rest)
        rows.append((f"… and {more:,} more", "", "", f"{documents:,}", f"{characters:,}"))
    return rows


def dropped_rows(lines: Sequence[ReadSource]) -> list[tuple[str, str]]:
    """Return (what was left out of documents, how many)."""
    total: Counter[str] = Counter()
    for line in lines:
        total.update(line.dropped)
    return [(what, f"{count:,}") for what, count in total.most_common()]
