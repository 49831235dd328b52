"""The running text of PDF documents, by pypdf, page by page.

Lines that stand at the top or the bottom of most pages (with other page numbers) are headers and footers; they and
pages without text, which are pictures of text, are left out and counted. A word that is hyphenated at a line end is
joined, unless the document has it with its hyphen elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_DOCUMENT

_OUTER_LINES = 2
_FEWEST_PAGES = 4
_HYPHEN = re.compile(r"(?<!\w)(\w*[^\W\d_A-Z])[-\u2010\xad]\n[ \t]*([^\W\d_A-Z]\w*)")


def pdf_text(path: str, name: str, dropped: Counter[str]) -> Iterator[str]:
    """Yield the text of the pages, each ending with a line end; what is left out is counted in `dropped`.

    Raises SourceError for a file that cannot be read, is encrypted, or has no text.
    """
    import pypdf
    from pypdf.errors import DependencyError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity of every page
    try:
        with open(path, "rb") as stream:
            reader = pypdf.PdfReader(stream, strict=False)
            if reader.is_encrypted and not reader.decrypt(""):
                raise SourceError(f"{name} is encrypted: save it without its password.")
            pages = _pages(reader, name, dropped)
    except DependencyError as error:
        raise SourceError(f"{name} is encrypted ({error}): save it without its password.") from error
    except SourceError:
        raise
    except Exception as error:  # pypdf raises many kinds of errors from damaged files
        raise SourceError(f"{name} is not a readable PDF document ({error}): copy or download it again.") from error
    if not any(pages):
        raise SourceError(
            f"{name} has no text on its {len(pages):,} page{'s' * (len(pages) != 1)}, which are pictures, as of a "
            "scanner: recognise the text first, for example with ocrmypdf."
        )
    joined = "".join(_without_repeated([page for page in pages if page], dropped))
    words = Counter(re.findall(r"\w+(?:-\w+)*", joined))
    yield _HYPHEN.sub(lambda match: _joined(match, words), joined)


def _pages(reader: Any, name: str, dropped: Counter[str]) -> list[str]:
    texts: list[str] = []
    size = 0
    for page in reader.pages:
        try:
            text = page.extract_text()
        except Exception:  # pypdf raises many kinds of errors from damaged pages, and the others can be read
            dropped["pages that cannot be read"] += 1
            texts.append("")
            continue
        if not text.strip():
            dropped["pages without text"] += 1
        dropped["pictures"] += _pictures(page)
        texts.append(text.strip("\n") + "\n" if text.strip() else "")
        size += len(text)
        if size > LARGEST_DOCUMENT:
            raise SourceError(f"{name} has more than {LARGEST_DOCUMENT:,} characters: split it into several files.")
    return texts


def _pictures(page: Any) -> int:
    try:
        objects = page["/Resources"]["/XObject"].values()
        return sum(thing.get_object().get("/Subtype") == "/Image" for thing in objects)
    except Exception:  # a page without resources, or with damaged ones
        return 0


def _without_repeated(pages: Sequence[str], dropped: Counter[str]) -> Iterator[str]:
    """Yield the pages without the lines that most of them have at their top or bottom."""
    if len(pages) < _FEWEST_PAGES:
        yield from pages
        return
    split = [page.split("\n")[:-1] for page in pages]
    counts = Counter(shape for lines in split for shape in {_shape(line) for line in _outer(lines)})
    repeated = {shape for shape, count in counts.items() if shape and count > len(pages) / 2}
    for lines in split:
        inner_lines = list(lines)
        for at in (0, -1):
            for _ in range(_OUTER_LINES):
                if inner_lines and _shape(inner_lines[at]) in repeated:
                    inner_lines.pop(at)
                    dropped["page headers and footers"] += 1
        yield "\n".join(inner_lines) + "\n" if inner_lines else ""


def _outer(lines: Sequence[str]) -> list[str]:
    return [*lines[:_OUTER_LINES], *lines[-_OUTER_LINES:]]


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", line.strip())


def _joined(match: re.Match[str], words: Counter[str]) -> str:
    first, second = match.groups()
    return f"{first}-{second}" if words[f"{first}-{second}"] and not words[first + second] else first + second
