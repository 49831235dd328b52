"""What `prepare` leaves after power cuts, damage, full disks, and in folders that hold links to the user's own."""

import itertools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_prepare import CONFIG, files, run, small_tasks, text, write

from blankfill.cli.main import main
from blankfill.corpus import folder, prepare
from blankfill.errors import UserError
from forgetful_disk import Disk, watch
from full_disk import full_after

__all__ = ["small_tasks"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
LINES = replace(CONFIG, dedup="lines")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushing to a real disk takes most of the time here and is not what is tested."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in", [text(seed, 10) for seed in range(5)] + [text(1, 10)])


def interrupted(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare all but the last stage."""
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(prepare, "merge", lambda *rest: (_ for _ in ()).throw(Killed))
        run(source, out, LINES)


def precious(tmp_path: Path) -> Path:
    """A folder of the user's."""
    precious_folder = tmp_path / "precious"
    (precious_folder / "inner").mkdir(parents=True)
    for path in (precious_folder / "thesis.txt", precious_folder / "inner" / "data.npy"):
        path.write_text("years of work", encoding="utf-8")
    return precious_folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@linux
def test_a_finished_corpus_survives_a_power_cut(source, tmp_path, monkeypatch):
    with watch(tmp_path, monkeypatch) as disk:
        run(source, tmp_path / "deep" / "out", LINES)
    assert disk.lost(lambda path: path.is_relative_to(tmp_path / "in") or path == tmp_path / "in") == []


@linux
@pytest.mark.parametrize("names_kept", [False, True])
def test_after_a_power_cut_at_any_sync_the_same_command_ends_alike(
    source, tmp_path, monkeypatch, small_tasks, names_kept
):
    run(source, tmp_path / "straight", LINES)
    wanted, out = files(tmp_path / "straight"), tmp_path / "disk" / "out"
    out.mkdir(parents=True)
    cuts = []

    def cut(disk: Disk, count: int) -> None:
        if count % 8 == 0:
            cuts.append(tmp_path / f"cut-{count}")
            disk.after_cut(cuts[-1], names_kept)

    with watch(out, monkeypatch, cut) as disk:
        run(source, out, LINES)
        disk.after_cut(tmp_path / "last", names_kept)
    assert len(cuts) > 10
    continued = 0
    for folder_after_cut in [*cuts, tmp_path / "last"]:
        report = run(source, folder_after_cut, LINES)
        continued += report.continued
        assert files(folder_after_cut) == wanted, folder_after_cut.name
    assert run(source, tmp_path / "last", LINES).reused
    assert continued > len(cuts) / 2


@linux
@pytest.mark.parametrize("names_kept", [False, True])
def test_a_power_cut_under_force_leaves_a_whole_corpus_or_none(source, tmp_path, monkeypatch, names_kept):
    other = replace(CONFIG, validation=0.4)
    run(source, tmp_path / "new", other)
    run(source, tmp_path / "old")
    wanted = [files(tmp_path / "old"), files(tmp_path / "new")]
    out = tmp_path / "out"
    cuts = []

    def cut(disk: Disk, count: int) -> None:
        if count % 3 == 0:
            cuts.append(tmp_path / f"cut-{count}")
            disk.after_cut(cuts[-1], names_kept)

    with watch(out.parent, monkeypatch) as disk:
        run(source, out)
        disk.root, disk.after_sync = out, cut
        run(source, out, other, force=True)
    for folder_after_cut in cuts:
        if (folder_after_cut / "corpus.json").exists():
            assert files(folder_after_cut) in wanted, folder_after_cut.name
        run(source, folder_after_cut, other, force=True)
        assert files(folder_after_cut) == wanted[1], folder_after_cut.name


def damaged(data: bytes) -> dict[str, bytes]:
    middle = len(data) // 2
    return {
        "empty": b"", "cut": data[:middle], "zeros": bytes(len(data)), "nested": b"[" * 100_000,
        "flipped": data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :] if data else b"x",
    }  # fmt: skip


