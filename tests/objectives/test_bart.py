"""BART's rows: kinds and amount of corruption, and targets that are the original row."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.objectives import Bart
from blankfill.objectives.bart import BartChoice, rotated, span_law, trimmed, with_inserted
from blankfill.types import ROLES, Document, Example, Vocabulary
from conftest import make_document, make_vocabulary, within

CLS, SEP, MASK = (ROLES.index(role) for role in ("cls", "sep", "mask"))
ROWS = 1000
ALONE = {"mask_ratio": 0.0, "permute": 0.0}


@pytest.fixture(scope="module")
def large() -> Vocabulary:
    """As many ordinary tokens as a text may have different ones."""
    return make_vocabulary(1000)


def numbered(sentences: list[int], word: int = 1) -> Document:
    """A text of different tokens 100, 101, …; each word has `word` of them."""
    size = sum(sentences)
    edges = np.concatenate([[0], np.cumsum(sentences)]).astype(np.int32)
    begins = np.arange(size) % word == 0
    begins[edges[:-1]] = True
    return Document(np.arange(100, 100 + size).astype(np.int32), edges, begins)


def read(example: Example) -> list[int]:
    """The damaged text, without the tokens around it."""
    assert example.context is not None
    row = example.context.input_ids.tolist()
    assert (row[0], row[-1]) == (CLS, SEP)
    return row[1:-1]


@given(
    sentences=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    ratio=st.floats(0, 1),
    poisson=st.sampled_from([0.0, 0.3, 3.0, 12.0]),
    replace=st.sampled_from(["span", "token", "delete"]),
    permute=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_the_target_is_the_text(
    large: Vocabulary, sentences: list[int], ratio: float, poisson: float, replace: str, permute: float, seed: int
) -> None:
    document = numbered(sentences, word=2)
    objective = Bart(
        length=128, mask_ratio=ratio, poisson=poisson, replace=replace, permute=permute, rotate=0.5, insert_ratio=0.1
    )  # type: ignore[arg-type]
    example = objective.example(document, large, np.random.default_rng(seed))
    assert example.target_ids.tolist() == [CLS, *document.ids.tolist(), SEP]
    assert example.input_ids.tolist() == [SEP, *example.target_ids[:-1].tolist()]
    assert example.positions.tolist() == [list(range(2, 2 + len(example)))]
    assert (example.rule.visible() == np.tri(len(example), dtype=bool)).all()
    assert example.context is not None
    assert example.context.rule.visible().all()
    assert example.context.positions[0, -1] < objective.position_sizes()[0]
    left = [number for number in read(example) if number != MASK]
    assert len(set(left)) == len(left)
    assert set(left) <= set(document.ids.tolist())


@pytest.mark.parametrize("words", [1, 2, 7, 100, 333])
def test_the_budget_is_exact(words: int) -> None:
    """Lengths add up to 30% of the words, rounded up, however they are drawn; none is empty."""
    rng = np.random.default_rng(words)
    for _ in range(50):
        lengths, empty = Bart()._lengths(-(-3 * words // 10), rng)
        assert lengths.sum() == -(-3 * words // 10)
        assert (lengths > 0).all()
        assert empty >= 0


def test_span_lengths_are_poisson() -> None:
    """A budget so large that the trimmed last span does not count: shares of all lengths from 0 to 9, and the mean."""
    rng = np.random.default_rng(0)
    lengths, empty = Bart()._lengths(60_000, rng)
    draws = len(lengths) + empty
    law = span_law(3.0) / span_law(3.0).sum()
    counts = np.bincount(lengths, minlength=len(law))
    counts[0] = empty
    assert all(within(counts[k] / draws, law[k], draws) for k in range(10))
    assert within(lengths.sum() / draws, 3.0, draws, 3**0.5)


def test_masked_words_of_a_usual_row(large: Vocabulary) -> None:
    """A span alone in its row covers as many words as it was drawn for, unless the row ends first."""
    objective, rng = Bart(length=512, permute=0.0), np.random.default_rng(1)
    document = numbered([20] * 25, word=2)
    for _ in range(50):
        choice = objective.choose(document, large, rng)
        assert len({begin for begin, _ in choice.spans}) == len(choice.spans)
        assert all(begin % 2 == 1 and (end % 2 == 1 or end == 501) for begin, end in choice.spans)
        assert sum(end - begin for begin, end in choice.spans) <= 2 * 75
        row = objective.build(document, large, choice)
        covered = {column for span in choice.spans for column in range(*span)}
        left = [number for number in read(row) if number != MASK]
        assert left == [100 + k for k in range(500) if 1 + k not in covered]


def test_starts_are_uniform_over_words(large: Vocabulary) -> None:
    objective, rng = Bart(length=64, mask_ratio=0.1, poisson=0, permute=0), np.random.default_rng(2)
    document = numbered([10, 10], word=2)
    counts = np.zeros(22)
    for _ in range(ROWS):
        for begin, end in objective.choose(document, large, rng).spans:
            assert end - begin == 2
            counts[begin] += 1
    assert set(np.flatnonzero(counts)) == set(range(1, 21, 2))
    assert all(within(count / ROWS, 0.1, ROWS) for count in counts[1:21:2])


@pytest.mark.parametrize(("replace", "expected"), [("span", "0M5MM9"), ("token", "0MMMM5MMM9"), ("delete", "059")])
def test_what_becomes_of_spans(replace: str, expected: str, large: Vocabulary) -> None:
    """1–4 with a span inside it; 6 and 7–8, which meet. A span inside another one has no mask of its own."""
    choice = BartChoice((0,), ((2, 6), (4, 5), (8, 10), (7, 8)))
    example = Bart(length=16, replace=replace).build(numbered([10]), large, choice)  # type: ignore[arg-type]
    assert "".join("M" if number == MASK else str(number - 100) for number in read(example)) == expected


def test_zero_lengths_put_masks_in(large: Vocabulary) -> None:
    """With a mean of 0.05 words, most draws are empty; the row never outgrows the clean one's longest."""
    objective, rng = Bart(length=42, mask_ratio=0.1, poisson=0.05, permute=0), np.random.default_rng(3)
    sizes = set()
    for _ in range(50):
        example = objective.example(numbered([10] * 3), large, rng)
        masks = read(example).count(MASK)
        assert len(read(example)) <= 40
        assert masks > 3
        sizes.add(len(read(example)))
    assert 40 in sizes


