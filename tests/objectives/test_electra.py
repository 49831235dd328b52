"""ELECTRA: a worked row, what is chosen and masked, the seed of the samples, and what a picture shows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.objectives import Electra, label_meaning
from blankfill.objectives.base import Masked
from blankfill.objectives.electra import HEAD, ElectraChoice
from blankfill.types import Document, Vocabulary
from conftest import within

PAD, UNK, CLS, SEP, MASK = range(5)


def pair(first: int, second: int) -> Document:
    """A Document of two runs, ids 20, 21, …"""
    ids = (20 + np.arange(first + second) % 40).astype(np.int32)
    return Document(ids, np.unique(np.array([0, first, first + second], np.int32)))


def test_a_row_by_hand(vocabulary: Vocabulary) -> None:
    """Column 2 is masked, column 5 is a target that stays as it is; the seed is the label."""
    masked = Masked(np.array([2, 5], np.int32), np.array([MASK, 23], np.int32))
    example = Electra(length=16).build(pair(3, 2), vocabulary, ElectraChoice((0, 3), (3, 5), masked, 7))
    assert example.input_ids.tolist() == [CLS, 20, MASK, 22, SEP, 23, 24, SEP]
    assert example.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert (example.target_index.tolist(), example.target_ids.tolist()) == ([2, 5], [21, 23])
    assert example.labels == {HEAD: 7} and example.rule.visible().all()
    assert label_meaning(HEAD, 7) == label_meaning(HEAD, 8) == "seed of the generator's samples"


@given(sizes=st.tuples(st.integers(1, 60), st.integers(0, 60)), seed=st.integers(0, 999))
def test_restoring_the_targets_gives_back_the_text(vocabulary: Vocabulary, sizes: tuple[int, int], seed: int) -> None:
    document, objective = pair(*sizes), Electra(length=48)
    choice = objective.choose(document, vocabulary, np.random.default_rng(seed))
    example = objective.build(document, vocabulary, choice)
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    first, second = document.ids[slice(*choice.a)].tolist(), document.ids[slice(*choice.b)].tolist()
    assert restored.tolist() == [CLS, *first, SEP, *([*second, SEP] if second else [])] and len(restored) <= 48
    assert len(example.target_ids) == min(objective.budget(len(restored)), len(first) + len(second))
    assert not {CLS, SEP} & set(example.target_ids.tolist())
    assert 0 <= example.labels[HEAD] < 2**31


def test_eighty_five_in_a_hundred_are_masked_and_the_rest_stays(vocabulary: Vocabulary) -> None:
    rng, document, objective = np.random.default_rng(0), pair(60, 65), Electra(length=128)
    examples = [objective.example(document, vocabulary, rng) for _ in range(500)]
    inputs = np.concatenate([example.input_ids[example.target_index] for example in examples])
    answers = np.concatenate([example.target_ids for example in examples])
    assert within(float((inputs == MASK).mean()), 0.85, len(inputs))
    assert ((inputs == MASK) | (inputs == answers)).all()
    assert len({example.labels[HEAD] for example in examples}) == 500


def test_what_the_model_needs() -> None:
    objective = Electra(128, generator_size=1 / 3)
    assert objective.model_fields(768) == {"heads": (HEAD,), "generator_size": 256}
    assert objective.loss_weights == {HEAD: 50.0} and objective.labels() == () and objective.fills
    assert objective.packing().random_next == 0 and objective.position_sizes() == (128, 2)


@pytest.mark.parametrize("size", [0.0, -0.5, 1.5])
def test_a_generator_that_cannot_be_is_a_problem(size: float) -> None:
    assert any("objective.generator_size" in problem for problem in Electra(64, generator_size=size).problems())


def test_a_picture_shows_samples_and_labels(vocabulary: Vocabulary) -> None:
    """By a vocabulary of one token that occurs, all samples are that token."""
    example = Electra(32).example(pair(10, 10), vocabulary, np.random.default_rng(3))
    unigram = np.zeros(64, np.int64)
    unigram[25] = 9
    sampled, replaced = Electra(32).shown_columns(example, unigram)
    read = example.input_ids.copy()
    read[example.target_index] = 25
    assert sampled.tokens and sampled.values.tolist() == read.tolist()
    expected = np.zeros(len(read), int)
    expected[example.target_index] = example.target_ids != 25
    assert not replaced.tokens and replaced.values.tolist() == expected.tolist()
