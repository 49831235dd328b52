"""The page of a prepared corpus: its report as one self-contained `report.html` beside the token files.

Not here: the section itself, which the page of a run has too (`sections`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from blankfill.corpus.summary import PAGE, CorpusReport
from blankfill.report.charts import short
from blankfill.report.document import document
from blankfill.report.masthead import Card, masthead
from blankfill.report.sections import corpus_section
from blankfill.report.snapshot import corpus_without_paths
from blankfill.system.files import write_file


def write_corpus_page(report: CorpusReport) -> Path:
    """Write the page of a corpus into its folder, and return its path. Raises UserError where it cannot be written."""
    path = report.folder / PAGE
    # An escape in a JSON file can be half of a surrogate pair, which UTF-8 cannot encode.
    write_file(path, corpus_page(report, datetime.now().astimezone()).encode("utf-8", "replace"))
    return path


def corpus_page(report: CorpusReport, now: datetime) -> str:
    """Return the HTML of a corpus, without absolute paths. now: the time shown on the page."""
    cards: list[Card] = [
        ("Training tokens", short(report.train.tokens), f"{report.train.tokens:,}", ""),
        ("Validation tokens", short(report.valid.tokens), f"{report.valid.tokens:,}", ""),
        ("Vocabulary", f"{report.vocabulary:,}", report.tokenizer, ""),
        ("Unknown tokens", f"{report.unknown_share:.2%}", "of the training tokens", ""),
    ]
    name = report.folder.resolve().name
    about = [f"{report.documents:,} documents read", f"{report.characters_per_token:.2f} characters per token"]
    return document(f"{name} – corpus", masthead(name, ("done", "prepared"), about, cards),
                    {"Corpus": corpus_section(corpus_without_paths(report))}, now)  # fmt: skip