def test_damaged_work_is_done_again(source, tmp_path, monkeypatch, small_tasks):
    run(source, tmp_path / "straight", LINES)
    wanted, out = files(tmp_path / "straight"), tmp_path / "out"
    interrupted(source, out, monkeypatch)
    before = contents(out)
    kinds = sorted({Path(name).suffix for name in before})
    assert {".json", ".npy", ".npz", ".text", ".bin", ".idx", ".gz"} <= set(kinds)
    ways = itertools.cycle(damaged(b""))
    for number, (kind, how) in enumerate(zip(kinds * 2, ways, strict=False)):
        name = [name for name in before if name.endswith(kind)][-(number // len(kinds))]
        copy = tmp_path / f"damaged-{number}"
        shutil.copytree(out, copy)
        (copy / name).write_bytes(damaged(before[name])[how])
        report = run(source, copy, LINES)
        assert report.continued and files(copy) == wanted, (name, how)


def test_undamaged_work_is_not_done_again(source, tmp_path, monkeypatch):
    interrupted(source, tmp_path / "out", monkeypatch)
    for name in ("extract", "decide", "encode"):
        monkeypatch.setattr(prepare, name, lambda *rest: pytest.fail("done again"))
    assert run(source, tmp_path / "out", LINES).continued


@pytest.mark.parametrize("left", ["empty", "cut", "none"])
def test_force_begins_again_whatever_the_state(source, tmp_path, left, capsys):
    out = tmp_path / "out"
    run(source, out, LINES)
    wanted, report = files(out), out / "corpus.json"
    if left == "none":
        report.unlink()
    else:
        report.write_bytes(b"" if left == "empty" else report.read_bytes()[:100])
    with pytest.raises(UserError, match=r"corpus\.json.*force=True"):
        run(source, out, LINES)
    command = ["prepare", str(source), "--out", str(out), "--validation", "0.2", "--workers", "1", "--dedup", "lines"]
    assert main(command) == 2
    assert "corpus.json" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    (out / "report.html").unlink()  # the page of the command
    assert files(out) == wanted


def test_force_takes_no_folder_of_others(source, tmp_path):
    for name in ("tokenizer.json", "notes.txt"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("mine", encoding="utf-8")
        with pytest.raises(UserError, match="holds other files"):
            run(source, out, LINES, force=True)
        assert (out / name).read_text(encoding="utf-8") == "mine"


def test_an_unfinished_corpus_with_a_damaged_report_is_finished(source, tmp_path, monkeypatch):
    interrupted(source, tmp_path / "out", monkeypatch)
    (tmp_path / "out" / "corpus.json").write_bytes(b"")
    assert run(source, tmp_path / "out", LINES).continued


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("state", ["new", "finished"])
def test_a_work_folder_that_is_a_link_is_refused(source, tmp_path, state, force):
    precious_folder, out = precious(tmp_path), tmp_path / "out"
    before = contents(precious_folder)
    if state == "finished":
        run(source, out)
    out.mkdir(exist_ok=True)
    (out / folder.WORK).symlink_to(precious_folder)
    with pytest.raises(UserError, match=r"\.prepare is a link to .*precious"):
        run(source, out, force=force)
    assert contents(precious_folder) == before


@pytest.mark.parametrize("name", ["text", "chosen", "tokenizer", "tokens"])
def test_a_stage_s_folder_that_is_a_link_is_refused(source, tmp_path, monkeypatch, name):
    precious_folder, out = precious(tmp_path), tmp_path / "out"
    before = contents(precious_folder)
    interrupted(source, out, monkeypatch)
    (stage,) = (out / folder.WORK).glob(f"{name}-*")
    shutil.rmtree(stage)
    stage.symlink_to(precious_folder)
    with pytest.raises(UserError, match=f"{stage.name} is a link to .*precious"):
        run(source, out, LINES)
    assert contents(precious_folder) == before


def test_links_of_other_names_lose_at_most_themselves(source, tmp_path, monkeypatch):
    run(source, tmp_path / "straight", LINES)
    precious_folder, out = precious(tmp_path), tmp_path / "out"
    before = contents(precious_folder)
    interrupted(source, out, monkeypatch)
    work = out / folder.WORK
    shutil.rmtree(work / "final")
    for name in ("text-0123456789ab", "tokens-0123456789ab", "final", "anything"):
        (work / name).symlink_to(precious_folder)
    (work / "lock.json").symlink_to(precious_folder / "thesis.txt")
    (text_folder,) = (path for path in work.glob("text-*") if not path.is_symlink())
    for path in list(text_folder.iterdir()):
        path.unlink()
        path.symlink_to(precious_folder / "thesis.txt")
    run(source, out, LINES)
    assert contents(precious_folder) == before
    assert files(out) == files(tmp_path / "straight")


def test_only_names_of_our_own_are_removed_from_the_work_folder(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(source, out, monkeypatch)
    own = out / folder.WORK / "my notes"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work", encoding="utf-8")
    run(source, out, replace(CONFIG, vocab_size=120))
    assert (own / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert [path.name for path in (out / folder.WORK).iterdir()] == ["my notes"]


def test_a_full_disk_at_any_write_is_one_sentence_and_the_same_command_goes_on(source, tmp_path, monkeypatch):
    with full_after(None, tmp_path, monkeypatch) as writes:
        run(source, tmp_path / "straight", LINES)
    out, failed = tmp_path / "out", 0
    assert writes.count > 50
    for room in range(0, writes.count * 4, 3):
        # each attempt continues from the one before it
        try:
            with full_after(room, tmp_path, monkeypatch):
                run(source, out, LINES)
        except UserError as error:
            assert f"disk of {out} is full" in str(error) and "\n" not in str(error)
            failed += 1
            continue
        break
    assert failed > 5
    assert files(out) == files(tmp_path / "straight")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "straight").iterdir()}


def test_a_full_disk_under_force_leaves_the_corpus_before_until_the_new_one_is_whole(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(source, out)
    other = replace(CONFIG, validation=0.4)
    run(source, tmp_path / "other", other)
    with full_after(None, tmp_path, monkeypatch) as writes:
        run(source, tmp_path / "third", other)
    for room in range(0, writes.count, 4):
        with full_after(room, tmp_path, monkeypatch), pytest.raises(UserError, match="is full"):
            run(source, tmp_path / "out", other, force=True)
        shutil.rmtree(out / folder.WORK, ignore_errors=True)
        if not (out / "corpus.json").exists():
            break
        assert run(source, out).reused
    run(source, out, other, force=True)
    assert files(out) == files(tmp_path / "other")
