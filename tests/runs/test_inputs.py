"""Pretraining runs and corpora whose inputs were changed under them: each change is refused, and says what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blankfill
from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.config.recipe import Recipe, load_recipe, recipe_names, to_yaml
from blankfill.corpus.identity import NAMES, corpus_marks
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.pretraining.notes import recipe_values
from blankfill.pretraining.run import pretrain, resume
from blankfill.pretraining.warm_start import InitFrom
from blankfill.runs.inputs import FILE as NOTES
from blankfill.system import marks
from small_run import SMALL, edit_state, permute, texts_in

pytestmark = pytest.mark.usefixtures("restored_threads")

STEADY = {**SMALL, "train.threads": 1, "train.precision": "fp32", "corpus.vocab_size": 128}


def recipe_of(name: str = "gpt-nano", **changes: Any) -> Recipe:
    return load_recipe(name, {**STEADY, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus, and a run on it that was stopped after its first step."""
    root = tmp_path_factory.mktemp("source")
    (root / "texts").mkdir()
    blankfill.prepare([str(texts_in(root / "texts", 25))], root / "corpus", recipe_of().corpus)
    pretrain([str(root / "corpus")], recipe_of(), root / "run", stop_after=1e-9)
    return root


@pytest.fixture
def begun(source: Path, tmp_path: Path) -> Path:
    """A copy of the corpus and the run, to be changed."""
    shutil.copytree(source, tmp_path / "copy")
    return tmp_path / "copy"


def zero(path: Path, place: int = 200, count: int = 8) -> None:
    """Overwrite some bytes of a file with other ones."""
    data = bytearray(path.read_bytes())
    data[place : place + count] = bytes(count) if any(data[place : place + count]) else b"\xff" * count
    path.write_bytes(data)


def another_text(root: Path) -> Path:
    (root / "other").mkdir()
    for k in range(25, 50):
        text = (root / "texts" / f"{k - 25}.txt").read_text(encoding="utf-8")
        (root / "other" / f"{k}.txt").write_text(text.replace("garden", "meadow"), encoding="utf-8")
    return root / "other"


def prepared_anew(root: Path) -> None:
    """Other words in a vocabulary of the same size."""
    before = Tokenizer.load(root / "corpus")
    blankfill.prepare([str(another_text(root))], root / "corpus", recipe_of().corpus, force=True)
    after = Tokenizer.load(root / "corpus")
    assert before.size == after.size and before.fingerprint != after.fingerprint


def overwritten(root: Path) -> None:
    """Token files of the same size with other text."""
    ids = np.fromfile(root / "corpus" / "train.bin", "<u2")
    ids[100:300] = ids[100:300][::-1]
    ids.tofile(root / "corpus" / "train.bin")


def without_validation(root: Path) -> None:
    for suffix in (".bin", ".idx"):
        (root / "corpus" / f"valid{suffix}").unlink()


