"""How a corpus is prepared: the options of `prepare`, of recipes and of the command line, said once.

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
    """How a corpus is prepared. The first four are those of `SourceOptions`."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"vocab_size": COUNT, "validation": below(1), "min_chars": COUNT}

    documents: Literal["file", "paragraphs"] = "file"
    """What one document of a plain-text file is: the whole file, or what stands between blank lines."""
    text_field: str | None = None
    """The field or column with the text, in JSON, CSV, TSV and Parquet (found by itself if omitted)."""
    encoding: str = "utf-8"
    """The encoding of the text, such as gb18030 or utf-16-le."""
    strip: Literal["none", "gutenberg"] = "none"
    """Also remove what is not text: gutenberg drops Project Gutenberg's header and licence."""
    tokenizer: str = "wordpiece"
    """wordpiece, bpe or unigram to train one; or a tokenizer.json, or a folder with one, to use as it is."""
    vocab_size: int = 0
    """How many tokens to train, special ones included; 0 chooses by the amount of text."""
    vocab_exact: bool = True
    """A text that supports fewer tokens is an error; off, it gets as many as it supports."""
    lowercase: bool | None = None
    """Whether text is lower-cased; unset, as usual for the kind of tokenizer (wordpiece only)."""
    dedup: Literal["exact", "lines", "near", "none"] = "exact"
    """Drop documents that repeat another (exact); also lines that stand in several documents (lines); also documents
    that share 80% of their word sequences with an earlier one (near)."""
    validation: float = 0.02
    """The share of the text to keep for validation."""
    min_chars: int = 1
    """Shorter documents are dropped."""
    workers: int = 0
    """How many processes to use; 0 is one for each core."""

    def problems(self) -> list[str]:
        """Every number of a recipe's corpus section that is out of range, a sentence each."""
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
