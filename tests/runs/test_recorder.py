"""What a run writes down: good lines outlive damaged ones, the damaged file stays, and nothing here ends a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from blankfill.runs.folder import note_facts, renew_report
from blankfill.runs.recorder import RunRecorder, cut_lines, read_lines
from blankfill.system.console import progress

LINES = [{"step": step, "split": "train", "loss": 3.0 - step / 10} for step in range(1, 7)]


def written(path: Path, damage: bytes = b"", at: int = 3) -> Path:
    lines = [json.dumps(line).encode() + b"\n" for line in LINES]
    path.write_bytes(b"".join([*lines[:at], damage, *lines[at:]]))
    return path


@pytest.mark.parametrize("damage", [
    b"\xff\xfe\n", b'{"step": 3, "lo\n', b"[1]\n", b"[" * 100_000 + b"\n", b'{"step": "3"}\n', b'{"step": true}\n',
    b"9" * 5000 + b"\n",
])  # fmt: skip
def test_good_lines_after_a_bad_one_are_kept(tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "metrics.jsonl", damage)
    before = path.read_bytes()
    cut_lines(path, 5)
    assert read_lines(path) == LINES[:5]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    assert "a damaged line, skipped" in capsys.readouterr().err


def test_a_line_that_a_kill_cut_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "metrics.jsonl", b'{"step": 7, "sp', len(LINES))
    cut_lines(path, 9)
    assert read_lines(path) == LINES
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"] and not capsys.readouterr().err


def test_every_damaged_version_is_kept(tmp_path: Path) -> None:
    for _ in range(3):
        cut_lines(written(tmp_path / "metrics.jsonl", b"?\n"), 9)
    assert len(list(tmp_path.glob("metrics.jsonl.damaged*"))) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_a_recorder_goes_on_whatever_stands_in_its_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "samples.jsonl").symlink_to("/dev/full")
    with progress("testing", 9, "steps", 0) as bar, RunRecorder(tmp_path, bar, 3) as recorder:
        recorder.record({"step": 4, "split": "train", "loss": 1.0, "lr": 0.1, "tokens": 1, "tokens_per_s": 1.0})
        recorder.event(4, "resumed", "going on")
        recorder.sample(4, [{"step": 4, "prompt": "a", "continuation": "b"}])
    for name in ("metrics", "events", "samples"):
        assert [line["step"] for line in read_lines(tmp_path / f"{name}.jsonl")] == [4]


def test_what_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("testing", 9, "steps", 0) as bar, RunRecorder(tmp_path, bar) as recorder:
        recorder.samples.unlink(missing_ok=True)
        recorder.samples.mkdir()  # while the run continues
        for step in (1, 2):
            recorder.sample(step, [{"step": step, "prompt": "a", "continuation": "b"}])
    assert capsys.readouterr().err.count("samples.jsonl: cannot be written") == 1


def test_damaged_facts_are_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_bytes(b'{"baseline": ')
    note_facts(tmp_path, {"steps": 3}, resumed=True)
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"steps": 3}
    assert (tmp_path / "run.json.damaged").read_bytes() == b'{"baseline": '
    assert "run.json.damaged" in capsys.readouterr().err
    note_facts(tmp_path, {"more": 4}, resumed=True)
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"steps": 3, "more": 4}


def test_a_report_that_fails_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(run: Path) -> Path:
        raise KeyError("anything")

    monkeypatch.setattr("blankfill.report.page.write_page", fail)
    renew_report(tmp_path)
    assert "the run continues without it" in capsys.readouterr().err
