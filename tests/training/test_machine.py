"""What of a machine moves a bit: how it is settled, read back and kept to by a resumed run, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from blankfill.errors import UserError
from blankfill.system import environment, threads
from blankfill.training import machine
from blankfill.training.agree import Decision
from blankfill.training.machine import Conditions, Machine, differences, machine_from, settle, settle_again
from blankfill.training.options import TrainOptions
from blankfill.training.pace import FIRST, STEPS
from blankfill.training.precision import pick_dtype

NOTED = Machine("cpu", "float32", 2, 0, "blocked", "2.13.0", "AVX2", "a processor", "avx2 fma")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine as noted: two idle cores, no units for bf16."""
    for name in (*threads.VARIABLES, *environment.NO_BF16):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    monkeypatch.setattr(environment, "busy_cores", lambda: 0.0)
    monkeypatch.setattr(environment, "instruction_sets", lambda: ["avx2", "fma"])
    monkeypatch.setattr(environment, "processor_model", lambda: "a processor")
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    return monkeypatch


def test_the_type_is_that_of_the_processor_however_busy_it_is(here: pytest.MonkeyPatch) -> None:
    """Nothing is timed: the clock may say what it likes."""
    import time

    def forbidden() -> float:
        raise AssertionError("the compute type was asked of a clock")

    here.setattr(time, "perf_counter", forbidden)
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == torch.float32
    here.setattr(environment, "instruction_sets", lambda: ["avx2", "avx512_bf16"])
    assert pick_dtype("auto", cpu) == torch.bfloat16
    here.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pick_dtype("auto", cpu) == torch.float32
    assert [pick_dtype(precision, cpu) for precision in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16,
    ]  # fmt: skip


class Pair:
    """Two processes; the first computes in fp32 with `sdpa`, this one as its machine can."""

    rank, world_size = 1, 2

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        return [{"compute type": "float32", "attention kernel": "sdpa"}[decision], value]


def test_type_and_kernel_are_those_that_all_processes_can_have(here: pytest.MonkeyPatch) -> None:
    here.setattr(environment, "instruction_sets", lambda: ["avx2", "avx512_bf16"])
    alone, shared = settle(TrainOptions()).machine, settle(TrainOptions(), group=Pair()).machine
    assert (alone.compute, alone.attention) == ("bfloat16", "blocked")
    assert (shared.compute, shared.attention) == ("float32", "sdpa")
    again = settle_again(TrainOptions(), None, {}, group=Pair()).machine
    assert (again.compute, again.attention) == ("float32", "sdpa")


def test_a_run_that_begins_notes_this_machine(here: pytest.MonkeyPatch) -> None:
    conditions = settle(TrainOptions())
    assert (conditions.machine, conditions.given, conditions.remarks) == (NOTED, False, [])
    here.setattr(environment, "busy_cores", lambda: 1.5)
    busy = settle(TrainOptions())
    assert busy.machine == dataclasses.replace(NOTED, threads=1)
    assert busy.remarks == [
        "other programs keep 1.5 cores of this machine busy, so 1 thread of 2 computes; threads=2 uses all cores"
    ]
    assert settle(TrainOptions(threads=2)).machine == NOTED


def test_runs_beside_each_other_are_alike(here: pytest.MonkeyPatch) -> None:
    here.setattr(environment, "busy_cores", lambda: 1.5)
    assert settle(TrainOptions(), NOTED).machine.threads == 2
    assert settle(TrainOptions(threads=1), NOTED).machine.threads == 1
    foreign = dataclasses.replace(NOTED, compute="bfloat16")  # of another machine
    assert settle(TrainOptions(), foreign).machine.compute == "float32"


def test_it_is_read_back() -> None:
    assert machine_from(json.loads(json.dumps(NOTED.values()))) == NOTED
    assert machine_from({**NOTED.values(), "more": 1}) == NOTED


@pytest.mark.parametrize(
    "values",
    [
        None, [], "cpu", 3, {}, {"device": "cpu"}, {**NOTED.values(), "threads": "2"}, {**NOTED.values(), "threads": 0},
        {**NOTED.values(), "threads": True}, {**NOTED.values(), "compute": "load"}, {**NOTED.values(), "device": None},
        {**NOTED.values(), "attention": "magic"}, {**NOTED.values(), "micro_batch": -1},
    ],
)  # fmt: skip
def test_what_is_none_is_not_read(values: object) -> None:
    assert machine_from(values) is None


def test_a_resumed_run_keeps_what_it_began_with(here: pytest.MonkeyPatch) -> None:
    """On a machine that would choose otherwise now: it has units for bf16 it did not use, and more cores."""
    again = settle_again(TrainOptions(), NOTED, {})
    assert (again.machine, again.remarks) == (NOTED, [])
    here.setattr(environment, "usable_cores", lambda: 16)
    noted = dataclasses.replace(NOTED, instructions="avx2 avx512_bf16", micro_batch=3, attention="explicit")
    here.setattr(environment, "instruction_sets", lambda: ["avx2", "avx512_bf16"])
    again = settle_again(TrainOptions(), noted, {})
    assert (again.machine, again.remarks) == (noted, [])
    lower = dataclasses.replace(noted, compute="bfloat16")
    assert settle_again(TrainOptions(), lower, {}).machine == lower


