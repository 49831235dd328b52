"""XLNet: rows, two streams, spans, blocks and memory, by hand and as properties."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.config.recipe import load_recipe
from blankfill.data.sampler import Sampler
from blankfill.errors import ConfigError
from blankfill.objectives import Xlnet
from blankfill.objectives.xlnet import LONGEST_SPAN, choose_spans, choose_words, draw_span, truncate_ends
from blankfill.types import MEMORY, QUERY, ROLES, Document, Example
from conftest import make_document, make_vocabulary, within, write_corpus

CLS, SEP, MASK = (ROLES.index(role) for role in ("cls", "sep", "mask"))
WIDE = make_vocabulary(800)
ROWS = 600


def pair(length_a: int, length_b: int) -> Document:
    """A: ids 20, 21, …; B: ids 400, 401, …"""
    ids = np.concatenate([20 + np.arange(length_a), 400 + np.arange(length_b)]).astype(np.int32)
    bounds = np.array([0, length_a, len(ids)], np.int32)
    return Document(ids, bounds, np.ones(len(ids), np.bool_), 0)


def content(example: Example) -> int:
    """How many columns are no query slots."""
    return len(example) - len(example.target_ids)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_a_row_and_its_two_streams(length_a: int, length_b: int, block: int, words: bool, seed: int) -> None:
    """[A, SEP, B, SEP, CLS] and its query columns; visibility follows from the targets and their order alone."""
    objective = Xlnet(64, permuted=(0, 8, 16, 32)[block], whole_word=words)
    document, rng = pair(length_a, length_b), np.random.default_rng(seed)
    choice = objective.choose(document, WIDE, rng)
    example = objective.build(document, WIDE, choice)
    L = content(example)
    row = example.input_ids[:L].tolist()
    assert L <= 64 and row[-2:] == [SEP, CLS]
    a, b = document.ids[slice(*choice.a)].tolist(), document.ids[slice(*choice.b)].tolist()
    assert row == [*a, SEP, *b, SEP, CLS]
    assert (example.input_ids[L:] == MASK).all()
    places, segments, streams = example.positions
    assert places[:L].tolist() == list(range(L)) and places[L:].tolist() == choice.targets.tolist()
    assert segments[:L].tolist() == [0] * (len(a) + 1) + [1] * (len(b) + 1) + [2]
    assert np.array_equal(segments[L:], segments[choice.targets])
    assert streams.tolist() == [0] * L + [QUERY] * (len(example) - L)
    assert example.target_ids.tolist() == [row[place] for place in choice.targets]
    assert not {SEP, CLS} & set(example.target_ids.tolist())
    budget = min(max(1, L // 6), L - 3)  # in the released code [SEP] and [CLS] may take from it
    assert len(choice.targets) == budget if words else max(1, budget - 3) <= len(choice.targets) <= budget

    visible = example.rule.visible()
    assert not visible[:, L:].any()  # nobody sees a slot
    blocks = np.zeros(L, int)
    for k, (low, high) in enumerate(objective._blocks(L)):
        blocks[low:high] = k
        assert sorted(choice.order[low:high]) == list(range(high - low))
    is_target, framed = np.isin(np.arange(L), choice.targets), np.isin(row, (SEP, CLS))
    for i in range(L):
        for j in range(L):
            if blocks[i] != blocks[j]:
                expected = blocks[i] > blocks[j]
            elif not (is_target[j] or framed[j]):
                expected = True
            else:
                expected = (is_target[i] or framed[i]) and choice.order[j] <= choice.order[i]
            assert visible[i, j] == expected
    for slot, i in enumerate(choice.targets):  # the query stream sees the same, less the word itself
        assert np.array_equal(np.flatnonzero(visible[L + slot]), np.setdiff1d(np.flatnonzero(visible[i]), [i]))


def test_a_single_segment() -> None:
    objective = Xlnet(32, pairs=False)
    document = make_document(20, words=np.ones(20, np.bool_))
    example = objective.example(document, WIDE, np.random.default_rng(0))
    L = content(example)
    assert example.input_ids[:L].tolist() == [*document.ids.tolist(), SEP, CLS]
    assert example.positions[1, :L].tolist() == [0] * 21 + [2]
    assert objective.labels() == () and len(example.labels) == 0


@pytest.mark.parametrize("words", [False, True])
def test_shares_and_uniform_places(words: bool) -> None:
    """A sixth of the row (whole words: exactly), every word's place about as often as any other."""
    objective, document, rng = Xlnet(128, whole_word=words), pair(70, 55), np.random.default_rng(1)
    counts = np.zeros(128)
    for _ in range(ROWS):
        targets = objective.choose(document, WIDE, rng).targets
        assert len(targets) == 128 // 6 or (not words and 128 // 6 - 3 <= len(targets) < 128 // 6)
        counts[targets] += 1
    assert counts[[70, 126, 127]].tolist() == [0, 0, 0]
    share = counts.sum() / ROWS / 125
    # a context before each span keeps the first places a little rarer, and the filling up the last ones
    assert abs(counts[10:60].mean() / ROWS - share) < 0.02 and abs(counts[75:120].mean() / ROWS - share) < 0.02


