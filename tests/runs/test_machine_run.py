"""Whole runs that are resumed on a machine that would choose otherwise, or with other machine options."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.finetuning.config import FinetuneConfig, read_config
from blankfill.finetuning.run import finetune
from blankfill.finetuning.several import finish_run
from blankfill.runs.folder import noted_machine
from blankfill.runs.recorder import read_lines
from blankfill.system import environment, threads
from blankfill.tasks.options import FinetuneOptions
from blankfill.training import pace
from small_run import SMALL, edit_state, texts_in
from small_tasks import classes, model_folder

RUN = {**SMALL, "model.dropout": 0.1, "train.save_every": 2, "train.log_every": 1}
UNITS = {"off": ["avx2"], "on": ["avx2", "avx512_bf16"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    prepared = folder / "prepared"
    recipe = blankfill.load_recipe("gpt-nano", RUN)
    blankfill.prepare([str(texts_in(folder, 20))], prepared, recipe.corpus)
    return prepared


def look(patch: pytest.MonkeyPatch, units: str, cores: int, busy: float = 0.0) -> None:
    """Make the machine look so; nothing in the environment says how many threads."""
    for name in (*threads.VARIABLES, *environment.NO_BF16):
        patch.delenv(name, raising=False)
    patch.setattr(environment, "instruction_sets", lambda: UNITS[units])
    patch.setattr(environment, "usable_cores", lambda *_: cores)
    patch.setattr(environment, "busy_cores", lambda: busy)


def numbers(run: Path) -> list[tuple[object, ...]]:
    return [tuple(line.get(name) for name in ("split", "step", "loss")) for line in read_lines(run / "metrics.jsonl")]


def remarks(run: Path, kind: str = "machine") -> list[str]:
    return [event["text"] for event in read_lines(run / "events.jsonl") if event["kind"] == kind]


def noted(run: Path) -> dict[str, Any]:
    checkpoint = store.newest(run / "checkpoints")
    assert checkpoint is not None
    values: dict[str, Any] = checkpoint.state["machine"]
    assert json.loads((run / "machine.json").read_text(encoding="utf-8")) == values
    return values


@pytest.mark.parametrize(("units", "then"), [("off", "on"), ("on", "off")])
def test_a_resumed_run_computes_as_it_began(
    units: str, then: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun with one thread, in bf16 or not; the second sitting finds more cores and the other processor.

    Off to on gives the numbers of an uninterrupted run; on to off cannot, and says so.
    """
    recipe = blankfill.load_recipe("gpt-nano", RUN)
    look(monkeypatch, units, cores=1)
    blankfill.pretrain([str(corpus)], recipe, tmp_path / "whole")
    assert blankfill.pretrain([str(corpus)], recipe, tmp_path / "run", stop_after=0.0).steps == 1
    assert noted(tmp_path / "run")["compute"] == {"off": "float32", "on": "bfloat16"}[units]
    look(monkeypatch, then, cores=2)
    blankfill.resume(tmp_path / "run")
    values = noted(tmp_path / "run")
    assert values["threads"] == torch.get_num_threads() == 1
    assert values["compute"] == "float32"
    (remark,) = remarks(tmp_path / "run")
    if units == "off":
        assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
        assert remark.startswith("the run resumes with other instruction sets of the processor (with avx512_bf16)")
    else:
        assert "in float32 (bfloat16 so far, for which there are no units here)" in remark


