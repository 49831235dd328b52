"""A page of a run that trains is read again by the browser, and a run that has ended or died does not look alive."""

import json
import subprocess
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from shutil import which
from typing import Any

import pytest

import blankfill
from blankfill.errors import UserError
from blankfill.report.live import PATIENCE, SHORTEST_SILENCE, live_values, seconds_between
from blankfill.report.page import any_page
from blankfill.report.snapshot import read_snapshot
from blankfill.runs import folder as run_folders
from small_run import SMALL, texts_in

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def folder_in(place: Path) -> Path:
    """A new folder for texts."""
    (place / "texts").mkdir()
    return place / "texts"


def data_of(page: str) -> Any:
    """What the script of a page reads."""
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(text)


def write_run(folder: Path, steps: int, **facts: object) -> Path:
    """A run of 100 steps at a step, validated every tenth."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("name: mine\ntrain:\n  steps: 100\n", encoding="utf-8")
    lines = [
        {"step": step, "split": split, "loss": 5.0, "tokens": step * 100, "tokens_per_s": 50.0}
        for step in range(10, steps + 1, 10)
        for split in ("train", "valid")
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_a_page_is_read_again_only_while_the_run_trains(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 40)
    live = data_of(any_page(run, NOW, live=True))["live"]
    assert live["written"] == NOW.timestamp()
    assert live["every"] == 10.0  # ten steps of 100 tokens at 50 tokens a second take 20 s
    assert live["until"] == SHORTEST_SILENCE
    assert "live" not in data_of(any_page(run, NOW))
    assert "live" not in data_of(any_page(write_run(tmp_path / "run", 100), NOW, live=True))


def test_long_silences_are_expected_where_validations_are_far_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 40, started="2026-01-02T08:00:00+00:00")
    assert seconds_between(read_snapshot(run), NOW) == 3600.0  # four validations in four hours, by the clock
    assert live_values(3600.0, NOW) == {"written": NOW.timestamp(), "every": 60.0, "until": PATIENCE * 3600}
    assert live_values(None, NOW)["until"] == SHORTEST_SILENCE
    run = write_run(tmp_path / "run", 40, started="yesterday")
    assert seconds_between(read_snapshot(run), NOW) == 20.0


def test_the_pages_of_a_run_are_live_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[bool] = []
    renew = run_folders.renew_report

    def noted(out: Path, live: bool = False) -> None:
        renew(out, live)
        pages.append("live" in data_of((out / "report.html").read_text(encoding="utf-8")))

    for module in ("pretraining.training", "pretraining.outcome"):
        monkeypatch.setattr(f"blankfill.{module}.renew_report", noted)
    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 4, "train.eval_every": 2})
    blankfill.pretrain([str(texts_in(folder_in(tmp_path), 20))], recipe, tmp_path / "run")
    assert pages == [True, True, False, False]  # at steps 0, 2, 4, and the end


def test_the_page_of_a_run_that_an_error_ended_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blankfill.training import loop

    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 8, "train.eval_every": 2})
    evaluate, calls = loop.evaluate, []

    def fails(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise UserError("the disk is gone")
        return evaluate(*args, **options)

    monkeypatch.setattr(loop, "evaluate", fails)
    with pytest.raises(UserError, match="the disk is gone"):
        blankfill.pretrain([str(texts_in(folder_in(tmp_path), 20))], recipe, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "live" not in data_of(page)
    assert "stopped at step 4; it can be resumed" in page.split("</header>")[0]
    monkeypatch.undo()
    blankfill.resume(tmp_path / "run")
    assert "finished" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8").split("</header>")[0]


BROWSER = """
const store = new Map(), heard = [], reloads = [];
let now = 1e12, ticks = [], cleared = 0;
const state = { textContent: '40% done', className: 'state going', classList: { add: (name) => heard.push(name) } };
const details = [{ open: false }, { open: true }];
globalThis.sessionStorage = {
  getItem: (k) => store.get(k) ?? null, setItem: (k, v) => store.set(k, v), removeItem: (k) => store.delete(k),
};
globalThis.document = {
  hidden: false, activeElement: null,
  querySelector: (what) => (what === '.state' ? state : null),
  querySelectorAll: (what) => (what === 'details' ? details : []),
};
globalThis.location = { pathname: '/run/report.html', reload: () => reloads.push(now) };
globalThis.scrollY = 321;
const scrolled = [];
globalThis.scrollTo = (where) => scrolled.push(where.top);
globalThis.addEventListener = () => {};
globalThis.getSelection = () => null;
globalThis.setInterval = (tick) => { ticks.push(tick); return ticks.length - 1; };
globalThis.clearInterval = (k) => { ticks[k] = null; cleared += 1; };
Date.now = () => now;
let zoom = null; const views = []; const choices = { x: 'step' };
const data = { live: { written: 1e9, every: 5, until: 60 } };
const wait = (seconds) => { now += 1000 * seconds; ticks.forEach((tick) => tick?.()); };
"""


@pytest.mark.skipif(which("node") is None, reason="needs node to run the script of the page")
@pytest.mark.parametrize("hidden", [False, True])
def test_the_script_reads_the_page_again_and_stops_when_the_run_is_silent(hidden: bool) -> None:
    script = (resources.files("blankfill.report") / "page_live.js").read_text(encoding="utf-8")
    code = f"""{BROWSER}document.hidden = {str(hidden).lower()};{script}
wait(3); const early = reloads.length; wait(3); const due = reloads.length;
details[1].open = false; comeBack();
const returned = [scrolled, details.map((one) => one.open)];
ticks = []; stayLive(data.live); wait(70); const before = reloads.length; wait(1000);
console.log(JSON.stringify({{ early, due, returned, before, after: reloads.length, state: state.textContent,
  name: state.className, heard }}));"""
    run = subprocess.run(["node", "-e", code], check=True, capture_output=True, text=True, encoding="utf-8")
    values = json.loads(run.stdout)
    assert values["early"] == 0
    assert values["due"] == (0 if hidden else 1)  # a page that nobody looks at is not read again
    assert values["returned"] == ([[], [False, False]] if hidden else [[321], [False, True]])
    assert values["after"] == values["before"] == values["due"]
    assert values["state"].startswith("40% done; no news since ") and values["name"] == "state early"
