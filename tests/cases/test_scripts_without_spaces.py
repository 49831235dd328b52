"""The case scripts-without-spaces: Thai and kana are cut into pieces that the default vocabulary knows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.tokenizer import Tokenizer


@pytest.mark.parametrize("script", ["thai", "kana"])
def test_nothing_is_unknown(case: Callable[[str], Path], tmp_path: Path, script: str) -> None:
    source = case("scripts-without-spaces") / f"{script}.txt"
    config = PrepareConfig(dedup="none", vocab_exact=False, vocab_size=800, workers=1)
    report = prepare([source], tmp_path / "out", config)
    assert report.unknown == 0 and report.vocabulary > 100 and report.normalization["cut"]
    assert any("unigram" in notice for notice in report.notices)
    tokenizer, line = Tokenizer.load(tmp_path / "out"), source.read_text(encoding="utf-8").split("\n")[0]
    assert len(line) > 100 and tokenizer.decode(tokenizer.encode(line)) == line
