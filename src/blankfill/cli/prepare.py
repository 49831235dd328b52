"""`blankfill prepare`: text of any shape → a folder of token files. The work is in `corpus.prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blankfill.errors import UserError


@dataclass(frozen=True)
class Options:
    """Prepare text for pretraining: clean it, split it, drop duplicates, train a tokenizer, write token files.

    Reads files and folders of plain text, JSON lines, CSV, Parquet, Wikipedia dumps and WikiExtractor output,
    compressed or not. A run that was interrupted goes on where it was when the same command is repeated.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH…")]
    """Files or folders; - for standard input; python-docs for the text that comes with Python."""
    out: Path
    """The folder to write to."""
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
    cased: bool = False
    """Keep upper and lower case apart in a wordpiece vocabulary (the other kinds always do)."""
    dedup: Literal["exact", "lines", "near", "none"] = "exact"
    """Drop documents that repeat another (exact); also lines that stand in several documents (lines); also documents
    that share 80% of their word sequences with an earlier one (near)."""
    validation: float = 0.02
    """The share of the text to keep for validation."""
    workers: int = 0
    """How many processes to use; 0 is one for each core."""
    force: bool = False
    """Replace a finished corpus in the output folder."""


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments; returns the exit code. Raises UserError."""
    options = tyro.cli(Options, prog="blankfill prepare", args=list(argv), config=(tyro.conf.FlagCreatePairsOff,))
    if not options.paths:
        raise UserError("Name at least one file or folder to prepare, - for standard input, or python-docs.")
    from blankfill.corpus.prepare import PrepareConfig, prepare

    config = PrepareConfig(
        documents=options.documents, text_field=options.text_field, encoding=options.encoding, strip=options.strip,
        tokenizer=options.tokenizer, vocab_size=options.vocab_size, lowercase=False if options.cased else None,
        dedup=options.dedup, validation=options.validation, workers=options.workers,
    )  # fmt: skip
    prepare(options.paths, options.out, config, force=options.force).show()
    return 0