def edited(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "run" / "recipe.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "prepared anew with a vocabulary of the same size": (prepared_anew, r"corpus: .*tokenizer\.json has .*--from"),
    "train overwritten": (overwritten, r"corpus: train\.bin has other content of the same size"),
    "validation gone": (without_validation, r"valid\.bin is gone; .*valid\.idx is gone"),
    "tokens zeroed": (lambda root: zero(root / "corpus" / "train.bin"), r"train\.bin has other content"),
    "index zeroed": (lambda root: zero(root / "corpus" / "valid.idx"), r"valid\.idx has other content"),
    "counts zeroed": (lambda root: zero(root / "corpus" / "unigram.npy", 136), r"unigram\.npy has other content"),
    "corpus's tokenizer permuted": (lambda root: permute(root / "corpus" / "tokenizer.json"), r"tokenizer\.json has"),
    "run's tokenizer permuted": (
        lambda root: permute(root / "run" / "tokenizer.json"),
        r"run/tokenizer\.json is another tokenizer.*corpus is the same",
    ),
    "rate edited": (edited("\n  lr: 0.003", "\n  lr: 0.004"), r"train\.lr is 0\.004 and was 0\.003.*--from \S*run"),
    "steps edited": (edited("\n  steps: 12", "\n  steps: 20"), r"train\.steps is 20 and was 12"),
    "seed edited": (edited("\nseed: 0", "\nseed: 1"), r"seed is 1 and was 0"),
    "model edited": (edited("num_layers: 1", "num_layers: 2"), r"model\.num_layers is 2 and was 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_under_a_run_is_refused(name: str, begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = CHANGES[name]
    change(begun)
    before = {path: path.read_bytes() for path in (begun / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"(?s){message}"):
        resume(begun / "run")
    after = {path: path.read_bytes() for path in (begun / "run").rglob("*") if path.is_file()}
    assert before == after  # nothing of the run was touched
    assert main(["pretrain", "--resume", str(begun / "run")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_checkpoint_knows_without_the_file(begun: Path) -> None:
    """The note stands in the state of each checkpoint too; without one, in the file alone."""
    edited("\n  lr: 0.003", "\n  lr: 0.004")(begun)
    (begun / "run" / NOTES).unlink()
    with pytest.raises(UserError, match=r"train\.lr is 0\.004"):
        resume(begun / "run")


def test_the_file_knows_without_a_checkpoint(begun: Path) -> None:
    overwritten(begun)
    shutil.rmtree(begun / "run" / "checkpoints")
    (begun / "run" / "latest").unlink()  # as a kill before the first checkpoint leaves it
    with pytest.raises(UserError, match=r"train\.bin has other content"):
        resume(begun / "run")


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_file_stops_nothing(damage: bytes, begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (begun / "run" / NOTES).write_bytes(damage)
    assert resume(begun / "run").steps == 12
    assert "written again" in capsys.readouterr().err
    state = json.loads((begun / "run" / "checkpoints" / "step-12" / "state.json").read_text(encoding="utf-8"))
    assert json.loads((begun / "run" / NOTES).read_text(encoding="utf-8")) == state["inputs"]


def test_what_stays_the_same_goes_on(begun: Path, source: Path, tmp_path: Path) -> None:
    """Elsewhere, at other times, with other options of the machine and of what is written, to the same weights."""
    edited("\n  threads: 1", "\n  threads: 2")(begun)
    edited("\n  save_total_limit: 2", "\n  save_total_limit: 5")(begun)
    edited("\n  log_every: 2", "\n  log_every: 3")(begun)
    for path in begun.rglob("*"):
        path.touch()
    begun.rename(tmp_path / "moved")
    whole = pretrain([str(source / "corpus")], recipe_of(), tmp_path / "whole")
    assert resume(tmp_path / "moved" / "run", verify=True).valid_loss == pytest.approx(whole.valid_loss, abs=1e-3)


def test_a_run_of_an_older_version_goes_on_with_one_sentence(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((begun / "run" / "checkpoints").glob("*")) / "state.json"
    (begun / "run" / NOTES).unlink()
    edit_state(path, "inputs")
    report = begun / "corpus" / "corpus.json"
    values = json.loads(report.read_text(encoding="utf-8"))
    del values["files"]
    report.write_text(json.dumps(values), encoding="utf-8")
    assert resume(begun / "run", verify=True).steps == 12
    said = capsys.readouterr().err
    assert said.count("a version that did not note its inputs") == 1
    assert said.count("no checksums were noted") == 1
    overwritten(begun)  # from now on it is known
    with pytest.raises(UserError, match=r"train\.bin has other content"):
        resume(begun / "run")


def test_bytes_between_the_samples_are_found_by_verify(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file too large to be read whole at each opening."""
    monkeypatch.setattr(marks, "BLOCK", 16)
    monkeypatch.setattr(marks, "BLOCKS", 4)
    blankfill.prepare([str(begun / "texts")], begun / "corpus", recipe_of().corpus, force=True)
    pretrain([str(begun / "corpus")], recipe_of(), begun / "large", stop_after=1e-9)
    before = corpus_marks(begun / "corpus")
    zero(begun / "corpus" / "train.bin", 1000)
    assert corpus_marks(begun / "corpus") == before
    with pytest.raises(UserError, match=r"train\.bin does not match its recorded checksum; copy it again"):
        resume(begun / "large", verify=True)
    with pytest.raises(UserError, match=r"train\.bin does not match its recorded checksum"):
        pretrain([str(begun / "corpus")], recipe_of(), begun / "new", verify=True)
    assert not (begun / "new").exists()
    assert main(["prepare", "--out", str(begun / "corpus"), "--verify"]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_run_does_not_begin_on_a_changed_corpus(name: str, begun: Path) -> None:
    zero(begun / "corpus" / name, 100, 4)
    with pytest.raises(UserError, match=rf"was changed since it was prepared: {name} has other content.*force=True"):
        blankfill.pretrain([str(begun / "corpus")], recipe_of(), begun / "new")
    assert not (begun / "new").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_corpus_is_not_reused(name: str, begun: Path) -> None:
    texts, corpus = [str(begun / "texts")], begun / "corpus"
    blankfill.prepare(texts, corpus, recipe_of().corpus, force=True)
    assert blankfill.prepare(texts, corpus, recipe_of().corpus).reused
    (corpus / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is gone.*force=True"):
        blankfill.prepare(texts, corpus, recipe_of().corpus)
    assert not blankfill.prepare(texts, corpus, recipe_of().corpus, force=True).reused
    assert blankfill.prepare(texts, corpus, recipe_of().corpus).reused


def test_prepare_notes_checksums_and_verifies_them(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = begun / "corpus"
    noted = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))["files"]
    assert {name: mark["sha256"] for name, mark in noted.items()} == {n: store.checksum(corpus / n) for n in NAMES}
    assert main(["prepare", "--out", str(corpus), "--verify"]) == 0
    assert "all 6 files match their recorded checksums" in capsys.readouterr().err
    assert main(["prepare", "--out", str(begun / "texts"), "--verify"]) == 2
    zero(corpus / "train.bin")
    assert main(["prepare", "--out", str(corpus), "--verify"]) == 2
    assert "train.bin has other content" in capsys.readouterr().err


def test_a_model_does_not_answer_with_another_tokenizer(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun / "run"
    newest = run / "checkpoints" / (run / "latest").read_text(encoding="utf-8").strip()
    shutil.copytree(newest, begun / "taken")
    assert blankfill.load(begun / "taken").fill("The [MASK] boat.").filled  # a checkpoint alone has its own
    permute(run / "tokenizer.json")
    with pytest.raises(UserError, match=r"run/tokenizer\.json is not the tokenizer .* trained with.*copy it from"):
        blankfill.load(run)
    assert main(["fill", "--model", str(run), "A [MASK]."]) == 2
    (run / "tokenizer.json").write_bytes((newest / "tokenizer.json").read_bytes())
    assert blankfill.load(run).fill("The [MASK] boat.").filled
    permute(begun / "taken" / "tokenizer.json")
    with pytest.raises(UserError, match=r"taken/tokenizer\.json is not the tokenizer"):
        blankfill.load(begun / "taken")


def test_a_tokenizer_that_is_only_written_otherwise_is_the_same(begun: Path) -> None:
    path = begun / "run" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert blankfill.load(begun / "run").fill("The [MASK] boat.").filled
    assert resume(begun / "run").steps == 12


@pytest.fixture(scope="module")
def continued(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began from another one and replays its text, stopped after its first step."""
    root = tmp_path_factory.mktemp("continued")
    shutil.copytree(source, root / "first")
    recipe = load_recipe("gpt-nano", {k: v for k, v in STEADY.items() if not k.startswith(("model.", "corpus.vocab"))})
    init_from = InitFrom(root / "first" / "run", ["zeppelin"], str(root / "first" / "texts"), 0.5)
    texts = another_text(root / "first")
    pretrain([str(texts)], recipe, root / "run", stop_after=1e-9, init_from=init_from)
    return root


def test_replayed_text_that_changed_is_refused(continued: Path, tmp_path: Path) -> None:
    shutil.copytree(continued, tmp_path / "copy")
    out = tmp_path / "copy" / "run"
    zero(out / "replay" / "train.bin")
    with pytest.raises(UserError, match=r"replay: train\.bin has other content"):
        resume(out)


def test_an_edited_warm_start_is_refused(continued: Path, tmp_path: Path) -> None:
    shutil.copytree(continued, tmp_path / "copy")
    out = tmp_path / "copy" / "run"
    values = json.loads((out / "warm_start.json").read_text(encoding="utf-8"))
    (out / "warm_start.json").write_text(json.dumps({**values, "replay_ratio": 0.25}), encoding="utf-8")
    with pytest.raises(UserError, match=r"warm_start\.json replay_ratio is 0\.25 and was 0\.5"):
        resume(out)
    (out / "warm_start.json").unlink()
    with pytest.raises(UserError, match=r"warm_start\.json is gone"):
        resume(out)
    (out / "warm_start.json").write_text(json.dumps(values), encoding="utf-8")
    assert resume(out).steps == 12


def test_every_recipe_is_noted_as_it_is_read_again(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        again = recipe_values(load_recipe(tmp_path / "recipe.yaml"))
        assert again == recipe_values(recipe)
        assert "train.lr" in again and "train.threads" not in again


def test_a_run_below_a_linked_folder_goes_on_by_every_path(source: Path, tmp_path: Path) -> None:
    """Steps up from a folder that is reached through a link are counted where it really lies."""
    (tmp_path / "far" / "disk").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "far" / "disk")
    (tmp_path / "data").symlink_to(source / "corpus")
    out = tmp_path / "store" / "run"
    pretrain([str(tmp_path / "data")], recipe_of(), out, stop_after=1e-9)
    assert (out / (out / "corpus_path.txt").read_text(encoding="utf-8").strip()).samefile(source / "corpus")
    assert resume(out, stop_after=1e-9).steps == 2
    assert resume(tmp_path / "far" / "disk" / "run").steps == 12


@pytest.mark.parametrize("name", ["corpus.json", "model.safetensors", "results.json"])
def test_a_folder_of_something_else_is_no_place_for_a_run(name: str, source: Path, tmp_path: Path) -> None:
    """A corpus whose tokenizer would be replaced, a model, the table of a grid."""
    out = shutil.copytree(source / "corpus", tmp_path / "out", ignore=shutil.ignore_patterns("corpus.json"))
    (out / name).write_text("{}", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=rf"holds .*\({name}\), which the run would damage; give another out"):
        pretrain([str(source / "corpus")], recipe_of(), out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_path_that_was_noted_along_links_is_found(begun: Path, tmp_path: Path) -> None:
    """A note as earlier versions wrote it, which could not continue such a run."""
    (tmp_path / "far" / "disk").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "far" / "disk")
    out = Path(shutil.move(begun / "run", tmp_path / "store" / "run"))
    (out / "corpus_path.txt").write_text("../../copy/corpus\n", encoding="utf-8")
    assert not (out / "../../copy/corpus").exists()
    assert resume(out).steps == 12


def test_a_run_that_was_moved_away_from_its_corpus_is_told_where_it_is(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere" / "below" / "run"
    shutil.copytree(begun / "run", out)
    another = blankfill.prepare([str(another_text(begun))], begun / "third", recipe_of().corpus)
    assert another
    for argv, said in (
        ([], f"the token files of {out} are gone from"),
        ([str(begun / "texts")], f"leave out {begun / 'texts'}, or name the one prepared corpus"),
        ([str(begun / "corpus"), str(begun / "corpus")], "leave out 2 paths"),
        ([str(begun / "third")], "was begun with other inputs"),
    ):
        before = (out / "corpus_path.txt").read_bytes()
        assert main(["pretrain", *argv, "--resume", str(out)]) == 2
        assert said in capsys.readouterr().err
        assert (out / "corpus_path.txt").read_bytes() == before
    assert main(["pretrain", str(begun / "corpus"), "--resume", str(out), "--stop-after", "0.001s"]) == 75
    assert resume(out).steps == 12  # it is noted
    assert main(["pretrain", "--resume", str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path / 'nowhere'} does not exist" in capsys.readouterr().err
