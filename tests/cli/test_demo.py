"""`blankfill demo` on a text of our own, with a recipe of seconds: what it says is what the run measured."""

import json
from pathlib import Path

import pytest

from blankfill.cli import demo
from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.generation.hidden_words_report import read
from small_run import SMALL, texts_in


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text, and a demo of seconds."""
    monkeypatch.setattr(demo, "load_recipe", lambda name: load_recipe(name, SMALL))
    monkeypatch.setattr(demo, "LEAST", 100)
    (tmp_path / "texts").mkdir()
    return texts_in(tmp_path / "texts", 30)


@pytest.mark.usefixtures("restored_threads")
def test_it_ends_with_what_was_learnt_and_how_to_go_on(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["demo", str(texts), "--out", str(out), "--seed", "3"]) == 0
    printed, said = capsys.readouterr()
    report = read(out)
    assert report is not None and report.before is not None
    # the progress line, then the shares beside the baselines
    assert f"hidden_words_named={report.model.first:.1%}" in said
    rows = (
        ("the model before training", report.before),
        ("word frequency", report.frequency),
        ("the model  ", report.model),
    )
    for name, shares in rows:
        line = next(line for line in said.splitlines() if line.strip().startswith(name))
        assert line.split()[-2:] == [f"{shares.first:.1%}", f"{shares.among:.1%}"]
    assert report.verdict in said and f"{report.sure:.0%} are right" in said
    lines = printed.splitlines()
    assert lines[0].startswith(f"try: blankfill fill --model {out} ") and "[MASK]" in lines[0]
    assert str(out / "report.html") in lines[1] and lines[2].startswith("now your text: blankfill ")
    assert load_recipe(out / "recipe.yaml").seed == 3


@pytest.mark.usefixtures("restored_threads")
def test_as_json_it_holds_the_report(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["demo", str(texts), "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    report = read(out)
    assert report is not None
    assert values["hidden_words"]["model"] == {"first": report.model.first, "among": report.model.among}
    assert values["steps"] == 12 and values["report"] == str(out / "report.html")


def test_a_second_demo_does_not_overwrite_the_first(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    assert main(["demo", str(texts), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"resume it with `blankfill pretrain --resume {tmp_path / 'run'}`, or give another --out" in said


def test_a_text_that_is_far_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.\n", encoding="utf-8")
    for path in (text, tmp_path):
        assert main(["demo", str(path), "--out", str(tmp_path / "run")]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"blankfill: {path}: 11 B of text is too little to learn from")
        assert "at least 10 kB" in message
    assert not (tmp_path / "run").exists()
