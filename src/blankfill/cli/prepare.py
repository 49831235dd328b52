"""`blankfill prepare`: from text in many formats to a folder of token files, through `corpus.prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result, page_of, show_page
from blankfill.corpus.options import PrepareConfig
from blankfill.errors import UserError, setting
from blankfill.system.console import as_json, say
from blankfill.system.schema import Option


@dataclass(frozen=True, kw_only=True)
class Options(PrepareConfig):
    """Prepare text for pretraining: clean it, split it, drop duplicates, train a tokenizer, write token files.

    Reads files and folders of plain text, tables (CSV, TSV, JSON, Parquet, spreadsheets), Word, PDF and EPUB
    documents, web pages, Wikipedia dumps and WikiExtractor output; texts, CSV, JSON and dumps may be compressed. The
    same command resumes a run that was interrupted.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Output": "out force verify",
        **PrepareConfig.GROUPS,
        "Tokenizer": "tokenizer vocab_size vocab_exact cased lowercase strip_accents allow_unknown",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill prepare texts/ --out corpus",
        "blankfill prepare dump.xml.bz2 --out corpus --tokenizer bpe --vocab-size 8000 --dedup near",
    )

    paths: Annotated[tuple[str, ...], Option(positional=True, metavar="PATH")] = ()
    """Files or folders; - for standard input; python-docs for the text that comes with Python."""
    out: Path
    """Folder to write."""
    cased: bool = False
    """Distinguish upper and lower case in a wordpiece vocabulary: short for --no-lowercase."""
    force: bool = False
    """Replace a finished corpus in the output folder."""
    verify: bool = False
    """Compare all bytes of the finished corpus with its checksums; without PATH, this is all that is done."""


def main(argv: Sequence[str]) -> Result:
    """Run the command with its arguments. Raises UserError."""
    options = parsed(Options, argv, "prepare")
    if options.verify and not options.paths:
        return verified(options.out)
    if not options.paths:
        raise UserError("Name at least one file or folder to prepare, - for standard input, or python-docs.")
    from blankfill.corpus.prepare import prepare

    values = {field.name: getattr(options, field.name) for field in fields(PrepareConfig)}
    if options.cased and options.lowercase:
        raise UserError(f"{setting('cased')} and {setting('lowercase', True)} contradict each other; leave one out")
    config = PrepareConfig(**{**values, "lowercase": False if options.cased else options.lowercase})
    report = prepare(options.paths, options.out, config, force=options.force)
    if not report.reused or page_of(options.out) is None:
        from blankfill.report.corpus_page import write_corpus_page

        write_corpus_page(report)
    checked = verified(options.out) if options.verify else None

    def show_report() -> None:
        if checked is not None:
            checked.show()
        report.show()
        show_page(options.out)

    return Result(values={**as_json(report), "report": page_of(options.out)}, show=show_report)


def verified(out: Path) -> Result:
    """Compare all bytes of a corpus with its checksums. Raises UserError when they differ."""
    from blankfill.corpus.identity import verify_corpus

    count = verify_corpus(out)
    text = f"{out}: all {count} files match their recorded checksums"
    return Result(values={"folder": out, "verified": count}, show=lambda: say(text))
