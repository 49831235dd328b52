"""ERNIE: units masked whole at three levels, the chances of the draws, the worked case of the specification."""

import numpy as np
import pytest

from blankfill.objectives import Ernie
from blankfill.objectives.bert import BertChoice, candidates
from blankfill.objectives.ernie import begins_at, mask_units
from blankfill.types import Document, Vocabulary
from conftest import make_document, within

CLS, SEP, MASK = 2, 3, 4
DRAWS = 2500


def pair(first: int = 20, second: int = 20) -> Document:
    """Two runs; phrases of two tokens, entities of four."""
    size = first + second
    plain = make_document(size)
    place = np.arange(size)
    units = np.stack([place % 2 == 0, place % 4 == 0])
    return Document(
        plain.ids, np.array([0, first, size], np.int32), np.ones(size, np.bool_), label=0, units=units
    )  # fmt: skip


@pytest.mark.parametrize(("level", "size"), [("basic", 1), ("phrase", 2), ("entity", 4)])
def test_units_of_a_level_are_masked_whole(vocabulary: Vocabulary, level: str, size: int) -> None:
    rng = np.random.default_rng(0)
    objective = Ernie(length=48, **{name: float(name == level) for name in ("basic", "phrase", "entity")})
    targets = 0
    for _ in range(DRAWS // 5):
        example = objective.example(pair(), vocabulary, rng)
        restored = example.input_ids.copy()
        restored[example.target_index] = example.target_ids
        assert restored.tolist() == [CLS, *pair().ids[:20].tolist(), SEP, *pair().ids[20:].tolist(), SEP]
        masked = np.isin(np.arange(43), example.target_index)
        assert not masked[[0, 21, 42]].any()
        text = np.delete(masked, [0, 21, 42]).reshape(-1, size)
        assert (text.all(1) | ~text.any(1)).all(), "a unit is masked in part"
        targets += int(text.any(1).sum())
        assert example.labels == {"next_sentence": 0}
    assert within(targets / (DRAWS // 5 * 40 / size), 0.15, DRAWS // 5 * 40 // size)


def test_the_levels_are_drawn_by_their_shares(vocabulary: Vocabulary) -> None:
    """Rows with an answer alone among its phrase are of the basic level: all of them but those without any."""
    rng = np.random.default_rng(0)
    only = Ernie(length=48, basic=0, phrase=3, entity=1)
    lone = {1: 0, 2: 0}
    for _ in range(DRAWS):
        index = only.choose(pair(40, 0), vocabulary, rng).masked.index - 1
        assert set(index.tolist()) == {k for i in index.tolist() for k in (i // 2 * 2, i // 2 * 2 + 1)}
        quads = {i // 4 for i in index.tolist()}
        lone[2 if len(index) == 4 * len(quads) else 1] += 1
    # of the phrase level a row of 20 phrases has all of its quads whole with probability (1 - 2 · .15 · .85)^10
    whole = 0.25 + 0.75 * (1 - 2 * 0.15 * 0.85) ** 10
    assert within(lone[2] / DRAWS, whole, DRAWS)


def test_what_becomes_of_chosen_tokens(vocabulary: Vocabulary) -> None:
    """80% [MASK], 10% random, 10% as they are, for the first token of a unit and for the others alike."""
    rng = np.random.default_rng(0)
    row = np.full(4000, 20, np.int32)
    units = [(k, k + 2) for k in range(0, 4000, 2)]
    drawn = np.full(4000, 21, np.int32)
    masked = [mask_units(row, units, rng.random(4000), drawn, MASK, 0.15, 0.8, 0.1) for _ in range(20)]
    inputs = np.concatenate([choice.inputs.reshape(-1, 2) for choice in masked])
    for column in inputs.T:
        assert within(float((column == MASK).mean()), 0.8, len(column))
        assert within(float((column == 21).mean()), 0.1, len(column))
    assert within(len(inputs) / 40000, 0.15, 40000)


def test_the_task_is_a_channel_of_its_own(vocabulary: Vocabulary) -> None:
    objective = Ernie(length=48, task_types=3, task=2)
    assert objective.position_sizes() == (48, 2, 3) and objective.problems() == []
    example = objective.example(pair(), vocabulary, np.random.default_rng(0))
    assert example.positions.shape == (3, 43) and set(example.positions[2].tolist()) == {2}
    assert "objective.task is 3" in Ernie(task_types=3, task=3).problems()[0]


def test_problems_are_told(vocabulary: Vocabulary) -> None:
    assert Ernie().problems() == [] and Ernie().needs_units() == ("phrase", "entity")
    assert Ernie(phrase=0, entity=0).needs_units() == ()
    assert "are all 0" in Ernie(basic=0, phrase=0, entity=0).problems()[0]
    assert "objective.basic is -1; it must not be negative" in Ernie(basic=-1).problems()[0]
    assert "more than 1" in Ernie(mask_share=0.9, random_share=0.2).problems()[0]
    with pytest.raises(ValueError, match="word starts"):
        Ernie().choose(make_document(20), vocabulary, np.random.default_rng(0))


def test_a_text_without_larger_units_is_masked_by_words() -> None:
    document = make_document(6, words=np.array([1, 0, 1, 1, 0, 1], np.bool_))
    assert begins_at(document, 2) is document.words


def test_one_segment_without_pairs(vocabulary: Vocabulary) -> None:
    objective = Ernie(length=32, next_sentence=False, basic=1, phrase=0, entity=0)
    assert objective.labels() == () and objective.packing().unit == "chunks"
    document = make_document(20, words=np.ones(20, np.bool_))
    choice = objective.choose(document, vocabulary, np.random.default_rng(1))
    assert isinstance(choice, BertChoice) and choice.b == (20, 20)
    example = objective.build(document, vocabulary, choice)
    assert example.labels == {} and len(example) == 22
    assert len(candidates(example.input_ids, np.ones(22, np.bool_), vocabulary)) == 20