def test_machine_options_go_with_resume(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stay for the next sitting, but for the loader's processes, which change no number."""
    look(monkeypatch, "off", cores=2)
    run, recipe = tmp_path / "run", blankfill.load_recipe("gpt-nano", RUN)
    blankfill.pretrain([str(corpus)], recipe, run, stop_after=0.0)
    before = (run / "recipe.yaml").read_bytes()
    assert noted(run)["threads"] == 2 and remarks(run) == []
    more = ["--threads", "1", "--train.device=cpu", "--train.micro_batch", "2", "--train.workers", "1"]
    assert main(["pretrain", "--resume", str(run), "--stop-after", "0s", *more]) == 75
    said = capsys.readouterr().err
    changed, workers = remarks(run)
    assert changed in said and workers in said
    assert "with 1 thread (2 so far), with 2 rows at a time (all rows of a step at once so far)" in changed
    assert "by rounding and, where there is dropout, by what is dropped" in changed
    assert workers == "train.workers is 1 from here on; no number depends on it"
    assert (run / "recipe.yaml").read_bytes() == before
    blankfill.resume(run)
    assert (noted(run)["threads"], noted(run)["micro_batch"]) == (1, 2) and len(remarks(run)) == 2
    assert main(["pretrain", "--resume", str(run), "--train.lr", "1", "--threads", "1"]) == 2
    err = capsys.readouterr().err
    assert "leave out --train.lr (options of the machine may change: --threads," in err


def test_an_option_that_cannot_be_leaves_a_run_as_it_is(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    blankfill.pretrain([str(corpus)], blankfill.load_recipe("gpt-nano", RUN), run, stop_after=0.0)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for option, value, message in (
        ("--threads", "-1", "--threads is -1; it must be 0 or between 1 and 1024"),
        ("--train.micro-batch", "-1", "--train.micro-batch is -1"),
        ("--train.workers", "-1", "train.workers is -1"),
        ("--train.device", "cudo", "--device is cudo"),
    ):
        assert main(["pretrain", "--resume", str(run), option, value]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match=r"train\.threads is 5000"):
        blankfill.resume(run, changes={"threads": 5000})
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_run_of_an_earlier_version_is_resumed(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    blankfill.pretrain([str(corpus)], blankfill.load_recipe("gpt-nano", RUN), run, stop_after=0.0)
    for path in (run / "checkpoints").glob(f"*/{store.STATE}"):
        progress = json.loads(path.read_text(encoding="utf-8"))["progress"]
        edit_state(path, "machine", progress={name: progress[name] for name in progress if name != "parts"})
    assert blankfill.resume(run).steps == 12
    assert "does not contain the conditions of its computation" in remarks(run)[0]


def test_steps_that_become_slow_lower_the_threads(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step counts as slow here: the third ends it, a checkpoint is written, and a resumed run keeps to it."""
    look(monkeypatch, "off", cores=2)
    for name, value in (("FIRST", 1), ("SLOWER", 0.0), ("STEPS", 1), ("SECONDS", 0.0)):
        monkeypatch.setattr(pace, name, value)
    run, recipe = (
        tmp_path / "run",
        blankfill.load_recipe("gpt-nano", {**RUN, "train.save_every": 6, "train.save_total_limit": 9}),
    )
    blankfill.pretrain([str(corpus)], recipe, run)
    (remark,) = remarks(run, "threads")
    assert "1 thread instead of 2 from step 3 on" in remark
    threads = {step: store.read(run / "checkpoints" / f"step-{step}").state["machine"]["threads"]
            for step in store.steps_in(run / "checkpoints")}  # fmt: skip
    assert threads == {0: 2, 3: 1, 6: 1, 12: 1}
    assert noted(run)["threads"] == 1


def task(tmp_path: Path, **changes: Any) -> FinetuneConfig:
    options = FinetuneOptions(batch_size=8, epochs=1, eval_every=2, **changes)
    return FinetuneConfig("sst2", classes(tmp_path / "data"), model_folder(tmp_path), options)


def stopped_at_once(patch: pytest.MonkeyPatch, config: FinetuneConfig, out: Path) -> None:
    import contextlib

    with patch.context() as patched:
        patched.setattr("blankfill.runs.context.stop_signals", lambda: contextlib.nullcontext([15]))
        assert not finetune(config, out).complete


def test_fine_tuning_is_resumed_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look(monkeypatch, "off", cores=1)
    config = task(tmp_path)
    finetune(config, tmp_path / "whole")
    stopped_at_once(monkeypatch, config, tmp_path / "run")
    stopped_at_once(monkeypatch, config, tmp_path / "other")
    look(monkeypatch, "on", cores=2)
    finetune(read_config(tmp_path / "run"), tmp_path / "run", resume=True)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    assert (noted(tmp_path / "run")["compute"], noted(tmp_path / "run")["threads"]) == ("float32", 1)
    capsys.readouterr()
    more = ["--threads", "2", "--device", "cpu", "--micro-batch=4"]
    assert main(["finetune", "--resume", str(tmp_path / "other"), *more]) == 0
    values = noted(tmp_path / "other")
    assert (values["threads"], values["micro_batch"]) == (2, 4)
    remark = remarks(tmp_path / "other")[0]
    assert remark in capsys.readouterr().err and "with 2 threads (1 so far), with 4 rows at a time (all rows" in remark
    assert main(["finetune", "--resume", str(tmp_path / "other"), "--lr", "1", "--threads", "1"]) == 2
    assert "leave out --lr (options of the machine may change" in capsys.readouterr().err


def test_the_runs_of_a_grid_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them finds other programs, the second does not; both compute with what the first settled on."""
    look(monkeypatch, "off", cores=2, busy=1.5)
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "grid"
    command = ["finetune", "--task", "sst2", "--data", str(data), "--from", str(model), "--out", str(out),
               "--batch-size", "8", "--epochs", "0.2", "--num-seeds", "2"]  # fmt: skip

    def second(config: FinetuneConfig, folder: Path, *more: Any) -> dict[str, Any]:
        if folder.name == "seed-1":
            look(monkeypatch, "on", cores=2)
            if not folder.exists():
                raise UserError("stopped")
        return finish_run(config, folder, *more)

    with monkeypatch.context() as patched:
        patched.setattr("blankfill.finetuning.grid.finish_run", second)
        assert main(command) == 2
    settled = noted_machine(out)
    assert settled is not None and (settled.threads, settled.compute) == (1, "float32")
    assert main(command) == 0
    for seed in (0, 1):
        values = noted(out / f"seed-{seed}")
        assert (values["threads"], values["compute"]) == (1, "float32")
    assert main([*command, "--data", "nowhere", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_a_damaged_note_of_a_grid_is_no_note(tmp_path: Path) -> None:
    assert noted_machine(tmp_path) is None
    for text in ("", "{", "[" * 100_000, '{"device": 3}', "\x00"):
        (tmp_path / "machine.json").write_text(text, encoding="utf-8")
        assert noted_machine(tmp_path) is None


def test_options_of_a_grid_that_are_given_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look(monkeypatch, "off", cores=2)
    config = task(tmp_path)
    stopped_at_once(monkeypatch, config, tmp_path / "run")
    again = dataclasses.replace(config, options=dataclasses.replace(config.options, threads=1))
    assert finish_run(again, tmp_path / "run")["complete"]
    assert noted(tmp_path / "run")["threads"] == 1 and "with 1 thread (2 so far)" in remarks(tmp_path / "run")[0]