def test_spans_follow_one_over_n() -> None:
    """Lengths 1 to 5 in the proportions 60, 30, 20, 15, 12 of 137; the context before is uniform on 6·n places."""
    rng, draws = np.random.default_rng(2), 20_000
    drawn = np.array([draw_span(6, rng) for _ in range(draws)])
    for units, share in zip(range(1, LONGEST_SPAN + 1), np.array([60, 30, 20, 15, 12]) / 137, strict=True):
        before = drawn[drawn[:, 0] == units, 1]
        assert within(len(before) / draws, share, draws)
        assert (before.min(), before.max()) == (0, 6 * units - 1)
        assert within(before.mean(), (6 * units - 1) / 2, len(before), 6 * units / 12**0.5)


def drawn(*spans: tuple[int, int]) -> Callable[[int], tuple[int, int]]:
    """Draws that are given, cut to the budget that is left."""
    left = iter(spans)

    def draw(most: int) -> tuple[int, int]:
        size, before = next(left)
        return min(size, most), before

    return draw


def test_spans_are_those_of_the_released_code_worked_by_hand() -> None:
    """30 tokens, words at 0 1 3 5 6 8 10 12 …; (2, 4): two tokens from the word after 4, 5, then 8 more of the
    context; (1, 3): one token from the word at 15 + 3, 18."""
    starts = np.zeros(30, np.bool_)
    starts[[0, 1, 3, 5, *range(6, 30, 2)]] = True
    assert np.flatnonzero(choose_spans(starts, 3, 6, drawn((2, 4), (1, 3)))).tolist() == [5, 6, 18]
    cut = choose_spans(starts, 4, 6, drawn((2, 4), (5, 3)))  # clipped to the two that are left
    assert np.flatnonzero(cut).tolist() == [5, 6, 18, 19]
    ends = choose_spans(starts, 9, 6, drawn((2, 4), (5, 12)))  # [28, 33) does not end before 30
    assert np.flatnonzero(ends).tolist() == [5, 6]


def walked(starts: list[bool], budget: int, spread: int, spans: list[tuple[int, int]]) -> list[int]:
    """The same token by token, as the paper's authors do it."""
    at, taken = 0, []
    for size, before in spans:
        if at >= len(starts) or len(taken) >= budget:
            break
        size = min(size, budget - len(taken))
        begin = at + before % (spread * size)
        while begin < len(starts) and not starts[begin]:
            begin += 1
        if begin >= len(starts) or begin + size >= len(starts):
            break
        taken += range(begin, begin + size)
        at = begin + size + spread * size - before % (spread * size)
    return taken


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 200)), min_size=60, max_size=60),
)
def test_spans_are_those_of_a_walk(starts: list[bool], budget: int, spread: int, spans: list[tuple[int, int]]) -> None:
    left = iter(spans)

    def draw(most: int) -> tuple[int, int]:
        size, before = next(left)
        return min(size, most), before % (spread * min(size, most))

    result = choose_spans(np.array(starts), budget, spread, draw)
    assert np.flatnonzero(result).tolist() == walked(starts, budget, spread, spans)


def test_what_is_drawn_begins_with_a_word_and_may_hit_the_frame() -> None:
    """Words of three tokens: spans begin with one, so a first token is a target more often than a third one; and now
    and then the budget goes to [SEP] or [CLS]."""
    document, rng = pair(70, 55), np.random.default_rng(6)
    assert document.words is not None
    document.words[:] = False
    document.words[[*range(0, 70, 3), *range(70, 125, 3)]] = True
    objective, counts, lost = Xlnet(128), np.zeros(128), 0
    for _ in range(ROWS):
        choice = objective.choose(document, WIDE, rng)
        counts[choice.targets] += 1
        lost += 128 // 6 - len(choice.targets)
    first, second, third = (counts[k:69:3].sum() for k in range(3))
    assert first > 1.5 * second > 1.5 * third  # by the lengths alone 164 : 89 : 47
    assert 0 < lost < 3 * ROWS
    unknown = Document(document.ids, document.sentences, None, 0)  # word starts are unknown: spans begin anywhere
    assert len(objective.choose(unknown, WIDE, rng).targets) > 15


