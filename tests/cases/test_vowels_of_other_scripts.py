"""The case vowels-of-other-scripts: vowel signs, tones, voicing marks, hamzas and syllables survive WordPiece."""

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.tokenizer import Tokenizer

CONFIG = PrepareConfig(dedup="none", vocab_exact=False, vocab_size=300, workers=1)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("hindi", "किताबें पढ़ते हैं"),
        ("vietnamese", "mỗi buổi sáng"),
        ("japanese", "がっこう"),
        ("korean", "아침마다 작은 배가"),
        ("arabic", "ويأخذ أولاده الخبز إلى"),
    ],
)
def test_no_mark_is_lost(
    case: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str, words: str
) -> None:
    source = case("vowels-of-other-scripts") / f"{language}.txt"
    words = unicodedata.normalize("NFC", words)
    assert words in unicodedata.normalize("NFC", source.read_text(encoding="utf-8")).lower()
    report = prepare([source], tmp_path / "out", replace(CONFIG, workers=1))
    tokenizer = Tokenizer.load(tmp_path / "out")
    read_back = tokenizer.decode(tokenizer.encode(words))
    assert read_back == words and unicodedata.is_normalized("NFC", read_back)
    assert report.unknown == 0 and "are kept" in capsys.readouterr().err
    assert all(unicodedata.is_normalized("NFC", token) for token in tokenizer._ids)
