"""Files in several encodings: each is read in its own, and no advice ruins another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.sources import SourceOptions, discover, read
from blankfill.errors import UserError


def texts(path: Path, options: SourceOptions) -> dict[str, str]:
    return {
        Path(source.path).name: " ".join(document.paragraphs)
        for source in discover([path], options)
        for document in read(source, options)
    }


@pytest.mark.parametrize("encoding", [None, "latin-1"])
def test_each_file_of_a_folder_is_read_in_its_own_encoding(case: Callable[[str], Path], encoding: str | None):
    by_name = texts(case("mixed-encodings") / "folder", SourceOptions(encoding=encoding))
    assert by_name["a.txt"].startswith(
        "Früher führte eine größere Brücke über den Fluß, über die täglich Händler zogen."
    )
    assert by_name["b.txt"].strip() and by_name["a.txt"].startswith(by_name["b.txt"].strip()[:500])
    assert "Ã" not in by_name["a.txt"] + by_name["b.txt"]


def test_utf8_with_damaged_bytes_is_said_to_be_that_with_their_lines(case: Callable[[str], Path]):
    path = case("mixed-encodings") / "stray.txt"
    (source,) = discover([path], SourceOptions())
    assert (source.encoding.codec, source.encoding.damaged, source.encoding.damaged_lines) == ("utf-8", 2, (3, 3))
    assert "He wrote “yes” at the café." in texts(path, SourceOptions())["stray.txt"]
    with pytest.raises(UserError, match=r"stray\.txt is UTF-8 but for 2 bytes \(line 3\)"):
        discover([path], SourceOptions(encoding="utf-8"))


def test_cyrillic_is_guessed(case: Callable[[str], Path]):
    path = case("mixed-encodings") / "cyrillic.txt"
    (source,) = discover([path], SourceOptions())
    assert (source.encoding.name, source.encoding.source) == ("cp1251", "guess")
    assert texts(path, SourceOptions())["cyrillic.txt"].startswith("Старый паром ходил через озеро каждое утро.")
