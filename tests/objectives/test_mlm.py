"""RoBERTa's masked language model: rows across documents, counts, and what may be masked."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.objectives import Mlm
from blankfill.types import Document, Vocabulary
from conftest import make_document

PAD, UNK, CLS, SEP, MASK = range(5)


def joined(*sizes: int, words: np.ndarray | None = None) -> Document:
    """A Document of several: ids 20, 21, …, one sentence each."""
    parts = np.cumsum([0, *sizes]).astype(np.int32)
    ids = (20 + np.arange(parts[-1]) % 40).astype(np.int32)
    return Document(ids, parts, words, parts=parts)


def clean(document: Document) -> list[int]:
    """The row before masking, written down independently."""
    row = [CLS]
    cuts = document.parts if document.parts is not None else [0, len(document)]
    for begin, end in itertools.pairwise(cuts):
        row = [*row, *document.ids[begin:end].tolist(), SEP]
    return row


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(sizes=SIZES, specials=st.booleans(), ratio=st.sampled_from([0.0, 0.15, 0.5, 1.0]), seed=st.integers(0, 999))
def test_restoring_the_targets_gives_back_the_text(
    vocabulary: Vocabulary, sizes: list[int], specials: bool, ratio: float, seed: int
) -> None:
    document = joined(*sizes)
    objective = Mlm(length=256, mask_specials=specials, mask_ratio=ratio)
    example = objective.example(document, vocabulary, np.random.default_rng(seed))
    row = clean(document)
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    assert restored.tolist() == row
    assert example.positions.tolist() == [list(range(2, 2 + len(row)))]
    assert example.rule.visible().all()
    pool = len(row) if specials else sum(sizes)
    count = len(example.target_ids)
    assert count in {min(pool, max(1, int(ratio * len(row)) + k)) for k in (0, 1)}
    assert specials or not {CLS, SEP} & set(example.target_ids.tolist())


@pytest.mark.parametrize(("length", "rounding", "count"), [(8, 0.79, 1), (8, 0.81, 2), (40, 0.99, 6), (3, 0.0, 1)])
def test_count_worked_out(length: int, rounding: float, count: int) -> None:
    """.15 · 8 = 1.2 and 1.2 + .81 = 2.01; .15 · 40 = 6 and .99 more is still 6; never none."""
    assert Mlm().count(length, rounding) == count


def test_a_document_alone_and_documents_together(vocabulary: Vocabulary) -> None:
    objective = Mlm(mask_share=0.0, random_share=0.0)
    rng = np.random.default_rng(0)
    assert objective.example(joined(2, 1, 3), vocabulary, rng).input_ids.tolist() == [
        CLS, 20, 21, SEP, 22, SEP, 23, 24, 25, SEP,
    ]  # fmt: skip
    alone = make_document(3)
    assert objective.example(alone, vocabulary, rng).input_ids.tolist() == [CLS, *alone.ids.tolist(), SEP]


def test_specials_can_be_masked(vocabulary: Vocabulary) -> None:
    objective = Mlm(mask_specials=True, mask_ratio=1.0)
    example = objective.example(joined(2, 2), vocabulary, np.random.default_rng(0))
    assert example.target_ids.tolist() == [CLS, 20, 21, SEP, 22, 23, SEP]


@given(sizes=SIZES, seed=st.integers(0, 999))
def test_whole_words_within_documents_that_share_a_row(vocabulary: Vocabulary, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.random(sum(sizes)) < 0.5
    words[np.cumsum([0, *sizes[:-1]])] = True
    document = joined(*sizes, words=words)
    objective = Mlm(length=256, whole_word=True, mask_ratio=0.3)
    choice = objective.choose(document, vocabulary, rng)
    masked = set(choice.index.tolist())
    row = clean(document)
    assert len(masked) <= int(0.3 * len(row)) + 1
    places = [column for column, token in enumerate(row) if token >= 20]
    word = np.cumsum(words)
    for number in range(1, int(word[-1]) + 1):
        assert len({places[k] in masked for k in np.flatnonzero(word == number)}) == 1, "a word is masked in part"
    assert masked <= set(places)


def test_whole_words_where_a_document_holds_a_separator(vocabulary: Vocabulary) -> None:
    """Files made elsewhere may: the words still stand where their tokens do."""
    ids = np.array([20, SEP, 21, 22], np.int32)
    words = np.array([True, True, True, False])
    document = Document(ids, np.array([0, 4], np.int32), words)
    choice = Mlm(whole_word=True, mask_ratio=1.0).choose(document, vocabulary, np.random.default_rng(0))
    assert choice.index.tolist() == [1, 3, 4]


def test_whole_words_without_word_starts_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="word starts"):
        Mlm(whole_word=True).choose(make_document(9), vocabulary, np.random.default_rng(0))


def test_problems_are_told() -> None:
    assert Mlm().problems() == []
    assert any("exclude each other" in problem for problem in Mlm(mask_specials=True, whole_word=True).problems())
    assert any("mask_ratio" in problem for problem in Mlm(mask_ratio=-1).problems())
    assert any("add up to more than 1" in problem for problem in Mlm(mask_share=0.95, random_share=0.1).problems())


def test_position_offset(vocabulary: Vocabulary) -> None:
    objective = Mlm(length=16, position_offset=0)
    example = objective.example(make_document(14), vocabulary, np.random.default_rng(0))
    assert example.positions.tolist() == [list(range(16))]
    assert objective.position_sizes() == (16,)
    assert Mlm(length=16).position_sizes() == (18,)
