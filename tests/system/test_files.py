"""Durable whole-file writes: nothing half-written, nothing lost, nothing of others removed, errors in one sentence."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.system import files
from forgetful_disk import watch

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and /dev/full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@linux
def test_a_file_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(tmp_path, monkeypatch) as disk:
        files.write_file(tmp_path / "a.txt", "words\n")
        with files.whole_folder(tmp_path / "deep" / "out") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "b.bin").write_bytes(b"x" * 1000)
    assert disk.lost() == []
    assert (tmp_path / "deep" / "out" / "inner" / "b.bin").stat().st_size == 1000


def test_an_error_inside_a_temporary_folder_names_the_output(tmp_path: Path) -> None:
    with pytest.raises(files.DiskError) as caught, files.whole_folder(tmp_path / "out", "do better") as folder:
        files.write_file(folder / "missing" / "a", "words")
    assert str(caught.value) == f"{tmp_path / 'out'} cannot be written ({os.strerror(errno.ENOENT)}); do better"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.full, again.path) == (str(caught.value), False, tmp_path / "out")


@linux
def test_the_simulated_disk_sees_what_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(tmp_path, monkeypatch) as disk:
        (tmp_path / ".a.part").write_text("words", encoding="utf-8")
        (tmp_path / ".a.part").replace(tmp_path / "a")
    assert disk.lost() == ["a ← .a.part", "a: its content", "a: its name"]


def test_a_failure_leaves_the_file_before_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_file(path, "before")
    with pytest.raises(ZeroDivisionError), files.whole_file(path, "w") as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "before"
    assert names(tmp_path) == ["a.txt"]


def test_leftovers_of_ended_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = tmp_path / f".a.txt.{ended.pid}-1.part"
    folder = tmp_path / f".a.txt.{ended.pid}-2.part"
    folder.mkdir()
    (folder / "inner").write_text("x", encoding="utf-8")
    own = tmp_path / f".a.txt.{os.getpid()}-1.part"
    survivors = [
        tmp_path / f".b.txt.{ended.pid}-1.part",
        tmp_path / ".a.txt.part",
        tmp_path / f".a.txt.{ended.pid}",
        own,
    ]
    for path in [leftover, *survivors]:
        path.write_text("x", encoding="utf-8")
    files.write_file(tmp_path / "a.txt", "words")
    assert not leftover.exists()
    assert not folder.exists()
    assert all(path.exists() for path in survivors)


def test_a_leftover_that_is_a_link_loses_only_the_link(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work", encoding="utf-8")
    (tmp_path / f".a.{ended.pid}-1.part").symlink_to(precious)
    files.write_file(tmp_path / "a", "words")
    assert (precious / "thesis.txt").exists()
    assert not (tmp_path / f".a.{ended.pid}-1.part").is_symlink()


def test_a_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"work is a link to .*precious"):
        files.own_folder(tmp_path / "work")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="file is a file where a work folder belongs"):
        files.own_folder(tmp_path / "file")


def test_a_link_that_the_user_named_is_followed_and_any_other_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("before", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with files.whole_file(tmp_path / "link.txt", "w", follow=True) as file:
        file.write("after")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text(encoding="utf-8") == "after"
    files.write_file(tmp_path / "link.txt", "own")
    assert not (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text(encoding="utf-8") == "after"


@linux
def test_standard_output_by_its_name_is_written_and_not_replaced() -> None:
    code = """
from pathlib import Path
from blankfill.system import files
with files.whole_file(Path("/dev/stdout"), "w", follow=True) as file:
    file.write("words")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "words"
    assert Path("/dev/stdout").is_symlink()


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work", encoding="utf-8")
    files.part_of(tmp_path / "a").symlink_to("precious")
    files.write_file(tmp_path / "a", "words")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "years of work"
    assert (tmp_path / "a").read_text(encoding="utf-8") == "words"


def test_a_very_long_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    files.write_file(path, "words")
    assert path.read_text(encoding="utf-8") == "words"


@linux
def test_devices_are_written_and_stay(tmp_path: Path) -> None:
    files.write_file(Path("/dev/null"), "words")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(files.DiskError, match=r"^/dev/full cannot be written \(No space left on device\)") as caught:
        files.write_file(Path("/dev/full"), "words")
    assert caught.value.full


def test_every_library_s_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = os.strerror(errno.ENOSPC)
    cases: list[Exception] = [
        OSError(errno.ENOSPC, full),
        OSError("100 requested and 17 written"),
        Exception(f"{full} (os error {errno.ENOSPC})"),
    ]
    for error in cases:
        with pytest.raises(files.DiskError, match="free some space") as caught, files.whole_path(tmp_path / "a"):
            raise error
        assert caught.value.full
    for named in (tmp_path / "a", tmp_path, files.part_of(tmp_path / "a") / "inner"):
        with (
            pytest.raises(files.DiskError, match=r"\(Permission denied\); give another out") as caught,
            files.whole_path(tmp_path / "a"),
        ):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(named))
        assert not caught.value.full


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
def test_real_libraries_that_meet_a_limit(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
import numpy, torch
from safetensors.torch import save_file
from blankfill.system import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def weights():
    with files.whole_path(Path(sys.argv[1])) as path:
        save_file({"a": torch.zeros(100_000)}, path)
def array():
    with files.whole_file(Path(sys.argv[1])) as file:
        numpy.save(file, numpy.zeros(100_000))
for write in (weights, array):
    try:
        write()
    except files.DiskError as error:
        print(str(error))
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2, run.stderr
    assert all(line.startswith(f"{tmp_path / 'a'} cannot be written (") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_errors_about_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.whole_path(tmp_path / "out" / "a"):
        open("/nowhere/at/all")  # noqa: SIM115
    with pytest.raises(FileNotFoundError), files.whole_path(tmp_path / "a"):
        open(tmp_path / "rows.txt")  # noqa: SIM115
    with pytest.raises(ValueError, match="unrelated"), files.whole_path(tmp_path / "a"):
        raise ValueError("unrelated")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(files.DiskError, match=r"No such file or directory"):
        files.write_file(tmp_path / "none" / "a", "words")


def test_an_output_folder_that_is_not_empty_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "theirs").write_text("x", encoding="utf-8")
    with pytest.raises(files.DiskError, match="not empty"), files.whole_folder(out) as folder:
        (folder / "ours").write_text("x", encoding="utf-8")
    assert names(out) == ["theirs"]
    assert names(tmp_path) == ["out"]
