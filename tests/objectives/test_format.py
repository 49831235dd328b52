"""Formats: what they make of a given text is what training builds of it with the corresponding choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.errors import UserError
from blankfill.objectives import (
    OBJECTIVES,
    T5,
    Albert,
    Bart,
    Bert,
    ChatGlm,
    Electra,
    Ernie,
    Format,
    Glm,
    Glm130b,
    Gpt,
    MaskWriter,
    Mlm,
    Objective,
    SourceRow,
    SpanBert,
    Unilm,
    Unilm2,
    Xlnet,
)
from blankfill.objectives.albert import AlbertChoice
from blankfill.objectives.bart import BartChoice
from blankfill.objectives.base import Masked
from blankfill.objectives.bert import BertChoice
from blankfill.objectives.chatglm import ChatGlmChoice
from blankfill.objectives.electra import ElectraChoice
from blankfill.objectives.glm import GlmChoice
from blankfill.objectives.spanbert import SpanChoice
from blankfill.objectives.t5 import T5Choice
from blankfill.objectives.unilm import UnilmChoice
from blankfill.objectives.unilm2 import Unilm2Choice
from blankfill.objectives.xlnet import XlnetChoice
from blankfill.types import DecoderInput, Document, Example, Vocabulary

ROLES = ("pad", "unk", "cls", "sep", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock", "pseudo")
SENTINELS = tuple(range(12, 20))
VOCABULARY = Vocabulary(60, {role: k for k, role in enumerate(ROLES)}, frozenset(range(20)), sentinels=SENTINELS)
MASK, EOS = VOCABULARY["mask"], VOCABULARY["eos"]

text = st.lists(st.integers(20, 59), min_size=1, max_size=9)
maybe = st.lists(st.integers(20, 59), max_size=6)

SINGLE = {
    "bert": Bert(48, next_sentence=False), "mlm": Mlm(48), "albert": Albert(48, sentence_order=False),
    "spanbert": SpanBert(48, boundary=0), "ernie": Ernie(48, next_sentence=False),
    "ernie with tasks": Ernie(48, next_sentence=False, task_types=3, task=2), "unilm": Unilm(48), "unilm2": Unilm2(48),
    "glm": Glm(48), "gpt": Gpt(48), "gpt stream": Gpt(48, documents="stream"), "xlnet": Xlnet(48, pairs=False),
    "t5": T5(48, variant="bert"), "bart": Bart(48), "electra": Electra(48), "chatglm": ChatGlm(48),
    "glm-130b": Glm130b(48),
}  # fmt: skip
PAIRS = {
    "bert": Bert(48), "albert": Albert(48), "ernie": Ernie(48), "ernie with tasks": Ernie(48, task_types=3, task=1),
    "unilm": Unilm(48), "xlnet": Xlnet(48), "electra": Electra(48),
}  # fmt: skip
WRITERS = {"glm": Glm(48, document=1.0), "gpt": Gpt(48), "unilm": Unilm(48), "unilm2": Unilm2(48), "t5": T5(48),
           "bart": Bart(48)}  # fmt: skip


def array(ids: Sequence[Any]) -> np.ndarray:
    return np.array(ids, np.int32)


def document(ids: Sequence[int], second: Sequence[int] = ()) -> Document:
    starts = [0, len(ids), *([len(ids) + len(second)] if second else [])]
    return Document(array([*ids, *second]), array(starts))


def masked(places: Sequence[int], inputs: Sequence[int]) -> Masked:
    return Masked(array(places), array(inputs))


def built(
    objective: Objective, first: Sequence[int], second: Sequence[int] = (), hidden: Sequence[int] = ()
) -> Example:
    """What training builds of a text or a pair, tokens at `hidden` places of the first text blanked as [MASK]s, or as
    their family has it.
    """
    a, b = (0, len(first)), (len(first), len(first) + len(second))
    masks = masked([1 + k for k in hidden], [MASK] * len(hidden))
    choice: Any = None
    if isinstance(objective, Bert | Ernie):
        choice = BertChoice(a, b, masks)
    elif isinstance(objective, Albert):
        choice = AlbertChoice(a, b, None, masks)
    elif isinstance(objective, Electra):
        choice = ElectraChoice(a, b, masks, 0)
    elif isinstance(objective, Mlm):
        choice = masks
    elif isinstance(objective, SpanBert):
        choice = SpanChoice(tuple((k, k + 1) for k in hidden), tuple(array([MASK]) for _ in hidden))
    elif isinstance(objective, Unilm):
        choice = UnilmChoice(a, b, "both", masks)
    elif isinstance(objective, Glm):
        choice = GlmChoice((), ())
    elif isinstance(objective, ChatGlm):
        choice = ChatGlmChoice((((0, len(first)), GlmChoice((), ())),))
    elif isinstance(objective, Xlnet):
        order = np.arange(len(first) + 2 + (len(second) + 1 if second else 0))
        choice = XlnetChoice(a, b, array(hidden), array(order))
    elif isinstance(objective, T5):
        choice = T5Choice(np.zeros(len(first), np.bool_), array(first))
    elif isinstance(objective, Bart):
        choice = BartChoice((0,))
    return objective.build(document(first, second), VOCABULARY, choice)


def same_rows(actual: Example, expected: Example, rule: bool = True) -> None:
    """Ids, positions, and who sees whom, on both sides; answers apart."""
    assert actual.input_ids.tolist() == expected.input_ids.tolist()
    assert actual.positions.tolist() == expected.positions.tolist()
    if rule:
        assert actual.rule.visible().tolist() == expected.rule.visible().tolist()
    assert (actual.context is None) == (expected.context is None)
    if actual.context is not None and expected.context is not None:
        same_rows(actual.context, expected.context)


def answers(example: Example) -> list[tuple[int, int]]:
    return list(zip(example.target_index.tolist(), example.target_ids.tolist(), strict=True))


def begins(decoder_input: DecoderInput, whole: Example, asked_for: int) -> None:
    """A decoder's input is the row of training up to where its answer `asked_for` is read."""
    at = int(whole.target_index[asked_for])
    count = len(decoder_input)
    assert count == at + (decoder_input.query_token is None)
    assert decoder_input.input_ids.tolist() == whole.input_ids[:count].tolist()
    assert decoder_input.positions.tolist() == whole.positions[:, :count].tolist()
    assert decoder_input.rule.visible().tolist() == whole.rule.visible()[:count, :count].tolist()
    if asked_for + 1 < len(whole.target_ids):
        assert decoder_input.next_position.tolist() == whole.positions[:, count].tolist()
    assert (decoder_input.source is None) == (whole.context is None)
    if decoder_input.source is not None and whole.context is not None:
        same_rows(decoder_input.source, whole.context)


