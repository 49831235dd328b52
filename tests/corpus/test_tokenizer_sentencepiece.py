"""SentencePiece files alone give the ids of transformers: quotes, accents, case, spaces and sentinels by family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError

LEARNT = ["The small Ferry crosses the lake every morning", 'people wait at the “landing” with "baskets"',
          "Bells ring at noon in Café Zürich", "été naïve résumé", "don''t say ``no'' 😀 smile", "a price of 5 €",
          "fichier ﬁn ½ ①"] * 20  # fmt: skip
TEXTS = ["The Ferry  crosses", "Café Zürich été", "``Hello'' he said", "  lead and trail  ", 'don\'\'t "quote" “curly”',
         "emoji 😀 here", "Fi ﬁ ½ ①", "tab\there\nnewline", "a\u00a0b", "e\u0301te", "İstanbul ẞ Σς",
         "the <extra_id_0> lake <extra_id_1>.", "x<extra_id_0>y", "", " ", "zero\u200bwidth", "한국어"]  # fmt: skip
MARKS: dict[str, dict[str, Any]] = {
    "albert": {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
    "xlnet": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1,
              "control_symbols": ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]},
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
}  # fmt: skip
CLASSES = {"albert": "AlbertTokenizer", "xlnet": "XLNetTokenizer", "t5": "T5Tokenizer"}


def spiece(folder: Path, family: str, rule: str = "nmt_nfkc", settings: dict[str, Any] | None = None) -> Path:
    """A folder with spiece.model, config.json and, with settings, tokenizer_config.json."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNT), model_prefix=str(folder / "spiece"), vocab_size=160, hard_vocab_limit=False,
        minloglevel=2, normalization_rule_name=rule, **MARKS[family],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    if settings is not None:
        text = json.dumps({"tokenizer_class": CLASSES[family], **settings})
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "settings",
    [None, {}, {"do_lower_case": False}, {"do_lower_case": True}, {"do_lower_case": False, "keep_accents": True},
     {"extra_ids": 10}],
)  # fmt: skip
@pytest.mark.parametrize("family", CLASSES)
def test_ids_are_those_of_transformers(family: str, settings: dict[str, Any] | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    for rule in ("nmt_nfkc", "identity"):
        folder = spiece(tmp_path / rule, family, rule, settings)
        ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
        assert type(theirs).__name__ == CLASSES[family] and ours.size == len(theirs)
        if family == "xlnet" and settings and settings.get("keep_accents"):
            continue  # transformers 5 reads the setting and strips accents all the same
        for text in TEXTS:
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text) == expected, text
            if "<extra_id_" not in text:  # text of a corpus is read alike, by the fast way or by the library
                assert ours.encode_plain([text])[0].tolist() == expected, text


def test_accents_stay_where_the_configuration_says_so(tmp_path: Path) -> None:
    for family in ("albert", "xlnet"):
        tokenizer = Tokenizer.load(spiece(tmp_path / family, family, settings={"keep_accents": True}))
        assert tokenizer.encode("Café") != tokenizer.encode("Cafe")
        assert tokenizer.decode(tokenizer.encode("été")) == "été"


def test_capitals_of_an_albert_are_known(tmp_path: Path) -> None:
    """They are lower-cased as in its training; before, each was unknown and nobody said so."""
    tokenizer = Tokenizer.load(spiece(tmp_path / "albert", "albert"))
    assert tokenizer.encode("THE FERRY") == tokenizer.encode("the ferry")
    assert tokenizer.vocabulary()["unk"] not in tokenizer.encode("The Ferry crosses")


def test_sentinels_lie_behind_the_pieces(tmp_path: Path) -> None:
    """The first one last, 100 or as many as `extra_ids` says; no text of a corpus gives one."""
    for settings, count in ((None, 100), ({"extra_ids": 7}, 7), ({"extra_ids": 0}, 0)):
        tokenizer = Tokenizer.load(spiece(tmp_path / f"t5-{count}", "t5", settings=settings))
        sentinels = tokenizer.vocabulary().sentinels
        assert sentinels == tuple(tokenizer.size - 1 - k for k in range(count))
        if count:
            assert tokenizer.encode("<extra_id_0>") == [tokenizer.size - 1]
            assert not set(tokenizer.encode_plain(["the <extra_id_0> lake"])[0].tolist()) & set(sentinels)
    others = Tokenizer.load(spiece(tmp_path / "other", "xlnet"))
    assert not others.vocabulary().sentinels


def test_a_file_of_no_known_family_is_read_plainly(tmp_path: Path) -> None:
    folder = spiece(tmp_path / "albert", "albert")
    (folder / "config.json").unlink()
    tokenizer = Tokenizer.load(folder / "spiece.model")
    assert tokenizer.vocabulary()["unk"] not in tokenizer.encode("The Ferry crosses") and tokenizer.size == len(
        Tokenizer.load(folder)._ids
    )
    assert tokenizer.encode("The") != tokenizer.encode("the")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_ids": -1}, "`extra_ids` is -1, which is not the number of T5's sentinels"),
        ({"extra_ids": "many"}, "`extra_ids`: a text where a whole number is expected"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Tokenizer.load(spiece(tmp_path / "t5", "t5", settings=settings))
