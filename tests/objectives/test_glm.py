"""GLM: what may be blanked, how Part B is written, and that filling the blanks gives back the document."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.objectives import Glm
from blankfill.objectives.glm import GlmChoice, fitting, maskable, place_spans, row_length
from blankfill.types import ROLES, Document, Example, Vocabulary
from conftest import make_document

CLS, MASK, GMASK, SMASK, SOP, EOP, EOS, DBLOCK = (
    ROLES.index(role) for role in ("cls", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock")
)
SPECIAL = set(range(len(ROLES)))


def clean(document: Document) -> list[int]:
    """The row before blanking, written down independently: [CLS] text end, of each document inside."""
    cuts = [0, len(document)] if document.parts is None else document.parts.tolist()
    row: list[int] = []
    for begin, end in itertools.pairwise(cuts):
        row += [CLS, *document.ids[begin:end].tolist(), EOS]
    return row if document.last else row[:-1]


def blanks(example: Example) -> list[tuple[int, list[int], list[int]]]:
    """Part B read from the Example alone: for each blank its mask's column, its inputs, and its answers."""
    start = int(example.target_index[0])
    assert example.target_index.tolist() == list(range(start, len(example)))
    assert example.rule.rank.tolist() == [0] * start + list(range(1, len(example) - start + 1))
    assert example.rule.horizon.tolist() == example.rule.rank.tolist()
    assert not example.rule.segment.any()
    assert example.positions[0, :start].tolist() == list(range(start))
    assert not example.positions[1, :start].any()
    begins = [k for k in range(start, len(example)) if example.positions[1, k] == 1]
    spans = []
    for begin, end in zip(begins, [*begins[1:], len(example)], strict=True):
        place = int(example.positions[0, begin])
        assert example.positions[0, begin:end].tolist() == [place] * (end - begin)
        assert example.positions[1, begin:end].tolist() == list(range(1, end - begin + 1))
        answers = example.target_ids[begin - start : end - start].tolist()
        spans.append((place, example.input_ids[begin:end].tolist(), answers))
    return spans


def filled(example: Example, to_end: bool) -> list[int]:
    """Part A with each mask replaced by the answers of its blank."""
    answers_by_place = {place: answers for place, _, answers in blanks(example)}
    row: list[int] = []
    for column, token in enumerate(example.input_ids[: example.target_index[0]].tolist()):
        if column in answers_by_place:
            assert token in (MASK, SMASK, GMASK)
            answers = answers_by_place[column]
            assert to_end or answers[-1] == EOP
            row += answers if to_end else answers[:-1]
        else:
            row.append(token)
    return row


def several(sizes: list[int], last: bool = True, sentence: int = 5) -> Document:
    """A Document of several (or one), with sentences of `sentence` tokens that end where a document ends."""
    parts = np.cumsum([0, *sizes]).astype(np.int32)
    ids = (len(ROLES) + np.arange(parts[-1]) % 50).astype(np.int32)
    starts = {int(k) for a, b in itertools.pairwise(parts) for k in range(a, b, sentence)}
    sentences = np.array([*sorted(starts), parts[-1]], np.int32)
    return Document(ids, sentences, last=last, parts=parts if len(sizes) > 1 else None)


DOCUMENTS = st.builds(several, st.lists(st.integers(3, 60), min_size=1, max_size=4), st.booleans(), st.integers(1, 30))
MIXTURE = {"token": 1.0, "sentence": 1.0, "document": 1.0, "document_inside": 0.5}


@given(document=DOCUMENTS, shuffle=st.booleans(), task_mask=st.booleans(), seed=st.integers(0, 999))
def test_filling_the_blanks_gives_back_the_document(
    vocabulary: Vocabulary, document: Document, shuffle: bool, task_mask: bool, seed: int
) -> None:
    objective = Glm(length=256, shuffle=shuffle, task_mask=task_mask, **MIXTURE)
    choice = objective.choose(document, vocabulary, np.random.default_rng(seed))
    example = objective.build(document, vocabulary, choice)
    row = clean(document)
    assert row_length(document) == len(row)
    assert filled(example, choice.to_end) == row
    written = blanks(example)
    assert len(written) == len(choice.spans) >= 1 and len(example.target_ids) >= 1
    for _, inputs, answers in written:
        assert inputs == [SOP, *answers[:-1]]
        assert choice.to_end or answers[-1] == EOP
    if not shuffle:
        assert [place for place, _, _ in written] == sorted(place for place, _, _ in written)
    if not task_mask:
        assert not {SMASK, GMASK} & set(example.input_ids.tolist())
    sizes = objective.position_sizes()
    assert example.positions[0].max() < sizes[0] and example.positions[1].max() < sizes[1]


