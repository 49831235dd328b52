"""The case bpe-long-words: a BPE vocabulary of 1.6 MB without a space, of one repeated word and of random letters."""

import random
import time
from pathlib import Path

import pytest

from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare


@pytest.mark.parametrize(
    "letters",
    ["ACGT" * 400_000, "".join(random.Random(0).choices("ACGT", k=1_600_000))],
    ids=["repeated", "random"],
)
def test_time_grows_with_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], letters: str) -> None:
    (tmp_path / "dna.txt").write_text(letters, encoding="utf-8")
    began = time.process_time()
    report = prepare([tmp_path / "dna.txt"], tmp_path / "out", PrepareConfig(tokenizer="bpe", workers=1))
    assert time.process_time() - began < 120  # uncut, it takes hours
    assert report.unknown == 0 and report.characters_per_token > 4
    assert "2/4 training a bpe tokenizer: " in capsys.readouterr().err
