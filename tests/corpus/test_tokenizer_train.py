"""Training: worked-out merges, exact sizes, the same vocabulary every time, and errors with remedies that work."""

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import tokenizer_train
from blankfill.corpus.scripts import Normalization, Writing
from blankfill.corpus.tokenizer_train import (
    SPECIAL_TOKENS,
    TokenizerConfig,
    automatic_size,
    count_words,
    merge_pairs,
    train_tokenizer,
)
from blankfill.errors import UserError

KINDS = ("wordpiece", "bpe", "unigram")
PARTS = ("ka", "lo", "mi", "ne", "pu", "ra", "shi", "te", "vo", "zu", "ing", "ton")
TEXT = [
    f"{a}{b} {b}{c}{a} {c}{a}{b}, {'Été' if a < b else '中文字典'} {b}{a}."
    for a in PARTS
    for b in PARTS
    for c in PARTS[::3]
]
HAN = [chr(0x4E00 + i) for i in range(1000)]


def train(kind: str, size: int, text: list[str] = TEXT, **options: object):  # type: ignore[no-untyped-def]
    if kind == "unigram":
        pytest.importorskip("sentencepiece")
    return train_tokenizer(text, TokenizerConfig(kind=kind, vocab_size=size, **options))


def test_merges_worked_out_by_hand() -> None:
    # The example of Sennrich et al. 2016. ##e ##s and ##s ##t are both seen 9 times, low's pairs 7, newest's 6, …
    words = Counter({"low": 5, "lower": 2, "newest": 6, "widest": 3})
    alphabet = ["l", "##o", "##w", "##e", "##r", "n", "##s", "##t", "w", "##i", "##d"]
    tokens = merge_pairs(words, alphabet, 100)
    assert tokens[:11] == sorted(alphabet)
    assert tokens[11:] == [
        "##es", "##est", "##ow", "low", "##ew", "new", "newest", "##dest", "##idest", "widest", "##er", "lower",
    ]  # fmt: skip
    assert merge_pairs(words, alphabet, 14) == tokens[:14]
    # Without ##i, widest takes no part: ##w ##e leads with 8, then l ##o with 7.
    assert merge_pairs(words, [a for a in alphabet if a != "##i"], 100)[10:13] == ["##we", "lo", "##ewe"]


def test_a_pair_seen_once_is_no_token() -> None:
    assert merge_pairs(Counter({"ab": 1}), ["a", "##b"], 10) == ["##b", "a"]


def test_equal_letters_merge_from_the_left() -> None:
    # a ##a ##a ##a ##a → a ##aa ##aa; of the two pairs left, a ##aa has the part known first.
    assert merge_pairs(Counter({"aaaaa": 3}), ["a", "##a"], 9) == ["##a", "a", "##aa", "aaa", "aaaaa"]


def test_words_are_counted_as_bert_cuts_them() -> None:
    words = count_words(["The café, the CAFÉ!", "中文 the\tthe", "x" * 101], Normalization())
    assert words == {"the": 4, "cafe": 2, ",": 1, "!": 1, "中": 1, "文": 1}
    assert count_words(["The the"], Normalization(lowercase=False, strip_accents=False)) == {"The": 1, "the": 1}


def test_counting_drops_the_rarest_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_train, "DISTINCT_LIMIT", 10)
    words = count_words([*(["often twice"] * 3), *(f"w{i}" for i in range(9))], Normalization())
    assert words == {"often": 3, "twice": 3}


def test_the_merges_are_those_of_the_library() -> None:
    # The library numbers ## characters in hash order unless they are given as special tokens (its issue 1794).
    ours = train("wordpiece", 220)
    text = "".join(TEXT).lower()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=220, special_tokens=[*SPECIAL_TOKENS, *sorted("##" + c for c in set(text) if c.isalpha())],
        show_progress=False,
    )  # fmt: skip
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = ours._full.normalizer, ours._full.pre_tokenizer
    theirs.train_from_iterator(TEXT, trainer)
    long_ours = {token for token in ours._ids if len(token.removeprefix("##")) > 1}
    long_theirs = {token for token in theirs.get_vocab() if len(token.removeprefix("##")) > 1}
    # Ties may fall differently, and the library keeps characters that no word needs.
    assert len(long_ours & long_theirs) / len(long_theirs) > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [300, 333])
