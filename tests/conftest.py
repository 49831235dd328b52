"""Shared fixtures: a small vocabulary with every role, corpora written on the spot, where the real data sets lie.

`BLANKFILL_TEST_BF16=on` (or `off`) makes the processor look as if it had (or had not) units for bf16, so that both
sides of every choice can be tested on any machine; on a processor without them, `on` takes its time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
from blankfill.report import plots
from blankfill.system import environment
from blankfill.training import precision
from blankfill.types import ROLES, Document, Example, Vocabulary
from durations import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)
from quick_runs import copied_picture

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_runtest_logreport", "pytest_sessionfinish"]

# One thread of torch, also in the programs that tests start, and before anything imports torch: how many threads would
# be used otherwise depends on what else the machine does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
BF16 = os.environ.get("BLANKFILL_TEST_BF16", "auto")
if BF16 == "on":
    for limit in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        os.environ.pop(limit, None)
elif BF16 == "off":
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"

# A shell starts its background jobs with Ctrl-C ignored, which programs inherit; the tests of stopping send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a busy machine is slow, which says nothing of the code
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VECTORS = Path(__file__).resolve().parents[2] / "shared" / "spec" / "test_vectors.json"
ORDINARY = len(ROLES)
"""The first id that is not special in the vocabularies made here."""


@pytest.fixture(scope="session", autouse=True)
def bf16_units() -> Iterator[None]:
    """Units for bf16 where `BLANKFILL_TEST_BF16` is on, whatever the processor is."""
    result = environment.instruction_sets()
    with pytest.MonkeyPatch.context() as patch:
        if BF16 == "on" and not set(result) & set(environment.BF16_SETS):
            patch.setattr(environment, "instruction_sets", lambda: [*result, environment.BF16_SETS[0]])
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_runs() -> Iterator[None]:
    """Small runs without what takes most of their time and is tested elsewhere: waiting for the disk, the rate of the
    processor measured with large products, and the picture of the losses, of which a copy is written.

    What is durable (`forgetful_disk`) and the picture (`tests/report/test_plots.py`) have tests of their own, and runs
    in processes of their own do all of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(precision, "PEAK_SIZE", 64)
        patch.setattr(precision, "PEAK_SECONDS", 0.0)
        patch.setattr(plots, "loss_plot", copied_picture)
        yield


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """The threads of torch, which runs and commands change for their process, as they were before the test."""
    torch = sys.modules.get("torch")  # tests without it stay fast
    count = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(count)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """64 tokens: the roles first, then ordinary ones."""
    return make_vocabulary(64)


def make_vocabulary(size: int) -> Vocabulary:
    """`size` tokens: the roles first, then ordinary ones, each a word of its own."""
    roles = {role: k for k, role in enumerate(ROLES)}
    return Vocabulary(size, roles, frozenset(range(ORDINARY)), np.ones(size, np.bool_))


def make_document(length: int, sentence: int = 7, **fields: object) -> Document:
    """A Document of the ordinary ids in turn, cut into sentences of `sentence` tokens."""
    ids = (ORDINARY + np.arange(length) % (64 - ORDINARY)).astype(np.int32)
    sentences = np.append(np.arange(0, length, sentence), length).astype(np.int32)
    return Document(ids, np.unique(sentences), **fields)


def write_corpus(prefix: Path, documents: Sequence[Sequence[int]], dtype: type = np.int32) -> IndexedCorpus:
    """Token files of documents, given as the lengths of their sentences; the k-th token is ORDINARY + k."""
    count = 0
    with IndexedWriter(prefix, dtype) as writer:
        for lengths in documents:
            size = sum(lengths)
            writer.add_document(np.arange(ORDINARY + count, ORDINARY + count + size), lengths)
            count += size
    return IndexedCorpus(prefix)


def covering(corpus: IndexedCorpus) -> Vocabulary:
    """A vocabulary that has a token for each token of a corpus of `write_corpus`."""
    return make_vocabulary(ORDINARY + len(corpus.tokens))


def within(actual: float, expected: float, draws: int, deviation: float | None = None) -> bool:
    """Whether a mean of `draws` draws is within 4.5 standard errors (one right answer in 150,000 is refused).

    deviation: the standard deviation of one draw; None for a share, whose deviation follows from `expected`.
    """
    spread = (expected * (1 - expected)) ** 0.5 if deviation is None else deviation
    return abs(actual - expected) <= 4.5 * spread / draws**0.5


def same_examples(ours: Sequence[Example], theirs: Sequence[Example]) -> bool:
    """Whether two rows hold exactly the same Examples."""
    return len(ours) == len(theirs) and all(fingerprint(a) == fingerprint(b) for a, b in zip(ours, theirs, strict=True))


def fingerprint(example: Example) -> tuple[object, ...]:
    """All that an Example says, comparable."""
    rule = example.rule
    group = np.zeros(0, np.int32) if rule.group is None else rule.group
    arrays = (example.input_ids, example.positions, rule.segment, rule.rank, rule.horizon, group)
    answers = (example.target_index, example.target_ids)
    borders = None if example.span_boundary_targets is None else example.span_boundary_targets.tolist()
    context = None if example.context is None else fingerprint(example.context)
    return (*(array.tolist() for array in (*arrays, *answers)), dict(example.labels), borders, context)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Give torch back its number of threads after a test that changes it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