@given(document=DOCUMENTS, ratio=st.sampled_from([0.05, 0.15, 0.5, 0.9]), seed=st.integers(0, 999))
def test_token_spans(vocabulary: Vocabulary, document: Document, ratio: float, seed: int) -> None:
    """A gap between two spans; never [CLS], an end token, or the last token of a row; each span in one document."""
    objective = Glm(length=256, mask_ratio=ratio)
    choice = objective.choose(document, vocabulary, np.random.default_rng(seed))
    row = clean(document)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(choice.spans))
    for begin, end in choice.spans:
        assert 0 < begin < end < len(row)
        assert not SPECIAL & set(row[begin:end])
    assert choice.mask == "mask" and not choice.to_end
    assert sorted(choice.order) == list(range(len(choice.spans)))


@pytest.mark.parametrize("length", [30, 60, 128, 512])
@pytest.mark.parametrize("last", [True, False])
def test_token_level_blanks_its_share_and_keeps_the_overshoot(length: int, last: bool, vocabulary: Vocabulary) -> None:
    """At least int(.15 · row); without the last span drawn it would be less."""
    objective = Glm(length=length)
    document = make_document(length - (2 if last else 1), last=last)
    rng = np.random.default_rng(length)
    over = 0
    for _ in range(200):
        spans = objective.choose(document, vocabulary, rng).spans
        total = sum(end - begin for begin, end in spans)
        assert total >= int(0.15 * length)
        assert total - max(end - begin for begin, end in spans) < int(0.15 * length)
        over += total > int(0.15 * length)
    assert over > 60


def test_short_documents_of_a_row_are_blanked_by_their_own_share(vocabulary: Vocabulary) -> None:
    """All but the longest get at most int(.15 · length) tokens: 3 of 20, 6 of 40; all reach int(.15 · 126)."""
    document = several([20, 60, 40])
    rng = np.random.default_rng(0)
    for _ in range(200):
        spans = Glm(length=128).choose(document, vocabulary, rng).spans
        inside = [sum(e - s for s, e in spans if low <= s < low + size + 2) for low, size in ((0, 20), (84, 40))]
        assert inside[0] <= 3 and inside[1] <= 6
        sizes = [end - begin for begin, end in spans]
        assert sum(sizes) >= 18 > sum(sizes) - max(sizes)


def test_sentence_spans_are_sentences_and_reach_their_share(vocabulary: Vocabulary) -> None:
    objective = Glm(length=128, token=0.0, sentence=1.0)
    rng = np.random.default_rng(0)
    for document in (make_document(100, sentence=9), several([30, 40, 20], sentence=6), several([44], False, 10)):
        row = clean(document)
        columns = [column for column, token in enumerate(row) if token not in SPECIAL]
        sentences = {(columns[a], columns[b - 1] + 1) for a, b in itertools.pairwise(document.sentences.tolist())}
        for _ in range(50):
            choice = objective.choose(document, vocabulary, rng)
            assert choice.mask == "smask" and set(choice.spans) <= sentences
            assert len(set(choice.spans)) == len(choice.spans)
            total = sum(end - begin for begin, end in choice.spans)
            wanted = int(0.15 * len(row))
            assert total >= wanted
            # One sentence fewer, whichever came last, did not reach it.
            assert total - max(end - begin for begin, end in choice.spans) < wanted


def test_a_document_of_one_sentence_is_blanked_whole(vocabulary: Vocabulary) -> None:
    document = make_document(6)
    ids = document.ids.tolist()
    example = Glm(token=0, sentence=1).example(document, vocabulary, np.random.default_rng(0))
    assert example.input_ids.tolist() == [CLS, SMASK, EOS, SOP, *ids]
    assert example.target_ids.tolist() == [*ids, EOP]


