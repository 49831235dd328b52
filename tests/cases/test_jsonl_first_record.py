"""The field `text` is the text, whatever the first record holds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .table_texts import fields, texts


@pytest.mark.parametrize(
    ("name", "count"),
    [("empty-first.jsonl", 11), ("null-first.jsonl", 11), ("year-first.jsonl", 12), ("empty-first.json", 11)],
)
def test_text_outranks_the_title(case: Callable[[str], Path], name: str, count: int):
    path = case("jsonl-first-record") / name
    documents = [document for document in texts(path) if document]
    assert len(documents) == count and not any("Notice number" in document for document in documents)
    assert fields(path) == {("JSON" if name.endswith(".json") else "JSON Lines", "text", "name")}
