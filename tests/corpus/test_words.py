"""Where words of scripts without spaces, listed phrases and entities begin; the messages without them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from blankfill.corpus import words
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.words import Lexicon, joined, phrase_units, word_units
from blankfill.errors import UserError, in_flags

TEXT = "哈尔滨是黑龙江省会"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make(pieces: list[str]) -> Tokenizer:
    """A word-piece tokenizer that keeps its text's case and parts Chinese characters, as BERT's."""
    made = tokenizers.Tokenizer(
        models.WordPiece({piece: k for k, piece in enumerate([*SPECIAL, *pieces])}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(made)


ENGLISH = ["the", "Old", "Bailey", "stood", "near", "New", "York", "##ers", "and", ",", "The", "Queen"]
TOKENIZER = make([*dict.fromkeys(TEXT + "，"), *dict.fromkeys(ENGLISH)])
COUNTS = np.ones(TOKENIZER.size, np.int64)


def told(units: words.Units, text: str, starts: tuple[int, ...] = (0,)) -> list[list[str]]:
    """The units of each level as text."""
    ids = np.array(TOKENIZER.encode(text), np.int32)
    vocabulary = TOKENIZER.vocabulary()
    assert vocabulary.word_start is not None
    rows = units(ids, vocabulary.word_start[ids], np.array([*starts, len(ids)], np.int32))
    names = [TOKENIZER.token(k) for k in ids.tolist()]
    results = []
    for row in rows:
        cuts = [*np.flatnonzero(row).tolist(), len(ids)]
        results.append(["".join(names[a:b]) for a, b in pairwise(cuts)])
    return results


def test_chinese_words_are_joined() -> None:
    pytest.importorskip("rjieba")
    units = word_units(TOKENIZER, COUNTS)
    assert units is not None
    (result,) = told(units, TEXT + "，New Yorkers，哈尔滨")
    assert result == ["哈尔滨", "是", "黑龙江省", "会", "，", "New", "York##ers", "，", "哈尔滨"]
    (result,) = told(units, TEXT, (0, 2))
    assert result[:2] == ["哈尔", "滨"], "a word does not reach over the beginning of a sentence"


def test_a_text_without_chinese_needs_no_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "has_module", lambda name: False)
    english = make(ENGLISH)
    assert word_units(english, np.ones(english.size, np.int64)) is None
    with pytest.raises(UserError, match=r"rjieba, which is not installed: pip install 'blankfill\[zh\]'"):
        word_units(TOKENIZER, COUNTS)


def test_parts_of_characters_are_refused() -> None:
    made = tokenizers.Tokenizer(models.BPE({c: k for k, c in enumerate(sorted("ä½łåĠab"))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    parts = Tokenizer(made)
    with pytest.raises(UserError, match="in parts or together"):
        word_units(parts, np.ones(parts.size, np.int64))


def test_listed_phrases_and_entities(tmp_path: Path) -> None:
    pytest.importorskip("rjieba")
    (tmp_path / "phrases.txt").write_text("是黑龙江\t17\nstood near\n不知\n", encoding="utf-8")
    (tmp_path / "entities.txt").write_text("黑龙江省会\t3\n", encoding="utf-8")
    units = phrase_units(
        TOKENIZER, COUNTS, str(tmp_path / "phrases.txt"), str(tmp_path / "entities.txt"), ("phrase", "entity")
    )
    basic, phrase, entity = told(units, TEXT + "stood near")
    assert basic == [*TEXT, "stood", "near"]
    assert phrase == ["哈尔滨", "是黑龙江", "省", "会", "stoodnear"]
    assert entity == ["哈尔滨", "是", "黑龙江省会", "stoodnear"]


def test_capitals_that_follow_one_another_are_an_entity() -> None:
    units = phrase_units(TOKENIZER, COUNTS, "", "", ("entity",))
    text = "The Queen near New Yorkers and the Old Bailey"
    assert told(units, text)[2] == ["The", "Queen", "near", "NewYork##ers", "and", "the", "OldBailey"]
    assert told(units, text)[1] == ["The", "Queen", "near", "New", "York##ers", "and", "the", "Old", "Bailey"]


def test_lists_that_do_not_fit_are_told(tmp_path: Path) -> None:
    small = make(["the", "queen"])
    counts = np.ones(small.size, np.int64)
    with pytest.raises(UserError, match=r"objective.phrase is above 0.*no Chinese") as refused:
        phrase_units(small, counts, "", "", ("phrase",))
    assert in_flags(refused.value.sentence).endswith("name one with --objective.phrases, or give --objective.phrase 0")
    with pytest.raises(UserError, match=r"objective.entity is above 0.*no capital"):
        phrase_units(small, counts, "", "", ("entity",))
    with pytest.raises(UserError, match=r"absent\.txt does not exist"):
        phrase_units(small, counts, str(tmp_path / "absent.txt"), "", ("phrase",))
    (tmp_path / "list.txt").write_text("不知\nthe\n", encoding="utf-8")
    with pytest.raises(UserError, match="of the 2 words"):
        phrase_units(small, counts, str(tmp_path / "list.txt"), "", ("phrase",))


def test_the_longest_listed_word_is_taken_from_the_left() -> None:
    lexicon = Lexicon.of(["哈尔", "哈尔滨是", "滨是黑", "New York", "会"], TOKENIZER)
    assert len(lexicon.entries) == 4, "a word of one token needs no list"
    ids = np.array(TOKENIZER.encode(TEXT + "New Yorkers New York"), np.int32)
    word_start = TOKENIZER.vocabulary().word_start
    assert word_start is not None
    spans = list(lexicon.spans(ids, word_start[ids]))
    assert spans == [(0, 4), (len(ids) - 2, len(ids))], "New York does not end inside Yorkers"
    assert joined(np.ones(4, np.bool_), iter([(1, 3)])).tolist() == [True, True, False, True]


JAPANESE = "昨日は東京大学の学生がラーメンを食べた"
THAI, KHMER, LAO, BURMESE = "ฉันชอบกินข้าว", "ខ្ញុំស្រឡាញ់ភាសាខ្មែរ", "ຂ້ອຍຮັກພາສາລາວ", "ကျွန်တော်မြန်မာစာ"


def by_characters(text: str) -> Tokenizer:
    """A word-piece tokenizer with a token for each character, which isolates none."""
    pieces = [*dict.fromkeys(text), *dict.fromkeys(f"##{character}" for character in text)]
    made = tokenizers.Tokenizer(
        models.WordPiece({piece: k for k, piece in enumerate([*SPECIAL, *pieces])}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(made)


def cut(text: str) -> list[str]:
    """The words of a text of one script, and the tokens of each put together."""
    tokenizer = by_characters(text)
    ids = np.array(tokenizer.encode(text), np.int32)
    units = word_units(tokenizer, np.bincount(ids, minlength=tokenizer.size))
    word_start = tokenizer.vocabulary().word_start
    assert units is not None and word_start is not None
    (row,) = units(ids, word_start[ids], np.array([0, len(ids)], np.int32))
    cuts = [*np.flatnonzero(row).tolist(), len(ids)]
    return ["".join(tokenizer.texts()[k] for k in ids[a:b]) for a, b in pairwise(cuts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (JAPANESE, ["昨日", "は", "東京", "大学", "の", "学生", "が", "ラーメン", "を", "食", "べた"]),
        (THAI, ["ฉัน", "ชอบ", "กิน", "ข้าว"]),
        (LAO, ["ຂ້ອຍ", "ຮັກ", "ພາສາ", "ລາວ"]),
    ],
)
def test_words_of_scripts_without_spaces(text: str, expected: list[str]) -> None:
    pytest.importorskip("icu4py")
    assert cut(text) == expected


@pytest.mark.parametrize("text", [KHMER, BURMESE])
def test_words_of_khmer_and_burmese(text: str) -> None:
    pytest.importorskip("icu4py")
    assert len(cut(text)) > 1


def test_without_icu_the_characters_or_the_tokenizer_decide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(words, "has_module", lambda name: False)
    assert cut(JAPANESE) == ["昨日は", "東京大学の", "学生が", "ラーメン", "を", "食べた"]
    assert (
        "pip install 'blankfill[words]'); without it, they are cut by changes of characters" in capsys.readouterr().err
    )
    pieces = cut(THAI + " " + THAI)
    assert "".join(pieces) == THAI + THAI and len(pieces) == 2 * len(cut(THAI)) > 4  # those of the tokenizer
    assert "whole words of Thai are found by icu4py" in capsys.readouterr().err


def test_kana_decides_between_chinese_and_japanese() -> None:
    for text, scripts in ((JAPANESE, ["Japanese"]), (TEXT * 9 + "の", ["Chinese"]), (TEXT + THAI, ["Chinese", "Thai"])):
        tokenizer = by_characters(text)
        counts = np.bincount(tokenizer.encode(text), minlength=tokenizer.size)
        assert [part.script for part in words.segmented_scripts(tokenizer.texts(), counts)[1]] == scripts


def test_phrases_of_japanese_are_its_words() -> None:
    pytest.importorskip("icu4py")
    tokenizer = by_characters(JAPANESE)
    ids = np.array(tokenizer.encode(JAPANESE), np.int32)
    units = phrase_units(tokenizer, np.bincount(ids, minlength=tokenizer.size), "", "", ("phrase",))
    basic, phrases, _ = units(ids, np.ones(len(ids), np.bool_), np.array([0, len(ids)], np.int32))
    assert basic.all()
    assert np.flatnonzero(phrases)[:6].tolist() == [0, 2, 3, 5, 7, 8]
