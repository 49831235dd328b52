"""Whole commands on a disk that forgets, fills up, or was prepared by a stranger: nothing is lost, nothing of others
is touched, and every error is one sentence."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.exporting.model import export_model
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.importing import import_model
from blankfill.finetuning.run import finetune
from forgetful_disk import Disk, watch
from full_disk import full_after
from small_run import SMALL, texts_in
from small_tasks import QUICK, classes, model_folder

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
RUN = {
    **SMALL, "model.dropout": 0.1, "train.save_every": 3, "train.threads": 1, "train.precision": "fp32",
    "train.device": "cpu", "train.workers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushing to a real disk takes most of the time here and is not what is tested."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = texts_in(tmp_path_factory.mktemp("texts"), 20)
    blankfill.prepare([str(folder)], folder / "prepared", recipe().corpus)
    return folder / "prepared"


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    blankfill.pretrain([str(corpus)], recipe(), out)
    return out


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    finetune(config_in(folder), folder / "run")
    return folder / "run"


def recipe(**overrides: object) -> blankfill.Recipe:
    return blankfill.load_recipe("bert-nano", {**RUN, **{key.replace("__", "."): v for key, v in overrides.items()}})


def config_in(folder: Path) -> FinetuneConfig:
    return FinetuneConfig("sst2", classes(folder / "sst2"), model_folder(folder / "model"), QUICK)


def only_informs(path: Path) -> bool:
    """TensorBoard's files and lines of the record after the last checkpoint may be lost."""
    return path.name in ("tensorboard", "metrics.jsonl", "events.jsonl", "samples.jsonl") or (
        path.parent.name == "tensorboard"
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = store.newest(run / "checkpoints")
    assert checkpoint is not None
    return {**checkpoint.model, **checkpoint.optimizer}


def same_weights(run: Path, other: Path) -> bool:
    ours, theirs = weights(run), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def begin_or_go_on(corpus: Path, out: Path) -> None:
    """Pretrain as a user would: resume what can be resumed, else begin."""
    if (out / "recipe.yaml").exists():
        blankfill.resume(out)
    else:
        blankfill.pretrain([str(corpus)], recipe(), out)


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".part")]


def precious(tmp_path: Path) -> Path:
    """A folder of the user's."""
    precious_folder = tmp_path / "precious"
    (precious_folder / "inner").mkdir(parents=True)
    for path in (precious_folder / "thesis.txt", precious_folder / "inner" / "data.npy"):
        path.write_text("years of work", encoding="utf-8")
    return precious_folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# power cuts


