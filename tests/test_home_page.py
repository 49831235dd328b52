"""The pictures of the home page, the record of a run that it shows, and blocks that can be copied."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from module_files import module_at
from page_commands import BLOCK, PROMPT, ROOT, pages

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield module_at("docs/home.py")
    sys.modules.pop("pictures", None)


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_objective_blanks_the_same_words(home: ModuleType) -> None:
    blanked = {"walked", "across", "summer"}
    for name, _, example in home.examples():
        targets = {home.TOKENS[id] for id in example.target_ids.tolist()}
        assert blanked <= targets, name
        assert name in ("GPT", "BART") or targets & {"boys", "river"} == set(), name


def test_a_strip_has_each_token_and_below_it_its_target(home: ModuleType) -> None:
    (example,) = [example for name, _, example in home.examples() if name == "GLM"]
    text, answers = home.parts_of(example)
    assert [token for token, _, _ in text] == [
        "[CLS]",
        "the",
        "boys",
        "[MASK]",
        "the",
        "river",
        "that",
        "[MASK]",
        "[EOS]",
    ]
    assert [(token, target) for token, target, _ in answers] == [
        ("[S]", "walked"),
        ("walked", "across"),
        ("across", "[E]"),
        ("[S]", "summer"),
        ("summer", "[E]"),
    ]
    drawn = texts(home.strips())
    assert {"[CLS]", "[MASK]", "summer", "<0>"} <= set(drawn)
    assert len([line for line in drawn if line.startswith(("BERT", "GLM", "GPT", "XLNet", "T5", "BART"))]) == 6


def test_a_square_shows_what_is_seen(home: ModuleType) -> None:
    (example,) = [example for name, _, example in home.examples() if name == "GPT"]
    home.examples = lambda: [("GPT", "", example)]
    cells = [rect.get("fill") for rect in ET.fromstring(home.squares()).iter(f"{SVG}rect")][1:]
    columns = len(example)
    seen = [[cells[columns * query + key] != home.UNSEEN for key in range(columns)] for query in range(columns)]
    assert seen == [[key <= query for key in range(columns)] for query in range(columns)]


def test_the_record_of_a_run_is_drawn(home: ModuleType, tmp_path: Path) -> None:
    home.make(tmp_path)
    for name in ("home-loss.png", "home-named.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "words hidden, one at a time" in (tmp_path / "home-demo.txt").read_text(encoding="utf-8")


def test_a_record_has_the_figures_of_a_run_and_none_of_its_text(home: ModuleType, tmp_path: Path) -> None:
    from blankfill.generation.hidden_words_report import Answer, Report, Shares, write

    share = Shares(0.25, 0.5)
    answer = Answer("some secret", "word", "of a text", "word", 0.9)
    report = Report(
        words=300, covered=0.5, candidates=90, step=400, before=Shares(0.0, 0.01), frequency=share, word_before=share,
        neighbours=share, model=Shares(0.375, 0.75), verdict="It learns.", sure_words=30, sure=0.8, right=(answer,),
        wrong=(answer,),
    )  # fmt: skip
    write(report, tmp_path)
    (tmp_path / "run.json").write_text('{"baseline": 5.5}', encoding="utf-8")
    lines = [{"step": k, "split": "train", "loss": 6 - k / 100, "tokens": 9 * k, "mfu": 0.1} for k in range(400)]
    lines += [{"step": 400, "split": "hidden words", "named_at_once": 0.375, "named_among_5": 0.75, "tokens": 3600}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    home.record(tmp_path, tmp_path / "record")
    text = (tmp_path / "record" / "hidden_words.txt").read_text(encoding="utf-8")
    assert re.search(r"the model +37.5% +75.0%", text) and "secret" not in text
    points = (tmp_path / "record" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert 150 <= len(points) <= 250
    assert json.loads(points[0]) == {"step": 0, "split": "train", "loss": 6.0, "tokens": 0}
    about = json.loads((tmp_path / "record" / "about.json").read_text(encoding="utf-8"))
    assert about["baseline"] == 5.5 and set(about["shares"].values()) == {0.25} and len(about["shares"]) == 3


def test_blocks_of_commands_have_prompts() -> None:
    """The buttons copy the lines behind prompts and those that continue them; a block without any is copied whole."""
    without = []
    for page in pages():
        for _, kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == "console" and not PROMPT.match(block):
                without.append((page.name, block))
    assert without == []
