"""The number of threads of commands: from options, from the environment, and from the load of other programs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.system import environment, threads
from blankfill.system.threads import choose_threads, use_threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight cores and nothing in the environment."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "usable_cores", lambda: 8)
    monkeypatch.setattr(environment, "busy_cores", lambda: 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return monkeypatch


def test_what_is_asked_for_wins(machine: pytest.MonkeyPatch) -> None:
    assert (choose_threads().count, choose_threads().given) == (8, False)
    machine.setenv("OMP_NUM_THREADS", "3")
    assert (choose_threads().count, choose_threads().given) == (3, True)
    machine.setenv("MKL_NUM_THREADS", "2")  # torch itself lets this one win
    assert choose_threads().count == 2
    machine.setattr(environment, "busy_cores", lambda: 7.0)
    assert (choose_threads().count, choose_threads().why) == (2, "")
    assert (choose_threads(5).count, choose_threads(5).given) == (5, True)


def test_torch_starts_with_the_same_number() -> None:
    """torch reads the variables itself when it is imported, and the rule here says the same."""
    code = "import torch, blankfill.system.threads as t; print(torch.get_num_threads(), t.from_variables())"
    for given in ({"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}):
        plain = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**plain, **given}
        )
        starts, ours = run.stdout.split()
        if not torch.backends.mkl.is_available() and "MKL_NUM_THREADS" in given:
            continue
        assert starts == ours


@pytest.mark.parametrize("value", ["", "x", "0", "-2", "99999", "1e3", "²"])
def test_odd_values_in_the_environment_are_passed_over(value: str, machine: pytest.MonkeyPatch) -> None:
    machine.setenv("OMP_NUM_THREADS", value)
    assert choose_threads().count == 8


def test_a_list_in_the_environment_counts_by_its_first_number(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("OMP_NUM_THREADS", "4,2")
    assert choose_threads().count == 4


@pytest.mark.parametrize(
    ("cores", "busy", "present", "count"),
    [(2, 0.2, 2, 2), (2, 0.9, 2, 1), (2, 9.0, 2, 1), (8, 3.0, 8, 5), (8, 0.7, 8, 7), (8, 6.0, 8, 2),
     (2, 30.0, 64, 2), (2, 63.0, 64, 1), (1, 5.0, 1, 1)],
)  # fmt: skip
def test_threads_have_cores_for_themselves(
    cores: int, busy: float, present: int, count: int, machine: pytest.MonkeyPatch
) -> None:
    """A container with two cores' time of 64 is not crowded when 30 of the 64 work."""
    machine.setattr(os, "sched_getaffinity", lambda process: set(range(present)), raising=False)
    assert threads.useful_threads(cores, busy) == count


def test_fewer_threads_are_told_with_an_option_that_there_is(
    machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.setattr(environment, "busy_cores", lambda: 6.5)
    assert use_threads() == torch.get_num_threads() == 2
    err = capsys.readouterr().err
    assert err == (
        "other programs keep 6.5 cores of this machine busy, so 2 threads of 8 compute; threads=8 uses all cores\n"
    )
    use_threads(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", [-1, 1025, 10**9])
def test_numbers_that_cannot_be(count: int) -> None:
    with pytest.raises(UserError, match=f"threads is {count}; it must be 0 or between 1 and 1024"):
        choose_threads(count)


@pytest.mark.parametrize(
    "argv",
    [
        ["fill", "a [MASK]", "--model", "nowhere"],
        ["generate", "--model", "nowhere"],
        ["embed", os.devnull, "--model", "nowhere"],
        ["export", "nowhere", "--out", "nowhere-else"],
        ["import", "nowhere", "--out", "nowhere-else"],
        ["predict", os.devnull, "--model", "nowhere"],
        ["evaluate", "--task", "perplexity", "--data", "nowhere", "--model", "nowhere"],
        ["bench"],
        ["plan", "--no-measure"],
        ["pretrain", "--out", "nowhere-else"],
        ["finetune", "--task", "sst2", "--data", "nowhere", "--from", "nowhere", "--out", "nowhere-else"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_command_that_computes_takes_threads(
    argv: list[str],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main([*argv, "--threads", "-7"]) == 2
    assert "threads is -7; it must be 0 or between 1 and 1024" in capsys.readouterr().err
    assert not any(os.scandir("."))
