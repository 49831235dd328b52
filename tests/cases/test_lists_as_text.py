"""Lists of words are joined, and objects are refused with their line or read by a dotted name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError
from blankfill.tasks.datasets.tabular import tabular_task


def test_words_are_joined(case: Callable[[str], Path]):
    train = tabular_task("classify").read(case("lists-as-text") / "words", "train")
    assert train.texts()[0].first == "bad soup 0"
    assert "24 rows have a list of words where a text is wanted; the words were joined" in train.problems[0]


def test_objects_are_refused_or_named(case: Callable[[str], Path]):
    folder = case("lists-as-text") / "objects"
    with pytest.raises(UserError, match=r"line 1 has an object with en in 'source' .* such as source\.en"):
        tabular_task("seq2seq").read(folder, "train")
    options = TableOptions(columns=("source=source.en", "target=target.de"))
    items = tabular_task("seq2seq", options).read(folder, "train").generations()
    assert items[0].source == "Shop lake crosses letters the when the the crosses bells when."
    assert items[0].targets == ("On letters baskets the landing wait wait and.",)
