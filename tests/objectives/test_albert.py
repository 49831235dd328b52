"""ALBERT: order of the two runs, n-grams of whole words, lone sentences, and the laws of the draws."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.data.sampler import Sampler
from blankfill.objectives import Albert
from blankfill.objectives.albert import AlbertChoice, choose_ngrams, take_ngrams
from blankfill.objectives.base import Masked
from blankfill.objectives.bert import candidates
from blankfill.types import Document, Vocabulary
from conftest import ORDINARY, covering, within, write_corpus

PAD, UNK, CLS, SEP, MASK = range(5)
NOTHING = Masked(np.zeros(0, np.int32), np.zeros(0, np.int32))
DRAWS = 4000


def pair(first: int, second: int, words: np.ndarray | None = None, label: int | None = 0) -> Document:
    """A Document of two runs, ids 20, 21, …; by default each token is a word."""
    ids = (20 + np.arange(first + second) % 40).astype(np.int32)
    known = np.ones(len(ids), np.bool_) if words is None else words
    return Document(ids, np.unique(np.array([0, first, first + second], np.int32)), known, label=label)


@given(sizes=st.tuples(st.integers(1, 40), st.integers(0, 40)), seed=st.integers(0, 999), whole=st.booleans())
def test_restoring_the_targets_gives_back_the_text(
    vocabulary: Vocabulary, sizes: tuple[int, int], seed: int, whole: bool
) -> None:
    document = pair(*sizes)
    objective = Albert(length=48, whole_word=whole)
    choice = objective.choose(document, vocabulary, np.random.default_rng(seed))
    example = objective.build(document, vocabulary, choice)
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    first, second = document.ids[slice(*choice.first)].tolist(), document.ids[slice(*choice.second)].tolist()
    tail = [*second, SEP] if second else []
    assert restored.tolist() == [CLS, *first, SEP, *tail]
    assert len(restored) <= 48
    assert example.positions.tolist() == [list(range(len(restored))), [0] * (len(first) + 2) + [1] * len(tail)]
    assert example.rule.visible().all()
    assert 1 <= len(example.target_ids) <= objective.budget(len(restored))
    assert not {CLS, SEP} & set(example.target_ids.tolist())
    if not second:
        assert sizes[1] == 0 and example.labels == {}
    else:
        swapped = choice.first[0] > choice.second[0]
        assert example.labels == {"sentence_order": int(swapped)}


def test_swapped_by_hand(vocabulary: Vocabulary) -> None:
    document = pair(3, 2)
    choice = AlbertChoice((3, 5), (0, 3), 1, NOTHING)
    example = Albert(length=16).build(document, vocabulary, choice)
    assert example.input_ids.tolist() == [CLS, 23, 24, SEP, 20, 21, 22, SEP]
    assert example.positions[1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert example.labels == {"sentence_order": 1}


def test_half_of_the_pairs_are_swapped(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    document = pair(10, 10)
    labels = [Albert(length=32).choose(document, vocabulary, rng).label for _ in range(DRAWS)]
    assert within(float(np.mean(labels)), 0.5, DRAWS)


def test_a_foreign_part_is_called_swapped_and_stays(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = Albert(length=32).choose(pair(5, 5, label=1), vocabulary, rng)
        assert (choice.first, choice.second, choice.label) == ((0, 5), (5, 10), 1)


def test_ngrams_of_the_specification() -> None:
    """[CLS] ▁the ▁cat s ▁sat [SEP] ▁on ▁mat s [SEP]: two words from ▁sat on are tokens 4 and 6, over the [SEP]."""
    row = np.array([CLS, 20, 21, 22, 23, SEP, 24, 25, 22, SEP], np.int32)
    begins = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 1], np.bool_)
    units = candidates(row, begins, Vocabulary(64, {"cls": CLS, "sep": SEP}))
    assert units == [(1, 2), (2, 4), (4, 5), (6, 7), (7, 9)]
    sizes = np.array([1, 1, 2, 1, 1])
    assert take_ngrams(units, np.array([2, 0, 1, 3, 4]), sizes, Albert().budget(10)).tolist() == [4, 6]


def test_an_ngram_that_overshoots_is_shortened_then_skipped() -> None:
    units = [(1, 2), (2, 4), (4, 5), (5, 6)]
    three = np.array([3, 3, 3, 3])
    assert take_ngrams(units, np.array([0, 1, 2, 3]), three, 3).tolist() == [1, 2, 3]
    assert take_ngrams(units, np.array([1, 0, 2, 3]), three, 1).tolist() == [1]  # two tokens are skipped
    assert take_ngrams(units, np.array([2, 1, 0, 3]), three, 4).tolist() == [4, 5, 2, 3]
    assert take_ngrams(units, np.array([2, 1, 0, 3]), three, 6).tolist() == [4, 5]  # all others would touch them


def test_law_of_the_first_ngram() -> None:
    """p(n) ∝ 1/n: 6/11, 3/11 and 2/11, anywhere but at the end of the row, where fewer words are left."""
    rng = np.random.default_rng(0)
    units = [(k, k + 1) for k in range(40)]
    sizes: Counter[int] = Counter()
    for _ in range(DRAWS):
        taken = choose_ngrams(units, 3, 3, rng)
        if taken[0] < 38:
            sizes[int(np.argmax(np.append(np.diff(taken) != 1, True))) + 1] += 1
    # a run is longer than its n-gram when the next one begins just behind it, at one of the 40 places
    for n, share in ((1, 6 / 11), (3, 2 / 11)):
        assert sizes[n] / sizes.total() == pytest.approx(share, abs=0.03)


@given(seed=st.integers(0, 999), budget=st.integers(1, 30), most=st.integers(1, 5))
def test_ngrams_keep_to_the_budget_and_to_whole_words(seed: int, budget: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.cumsum(np.concatenate([[1], rng.integers(1, 4, 20)])).tolist()
    units = list(itertools.pairwise(edges))
    taken = choose_ngrams(units, budget, most, rng).tolist()
    assert len(taken) == len(set(taken)) <= budget
    for begin, end in units:
        assert len({token in taken for token in range(begin, end)}) == 1, "a word is masked in part"
    if len(taken) < budget and most == 1:  # then whatever is left is too long
        assert all(end - begin > budget - len(taken) for begin, end in units if begin not in taken)


def test_every_word_is_asked_about_equally_often(vocabulary: Vocabulary) -> None:
    """Away from the ends of the row, where fewer n-grams reach."""
    rng = np.random.default_rng(1)
    document = pair(63, 62)
    counts = np.zeros(128)
    for _ in range(DRAWS):
        choice = Albert(length=128).choose(document, vocabulary, rng)
        counts[choice.masked.index] += 1
        assert len(choice.masked.index) == 19  # .15 · 128
    inner = counts[4:-4][[k for k in range(120) if not 56 <= k <= 64]] / DRAWS
    assert all(within(share, float(inner.mean()), DRAWS) for share in inner)


def test_pairs_come_from_one_document(tmp_path: Path) -> None:
    """Every pair is two adjacent runs; a single sentence has no label, unless an option gives it one."""
    corpus = write_corpus(tmp_path / "c", [[5, 6, 7, 8], [9], [4, 4]] * 40)
    whole = covering(corpus)
    sampler = Sampler(corpus, Albert(length=64, short=0.0), whole, 0)
    seen, pairs = [], 0
    for i in range(sampler.rows_in_epoch(0)):
        for document in sampler.documents(i):
            assert np.array_equal(document.ids, np.arange(document.ids[0], document.ids[0] + len(document)))
            seen += document.ids.tolist()
            pairs += len(document.sentences) == 3
        for example in sampler.row(i):
            assert len(example.labels) == int((example.input_ids == SEP).sum() == 2)
    assert sorted(seen) == sorted(set(seen)) == (np.arange(len(corpus.tokens)) + ORDINARY).tolist()
    assert pairs == 80
    labelled = Sampler(corpus, Albert(length=64, short=0.0, sole_random=True), whole, 0)
    rows = [labelled.row(i) for i in range(labelled.rows_in_epoch(0))]
    assert all(example.labels for row in rows for example in row)


def test_problems_are_told() -> None:
    assert Albert().problems() == []
    assert any("ngram is 0" in problem for problem in Albert(ngram=0).problems())
    assert any("more than 1" in problem for problem in Albert(mask_share=0.9, random_share=0.2).problems())
    assert any("mask_ratio" in problem for problem in Albert(mask_ratio=2).problems())


def test_whole_words_without_word_starts_are_refused(vocabulary: Vocabulary) -> None:
    ids = np.arange(20, 30, dtype=np.int32)
    document = Document(ids, np.array([0, 5, 10], np.int32), label=0)
    with pytest.raises(ValueError, match="word starts"):
        Albert().choose(document, vocabulary, np.random.default_rng(0))
    assert len(Albert(whole_word=False).choose(document, vocabulary, np.random.default_rng(0)).masked.index) == 2


def test_without_order_there_is_one_segment(vocabulary: Vocabulary) -> None:
    objective = Albert(length=32, sentence_order=False)
    assert objective.labels() == () and objective.packing().unit == "chunks"
    example = objective.example(pair(8, 8, label=None), vocabulary, np.random.default_rng(0))
    assert (example.input_ids == SEP).sum() == 1 and not example.positions[1].any() and example.labels == {}
