"""`prepare` when things go wrong: death at any moment, folders that are taken, full disks, broken workers."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_prepare import CONFIG, files, run, small_tasks, text, write

from blankfill.corpus import folder, indexed, inputs, pool, prepare
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.summary import CorpusReport
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError

__all__ = ["small_tasks"]


class Killed(BaseException):
    """Stands for a kill: nothing but the `finally` clauses runs."""


def test_a_run_that_dies_at_any_rename_goes_on_and_ends_alike(tmp_path, monkeypatch, small_tasks):
    source = write(tmp_path / "in", [text(seed, 10) for seed in range(5)] + [text(1, 10)])
    config = replace(CONFIG, dedup="lines")
    run(source, tmp_path / "straight", config)
    real, calls = Path.replace, [0]

    def dying(self, target):
        calls[0] -= 1
        if calls[0] == 0:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    deaths, step = 0, 1
    while True:
        # Each attempt gets one rename further than the one before it, in the folder that it left.
        out = tmp_path / "restarted"
        calls[0] = step
        try:
            report = run(source, out, config)
        except Killed:
            deaths += 1
            assert not (out / "corpus.json").exists()
            step += 1
            continue
        break
    assert deaths > 5 and report.continued
    assert files(out) == files(tmp_path / "straight")


def test_done_work_is_not_done_again(tmp_path, monkeypatch, small_tasks, capsys):
    source = write(tmp_path / "in", [text(seed, 10) for seed in range(5)])
    out = tmp_path / "out"
    monkeypatch.setattr(prepare, "encode", lambda task: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(source, out)
    monkeypatch.undo()
    monkeypatch.setattr(inputs, "TASK_BYTES", (3000, 3000))
    monkeypatch.setattr(inputs, "RANGE_BYTES", 4000)
    monkeypatch.setattr(prepare, "extract", lambda task: pytest.fail("read again"))
    monkeypatch.setattr(prepare, "decide", lambda *rest: pytest.fail("decided again"))
    monkeypatch.setattr(prepare._Run, "_train", lambda *rest: pytest.fail("trained again"))
    assert run(source, out).continued
    assert "Continuing an interrupted run" in capsys.readouterr().err


def test_other_options_redo_only_what_depends_on_them(tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "in", [text(seed, 10) for seed in range(5)])
    out = tmp_path / "out"
    monkeypatch.setattr(prepare, "encode", lambda task: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(source, out)
    monkeypatch.undo()
    real = prepare.extract
    monkeypatch.setattr(prepare, "extract", lambda task: pytest.fail("read again"))
    run(source, out, replace(CONFIG, vocab_size=120, dedup="none"))
    assert Tokenizer.load(out).size == 120
    monkeypatch.setattr(prepare, "extract", real)
    monkeypatch.setattr(prepare, "encode", lambda task: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(source, tmp_path / "other")
    write(tmp_path / "in", {"999.txt": text(999)})
    monkeypatch.undo()
    assert run(source, tmp_path / "other").documents == 6
    assert "changed since the interrupted run: starting over" in capsys.readouterr().err


def test_ctrl_c_leaves_what_is_done(tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "in", [text(1)])

    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert "the same command resumes from there" in capsys.readouterr().err
    assert list((tmp_path / "out" / folder.WORK).glob("text-*/00000.json"))
    monkeypatch.undo()
    assert run(source, tmp_path / "out").continued


DRIVER = """
import sys
from blankfill.corpus import inputs, prepare
if __name__ == "__main__":
    inputs.TASK_BYTES = (60_000, 60_000)
    prepare.prepare([sys.argv[1]], sys.argv[2], prepare.PrepareConfig(workers=2, validation=0.2))