def test_every_objective_is_tried() -> None:
    assert {objective.name for objective in SINGLE.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", SINGLE)
@given(first=text)
def test_a_framed_text_is_the_example_without_blanks(name: str, first: list[int]) -> None:
    objective = SINGLE[name]
    framed = objective.format(VOCABULARY).frame(first)
    begin, end = framed.first
    example = framed.example
    row = example if example.context is None else example.context
    assert row.input_ids[begin:end].tolist() == first and framed.second[0] == framed.second[1]
    assert 0 <= framed.pooled < len(example) and not len(example.target_ids)
    if isinstance(objective, Gpt):  # whose end is a target as well
        made = replace(document(first), last=False)
        expected = objective.build(replace(made, ids=array([*first, 20])), VOCABULARY, None)
    elif isinstance(objective, Unilm):
        expected = objective.build(
            document(first, []), VOCABULARY,
            UnilmChoice((0, len(first)), (len(first), len(first)), "both", masked([], [])),
        )  # fmt: skip
    elif isinstance(objective, Unilm2):
        expected = Mlm(48, position_offset=0).build(document(first), VOCABULARY, masked([], []))
        expected = replace(expected, positions=np.pad(expected.positions, ((0, 1), (0, 0))))
    else:
        expected = built(objective, first)
    if isinstance(objective, Xlnet):  # whose content stream has an order in training alone
        same_rows(example, expected, rule=False)
        assert example.rule.visible().all()
    else:
        same_rows(example, expected)
    encoder = objective.format(VOCABULARY).frame(first, encoder_only=True).example
    assert encoder.input_ids.tolist() == row.input_ids.tolist() and encoder.context is None


@pytest.mark.parametrize("name", PAIRS)
@given(first=text, second=text)
def test_a_framed_pair_is_the_example_without_blanks(name: str, first: list[int], second: list[int]) -> None:
    objective = PAIRS[name]
    framed = objective.format(VOCABULARY).frame(first, second)
    same_rows(framed.example, built(objective, first, second), rule=not isinstance(objective, Xlnet))
    row = framed.example.input_ids
    assert row[slice(*framed.first)].tolist() == first and row[slice(*framed.second)].tolist() == second


@pytest.mark.parametrize("name", [name for name, objective in SINGLE.items() if objective.masked and name != "unilm2"])
@given(first=text, draw=st.data())
def test_masks_stand_and_are_asked_for_as_in_training(name: str, first: list[int], draw: st.DataObject) -> None:
    objective = SINGLE[name]
    hidden = sorted(draw.draw(st.sets(st.integers(0, len(first) - 1), min_size=1)))
    expected = built(objective, first, (), hidden)
    for row in (
        objective.format(VOCABULARY).hide(first, hidden, len(hidden)),
        *objective.format(VOCABULARY).open_places(array([first, first]), hidden),
    ):
        same_rows(row, expected)
        assert answers(row) == answers(expected)


@given(first=text, draw=st.data())
def test_hidden_tokens_of_xlnet_are_asked_for_as_in_training(first: list[int], draw: st.DataObject) -> None:
    """A choice that asks for these places last, in this order; open places are those that nothing else sees."""
    objective = Xlnet(48, pairs=False)
    form = objective.format(VOCABULARY)
    hidden = draw.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, unique=True))
    L, K = len(first) + 2, len(hidden)
    row = form.hide(first, hidden, K)
    order = np.zeros(L, np.int32)
    order[hidden] = np.arange(K)
    order[[L - 2, L - 1]] = K, K + 1  # [SEP] and [CLS] come last in training; here everything that is left is seen
    targets = sorted(hidden)
    expected = objective.build(document(first), VOCABULARY, XlnetChoice((0, len(first)), (0, 0), array(targets), order))
    place = {k: L + targets.index(k) for k in hidden}
    assert row.input_ids[:L].tolist() == expected.input_ids[:L].tolist()
    assert row.positions[:, :L].tolist() == expected.positions[:, :L].tolist()
    sees, wanted = row.rule.visible(), expected.rule.visible()
    for k, at in zip(hidden, row.target_index.tolist(), strict=True):
        assert row.positions[:, at].tolist() == expected.positions[:, place[k]].tolist()
        assert row.input_ids[at] == expected.input_ids[place[k]]
        assert sees[at, : len(first)].tolist() == wanted[place[k], : len(first)].tolist()
    other, alone = form.open_places(array([[20] * len(first), first]), hidden)
    visible = [token for k, token in enumerate(first) if k not in hidden]
    assert alone.input_ids[: len(visible)].tolist() == visible and set(other.target_ids.tolist()) == {20}
    assert len(alone) == L and alone.target_ids.tolist() == [first[k] for k in hidden]
    seen = alone.rule.visible()
    assert seen[:, : L - K].all() and not (seen[L - K :, L - K :]).any()
    assert alone.positions[:, L - K :].tolist() == row.positions[:, row.target_index].tolist()


