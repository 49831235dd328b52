"""UniLM v2: what pseudo masks see, the laws of the blocks, and that one pass answers what two would."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from blankfill.data.batching import collate
from blankfill.families.options import ModelOptions
from blankfill.model.transformer import build
from blankfill.objectives import Unilm2
from blankfill.objectives.base import Masked
from blankfill.objectives.query_tokens import step_rule
from blankfill.objectives.unilm2 import Unilm2Choice, choose_blocks, pseudo_masked
from blankfill.types import AttentionRule, Example, Vocabulary
from conftest import ORDINARY, make_document, within

PAD, UNK, CLS, SEP, MASK = range(5)
PSEUDO = ORDINARY - 1


@given(length=st.integers(1, 60), seed=st.integers(0, 999))
def test_the_row_holds_the_text_and_what_was_blanked(vocabulary: Vocabulary, length: int, seed: int) -> None:
    document = make_document(length)
    example = Unilm2(length=64).example(document, vocabulary, np.random.default_rng(seed))
    row = [CLS, *document.ids.tolist(), SEP]
    count = len(example.target_ids) // 2
    assert len(example) == len(row) + 2 * count
    restored = example.input_ids[: len(row)].copy()
    restored[example.target_index[:count]] = example.target_ids[:count]
    assert restored.tolist() == row
    tokens = slice(len(row), len(row) + count)
    assert example.target_index[count:].tolist() == list(range(len(row) + count, len(example)))
    assert (example.input_ids[tokens] == example.target_ids[count:]).all()
    assert (example.input_ids[len(row) + count :] == PSEUDO).all()
    assert (np.array(row)[example.positions[0, tokens]] == example.target_ids[count:]).all()
    assert (example.positions[0, tokens] == example.positions[0, len(row) + count :]).all()
    assert sorted(example.positions[0, tokens]) == example.target_index[:count].tolist()
    assert count >= min(length, max(1, round(0.15 * len(row))))
    assert not example.positions[1].any()


@given(steps=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_who_sees_whom(steps: list[int]) -> None:
    """Against the words of the paper, pair by pair."""
    step = np.repeat(np.arange(1, len(steps) + 1), steps).astype(np.int32)
    context, count = 3, len(step)
    seen = step_rule(context, step).visible()
    for i in range(context + 2 * count):
        for j in range(context + 2 * count):
            query = 0 if i < context else int(step[(i - context) % count])
            key = 0 if j < context else int(step[(j - context) % count])
            is_pseudo_query, is_pseudo_key = i >= context + count, j >= context + count
            if is_pseudo_key:
                expected = is_pseudo_query and query == key
            else:
                expected = key < query if is_pseudo_query and key else key <= query
            assert seen[i, j] == expected, (i, j)


def test_blocks_are_one_token_in_six_of_ten_draws() -> None:
    """The first block of a long row: 60% one token, 8% each of 2 to 6; every place alike."""
    maskable = np.ones(1000, np.bool_)
    first = [choose_blocks(maskable, 1, 0.4, np.random.default_rng(seed))[0] for seed in range(4000)]
    sizes = Counter(end - begin for begin, end in first)
    assert within(sizes[1] / 4000, 0.6, 4000, 0.5)
    assert all(within(sizes[size] / 4000, 0.08, 4000) for size in range(2, 7)) and max(sizes) == 6
    assert within(np.mean([begin for begin, _ in first]) / 1000, 0.5, 4000, 12**-0.5)


def test_blocks_do_not_meet_and_reach_their_number() -> None:
    maskable = np.ones(40, np.bool_)
    maskable[[0, 17, 39]] = False
    for seed in range(300):
        wanted = 1 + seed % 37
        blocks = choose_blocks(maskable, wanted, (0.0, 0.4, 1.0)[seed % 3], np.random.default_rng(seed))
        columns = [column for block in blocks for column in range(*block)]
        assert len(columns) == len(set(columns)) and maskable[columns].all()
        assert wanted <= len(columns) < wanted + 6


def test_eighty_ten_ten_in_the_text_alone(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    inputs, answers = [], []
    for _ in range(600):
        example = Unilm2(length=128).example(make_document(126), vocabulary, rng)
        count = len(example.target_ids) // 2
        inputs += example.input_ids[example.target_index[:count]].tolist()
        answers += example.target_ids[:count].tolist()
    same = np.array(inputs) == np.array(answers)
    assert within((np.array(inputs) == MASK).mean(), 0.8 + 0.1 / 64, len(inputs))
    assert within(same.mean(), 0.1 + 0.1 / 64, len(inputs))


def test_one_pass_answers_what_a_row_for_each_block_would(vocabulary: Vocabulary) -> None:
    """A block's pseudo masks, in a row that ends with them, and the masks of the text in a row of the text alone."""
    options = ModelOptions(family="bert", hidden_size=32, num_layers=2, num_heads=4, dropout=0.0, attention_dropout=0.0)
    model = build(options.config(64, (32, 2), pairs=False), 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    row = np.array([CLS, *range(20, 30), SEP], np.int32)
    blocks = ((4, 6), (1, 2), (8, 9))
    index = np.array([1, 4, 5, 8], np.int32)
    choice = Unilm2Choice(blocks, Masked(index, np.full(4, MASK, np.int32)))
    example = pseudo_masked(row, choice, vocabulary)

    def hidden(example: Example) -> torch.Tensor:
        with torch.inference_mode():
            return model(collate([[example]], PAD)).hidden[0, : len(example)]

    whole = hidden(example)
    text = example.input_ids[:12]
    nothing = np.zeros(0, np.int32)
    alone = Example(text, example.positions[:, :12], AttentionRule.full(12), nothing, nothing)
    torch.testing.assert_close(hidden(alone), whole[:12], atol=1e-5, rtol=1e-4)
    written: list[int] = []
    at = 16
    for begin, end in blocks:
        columns = [*range(begin, end)]
        ids = np.array([*text, *row[written], *[PSEUDO] * len(columns)], np.int32)
        places = np.array([[*range(12), *written, *columns], [0] * len(ids)], np.int32)
        ranks = [k + 1 for k, block in enumerate(blocks) for _ in range(*block)][: len(written)]
        rank = np.array([*[0] * 12, *ranks, *[9] * len(columns)], np.int32)
        part = Example(ids, places, AttentionRule(np.zeros(len(ids), np.int32), rank, rank), nothing, nothing)
        torch.testing.assert_close(hidden(part)[-len(columns) :], whole[at : at + len(columns)], atol=1e-5, rtol=1e-4)
        written += columns
        at += len(columns)


def test_options_that_cannot_be() -> None:
    assert "objective.span_share is 2" in Unilm2(span_share=2).problems()[0]
    assert "add up to more than 1" in Unilm2(random_share=0.3).problems()[0]
    assert Unilm2().problems() == []
