"""Case and accents of a vocab.txt whose configuration names neither: the vocabulary decides, and that is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from blankfill.corpus.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]"]
PROTEIN = list("ACDEFGHIKLMNPQRSTVWY")
LOWER = ["the", "cafe", "##s", "we", "a", "ran", "1998", "猫"]
CASED = [*LOWER, "The", "Rome", "We", "A"]
ACCENTED = [*LOWER, "café", "über"]


def vocabulary(folder: Path, words: Sequence[str], settings: dict[str, Any] | None = None) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return Tokenizer.load(folder)


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


def test_letters_of_a_protein_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tokens are capitals: as a vocabulary in lower case, every one would be unknown."""
    tokenizer = vocabulary(tmp_path, PROTEIN)
    assert words_of(tokenizer, "E V Q L [MASK] E S") == ["E", "V", "Q", "L", "[MASK]", "E", "S"]
    said = capsys.readouterr().err
    assert "vocab.txt has capital letters, and no tokenizer_config.json says do_lower_case" in said
    assert "texts keep their case" in said


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        (LOWER, ["the", "cafe"], ""),
        (CASED, ["The", "cafe"], "texts keep their case"),
        (ACCENTED, ["the", "café"], "texts keep their accents"),
        ([*CASED, "Café", "café"], ["The", "café"], "texts keep their case and accents"),
    ],
)
def test_the_vocabulary_decides(
    words: Sequence[str], expected: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings in (None, {"model_max_length": 512}):
        tokenizer = vocabulary(tmp_path, words, settings)
        assert words_of(tokenizer, "The café") == expected
        shown = capsys.readouterr().err
        assert (said in shown) if said else not shown


def test_a_few_odd_words_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vocabularies of lower-casing models have some; letters without capitals do not count."""
    words = [*(f"w{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(200)), "Ⅷ", *map(chr, range(0x4E00, 0x4E80))]
    assert words_of(vocabulary(tmp_path, words), "WAB") == ["wab"]
    assert not capsys.readouterr().err


def test_the_configuration_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in transformers; a contradiction is pointed out."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    for settings in (
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
    ):
        for words in (CASED, ACCENTED):
            tokenizer = vocabulary(tmp_path, words, settings)
            theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
            for text in ("The café We", "THE CAFÉ"):
                assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    capsys.readouterr()
    vocabulary(tmp_path, CASED, {"do_lower_case": True})
    assert (
        "says do_lower_case, and vocab.txt has capital letters, which no text can then give" in capsys.readouterr().err
    )
