"""No absolute path is on a page; options that were changed are marked, and the vocabulary is the prepared one."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

import blankfill
from blankfill.config.changes import changes_of
from blankfill.config.recipe import load_recipe
from blankfill.report.names import without_paths, without_paths_in
from blankfill.report.page import any_page
from small_run import SMALL, texts_in


def folder_in(place: Path) -> Path:
    """A new folder for texts."""
    (place / "texts").mkdir()
    return place / "texts"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/texts", "texts"),
        ("/data", "data"),
        ("12 files in /home/ann/my-texts", "12 files in my-texts"),
        ("/home/ann/a.txt: line 3 is broken", "a.txt: line 3 is broken"),
        ("it is in /srv/x/y.", "it is in y."),
        ("resume with: blankfill pretrain --resume '/home/ann lee/a run'", "resume with: blankfill pretrain --resume "
         "'a run'"),
        ("C:\\Users\\ann\\x.txt", "x.txt"),
        ("see 'C:/Users/Ann Lee/a b.txt'", "see 'a b.txt'"),
        ("\\\\host\\share\\x", "x"),
        ("file:///home/ann/y", "y"),
        ("~/texts/a", "a"),
        ("runs/mine", "runs/mine"),
        ("../corpus", "../corpus"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("and/or, 12 tokens/s, 2026/01/02, </s></s>, ~5 nats, / and //", "and/or, 12 tokens/s, 2026/01/02, </s></s>, "
         "~5 nats, / and //"),
    ],
)  # fmt: skip
def test_a_path_becomes_the_name_of_its_file(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_a_home_with_a_space_in_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann lee")
    monkeypatch.setenv("USERPROFILE", "/home/ann lee")
    assert without_paths("3 files in /home/ann lee/texts") == "3 files in texts"


def test_a_user_may_have_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    users = pytest.importorskip("pwd")

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(users, "getpwuid", unknown)
    assert without_paths("3 files in /srv/texts/a") == "3 files in a"


@pytest.mark.parametrize("begin", ["'/", "«~/", '"C:/', "'\\\\"])
def test_a_quotation_without_an_end_takes_no_time(begin: str) -> None:
    assert without_paths(f"see {begin}{'/a' * 200_000}").endswith("a")


def test_the_values_of_a_file_keep_their_shape() -> None:
    values = {"a": ["/x/y", 1, None], "/p/q": {"b": ("/x/z",)}}
    assert without_paths_in(values) == {"a": ["y", 1, None], "q": {"b": ("z",)}}


def test_changes_are_those_from_the_recipe_of_that_name() -> None:
    recipe = load_recipe("bert-nano", {"train.lr": 0.5, "objective.length": 64})
    assert changes_of(recipe) == ("bert-nano", {"objective.length": 128, "train.lr": load_recipe("bert-nano").train.lr})
    own = load_recipe("bert-nano", {"name": "own"})
    compared, changed = changes_of(own)
    assert compared == ""
    assert changed["model.hidden_size"] == type(own.model)().hidden_size != own.model.hidden_size


def test_the_page_of_a_run_marks_changes_and_holds_no_path(tmp_path: Path) -> None:
    recipe = load_recipe(
        "glm-nano", {**SMALL, "train.steps": 2, "corpus.vocab_size": 4000, "corpus.vocab_exact": False}
    )
    run = tmp_path / "some where" / "run"
    texts = texts_in(folder_in(tmp_path), 20)
    blankfill.pretrain([str(texts.resolve())], recipe, run)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["changed"]["from"] == "glm-nano"
    assert facts["changed"]["options"]["train.steps"] == load_recipe("glm-nano").train.steps
    (run / "run.json").write_text(json.dumps({**facts, "from": str(tmp_path / "texts")}), encoding="utf-8")
    page = any_page(run, datetime(2026, 1, 1, tzinfo=UTC))
    assert str(tmp_path) not in page and str(tmp_path).replace("/", "\\/") not in page
    default = load_recipe("glm-nano").train.steps
    assert f'<div class="changed"><dt>steps</dt><dd dir="auto"><b>2</b> <span class="note">default {default}' in page
    assert f'<dt>vocab_size</dt><dd dir="auto">{facts["vocabulary"]}</dd>' in page
    assert facts["vocabulary"] < 4000 and '<dd dir="auto">4000</dd>' not in page
    assert "marked: changed from the recipe glm-nano" in page