def tokens(example: Example) -> list[int]:
    return example.target_ids.tolist()


@given(before=text, answer=text, after=text)
def test_a_blank_of_glm_is_the_example_of_its_span(before: list[int], answer: list[int], after: list[int]) -> None:
    span = (1 + len(before), 1 + len(before) + len(answer))
    expected = Glm(48).build(document([*before, *answer, *after]), VOCABULARY, GlmChoice((span,), (0,)))
    form = Glm(48).format(VOCABULARY)
    (row,) = form.blank(before, answer, after)
    same_rows(row, expected)
    assert answers(row) == answers(expected)
    begins(form.blank_input([before, after], ["mask"], ()), expected, 0)
    assert form.blank_end_ids([before, after], ["mask"], 0) == [tokens(expected)[-1]]


@given(before=text, word=text, after=text)
def test_a_cloze_of_glm_is_the_blank_that_training_builds(before: list[int], word: list[int], after: list[int]) -> None:
    form = Glm(48).format(VOCABULARY)
    (expected,) = form.blank(before, word, after)
    row = form.cloze_row(before, [*word, *form.word_end], after)
    same_rows(row, expected)
    assert answers(row) == answers(expected)


@given(runs=st.tuples(text, text, text), fills=st.tuples(text, text))
def test_blanks_of_glm_are_written_as_in_training(runs: tuple[list[int], ...], fills: tuple[list[int], ...]) -> None:
    a, b, c = runs
    first, second = fills
    whole = [*a, *first, *b, *second, *c]
    begin, later = 1 + len(a), 1 + len(a) + len(first) + len(b)
    choice = GlmChoice(((begin, begin + len(first)), (later, later + len(second))), (0, 1))
    expected = Glm(48).build(document(whole), VOCABULARY, choice)
    form = Glm(48).format(VOCABULARY)
    begins(form.blank_input(runs, ["mask", "mask"], ()), expected, 0)
    begins(form.blank_input(runs, ["mask", "mask"], (first,)), expected, len(first) + 1)