def test_rows_are_cut_at_their_ends_and_none_is_short() -> None:
    """The longer run loses its end, B on a tie; there are no short rows."""
    assert (
        truncate_ends(70, 60, 100) == (50, 50) and truncate_ends(5, 7, 9) == (5, 4) and truncate_ends(3, 4, 9) == (3, 4)
    )
    choice = Xlnet(64).choose(pair(50, 40), WIDE, np.random.default_rng(0))
    assert (choice.a, choice.b) == ((0, 31), (50, 80))
    assert Xlnet(64).packing().short == 0.0


@pytest.mark.parametrize("words", [1, 2, 3])
def test_whole_words_are_asked_for_whole(words: int) -> None:
    """Spans begin and end where words do; only what is filled up at the end may be parts of words."""
    starts = np.zeros(240, np.bool_)
    starts[::words] = True
    rng, broken, total = np.random.default_rng(3), 0, 0
    for _ in range(50):
        chosen = choose_words(starts, np.ones(240, np.bool_), 40, 6, rng).reshape(-1, words)
        assert chosen.sum() == 40
        broken += int((chosen.any(1) & ~chosen.all(1)).sum())
        total += int(chosen.any(1).sum())
    assert broken <= 0.25 * total and (words > 1 or broken == 0)


def test_orders_are_uniform() -> None:
    """Each target comes first as often as any other."""
    objective, document, rng = Xlnet(24), pair(12, 9), np.random.default_rng(4)
    before, draws = 0, 0
    for _ in range(3 * ROWS):
        choice = objective.choose(document, WIDE, rng)
        first, second = choice.order[choice.targets[:2]]
        before += int(first < second)
        draws += 1
    assert within(before / draws, 0.5, draws)


def test_budgets_of_blocks_are_those_of_the_released_code() -> None:
    """85 of 512, 43 of them in the first half and 42 in the second."""
    objective = Xlnet(512, permuted=256)
    choice = objective.choose(pair(300, 209), make_vocabulary(800), np.random.default_rng(5))
    assert [int((choice.targets < 256).sum()), int((choice.targets >= 256).sum())] == [43, 42]
    assert objective._blocks(512) == [(0, 256), (256, 512)] and objective._blocks(300) == [(0, 300)]
    assert objective._blocks(400) == [(0, 256), (256, 400)]


def test_memory_is_the_end_of_the_piece_before(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A document of 100 tokens in rows of 30 with 12 remembered: every token is read once, and remembered once more."""
    corpus = write_corpus(tmp_path / "c", [[10] * 10])
    vocabulary = make_vocabulary(200)
    objective = Xlnet(30, pairs=False, memory=12, whole_word=False)
    sampler = Sampler(corpus, objective, vocabulary, 0)
    examples = [example for row in range(sampler.rows_in_epoch(0)) for example in sampler.row(row)]
    read: list[int] = []
    for example in sorted(examples, key=lambda example_of_piece: int(example_of_piece.input_ids[0])):
        places, _, streams = example.positions
        remembered, L = int((streams == MEMORY).sum()), content(example)
        assert remembered == (12 if read else 0)
        assert example.input_ids[:remembered].tolist() == (read[-12:] if read else [])
        assert places[:L].tolist() == list(range(L)) and L <= 42 == objective.position_sizes()[0]
        assert example.target_index.min() >= L
        assert places[example.target_index].min() >= remembered
        visible = example.rule.visible()
        assert visible[:remembered, :remembered].all() and not visible[:remembered, remembered:].any()
        assert visible[:, :remembered].all()
        new = example.input_ids[remembered : L - 2].tolist()
        read += new
    assert read == corpus.tokens[:].tolist()


def test_bad_options_are_refused() -> None:
    for option, value, message in [
        ("share", 0.0, "must be above 0"), ("permuted", 3, "0 or at least 8"), ("memory", -1, "must not be negative"),
        ("memory", 8, "turn objective.pairs off"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load_recipe("xlnet-nano", {f"objective.{option}": value})
        assert message in str(caught.value)
    document = make_document(20)
    with pytest.raises(ValueError, match="need word starts"):
        Xlnet(32, pairs=False, whole_word=True).choose(document, WIDE, np.random.default_rng(0))
