"""Half an emoji in a table becomes U+FFFD."""

from collections.abc import Callable
from pathlib import Path

from blankfill.tasks.datasets.tabular import tabular_task

from .table_texts import texts


def test_a_lone_surrogate_in_a_table(case: Callable[[str], Path]):
    folder = case("lone-surrogates")
    assert tabular_task("classify").read(folder / "table", "train").texts()[0].first == "bad soup \ufffd number 0"
    assert texts(folder / "rows.jsonl") == ["good \ufffd"]
