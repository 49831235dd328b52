"""The loader: the same batches however they are made, errors that arrive, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.corpus.indexed import IndexedCorpus
from blankfill.data.batching import collate, prefetch
from blankfill.data.loader import Phase, Steps, allow_files, load
from blankfill.data.rows import RowSchedule
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.objectives import Bert, Gpt
from blankfill.types import ROLES, Batch
from conftest import ORDINARY, covering, make_vocabulary, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> IndexedCorpus:
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 20, rng.integers(1, 12)).tolist() for _ in range(80)]
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", documents)


@pytest.fixture(scope="module")
def sampler(corpus: IndexedCorpus) -> Sampler:
    return Sampler(corpus, Bert(length=32), covering(corpus), 1)


def same(ours: Batch, theirs: Batch) -> bool:
    names = ("input_ids", "positions", "segment", "rank", "horizon", "target_index", "target_ids")
    tensors = all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)
    labels = ours.labels.keys() == theirs.labels.keys() and all(
        torch.equal(mine, other)
        for name in ours.labels
        for mine, other in zip(ours.labels[name], theirs.labels[name], strict=True)
    )
    return tensors and labels and (ours.mask, ours.tokens) == (theirs.mask, theirs.tokens)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "blankfill-loader"]


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_processes_give_the_same_batches_in_order(sampler: Sampler, workers: int) -> None:
    steps = Steps([Phase(0, sampler, 3)], RowSchedule(7))
    loaded = list(load(steps, 2, 9, workers))
    assert [step for step, _ in loaded] == list(range(2, 9))
    for step, batches in loaded:
        expected = [sampler.row(i) for i in range(7 * step, 7 * step + 7)]
        sizes = [(0, 3), (3, 6), (6, 7)]
        assert len(batches) == 3
        for batch, (low, high) in zip(batches, sizes, strict=True):
            assert same(batch, collate(expected[low:high], sampler.vocabulary["pad"]))
    assert not loader_threads()


@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (1, 3), (2, 2), (3, 8), (4, 1)])
def test_ranks_and_micro_batches_share_a_step(sampler: Sampler, ranks: int, micro: int) -> None:
    """Together they hold each row of the step once, in any split."""
    alone = collate([sampler.row(i) for i in range(24, 32)], 0)
    rows: list[list[int]] = []
    answers: list[int] = []
    tokens = 0
    for rank in range(ranks):
        for batch in Steps([Phase(0, sampler, micro)], RowSchedule(8), rank, ranks)[3]:
            assert 1 <= len(batch.input_ids) <= micro
            rows += [[token for token in row.tolist() if token] for row in batch.input_ids]
            answers += batch.target_ids.tolist()
            tokens += batch.tokens
    assert sorted(rows) == sorted([token for token in row.tolist() if token] for row in alone.input_ids)
    assert sorted(answers) == sorted(alone.target_ids.tolist())
    assert tokens == alone.tokens


def test_no_steps(sampler: Sampler) -> None:
    assert list(load(Steps([Phase(0, sampler, 4)], RowSchedule(4)), 5, 5)) == []


def test_steps_go_on_over_the_end_of_an_epoch(sampler: Sampler) -> None:
    count = sampler.rows_in_epoch(0)
    ((_, (batch,)),) = load(Steps([Phase(0, sampler, 4)], RowSchedule(4)), count // 4, count // 4 + 1)
    expected = [sampler.row(i) for i in range(4 * (count // 4), 4 * (count // 4) + 4)]
    assert same(batch, collate(expected, sampler.vocabulary["pad"]))


class Broken(Steps):
    """Steps of which number 3 cannot be made."""

    def __getitem__(self, step: int) -> list[Batch]:
        if step == 3:
            raise RuntimeError("the third is broken")
        return super().__getitem__(step)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_in_preparing_arrives(sampler: Sampler, workers: int) -> None:
    loaded = load(Broken([Phase(0, sampler, 4)], RowSchedule(4)), 0, 9, workers)
    assert [next(loaded)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the third is broken"):
        next(loaded)
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_user_can_mend_arrives_as_one_sentence(corpus: IndexedCorpus, workers: int) -> None:
    small = Sampler(corpus, Gpt(length=32), make_vocabulary(30), 1)
    with pytest.raises(UserError) as caught:
        list(load(Steps([Phase(0, small, 4)], RowSchedule(4)), 0, 9, workers))
    assert str(caught.value).startswith(f"{corpus.prefix}.bin holds token id ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ahead", [1, 4])
def test_stopping_early_leaves_no_thread(sampler: Sampler, ahead: int) -> None:
    loaded = load(Steps([Phase(0, sampler, 4)], RowSchedule(4)), 0, 1_000_000, ahead=ahead)
    assert next(loaded)[0] == 0
    assert len(loader_threads()) == 1
    loaded.close()
    assert not loader_threads()


def test_an_error_of_the_consumer_leaves_no_thread(sampler: Sampler) -> None:
    def consume() -> None:
        for step, _ in load(Steps([Phase(0, sampler, 4)], RowSchedule(4)), 0, 1_000_000):
            if step == 2:
                raise KeyError(step)

    with pytest.raises(KeyError):
        consume()
    assert not loader_threads()


def test_only_a_few_steps_are_made_ahead(sampler: Sampler) -> None:
    made: list[int] = []

    class Counted(Steps):
        def __getitem__(self, step: int) -> list[Batch]:
            made.append(step)
            return super().__getitem__(step)

    loaded = load(Counted([Phase(0, sampler, 4)], RowSchedule(4)), 0, 1_000_000, ahead=2)
    next(loaded)
    loaded.close()
    assert made == list(range(len(made))) and 1 <= len(made) <= 1 + 2 + 2


def test_a_step_of_a_corpus_on_the_disk(tmp_path: Path) -> None:
    """One document of three tokens at four rows a step: the same text, four times a step, masked anew."""
    corpus = write_corpus(tmp_path / "c", [[3]])
    sampler = Sampler(corpus, Gpt(length=8), covering(corpus), 0)
    ((_, (batch,)),) = load(Steps([Phase(0, sampler, 4)], RowSchedule(4)), 0, 1)
    eos, text = ROLES.index("eos"), [ORDINARY, ORDINARY + 1, ORDINARY + 2]
    assert batch.input_ids.tolist() == [[eos, *text]] * 4 and batch.mask == "causal"
    assert batch.target_ids.tolist() == [*text, eos] * 4


def test_few_open_files_are_refused_before_a_worker_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    limits = [(24, 24)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: limits.append(given))
    with pytest.raises(UserError, match=r"may have 24 files open, and 2 workers need 96; .* train\.workers to 0"):
        allow_files(2, 2)
    limits.append((256, 4096))  # raised as far as is useful and allowed
    allow_files(2, 2)
    assert limits[-1] == (1088, 4096)
    limits.append((200, 300))
    allow_files(2, 2)
    assert limits[-1] == (300, 300)
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    allow_files(64, 4)
    assert limits[-1] == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def test_prefetch_keeps_the_order_and_ends_its_thread_with_an_error() -> None:
    assert list(prefetch(iter(range(100)), ahead=3)) == list(range(100))

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    made = prefetch(broken())
    assert next(made) == 1
    with pytest.raises(KeyError, match="two"):
        next(made)
    assert not loader_threads()
