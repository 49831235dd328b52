"""Invisible characters alone on a line of a CoNLL file, and comments before its sentences."""

from collections.abc import Callable
from pathlib import Path

from blankfill.tasks.datasets.conll import read_conll


def test_a_mark_at_the_end_is_an_empty_line(case: Callable[[str], Path]):
    split = read_conll(case("conll-marks-and-comments") / "end-mark" / "train.txt")
    assert len(split.items) == 10
    assert {item.tags for item in split.tagged()} == {("B-PER", "I-PER", "O", "O", "B-LOC", "O")}


def test_comments_are_no_words(case: Callable[[str], Path]):
    split = read_conll(case("conll-marks-and-comments") / "comments" / "train.txt")
    assert len(split.items) == 10
    assert {item.words for item in split.tagged()} == {("Anna", "Berg", "rows", "to", "Lund", ".")}
    assert split.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