def test_the_long_blank_to_the_end(vocabulary: Vocabulary) -> None:
    """It answers the end token last, has no [E], and stands where its mask does."""
    objective = Glm(token=0, document=1)
    rng = np.random.default_rng(0)
    document = make_document(18)
    lengths = set()
    for _ in range(300):
        example = objective.example(document, vocabulary, rng)
        ((place, inputs, answers),) = blanks(example)
        assert answers[-1] == EOS and EOP not in answers
        assert inputs == [SOP, *answers[:-1]]
        assert example.input_ids[: example.target_index[0]].tolist() == [*clean(document)[:place], GMASK]
        lengths.add(len(answers))
    assert lengths == set(range(10, 19))


def test_the_long_blank_inside(vocabulary: Vocabulary) -> None:
    """Text on both sides, [E] at its end, every place possible: length 8 of a row of 10 leaves one, length 5 four."""
    objective = Glm(token=0, document=1, document_inside=1.0, task_mask=False)
    rng = np.random.default_rng(0)
    spans = {objective.choose(make_document(8), vocabulary, rng).spans for _ in range(1500)}
    assert spans == {((start, start + size),) for size in range(5, 9) for start in range(1, 10 - size)}
    example = objective.example(make_document(8), vocabulary, rng)
    assert example.target_ids[-1] == EOP and MASK in example.input_ids


def test_the_long_blank_of_documents_together_runs_to_the_end_of_the_row(vocabulary: Vocabulary) -> None:
    objective = Glm(token=0, document=1, document_inside=1.0, joined=True)
    document = several([10, 8, 6])
    row = clean(document)
    assert len(row) == 30 == row_length(document)
    rng = np.random.default_rng(0)
    for _ in range(50):
        choice = objective.choose(document, vocabulary, rng)
        ((start, end),) = choice.spans
        assert choice.to_end and end == 30 and 15 <= end - start <= 28
        assert objective.build(document, vocabulary, choice).target_ids.tolist() == row[start:]


@pytest.mark.parametrize(("size", "last"), [(1, True), *itertools.product([2, 3, 4, 5], [True, False])])
def test_tiny_documents_always_have_an_answer(size: int, last: bool, vocabulary: Vocabulary) -> None:
    """Any level, any option; smaller documents, too, than the three tokens below which plans leave them out."""
    rng = np.random.default_rng(size)
    objectives = [
        Glm(length=8, **MIXTURE),
        Glm(length=8, document=9, document_ratio=1.0, document_inside=1.0),
        Glm(length=8, block_mask=0.5, context_mask=1.0, mask_ratio=1.0),
    ]
    for objective in objectives:
        for _ in range(100):
            example = objective.example(make_document(size, 2, last=last), vocabulary, rng)
            assert len(example.target_ids) >= 1
            assert example.input_ids[0] == CLS or (objective.context_mask and example.input_ids[0] == DBLOCK)


def test_block_mask_hides_inputs_only(vocabulary: Vocabulary) -> None:
    """Never [S], never Part A, never the answers; its share of the input tokens, token level only."""
    plain, hiding = Glm(token=1), Glm(token=1, block_mask=0.3)
    document = make_document(120)
    rng = np.random.default_rng(0)
    hidden = tokens = 0
    for seed in range(200):
        example = hiding.example(document, vocabulary, rng)
        assert filled(example, False) == clean(document)
        assert DBLOCK not in example.target_ids
        for _, inputs, answers in blanks(example):
            assert inputs[0] == SOP
            assert all(token in (DBLOCK, answer) for token, answer in zip(inputs[1:], answers[:-1], strict=True))
            hidden += inputs.count(DBLOCK)
            tokens += len(inputs) - 1
        same = plain.example(document, vocabulary, np.random.default_rng(seed))
        other = hiding.example(document, vocabulary, np.random.default_rng(seed))
        assert same.target_ids.tolist() == other.target_ids.tolist()
    assert abs(hidden / tokens - 0.3) < 4.5 * (0.3 * 0.7 / tokens) ** 0.5
    others = Glm(token=0, sentence=1, document=1, block_mask=0.9, context_mask=0.5)
    for _ in range(50):
        assert DBLOCK not in others.example(document, vocabulary, rng).input_ids