def test_size_is_exact_and_special_tokens_come_first(kind: str, size: int) -> None:
    tokenizer = train(kind, size)
    assert tokenizer.size == len(tokenizer._ids) == size
    assert tuple(tokenizer.token(id) for id in range(11)) == SPECIAL_TOKENS
    assert SPECIAL_TOKENS == (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[sMASK]",
        "<|startofpiece|>", "<|endofpiece|>", "<|endoftext|>", "[dBLOCK]",
    )  # fmt: skip


def test_the_same_vocabulary_in_every_process() -> None:
    pytest.importorskip("sentencepiece")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_tokenizer_train import *\n"
        "print([train(kind, size).fingerprint for kind in KINDS for size in (300, 0)])"
    )
    folder = str(Path(__file__).parent)
    outputs = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, folder, *sys.path],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_lowercase_is_as_the_original_did_unless_said() -> None:
    english = Writing.of(["The cat"])
    assert [TokenizerConfig(kind=kind).normalization(english).lowercase for kind in KINDS] == [True, False, False]
    for kind in KINDS:
        assert train(kind, 300, lowercase=True).decode(train(kind, 300, lowercase=True).encode("KALO")) == "kalo"
        cased = train(kind, 300, [*TEXT, "KALO kalo"] * 2, lowercase=False)
        assert cased.decode(cased.encode("Été")) == "Été"


@pytest.mark.parametrize("kind", KINDS)
def test_text_beyond_the_limit_is_not_read(kind: str) -> None:
    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield from TEXT

    length = sum(map(len, TEXT))
    tokenizer = train(kind, 300, endless(), max_chars=length)
    assert tokenizer.fingerprint == train(kind, 300).fingerprint


def test_automatic_sizes() -> None:
    assert [automatic_size(n) for n in (10, 100_000, 1_000_000, 17_000_000, 10**9)] == [512, 2496, 8000, 32768, 32768]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_lets_the_text_decide(kind: str) -> None:
    size = train(kind, 0).size
    assert 270 < size <= automatic_size(sum(map(len, TEXT)))
    if kind != "unigram":  # SentencePiece's result depends on the requested size
        assert train(kind, 0).fingerprint == train(kind, size).fingerprint


def test_zero_takes_the_front_of_the_merges() -> None:
    text = [" ".join(f"{a}{b}{c}{d}" for d in PARTS) for a in PARTS for b in PARTS for c in PARTS] * 2
    wanted = automatic_size(sum(map(len, text)))
    tokenizer = train("bpe", 0, text)
    assert tokenizer.size == wanted
    assert tokenizer.fingerprint == train("bpe", wanted, text).fingerprint


def test_rare_characters_do_not_crowd_out_words() -> None:
    text = [*(TEXT * 20), "".join(HAN)]
    tokenizer = train("wordpiece", 300, text)
    assert sum(token in HAN for token in tokenizer._ids) < 150
    assert tokenizer.id("##ton") is not None
    # Where the merges leave room, they come back.
    with pytest.raises(UserError) as caught:
        train("wordpiece", 9999, text)
    full = train("wordpiece", int(re.search(r"vocab_size=(\d+)", str(caught.value))[1]), text)
    assert all(full.id(character) is not None for character in HAN)
    assert sum(token in HAN for token in train("unigram", 500, text)._ids) < 120


