"""Whole words and larger units from text to the masks, for every objective that masks them."""

from pathlib import Path

import numpy as np
import pytest

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.data.sampler import Sampler
from blankfill.objectives import Albert, Bert, Ernie, Mlm, Objective, SpanBert
from blankfill.pretraining.data_setup import with_units

CHINESE = ["哈尔滨是黑龙江省会。", "北京大学在中国首都。"]
WORDS = [{(0, 3), (4, 8)}, {(0, 4), (5, 7), (7, 9)}]
"""Where rjieba's words of several characters stand in these sentences."""


def tokenizer(folder: Path) -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys("".join(CHINESE))]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return Tokenizer.load(folder / "vocab.txt")


def chinese_corpus(folder: Path, words: Tokenizer) -> IndexedCorpus:
    """Documents of the two sentences by turns."""
    with IndexedWriter(folder / "c", np.uint16) as writer:
        for k in range(30):
            writer.add_document(*words.encode_plain([CHINESE[k % 2], CHINESE[1 - k % 2]]))
    return IndexedCorpus(folder / "c")


@pytest.mark.parametrize(
    "objective",
    [
        Bert(length=32, whole_word=True, short=0.0),
        Bert(length=32, whole_word=True, next_sentence=False),
        Mlm(length=32, whole_word=True),
        Mlm(length=32, whole_word=True, across_documents=False),
        Albert(length=32, short=0.0),
        Ernie(length=32, basic=0, entity=0, phrase=1, short=0.0),
    ],
    ids=lambda objective: objective.name,
)
def test_chinese_words_are_masked_whole(objective: Objective, tmp_path: Path) -> None:
    pytest.importorskip("rjieba")
    words = tokenizer(tmp_path)
    corpus = chinese_corpus(tmp_path, words)
    vocabulary = with_units(words, objective, np.bincount(corpus.tokens, minlength=words.size))
    sampler = Sampler(corpus, objective, vocabulary, 0)
    whole = 0
    for row in range(min(30, sampler.rows_in_epoch(0))):
        for example in sampler.row(row):
            text = example.input_ids.copy()
            text[example.target_index] = example.target_ids
            written = "".join(words.token(k) if k > 4 else "|" for k in text.tolist())
            targets = set(example.target_index.tolist())
            for sentence, inside in zip(CHINESE, WORDS, strict=True):
                for at in (k for k in range(len(written)) if written.startswith(sentence, k)):
                    for begin, end in inside:
                        hits = len(targets & set(range(at + begin, at + end)))
                        assert hits in (0, end - begin), "a word is masked in part"
                        whole += hits > 0
    assert whole > 5


def test_spans_begin_with_chinese_words(tmp_path: Path) -> None:
    pytest.importorskip("rjieba")
    words, objective = tokenizer(tmp_path), SpanBert(length=32)
    corpus = chinese_corpus(tmp_path, words)
    vocabulary = with_units(words, objective, np.bincount(corpus.tokens, minlength=words.size))
    (document, *_) = Sampler(corpus, objective, vocabulary, 0).documents(0)
    assert document.words is not None
    at = [words.encode(sentence) for sentence in CHINESE].index(document.ids[:10].tolist())
    inside = {k for begin, end in WORDS[at] for k in range(begin + 1, end)}
    assert np.flatnonzero(document.words[:10]).tolist() == [k for k in range(10) if k not in inside]


def test_nothing_is_looked_for_that_is_not_asked(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    counts = np.ones(words.size, np.int64)
    assert with_units(words, Bert(), counts).units is None
    assert with_units(words, Ernie(phrase=0, entity=0), counts).units is None