def test_context_mask_hides_tokens_beside_masks_and_at_the_end(vocabulary: Vocabulary) -> None:
    """int(.1 · 100) = 10 tokens of Part A (all of them, if fewer) at most three columns from a mask or among the last
    three, each as likely; masks stay."""
    objective = Glm(length=100, context_mask=0.1)
    document = make_document(98)
    rng = np.random.default_rng(0)
    sides, ends, seen = set(), 0, 0
    for _ in range(300):
        choice = objective.choose(document, vocabulary, rng)
        example = objective.build(document, vocabulary, choice)
        start = int(example.target_index[0])
        hidden = np.flatnonzero(example.input_ids == DBLOCK)
        masks = np.flatnonzero(example.input_ids[:start] == MASK)
        pool = candidates_of(masks.tolist(), start)
        assert len(hidden) == min(10, len(pool)) and set(hidden.tolist()) <= pool
        nearest = hidden[:, None] - masks[None, :]
        sides |= set(nearest[np.abs(nearest) <= 3].tolist())
        if start - masks.max() > 6:
            ends += int((hidden >= start - 3).sum())
            seen += round(3 * len(hidden) / len(pool), 4)
        without = objective.build(document, vocabulary, GlmChoice(choice.spans, choice.order))
        assert example.target_ids.tolist() == without.target_ids.tolist()
        assert filled(without, False) == clean(document)
    assert sides == {-3, -2, -1, 1, 2, 3}
    assert abs(ends - seen) < 4.5 * seen**0.5


def candidates_of(masks: list[int], end: int) -> set[int]:
    """What the released code may hide: of each stretch of text between masks (the row's beginning and end are no masks)
    the first three tokens, unless it begins the row, and the last three."""
    ids: set[int] = set()
    for begin, stop in itertools.pairwise([-1, *masks, end]):
        stretch = range(begin + 1, stop)
        ids |= set(stretch[-3:]) | (set(stretch[:3]) if begin >= 0 else set())
    return ids


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), room=st.integers(1, 60), seed=st.integers(0, 99))
def test_placing_spans(lengths: list[int], room: int, seed: int) -> None:
    """In order, a gap between two, inside the room; as many of the leading ones as fit."""
    spans = place_spans(lengths, room, np.random.default_rng(seed), offset=7)
    count = max(k for k in range(len(lengths) + 1) if sum(lengths[:k]) + max(0, k - 1) <= room)
    assert len(spans) == count == fitting(lengths, room, gaps=True)
    assert [end - begin for begin, end in spans] == lengths[:count]
    assert all(begin >= 7 and end <= 7 + room for begin, end in spans)
    assert all(before[1] + 1 <= after[0] for before, after in itertools.pairwise(spans))


def test_placing_by_hand() -> None:
    """Room 10, lengths 2, 3, 1: slack 10 - 6 - 2 = 2, draws 2 and 0 and 1 sorted to 0, 1, 2."""

    class Given:
        def integers(self, low: int, high: int, count: int) -> np.ndarray:
            assert (low, high, count) == (0, 3, 3)
            return np.array([2, 0, 1])

    assert place_spans([2, 3, 1], 10, Given()) == [(0, 2), (4, 7), (9, 10)]  # type: ignore[arg-type]


def test_where_spans_may_lie() -> None:
    """Columns: [CLS] at 0, 4 tokens, end, [CLS] at 6, 3 tokens; without an end token the last of them stays."""
    assert maskable(several([4, 3]), ordered=False) == [(1, 5), (7, 10)]
    assert maskable(several([4, 3], last=False), ordered=False) == [(1, 5), (7, 9)]
    assert maskable(several([4, 3])) == [(7, 10), (1, 5)]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"token": 0.0}, "one must not be 0"),
        ({"sentence": -1.0}, "objective.sentence is -1.0; it must not be negative"),
        ({"mean_span": 0.0}, "mean_span"),
        ({"document_ratio": 2.0}, "document_ratio"),
        ({"block_mask": -0.5}, "block_mask"),
    ],
)
def test_problems_are_told(options: dict, word: str) -> None:
    assert any(word in problem for problem in Glm(**options).problems())
    assert Glm().problems() == []
