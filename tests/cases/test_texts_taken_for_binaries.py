"""Texts that begin like a binary file, or that hold a NUL character."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.sources import SourceOptions, discover, read


@pytest.mark.parametrize(
    ("name", "begins", "nuls"),
    [
        ("sqlite.txt", "SQLite format 3", ()),
        ("gif.txt", "GIF89a", ()),
        ("nul-early.txt", "", (1,)),
        ("nul-late.txt", "", (79,)),
    ],
)
def test_they_are_texts_and_nul_characters_are_counted(
    case: Callable[[str], Path], name: str, begins: str, nuls: tuple[int, ...]
):
    path = case("texts-taken-for-binaries") / name
    (source,) = discover([path], SourceOptions())
    (document,) = read(source, SourceOptions())
    text = " ".join(document.paragraphs)
    assert source.kind == "text" and text.startswith(begins) and "\0" not in text
    assert len(text) > 0.9 * path.stat().st_size
    assert (source.encoding.nuls, source.encoding.nul_lines) == (len(nuls), nuls)
