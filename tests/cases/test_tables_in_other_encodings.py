"""Tables in UTF-16 and in cp1252, as Excel writes them."""

from collections.abc import Callable
from pathlib import Path

from blankfill.corpus.tables.options import TableOptions
from blankfill.tasks.datasets.tabular import tabular_task


def test_utf16_is_read_by_its_mark(case: Callable[[str], Path]):
    train = tabular_task("classify").read(case("tables-in-other-encodings") / "utf16", "train")
    assert len(train) == 24 and train.texts()[0].first == "bad soup 0" and train.labels == ("0", "1")


def test_latin1_is_read_with_the_option_and_the_ascii_file_beside_it_too(case: Callable[[str], Path]):
    folder = case("tables-in-other-encodings") / "latin1"
    for options in (TableOptions(encoding="latin-1"), TableOptions()):
        task = tabular_task("classify", options)
        assert task.read(folder, "train").texts()[0].first == "bad crème 0"
        assert task.read(folder, "dev").texts()[0].first == "bad soup 0"
