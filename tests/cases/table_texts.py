"""What `prepare` reads of a table, shared by the tests of cases."""

from pathlib import Path

from blankfill.corpus.sources import SourceOptions, discover, read


def texts(path: Path, *columns: str) -> list[str]:
    """The documents of a file, as `prepare` reads them."""
    options = SourceOptions(columns=columns)
    return [" ".join(document.paragraphs) for source in discover([path], options) for document in read(source, options)]


def fields(path: Path) -> set[tuple[str, str, str]]:
    """The (form, field, reason) of the columns that the documents of a file come from."""
    options = SourceOptions()
    return {
        (choice.form, choice.field, choice.by)
        for source in discover([path], options)
        for document in read(source, options)
        for choice in document.choices
    }
