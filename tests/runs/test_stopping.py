"""Commands that are stopped: their exit codes, their messages on progress, and that nothing runs afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import blankfill
from blankfill.cli import main as cli
from blankfill.report.page import write_page
from blankfill.runs.context import stop_signals
from blankfill.runs.recorder import RunRecorder
from blankfill.system.stopping import Stop, StoppedError, Terminated, reason, termination_raises
from blankfill.tasks.run_files import RESULTS
from small_run import SMALL, texts_in
from small_tasks import classes, model_folder

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
ARGUMENTS = [
    text
    for name, value in {**SMALL, "train.steps": 40, "train.log_every": 10, "train.eval_every": 20}.items()
    for text in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 1})
    blankfill.pretrain([str(texts_in(folder, 30))], recipe, folder / "first")
    return folder / "first" / "corpus"


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(step, signal) pairs, each of which this process gets once when a run comes to the step."""
    due: list[tuple[int, int]] = []
    advance = RunRecorder.advance

    def advance_and_signal(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        for planned in [planned for planned in due if planned[0] == step]:
            due.remove(planned)
            os.kill(os.getpid(), planned[1])

    monkeypatch.setattr(RunRecorder, "advance", advance_and_signal)
    return due


def page(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stopped_pretraining_tells_a_shell_so(
    number: int, code: int, corpus: Path, tmp_path: Path, signalled: list, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    signalled.append((9, number))
    assert cli.main(["pretrain", str(corpus), "--out", str(out), *ARGUMENTS]) == code
    output = capsys.readouterr()
    assert f"stopped at step 9 of 40; resume with: blankfill pretrain --resume {out}" in output.err
    assert (
        "9 steps, " in output.out
        and "the last validation loss was" in output.out
        and "try: blankfill fill" not in output.out
    )
    facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (facts["step"], facts["stopped"]) == (9, Stop.INTERRUPTED.value if code == 130 else Stop.TERMINATED.value)
    assert "stopped at step 9; it can be resumed" in page(out) and "nothing trained yet" not in page(out)
    assert 'aria-valuenow="9"' in page(out)
    assert cli.main(["pretrain", "--resume", str(out)]) == 0
    output = capsys.readouterr()
    assert "40 steps, " in output.out and "try: blankfill fill" in output.out
    assert "finished" in page(out) and "it can be resumed" not in page(out)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["stopped"] is None


def test_a_run_that_goes_on_is_not_called_stopped(
    corpus: Path, tmp_path: Path, signalled: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    signalled.append((3, signal.SIGTERM))
    cli.main(["pretrain", str(corpus), "--out", str(out), *ARGUMENTS])
    seen = []
    advance = RunRecorder.advance

    def look(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        if step == 5:
            write_page(out)
            seen.append(page(out))

    monkeypatch.setattr(RunRecorder, "advance", look)
    assert blankfill.resume(out).stopped is None
    assert len(seen) == 1 and "it can be resumed" not in seen[0] and "7% done" in seen[0]  # resumed at step 3


def test_the_end_of_the_time_has_a_code_of_its_own(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["pretrain", str(corpus), "--out", str(out), "--stop-after", "0.0001s", *ARGUMENTS]) == 75
    assert "stopped at step 1 of 40" in capsys.readouterr().err
    assert cli.main(["pretrain", "--resume", str(out), "--stop-after", "0.0001s"]) == 75
    assert "stopped at step 2 of 40" in capsys.readouterr().err


def test_a_run_that_is_done_in_its_time_is_not_stopped(corpus: Path, tmp_path: Path) -> None:
    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 1})
    result = blankfill.pretrain([str(corpus)], recipe, tmp_path / "run", stop_after=0.0)
    assert result.stopped is None and result.steps == 1


def test_library_callers_get_the_reason(corpus: Path, tmp_path: Path, signalled: list) -> None:
    signalled.append((2, signal.SIGINT))
    recipe = blankfill.load_recipe("glm-nano", SMALL)
    result = blankfill.pretrain([str(corpus)], recipe, tmp_path / "run")
    assert result.stopped is Stop.INTERRUPTED and result.steps == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def finetune_command(tmp_path: Path, out: Path) -> list[str]:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    return ["finetune", "--task", "sst2", "--data", str(data), "--from", str(model), "--out", str(out),
            "--batch-size", "8", "--epochs", "1", "--threads", "1", "--precision", "fp32"]  # fmt: skip


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stopped_fine_tuning_tells_a_shell_so(
    number: int, code: int, tmp_path: Path, signalled: list, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = finetune_command(tmp_path, out)
    signalled.append((5, number))
    assert cli.main(command) == code
    output = capsys.readouterr()
    assert f"stopped at step 5 of 12; resume with: blankfill finetune --resume {out}" in output.err
    assert " of 12\n" in output.out and "the scores so far are in" in output.out
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert results["complete"] is False and results["steps"] == 5
    assert "stopped at step 5; it can be resumed" in page(out) and 'aria-valuenow="5"' in page(out)
    assert cli.main(["finetune", "--resume", str(out)]) == 0
    assert json.loads((out / RESULTS).read_text(encoding="utf-8"))["complete"] is True
    assert "it can be resumed" not in page(out)


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("step", [5, 12])
def test_a_stopped_grid_begins_no_other_run(
    step: int, number: int, code: int, tmp_path: Path, signalled: list, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 12 a run is done when the signal comes, and yet it was the grid that somebody wanted to end."""
    out = tmp_path / "grid"
    command = [*finetune_command(tmp_path, out), "--num-seeds", "2"]
    signalled.append((step, number))
    assert cli.main(command) == code
    assert f"stopped in {out / 'seed-0'}; the same command continues there" in capsys.readouterr().err
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["seed-0"]
    assert json.loads((out / "seed-0" / RESULTS).read_text(encoding="utf-8"))["complete"] is (step == 12)
    assert cli.main(command) == 0


def test_one_of_several_runs_that_is_stopped_raises(tmp_path: Path, signalled: list) -> None:
    """What the patterns of a cloze and their distilled head go through too."""
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.several import finish_run
    from blankfill.tasks.options import FinetuneOptions

    options = FinetuneOptions(batch_size=8, epochs=1, threads=1, precision="fp32", device="cpu")
    config = FinetuneConfig("sst2", classes(tmp_path / "data"), model_folder(tmp_path), options)
    signalled.append((4, signal.SIGTERM))
    with pytest.raises(StoppedError) as stopped:
        finish_run(config, tmp_path / "one")
    assert stopped.value.why is Stop.TERMINATED
    assert finish_run(config, tmp_path / "one")["steps"] == 12


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("command", ["prepare", "predict", "embed", "evaluate", "fill", "export"])
def test_every_other_command_has_the_codes_too(
    command: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleared = []

    def work(argv: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 5) if hasattr(signal, "sigtimedwait") else None
            return 0
        finally:
            cleared.append(True)

    import importlib

    monkeypatch.setattr(importlib.import_module(f"blankfill.cli.{command}"), "main", work)
    assert cli.main([command]) == code
    assert cleared and capsys.readouterr().err == f"blankfill: {'interrupted' if code == 130 else 'terminated'}\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_callers_own_stays() -> None:
    def own(number: int, frame: object) -> None:
        return

    for handler in (own, signal.SIG_IGN):
        old = signal.signal(signal.SIGTERM, handler)
        try:
            with termination_raises():
                assert signal.getsignal(signal.SIGTERM) is handler
        finally:
            signal.signal(signal.SIGTERM, old)
    with pytest.raises(Terminated), termination_raises():
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_codes_are_those_that_shells_know() -> None:
    assert [stop.exit_code for stop in (Stop.INTERRUPTED, Stop.TERMINATED, Stop.TIME)] == [130, 143, 75]
    assert getattr(os, "EX_TEMPFAIL", 75) == Stop.TIME.exit_code
    assert reason([]) is None and reason([signal.SIGTERM, signal.SIGINT]) is Stop.TERMINATED
    assert {75, 130, 143, 0, 2} <= set(cli.EXIT_CODES) and all(f"{code:>3}  " in cli.usage() for code in cli.EXIT_CODES)


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make")
def test_the_demo_does_not_go_on_after_a_stop(tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "blankfill").write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/called\n[ "$1" != demo ] || exit 143\n')
    (programs / "blankfill").chmod(0o755)
    for name in (".made", ".installed"):
        (tmp_path / "venv" / name).touch()
    root = Path(__file__).resolve().parents[2]
    if not (root / "Makefile").exists():
        pytest.skip("only where the Makefile lies")
    run = subprocess.run(
        ["make", "-C", str(root), "demo", f"VENV={tmp_path / 'venv'}", f"MODEL={tmp_path / 'model'}"],
        capture_output=True, text=True, check=False, env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip
    assert run.returncode != 0, run.stdout
    assert (tmp_path / "called").read_text(encoding="utf-8") == "demo\n"


@pytest.mark.skipif(os.name == "nt", reason="signals as Unix has them")
def test_a_process_ends_with_the_code(corpus: Path, tmp_path: Path) -> None:
    """From outside: the real command, stopped once it says that it trains."""
    command = [sys.executable, "-m", "blankfill", "pretrain", str(corpus), "--out", str(tmp_path / "run"), *ARGUMENTS,
               "--train.steps", "100000", "--train.device", "cpu", "--train.threads", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training: "):
                process.send_signal(signal.SIGTERM)
                break
        _, printed = process.communicate(timeout=300)
    assert process.returncode == 143, printed
    assert "stopped at step " in printed and " of 100,000; resume with" in printed


def test_forked_loaders_leave_signals_to_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no forks here")
    with stop_signals() as caught:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(len(caught))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and "stopping" not in capsys.readouterr().err