@linux
def test_a_pretraining_run_survives_a_power_cut(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(tmp_path, monkeypatch) as disk:
        blankfill.pretrain([str(corpus)], recipe(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"report.html", "loss.png", "recipe.yaml", "tokenizer.json", "latest", "corpus_path.txt"} <= names
    assert disk.lost(only_informs) == []


@linux
def test_a_run_that_prepares_its_text_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_in(tmp_path, 8)
    with watch(tmp_path, monkeypatch) as disk:
        blankfill.pretrain([str(texts / f"{k}.txt") for k in range(8)], recipe(train__steps=2), tmp_path / "run")
    assert disk.lost(lambda path: only_informs(path) or (path.suffix == ".txt" and path.parent == texts)) == []


@linux
@pytest.mark.parametrize("names_kept", [False, True])
def test_after_a_power_cut_at_any_sync_a_run_goes_on_to_the_same_numbers(
    corpus: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_kept: bool
) -> None:
    out, cuts = tmp_path / "run", []
    out.mkdir()

    def cut(disk: Disk, count: int) -> None:
        if count < 16 or count % 8 == 0:
            cuts.append(tmp_path / f"cut-{count}")
            disk.after_cut(cuts[-1], names_kept)

    with watch(out, monkeypatch, cut):
        blankfill.pretrain([str(corpus)], recipe(), out)
    begun = [folder_after_cut for folder_after_cut in cuts if (folder_after_cut / "recipe.yaml").exists()]
    assert len(begun) > 4
    for folder_after_cut in [*cuts[::5], begun[0]]:
        begin_or_go_on(corpus, folder_after_cut)
        assert same_weights(folder_after_cut, run), folder_after_cut.name


@linux
def test_a_fine_tuning_run_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config_in(tmp_path)
    with watch(tmp_path / "out", monkeypatch) as disk:
        (tmp_path / "out").mkdir()
        finetune(made, tmp_path / "out" / "run")
    assert disk.lost(only_informs) == []
    assert (tmp_path / "out" / "run" / "results.json").exists()


def newest(run: Path) -> Path:
    return run / "checkpoints" / f"step-{max(store.steps_in(run / 'checkpoints'))}"


Command = Callable[[Path, Path, Path], None]
"""Writes to the folder `out / name`, given a pretraining run, a fine-tuning run, and that folder."""


def embed(suffix: str) -> Command:
    def command(run: Path, tuned: Path, out: Path) -> None:
        (out.parent.parent / "lines.txt").write_text("the farmer\nthe lantern\n", encoding="utf-8")
        assert main(["--debug", "embed", "--model", str(run), str(out.parent.parent / "lines.txt"), "--out",
                     str(out.with_suffix(suffix))]) == 0  # fmt: skip

    return command


def predict(run: Path, tuned: Path, out: Path) -> None:
    (out.parent.parent / "rows.txt").write_text("the cat sat\nfine dog\n", encoding="utf-8")
    assert main(["--debug", "predict", "--model", str(tuned), str(out.parent.parent / "rows.txt"), "--device", "cpu",
                 "--out", str(out)]) == 0  # fmt: skip


def import_(run: Path, tuned: Path, out: Path) -> None:
    import_model(newest(run), out)


def export(run: Path, tuned: Path, out: Path) -> None:
    export_model(run, out)


COMMANDS: dict[str, Command] = {
    "embed-array": embed(".npy"), "embed-lines": embed(".jsonl"), "predict": predict, "import": import_,
    "export": export,
}  # fmt: skip


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> Command:
    return COMMANDS[request.param]


@linux
def test_what_a_command_wrote_survives_a_power_cut(
    command: Command, run: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    with watch(tmp_path / "made", monkeypatch) as disk:
        command(run, tuned, tmp_path / "made" / "out")
    assert len(contents(tmp_path / "made")) > 0
    assert disk.lost() == []


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "run.json", "report.html", "loss.png", "latest"])
def test_a_run_whose_checkpoints_are_whole_is_resumed_without_its_small_files(
    corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blankfill.pretrain([str(corpus)], recipe(), tmp_path / "whole")
    out = tmp_path / "run"
    blankfill.pretrain([str(corpus)], recipe(), out, stop_after=1e-9)
    before = (out / name).read_bytes() if (out / name).exists() else b""
    (out / name).write_bytes(b"")
    blankfill.resume(out)
    assert same_weights(out, tmp_path / "whole")
    if name in ("recipe.yaml", "tokenizer.json"):
        assert (out / name).read_bytes() == before
    if name == "recipe.yaml":
        assert "recipe.yaml was missing or empty; it is written again" in capsys.readouterr().err


def test_what_cannot_be_written_again_is_named(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "corpus_path.txt").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"corpus_path\.txt is empty; name the prepared corpus: blankfill pretrain CORPUS"
    ):
        blankfill.resume(out)
    shutil.rmtree(out / "checkpoints")
    (out / "recipe.yaml").write_bytes(b"")
    with pytest.raises(UserError, match=r"recipe\.yaml is empty and no checkpoint has a copy"):
        blankfill.resume(out)


# full disks


def test_a_full_disk_at_any_write_is_one_sentence_and_the_same_command_passes_afterwards(
    command: Command, run: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    command(run, tuned, made / "out")
    wanted = contents(made)
    shutil.rmtree(made)
    made.mkdir()
    failed = 0
    for room in (*range(8), *range(8, 200, 3)):
        with full_after(room, made, monkeypatch):
            try:
                command(run, tuned, made / "out")
            except UserError as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
                assert str(made / "out") in str(error)
                # at the last sync all of it has its name
                assert contents(made).keys() in (set(), wanted.keys())
                shutil.rmtree(made / "out", ignore_errors=True)
                failed += 1
                continue
        break
    assert failed >= 3
    assert contents(made).keys() == wanted.keys() and leftovers(made) == []


def test_a_full_disk_leaves_the_output_before(
    run: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for suffix, command in ((".npy", embed(".npy")), (".jsonl", embed(".jsonl")), ("", predict)):
        path = (made / "out").with_suffix(suffix)
        path.write_text("what was there before", encoding="utf-8")
        for room in range(3):
            with full_after(room, made, monkeypatch), pytest.raises(UserError, match="No space left"):
                command(run, tuned, made / "out")
            assert path.read_text(encoding="utf-8") == "what was there before"
        path.unlink()
        assert list(made.iterdir()) == []


def test_pretraining_on_a_full_disk_stops_with_a_sentence_and_goes_on(
    corpus: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, steps, failed = tmp_path / "run", [], 0
    for room in range(0, 400, 13):
        try:
            with full_after(room, tmp_path, monkeypatch):
                begin_or_go_on(corpus, out)
        except UserError as error:
            assert "No space left on device" in str(error) and "\n" not in str(error)
            assert leftovers(out) == []
            whole = store.newest(out / "checkpoints", damaged=(damaged := []))
            assert damaged == []
            steps.append(0 if whole is None else whole.step)
            failed += 1
            continue
        break
    assert failed > 2
    assert steps == sorted(steps)
    assert same_weights(out, run)


def test_fine_tuning_on_a_full_disk_stops_with_a_sentence_and_goes_on(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out, failed = config_in(tmp_path / "in"), tmp_path / "out" / "run", 0
    out.parent.mkdir()
    for room in range(0, 400, 17):
        try:
            with full_after(room, out.parent, monkeypatch):
                finetune(made, out, resume=(out / "finetune.json").exists())
        except UserError as error:
            assert "No space left on device" in str(error) and "\n" not in str(error)
            failed += 1
            continue
        break
    assert failed > 2
    ours, theirs = (json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (out, tuned))
    assert ours["metrics"] == theirs["metrics"]
    assert same_weights(out, tuned)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
def test_a_limit_on_the_size_of_files_is_one_sentence(run: Path, corpus: Path, tmp_path: Path) -> None:
    code = """
import resource, sys
from blankfill.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.exit(main(sys.argv[1:]))
"""
    settings = [f"--{name}={value}" for name, value in RUN.items() if not name.startswith("corpus.")]
    for arguments, out in (
        (["export", str(run), "--out"], tmp_path / "exported"),
        (["pretrain", str(corpus), "--recipe", "bert-nano", *settings, "--out"], tmp_path / "run"),
    ):
        process = subprocess.run(
            [sys.executable, "-c", code, *arguments, str(out)], capture_output=True, text=True, check=False
        )
        assert process.returncode == 2, process.stderr
        assert "Traceback" not in process.stderr
        assert "cannot be written (File too large)" in process.stderr.splitlines()[-1]
        assert leftovers(tmp_path) == []


# folders of strangers


@pytest.mark.parametrize("name", ["checkpoints", "corpus", "replay", "tensorboard"])
def test_a_work_folder_of_a_run_that_is_a_link_is_refused(corpus: Path, tmp_path: Path, name: str) -> None:
    precious_folder, out = precious(tmp_path), tmp_path / "run"
    before = contents(precious_folder)
    out.mkdir()
    (out / name).symlink_to(precious_folder)
    with pytest.raises(UserError, match=rf"run/{name} is a link to .*precious|holds a run already"):
        blankfill.pretrain([str(corpus)], recipe(), out)
    (out / "recipe.yaml").write_text("objective: {name: bert}\n", encoding="utf-8")
    with pytest.raises(UserError):
        blankfill.resume(out)
    assert contents(precious_folder) == before


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "metrics.jsonl", "events.jsonl", ".lock"])
def test_a_received_run_with_links_is_not_resumed(run: Path, tmp_path: Path, name: str) -> None:
    precious_folder, out = precious(tmp_path), tmp_path / "run"
    shutil.copytree(run, out)
    if (out / name).is_dir():
        (out / name).rename(precious_folder / "moved")
        (out / name).symlink_to(precious_folder / "moved")
    else:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(precious_folder / "thesis.txt")
    before = contents(precious_folder)
    with pytest.raises(UserError, match=rf"{name} is a link to .*precious"):
        blankfill.resume(out)
    assert contents(precious_folder) == before


def test_files_of_a_received_run_that_are_links_are_replaced(run: Path, tmp_path: Path) -> None:
    precious_folder, out = precious(tmp_path), tmp_path / "run"
    shutil.copytree(run, out)
    before = contents(precious_folder)
    names = ["report.html", "loss.png", "latest", "best"]
    for name in names:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(precious_folder / "thesis.txt")
    blankfill.resume(out)
    assert contents(precious_folder) == before
    assert not (out / "report.html").is_symlink() and not (out / "loss.png").is_symlink()


def test_plans_of_a_received_corpus_are_not_written_through_a_link(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blankfill.data import sampler

    monkeypatch.setattr(sampler, "WORTH_CACHING", 1)
    precious_folder, mine = precious(tmp_path), tmp_path / "corpus"
    shutil.copytree(corpus, mine)
    shutil.rmtree(mine / "plans", ignore_errors=True)
    (mine / "plans").symlink_to(precious_folder)
    before = contents(precious_folder)
    blankfill.pretrain([str(mine)], recipe(train__steps=2), tmp_path / "run")
    assert contents(precious_folder) == before


def test_a_checkpoint_folder_keeps_what_is_not_ours(tmp_path: Path) -> None:
    precious_folder, folder = precious(tmp_path), tmp_path / "checkpoints"
    before = contents(precious_folder)
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = [folder / f".step-3.{ended.pid}-1.part", folder / f".step-2.gone.{ended.pid}-1.part"]
    for path in own:
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    (folder / ".step-notes").mkdir()
    (folder / ".step-9.999.part").symlink_to(precious_folder)
    (folder / f".step-7.{ended.pid}-1.part").symlink_to(precious_folder)
    store.save(folder, 1, {"a": torch.zeros(2)}, {}, {})
    assert not any(path.exists() for path in own)
    assert (folder / ".step-notes").is_dir() and (folder / ".step-9.999.part").is_symlink()
    assert not (folder / f".step-7.{ended.pid}-1.part").is_symlink()
    assert contents(precious_folder) == before


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run: Path, tmp_path: Path) -> None:
    """They may lie on a disk that is not mounted; what would be written in their place is a model of no training."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    before = contents(out)
    with pytest.raises(UserError, match=r"run/latest says that this run had checkpoints, and .*checkpoints holds none"):
        blankfill.resume(out)
    for name in (".lock", "run.json", "report.html"):
        before.pop(name, None)
    assert before.items() <= contents(out).items()
    (tmp_path / "elsewhere").rename(out / "checkpoints")
    blankfill.resume(out)


@pytest.mark.parametrize("leads", ["nowhere", "to a file", "to a folder"])
def test_a_link_in_the_place_of_a_checkpoint_is_replaced(tmp_path: Path, leads: str) -> None:
    precious_folder, folder = precious(tmp_path), tmp_path / "checkpoints"
    before = contents(precious_folder)
    folder.mkdir()
    target = {
        "nowhere": precious_folder / "nothing",
        "to a file": precious_folder / "thesis.txt",
        "to a folder": precious_folder,
    }[leads]
    (folder / "step-1").symlink_to(target)
    store.save(folder, 1, {"a": torch.zeros(2)}, {}, {})
    assert not (folder / "step-1").is_symlink() and store.read(folder / "step-1").step == 1
    assert contents(precious_folder) == before


# kills


def test_the_next_command_removes_what_a_killed_one_left(
    command: Command, run: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    command(run, tuned, made / "out")
    (written,) = made.iterdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    written.rename(written.with_name(f".{written.name}.{ended.pid}-{ended.pid}.part"))
    command(run, tuned, made / "out")
    assert [path.name for path in made.iterdir()] == [written.name]


KILLED = """
import os, sys
from pathlib import Path
from blankfill.system import files
real = files.sync_file
files.sync_file = lambda path: os._exit(9)  # at the moment when all is written and nothing has its name
from blankfill.cli.main import main
main(sys.argv[1:])
"""


def test_a_killed_prediction_leaves_no_part_under_the_final_name(tuned: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.txt", tmp_path / "out.jsonl"
    rows.write_text("the cat sat\n" * 20, encoding="utf-8")
    arguments = ["predict", "--model", str(tuned), str(rows), "--device", "cpu", "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert killed.returncode == 9
    assert not out.exists() and len(leftovers(tmp_path)) == 1
    assert main(arguments) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 20 and leftovers(tmp_path) == []


def test_predictions_are_not_written_over_their_rows(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("the cat sat\n", encoding="utf-8")
    assert main(["predict", "--model", str(tuned), str(rows), "--out", str(rows)]) == 2
    assert "rows.txt is the file that is read, which would be lost" in capsys.readouterr().err
    assert rows.read_text(encoding="utf-8") == "the cat sat\n"


def test_an_array_of_vectors_reads_back(run: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    embed(".npy")(run, run, tmp_path / "made" / "out")
    assert np.load(tmp_path / "made" / "out.npy").shape == (2, 32)