def test_a_crowded_machine_is_told_of_and_changes_nothing(here: pytest.MonkeyPatch) -> None:
    here.setattr(environment, "busy_cores", lambda: 1.8)
    again = settle_again(TrainOptions(), NOTED, {})
    assert again.machine == NOTED
    (remark,) = again.remarks
    assert "other programs keep this machine busy, and the run keeps its 2 threads" in remark and "threads=1 " in remark
    here.setattr(environment, "busy_cores", lambda: 0.0)
    many = dataclasses.replace(NOTED, threads=16)
    again = settle_again(TrainOptions(), many, {})
    assert again.machine == many
    assert again.remarks[0].startswith("there are 2 cores here, and the run keeps its 16 threads")


@pytest.mark.parametrize(
    ("noted", "changes", "message"),
    [
        ({}, {"threads": 1}, "with 1 thread (2 so far)"),
        ({}, {"micro_batch": 4}, "with 4 rows at a time (all rows of a step at once so far)"),
        ({"compute": "bfloat16"}, {}, "in float32 (bfloat16 so far, for which there are no units here)"),
        ({"device": "cuda", "instructions": ""}, {}, "on cpu (cuda so far)"),
        ({"torch_version": "2.12.1"}, {}, "with torch 2.13.0 (2.12.1 so far)"),
        ({"processor": "another"}, {}, "on another processor (a processor; another so far)"),
        ({"instructions": "avx2 avx512f fma"}, {}, "with other instruction sets of the processor (without avx512f)"),
        ({"capability": "AVX512"}, {}, "processor (torch uses AVX2, AVX512 so far)"),
    ],
)
def test_what_changes_is_said_in_one_sentence(
    noted: dict[str, Any], changes: dict[str, Any], message: str, here: pytest.MonkeyPatch
) -> None:
    again = settle_again(TrainOptions(), dataclasses.replace(NOTED, **noted), changes)
    assert again.machine == dataclasses.replace(NOTED, **changes)
    (sentence,) = again.remarks
    assert sentence.startswith("the run resumes ") and message in sentence
    drawn = " and, where there is dropout, by what is dropped"
    ending = "so its numbers from here on differ from an uninterrupted run's by rounding"
    assert sentence.endswith(ending + (drawn if "micro_batch" in changes or "device" in noted else ""))


def test_the_environment_is_said_where_it_changes_the_threads(here: pytest.MonkeyPatch) -> None:
    here.setenv("OMP_NUM_THREADS", "1")
    again = settle_again(TrainOptions(), NOTED, {})
    assert again.machine.threads == 1 and again.given
    assert "with 1 thread (2 so far)" in again.remarks[0]


def test_a_checkpoint_that_does_not_say(here: pytest.MonkeyPatch) -> None:
    again = settle_again(TrainOptions(), None, {})
    assert again.machine == NOTED
    assert (
        "does not contain the conditions of its computation" in again.remarks[0]
        and "cpu float32, 2 threads" in again.remarks[0]
    )


def test_a_device_that_is_not_there(here: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="device is cuda, and torch finds no such device here"):
        settle_again(TrainOptions(), NOTED, {"device": "cuda"})
    with pytest.raises(UserError, match="device is cudo; give auto, cpu"):
        settle(TrainOptions(device="cudo"))


def test_nothing_is_said_of_what_is_equal() -> None:
    assert differences(NOTED, NOTED) == []
    on_gpu = dataclasses.replace(NOTED, device="cuda")
    assert differences(on_gpu, dataclasses.replace(on_gpu, threads=9)) == []  # threads of a CPU


def slow(conditions: Conditions, message: list[tuple[int, str, str]]) -> list[bool]:
    """What the watch answers to a run whose steps take ten times as long from some step on."""
    watch = conditions.watch(lambda *event: message.append(event))
    return [watch(step, 1.0 if step <= FIRST + 1 else 20.0, 10) for step in range(1, FIRST + 2 + STEPS)]


def test_threads_are_halved_when_steps_become_many_times_slower(here: pytest.MonkeyPatch) -> None:
    events: list[tuple[int, str, str]] = []
    conditions = Conditions(dataclasses.replace(NOTED, threads=2), given=False)
    conditions.begin()
    assert slow(conditions, events) == [False] * (FIRST + STEPS) + [True]
    assert conditions.machine.threads == torch.get_num_threads() == 1
    ((step, kind, text),) = events
    assert (step, kind) == (FIRST + 1 + STEPS, "threads")
    assert "20 times as long" in text and "1 thread instead of 2" in text and "differ by rounding" in text
    assert not any(slow(conditions, events)) and len(events) == 1  # one thread waits for nobody


def test_threads_that_were_asked_for_stay(here: pytest.MonkeyPatch) -> None:
    events: list[tuple[int, str, str]] = []
    conditions = Conditions(NOTED, given=True)
    conditions.begin()
    assert not any(slow(conditions, events))
    assert conditions.machine.threads == torch.get_num_threads() == 2
    assert "keeps its 2 threads, since they were given as an option" in events[0][2] and "threads=1," in events[0][2]


def test_it_is_a_file_of_its_own() -> None:
    assert machine.FILE == "machine.json" and NOTED.where == "cpu float32, 2 threads"
