"""GPT: every token of an epoch is a target once, at the token before it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from blankfill.data.sampler import Sampler
from blankfill.objectives import Gpt
from blankfill.types import ROLES, Document, Vocabulary
from conftest import covering, make_document, write_corpus

EOS = ROLES.index("eos")
CORPORA = {
    "one token": [[1]] * 9,
    "short": [[3, 2], [1], [4], [2, 2, 2]],
    "cut": [[20, 5], [8], [7, 1], [31], [1, 1], [16], [9], [8, 8, 8]],
    "empty ones": [[], [5, 0, 4], [0], [23]],
    "just a row": [[7], [6], [8], [15], [14], [16]],
}


def rows(tmp_path: Path, documents: list[list[int]], objective: Gpt) -> tuple[Sampler, list[list]]:
    corpus = write_corpus(tmp_path / "c", documents)
    sampler = Sampler(corpus, objective, covering(corpus), 3)
    return sampler, [sampler.row(i) for i in range(sampler.rows_in_epoch(0))]


@pytest.mark.parametrize("documents", CORPORA.values(), ids=CORPORA)
@pytest.mark.parametrize("length", [8, 16])
def test_documents_apart_ask_for_every_token_once(tmp_path: Path, documents: list[list[int]], length: int) -> None:
    """Each after the token before it, the first after the end token; the end token once for each document."""
    sampler, epoch = rows(tmp_path, documents, Gpt(length=length))
    nonempty = [sum(lengths) for lengths in documents if sum(lengths)]
    first_tokens = {len(ROLES) + k for k in np.cumsum([0, *nonempty])[:-1]}
    targets: Counter[int] = Counter()
    for examples in epoch:
        assert sum(len(example) for example in examples) <= length
        for example in examples:
            assert example.input_ids[1:].tolist() == example.target_ids[:-1].tolist()
            assert example.positions.tolist() == [list(range(len(example)))]
            assert example.target_index.tolist() == list(range(len(example)))
            assert (example.rule.visible() == np.tri(len(example), dtype=bool)).all()
            for before, answer in zip(example.input_ids.tolist(), example.target_ids.tolist(), strict=True):
                if answer in first_tokens:
                    assert before == EOS
                elif answer != EOS:
                    assert before == answer - 1
            assert EOS not in example.input_ids[1:]
            targets.update(example.target_ids.tolist())
    tokens = len(sampler.corpus.tokens)
    assert targets == Counter({EOS: len(nonempty)} | {len(ROLES) + k: 1 for k in range(tokens)})


@pytest.mark.parametrize("documents", CORPORA.values(), ids=CORPORA)
@pytest.mark.parametrize("length", [8, 16])
def test_the_stream_asks_for_every_token_once(tmp_path: Path, documents: list[list[int]], length: int) -> None:
    """All but the very first of the stream, which nothing precedes; rows are full but the last."""
    sampler, epoch = rows(tmp_path, documents, Gpt(length=length, documents="stream"))
    by_place = [epoch[j][0] for j in np.argsort(sampler.plan(0).order)]
    assert all(len(examples) == 1 for examples in epoch)
    assert all(len(example) == length for example in by_place[:-1])
    stream = [by_place[0].input_ids[0], *(token for example in by_place for token in example.target_ids)]
    assert [token for example in by_place for token in example.input_ids] == stream[:-1]
    documents_in_stream: list[list[int]] = [[]]
    for token in stream:
        documents_in_stream[-1].append(int(token))
        if token == EOS:
            documents_in_stream.append([])
    assert documents_in_stream.pop() == []
    starts = np.cumsum([0, *(sum(lengths) for lengths in documents)]) + len(ROLES)
    expected = [[*range(a, b), EOS] for a, b in itertools.pairwise(starts) if b > a]
    assert sorted(documents_in_stream) == expected


def test_a_row_that_begins_with_an_end_token(tmp_path: Path) -> None:
    """Eight tokens fill the first row's answers exactly, so that the end token opens the second."""
    _, epoch = rows(tmp_path, [[8], [8]], Gpt(length=8, documents="stream"))
    starts = {tuple(example.input_ids[:2].tolist()) for (example,) in epoch if example.input_ids[0] == EOS}
    assert len(starts) == 1 and next(iter(starts))[1] in (len(ROLES), len(ROLES) + 8)


def test_a_piece_by_hand(vocabulary: Vocabulary) -> None:
    """First and last piece of a document, and one from its middle."""
    objective = Gpt(length=8)
    a, b, c = make_document(3).ids.tolist()
    whole = objective.build(make_document(3), vocabulary, None)
    assert (whole.input_ids.tolist(), whole.target_ids.tolist()) == ([EOS, a, b, c], [a, b, c, EOS])
    middle = objective.build(make_document(3, first=False, last=False), vocabulary, None)
    assert (middle.input_ids.tolist(), middle.target_ids.tolist()) == ([a, b], [b, c])
    ids = np.array([20, 21, 30], np.int32)
    joined = Document(ids, np.array([0, 2, 3], np.int32), last=False, parts=np.array([0, 2, 3], np.int32))
    stream = Gpt(length=8, documents="stream").build(joined, vocabulary, None)
    assert (stream.input_ids.tolist(), stream.target_ids.tolist()) == ([20, 21, EOS], [21, EOS, 30])