def test_inserted_masks_stand_anywhere_inside(large: Vocabulary) -> None:
    objective, rng = Bart(length=16, insert_ratio=0.1, **ALONE), np.random.default_rng(4)
    places = [read(objective.example(numbered([8]), large, rng)).index(MASK) for _ in range(ROWS)]
    assert all(within(places.count(k) / ROWS, 1 / 9, ROWS) for k in range(9))
    assert with_inserted(np.array([1, 2, 3], np.int32), (1, 3), 9).tolist() == [1, 9, 2, 9, 3]


def test_all_sentences_are_permuted_equally(large: Vocabulary) -> None:
    objective, rng = Bart(length=32, mask_ratio=0), np.random.default_rng(5)
    document = numbered([2, 5, 3])
    pieces = [document.ids[a:b].tolist() for a, b in ((0, 2), (2, 7), (7, 10))]
    orders = [objective.choose(document, large, rng).order for _ in range(ROWS)]
    assert len(set(orders)) == 6
    assert all(within(orders.count(order) / ROWS, 1 / 6, ROWS) for order in set(orders))
    example = objective.build(document, large, BartChoice((2, 0, 1)))
    assert read(example) == pieces[2] + pieces[0] + pieces[1]


def test_a_share_of_the_sentences_is_permuted(large: Vocabulary) -> None:
    objective, rng = Bart(length=64, mask_ratio=0, permute=0.5), np.random.default_rng(6)
    document = numbered([2] * 6)
    moved = [sum(k != n for k, n in enumerate(objective.choose(document, large, rng).order)) for _ in range(ROWS)]
    assert max(moved) == 3
    # three drawn ones in a random order: two of them move on average
    assert within(float(np.mean(moved)), 2.0, ROWS, 1.0)
    order = Bart(length=64, mask_ratio=0, permute=0).choose(document, large, rng).order
    assert order == tuple(range(6))


def test_rotation_begins_anywhere(large: Vocabulary) -> None:
    objective, rng = Bart(length=32, rotate=0.5, **ALONE), np.random.default_rng(7)
    document = numbered([9])
    firsts = [read(objective.example(document, large, rng))[0] - 100 for _ in range(ROWS)]
    # half of the rows stay; of the others one of the ten offsets of a row of eleven leaves it as it is, and one more
    expected = [0.5 + 0.5 * 2 / 10, *[0.5 / 10] * 8]
    assert all(within(firsts.count(k) / ROWS, expected[k], ROWS) for k in range(9))
    assert rotated(np.array([0, 1, 2, 3, 4], np.int32), 3).tolist() == [0, 3, 1, 2, 4]


def test_words_are_needed_where_they_count(large: Vocabulary) -> None:
    blind = dataclasses.replace(make_document(12), words=None)
    assert Bart().needs_words()
    with pytest.raises(ValueError, match="need word starts"):
        Bart().choose(blind, large, np.random.default_rng(0))
    assert Bart(whole_word=False).choose(blind, large, np.random.default_rng(0)).spans


def test_trimming() -> None:
    assert trimmed(np.array([0, 0, 4, 9]), 4)[0].tolist() == [4]
    assert trimmed(np.array([0, 0, 4, 9]), 4)[1] == 2
    assert trimmed(np.array([1, 9]), 4)[0].tolist() == [1, 3]
    assert trimmed(np.zeros(0, np.int64), 0)[1] == 0


def test_a_large_mean_has_a_law() -> None:
    """The law is not cut before its middle, where lengths are rare too."""
    law = span_law(40.0)
    assert law.sum() == pytest.approx(1, abs=1e-5)
    assert law @ np.arange(len(law)) == pytest.approx(40, abs=1e-3)


def test_options_that_cannot_be() -> None:
    assert Bart().problems() == []
    for poisson in (-1, 101, math.nan):
        assert f"objective.poisson is {poisson}; it must be between 0 and 100" in Bart(poisson=poisson).problems()
    assert Bart(length=32, insert_ratio=math.nan).position_sizes() == (34,)
    assert "objective.rotate is 2; it must be between 0 and 1" in Bart(rotate=2).problems()
    assert Bart(length=1024).position_sizes() == (1026,)
