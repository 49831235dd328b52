"""BERT: rows, budgets, candidates, whole words and truncation, by hand and as properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.objectives import Bert
from blankfill.objectives.bert import BertChoice, candidates, choose_candidates, truncate_pair
from blankfill.types import Document, Vocabulary
from conftest import make_document, make_vocabulary

PAD, UNK, CLS, SEP, MASK = range(5)


def pair(length_a: int, length_b: int, label: int | None = 0, words: np.ndarray | None = None) -> Document:
    """A: ids 20, 21, …; B: ids 400, 401, …"""
    ids = np.concatenate([20 + np.arange(length_a), 400 + np.arange(length_b)]).astype(np.int32)
    return Document(ids, np.array([0, length_a, length_a + length_b], np.int32), words, label)


def clean(document: Document, choice: BertChoice, next_sentence: bool = True) -> list[int]:
    """The row before masking, written down independently."""
    row = [CLS, *document.ids[slice(*choice.a)].tolist(), SEP]
    return [*row, *document.ids[slice(*choice.b)].tolist(), SEP] if next_sentence else row


WIDE = make_vocabulary(800)
SIZES = st.integers(1, 150)


@given(a=SIZES, b=SIZES, length=st.integers(8, 128), next_sentence=st.booleans(), seed=st.integers(0, 999))
def test_restoring_the_targets_gives_back_the_text(a: int, b: int, length: int, next_sentence: bool, seed: int) -> None:
    objective = Bert(length=length, next_sentence=next_sentence)
    document = pair(a, b, label=seed % 2) if next_sentence else make_document(min(a + b, length - 2))
    choice = objective.choose(document, WIDE, np.random.default_rng(seed))
    example = objective.build(document, WIDE, choice)
    row = clean(document, choice, next_sentence)
    assert len(example) == len(row) <= length
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    assert restored.tolist() == row
    untouched = np.setdiff1d(np.arange(len(row)), example.target_index)
    assert example.input_ids[untouched].tolist() == np.array(row)[untouched].tolist()
    assert (np.diff(example.target_index) > 0).all()
    assert not {CLS, SEP} & set(example.target_ids.tolist())
    assert len(example.target_index) == min(objective.budget(len(row)), len(row) - (3 if next_sentence else 2))
    assert example.positions[0].tolist() == list(range(len(row)))
    first = row.index(SEP) + 1
    assert example.positions[1].tolist() == [0] * first + [1] * (len(row) - first)
    assert example.labels == ({"next_sentence": seed % 2} if next_sentence else {})
    assert example.rule.visible().all()


def test_choosing_is_a_function_of_the_generator(vocabulary: Vocabulary) -> None:
    document = pair(30, 30)
    first, again, other = (
        Bert(length=64).example(document, vocabulary, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first.input_ids.tolist() == again.input_ids.tolist() != other.input_ids.tolist()


@pytest.mark.parametrize("length", range(8, 129))
def test_budget_of_every_length(length: int, vocabulary: Vocabulary) -> None:
    """Python's own round (half to even) of 15% of the row, specials counted, at least one, at most the maximum."""
    document = make_document(length - 2)
    example = Bert(length=128, next_sentence=False).example(document, vocabulary, np.random.default_rng(length))
    assert len(example.target_ids) == max(1, round(length * 0.15))


@pytest.mark.parametrize(
    ("length", "most", "budget"),
    [(128, 20, 19), (512, 20, 20), (512, 0, 77), (10, 20, 2), (30, 20, 4), (50, 20, 8), (3, 20, 1)],
)
def test_budget_worked_out(length: int, most: int, budget: int) -> None:
    """1.5 → 2 and 4.5 → 4 (half to even), 7.5 → 8; 19.2 → 19; 76.8 → 77."""
    assert Bert(length=512, max_predictions=most).budget(length) == budget


def test_a_document_with_separators_inside_never_masks_them(vocabulary: Vocabulary) -> None:
    ids = np.array([20, SEP, 21, SEP, 22, CLS, 23, 24], np.int32)
    objective = Bert(length=16, mask_ratio=1.0, next_sentence=False)
    example = objective.example(Document(ids, np.array([0, 8], np.int32)), vocabulary, np.random.default_rng(0))
    assert example.target_ids.tolist() == [20, 21, 22, 23, 24]


def test_what_a_masked_token_becomes(vocabulary: Vocabulary) -> None:
    document = make_document(126)

    def inputs(**shares: float) -> list[int]:
        example = Bert(next_sentence=False, **shares).example(document, vocabulary, np.random.default_rng(1))
        return example.input_ids[example.target_index].tolist()

    assert inputs(mask_share=1.0, random_share=0.0) == [MASK] * 19
    unchanged = Bert(next_sentence=False, mask_share=0.0, random_share=0.0)
    example = unchanged.example(document, vocabulary, np.random.default_rng(1))
    assert example.input_ids[example.target_index].tolist() == example.target_ids.tolist()
    assert MASK not in inputs(mask_share=0.0, random_share=1.0)[:10]


