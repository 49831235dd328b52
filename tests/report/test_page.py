"""The page of a run: that it says what the folder says, that it is one harmless file, and that no text can break it."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from blankfill.corpus.summary import CorpusReport, Split
from blankfill.errors import UserError
from blankfill.report.charts import MOST_POINTS, find_charts, payload, short, small, smallest_span
from blankfill.report.document import SCRIPTS
from blankfill.report.markup import embedded, language_of, plain, tag
from blankfill.report.masthead import span, state_of
from blankfill.report.page import page_of, write_page
from blankfill.report.sections import MOST_SAMPLED, is_right
from blankfill.report.snapshot import read_snapshot

NASTY = '</script><script>alert(1)</script><!--<img src="http://x.org/y">&amp;\u2028{{data}}\ud800'
"""What a text of the run may hold: markup, the end of a script, a name of the template, half a surrogate pair."""


class Elements(HTMLParser):
    """The elements of a page, each with its attributes and the text up to the next tag, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes), ""))
        self.inside = True
        if name not in ("meta", "link", "input"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name
        self.inside = False

    def handle_data(self, text: str) -> None:
        if self.inside:
            name, attributes, before = self.found[-1]
            self.found[-1] = (name, attributes, before + text)

    def named(self, name: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """Elements of a name with some attributes."""
        return [(a, text) for tag, a, text in self.found if tag == name and wanted.items() <= a.items()]

    @property
    def data(self) -> Any:
        """What the script of the page draws; NaN and its like are refused."""

        def refuse(name: str) -> None:
            raise AssertionError(name)

        return json.loads(self.named("script", id="data")[0][1], parse_constant=refuse)


def line(step: int, split: str = "train", **values: object) -> dict[str, object]:
    return {"step": step, "split": split, "loss": 5.0, "tokens": step * 100, "lr": 1e-3, "tokens_per_s": 50.0, **values}


def write(run: Path, name: str, *lines: object) -> None:
    (run / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def page(run: Path) -> Elements:
    """The page of a folder, checked to be well formed and to hold no script but its own."""
    elements = Elements(write_page(run).read_text(encoding="utf-8"))
    assert elements.open == []
    assert [a.get("id") for a, _ in elements.named("script")] == ["data", None]
    return elements


def cards(elements: Elements) -> dict[str, list[str]]:
    """The numbers under the headline by name."""
    results: dict[str, list[str]] = {}
    for name, _, text in elements.found:
        if name == "dt" and text not in results:
            results[text] = latest = []
        elif name == "dd":
            latest.append(text)
    return results


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run at step 20 of 40, validated twice, with everything that a run folder may hold."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(
        "name: bert-nano\ntrain:\n  steps: 40\n  max_grad_norm: 1.0\n", encoding="utf-8"
    )
    (folder / "corpus_path.txt").write_text("../corpus\n", encoding="utf-8")
    lines = [line(10, grad_norm=0.5, next_sentence_loss=0.7), line(20, loss=4.5, grad_norm=float("inf"), mfu=0.4)]
    write(folder, "metrics.jsonl", line(0, "valid", loss=9.0), *lines, line(20, "valid", loss=4.75))
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 30, "spl')
    write(
        folder,
        "samples.jsonl",
        {"step": 0, "text": "It was [MASK], and bowed.", "answer": "down", "fills": ["up", "it"]},
        {"step": 20, "text": "It was [MASK], and bowed.", "answer": "down", "fills": ["Down", "up"]},
        {"step": 20, "prompt": "春天来了，", "continuation": "花开了。"},
    )
    write(folder, "events.jsonl", {"step": 5, "kind": "rollback", "text": "back to 0", "time": "2026-01-02T03:04:05"})
    environment = {"torch": {"version": "2.13"}, "memory": {"total": 8_000_000_000}, "threads": 2}
    facts = {"baseline": 6.0, "parameters": 1_250_000, "environment": environment, "started": "2026-01-01"}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    CorpusReport(
        folder=corpus, documents=3, train=Split(2, 5, 1000, 4000), valid=Split(1, 2, 100, 400), vocabulary=512,
        tokenizer="bpe", unknown=1, dropped={"exact duplicates": 7}, repeated_line_count=0, dropped_lines=0,
        repeated_lines=(), duplicates=(), skipped=(), samples=("a <b>sample</b>",), notices=(), source_bytes=4400,
        seconds=1.0, continued=False, config={}, sources="", fingerprint="",
    ).write(corpus)  # fmt: skip
    return folder


def test_the_headline_holds_what_was_measured(run: Path) -> None:
    elements = page(run)
    assert elements.named("title")[0][1] == "bert-nano – 50% done"
    assert elements.named("h1")[0][1] == "bert-nano"
    assert elements.named("p", **{"class": "about"})[0][1] == "1.25M parameters · vocabulary of 512 · 1k tokens of text"
    shown = cards(elements)
    assert shown["Best validation loss"] == ["4.750", "nats, at step 20 (the last)"]
    assert shown["Against the baseline"] == ["1.250", "nats below word frequencies alone (6.000)"]
    assert shown["Steps"] == ["20", "of 40"]
    assert shown["Tokens seen"] == ["2k", "2,000"]
    assert shown["Training time"] == ["40 s", "50 tokens/s lately"]
    assert shown["Time left, about"] == ["40 s", "at the speed of the last lines"]
    assert elements.named("div", role="progressbar")[0][0]["aria-valuenow"] == "20"


def test_a_model_that_learns_nothing_is_told_so(run: Path) -> None:
    (run / "run.json").write_text('{"baseline": 4.5}', encoding="utf-8")
    elements = page(run)
    assert cards(elements)["Against the baseline"] == ["0.250", "nats above word frequencies alone (4.500)"]
    assert elements.named("dd", **{"class": "bad"})[0][1] == "0.250"


def test_every_section_says_what_its_file_says(run: Path) -> None:
    elements = page(run)
    assert [text for _, text in elements.named("h2")] == [
        "Curves", "Samples", "Events", "Recipe", "Corpus", "Environment",
    ]  # fmt: skip
    assert [a["href"] for a, _ in elements.named("a")] == [f"#{a['id']}" for a, _ in elements.named("section")]
    texts = [text for _, _, text in elements.found]
    for expected in ("rollback", "back to 0", "2026-01-02 03:04:05", "max_grad_norm", "bpe", "1 (0.100% of training)"):
        assert expected in texts
    for expected in ("left out: exact duplicates", "a <b>sample</b>", "torch", "2.13", "8 GB", "2026-01-01"):
        assert expected in texts


def test_charts_have_tables_for_those_who_cannot_see_them(run: Path) -> None:
    elements = page(run)
    titles = [text for a, text in elements.named("h3")][:6]
    assert titles == ["Loss", "Next sentence loss", "Throughput", "Learning rate", "Gradient norm",
                      "Model FLOP utilisation"]  # fmt: skip
    labels = [str(a["aria-label"]) for a, _ in elements.named("svg", role="img")]
    assert labels[0] == (
        "Loss: training from 5.000 to 4.500, lowest 4.500 at step 20; validation from 9.000 to 4.750, lowest 4.750 at "
        "step 20; word frequencies alone 6.000. The arrow keys read the values."
    )
    assert labels[4].startswith("Gradient norm: training from 0.5 to 0.5, lowest 0.5 at step 10; clipped to 1.")
    first = [text.strip() for _, text in elements.named("td", **{"class": "n"})][:4]
    assert first == ["5.000", "4.500", "5.000", "4.500"]


def test_the_numbers_that_are_drawn(run: Path) -> None:
    data = page(run).data
    assert data["splits"] == {
        "valid": {"step": [0, 20], "tokens": [0, 2000], "time": [0.0, 40.0]},
        "train": {"step": [10, 20], "tokens": [1000, 2000], "time": [20.0, 40.0]},
    }
    charts = {chart["key"]: chart for chart in data["charts"]}
    assert list(charts) == ["loss", "next_sentence_loss", "tokens_per_s", "lr", "grad_norm", "mfu"]
    assert charts["loss"]["reference"] == {"name": "word frequencies alone", "y": 6.0}
    assert charts["loss"]["best"] == {"step": 20, "tokens": 2000, "time": 40.0, "y": 4.75}
    assert [(chart["name"], chart["y"]) for chart in charts["loss"]["series"]] == [
        ("training", [5.0, 4.5]), ("validation", [9.0, 4.75]),
    ]  # fmt: skip
    assert charts["grad_norm"]["series"] == [{"split": "train", "name": "training", "y": [0.5, None]}]
    assert charts["lr"]["series"] == [{"split": "train", "name": "training", "y": [0.001, 0.001]}]
    assert data["events"] == [
        {"step": 5, "tokens": 500, "time": 10.0, "kind": "rollback", "tone": "bad", "text": "back to 0"}
    ]


def test_a_blank_is_shown_filled_with_the_newest_answer(run: Path) -> None:
    elements = page(run)
    cloze, prompt = elements.named("mark")
    assert cloze == ({"class": "right"}, "Down")
    assert prompt == ({}, "花开了。")
    said = elements.named("p", **{"class": "said"})
    assert [text for _, text in said] == ["It was ", "春天来了，"]
    assert said[1][0]["lang"] == "zh"
    rows = [(a["data-step"], a["data-hit"]) for a, _ in elements.named("tr") if "data-step" in a]
    assert rows == [("0", "none"), ("20", "right"), ("20", "none")]
    assert elements.named("div", **{"class": "strip"})[0][0]["aria-label"] == "right at 1 of 2 steps"
    assert elements.named("input", type="range")[1][0]["data-steps"] == "0 20"


def test_texts_without_a_known_answer_and_with_several_blanks(tmp_path: Path) -> None:
    write(
        tmp_path,
        "samples.jsonl",
        {"step": 3, "text": "a ____ b", "answer": "", "fills": ["x", "y"]},
        {"step": 3, "text": "[MASK] c [MASK]", "answer": "", "fills": ["A c D"]},
        {"step": 3, "text": "[MASK:0]", "answer": "e", "fills": []},
    )
    elements = page(tmp_path)
    assert [text for _, text in elements.named("mark")] == ["x", "A c D", ""]
    assert [text for _, text in elements.named("p", **{"class": "said"})] == ["a ", "[MASK] c [MASK]\n→ ", "[MASK:0]"]
    assert len(elements.named("div", **{"class": "strip"})) == 1
    assert len(elements.named("span", **{"class": "others"})) == 2


def test_samples_of_a_long_run_are_thinned_and_keep_its_ends(tmp_path: Path) -> None:
    lines = [{"step": 7 * k, "text": "a [MASK]", "answer": "b", "fills": ["c"]} for k in range(1001)]
    write(tmp_path, "samples.jsonl", *lines)
    steps = str(page(tmp_path).named("input", type="range")[0][0]["data-steps"]).split()
    assert len(steps) == MOST_SAMPLED
    assert (steps[0], steps[-1]) == ("0", "7000")


@pytest.mark.parametrize(("made", "answer", "right"), [
    (" Hope", "hope", True), ("hopes", "hope", False), ("", "", False), ("x", None, False), ("能", "能", True),
])  # fmt: skip
def test_an_answer_is_right_whatever_its_case(made: str, answer: str | None, right: bool) -> None:
    assert is_right(made, answer) is right


def test_long_curves_are_thinned_and_keep_the_last_and_the_best_point(tmp_path: Path) -> None:
    train = [line(k, loss=6 - k / 5000 + (k % 7) / 10) for k in range(1, 10_001)]
    valid = [line(k, "valid", loss=3.25 if k == 4321 else 6 - k / 5000) for k in range(1, 5001)]
    write(tmp_path, "metrics.jsonl", *train, *valid)
    snapshot = read_snapshot(tmp_path)
    data = payload(snapshot, find_charts(snapshot), [])
    for split in ("train", "valid"):
        assert MOST_POINTS <= len(data["splits"][split]["step"]) <= MOST_POINTS + 5
    training, validation = data["charts"][0]["series"]
    assert data["splits"]["train"]["step"][-1] == 10_000
    assert training["y"][-1] == pytest.approx(train[-1]["loss"], abs=1e-4)
    best = data["splits"]["valid"]["step"].index(4321)
    assert validation["y"][best] == 3.25
    assert data["charts"][0]["best"]["step"] == 4321
    bands = zip(training["low"], training["y"], training["high"], strict=True)
    assert all(low <= mean <= high for low, mean, high in bands)
    assert len(json.dumps(data)) < 300_000


def test_no_text_of_the_run_can_break_the_page(run: Path) -> None:
    sample = {"step": 1, "text": f"{NASTY} [MASK] {NASTY}", "answer": NASTY, "fills": [NASTY, NASTY]}
    write(run, "samples.jsonl", sample, {"step": 1, "prompt": NASTY, "continuation": NASTY})
    write(run, "events.jsonl", {"step": 1, "kind": NASTY, "text": NASTY, "time": NASTY})
    write(run, "metrics.jsonl", line(1, **{f"{NASTY}_loss": 1.0}), line(2, NASTY))
    (run / "run.json").write_text(json.dumps({NASTY: NASTY, "environment": {NASTY: {NASTY: NASTY}}}), encoding="utf-8")
    whole = NASTY.removesuffix("\ud800")
    (run / "recipe.yaml").write_text(json.dumps({"name": whole, whole: {whole: [whole]}}), encoding="utf-8")
    elements = page(run)
    shown = f"{whole}\ufffd"
    assert elements.named("h1")[0][1] == whole
    assert elements.data["events"][0]["text"] == shown
    assert elements.named("mark")[0][1] == shown
    assert not elements.named("img")
    given = [
        str(value) for name, a, _ in elements.found if name != "link" for key, value in a.items() if key != "aria-label"
    ]
    assert not [value for value in given if "http:" in value]


def test_the_page_asks_nothing_of_anyone(run: Path) -> None:
    text = write_page(run).read_text(encoding="utf-8")
    elements = Elements(text)
    policy = str(elements.named("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"])
    script = elements.named("script")[1][1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert [str(a["href"])[:19] for a, _ in elements.named("link")] == ["data:image/svg+xml,"]
    assert not any("src" in a or "action" in a for _, a, _ in elements.found)
    style = elements.named("style")[0][1]
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|innerHTML|insertAdjacentHTML|eval\(", script)
    assert not [address for address in re.findall(r"https?://[^\s\"'<]+", text) if "www.w3.org/2000/svg" not in address]


def test_a_folder_is_shown_at_any_moment(tmp_path: Path) -> None:
    assert page(tmp_path).named("p", **{"class": "panel empty"})[0][1] == "No measurements yet."
    (tmp_path / "recipe.yaml").write_text("name: x\ntrain: {steps: 9}\n", encoding="utf-8")
    assert page(tmp_path).named("title")[0][1] == "x – nothing trained yet"
    write(tmp_path, "metrics.jsonl", line(0, "valid", loss=7.5))
    elements = page(tmp_path)
    assert elements.named("title")[0][1] == "x – nothing trained yet"
    assert list(cards(elements)) == ["Best validation loss", "Steps", "name", "steps"]
    assert cards(elements)["Best validation loss"] == ["7.500", "nats, at step 0 (the last)"]
    write(tmp_path, "metrics.jsonl", line(9))
    elements = page(tmp_path)
    assert elements.named("title")[0][1] == "x – finished"
    assert cards(elements)["Training loss"] == ["5.000", "nats, at step 9; not validated"]


def test_a_run_that_stopped_early_says_so(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", line(5))
    assert state_of(read_snapshot(tmp_path)) == ("going", "step 5")
    write(tmp_path, "events.jsonl", {"step": 5, "kind": "early stop", "text": "no better validation"})
    assert state_of(read_snapshot(tmp_path)) == ("early", "stopped early at step 5")


def test_a_recipe_that_cannot_be_read_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: [<b>", encoding="utf-8")
    assert page(tmp_path).named("pre")[0][1] == "name: [<b>"


def test_only_the_newest_of_many_events_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "events.jsonl", *({"step": k, "kind": "skipped", "text": f"number {k}"} for k in range(250)))
    elements = page(tmp_path)
    assert elements.named("span", **{"class": "note"})[0][1] == "the newest 200; 50 came before"
    assert [event["step"] for event in elements.data["events"]] == list(range(50, 250))


def test_the_page_is_replaced_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_page(run) == run / "report.html"
    before = (run / "report.html").read_bytes()
    names = sorted(path.name for path in run.iterdir())

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"report\.html cannot be written \(No space left on device\)"):
        write_page(run)
    assert (run / "report.html").read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == names


@pytest.mark.parametrize("out", ["absent/report.html", "recipe.yaml/report.html"])
def test_a_page_that_cannot_be_written_is_named(run: Path, out: str) -> None:
    with pytest.raises(UserError, match=r"report\.html cannot be written \(.*; name a file in a folder that exists"):
        write_page(run, run / out)


def test_a_run_that_is_no_folder_is_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml is not a folder; name the folder of a run"):
        write_page(run / "recipe.yaml", run / "x.html")


def test_the_moment_is_told(tmp_path: Path) -> None:
    text = page_of(read_snapshot(tmp_path), datetime(2026, 11, 21, 9, 5, tzinfo=UTC))
    assert Elements(text).named("span", **{"class": "written"})[0][1] == "as of 2026-11-21 09:05 UTC"


def test_neither_torch_nor_matplotlib_is_needed(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from blankfill.report.page import write_page; "
        f"write_page(Path({str(run)!r})); sys.exit(bool({{'torch', 'matplotlib'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (248, "4 min 08 s"), (7500, "2 h 05 min"),
    (273_600, "3 d 04 h"),
])  # fmt: skip
def test_stretches_of_time_in_words(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("value", "text"), [
    (None, "–"), (True, "yes"), (False, "no"), (9999, "9999"), (12_345, "12,345"), (1e-6, "1e-06"), (0.5, "0.5"),
    ("a_b", "a_b"), ([1, "x"], "1, x"), ([], "–"),
])  # fmt: skip
def test_values_as_a_reader_expects_them(value: object, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(("text", "language"), [
    ("hope", ""), ("物理学", "zh"), ("物理の学", "ja"), ("물리학", "ko"), ("Über", ""),
])  # fmt: skip
def test_characters_are_drawn_as_their_language_has_them(text: str, language: str) -> None:
    assert language_of(text) == {"dir": "auto", "lang": language}


def test_control_characters_are_shown() -> None:
    """A page that is looked at with `cat` must not command the terminal."""
    assert tag("p", "a\x1b[31mb\u202e", id="\x07") == '<p id="\\x07">a\\x1b[31mb\\u202e</p>'


def test_markup_is_escaped() -> None:
    assert tag("b", '<"&', kind='x"y', title="") == '<b class="x&quot;y">&lt;&quot;&amp;</b>'
    assert embedded({"<": "&>\u2028"}) == '{"\\u003c":"\\u0026\\u003e\\u2028"}'
    with pytest.raises(ValueError, match="JSON"):
        embedded(float("nan"))


COUNTS = [0, 1, 7, 12.34, 999.4, 999.6, 1000, 13_141, 999_600, 2_369_719, 3.2e9, 1.5e12]
RATES = [0, 1, 0.5, 0.1234, 0.001, 0.0002666, 1.4e-6, 1e-8]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the script of the page")
def test_the_script_writes_numbers_as_the_tables_do() -> None:
    ticks = "[linearTicks(0, 1, 4), linearTicks(3.9, 10.2, 8), linearTicks(0, 8.6, 4), logTicks(0.4, 30, 4)]"
    ticks_drawn = (
        "tickTexts('number', [0, 2.5, 5, 7.5]), tickTexts('share', [0, 0.05, 0.1]), tickTexts('loss', [4.8, 5, 5.2])"
    )
    code = (
        f"{source('numbers')}\nconsole.log(JSON.stringify({{counts: {COUNTS}.map(short), rates: {RATES}.map(small), "
        f"ticks: {ticks}, told: [{ticks_drawn}]}}));"
    )
    run = subprocess.run(["node", "-e", code], check=True, capture_output=True, text=True, encoding="utf-8")
    values = json.loads(run.stdout)
    assert values["counts"] == [short(number) for number in COUNTS]
    assert values["rates"] == [small(number) for number in RATES]
    assert values["ticks"] == [[0, 0.25, 0.5, 0.75, 1], [4, 5, 6, 7, 8, 9, 10], [0, 2, 4, 6, 8], [0.5, 1, 2, 5, 10, 20]]
    assert values["told"] == [["0.0", "2.5", "5.0", "7.5"], ["0%", "5%", "10%"], ["4.8", "5.0", "5.2"]]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the script of the page")
def test_smoothing_is_the_average_to_both_sides_that_it_says(tmp_path: Path) -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    start = source("curves").index("function smoothen")
    function = source("curves")[start : source("curves").index("\n}\n", start) + 3]
    code = (
        f"{function}const points = {json.dumps(values)}.map((y) => ({{ y }})); smoothen(points, 100); "
        "console.log(JSON.stringify(points.map((point) => point.smooth)));"
    )
    run = subprocess.run(["node", "-e", code], check=True, capture_output=True, text=True, encoding="utf-8")
    keep = 1 - 1 / (8 * 100 / 200)
    expected = []
    for k in range(8):
        weights = [keep ** abs(j - k) for j in range(8)]
        expected.append(sum(w * y for w, y in zip(weights, values, strict=True)) / sum(weights))
    assert json.loads(run.stdout) == pytest.approx(expected)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the script of the page")
@pytest.mark.parametrize(
    ("style", "values", "expected"),
    [
        ("score", [0.501, 0.503], (0.452, 0.552)),  # ten points high, not two thousandths
        ("score", [0.2, 0.9], (0.158, 0.942)),
        ("score", [0.99, 1.0], (0.91, 1.01)),  # and not far above 1, or below 0
        ("score", [0.0, 0.0], (-0.01, 0.09)),
        ("score", [-0.02, 0.03], (-0.045, 0.055)),
        ("loss", [2.30, 2.31], (2.255, 2.355)),
        ("loss", [2.0, 4.0], (1.88, 4.12)),
        ("number", [100.0, 101.0], (97.975, 103.025)),  # a twentieth of the largest value
    ],
)
def test_a_chart_has_a_smallest_span(style: str, values: list[float], expected: tuple[float, float]) -> None:
    start = source("curves").index("function range(")
    function = source("curves")[start : source("curves").index("\n}\n", start) + 3]
    span = smallest_span(style, values)
    points = [{"x": k, "low": value, "high": value} for k, value in enumerate(values)]
    view = {"chart": {"style": style, "span": span}, "curves": [{"points": points}]}
    code = (
        f"const choices = {{scale: 'linear'}}; let zoom = null; {function}"
        f"console.log(JSON.stringify(range({json.dumps(view)}, 0, 9)));"
    )
    run = subprocess.run(["node", "-e", code], check=True, capture_output=True, text=True, encoding="utf-8")
    drawn = json.loads(run.stdout)
    assert (drawn["low"], drawn["high"]) == pytest.approx(expected)
    if style == "loss":
        code = code.replace("'linear'", "'log'")
        run = subprocess.run(["node", "-e", code], check=True, capture_output=True, text=True, encoding="utf-8")
        drawn = json.loads(run.stdout)
        assert drawn["log"] and drawn["high"] / drawn["low"] >= 1.05 - 1e-9


def test_charts_name_their_smallest_span(tmp_path: Path) -> None:
    (run := tmp_path / "r").mkdir()
    write(run, "metrics.jsonl", line(0, "valid"), line(10), line(20))
    spans = {chart["key"]: chart["span"] for chart in page(run).data["charts"]}
    assert spans["loss"] == 0.1 and smallest_span("score", [0.5]) == 0.1 and smallest_span("number", []) == 0.0


def source(part: str) -> str:
    """A part of the script of the page."""
    assert part in SCRIPTS
    return (resources.files("blankfill.report") / f"page_{part}.js").read_text(encoding="utf-8")
