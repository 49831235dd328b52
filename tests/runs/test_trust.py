"""Runs without supervision: a run that is killed at any time reaches the same numbers; damage is skipped."""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.errors import UserError
from blankfill.model.transformer import Transformer
from blankfill.pretraining.data_setup import open_corpus, phases
from blankfill.runs.recorder import read_lines
from blankfill.training import faults, loop
from blankfill.training.loss import LossSums
from blankfill.types import Batch
from small_run import SMALL, sentences

KILLS = 20

RUN = {
    **SMALL, "model.dropout": 0.1, "train.steps": 60, "train.log_every": 4, "train.eval_every": 10,
    "train.save_every": 3, "train.threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for k in range(30):
        (folder / f"{k}.txt").write_text(sentences(30, k) + "\n", encoding="utf-8")
    prepared = folder / "prepared"
    blankfill.prepare([str(path) for path in sorted(folder.glob("*.txt"))], prepared, recipe().corpus)
    return prepared


def recipe(**overrides: object) -> blankfill.Recipe:
    return blankfill.load_recipe("glm-nano", {**RUN, **{key.replace("__", "."): v for key, v in overrides.items()}})


def losses(run: Path) -> list[tuple[object, ...]]:
    """Everything that must be equal in the metrics of two runs: all but the times."""
    names = ("split", "step", "loss", "lr", "tokens", "grad_norm")
    return [tuple(line.get(name) for name in names) for line in read_lines(run / "metrics.jsonl")]


def go_on(out: Path, corpus: Path, workers: int, halt: bool) -> None:
    """Begin or resume a run. halt: stand still in the middle of the second checkpoint, and say so by a file."""
    write, written = store.write_weights, []

    def slowly(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        time.sleep(0.02)
        write(path, tensors)
        written.append(path)
        if halt and path.name == store.MODEL and len(written) > 2:
            halted(out).touch()
            time.sleep(3600)
        time.sleep(0.02)

    store.write_weights = slowly
    torch.set_num_threads(1)
    if (out / "recipe.yaml").exists():
        blankfill.resume(out)
    else:
        blankfill.pretrain([str(corpus)], recipe(train__workers=workers), out)


def halted(run: Path) -> Path:
    return run.with_name(f"{run.name}.halted")


def newest_step(run: Path) -> int:
    return max(store.steps_in(run / "checkpoints"), default=0)


def wait_until(process: BaseProcess, come: Callable[[], bool]) -> None:
    """However slow the machine is; a process that ends by itself ends the waiting too."""
    while process.is_alive() and not come():
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again_it_gives_the_same_losses(corpus: Path, tmp_path: Path, workers: int) -> None:
    blankfill.pretrain([str(corpus)], recipe(), tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["blankfill.pretraining.run", "torch", "torch.utils.tensorboard", "blankfill.training.loop"]
    )
    rng = np.random.default_rng(workers)
    killed = tmp_path / "killed"
    kills = resumed = half_written = step = 0
    while kills < KILLS // 2:
        halt = kills % 3 == 1
        halted(killed).unlink(missing_ok=True)
        process = context.Process(target=go_on, args=(killed, corpus, workers, halt))
        process.start()
        before = (killed, step)
        if halt:
            wait_until(process, halted(killed).exists)
        elif rng.random() < 0.8:  # once it is under way
            wait_until(process, lambda before=before: newest_step(before[0]) > before[1])
        process.join(0.0 if halt else float(rng.uniform(0.0, 0.6)))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)  # an error of its own would count for nothing
        half_written += any((killed / "checkpoints").glob(".step-*"))
        step = newest_step(killed)
        resumed += step > 0
        if step == 60:
            assert losses(killed) == losses(tmp_path / "whole")
            killed, step = killed.with_name(f"{killed.name}+"), 0  # and once more from the start
    last = context.Process(target=go_on, args=(killed, corpus, workers, False))
    last.start()
    last.join()
    assert last.exitcode == 0 and resumed >= 3 and half_written >= 1
    assert losses(killed) == losses(tmp_path / "whole")
    ours, theirs = (store.newest(folder / "checkpoints") for folder in (killed, tmp_path / "whole"))
    assert ours is not None and theirs is not None
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)
    assert all(torch.equal(ours.optimizer[name], theirs.optimizer[name]) for name in theirs.optimizer)


