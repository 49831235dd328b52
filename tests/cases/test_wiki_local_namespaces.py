"""wiki-local-namespaces: links to files and categories go, by the names that the dump itself gives."""

from collections.abc import Callable
from pathlib import Path

from blankfill.corpus.wiki import read_dump


def test_local_names_are_hidden(case: Callable[[str], Path]) -> None:
    assert list(read_dump(str(case("wiki-local-namespaces") / "pl.xml"), "", "pl.xml")) == [
        (
            "Most",
            [
                "Most łączy dwa brzegi rzeki i jest bardzo stary, a ludzie chodzą po nim codziennie. Był odnawiany "
                "wiele razy."
            ],
        )
    ]
