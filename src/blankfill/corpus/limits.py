"""Limits on the size of one piece of input, so that memory does not grow with it.

Text streams: a file of any size is read in pieces. Data that must be in memory as a whole (a record, a page, a line, a
JSON file of a task) have a limit here. Larger input is refused with one sentence, never cut. docs/prepare.md lists the
same numbers. Not here: small files of settings (`system.reading`).
"""

from __future__ import annotations

from blankfill.errors import UserError

LONGEST_RECORD = 64 << 20
"""Characters of one line of a table, one JSON value, or one row of CSV or Parquet."""

LONGEST_PAGE = 8 << 20
"""Characters of one page of a wiki; MediaWiki itself stops at 2 MiB."""

LONGEST_GIVEN = 4 << 20
"""Bytes of one input line of `predict`, `embed` and `fill`; tokenizers take some 90 bytes for each."""

LARGEST_DOCUMENT = 128 << 20
"""Bytes of a JSON file that is read as a whole, such as SQuAD's, unpacked."""

LARGEST_WINDOW = 128 << 20
"""Bytes that a .zst file may refer back to, as with `zstd` without --long; its reader holds this many in memory."""

LARGEST_DICTIONARY = 256 << 20
"""Bytes that reading an .xz file may take; `xz -9` takes 65 MiB."""

LARGEST_COLUMN = 256 << 20
"""Bytes that a column of a Parquet row group may unpack to, however small its packed size; above, see LARGEST_RATIO."""

LARGEST_RATIO = 100
"""Bytes that one byte of a larger column may unpack to; text gives some 3 to 20."""

LARGEST_WORKBOOK = 512 << 20
"""Bytes that the archive of a spreadsheet may unpack to: a sheet is in memory as a whole."""

LARGEST_OFFICE = 512 << 20
"""Bytes that the archive of a document or a book may unpack to, pictures included."""

LARGEST_MARKUP = 64 << 20
"""Characters of a web page, or bytes of one XML part of a document: it is parsed as a whole, which takes some ten times
as much memory."""

LARGEST_DIRECTORY = 1 << 20
"""Bytes of the table of contents of a zip archive: some 10,000 names."""

MOST_BYTES = 256 << 20
"""Bytes of a tokenizer file; the largest published files have a fifth of it."""

MOST_TOKENS = 4_000_000
"""Entries of a vocabulary; the largest in use have some 260,000 (mT5) to 1,000,000."""

SPARE_IDS = 1000
"""Distance by which the highest id of a vocabulary may exceed twice the number of its entries."""


def too_long(where: str, limit: int, remedy: str, unit: str = "characters") -> UserError:
    """Return the error for input at `where` that is larger than `limit`."""
    return UserError(f"{where} is longer than {limit:,} {unit}, the most that is read at once: {remedy}.")
