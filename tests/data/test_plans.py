"""Plans against slow, plain versions of the same algorithms, and what must hold for any corpus."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.data.plans import FIRST, LAST, RANDOM_NEXT, Plan, make_plan
from blankfill.objectives import Bert, Glm, Gpt, Mlm, PackingSpec

Documents = list[list[int]]
"""A corpus given as the lengths of the sentences of its documents."""


@dataclass
class Flat:
    """All that a plan sees of a corpus."""

    sentence_starts: np.ndarray
    document_starts: np.ndarray

    @classmethod
    def of(cls, documents: Documents) -> Flat:
        lengths = [length for document in documents for length in document]
        return cls(np.cumsum([0, *lengths]), np.cumsum([0, *(len(document) for document in documents)]))


def tokens_of(documents: Documents) -> list[list[list[int]]]:
    """The same corpus as documents of sentences of token numbers, empty sentences left out."""
    number = itertools.count()
    return [[[next(number) for _ in range(length)] for length in document if length] for document in documents]


def in_drawn_order(documents: Documents, rng: np.random.Generator) -> list[list[list[int]]]:
    """Non-empty documents, in the order that a plan draws first of all."""
    ids_of = tokens_of(documents)
    return [ids_of[d] for d in rng.permutation([d for d, document in enumerate(ids_of) if document])]


def rows_of(plan: Plan) -> list[list[tuple[int, ...]]]:
    """The rows as they were laid out, before they were shuffled."""
    return [[tuple(chunk) for chunk in plan.chunks[a:b].tolist()] for a, b in itertools.pairwise(plan.rows)]


CORPORA = st.lists(st.lists(st.integers(0, 12), max_size=9), min_size=1, max_size=12).filter(
    lambda documents: any(map(sum, documents))
)
SEEDS = st.integers(0, 999)


def slow_cut(document: list[list[int]], spec: PackingSpec, room: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Chunks of one document and their stream tokens: `room` at a time, `overlap` of them again."""
    stream = [None] * spec.before + list(itertools.chain(*document)) + [None] * spec.after
    low = 0
    while True:
        high = min(low + room, len(stream))
        inside = [token for token in stream[low:high] if token is not None]
        if len(inside) >= max(1, spec.min_tokens - spec.before - spec.after):
            flags = (FIRST if low == 0 else 0) | (LAST if high == len(stream) else 0)
            yield (inside[0], inside[-1] + 1, 0, 0, flags), high - low
        if high == len(stream):
            return
        low = high - spec.overlap


def slow_cut_of_sentences(document: list[list[int]], spec: PackingSpec, room: int) -> Iterator[tuple[tuple, int]]:
    """Whole sentences while they fit; a sentence that fits nowhere is cut itself."""
    left = [list(sentence) for sentence in document]
    first = True
    while left:
        chunk: list[int] = []
        while left and len(chunk) + len(left[0]) <= room:
            chunk += left.pop(0)
        if not chunk:
            chunk, left[0] = left[0][:room], left[0][room:]
        flags = (FIRST if first else 0) | (0 if left else LAST)
        yield (chunk[0], chunk[-1] + 1, 0, 0, flags), len(chunk)
        first = False


def slow_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """What is left free in each row, sorted, when each chunk goes to the fullest row that holds it."""
    free: list[int] = []
    for size in sizes:
        fitting = [k for k, left in enumerate(free) if left >= size]
        if fitting:
            free[min(fitting, key=free.__getitem__)] -= size
        else:
            free.append(capacity - size)
    return sorted(free)