def test_a_text_of_characters_only_gives_them_all() -> None:
    tokenizer = train("wordpiece", 0, ["".join(HAN)])
    assert tokenizer.size == 11 + 1000


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_vocabulary_names_one_that_works(kind: str) -> None:
    with pytest.raises(UserError, match=r"supports a vocabulary of \d+ tokens, not 9999.*vocab_size=") as caught:
        train(kind, 9999)
    supported = int(re.search(r"vocab_size=(\d+)", str(caught.value))[1])
    assert train(kind, supported).size == supported


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_a_vocabulary_names_one_that_works(kind: str) -> None:
    with pytest.raises(UserError, match=r"of 20 tokens is too small.*vocab_size=") as caught:
        train(kind, 20)
    least = int(re.search(r"vocab_size=(\d+)", str(caught.value))[1])
    if kind == "unigram":
        # Bytes are counted at once, characters only by SentencePiece: a second answer may follow.
        with pytest.raises(UserError, match="too small") as caught:
            train(kind, least)
        least = int(re.search(r"vocab_size=(\d+)", str(caught.value))[1])
    assert train(kind, least).size == least


@pytest.mark.parametrize("kind", KINDS)
def test_no_text(kind: str) -> None:
    for nothing in ([], ["", ""], [" \n "]):
        with pytest.raises(UserError, match="no text"):
            train(kind, 300, nothing)


def test_a_negative_size() -> None:
    with pytest.raises(UserError, match="-1 tokens"):
        train("wordpiece", -1)


def test_unigram_without_sentencepiece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=re.escape("pip install 'blankfill[sp]'")):
        train_tokenizer(TEXT, TokenizerConfig(kind="unigram"))


def test_text_that_sentencepiece_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")

    def refuse(**options: object) -> None:
        raise RuntimeError("no reason")

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", refuse)
    with pytest.raises(UserError, match=r"cannot train on this text \(no reason\)"):
        train("unigram", 300)


def test_unigram_reads_long_lines_and_odd_white_space() -> None:
    text = ["\n".join(TEXT), "\0".join(TEXT), " ".join(TEXT)]
    assert sum(map(len, text)) > 10_000
    assert train("unigram", 300, text).size == 300


def test_a_wished_size_bends_to_the_text() -> None:
    """Too large a wish gives what the text supports; too small a one gives what its characters need."""
    few = ["one boat, two boats"] * 3
    small = train_tokenizer(few, TokenizerConfig(vocab_size=5000, exact=False))
    with pytest.raises(UserError, match=f"supports a vocabulary of {small.size} tokens"):
        train_tokenizer(few, TokenizerConfig(vocab_size=5000))
    many = ["".join(chr(0x4E00 + k) for k in range(start, start + 40)) for start in range(0, 1200, 40)] * 3
    large = train_tokenizer(many, TokenizerConfig(vocab_size=200, exact=False))
    assert large.size > 1190
    unknown = large.vocabulary()["unk"]
    ids, _ = large.encode_plain(many)
    assert (ids == unknown).mean() < 0.006


def test_a_word_of_a_quarter_million_letters_is_learned_in_parts():
    letters = "".join(random.Random(1).choices("ACGT", k=1 << 18))
    began = time.process_time()
    tokenizer = train_tokenizer([letters, "a" * (1 << 18), " " * (1 << 18)], TokenizerConfig("bpe", vocab_size=400))
    # uncut, the trainer takes hours
    assert time.process_time() - began < 60
    assert tokenizer.size == 400 and tokenizer.decode(tokenizer.encode(letters)) == letters


@given(st.lists(st.tuples(st.sampled_from(["a", " ", "\n", "渡"]), st.integers(1, 2500)), max_size=5))
def test_words_are_cut_only_where_they_are_long(runs: list[tuple[str, int]]):
    text = "".join(letter * count for letter, count in runs)
    parts = list(tokenizer_train._with_short_words([text]))
    assert "".join(parts) == text
    longest = max((len(run) for part in parts for run in re.findall(r"\S+|\s+", part)), default=0)
    assert longest <= tokenizer_train._LONGEST_RUN
    if not re.search(r"\S{256}|\s{256}", text):
        assert parts == [text]
