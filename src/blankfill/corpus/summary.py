"""The report of `prepare`: counts of a prepared corpus, text that was left out and why, and samples.

It is saved as `corpus.json` beside the token files; a folder with this file is a finished corpus. Not here: counting
(`prepare`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from blankfill.corpus.balance import in_words
from blankfill.corpus.inventory import HEADERS, ReadSource, dropped_rows, table_rows
from blankfill.errors import UserError
from blankfill.system import console
from blankfill.system.files import write_file
from blankfill.system.loader import fitting
from blankfill.system.reading import UnreadableError, read_json, shown
from blankfill.system.reading import field as of_field

FILE = "corpus.json"
PAGE = "report.html"
"""The same report for a browser, written by the command."""


@dataclass(frozen=True)
class Split:
    """Counts of one split of a corpus; a document that was cut counts once for each of its pieces."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    characters: int = 0


@dataclass(frozen=True)
class CorpusReport:
    """Result of `prepare`. Bytes are those of the sources on disk; seconds and rate are those of the last run.

    dropped: documents left out, by reason. repeated_lines: (number of documents, text), the most common first.
    duplicates: a few pairs (dropped, kept) of document names. notices: warnings for the user.
    """

    folder: Path
    documents: int
    train: Split
    valid: Split
    vocabulary: int
    tokenizer: str
    unknown: int
    dropped: Mapping[str, int]
    repeated_line_count: int
    dropped_lines: int
    repeated_lines: tuple[tuple[int, str], ...]
    duplicates: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...]
    samples: tuple[str, ...]
    notices: tuple[str, ...]
    source_bytes: int
    seconds: float
    continued: bool
    config: Mapping[str, Any]
    sources: str
    fingerprint: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Marks of the files (`system.marks`), by name; {} in reports of older versions."""
    normalization: Mapping[str, Any] = field(default_factory=dict)
    """For a trained tokenizer: share of the letters by script, and for wordpiece what became of case, accents and long
    runs, with the reasons; for bilingual its balance between scripts; {} in reports of older versions."""
    inventory: tuple[ReadSource, ...] = ()
    """What was read, a line for each source or for many files of one form; empty in reports of older versions."""
    reused: bool = field(default=False, compare=False)

    @property
    def tokens(self) -> int:
        """Number of tokens of both splits."""
        return self.train.tokens + self.valid.tokens

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters per token."""
        return (self.train.characters + self.valid.characters) / max(1, self.tokens)

    @property
    def unknown_share(self) -> float:
        """Share of unknown tokens among the training tokens."""
        return self.unknown / max(1, self.train.tokens)

    def write(self, folder: Path) -> None:
        """Save as `corpus.json` in one step; this makes a folder a finished corpus."""
        values = asdict(self)
        for name in ("folder", "reused"):
            values.pop(name)
        text = json.dumps({"format": "blankfill corpus 1", **values}, ensure_ascii=False, indent=1)
        write_file(folder / FILE, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> CorpusReport:
        """Read `corpus.json` of a finished folder. Raises UserError when the file is missing or is something else."""
        path = folder / FILE
        hints = get_type_hints(cls)
        try:
            values = read_json(path)
            if values.get("format") != "blankfill corpus 1":
                raise UserError(f"{path}: its format is {shown(values.get('format'))}, which is not known")
            values.setdefault("normalization", {})
            values_of_fields = {
                field_.name: fitting(
                    of_field(values, field_.name, object, path), hints[field_.name], f"{path}: `{field_.name}`"
                )
                for field_ in fields(cls)
                if field_.name not in ("folder", "reused") and (field_.name != "inventory" or "inventory" in values)
            }
        except UnreadableError as error:
            if not error.missing:
                raise
            raise UserError(
                f"{folder} is not a prepared corpus (no {FILE}): make one with "
                f"`blankfill prepare PATH --out {console.quoted(folder)}`."
            ) from None
        except UserError as error:
            raise UserError(
                f"{path} is not the report of a prepared corpus ({error.template}): prepare the text again into "
                "another folder."
            ) from error
        return cls(folder=folder, **values_of_fields)

    def say_sources(self) -> None:
        """Print what was read and what was not, as messages of a command whose output is something else."""
        if self.inventory:
            console.say(console.plain_table("Read", table_rows(self.inventory), HEADERS))
        if left_out := dropped_rows(self.inventory):
            console.say(f"Left out of documents: {'; '.join(f'{what}: {count}' for what, count in left_out)}.")
        for line in _listed_skipped(self.skipped):
            console.say(f"Not read: {line}")
        for notice in self.notices:
            console.say(f"Note: {console.worded(notice)}")

    def show(self) -> None:
        """Print the report on standard output."""
        if self.inventory:
            console.table("Read", table_rows(self.inventory), HEADERS)
        if left_out := dropped_rows(self.inventory):
            console.table("Left out of documents", left_out)
        rows: list[tuple[str, str, str]] = []
        for name in ("documents", "sentences", "tokens", "characters"):
            rows.append((name, f"{getattr(self.train, name):,}", f"{getattr(self.valid, name):,}"))
        console.table(f"Corpus in {self.folder}", rows, ("", "train", "validation"))
        facts = [
            ("documents read", f"{self.documents:,}"),
            ("vocabulary", f"{self.vocabulary:,} ({self.tokenizer})"),
            ("characters per token", f"{self.characters_per_token:.2f}"),
            ("unknown tokens", f"{self.unknown:,} ({self.unknown_share:.3%} of training)"),
            ("repeated lines", f"{self.repeated_line_count:,} that occur in more than one document"
             + (f"; {self.dropped_lines:,} repetitions were dropped" if self.dropped_lines else "")),
            *self._writing(),
            ("sources", console.amount(self.source_bytes, "B")),
        ]  # fmt: skip
        if not self.reused:
            rate = "" if self.continued else f", {self.source_bytes / 1e6 / max(self.seconds, 1e-3):.1f} MB/s"
            more = " (continued from an interrupted run)" if self.continued else ""
            facts.append(("time", f"{console.duration(self.seconds)}{rate}{more}"))
        console.table("", facts)
        if any(self.dropped.values()):
            console.table("Left out (documents)", [(why, f"{n:,}") for why, n in self.dropped.items() if n])
        if self.duplicates:
            console.table("Such as", self.duplicates, ("dropped", "in favour of"))
        if self.skipped:
            console.table("Not read", [(line,) for line in _listed_skipped(self.skipped)])
        if self.repeated_lines:
            lines = [(f"{n:,}", shortened(text, 90)) for n, text in self.repeated_lines[:10]]
            console.table("Commonest repeated lines", lines, ("documents", "line"))
        for number, sample in enumerate(self.samples, 1):
            console.show(f"Sample {number}: {sample}")
        for notice in self.notices:
            console.say(f"Note: {console.worded(notice)}")

    def _writing(self) -> list[tuple[str, str]]:
        """Return rows about scripts and normalisation, for a trained tokenizer."""
        noted = self.normalization
        scripts = [f"{name} {share:.1%}" for name, share in noted.get("scripts", {}).items() if share >= 0.001]
        rows = [("letters", ", ".join(scripts[:5]))] if scripts else []
        if "lowercase" in noted:
            accents = "accents of Latin letters are removed" if noted["strip_accents"] else "accents are kept"
            rows.append(("case", f"{'lower-cased' if noted['lowercase'] else 'kept'}; {accents}"))
        if "balance" in noted:
            rows += zip(("balance", *[""] * len(noted["balance"]["scripts"])), in_words(noted["balance"]), strict=True)
        return rows


def _listed_skipped(skipped: Sequence[str]) -> list[str]:
    listed = [console.worded(reason) for reason in skipped[:10]]
    if len(skipped) > 10:
        listed.append(f"… and {len(skipped) - 10:,} more, listed in {FILE}")
    return listed


def shortened(text: str, length: int) -> str:
    """Return `text` on one line, cut to `length` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