@given(before=text, rest=text)
def test_a_prompt_of_glm_is_a_document_that_is_blanked_to_its_end(before: list[int], rest: list[int]) -> None:
    objective = Glm(48, document=1.0)
    length = 2 + len(before) + len(rest)
    choice = GlmChoice(((1 + len(before), length),), (0,), "gmask", to_end=True)
    expected = objective.build(document([*before, *rest]), VOCABULARY, choice)
    form = objective.format(VOCABULARY)
    begins(form.continuation(before), expected, 0)
    assert tokens(expected)[-1] in form.end_ids
    window = form.window([*before, *rest], 0, len(before), length - 2)
    assert answers(window) == answers(expected)[:-1]
    same_rows(window, objective.build(replace(document([*before, *rest]), last=False), VOCABULARY,
                                      replace(choice, spans=((1 + len(before), length - 1),))))  # fmt: skip


@given(runs=st.tuples(text, text, text), fills=st.tuples(text, text), closed=st.booleans())
def test_blanks_of_t5_are_written_as_in_training(
    runs: tuple[list[int], ...], fills: tuple[list[int], ...], closed: bool
) -> None:
    a, b, c = runs if closed else (*runs[:2], [])
    parts = [a, fills[0], b, fills[1], c]
    noise = np.repeat([False, True, False, True, False], list(map(len, parts)))
    expected = T5(48).build(document([k for part in parts for k in part]), VOCABULARY, T5Choice(noise))
    form = T5(48).format(VOCABULARY)
    # the decoder's row begins with the sentinel of the first blank, which is given
    begins(form.blank_input([a, b, c], ["mask"] * 2, ()), expected, 1)
    begins(form.blank_input([a, b, c], ["mask"] * 2, (fills[0],)), expected, 2 + len(fills[0]))
    end = tokens(expected)[2 + len(fills[0]) + len(fills[1])]
    assert form.blank_end_ids([a, b, c], ["mask"] * 2, 0) == [SENTINELS[1]] == [tokens(expected)[1 + len(fills[0])]]
    assert end in form.blank_end_ids([a, b, c], ["mask"] * 2, 1)


