"""The options of `prepare`, shared by its function, the recipes and the command line.

Nothing heavy is imported here, so that `blankfill prepare --help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, Problem, setting
from blankfill.system.bounds import COUNT, Bound, below, out_of_bounds

KINDS = ("wordpiece", "bpe", "unigram", "bilingual")
"""Kinds of tokenizers that can be trained."""
DEDUP = ("exact", "lines", "near", "none")
"""Which duplicates are dropped."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(TableOptions):
    """How a corpus is prepared. The options of tables, `documents` and `strip` are those of `SourceOptions`."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"vocab_size": COUNT, "validation": below(1), "min_chars": COUNT}

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Reading": "documents columns encoding delimiter sheet strip",
        "Tokenizer": "tokenizer vocab_size vocab_exact lowercase strip_accents allow_unknown",
        "Filtering": "dedup validation min_chars",
        "Machine": "workers",
    }

    documents: Literal["file", "paragraphs"] = "file"
    """Unit of a plain-text file that counts as a document: the whole file, or each paragraph between blank lines."""
    strip: Literal["none", "gutenberg"] = "none"
    """Boilerplate to remove. gutenberg: Project Gutenberg's header and licence."""
    tokenizer: str = "wordpiece"
    """Kind of tokenizer to train: wordpiece, bpe, unigram, or bilingual as ChatGLM-6B's; or a tokenizer.json, or a
    folder with one, to reuse."""
    vocab_size: int = 0
    """Size of the vocabulary to train, special tokens included, such as 8000; 0: chosen by the amount of text."""
    vocab_exact: bool = True
    """Report an error when the text supports fewer tokens than vocab_size. Off: the vocabulary is as large as the text
    supports."""
    lowercase: bool | None = None
    """Lower-case the text before it is tokenised. Without it: wordpiece does, except for Turkish and its relatives;
    bpe, unigram and bilingual do not."""
    strip_accents: bool | None = None
    """Remove accents of Latin letters before the text is tokenised, wordpiece only; marks of other scripts always stay.
    Without it: where text is lower-cased and few of its letters have accents, as in English."""
    allow_unknown: bool = False
    """Continue although more than 5% of the tokens are unknown."""
    dedup: Literal["exact", "lines", "near", "none"] = "exact"
    """Duplicates to drop. exact: repeated documents; lines: also lines that occur in several documents; near: also
    documents that share 80% of their word sequences with an earlier one."""
    validation: float = 0.02
    """Fraction of the text that is set aside for validation; usually 0.01 to 0.05."""
    min_chars: int = 1
    """Minimum length of a document in characters; shorter documents are dropped."""
    workers: int = 0
    """Number of processes; 0: one per core."""

    def problems(self) -> list[str]:
        """Return every number that is out of range, and every mistake in the options of tables, a sentence each."""
        return out_of_bounds(self) + self.table_problems(("text",))

    def check(self) -> None:
        """Raise ConfigError with every value that is out of range, and for a tokenizer that is not there."""
        problems = self.problems()
        if self.dedup not in DEDUP:
            problems.append(Problem(f"{setting('dedup')} is {self.dedup!r}; it must be one of {', '.join(DEDUP)}"))
        if self.tokenizer not in KINDS and not Path(self.tokenizer).exists():
            kinds = ", ".join(KINDS)
            problems.append(Problem(f"{setting('tokenizer')} {self.tokenizer} is neither a file nor one of {kinds}"))
        if self.strip_accents is not None and self.tokenizer != "wordpiece":
            problems.append(
                Problem(f"{setting('strip_accents')} goes with {setting('tokenizer', 'wordpiece')}; leave it out")
            )
        if problems:
            raise ConfigError(problems)