def test_a_damaged_checkpoint_is_passed_over(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = recipe(train__steps=12)
    blankfill.pretrain([str(corpus)], short, tmp_path / "whole")
    blankfill.pretrain([str(corpus)], short, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-12" / store.MODEL
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    assert blankfill.resume(tmp_path / "run").steps == 12
    said = capsys.readouterr().err
    assert "skipped" in said and "step-12" in said and "checksum" in said
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_no_whole_checkpoint_is_an_error(corpus: Path, tmp_path: Path) -> None:
    blankfill.pretrain([str(corpus)], recipe(train__steps=3), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob(f"*/{store.MODEL}"):
        path.write_bytes(b"?")
    with pytest.raises(UserError, match="none of its checkpoints is whole"):
        blankfill.resume(tmp_path / "run")


def test_time_is_up(corpus: Path, tmp_path: Path) -> None:
    stopped = blankfill.pretrain([str(corpus)], recipe(), tmp_path / "run", stop_after=0.0)
    assert stopped.steps == 1
    assert blankfill.resume(tmp_path / "run").steps == 60


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_processes_do_not_share_a_folder(corpus: Path, tmp_path: Path) -> None:
    blankfill.pretrain([str(corpus)], recipe(train__steps=3), tmp_path / "run")
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held'); input()"
    other = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is training there"):
            blankfill.resume(tmp_path / "run")
        process.communicate(b"\n")
    blankfill.resume(tmp_path / "run")


def test_early_stopping_ends_at_the_best(corpus: Path, tmp_path: Path) -> None:
    """With a rate that only does harm after warm-up, no validation is better than the first ones."""
    bad = recipe(train__lr=3.0, train__warmup=0, train__patience=2, train__eval_every=2, train__max_grad_norm=0.0)
    result = blankfill.pretrain([str(corpus)], bad, tmp_path / "run")
    assert result.steps < 60
    (event,) = [e for e in read_lines(tmp_path / "run" / "events.jsonl") if e["kind"] == "early stop"]
    assert event["step"] == result.steps
    valid = {
        line["step"]: line["loss"]
        for line in read_lines(tmp_path / "run" / "metrics.jsonl")
        if line["split"] == "valid"
    }
    best = min(valid, key=lambda step: valid[step])
    assert best == 0 and result.steps == 4
    assert (tmp_path / "run" / "best").read_text() == f"step-{best}\n"
    assert blankfill.load(tmp_path / "run" / "best").loaded.path.name == f"step-{best}"


def test_a_rollback_takes_other_rows(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that makes the loss infinite is passed over, and a resumed run passes over it as well."""
    poison: list[torch.Tensor] = []
    clean = loop.loss_sums

    def poisoned(model: Transformer, batch: Batch, dtype: torch.dtype) -> LossSums:
        sums = clean(model, batch, dtype)
        if any(torch.equal(ids[: len(bad)], bad) for ids in batch.input_ids for bad in poison):
            return {**sums, "lm": sums["lm"] * float("inf")}
        return sums

    options = recipe(train__steps=24)
    rows = phases(open_corpus([corpus], options, tmp_path), options)[0].train
    poison.append(torch.cat([torch.from_numpy(example.input_ids) for example in rows.row(54)]).long())  # of step 13
    monkeypatch.setattr(loop, "loss_sums", poisoned)
    monkeypatch.setattr(faults, "loss_sums", poisoned)
    with pytest.raises(
        UserError, match=r"step 13: the loss is not finite; .* at fault is the loss, with row 54\. Lower"
    ):
        blankfill.pretrain([str(corpus)], options, tmp_path / "stop")
    assert store.steps_in(tmp_path / "stop" / "checkpoints")  # what was learnt is saved
    done = blankfill.pretrain([str(corpus)], options, tmp_path / "skip", on_nan="skip")
    assert done.steps == 24
    assert [e["kind"] for e in read_lines(tmp_path / "skip" / "events.jsonl")] == ["skipped"]
    done = blankfill.pretrain([str(corpus)], options, tmp_path / "back", on_nan="rollback")
    assert done.steps == 24
    (event,) = [e for e in read_lines(tmp_path / "back" / "events.jsonl") if e["kind"] == "rollback"]
    assert event["step"] == 13 and "8 rows are skipped" in event["text"]  # 12 and 13, four each
    checkpoint = store.newest(tmp_path / "back" / "checkpoints")
    assert checkpoint is not None and checkpoint.state["progress"]["skipped_rows"] == 8
    steps = [line["step"] for line in read_lines(tmp_path / "back" / "metrics.jsonl") if line["split"] == "train"]
    assert steps == sorted(set(steps))


def test_samples_of_ones_own(corpus: Path, tmp_path: Path) -> None:
    texts = ("The farmer [MASK] a wooden boat.", "Every child")
    blankfill.pretrain(
        [str(corpus)], recipe(train__steps=4, train__sample_every=2, train__samples=texts), tmp_path / "a"
    )
    lines = read_lines(tmp_path / "a" / "samples.jsonl")
    assert [line["step"] for line in lines] == [0, 0, 2, 2, 4, 4]
    assert [line.get("text", line.get("prompt")) for line in lines[:2]] == list(texts)
    masked = blankfill.load_recipe("mlm-nano", {**SMALL, "train.samples": ("Every child",)})
    with pytest.raises(UserError, match=r"train\.samples.*has no \[MASK\]"):
        blankfill.pretrain([str(corpus)], masked, tmp_path / "b")


def test_numbers_in_metrics_are_json(corpus: Path, tmp_path: Path) -> None:
    blankfill.pretrain([str(corpus)], recipe(train__steps=4), tmp_path / "run")

    def refuse(name: str) -> float:
        raise ValueError(name)

    for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)
