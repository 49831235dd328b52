"""T5's rows: spans behind sentinels, and the variants of the paper."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.objectives import T5
from blankfill.objectives.t5 import SENTINELS, T5Choice, random_spans, run_begins, span_counts
from blankfill.types import ROLES, Document, Example, Vocabulary
from conftest import make_document, make_vocabulary, within, write_corpus

PAD, EOS = ROLES.index("pad"), ROLES.index("eos")
SIZE = 64 + SENTINELS
ROWS = 1000


@pytest.fixture(scope="module")
def marked() -> Vocabulary:
    """The vocabulary of the tests and 100 sentinels behind it, the first one last."""
    sentinels = tuple(reversed(range(64, SIZE)))
    plain = make_vocabulary(SIZE)
    return dataclasses.replace(plain, special=plain.special | set(sentinels), sentinels=sentinels)


def sides(example: Example) -> tuple[list[int], list[int]]:
    """What is read and what is written, without the end tokens that close both."""
    assert example.context is not None
    read, written = example.context.input_ids.tolist(), example.target_ids.tolist()
    assert read.pop() == EOS
    assert written.pop() == EOS
    return read, written


def runs(ids: list[int], vocabulary: Vocabulary) -> dict[int, list[int]]:
    """The tokens after each sentinel."""
    runs_of: dict[int, list[int]] = {}
    at: list[int] = []
    for number in ids:
        if number in vocabulary.sentinels:
            at = runs_of.setdefault(number, [])
        else:
            at.append(number)
    return runs_of


@given(size=st.integers(2, 300), ratio=st.floats(0.01, 0.9), mean=st.floats(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_both_sides_give_the_text_back(marked: Vocabulary, size: int, ratio: float, mean: float, seed: int) -> None:
    objective = T5(length=600, mask_ratio=ratio, mean_span=mean)
    vocabulary = dataclasses.replace(marked, sentinels=tuple(range(10**6, 10**6 - 300, -1)))
    document = make_document(size)
    example = objective.example(document, vocabulary, np.random.default_rng(seed))
    read, written = sides(example)
    answers = runs(written, vocabulary)
    noise, spans = span_counts(size, ratio, mean)
    assert list(answers) == list(vocabulary.sentinels[:spans])
    assert sum(map(len, answers.values())) == noise
    assert all(answers.values())
    assert [number for number in read if number in answers] == list(answers)
    whole = [part for number in read for part in answers.get(number, [number])]
    assert whole == document.ids.tolist()
    assert read[-1] == vocabulary.sentinels[spans - 1]
    assert read[0] == document.ids[0]


def test_the_decoder_reads_what_was_written_before(marked: Vocabulary) -> None:
    example = T5(length=64).example(make_document(70), marked, np.random.default_rng(0))
    assert example.context is not None
    assert example.input_ids[0] == PAD
    assert example.input_ids[1:].tolist() == example.target_ids[:-1].tolist()
    assert example.target_index.tolist() == list(range(len(example)))
    assert example.positions.tolist() == [list(range(len(example)))]
    assert (example.rule.visible() == np.tri(len(example), dtype=bool)).all()
    assert example.context.rule.visible().all()
    assert example.context.positions.tolist() == [list(range(len(example.context)))]
    assert len(example.context.target_index) == 0


def test_rows_of_a_corpus_are_full(tmp_path: Any, marked: Vocabulary) -> None:
    """Every row but the last has the requested length, whatever is drawn; no token of the text is lost."""
    corpus = write_corpus(tmp_path / "text", [[9] * (3 + k % 5) for k in range(40)])
    vocabulary = dataclasses.replace(marked, size=10**6, sentinels=tuple(range(10**5, 10**5 - 100, -1)))
    objective = T5(length=64)
    sampler = Sampler(corpus, objective, vocabulary, 0)
    rows = [sampler.row(i) for i in range(sampler.rows_in_epoch(0))]
    assert {len(row) for row in rows} == {1}
    lengths = sorted((len(row[0].context or ()), len(row[0])) for row in rows)
    assert set(lengths[1:]) == {(64, objective.answer_length())}
    assert lengths[0] <= lengths[1]
    ordinary = [n for [row] in rows for part in sides(row) for n in part if n not in vocabulary.sentinels]
    assert sorted(ordinary) == sorted(np.asarray(corpus.tokens).tolist())


def test_spans_are_cut_in_all_ways_equally_often() -> None:
    """7 blanked tokens in 3 spans: 15 ways; 5 kept ones in 3 runs: 6 ways; both drawn apart."""
    rng = np.random.default_rng(1)
    draws = 90 * ROWS // 10
    counts: dict[bytes, int] = {}
    for _ in range(draws):
        noise = random_spans(12, 7 / 12, 7 / 3, rng)
        assert noise.sum() == 7
        assert run_begins(noise).sum() == 3
        assert noise[-1] and not noise[0]
        counts[noise.tobytes()] = counts.get(noise.tobytes(), 0) + 1
    assert len(counts) == 90
    # 90 shares are looked at, so that one of them in 1,700 such tests would be refused
    assert all(within(count / draws, 1 / 90, draws) for count in counts.values())


@pytest.mark.parametrize(("length", "ratio", "mean", "raw", "written"), [
    (512, 0.15, 3.0, 568, 114), (512, 0.5, 3.0, 766, 512), (128, 0.5, 3.0, 190, 128), (114, 0.5, 3.0, 170, 114),
    (172, 0.15, 3.0, 190, 40), (165, 0.15, 10.0, 189, 32),
])  # fmt: skip
def test_texts_are_cut_as_in_the_released_code(length: int, ratio: float, mean: float, raw: int, written: int) -> None:
    """Worked with its formulas: planned in float64 (165: 189 · 0.15 = 28.35 and 190 · 0.15 = 28.5 are both 28), drawn
    in float32; at a density of a half, one token less where the answers would be longer than the row."""
    objective = T5(length, mask_ratio=ratio, mean_span=mean)
    assert (objective.raw_length(), objective.answer_length()) == (raw, written)


@pytest.mark.parametrize(("size", "noise", "spans"), [
    (190, 29, 10), (350, 53, 18), (10, 2, 1), (30, 4, 1), (70, 10, 3), (568, 85, 28), (2, 1, 1),
])  # fmt: skip
def test_halves_round_in_float32(size: int, noise: int, spans: int) -> None:
    """0.15 is a little more in float32, so that 28.5 and 52.5 are above the half and 4.5 and 10.5 are still on it."""
    assert span_counts(size, 0.15, 3.0) == (noise, spans)
    assert random_spans(size, 0.15, 3.0, np.random.default_rng(0)).sum() == noise


@given(st.integers(8, 700), st.floats(0.01, 0.9), st.floats(1, 9))
@settings(max_examples=200)
def test_no_row_is_longer_than_asked(length: int, ratio: float, mean: float) -> None:
    objective = T5(length, mask_ratio=ratio, mean_span=mean)
    raw = objective.raw_length()
    noise, spans = span_counts(raw, ratio, mean)
    assert raw - noise + spans + 1 <= length
    assert objective.answer_length() == noise + spans + 1


def test_shares_and_span_lengths_of_a_usual_row(marked: Vocabulary) -> None:
    objective, rng = T5(), np.random.default_rng(2)
    document = make_document(objective.raw_length())
    sizes = []
    for _ in range(ROWS // 10):
        choice = objective.choose(document, marked, rng)
        assert (choice.noise.sum(), run_begins(choice.noise).sum()) == (85, 28)
        sizes += [len(span) for span in runs(sides(objective.build(document, marked, choice))[1], marked).values()]
    assert np.mean(sizes) == 85 / 28
    # one of 28 spans of 85 tokens is 1 long with a chance of 27 in 84: its only token must be followed by a cut
    assert within(float(np.mean(np.array(sizes) == 1)), 27 / 84, len(sizes))


def test_prefix_lm_cuts_once(marked: Vocabulary) -> None:
    objective, rng = T5(variant="prefix-lm", length=16), np.random.default_rng(3)
    document = make_document(11)
    read = []
    for _ in range(ROWS):
        first, second = sides(objective.example(document, marked, rng))
        assert first + second == document.ids.tolist()
        read.append(len(first))
    assert (min(read), max(read)) == (1, 10)
    assert all(within(float(np.mean(np.array(read) == n)), 0.1, ROWS) for n in range(1, 11))


def test_bert_and_mass_write_the_whole_text(marked: Vocabulary) -> None:
    rng = np.random.default_rng(4)
    document = make_document(120)
    for variant, random_share in (("bert", 0.1), ("mass", 0.0)):
        objective = T5(variant=variant, length=128)  # type: ignore[arg-type]
        blanks = changed = 0
        for _ in range(ROWS // 10):
            read, written = sides(objective.example(document, marked, rng))
            assert written == document.ids.tolist()
            assert len(read) == len(written)
            blanks += read.count(marked.sentinels[0])
            changed += sum(a != b and a != marked.sentinels[0] for a, b in zip(read, written, strict=True))
        draws = 120 * ROWS // 10
        assert within(blanks / draws, 0.15 * (1 - random_share * (SIZE - 1) / SIZE), draws)
        assert within(changed / draws, 0.15 * random_share * (SIZE - 2) / SIZE, draws)


def test_drop_leaves_no_mark(marked: Vocabulary) -> None:
    objective, rng = T5(variant="drop", length=128), np.random.default_rng(5)
    document = Document(np.arange(20, 140).astype(np.int32) % 10**6, np.array([0, 120], np.int32))
    dropped = 0
    for _ in range(ROWS // 10):
        read, written = sides(objective.example(document, marked, rng))
        assert sorted(read + written) == document.ids.tolist()
        assert read == sorted(read)
        assert written == sorted(written)
        dropped += len(written)
    assert within(dropped / (120 * ROWS // 10), 0.15, 120 * ROWS // 10)


def test_deshuffling_asks_for_the_order(marked: Vocabulary) -> None:
    objective, rng = T5(variant="deshuffle", length=16), np.random.default_rng(6)
    document = make_document(10)
    firsts = []
    for _ in range(ROWS):
        read, written = sides(objective.example(document, marked, rng))
        assert written == document.ids.tolist()
        assert sorted(read) == sorted(written)
        firsts.append(read[0])
    assert all(within(firsts.count(number) / ROWS, 0.1, ROWS) for number in document.ids.tolist())


def test_iid_gives_each_run_its_sentinel(marked: Vocabulary) -> None:
    """Both sides take turns: where one has a sentinel the other has text; together they are the text."""
    objective, rng = T5(variant="iid", length=128), np.random.default_rng(7)
    document = make_document(127)
    blanks = 0
    for _ in range(ROWS // 10):
        choice = objective.choose(document, marked, rng)
        blanks += int(choice.noise.sum())
        read, written = sides(objective.build(document, marked, choice))
        pieces: list[list[list[int]]] = []
        for row in (read, written):
            edges = [k for k, number in enumerate(row) if number in marked.sentinels]
            assert [row[k] for k in edges] == list(marked.sentinels[: len(edges)])
            bounds = [-1, *edges, len(row)]
            pieces.append([row[a + 1 : b] for a, b in itertools.pairwise(bounds)])
        texts = [[part for part in side if part] for side in pieces]
        order = texts if not choice.noise[0] else texts[::-1]
        whole = [number for k in range(sum(map(len, texts))) for number in order[k % 2][k // 2]]
        assert whole == document.ids.tolist()
    assert within(blanks / (127 * ROWS // 10), 0.15, 127 * ROWS // 10)


def test_runs_beyond_the_sentinels_stay_as_they_are(marked: Vocabulary) -> None:
    few = dataclasses.replace(marked, sentinels=marked.sentinels[:4])
    document = make_document(200)
    objective = T5(variant="iid", length=256, mask_ratio=0.3)
    read, written = sides(objective.example(document, few, np.random.default_rng(8)))
    assert [number for number in read if number in few.sentinels] == list(few.sentinels[:3])
    assert [number for number in written if number in few.sentinels][:3] == list(few.sentinels[:3])
    assert set(read) <= {*document.ids.tolist(), *few.sentinels}


def test_how_many_sentinels_are_needed() -> None:
    assert T5().sentinels() == 100
    assert T5(variant="drop").sentinels() == 100
    long = T5(length=4096)
    noise, spans = span_counts(long.raw_length(), 0.15, 3)
    assert long.sentinels() == spans == round(noise / 3) > 200
    assert T5(variant="iid", length=1024).sentinels() > 1023 * 0.15 * 0.85


def test_too_few_sentinels_are_told(marked: Vocabulary) -> None:
    few = dataclasses.replace(marked, sentinels=marked.sentinels[:2])
    choice = T5Choice(np.arange(12) % 3 == 1)
    with pytest.raises(
        UserError, match=r"needs 4 sentinels \(<extra_id_0>, …\) and the tokenizer has 2; take a shorter"
    ):
        T5().build(make_document(12), few, choice)


def test_one_token_is_kept(marked: Vocabulary) -> None:
    read, written = sides(T5().example(make_document(1), marked, np.random.default_rng(0)))
    assert len(read) == 1
    assert written == [marked.sentinels[0]]


def test_options_that_cannot_be() -> None:
    assert T5().problems() == []
    for ratio in (0.0, 0.91, 1.0, math.nan):
        assert f"objective.mask_ratio is {ratio}; it must be above 0 and at most 0.9" in T5(mask_ratio=ratio).problems()
        assert T5(mask_ratio=ratio).position_sizes() == (512,)
    for mean in (0.5, 0.0, math.nan):
        assert T5(mean_span=mean).problems() and T5(mean_span=mean).position_sizes() == (512,)
    assert "objective.mean_span is 0.5; it must be at least 1" in T5(mean_span=0.5).problems()
    assert "objective.random_share is 2; it must be between 0 and 1" in T5(random_share=2).problems()
    assert "objective.length is 4; it must be at least 8" in T5(length=4).problems()
    assert T5().position_sizes() == (512,)
    assert T5(mask_ratio=0.8).position_sizes()[0] > 512