SPECS = {
    "gpt": Gpt(length=8).packing(),
    "glm": Glm(length=12).packing(),
    "glm short": Glm(length=12, short=0.5).packing(),
    "glm joined": Glm(length=12, joined=True).packing(),
    "joined short": PackingSpec(
        "chunks", 11, chunk_overhead=1, after=1, merge_chunks=True, short=0.6, short_min=3, min_tokens=4
    ),
    "odd": PackingSpec("chunks", 5, before=2, after=3, overlap=2, min_tokens=3, short=0.4, short_min=3),
    "bert": Bert(length=10, next_sentence=False, short=0.4).packing(),
    "mlm": Mlm(length=9, across_documents=False).packing(),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@given(documents=CORPORA, seed=SEEDS)
@settings(max_examples=40)
def test_chunks_and_best_fit(spec: PackingSpec, documents: Documents, seed: int) -> None:
    """The chunks of the slow version, each in one row; the rows as full as the slow best fit makes them."""
    plan = make_plan(Flat.of(documents), spec, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    ordered = in_drawn_order(documents, rng)
    rooms = np.full(len(ordered), spec.max_tokens)
    is_short = rng.random(len(ordered)) < spec.short
    rooms[is_short] = rng.integers(min(spec.short_min, spec.max_tokens), spec.max_tokens + 1, is_short.sum())
    cut: Callable = slow_cut_of_sentences if spec.whole_sentences else slow_cut
    expected = [piece for document, room in zip(ordered, rooms, strict=True) for piece in cut(document, spec, room)]
    assert sorted(map(tuple, plan.chunks.tolist())) == sorted(chunk for chunk, _ in expected)
    capacity = spec.row_tokens - spec.row_overhead
    sizes = {chunk: size + spec.chunk_overhead for chunk, size in expected}
    free = []
    for row in rows_of(plan):
        used = sum(sizes[chunk] for chunk in row)
        if spec.merge_chunks:
            used += sum(spec.after for chunk in row[:-1] if not chunk[4] & LAST)
        assert row and used <= capacity
        free.append(capacity - used)
    if not spec.merge_chunks:
        assert sorted(free) == slow_best_fit([sizes[chunk] for chunk, _ in expected], capacity)
    assert sorted(plan.order.tolist()) == list(range(len(free)))


@given(documents=CORPORA, seed=SEEDS, whole=st.booleans())
@settings(max_examples=60)
def test_every_token_is_in_one_piece(documents: Documents, seed: int, whole: bool) -> None:
    """For the units without overlap; GLM leaves out the ends of documents below three tokens, and nothing else."""
    flat = Flat.of(documents)
    total = int(flat.sentence_starts[-1])
    specs = [Bert(length=11, next_sentence=False).packing(), Mlm(length=11, across_documents=whole).packing()]
    for spec in specs:
        counts = np.zeros(total, np.int64)
        for begin, end, *_ in make_plan(flat, spec, np.random.default_rng(seed)).chunks.tolist():
            counts[begin:end] += 1
        assert (counts == 1).all()
    counts = np.zeros(total, np.int64)
    for begin, end, *_ in make_plan(flat, Glm(length=11).packing(), np.random.default_rng(seed)).chunks.tolist():
        counts[begin:end] += 1
    left_out = [size % 10 if size % 10 < 3 else 0 for document in documents for size in [sum(document)]]
    assert counts.max(initial=0) <= 1 and (counts == 0).sum() == sum(left_out)


@given(documents=CORPORA, seed=SEEDS, length=st.integers(8, 20))
@settings(max_examples=60)
def test_the_stream(documents: Documents, seed: int, length: int) -> None:
    """Documents end to end in the drawn order, an end token after each, cut every `length`, one token shared."""
    spec = Gpt(length=length, documents="stream").packing()
    plan = make_plan(Flat.of(documents), spec, np.random.default_rng(seed))
    stream: list[tuple[int, int | None]] = []
    for number, document in enumerate(in_drawn_order(documents, np.random.default_rng(seed))):
        stream += [(number, token) for token in itertools.chain(*document)] + [(number, None)]
    expected = []
    for low in range(0, len(stream) - 1, length):
        row = []
        for number, group in itertools.groupby(stream[low : low + length + 1], lambda entry: entry[0]):
            taken = [token for _, token in group]
            words = [token for token in taken if token is not None]
            whole = [token for d, token in stream if d == number and token is not None]
            ends = taken[-1] is None
            begin = words[0] if words else whole[-1] + 1
            flags = (FIRST if begin == whole[0] else 0) | (LAST if ends else 0)
            row.append((begin, begin + len(words), 0, 0, flags))
        expected.append(row)
    assert rows_of(plan) == expected


@given(documents=CORPORA, seed=SEEDS, length=st.integers(8, 20))
@settings(max_examples=60)
def test_full_sentences(documents: Documents, seed: int, length: int) -> None:
    """Sentence by sentence: it joins the row if it fits with its [SEP]; one that fills a fresh row alone is cut."""
    plan = make_plan(Flat.of(documents), Mlm(length=length).packing(), np.random.default_rng(seed))
    expected: list[list[list[int]]] = []
    row: list[list[int]] = []

    def used() -> int:
        return 1 + sum(len(part) + 1 for part in row)

    def close() -> None:
        nonlocal row
        expected.append(row)
        row = []

    for document in in_drawn_order(documents, np.random.default_rng(seed)):
        goes_on = False
        for sentence in document:
            if row and used() + len(sentence) + (0 if goes_on else 1) > length:
                close()
                goes_on = False
            while not row and len(sentence) > length - 2:
                row = [sentence[: length - 2]]
                sentence = sentence[length - 2 :]
                close()
            if goes_on:
                row[-1] += sentence
            else:
                row.append(list(sentence))
            goes_on = True
    if row:
        close()
    results = [[list(range(chunk[0], chunk[1])) for chunk in chunks] for chunks in rows_of(plan)]
    assert results == expected
    assert all(2 + sum(len(part) + 1 for part in row) - 1 <= length for row in results)


@given(documents=CORPORA, seed=SEEDS)
@settings(max_examples=60)
def test_chunks_end_where_sentences_end(documents: Documents, seed: int) -> None:
    flat = Flat.of(documents)
    starts = set(flat.sentence_starts.tolist())
    for spec in (Mlm(length=10).packing(), Bert(length=10, next_sentence=False, short=0.0).packing()):
        for begin, end, _, _, flags in make_plan(flat, spec, np.random.default_rng(seed)).chunks.tolist():
            assert end - begin <= spec.max_tokens
            assert end in starts or end - begin == spec.max_tokens
            assert not flags & LAST or end in flat.sentence_starts[flat.document_starts]
            assert not flags & FIRST or begin in flat.sentence_starts[flat.document_starts]


def original_pairs(documents: list[list[list[int]]], spec: PackingSpec, draw: Callable[[], float]) -> Iterator[tuple]:
    """create_instances_from_document of google-research/bert, its randint fed by uniform draws."""

    def randint(low: int, high: int) -> int:
        return low + int(draw() * (high - low + 1))

    for index, document in enumerate(documents):
        target = spec.max_tokens
        if draw() < spec.short:
            target = randint(2, spec.max_tokens)
        chunk: list[list[int]] = []
        i = 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                a_end = randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                tokens_a = list(itertools.chain(*chunk[:a_end]))
                tokens_b: list[int] = []
                is_random = len(chunk) == 1 or draw() < 0.5
                if is_random:
                    wanted = target - len(tokens_a)
                    other = index
                    for _ in range(10):
                        other = randint(0, len(documents) - 1)
                        if other != index:
                            break
                    start = randint(0, len(documents[other]) - 1)
                    for sentence in documents[other][start:]:
                        tokens_b += sentence
                        if len(tokens_b) >= wanted:
                            break
                    i -= len(chunk) - a_end
                else:
                    tokens_b = list(itertools.chain(*chunk[a_end:]))
                yield tokens_a, tokens_b, is_random
                chunk = []
            i += 1


@given(documents=CORPORA, seed=SEEDS, length=st.integers(8, 40), short=st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=150)
def test_pairs_are_those_of_the_original(documents: Documents, seed: int, length: int, short: float) -> None:
    spec = Bert(length=length, short=short).packing()
    plan = make_plan(Flat.of(documents), spec, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    expected = [
        (a[0], a[-1] + 1, b[0], b[-1] + 1, RANDOM_NEXT if is_random else 0)
        for a, b, is_random in original_pairs(in_drawn_order(documents, rng), spec, rng.random)
    ]
    assert sorted(map(tuple, plan.chunks.tolist())) == sorted(expected)
    sizes = {chunk: min(chunk[1] - chunk[0] + chunk[3] - chunk[2], length - 3) + 3 for chunk in expected}
    assert all(sum(sizes[chunk] for chunk in row) <= length for row in rows_of(plan))


@given(documents=CORPORA, seed=SEEDS, length=st.integers(8, 40))
@settings(max_examples=60)
def test_pairs_use_every_token(documents: Documents, seed: int, length: int) -> None:
    """Without random second parts, A and B together are the corpus once; random ones come from other documents."""
    flat = Flat.of(documents)
    bounds = flat.sentence_starts[flat.document_starts]
    several = sum(sum(document) > 0 for document in documents) >= 4
    counts = np.zeros(int(flat.sentence_starts[-1]), np.int64)
    chunks = make_plan(flat, Bert(length=length).packing(), np.random.default_rng(seed)).chunks.tolist()
    same = 0
    for begin, end, begin_b, end_b, flags in chunks:
        assert {begin, end, begin_b, end_b} <= set(flat.sentence_starts.tolist()) and begin < end and begin_b < end_b
        counts[begin:end] += 1
        document, other = np.searchsorted(bounds, [begin, begin_b], side="right")
        if flags == RANDOM_NEXT:
            same += bool(document == other)
        else:
            assert begin_b == end and document == other
            counts[begin_b:end_b] += 1
    assert (counts == 1).all()
    # With four documents ten tries miss one time in a million; one document alone has no other.
    assert not several or same == 0
    if sum(sum(document) > 0 for document in documents) == 1:
        assert same == sum(chunk[4] == RANDOM_NEXT for chunk in chunks)


def test_a_pair_by_hand() -> None:
    """One document of one sentence: A is the sentence, B random, which here can only be the sentence itself."""
    plan = make_plan(Flat.of([[4]]), Bert(length=16).packing(), np.random.default_rng(0))
    assert plan.chunks.tolist() == [[0, 4, 0, 4, RANDOM_NEXT]]
    assert plan.row(0).tolist() == plan.chunks.tolist() and len(plan) == 1


@pytest.mark.parametrize("objective", [Bert(), Bert(next_sentence=False), Mlm(), Glm(), Gpt(), Gpt(documents="stream")])
def test_deterministic_and_another_order_with_another_generator(objective: Bert | Mlm | Glm | Gpt) -> None:
    flat = Flat.of([[7, 9, 30, 4, 160]] * 40)
    first, again, other = (make_plan(flat, objective.packing(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name in ("chunks", "rows", "order"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert [first.row(j).tolist() for j in range(9)] != [other.row(j).tolist() for j in range(9)]


def test_an_empty_corpus_has_no_rows() -> None:
    for objective in (Bert(), Bert(next_sentence=False), Mlm(), Glm(), Gpt(), Gpt(documents="stream")):
        assert len(make_plan(Flat.of([[], [0]]), objective.packing(), np.random.default_rng(0))) == 0


def test_documents_too_small_for_glm_are_left_out() -> None:
    """Two tokens and an end token are below the minimum of four; three are not."""
    plan = make_plan(Flat.of([[2], [3], [1, 1]]), Glm(length=16).packing(), np.random.default_rng(0))
    assert plan.chunks.tolist() == [[2, 5, 0, 0, FIRST | LAST]]


@pytest.mark.parametrize("objective", [Bert(length=16), Mlm(length=16), Glm(length=16), Gpt(length=16)])
def test_a_sentence_longer_than_anything(objective: Bert | Mlm | Glm | Gpt) -> None:
    plan = make_plan(Flat.of([[100_000], [5]]), objective.packing(), np.random.default_rng(0))
    if isinstance(objective, Bert):
        assert sorted(chunk[0] for chunk in plan.chunks.tolist()) == [0, 100_000]
    else:
        longest = (plan.chunks[:, 1] - plan.chunks[:, 0]).max()
        assert longest <= objective.length + 1 and len(plan) >= 100_000 // 17


def waste(objective: Bert | Mlm | Glm | Gpt, flat: Flat) -> float:
    """The share of the columns of an epoch that is padding."""
    spec = objective.packing()
    plan = make_plan(flat, spec, np.random.default_rng(0))
    chunks = plan.chunks
    sizes = chunks[:, 1] - chunks[:, 0] + chunks[:, 3] - chunks[:, 2]
    if spec.unit == "pairs":
        sizes = np.minimum(sizes, spec.max_tokens)
    else:
        sizes = sizes + np.where(chunks[:, 4] & FIRST, spec.before, 0) + np.where(chunks[:, 4] & LAST, spec.after, 0)
    used = (sizes + spec.chunk_overhead).sum() + spec.row_overhead * len(plan)
    return 1 - used / (len(plan) * spec.row_tokens)


BOUNDS = [
    (Bert(), 0.025),
    (Bert(next_sentence=False), 0.045),
    (Mlm(), 0.12),
    (Mlm(length=512), 0.04),
    (Mlm(across_documents=False), 0.09),
    (Glm(), 0.01),
    (Gpt(), 0.01),
    (Gpt(documents="stream"), 0.001),
]


@pytest.mark.parametrize(("objective", "bound"), BOUNDS, ids=[f"{type(o).__name__}-{b}" for o, b in BOUNDS])
def test_little_padding_on_a_realistic_length_law(objective: Bert | Mlm | Glm | Gpt, bound: float) -> None:
    """Documents of lognormally many sentences (median 7), sentences of lognormally many tokens (median 20).

    Rows of whole sentences lose about half a sentence each, the more the shorter the row; best fit fills such gaps with
    short documents where it may.
    """
    rng = np.random.default_rng(1)
    documents = [
        np.maximum(2, rng.lognormal(3.0, 0.5, max(1, int(rng.lognormal(2.0, 1.0))))).astype(int).tolist()
        for _ in range(1500)
    ]
    assert 0 <= waste(objective, Flat.of(documents)) < bound