WORDS = st.lists(st.booleans(), min_size=4, max_size=120)


@given(words=WORDS, length=st.integers(8, 64), ratio=st.sampled_from([0.15, 0.4]), seed=st.integers(0, 999))
def test_whole_words_are_masked_whole_and_within_budget(
    words: list[bool], length: int, ratio: float, seed: int
) -> None:
    begins = np.array(words)
    middle = len(words) // 2
    begins[[0, middle]] = True
    document = pair(middle, len(words) - middle, words=begins)
    objective = Bert(length=length, whole_word=True, mask_ratio=ratio)
    choice = objective.choose(document, WIDE, np.random.default_rng(seed))
    masked = set(choice.masked.index.tolist())
    row = clean(document, choice)
    assert len(masked) <= objective.budget(len(row))
    place = 1
    for low, high in (choice.a, choice.b):
        inside = begins[low:high].copy()
        inside[:1] = True
        edges = [*np.flatnonzero(inside).tolist(), high - low]
        for first, stop in itertools.pairwise(edges):
            hit = {place + k in masked for k in range(first, stop)}
            assert len(hit) == 1, "a word is masked in part"
        place += high - low + 1
    assert not {0, choice.a[1] - choice.a[0] + 1, len(row) - 1} & masked


def test_the_end_of_a_word_that_truncation_left_is_a_unit(vocabulary: Vocabulary) -> None:
    row = np.array([CLS, 20, 21, SEP, 22, 23, 24, SEP], np.int32)
    words = np.array([True, False, True, True, False, False, True, True])
    assert candidates(row, words, vocabulary) == [(1, 2), (2, 3), (4, 6), (6, 7)]


def test_every_whole_word_is_masked_in_its_turn() -> None:
    """Over many draws each of the twelve two-piece words is masked equally often: 3 of 12 at a budget of 6."""
    words = np.tile([True, False], 12)
    document = pair(12, 12, words=words)
    objective = Bert(length=27, whole_word=True, max_predictions=6, mask_ratio=0.25)
    rng = np.random.default_rng(3)
    counts = np.zeros(27)
    for _ in range(2000):
        counts[objective.choose(document, WIDE, rng).masked.index] += 1
    tokens = np.delete(counts, [0, 13, 26]) / 2000
    assert np.abs(tokens - 0.25).max() < 4.5 * (0.25 * 0.75 / 2000) ** 0.5
    assert counts[[0, 13, 26]].tolist() == [0, 0, 0]


def test_a_word_above_the_budget_is_skipped_not_cut() -> None:
    assert choose_candidates([(1, 9)], 2, np.random.default_rng(0)).tolist() == []
    taken = choose_candidates([(1, 9), (9, 10), (10, 11)], 2, np.random.default_rng(0))
    assert sorted(taken.tolist()) == [9, 10]


def test_whole_words_without_word_starts_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="word starts"):
        Bert(whole_word=True).choose(pair(9, 9), vocabulary, np.random.default_rng(0))


class Fronts:
    """A generator whose draws are given: True takes a token from the front."""

    def __init__(self, fronts: list[bool]) -> None:
        self.fronts = fronts

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.fronts)
        return np.array([0.2 if front else 0.7 for front in self.fronts])


def test_truncation_by_hand() -> None:
    """A 5, B 7, room 8: B, B (then 5, 5), a tie goes to B, then A; front, back, front, back."""
    fronts = Fronts([True, False, True, False])
    assert truncate_pair(5, 7, 8, fronts) == ((0, 4), (2, 6))  # type: ignore[arg-type]


def slow_truncation(a: list[int], b: list[int], room: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """create_pretraining_data.py's truncate_seq_pair."""
    while len(a) + len(b) > room:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
    return a, b


@given(a=st.integers(0, 90), b=st.integers(0, 90), room=st.integers(5, 80), seed=st.integers(0, 999))
def test_truncation_agrees_with_the_original(a: int, b: int, room: int, seed: int) -> None:
    kept_a, kept_b = truncate_pair(a, b, room, np.random.default_rng(seed))
    slow = slow_truncation(list(range(a)), list(range(b)), room, np.random.default_rng(seed))
    assert (list(range(*kept_a)), list(range(*kept_b))) == slow


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mask_ratio": 1.5}, "mask_ratio"),
        ({"mask_share": 0.9, "random_share": 0.2}, "add up to more than 1"),
        ({"length": 7}, "at least 8"),
        ({"short": -0.1}, "short"),
    ],
)
def test_problems_are_told(options: dict, word: str) -> None:
    assert any(word in problem for problem in Bert(**options).problems())
    assert Bert().problems() == []
