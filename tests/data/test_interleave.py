"""Old rows among new ones: the arithmetic worked out by hand, and each row once from where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from blankfill.data.interleave import Interleaved, Share
from blankfill.data.sampler import Sampler
from blankfill.objectives import Gpt
from conftest import covering, same_examples, write_corpus


def test_a_quarter_is_every_fourth_row() -> None:
    share = Share(0.25)
    assert [share.is_old(row) for row in range(9)] == [False, False, False, True] * 2 + [False]
    assert [share.old_before(row) for row in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert [share.row_after(count) for count in range(5)] == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1 / 3, 0.5, 0.9])
def test_any_share_is_kept_at_any_row(ratio: float) -> None:
    share = Share(ratio)
    for row in (7, 1000, 10**12 + 3):
        assert abs(share.old_before(row) - ratio * row) <= 1 + row / 10**6
        assert share.old_before(row) + share.new_before(row) == row
        assert share.old_before(row + 1) - share.old_before(row) == share.is_old(row)
        assert share.new_before(share.row_after(row)) == row > share.new_before(share.row_after(row) - 1)


@pytest.mark.parametrize("first", [0, 5])
def test_rows_are_those_of_the_two_texts(first: int, tmp_path: Path) -> None:
    """Rows of two samplers, told apart by their tokens; a later phase continues where the first one ended."""
    new_text, old_text = write_corpus(tmp_path / "new", [[30]] * 12), write_corpus(tmp_path / "old", [[30]] * 20)
    vocabulary, share = covering(old_text), Share(0.4)
    new = Sampler(new_text, Gpt(32), vocabulary, 1, None, share.new_before(first))
    old = Sampler(old_text, Gpt(32), vocabulary, 2, None, share.old_before(first))
    rows = Interleaved(new, old, share, first)
    count = rows.rows_in_epoch(0)
    taken = [row for row in range(first, first + count) if not share.is_old(row)]
    assert len(taken) == new.rows_in_epoch(0) == 12
    assert 0.3 < 1 - len(taken) / count < 0.5
    for row in range(first, first + count):
        source, place = (old, share.old_before(row)) if share.is_old(row) else (new, share.new_before(row))
        assert same_examples(rows.row(row), source.row(place))
    seen = [tuple(example.input_ids.tolist()) for row in taken for example in rows.row(row)]
    assert len(set(seen)) == 12
    assert rows.rows_in_epoch(1) > 12