@given(before=text, answer=text, after=maybe)
def test_a_blank_of_t5_is_the_example_of_its_span(before: list[int], answer: list[int], after: list[int]) -> None:
    noise = np.repeat([False, True, False], [len(before), len(answer), len(after)])
    expected = T5(48).build(document([*before, *answer, *after]), VOCABULARY, T5Choice(noise))
    (row,) = T5(48).format(VOCABULARY).blank(before, answer, after)
    count = len(row)
    assert answers(row) == answers(expected)[1 : len(answer) + 2]
    assert row.input_ids.tolist() == expected.input_ids[:count].tolist()
    assert row.context is not None and expected.context is not None
    same_rows(row.context, expected.context)


@given(before=maybe, answer=text, after=maybe)
def test_a_blank_of_bart_is_the_example_of_its_span(before: list[int], answer: list[int], after: list[int]) -> None:
    objective = Bart(48)
    span = (1 + len(before), 1 + len(before) + len(answer))
    expected = objective.build(document([*before, *answer, *after]), VOCABULARY, BartChoice((0,), (span,)))
    form = objective.format(VOCABULARY)
    (row,) = form.blank(before, answer, after)
    assert answers(row) == answers(expected)[1 + len(before) : len(before) + len(answer) + 2]
    assert row.input_ids.tolist() == expected.input_ids[: len(row)].tolist()
    assert row.context is not None and expected.context is not None
    same_rows(row.context, expected.context)
    begins(form.blank_input([before, after], ["mask"], ()), expected, 1 + len(before))
    assert form.following([before, after], 0) == tokens(expected)[1 + len(before) + len(answer) :]
    assert form.blank_end_ids([before, after], ["mask"], 0) == form.following([before, after], 0)[:1]


@given(before=maybe, answer=text)
def test_what_gpt_writes_is_the_example_of_the_text(before: list[int], answer: list[int]) -> None:
    expected = Gpt(48).build(document([*before, *answer]), VOCABULARY, None)
    form = Gpt(48).format(VOCABULARY)
    for decoder_input in (form.continuation(before), form.blank_input([before, answer], ["mask"], ())):
        begins(decoder_input, expected, len(before))
    assert form.end_ids == [tokens(expected)[-1]]
    (blank,) = form.blank(before, answer, [])
    assert answers(blank) == answers(expected)[len(before) : -1]
    assert blank.input_ids.tolist() == expected.input_ids[:-1].tolist()


@given(source=text, target=text)
def test_a_target_of_unilm_is_an_example_of_its_sequence_mode(source: list[int], target: list[int]) -> None:
    """[CLS] source [SEP] target [SEP], with targets at the columns of the target."""
    size = len(source)
    columns = [size + 2 + k for k in range(len(target))]
    choice = UnilmChoice((0, size), (size, size + len(target)), "sequence", masked(columns, target))
    expected = Unilm(48).build(document(source, target), VOCABULARY, choice)
    form = Unilm(48).format(VOCABULARY)
    row = form.source(source)
    built = form.training_target(row, [*target, form.target_end])
    same_rows(built, expected)
    assert answers(built)[:-1] == answers(expected)
    queried = form.target(row, [*target, form.target_end])
    assert tokens(queried) == tokens(built)
    count = len(built)
    assert queried.positions[:, :count].tolist() == built.positions.tolist()
    assert queried.rule.visible()[:count, :count].tolist() == built.rule.visible().tolist()


@given(first=text, answer=text, after=text)
def test_a_target_of_unilm2_is_asked_for_by_pseudo_masks_as_blocks_are(
    first: list[int], answer: list[int], after: list[int]
) -> None:
    """Blocks of one token each, in their order, at the end of a text that keeps them."""
    form = Unilm2(48).format(VOCABULARY)
    source = form.source(first)
    size = len(source.ids)
    built = form.target(source, answer)
    row = [*first, *answer]
    blocks = tuple((1 + len(first) + k, 2 + len(first) + k) for k in range(len(answer)))
    choice = Unilm2Choice(blocks, masked([b for b, _ in blocks], answer))
    expected = Unilm2(48).build(document(row), VOCABULARY, choice)
    K, N = len(answer), len(row) + 2
    sees, wanted = built.rule.visible(), expected.rule.visible()
    assert sees[size:, size:].tolist() == wanted[N:, N:].tolist() and sees[size:, :size].all()
    assert built.input_ids[size:].tolist() == expected.input_ids[N:].tolist()
    assert (built.positions[0, size:] - size).tolist() == (expected.positions[0, N:] - 1 - len(first)).tolist()
    assert tokens(built) == tokens(expected)[K:]


