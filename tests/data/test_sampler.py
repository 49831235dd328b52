"""The sampler: a row is a function of (seed, number), whatever else happened before, elsewhere or on the disk."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator, Philox

from blankfill.corpus.indexed import IndexedCorpus
from blankfill.data import sampler as module
from blankfill.data.sampler import Sampler, plan_generator, row_generator
from blankfill.errors import UserError
from blankfill.objectives import T5, Bart, Bert, Glm, Gpt, Mlm, Objective
from blankfill.objectives.glm import row_length
from blankfill.types import ROLES, Vocabulary
from conftest import ORDINARY, covering, fingerprint, make_vocabulary, same_examples, write_corpus

OBJECTIVES: dict[str, Objective] = {
    "bert": Bert(length=32),
    "bert words": Bert(length=32, whole_word=True),
    "bert alone": Bert(length=32, next_sentence=False),
    "mlm": Mlm(length=32),
    "mlm words": Mlm(length=32, whole_word=True),
    "mlm apart": Mlm(length=32, across_documents=False),
    "glm": Glm(length=32, sentence=1, document=1, block_mask=0.1, context_mask=0.1),
    "glm joined": Glm(length=32, joined=True, sentence=1, document=1, short=0.3),
    "gpt": Gpt(length=32),
    "gpt stream": Gpt(length=32, documents="stream"),
    "t5": T5(length=32),
    "t5 iid": T5(length=32, variant="iid"),
    "bart": Bart(length=32, rotate=0.5),
    "bart tokens": Bart(length=32, whole_word=False, insert_ratio=0.1),
}
everything = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> IndexedCorpus:
    """Sixty documents of every size, an empty one and a long sentence among them."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 20, rng.integers(1, 12)).tolist() for _ in range(60)]
    documents[7], documents[11], documents[13] = [], [150], [4, 0, 4]
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", documents)


def make(corpus: IndexedCorpus, objective: Objective, seed: int = 3, cache: Path | None = None) -> Sampler:
    vocabulary, sentinels = covering(corpus), objective.sentinels()
    last = tuple(reversed(range(vocabulary.size, vocabulary.size + sentinels)))
    vocabulary = dataclasses.replace(vocabulary, size=vocabulary.size + sentinels, sentinels=last)
    return Sampler(corpus, objective, vocabulary, seed, cache)