"""


def test_kill_9_and_again(tmp_path):
    source = write(tmp_path / "in", [text(seed, 200) for seed in range(20)])
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER, encoding="utf-8")
    command = [sys.executable, str(driver), str(source)]
    for moment in (0.5, 0.9, 1.3):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "straight")], check=True, capture_output=True)
    assert files(tmp_path / "killed") == files(tmp_path / "straight")


def test_a_finished_corpus_is_reused_or_made_again(tmp_path, capsys):
    source, out = write(tmp_path / "in", [text(seed) for seed in range(5)]), tmp_path / "out"
    first = run(source, out)
    (out / folder.WORK).mkdir()
    again = run(source, out, replace(CONFIG, workers=2))
    assert again.reused and again == replace(first, reused=True)
    assert "already holds this corpus" in capsys.readouterr().err
    assert not (out / folder.WORK).exists()
    with pytest.raises(UserError, match=r"validation was 0\.2 and is 0\.3.*force=True"):
        run(source, out, replace(CONFIG, validation=0.3))
    assert not run(source, out, replace(CONFIG, validation=0.3), force=True).reused
    write(tmp_path / "in", {"new.txt": text(77)})
    with pytest.raises(UserError, match="sources are others"):
        run(source, out, replace(CONFIG, validation=0.3))
    assert run(source, out, replace(CONFIG, validation=0), force=True).documents == 6
    assert not (out / "valid.bin").exists()


def test_the_old_corpus_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    source, out = write(tmp_path / "in", [text(seed) for seed in range(5)]), tmp_path / "out"
    run(source, out)
    before = files(out)
    monkeypatch.setattr(prepare._Run, "_merge", lambda *rest: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(source, out, replace(CONFIG, validation=0), force=True)
    assert files(out) == before
    monkeypatch.undo()
    assert run(source, out, replace(CONFIG, validation=0), force=True).continued


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="nothing to read"):
        run(write(tmp_path / "in", []), tmp_path / "out")


def test_no_text_in_the_files(tmp_path):
    with pytest.raises(UserError, match="has any text left"):
        run(write(tmp_path / "in", ["\n\n", " \n"]), tmp_path / "out")
    with pytest.raises(UserError, match=r"has any text left \(empty or too short: 1\)"):
        run(write(tmp_path / "short", [text(1)]), tmp_path / "out", replace(CONFIG, min_chars=10**6))


def test_the_output_inside_the_input_is_not_read(tmp_path):
    source = write(tmp_path / "in", [text(seed) for seed in range(3)])
    assert run(source, source / "out").documents == 3
    with pytest.raises(UserError, match="sources are others"):
        run(write(source, {"new.txt": text(9)}), source / "out")
    assert run(source, source / "out", force=True).documents == 4
    with pytest.raises(UserError, match="nothing to read"):
        run(source / "out" / "tokenizer.json", source / "out", replace(CONFIG, columns=("version",)))


def test_output_that_is_something_else(tmp_path):
    source = write(tmp_path / "in", [text(1)])
    with pytest.raises(UserError, match="is a file"):
        run(source, source / "000.txt")
    with pytest.raises(UserError, match="other files"):
        run(source, source)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / ".DS_Store").touch()
    run(source, taken)
    (taken / "corpus.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not the report of a prepared corpus"):
        run(source, taken)
    with pytest.raises(UserError, match="is not a prepared corpus"):
        CorpusReport.read(tmp_path)


def test_output_that_cannot_be_written(tmp_path, monkeypatch):
    source = write(tmp_path / "in", [text(1)])
    with pytest.raises(UserError, match=r"Cannot write to .*a folder that you may write to"):
        run(source, source / "000.txt" / "out")

    def refused(*rest, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(UserError, match=r"Cannot write to .*out \(Permission denied\)"):
        run(source, tmp_path / "out")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(getattr(errno, "EDQUOT", errno.ENOSPC), "Disk quota exceeded"),
    OSError("4096 requested and 0 written"),
    Exception("No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["full", "quota", "numpy", "tokenizers"])
def test_full_disk(tmp_path, monkeypatch, error):
    source = write(tmp_path / "in", [text(seed) for seed in range(5)])
    real = indexed.IndexedWriter.finish

    def full(self):
        raise error

    monkeypatch.setattr(indexed.IndexedWriter, "finish", full)
    with pytest.raises(UserError, match=r"disk of .*out is full.* takes about .*kB.* continues where it stopped"):
        run(source, tmp_path / "out")
    monkeypatch.setattr(indexed.IndexedWriter, "finish", real)
    assert run(source, tmp_path / "out").continued


def test_too_little_space_is_said_beforehand(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 12_000})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    run(write(tmp_path / "in", [text(seed, 20) for seed in range(5)]), tmp_path / "out")
    assert "where only 12 kB is free" in capsys.readouterr().err


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def broken(*rest):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(prepare, "decide", broken)
    with pytest.raises(OSError, match="Input/output"):
        run(write(tmp_path / "in", [text(1)]), tmp_path / "out")


def test_vocabulary_larger_than_the_text_supports(tmp_path):
    with pytest.raises(UserError, match="vocab_size"):
        run(write(tmp_path / "in", [text(1)]), tmp_path / "out", replace(CONFIG, vocab_size=50_000))


def test_all_mistakes_of_the_options_at_once(tmp_path):
    wrong = PrepareConfig(validation=1, dedup="fuzzy", vocab_size=-1, workers=-1, tokenizer="no/such.json")  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        run(tmp_path, tmp_path / "out", wrong)
    text = str(caught.value)
    assert len(text.splitlines()) == 5
    assert all(flag in text for flag in ("validation", "dedup", "vocab_size", "workers", "tokenizer"))


def test_an_error_of_a_worker_arrives_as_itself(tmp_path, monkeypatch):
    source = write(tmp_path / "in", [text(seed) for seed in range(20)])
    (source / "007.jsonl").write_text('{"text": "Fine until here."}\n{broken\n' + "x" * 100)
    monkeypatch.setattr(inputs, "TASK_BYTES", (500, 500))
    with pytest.raises(UserError, match=r"007\.jsonl, line 2"):
        run(source, tmp_path / "out", replace(CONFIG, workers=2))


def end_itself(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def test_a_worker_that_is_killed(monkeypatch):
    with pytest.raises(UserError, match="workers=1"):
        list(pool.run_tasks(end_itself, range(6), 2))


def test_two_runs_in_one_folder(tmp_path):
    source, out = write(tmp_path / "in", [text(1)]), tmp_path / "out"
    work = out / folder.WORK
    work.mkdir(parents=True)
    import psutil

    parent = psutil.Process(os.getppid())
    lock = {"process": parent.pid, "began": parent.create_time()}
    (work / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
    with pytest.raises(UserError, match=f"Process {parent.pid} is preparing"):
        run(source, out)
    (work / "lock.json").write_text(json.dumps({**lock, "began": 1.0}), encoding="utf-8")
    run(source, out)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses new folders")
def test_an_output_whose_parent_cannot_be_made(tmp_path):
    source = write(tmp_path / "in", [text(1, 10)])
    with pytest.raises(UserError, match=r"Cannot write to /proc/nowhere/out"):
        run(source, Path("/proc/nowhere/out"), CONFIG)
