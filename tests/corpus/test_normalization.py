"""The steps that keep marks and cut runs: what they give, on every path, in ours and in transformers."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blankfill.corpus import clean
from blankfill.corpus.normalization import LONGEST_RUN, apply
from blankfill.corpus.scripts import Normalization
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import wordpiece
from blankfill.corpus.tokenizer_train import TokenizerConfig, train_tokenizer

ALL = [
    Normalization(lower, strip, True, cut)
    for lower in (True, False)
    for strip in (True, False)
    for cut in (True, False)
]
THAI = "ทุกเช้าเรือลำเล็กจะข้ามทะเลสาบไปยังหมู่บ้านอีกฝั่งหนึ่งซึ่งผู้คนรอคอยขนมปังและจดหมายอยู่ที่ท่าเรือ"


def made(choice: Normalization, vocab: dict[str, int] | None = None) -> tokenizers.Tokenizer:
    return apply(wordpiece(vocab or {"[UNK]": 0}, lowercase=choice.lowercase), choice)


@pytest.mark.parametrize(
    ("text", "lowered"),
    [("Café ÅNGSTRÖM", "cafe angstrom"), ("किताबें पढ़ते हैं", None), ("がっこう", None), ("한국어", None),
     ("Йод Ёж", "йод ёж"), ("أحمد", None), ("ήΗ", "ήη"), ("👩\u200d👩\u200d👧 ❤\ufe0f", None), ("می\u200cخواهم", None),
        ("Tiếng", "tieng")],
)  # fmt: skip
def test_only_accents_of_latin_letters_are_removed(text: str, lowered: str | None) -> None:
    text = unicodedata.normalize("NFC", text)
    pipeline = made(Normalization(True, True, True)).normalizer
    unchanged = made(Normalization(False, False, True)).normalizer
    assert pipeline is not None and unchanged is not None
    for form in ("NFC", "NFD"):
        assert pipeline.normalize_str(unicodedata.normalize(form, text)) == (lowered or text)
        assert unchanged.normalize_str(unicodedata.normalize(form, text)) == text


def test_the_characters_removed_are_those_of_the_corpus() -> None:
    pipeline = made(Normalization(False, False, True)).normalizer
    assert pipeline is not None
    for code in (*range(0x300), *range(0x600, 0x620), *range(0x1800, 0x1810), *range(0x2000, 0x2070), 0xE000, 0xFEFF):
        text = f"a{chr(code)}b"
        ours = clean.characters(text)
        if not any(map(str.isspace, text)):  # the pre-tokenizer splits at white space
            assert pipeline.normalize_str(text) == ours, hex(code)


@pytest.mark.parametrize("choice", ALL, ids=str)
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(
        st.one_of(st.sampled_from("a bé文\u0301\u200d\u200c\ufe0fทีっが한\n,İıΣ豈"), st.characters(codec="utf-8")),
        max_size=60,
    )
)
@example(text="a" * 101 + " the")
@example(text="the" * 40 + "文\u0301the")
def test_the_fast_path_equals_the_library(choice: Normalization, text: str) -> None:
    letters = "the ab文ทีっが한é,"
    pieces = dict.fromkeys(["[UNK]", *letters.replace(" ", ""), *(f"##{c}" for c in letters)])
    tokenizer = Tokenizer(made(choice, {token: id for id, token in enumerate(pieces)}))
    if "[UNK]" not in text:
        assert tokenizer.encode_plain([text])[0].tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("choice", ALL, ids=str)
@given(text=st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_text_is_written_in_nfc(choice: Normalization, text: str) -> None:
    pipeline = made(choice).normalizer
    assert pipeline is not None
    assert all(unicodedata.is_normalized("NFC", part) for part in pipeline.normalize_str(text).split())


def test_cut_runs_are_joined_again() -> None:
    tokenizer = train_tokenizer([THAI * 3, "abc"] * 5, TokenizerConfig(vocab_size=300, exact=False))
    for text in (THAI * 3, f"{THAI} {THAI}", f"{THAI[:60]} {THAI} abc"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.unknown not in ids
    splitter = tokenizer._full.pre_tokenizer
    assert splitter is not None
    for word, _ in splitter.pre_tokenize_str(THAI):
        assert sum(unicodedata.category(c)[0] != "M" for c in word) <= LONGEST_RUN
        assert unicodedata.category(word[0])[0] != "M"
    dna = train_tokenizer(["ACGT" * 200] * 3, TokenizerConfig(vocab_size=100, exact=False))
    assert dna.decode(dna.encode("ACGT" * 200)) == "acgt" * 200


def test_pieces_of_a_run_count_as_words() -> None:
    words, draw = ["เรือ", "ทะเลสาบ", "หมู่บ้าน", "ขนมปัง", "จดหมาย", "ท่าเรือ", "ผู้คน"], random.Random(0)
    lines = ["".join(draw.choices(words, k=12)) for _ in range(60)]
    tokenizer = train_tokenizer([*lines, "playing play"], TokenizerConfig(vocab_size=90, exact=False))
    starts = tokenizer.vocabulary().word_start
    assert starts is not None
    ids = [id for line in lines for id in tokenizer.encode(line)]
    assert 8 < starts[ids].sum() / len(lines) < 24  # 12 words in 2 or 3 runs
    for token, id in tokenizer._ids.items():
        if token.startswith("##") and unicodedata.category(token[2]) in ("Mn", "Ll"):
            assert not starts[id]


def test_words_of_scripts_without_spaces_are_added_anywhere() -> None:
    tokenizer = train_tokenizer([THAI] * 3, TokenizerConfig(vocab_size=200, exact=False)).with_words(["เรือลำเล็ก"])
    assert tokenizer.id("เรือลำเล็ก") in tokenizer.encode(THAI)


def test_transformers_gives_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    texts = [THAI, "किताबें पढ़ते हैं", "한국어 Café", "👩\u200d👩\u200d👧 ❤\ufe0f", "がっこう"]
    ours = train_tokenizer(texts * 3, TokenizerConfig(vocab_size=300, exact=False))
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    reopened = Tokenizer.load(tmp_path)
    for text in texts:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids == reopened.encode(text)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["do_lower_case"] is True and config["strip_accents"] is False


@pytest.mark.parametrize("lowercase", [False, True])
def test_unigram_keeps_the_joiners_of_persian(lowercase: bool) -> None:
    pytest.importorskip("sentencepiece")
    text = [f"او می\u200cخواهم نامه {number} را" for number in range(200)]
    tokenizer = train_tokenizer(text, TokenizerConfig("unigram", vocab_size=320, exact=False, lowercase=lowercase))
    assert "می\u200cخواهم" in tokenizer.decode(tokenizer.encode(text[0]))


LANGUAGES = ("ara", "cmn", "deu", "fra", "ita", "jpn", "kor", "por", "rus", "spa", "tha", "vie", "wuu", "yue")
TATOEBA = Path(__file__).resolve().parents[3] / "shared" / "data" / "webtext" / "langid_tatoeba"


@pytest.mark.data
@pytest.mark.parametrize("language", LANGUAGES)
def test_fifteen_languages_are_read_back(language: str) -> None:
    path = TATOEBA / f"tatoeba.{language}-eng.{language}"
    if not path.exists():
        pytest.skip(f"the data are absent: {path}")
    lines = clean.characters(path.read_text(encoding="utf-8")).splitlines()
    tokenizer = train_tokenizer(lines, TokenizerConfig(vocab_size=2000, exact=False))
    ids, _ = tokenizer.encode_plain(lines)
    assert (ids == tokenizer.unknown).mean() < 0.02
    for line in lines[:200]:
        ids_of_line = tokenizer.encode(line)
        if tokenizer.unknown not in ids_of_line:
            wanted = "".join(line.lower().split())
            assert "".join(tokenizer.decode(ids_of_line).split()) == unicodedata.normalize("NFC", wanted)
