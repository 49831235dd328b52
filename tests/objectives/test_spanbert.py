"""SpanBERT: spans of whole words, one replacement for each span, boundary targets, and distributions of draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.objectives import SpanBert
from blankfill.objectives.spanbert import cover, runs, span_boundary_targets
from blankfill.types import Document, Vocabulary
from conftest import make_document, within

CLS, SEP, MASK = 2, 3, 4
DRAWS = 3000


def document(length: int, words: np.ndarray | None = None) -> Document:
    known = np.ones(length, np.bool_) if words is None else words
    return make_document(length, words=known)


@settings(deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 999), most=st.integers(0, 5))
def test_restoring_the_targets_gives_back_the_text(vocabulary: Vocabulary, length: int, seed: int, most: int) -> None:
    text = document(length)
    objective = SpanBert(length=48, boundary=most, mask_ratio=0.3)
    example = objective.example(text, vocabulary, np.random.default_rng(seed))
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    assert restored.tolist() == [CLS, *text.ids.tolist(), SEP]
    assert len(example.target_ids) == objective.budget(length) == int(np.ceil(0.3 * length))
    assert example.positions.tolist() == [list(range(length + 2)), [0] * (length + 2)]
    if most == 0:
        assert example.span_boundary_targets is None
        return
    assert example.span_boundary_targets is not None
    for left, right, place, answer in example.span_boundary_targets.T.tolist():
        assert 1 <= left < right <= length and place < most
        assert restored[left + 1 + place] == answer
        targets = set(example.target_index.tolist())
        assert not {left, right} & targets and set(range(left + 1, right)) <= targets


def test_spans_follow_words() -> None:
    begins = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.bool_)
    assert cover(begins, [(4, 1)], 3) == [(3, 6)], "the anchor moves to the beginning of its word"
    assert cover(begins, [(1, 2)], 3) == [(0, 3)]
    assert cover(begins, [(3, 2), (4, 9), (0, 1)], 5) == [(0, 1), (3, 7)], "masked anchors are drawn again"
    assert cover(begins, [(7, 5), (6, 1)], 2) == [(6, 8)], "spans that meet are one"
    assert runs([]) == []


def test_at_most_so_many_words_are_asked_from_borders() -> None:
    ids = np.arange(20, 30, dtype=np.int32)
    targets = span_boundary_targets(ids, [(0, 2), (3, 7), (9, 10)], 3)
    assert targets is not None
    assert targets.T.tolist() == [[3, 8, 0, 23], [3, 8, 1, 24], [3, 8, 2, 25]]
    assert span_boundary_targets(ids, [(3, 7)], 0) is None


def test_a_span_has_one_fate(vocabulary: Vocabulary) -> None:
    """80% [MASK], 10% random and 10% as they are, each for a span as a whole."""
    rng = np.random.default_rng(0)
    objective, text = SpanBert(length=64), document(60)
    masked = unchanged = spans = 0
    for _ in range(DRAWS):
        choice = objective.choose(text, vocabulary, rng)
        for (begin, end), inputs in zip(choice.spans, choice.inputs, strict=True):
            blank = inputs == MASK
            if end - begin > 2:
                assert blank.all() or blank.mean() < 1
                spans += 1
                masked += bool(blank.all())
                unchanged += bool((inputs == text.ids[begin:end]).all())
    assert within(masked / spans, 0.8, spans)
    assert within(unchanged / spans, 0.1, spans)


def test_lengths_follow_the_geometric_law(vocabulary: Vocabulary) -> None:
    """Of draws before they are cut or merged: the mean of the law is 3.797 words and its deviation 2.545."""
    objective, rng = SpanBert(), np.random.default_rng(0)
    draws = objective._draws(100, rng)
    lengths = np.array([next(draws)[1] for _ in range(DRAWS)])
    assert lengths.min() == 1 and lengths.max() == 10
    law = 0.2 * 0.8 ** np.arange(10)
    law /= law.sum()
    ranks = np.arange(1, 11)
    deviation = float(np.sqrt(law @ ranks**2 - (law @ ranks) ** 2))
    assert within(float(lengths.mean()), float(law @ ranks), DRAWS, deviation)
    assert within(float((lengths == 1).mean()), float(law[0]), DRAWS)


def test_problems_are_told(vocabulary: Vocabulary) -> None:
    assert SpanBert().problems() == []
    bad = SpanBert(geometric=0.0, longest=0, boundary=-1, mask_share=0.9, random_share=0.2, mask_ratio=2)
    assert all(
        name in " ".join(bad.problems()) for name in ("geometric", "longest", "boundary", "add up", "mask_ratio")
    )
    assert len(bad.problems()) == 5
    with pytest.raises(ValueError, match="word starts"):
        SpanBert().choose(make_document(9), vocabulary, np.random.default_rng(0))
