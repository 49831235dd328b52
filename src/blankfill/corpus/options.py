"""The options of `prepare`, shared by its function, the recipes and the command line.

Nothing heavy is imported here, so that `blankfill prepare --help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from blankfill.errors import ConfigError
from blankfill.system.bounds import COUNT, Bound, below, out_of_bounds

KINDS = ("wordpiece", "bpe", "unigram")
"""Kinds of tokenizers that can be trained."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a corpus is prepared. The first four fields are those of `SourceOptions`."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"vocab_size": COUNT, "validation": below(1), "min_chars": COUNT}

    documents: Literal["file", "paragraphs"] = "file"
    """Unit that becomes one document in a plain-text file: the whole file, or each block between blank lines."""
    text_field: str | None = None
    """Field or column with the text, in JSON, CSV, TSV and Parquet (detected if omitted)."""
    encoding: str = "utf-8"
    """Encoding of the text, such as gb18030 or utf-16-le."""
    strip: Literal["none", "gutenberg"] = "none"
    """Text to remove: gutenberg drops Project Gutenberg's header and licence."""
    tokenizer: str = "wordpiece"
    """Tokenizer to train (wordpiece, bpe or unigram), or the path of an existing tokenizer.json or of its folder."""
    vocab_size: int = 0
    """Size of the vocabulary to train, special tokens included; 0 chooses by the amount of text."""
    vocab_exact: bool = True
    """Whether a text that supports fewer tokens is an error; if off, the vocabulary is as large as the text
    supports."""
    lowercase: bool | None = None
    """Whether to lower-case the text; if unset, only wordpiece does."""
    dedup: Literal["exact", "lines", "near", "none"] = "exact"
    """Duplicates to drop: documents equal to another (exact), also lines that occur in several documents (lines), also
    documents that share 80% of their word sequences with an earlier one (near)."""
    validation: float = 0.02
    """Share of the text for validation, 0 to 1."""
    min_chars: int = 1
    """Minimum length of a document, in characters; shorter documents are dropped."""
    workers: int = 0
    """Number of processes; 0 is one for each core."""

    def problems(self) -> list[str]:
        """Return every number of a recipe's corpus section that is out of range, a sentence each."""
        return out_of_bounds(self, "corpus.")

    def check(self) -> None:
        """Raise ConfigError with every value that is out of range."""
        problems = out_of_bounds(self, "--", dashes=True)
        if self.dedup not in ("exact", "lines", "near", "none"):
            problems.append(f"--dedup is {self.dedup!r}: choose exact, lines, near or none.")
        if self.tokenizer not in KINDS and not Path(self.tokenizer).exists():
            problems.append(f"--tokenizer {self.tokenizer} is neither a file nor one of {', '.join(KINDS)}.")
        if problems:
            raise ConfigError(problems)
