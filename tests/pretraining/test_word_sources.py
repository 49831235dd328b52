"""A run notes how it finds whole words of Japanese and Thai, and is not resumed with other words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blankfill
from blankfill.config.recipe import load_recipe
from blankfill.corpus import words
from blankfill.errors import UserError
from blankfill.pretraining.run import pretrain, resume
from small_run import SMALL

pytestmark = pytest.mark.usefixtures("restored_threads")

CHANGES: dict[str, Any] = {**SMALL, "train.threads": 1, "objective.whole_word": True, "corpus.vocab_size": 0}


def japanese(seed: int) -> str:
    rng = np.random.default_rng(seed)
    who, what, does = (
        ["先生は", "友達が", "子供たちは"],
        ["本を", "手紙を", "ラーメンを"],
        ["読みました。", "買いました。", "見ています。"],
    )
    return "".join(str(rng.choice(part)) for _ in range(40) for part in (who, what, does))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for seed in range(12):
        (tmp_path / "texts" / f"{seed}.txt").write_text(japanese(seed) + "\n", encoding="utf-8")
    blankfill.prepare([str(tmp_path / "texts")], tmp_path / "corpus", load_recipe("mlm-nano", CHANGES).corpus)
    return tmp_path / "corpus"


def test_a_run_is_not_resumed_with_other_words(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("icu4py")
    run = tmp_path / "run"
    pretrain([str(corpus)], load_recipe("mlm-nano", CHANGES), run, stop_after=1e-9)
    noted = json.loads((run / "inputs.json").read_text(encoding="utf-8"))["words"]
    assert list(noted) == ["Japanese"] and noted["Japanese"].startswith("icu4py, ICU ")
    monkeypatch.setattr(words, "has_module", lambda name: name != "icu4py")
    with pytest.raises(
        UserError, match=r"whole words of Japanese is \"changes of characters\" and was \"icu4py, ICU .*Inst"
    ):
        resume(run)
    assert "whole words of Japanese are found by icu4py, which is not installed" in capsys.readouterr().err
    monkeypatch.undo()
    resume(run, stop_after=1e-9)


def test_a_run_without_the_library_notes_its_rule(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "has_module", lambda name: name != "icu4py")
    pretrain([str(corpus)], load_recipe("mlm-nano", CHANGES), tmp_path / "run", stop_after=1e-9)
    noted = json.loads((tmp_path / "run" / "inputs.json").read_text(encoding="utf-8"))["words"]
    assert noted == {"Japanese": "changes of characters"}
    resume(tmp_path / "run", stop_after=1e-9)
