"""The compiled library: made once, whole or not at all, and loaded only from a place that is this user's alone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from blankfill.kernels.half_products import HalfProduct
from blankfill.kernels.native import build, library
from blankfill.kernels.native.build import NoLibraryError, check_safe, library_file, whole

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not any(map(shutil.which, build.COMPILERS)),
    reason="there is no C compiler here",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, and a library of one function, which compiles in no time; returns the folder of the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(build.VARIABLE, raising=False)
    monkeypatch.delenv("CC", raising=False)
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.c").write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setattr(build, "FILES", ("small.c",))
    monkeypatch.setattr(build, "HEADERS", ())
    return tmp_path / "cache" / "blankfill" / "native"


def answer(file: Path) -> int:
    return int(ctypes.CDLL(str(file)).answer())


def test_it_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, temporary = library_file()
    assert file.parent == cache and not temporary and answer(file) == 42
    assert cache.stat().st_mode & 0o077 == 0 and [path.name for path in cache.iterdir()] == [file.name]
    before = file.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")  # no compiler is needed any more
    assert library_file() == (file, False) and file.stat().st_mtime_ns == before


def test_another_source_makes_another_library(cache: Path) -> None:
    first, _ = library_file()
    (build.SOURCE / "small.c").write_text("int answer(void) { return 43; }\n")
    second, _ = library_file()
    assert first != second and answer(second) == 43


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_library_is_compiled_again(cache: Path, damage: str) -> None:
    file, _ = library_file()
    content = file.read_bytes()
    middle = len(content) // 2
    changed = {"cut": content[:middle], "flipped": content[:middle] + b"?" + content[middle + 1 :], "empty": b""}
    file.write_bytes(changed[damage])
    assert not whole(file)
    assert answer(library_file()[0]) == 42 and whole(file)


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is here")
    file, temporary = library_file()
    assert temporary and answer(file) == 42


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoLibraryError, match="No space left"):
        library_file()
    assert not list(cache.iterdir())


@pytest.mark.parametrize("what", ["folder", "parent", "file", "link"])
def test_what_others_can_write_is_not_loaded(cache: Path, what: str, tmp_path: Path) -> None:
    file, _ = library_file()
    if what == "link":
        file.rename(tmp_path / "elsewhere.so")
        file.symlink_to(tmp_path / "elsewhere.so")
    else:
        {"folder": cache, "parent": cache.parent, "file": file}[what].chmod(0o777)
    other, temporary = library_file()
    assert temporary and other != file and answer(other) == 42


def test_what_belongs_to_another_user_is_not_loaded(cache: Path) -> None:
    file, _ = library_file()
    try:
        os.chown(cache, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a folder away")
    assert library_file()[1]
    os.chown(cache, os.geteuid(), -1)
    os.chown(file, 12345, -1)
    assert library_file()[1]


def test_sticky_folders_of_root_are_safe_above_the_own_one(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    own = shared / "own"
    own.mkdir(parents=True)
    own.chmod(0o700)
    shared.chmod(0o1777)
    check_safe(own)
    with pytest.raises(PermissionError):
        check_safe(shared)
    shared.chmod(0o777)
    with pytest.raises(PermissionError):
        check_safe(own)


def test_without_a_compiler_or_with_a_broken_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (build.SOURCE / "small.c").write_text("this is no C\n")
    with pytest.raises(NoLibraryError, match=r"failed: .*error"):
        library_file()
    assert not list(cache.iterdir())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoLibraryError, match="no C compiler"):
        library_file()
    monkeypatch.setenv(build.VARIABLE, "off")
    with pytest.raises(NoLibraryError, match="BLANKFILL_NATIVE is off"):
        library_file()


def test_the_compiler_of_the_environment_comes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", f"{shutil.which('cc') or shutil.which('gcc')} -DANSWER=7")
    (build.SOURCE / "small.c").write_text("int answer(void) { return ANSWER; }\n")
    assert answer(library_file()[0]) == 7


def test_leftovers_of_killed_processes_are_removed(cache: Path) -> None:
    cache.mkdir(mode=0o700, parents=True)
    old, young = cache / f"{build.PART}old", cache / f"{build.PART}young"
    old.mkdir()
    young.mkdir()  # of a process that is still at work
    past = time.time() - 20 * build.SECONDS
    os.utime(old, (past, past))
    library_file()
    assert not old.exists() and young.exists()


def test_libraries_that_nobody_uses_are_removed(cache: Path) -> None:
    """Those of older versions; one in use is kept, and notes that."""
    file, _ = library_file()
    loaded = ctypes.CDLL(str(file))
    past = time.time() - build.UNUSED + 3600
    os.utime(file, (past, past))
    assert library_file()[0] == file and time.time() - file.stat().st_mtime < 3600
    old, other = cache / "products-old.so", cache / "notes.txt"
    past = time.time() - build.UNUSED - 3600
    old.touch()
    other.touch()
    for path in (old, other, file):
        os.utime(path, (past, past))
    (build.SOURCE / "small.c").write_text("int answer(void) { return 43; }\n")
    new, _ = library_file()
    assert sorted(cache.iterdir()) == sorted([new, other])
    assert loaded.answer() == 42 and answer(new) == 43


def test_a_long_compilation_is_told_once_and_ended_in_time(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the compiler runs on afterwards."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\nsleep 60 & echo $! >> {tmp_path}/pids\nwait\n")
    slow.chmod(0o700)
    monkeypatch.setenv("CC", str(slow))
    monkeypatch.setattr(build, "SILENT", 0.02)
    monkeypatch.setattr(build, "SECONDS", 0.5)
    build.notify.cache_clear()
    for _ in range(2):
        with pytest.raises(NoLibraryError, match="took more than"):
            library_file()
    out, err = capfd.readouterr()
    assert out == "" and err.count("Compiling kernels") == 1
    assert not list(cache.iterdir())
    pids = tmp_path / "pids"  # not there where the machine was too busy to begin
    for pid in pids.read_text().split() if pids.exists() else ():
        for _ in range(600):  # a killed process ends when it is given the processor
            if ended(Path("/proc", pid, "stat")):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the process {pid} of the compiler still runs")


def ended(stat: Path) -> bool:
    """Return whether a process has ended, or only waits for its parent to notice."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_quick_compilation_is_silent(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "SILENT", 60.0)
    library_file()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "command", ["'", "/bin/false", "/bin/true", "sh -c 'kill -9 $$'", "sh -c 'printf \\377; exit 1'"]
)
def test_a_compiler_that_fails_in_any_way_is_no_library(
    cache: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CC", command)
    library.library.cache_clear()
    try:
        assert library.library() is None and library.summary()[0] is None
    finally:
        library.library.cache_clear()
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_other_systems_have_no_library(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.delenv(build.VARIABLE, raising=False)
    monkeypatch.setattr(build.sys, "platform", platform)
    with pytest.raises(NoLibraryError, match="only Linux"):
        library_file()


def test_a_processor_with_the_greatest_byte_first_has_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(build.VARIABLE, raising=False)
    monkeypatch.setattr(build.sys, "byteorder", "big")
    with pytest.raises(NoLibraryError, match="least byte first"):
        library_file()


SCRIPT = """
import ctypes, pathlib, sys
from blankfill.kernels.native import build
build.SOURCE, build.FILES, build.HEADERS = pathlib.Path(sys.argv[1]), ("small.c",), ()
file, temporary = build.library_file()
print(ctypes.CDLL(str(file)).answer(), temporary)
"""


def test_several_processes_at_once(cache: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(build.SOURCE)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0].split() for process in started] == [["42", "False"]] * 3
    assert len(list(cache.iterdir())) == 1


def test_a_process_waits_for_the_one_that_compiles(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = library_file()
    file.unlink()
    command = [sys.executable, "-c", SCRIPT, str(build.SOURCE)]
    with build.alone(cache):
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert build.compiled(cache, file.name) == file
        made = file.stat().st_ino
    assert waiting.communicate()[0].split() == ["42", "False"] and file.stat().st_ino == made


def test_a_library_that_cannot_be_loaded_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of one function lacks all others."""
    library.library.cache_clear()
    library.best_path.cache_clear()
    try:
        assert library.library() is None and library.best_path() == -1
    finally:
        library.library.cache_clear()
        library.best_path.cache_clear()


def test_the_threads_are_those_of_torch() -> None:
    """The library has no threads of its own: it needs no OpenMP library, and runs in the pool that torch has loaded."""
    made = library.library()
    if made is None:
        pytest.skip("the kernels are turned off")
    needed = subprocess.run(["ldd", made._name], capture_output=True, text=True).stdout
    assert "omp" not in needed
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.randn(512, 512) @ torch.randn(512, 512)
        threads = len(list(Path("/proc/self/task").iterdir()))
        pool = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        assert pool.omp_get_max_threads() == 2
        HalfProduct(torch.randn(4096, 512), torch.float32)(torch.randn(1, 512))
        assert len(list(Path("/proc/self/task").iterdir())) == threads
    finally:
        torch.set_num_threads(before)
