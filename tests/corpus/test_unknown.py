"""The share of unknown tokens: what is counted, when a command stops, and what the sentence says."""

import threading
from pathlib import Path

import numpy as np
import pytest

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import wordpiece
from blankfill.corpus.unknown import ENOUGH, KEPT_TEXTS, SAMPLE, check_counts, counting
from blankfill.errors import UserError
from generate_models import byte_level
from generate_models import wordpiece as few_words

WORDS = few_words()
CHINESE = ["我们去看电影吧"] * 50
ENGLISH = ["the cat sat on the mat"] * 50


def with_words(*words: str, lowercase: bool = True) -> Tokenizer:
    vocab = {token: id for id, token in enumerate(["[UNK]", *words])}
    return Tokenizer(wordpiece(vocab, lowercase=lowercase, strip_accents=False))


def test_every_way_of_encoding_is_counted() -> None:
    text = "the cat 电 sat [MASK]"
    for encode, tokens, unknown in (
        (lambda: WORDS.encode(text), 4, 1),  # a mask is no token of the text
        (lambda: WORDS.encode_batch(["the cat 电 sat", "电"]), 5, 2),
        (lambda: WORDS.encode_plain(["the cat 电 sat", "", "电"]), 5, 2),
        (lambda: WORDS.encode_places("the cat 电 sat"), 4, 1),
    ):
        with counting(allow=True) as count:
            encode()
        assert (count.tokens, count.unknown) == (tokens, unknown)
    WORDS.encode(text)
    assert count.tokens == tokens  # nothing is counted outside


def test_many_unknown_tokens_stop_with_their_characters() -> None:
    with pytest.raises(UserError) as caught, counting("the rows"):
        WORDS.encode_batch(CHINESE)
    message = str(caught.value)
    assert message.startswith(
        "100.0% of the 350 tokens of the rows are unknown to the tokenizer, most often 我 (Han), 们 (Han)"
    )
    assert "text in Han script" in message and message.endswith("; allow_unknown=True continues all the same")


def test_allowed_ones_give_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("the rows", allow=True, report=True):
        WORDS.encode_batch(CHINESE)
    assert capsys.readouterr().err.count("100.0% of the 350 tokens of the rows") == 1


def test_few_are_reported_where_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for report in (True, False):
        with counting("the rows", report=report) as count:
            WORDS.encode_batch([*ENGLISH, "电"])
        assert 0 < count.share < 0.05
        assert capsys.readouterr().err == ("The rows: 0.33% of 301 tokens are unknown.\n" if report else "")


def test_one_emoji_in_a_sentence_is_only_noted(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("the sentence"):
        WORDS.encode("the cat 😀 sat on the [MASK]")
    assert "16.7% of the 6 tokens of the sentence" in capsys.readouterr().err
    with (
        pytest.raises(UserError, match=r"The only token of the sentence is unknown .* 😀 \(symbol\)"),
        counting("the sentence"),
    ):
        WORDS.encode("😀 [MASK]")
    with counting("the sentence"):
        WORDS.encode("")
    assert capsys.readouterr().err == ""


def test_the_limit_is_five_percent_of_enough_tokens() -> None:
    known = ["the"] * (ENOUGH - 5)
    with counting():
        WORDS.encode_batch([*known, *["电"] * 5])
    with pytest.raises(UserError, match=r"6\.0%"), counting():
        WORDS.encode_batch([*known[1:], *["电"] * 6])


def test_a_stream_is_decided_on_its_first_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError), counting(streams=True):
        while True:
            WORDS.encode_batch(CHINESE)
    with counting(streams=True, report=True) as count:
        WORDS.encode_batch(["the cat"] * SAMPLE)
        WORDS.encode_batch(CHINESE * 20)
    assert count.too_many and "of the text are unknown" in capsys.readouterr().err
    with pytest.raises(UserError), counting(streams=True) as count:
        WORDS.encode_batch(CHINESE[:10])
        count.decide()  # before the first output
        raise AssertionError("it went on")


@pytest.mark.parametrize(
    ("words", "text", "remedy"),
    [
        (["the", "cat"], "THE CAT", "do_lower_case"),
        (["THE", "CAT", "T", "C"], "the cat t c", "in capitals"),
        (["e", "a"], "é à", "strip_accents"),
        (["a"], "कि ता", "text in Devanagari script"),
        (["a"], "😀 1", "use another model or tokenizer"),
    ],
)
def test_the_remedy_fits_the_characters(words: list[str], text: str, remedy: str) -> None:
    letters = [c for word in words for c in word]
    tokenizer = with_words(*dict.fromkeys([*words, *letters]), lowercase=False)
    with pytest.raises(UserError, match=remedy), counting():
        tokenizer.encode(text)


def test_a_word_that_its_pieces_do_not_spell_is_named() -> None:
    with pytest.raises(UserError, match="such as the word ab, which its pieces do not spell"), counting():
        with_words("a", "b").encode_batch(["ab"] * 200)


def test_bytes_have_no_unknown_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_level(ENGLISH)
    assert tokenizer.unknown is None
    with counting(report=True) as count:
        tokenizer.encode_batch(CHINESE)
    assert count.tokens and not count.unknown and not capsys.readouterr().err


def test_threads_count_for_themselves() -> None:
    with counting() as count:
        thread = threading.Thread(target=WORDS.encode_batch, args=(CHINESE,))
        thread.start()
        thread.join()
    assert count.tokens == 0


def test_a_bounded_part_of_the_texts_is_kept() -> None:
    with counting(allow=True) as count:
        WORDS.encode_plain(["电" * 5000] * (KEPT_TEXTS + 50))
    assert len(count.texts) == KEPT_TEXTS and max(map(len, count.texts)) <= 2000
    assert count.unknown == 5000 * (KEPT_TEXTS + 50)


def test_counts_of_a_corpus_are_decided_likewise() -> None:
    counts = np.zeros(WORDS.size, np.int64)
    counts[[1, 12]] = 10, 90
    with pytest.raises(UserError, match=r"10\.0% of the 100 tokens of corpus"):
        check_counts(WORDS, counts, "corpus", allow=False)
    check_counts(WORDS, counts, "corpus", allow=True)
    counts[1] = 1
    check_counts(WORDS, counts, "corpus", allow=False)


REVIEWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "chnsenticorp" / "dev.tsv"


@pytest.mark.data
def test_chinese_reviews_stop_an_english_vocabulary() -> None:
    if not REVIEWS.exists():
        pytest.skip(f"the data are absent: {REVIEWS}")
    texts = [line.split("\t")[-1] for line in REVIEWS.read_text(encoding="utf-8").splitlines()[1:]]
    with pytest.raises(UserError, match=r"的 \(Han\)"), counting("the reviews"):
        with_words("the", "a", "，", "。", *"abcdefghijklmnopqrstuvwxyz0123456789").encode_batch(texts)
