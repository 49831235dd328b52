"""A quotation mark that is never closed is named by the line where it opens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.tabular import tabular_task

from .table_texts import texts


def test_the_line_where_the_mark_opens(case: Callable[[str], Path]):
    folder = case("csv-open-quote")
    with pytest.raises(UserError, match=r"open\.csv, line 7: a quotation mark that opens there is never closed"):
        texts(folder / "open.csv")
    with pytest.raises(UserError, match=r"train\.csv, line 6: a quotation mark that opens there is never closed"):
        tabular_task("classify").read(folder / "table", "train")
