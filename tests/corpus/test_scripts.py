"""What a text is made of, and what follows for case, accents and long runs."""

import pytest

from blankfill.corpus.scripts import Normalization, Writing, advice, decide, named, script_of


@pytest.mark.parametrize(
    ("character", "script"),
    [("a", "Latin"), ("é", "Latin"), ("Ａ", "Latin"), ("й", "Cyrillic"), ("中", "Han"), ("が", "Hiragana"),
     ("ｶ", "Katakana"), ("한", "Hangul"), ("ึ", "Thai"), ("ि", "Devanagari"), ("أ", "Arabic"), ("1", ""), ("😀", ""),
     ("\u0301", ""), ("\u200d", ""), ("\U00010300", "Old Italic")],
)  # fmt: skip
def test_scripts(character: str, script: str) -> None:
    assert script_of(character) == script


def test_characters_are_named_with_their_scripts() -> None:
    assert [named(c) for c in "的😀7,\u0e36\u200d"] == [
        "的 (Han)", "😀 (symbol)", "7 (digit)", ", (punctuation)", "U+0E36 (Thai)", "U+200D (control)",
    ]  # fmt: skip


def decided(text: str, **options: bool) -> Normalization:
    return decide(Writing.of([text]), **options)


PLAIN = Normalization()
KEPT = {
    "Hindi": "किताबें पढ़ते हैं", "Thai": "ที่นี่", "Khmer": "ភាសាខ្មែរ", "Japanese": "がっこう", "Korean": "한국어",
    "Arabic": "أحمد", "Hebrew": "שָׁלוֹם", "Russian": "йод и ёж", "Greek": "ή", "emoji": "👩\u200d👩\u200d👧",
    "selector": "❤\ufe0f",
    "Persian": "می\u200cخواهم",
}  # fmt: skip


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_marks_of_other_scripts_are_kept(text: str) -> None:
    assert decided(f"The cat sat. {text}").marks and decided(text, strip_accents=True).marks


@pytest.mark.parametrize("text", ["The cat sat in a café.", "中文 and English", "1234", "naïve " + "plain words " * 99])
def test_english_and_chinese_are_normalised_as_by_bert(text: str) -> None:
    # a text of one sentence is too short to have a share of accents: the rest is English
    assert decided(text + " The old captain repairs a wooden boat before supper." * 20) == PLAIN


def test_accents_stay_where_many_letters_have_them() -> None:
    for text in ("Tiếng Việt có thanh điệu", "Die schöne Müllerin hört Flöten", "El niño no durmió mañana"):
        choice = decided(text)
        assert choice.lowercase and not choice.strip_accents and choice.marks
        assert "accents are kept, since" in choice.words
    assert decided("El niño", strip_accents=True).strip_accents
    assert not decided("The cat", strip_accents=False).strip_accents


def test_case_stays_where_lower_casing_changes_letters() -> None:
    turkish = decided("Işık ve ırmak kıyısı")
    assert not turkish.lowercase and not turkish.strip_accents and "ı" in turkish.words
    assert decided("Işık ve ırmak", lowercase=True).lowercase
    assert not decided("The cat", lowercase=False).strip_accents


def test_runs_are_cut_where_text_has_no_spaces() -> None:
    assert decided("ภาษาไทย").cut and decided("がっこう").cut and decided("ACGT" * 40).cut
    assert not decided("中文没有空格").cut and not decided("The cat " * 50).cut and not decided("한국어").cut
    assert "(100.0% of the text) are cut" in decided("ACGT" * 40).words


def test_unigram_is_recommended_for_text_without_spaces() -> None:
    assert "100% of the letters are Thai" in advice(Writing.of(["ภาษาไทย"]))
    assert "words of more than 100 characters" in advice(Writing.of(["ACGT" * 40]))
    assert not advice(Writing.of(["The cat sat on the mat, ภาษาไทย"])) and not advice(Writing.of(["中文没有空格"]))


def test_a_long_sentence_of_chinese_is_no_long_word() -> None:
    """WordPiece takes each Chinese character for a word, so nothing has to be cut."""
    text = "此開卷第一回也作者自云因曾歷過一番夢幻之後" * 10
    assert decided(text) == PLAIN and not advice(Writing.of([text]))
    assert decided(text + "a" * 101).cut