@pytest.mark.parametrize("name", WRITERS)
@given(first=text, second=st.one_of(st.none(), text), target=text)
def test_a_target_is_written_in_the_row_in_which_it_is_learnt(
    name: str, first: list[int], second: list[int] | None, target: list[int]
) -> None:
    objective = WRITERS[name]
    form = objective.format(VOCABULARY, [64] * len(objective.position_sizes()))
    source = form.source(first, second)
    whole = [*target, form.target_end]
    learnt = form.target(source, whole)
    assert tokens(learnt) == whole
    decoder_input = form.target_input(source, len(whole))
    assert decoder_input.room >= len(whole) - 1
    if decoder_input.query_token is None:
        begins(decoder_input, learnt, 0)
    else:
        count = len(decoder_input)
        assert decoder_input.input_ids.tolist() == learnt.input_ids[:count].tolist()
        assert decoder_input.next_position.tolist() == learnt.positions[:, learnt.target_index[0]].tolist()
    taken = form.target_columns(len(target))
    assert taken in (0, len(set(learnt.positions[0].tolist())) - len(source.ids))
    assert bool(taken) == (name in ("gpt", "unilm", "unilm2"))
    assert form.source_specials(second is not None) == len(source.ids) - len(first) - len(second or ())


@pytest.mark.parametrize("name", SINGLE)
def test_texts_with_blanks_that_are_too_long_are_refused(name: str) -> None:
    objective = SINGLE[name]
    if not objective.fills or objective.relative_positions:
        return
    form = objective.format(VOCABULARY)
    form.check_blanks([[20] * 4, [21] * 4], ["mask"], 1)
    with pytest.raises(UserError, match="shorten it"):
        form.check_blanks([[20] * 40, [21] * 40], ["mask"], 1)


def test_a_t5_row_needs_a_sentinel_for_each_blank() -> None:
    form = T5(48).format(replace(VOCABULARY, sentinels=(12,)))
    with pytest.raises(UserError, match="2 blanks and the tokenizer 1 sentinels"):
        form.blank_input([[20], [21], [22]], ["mask"] * 2, ())


def test_what_a_model_cannot_do_is_said_by_the_objective_and_not_implemented_by_the_format() -> None:
    form: Format = Bert(48).format(VOCABULARY)
    assert not Bert(48).writes and Unilm(48).writes and issubclass(Unilm, MaskWriter)
    with pytest.raises(NotImplementedError):
        form.continuation([20])
    with pytest.raises(NotImplementedError):
        form.target(SourceRow(array([20])), [21])
    with pytest.raises(NotImplementedError):
        Gpt(48).format(VOCABULARY).open_places(array([[20]]), [0])


def test_roberta_has_two_separators_between_the_texts_of_a_pair() -> None:
    for objective in (Mlm(48), Bart(48)):
        form = objective.format(replace(VOCABULARY, doubled_separator=True))
        assert form.frame([20], [21], encoder_only=True).example.input_ids.tolist() == [2, 20, 3, 3, 21, 3]
        assert form.specials(pair=True) == 4
    assert Mlm(48).format(VOCABULARY).specials(pair=True) == 3


def test_a_head_of_gpt_reads_a_text_with_its_end_behind_it() -> None:
    framed = Gpt(48).format(VOCABULARY).for_heads().frame([20, 21], [22])
    assert framed.example.input_ids.tolist() == [20, 21, EOS, 22, EOS] and framed.pooled == 4
