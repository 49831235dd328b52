"""SQuAD's answers in a table, as lists side by side or as a list of objects."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.tasks.datasets.tabular import tabular_task
from blankfill.tasks.items import Answer


@pytest.mark.parametrize("form", ["columns", "list"])
def test_texts_with_their_starts(case: Callable[[str], Path], form: str):
    folder = case("qa-nested-answers") / form
    for split in ("train", "dev"):
        read = tabular_task("qa").read(folder, split)
        assert {item.answers for item in read.questions()} == {(Answer("1823", 45),)} and not read.problems
