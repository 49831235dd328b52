"""The examples of `docs/api.md`, run as they are on texts of our own; only the sizes of the recipe are smaller."""

import re
from pathlib import Path
from typing import Any

import pytest

import blankfill
from blankfill.config.recipe import Recipe, load_recipe
from page_commands import ROOT
from small_run import SMALL, sentences

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SIZES = {name: value for name, value in SMALL.items() if not name.startswith("corpus.")}


def small(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """A recipe of seconds, with the changes of the page that matter to it."""
    return load_recipe(name, {**(changes or {}), **SIZES, "train.threads": 1, "train.hidden_words": 0})


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The examples of the page, with their texts in the current folder."""
    (tmp_path / "novel.txt").write_text(sentences(600, 3), encoding="utf-8")
    (tmp_path / "articles").mkdir()
    for k in range(20):
        (tmp_path / "articles" / f"{k}.txt").write_text(sentences(30, k), encoding="utf-8")
    rows = [f"{sentence}.,{1 + (k % 2)}" for k, sentence in enumerate(sentences(100, 5).split(". "))]
    (tmp_path / "reviews.csv").write_text("\n".join(["body,stars", *rows]) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blankfill, "load_recipe", small)
    return re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run_one_after_the_other(examples: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(examples) == 11
    names: dict[str, Any] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"example {number} of api.md", "exec"), names)
    assert Path("row.png").read_bytes().startswith(b"\x89PNG")
    assert names["tuned"].test is not None and names["stars"].labels == ("1", "2")
    assert names["imported"].parameters == names["planned"].parameters["total"]
    assert "there is no option train.learning_rate" in capsys.readouterr().out


def test_the_page_is_in_the_order_of_use() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert titles[:10] == [
        "Prepare text",
        "Look at training examples",
        "Pretrain",
        "Load a model: fill, generate, embed",
        "Chat",
        "Fine-tune",
        "Predict",
        "Evaluate",
        "Plan a run",
        "Import and export",
    ]