@everything
def test_a_row_is_the_same_whenever_it_is_asked_for(corpus: IndexedCorpus, objective: Objective) -> None:
    """Forwards, backwards, alone, over an epoch's edge, after pickling."""
    first = make(corpus, objective)
    count = 2 * first.rows_in_epoch(0)
    rows = [first.row(i) for i in range(count)]
    backwards = make(corpus, objective)
    assert all(same_examples(backwards.row(i), rows[i]) for i in reversed(range(count)))
    assert same_examples(make(corpus, objective).row(count - 1), rows[count - 1])
    copied = pickle.loads(pickle.dumps(first))
    assert all(same_examples(copied.row(i), rows[i]) for i in (0, count // 2, count - 1))
    assert len(pickle.dumps(first)) < 20_000
    other = make(corpus, objective, seed=4)
    assert not all(same_examples(other.row(i), rows[i]) for i in range(5))


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_sampler import OBJECTIVES, digest, make
from blankfill.corpus.indexed import IndexedCorpus
for objective in OBJECTIVES.values():
    print(digest(make(IndexedCorpus({prefix!r}), objective)))
"""


def digest(sampler: Sampler) -> str:
    """Some rows of a sampler as text."""
    return json.dumps([[fingerprint(example) for example in sampler.row(i)] for i in (0, 1, 40, 100)])


def test_a_row_is_the_same_in_another_process(corpus: IndexedCorpus) -> None:
    script = SCRIPT.format(path=sys.path, prefix=str(corpus.prefix))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout.splitlines() == [digest(make(corpus, objective)) for objective in OBJECTIVES.values()]


@everything
def test_rows_hold_what_they_may(corpus: IndexedCorpus, objective: Objective) -> None:
    """At most `length` clean tokens, positions within the tables, ids within the vocabulary, an answer at least."""
    sampler = make(corpus, objective)
    sizes = objective.position_sizes()
    for i in range(sampler.rows_in_epoch(0)):
        documents, examples = sampler.documents(i), sampler.row(i)
        assert len(documents) == len(examples) >= 1
        clean = 0
        for document, example in zip(documents, examples, strict=True):
            if isinstance(objective, Glm):
                # Part A without its masks, and the answers without their [E].
                blanks = int((example.positions[1] == 1).sum())
                answers = len(example.target_ids) - int((example.target_ids == ROLES.index("eop")).sum())
                clean += int(example.target_index[0]) - blanks + answers
            else:
                clean += len(example)
            assert document.sentences[0] == 0 and document.sentences[-1] == len(document)
            assert (np.diff(document.sentences) > 0).all() or not len(document)
            assert len(example.positions) == len(sizes)
            assert all(channel.max() < size for channel, size in zip(example.positions, sizes, strict=True))
            if example.context is not None:
                assert all(channel.max() < size for channel, size in zip(example.context.positions, sizes, strict=True))
                assert len(example.context.positions[0]) <= sizes[0]
            assert (example.context is not None) == objective.two_sided
            assert example.input_ids.min() >= 0 and example.input_ids.max() < sampler.vocabulary.size
            assert len(example.target_index) == len(example.target_ids) == len(set(example.target_index.tolist()))
            whole_word = getattr(objective, "whole_word", False)
            assert len(example.target_ids) >= 1 or whole_word
            assert set(example.labels) == set(objective.labels())
            assert (document.words is not None) == whole_word
        assert clean <= objective.length


def test_short_pieces_that_share_a_row_leave_room_for_their_end_tokens(tmp_path: Path) -> None:
    """A chunk from the middle of a document is closed where another follows it: the row still fits the position table.

    Rooms of 32 to 95 tokens, so that two or three chunks share many a row of 96.
    """
    corpus = write_corpus(tmp_path / "c", [[700]] * 60)
    objective = Glm(length=96, joined=True, short=1.0)
    sampler = make(corpus, objective)
    shared = 0
    for i in range(sampler.rows_in_epoch(0)):
        (document,), (example,) = sampler.documents(i), sampler.row(i)
        assert document.parts is not None
        shared += len(document.parts) > 2
        assert row_length(document) <= 96
        assert example.positions[0].max() < objective.position_sizes()[0]
    assert shared > 50


@everything
def test_an_epoch_holds_the_corpus_and_the_next_one_is_another(corpus: IndexedCorpus, objective: Objective) -> None:
    sampler = make(corpus, objective)
    total = len(corpus.tokens)

    def texts(epoch: int) -> list[list[int]]:
        start = sum(sampler.rows_in_epoch(e) for e in range(epoch))
        results = []
        for i in range(start, start + sampler.rows_in_epoch(epoch)):
            for document in sampler.documents(i):
                assert sampler.locate(i)[0] == epoch
                keep = len(document) if document.label != 1 else int(document.sentences[1])
                results.append(document.ids[:keep].tolist())
        return results

    first, second = texts(0), texts(1)
    assert first != second
    overlap = isinstance(objective, Gpt)
    for epoch in (first, second):
        seen = [token for text in epoch for token in text]
        missing = set(range(ORDINARY, ORDINARY + total)) - set(seen)
        assert overlap or len(seen) == len(set(seen))
        assert len(missing) == 0 or isinstance(objective, Glm)
        assert len(missing) < 2 * 60


@everything
def test_plans_on_the_disk_are_the_plans(
    corpus: IndexedCorpus, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORTH_CACHING", 1)
    fresh = make(corpus, objective)
    fresh.plan(1)
    make(corpus, objective, cache=tmp_path / "plans").plan(1)
    monkeypatch.setattr(module, "make_plan", None)
    cached = make(corpus, objective, cache=tmp_path / "plans")
    for epoch in (0, 1):
        for name in ("chunks", "rows", "order"):
            assert np.array_equal(getattr(cached.plan(epoch), name), getattr(fresh.plan(epoch), name))
    count = fresh.rows_in_epoch(0)
    assert all(same_examples(cached.row(i), fresh.row(i)) for i in (0, count - 1))


def other_plan(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "a number changed": lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\7\7\7\7"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another plan's": other_plan,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["chunks", "rows", "order"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_plans_are_made_anew(
    corpus: IndexedCorpus, name: str, damage: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORTH_CACHING", 1)
    objective = Glm(length=32)
    fresh = make(corpus, objective, cache=tmp_path)
    fresh.plan(0)
    (path,) = tmp_path.glob(f"*-0-{name}.npy")
    damage(path)  # type: ignore[operator]
    again = make(corpus, objective, cache=tmp_path)
    assert np.array_equal(again.plan(0).chunks, fresh.plan(0).chunks)
    assert np.array_equal(again.plan(0).order, fresh.plan(0).order)


@pytest.mark.parametrize(
    "text", ["", "[", "5", "null", "[null]", '["a"]', "[0]", "[-3]", "[1e400]", '{"1": 2}', "\xff"]
)
def test_a_damaged_sizes_file_is_passed_over(corpus: IndexedCorpus, text: str, tmp_path: Path) -> None:
    fresh = make(corpus, Bert(length=32), cache=tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text(encoding="utf-8")) == [fresh.rows_in_epoch(0)]
    path.write_bytes(text.encode("latin-1"))
    again = make(corpus, Bert(length=32), cache=tmp_path)
    assert again.rows_in_epoch(0) == fresh.rows_in_epoch(0)
    assert same_examples(again.row(500), fresh.row(500))


def test_a_cache_that_cannot_be_written_costs_nothing(
    corpus: IndexedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORTH_CACHING", 1)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    blocked = make(corpus, Gpt(length=32), cache=tmp_path / "file")
    assert same_examples(blocked.row(70), make(corpus, Gpt(length=32)).row(70))


def test_the_key_tells_corpora_layouts_and_seeds_apart(corpus: IndexedCorpus, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", [[5, 5]] * 9)
    make(corpus, Bert(length=32), cache=tmp_path)
    make(corpus, Bert(length=32, mask_ratio=0.3), cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    make(corpus, Bert(length=40), cache=tmp_path)
    make(corpus, Bert(length=32), 4, tmp_path)
    make(other, Bert(length=32), cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_two_plans_stay_in_memory_and_a_far_row_is_found(corpus: IndexedCorpus) -> None:
    sampler = make(corpus, Mlm(length=32))
    far = sum(sampler.rows_in_epoch(e) for e in range(20)) + 3
    assert sampler.locate(far) == (20, 3)
    sampler.row(far)
    assert len(sampler._plans) <= 2
    assert sampler.locate(0) == (0, 0)
    assert sampler.locate(sampler.rows_in_epoch(0)) == (1, 0)


def test_generators_are_philox_with_the_key_of_the_row() -> None:
    key = np.array([7, 123_456_789_012], np.uint64)
    expected = Generator(Philox(key=key))
    assert row_generator(7, 123_456_789_012).random(9).tolist() == expected.random(9).tolist()
    plan = Generator(Philox(key=np.array([7, 3], np.uint64), counter=np.array([0, 0, 0, 1], np.uint64)))
    assert plan_generator(7, 3).random(9).tolist() == plan.random(9).tolist() != row_generator(7, 3).random(9).tolist()


@everything
def test_ids_above_the_vocabulary_are_the_users_to_mend(corpus: IndexedCorpus, objective: Objective) -> None:
    vocabulary = dataclasses.replace(make_vocabulary(len(corpus.tokens)), sentinels=tuple(range(100)))
    sampler = Sampler(corpus, objective, vocabulary, 0)
    with pytest.raises(UserError, match=r"holds token id \d+ near token \d+, but the tokenizer has only \d+"):
        for i in range(sampler.rows_in_epoch(0)):
            sampler.row(i)


def test_negative_ids_are_refused_too(tmp_path: Path) -> None:
    from blankfill.corpus.indexed import IndexedWriter

    with IndexedWriter(tmp_path / "c", np.int32) as writer:
        writer.add_document([20, -5, 21, 22], [4])
    sampler = Sampler(IndexedCorpus(tmp_path / "c"), Gpt(length=8), make_vocabulary(64), 0)
    with pytest.raises(UserError, match="token id -5 near token 0"):
        sampler.row(0)


def test_a_corpus_without_enough_text_is_the_users_to_mend(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [[2], [1], [1, 1]])
    with pytest.raises(UserError, match="no text is long enough for an example of `glm`"):
        make(corpus, Glm(length=32))
    assert make(corpus, Gpt(length=32)).rows_in_epoch(0) == 1


@everything
def test_one_document_is_a_corpus(objective: Objective, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [[5]])
    sampler = make(corpus, objective)
    assert sampler.rows_in_epoch(0) == 1
    ((example,),) = [sampler.row(0)]
    assert len(example.target_ids) >= 1
    assert sampler.locate(7) == (7, 0)


def test_words_begin_where_sentences_do(tmp_path: Path) -> None:
    """A tokenizer may mark only words after a space; the first token of each sentence begins a word all the same."""
    corpus = write_corpus(tmp_path / "c", [[3, 2, 4]])
    size = ORDINARY + 9
    starts = np.zeros(size, np.bool_)
    starts[ORDINARY + 7] = True
    vocabulary = Vocabulary(size, dict(covering(corpus).roles), frozenset(range(ORDINARY)), starts)
    expected = {ORDINARY, ORDINARY + 3, ORDINARY + 5, ORDINARY + 7}
    for objective in (Bert(length=32, whole_word=True), Mlm(length=32, whole_word=True)):
        (document, *_) = Sampler(corpus, objective, vocabulary, 0).documents(0)
        assert document.words is not None
        assert set(document.ids[document.words].tolist()) == expected & set(document.ids.tolist())
    blind = Vocabulary(size, vocabulary.roles, vocabulary.special)
    assert Sampler(corpus, Mlm(length=32, whole_word=True), blind, 0).documents(0)[0].words is None


def test_documents_by_hand(tmp_path: Path) -> None:
    """Sentences of 3, 2, 4 and 6 tokens at length 8: [CLS] and [SEP] leave six; 5, then 4, then 6 tokens."""
    corpus = write_corpus(tmp_path / "c", [[3, 2, 4, 6]])
    sampler = make(corpus, Mlm(length=8))
    results = {}
    for i in range(sampler.rows_in_epoch(0)):
        (document,) = sampler.documents(i)
        results[int(document.ids[0]) - ORDINARY] = (
            len(document),
            document.sentences.tolist(),
            document.first,
            document.last,
        )
        assert document.parts is not None and document.parts.tolist() == [0, len(document)]
    assert results == {
        0: (5, [0, 3, 5], True, False),
        5: (4, [0, 4], False, False),
        9: (6, [0, 6], False, True),
    }
