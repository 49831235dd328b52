"""Packing: a small batch worked out by hand, the kind of mask, and agreement with the Examples' own rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.data.batching import collate, is_causal, sees_all
from blankfill.objectives import Bert, Glm, Gpt, Mlm
from blankfill.types import AttentionRule, Batch, Document, Example
from conftest import make_document, make_vocabulary

PAD = 0


def simple(rule: AttentionRule, first: int = 100, targets: tuple[int, ...] = (0,), **labels: int) -> Example:
    """An Example of ids first, first + 1, …, two position channels, and the answers 1000 + column."""
    length = len(rule)
    ids = np.arange(first, first + length, dtype=np.int32)
    positions = np.stack([np.arange(length), np.arange(length)[::-1]]).astype(np.int32)
    index = np.array(targets, np.int32)
    return Example(ids, positions, rule, index, 1000 + index, labels)


def test_a_batch_by_hand() -> None:
    """Row 0: a prefix rule of 3 columns and a full one of 2; row 1: a causal one of 4. Width 5 becomes 8."""
    rows = [
        [simple(AttentionRule.prefix(2, 3), 100, (2,), order=1), simple(AttentionRule.full(2), 200, (0, 1), order=0)],
        [simple(AttentionRule.causal(4), 300, (1, 3), order=2)],
    ]
    batch = collate(rows, PAD)
    assert batch.mask == "rule" and batch.tokens == 9
    assert batch.input_ids.tolist() == [[100, 101, 102, 200, 201, 0, 0, 0], [300, 301, 302, 303, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [
        [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]],
        [[2, 1, 0, 1, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0, 0]],
    ]
    assert batch.segment.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1], [0, 0, 0, 0, -1, -1, -1, -1]]
    assert batch.rank.tolist() == [[0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]]
    assert batch.horizon.tolist() == batch.rank.tolist()
    assert batch.target_index.tolist() == [2, 3, 4, 8 + 1, 8 + 3]
    assert batch.target_ids.tolist() == [1002, 1000, 1001, 1001, 1003]
    index, value = batch.labels["order"]
    assert index.tolist() == [0, 3, 8] and value.tolist() == [1, 0, 2]
    wide = (batch.input_ids, batch.positions, batch.target_index, batch.target_ids, index, value)
    assert all(tensor.dtype == torch.int64 for tensor in wide)
    assert all(tensor.dtype == torch.int32 for tensor in (batch.segment, batch.rank, batch.horizon))


def test_answers_are_read_where_they_belong() -> None:
    """`target_index` is flat over the rows, and survives the move to another device."""
    rows = [[simple(AttentionRule.full(6), 100, (1, 5))], [simple(AttentionRule.full(6), 300, (0,))]]
    batch = collate(rows, PAD).to("cpu")
    assert batch.input_ids.flatten()[batch.target_index].tolist() == [101, 105, 300]
    assert batch.mask == "none" and batch.tokens == 12


FULL, CAUSAL, PREFIX = AttentionRule.full, AttentionRule.causal, AttentionRule.prefix
UNUSUAL = AttentionRule(*(np.array(v, np.int32) for v in ([0] * 4, [0, 1, 2, 3], [3, 3, 3, 3])))
TWO_SEGMENTS = AttentionRule(*(np.array(v, np.int32) for v in ([0, 0, 1, 1], [0] * 4, [0] * 4)))
KINDS = {
    "full rows": ([[FULL(4)], [FULL(4)]], "none", 4),
    "every horizon above every rank": ([[UNUSUAL], [FULL(4)]], "none", 4),
    "full rows of two lengths": ([[FULL(4)], [FULL(3)]], "rule", 8),
    "two in a row": ([[FULL(2), FULL(2)]], "rule", 8),
    "two in one of the rows": ([[FULL(4)], [FULL(2), FULL(2)]], "rule", 8),
    "two segments": ([[TWO_SEGMENTS]], "rule", 8),
    "causal rows": ([[CAUSAL(4)], [CAUSAL(4)]], "causal", 4),
    "causal rows of two lengths": ([[CAUSAL(4)], [CAUSAL(3)]], "causal", 4),
    "two causal in a row": ([[CAUSAL(4)], [CAUSAL(2), CAUSAL(2)]], "rule", 8),
    "a causal and a full row": ([[CAUSAL(4)], [FULL(4)]], "rule", 8),
    "a prefix": ([[PREFIX(2, 4)], [CAUSAL(4)]], "rule", 8),
    "a prefix of one is causal": ([[PREFIX(1, 4)]], "causal", 4),
    "exactly eight": ([[FULL(5), FULL(3)]], "rule", 8),
    "nine": ([[FULL(5), FULL(4)]], "rule", 16),
}


@pytest.mark.parametrize(("rules", "kind", "width"), KINDS.values(), ids=KINDS)
def test_the_kind_of_mask(rules: list[list[AttentionRule]], kind: str, width: int) -> None:
    batch = collate([[simple(rule) for rule in row] for row in rules], PAD)
    assert batch.mask == kind and batch.input_ids.shape == (len(rules), width)
    check_visibility(batch, rules)


def check_visibility(batch: Batch, rules: list[list[AttentionRule]]) -> None:
    """The batch's vectors say: block-diagonal of the Examples' rules, padding sees all padding and nothing else.

    Where the batch says that less is needed, that says the same for all columns that are not padding.
    """
    width = batch.input_ids.shape[1]
    for r, row in enumerate(rules):
        expected = np.zeros((width, width), np.bool_)
        column = 0
        for rule in row:
            at = slice(column, column + len(rule))
            expected[at, at] = rule.visible()
            column = at.stop
        expected[column:, column:] = True
        vectors = (batch.segment[r].numpy(), batch.rank[r].numpy(), batch.horizon[r].numpy())
        assert np.array_equal(AttentionRule(*vectors).visible(), expected)
        if batch.mask == "none":
            assert expected.all()
        if batch.mask == "causal":
            assert np.array_equal(expected[:column], np.tri(width, dtype=bool)[:column])


RULES = st.builds(
    lambda length, values: AttentionRule(*np.array(values, np.int32)[:, :length]),
    st.integers(1, 6),
    st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=3, max_size=3),
)
ANY = st.one_of(
    RULES,
    st.builds(FULL, st.integers(1, 6)),
    st.builds(CAUSAL, st.integers(1, 6)),
    st.builds(lambda a, b: PREFIX(min(a, b), max(a, b)), st.integers(1, 6), st.integers(1, 6)),
)


@given(rules=st.lists(st.lists(ANY, min_size=1, max_size=3), min_size=1, max_size=4))
@settings(max_examples=200)
def test_the_rule_of_the_batch_is_that_of_its_examples(rules: list[list[AttentionRule]]) -> None:
    batch = collate([[simple(rule) for rule in row] for row in rules], PAD)
    check_visibility(batch, rules)
    assert batch.tokens == sum(len(rule) for row in rules for rule in row)


@given(rule=ANY)
def test_the_two_short_cuts(rule: AttentionRule) -> None:
    """`sees_all` is exact; `is_causal` never says yes to another rule, and yes to the plain one."""
    assert sees_all(rule) == bool(rule.visible().all())
    assert not is_causal(rule) or np.array_equal(rule.visible(), np.tri(len(rule), dtype=bool))
    assert is_causal(AttentionRule.causal(len(rule)))


def pair() -> Document:
    document = make_document(13)
    return Document(document.ids, np.array([0, 6, 13], np.int32), label=1)


@pytest.mark.parametrize(
    ("objective", "document", "kind"),
    [
        (Bert(length=16), pair(), "none"),
        (Mlm(length=16), make_document(14), "none"),
        (Gpt(length=16), make_document(15, last=False), "causal"),
        (Gpt(length=16), make_document(9), "causal"),
        (Glm(length=16), make_document(14), "rule"),
    ],
)
def test_what_the_objectives_need(objective: Bert | Mlm | Gpt | Glm, document: Document, kind: str) -> None:
    """Full rows of BERT and RoBERTa pay for no mask, those of GPT for none but the causal flag."""
    vocabulary = make_vocabulary(64)
    rng = np.random.default_rng(0)
    example = objective.example(document, vocabulary, rng)
    batch = collate([[example]] * 3, vocabulary["pad"])
    assert batch.mask == kind
    clean = batch.input_ids.flatten().clone()
    if isinstance(objective, (Bert, Mlm)):
        clean[batch.target_index] = batch.target_ids
        assert clean.reshape(3, -1)[:, 1:].ge(3).all() and vocabulary["mask"] not in clean
    check_visibility(batch, [[example.rule]] * 3)


def two_sided(read: AttentionRule, written: AttentionRule, first: int) -> Example:
    """An Example whose context has the ids from `first` on, and whose own are these + 50."""
    return dataclasses.replace(simple(written, first + 50), context=simple(read, first, ()))


def test_contexts_by_hand() -> None:
    """Row 0 has two Examples, the first with a context of two segments; row 1 has one. Both sides have their width."""
    rows = [
        [two_sided(TWO_SEGMENTS, CAUSAL(2), 100), two_sided(FULL(2), CAUSAL(3), 200)],
        [two_sided(FULL(9), CAUSAL(1), 300)],
    ]
    batch = collate(rows, PAD)
    context = batch.context
    assert context is not None and context.context is None
    assert batch.input_ids.tolist() == [[150, 151, 250, 251, 252, 0, 0, 0], [350] + [0] * 7]
    assert batch.segment.tolist() == [[0, 0, 2, 2, 2, -1, -1, -1], [0] + [-1] * 7]
    assert context.input_ids[0].tolist() == [100, 101, 102, 103, 200, 201] + [0] * 10
    assert context.segment[0].tolist() == [0, 0, 1, 1, 2, 2] + [-1] * 10
    assert context.input_ids[1].tolist() == [*range(300, 309)] + [0] * 7
    assert (batch.mask, context.mask) == ("rule", "rule")
    assert (batch.tokens, context.tokens) == (6 + 15, 15)
    second = batch.part(1, 2)
    assert second.context is not None and second.context.input_ids.tolist() == context.input_ids[1:].tolist()
    assert (second.tokens, second.context.tokens) == (10, 9)
    moved = batch.to("cpu").context
    assert moved is not None and torch.equal(moved.segment, context.segment)


def test_contexts_that_fill_their_rows_need_no_mask() -> None:
    batch = collate([[two_sided(FULL(3), CAUSAL(2), 100)], [two_sided(FULL(3), CAUSAL(4), 200)]], PAD)
    assert batch.context is not None and (batch.mask, batch.context.mask) == ("causal", "none")


@pytest.mark.parametrize("odd", [simple(FULL(3)), two_sided(FULL(0), CAUSAL(2), 100)], ids=["no context", "empty"])
def test_examples_without_a_context_among_others(odd: Example) -> None:
    whole = two_sided(FULL(3), CAUSAL(2), 100)
    for rows in ([[whole, odd]], [[whole], [odd]]):
        with pytest.raises(ValueError, match="must have a context with at least one column, or none of them any"):
            collate(rows, PAD)
