"""A T5 with its SentencePiece file alone has its 100 sentinels behind the pieces, and a text may name them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.cli.main import main
from blankfill.corpus.tokenizer import Tokenizer


def test_a_t5_fills_with_the_sentinels_of_its_family(
    case: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("transformers", "sentencepiece"):
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    folder = case("sentinels-of-spiece")
    made = subprocess.run([sys.executable, "make.py"], cwd=folder, capture_output=True, text=True, check=True)
    wanted = int(made.stdout.split()[-1])
    tokenizer = Tokenizer.load(folder / "t5")
    assert tokenizer.size == wanted + 1 and len(tokenizer.vocabulary().sentinels) == 100
    ids = tokenizer.encode("The ferry <extra_id_0> the lake.")
    assert ids.count(wanted) == 1
    assert main(["fill", "--model", str(folder / "t5"), "The ferry <extra_id_0> the lake."]) == 0
    assert "<extra_id_0>" in capsys.readouterr().out
