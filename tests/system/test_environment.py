"""What surrounds a run: limits of containers read right, one level deep, and nothing private."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from blankfill import __version__
from blankfill.system import environment
from blankfill.system.environment import Limits, container_limits
from conftest import BF16


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_it_is_one_level_deep_and_json() -> None:
    values = environment.environment()
    assert json.loads(json.dumps(values)) == values
    for part in values.values():
        assert part
        assert all(isinstance(value, str | int | float) for value in part.values())
    assert values["blankfill"]["version"] == __version__
    assert values["python"]["version"] == platform.python_version()
    assert values["torch"]["version"] == torch.__version__
    assert values["torch"]["threads"] == torch.get_num_threads()
    assert values["packages"]["numpy"] == np.__version__
    assert values["memory"]["total"] == psutil.virtual_memory().total
    assert 1 <= values["processor"]["usable_cores"] <= values["processor"]["logical_cores"]


def test_nothing_private_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    monkeypatch.setenv("GOMP_CPU_AFFINITY", f"{home}/list")
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    text = json.dumps(environment.environment())
    assert home not in text or len(home) <= 1
    assert "~/list" in text
    assert "a-secret" not in text
    names = [getpass.getuser(), socket.gethostname()]
    assert [name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text)] == []


def test_it_is_cheap_to_import() -> None:
    code = "import sys, blankfill.system.environment; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_limits_of_version_2(tmp_path: Path) -> None:
    """The group allows 3.5 cores and 4 GB, the group above it 2 cores: the tighter of each binds."""
    root, own = tmp_path / "fs", tmp_path / "own"
    write(own, "0::/outer/inner\n")
    write(root / "outer" / "cpu.max", "200000 100000\n")
    write(root / "outer" / "memory.max", "max\n")
    write(root / "outer" / "inner" / "cpu.max", "350000 100000\n")
    write(root / "outer" / "inner" / "memory.max", "4000000000\n")
    write(root / "outer" / "inner" / "memory.current", "1500000000\n")
    write(root / "outer" / "inner" / "memory.stat", "anon 900\ninactive_file 500000000\n")
    assert container_limits(root, own) == Limits(2.0, 4_000_000_000, 1_000_000_000)


def test_limits_inside_a_container(tmp_path: Path) -> None:
    """The path of the group is that of the host, and only the root of the group's own tree can be seen."""
    root, own = tmp_path / "fs", tmp_path / "own"
    write(own, "0::/system.slice/docker-1.scope\n")
    write(root / "cpu.max", "50000 100000\n")
    write(root / "memory.max", "1000000\n")
    assert container_limits(root, own) == Limits(0.5, 1_000_000, 0)


def test_limits_of_version_1(tmp_path: Path) -> None:
    root, own = tmp_path / "fs", tmp_path / "own"
    write(own, "7:memory:/job\n4:cpu,cpuacct:/job\n0::/\n")
    write(root / "memory" / "job" / "memory.limit_in_bytes", "2000000000\n")
    write(root / "memory" / "job" / "memory.usage_in_bytes", "700000000\n")
    write(root / "memory" / "job" / "memory.stat", "total_inactive_file 200000000\n")
    write(root / "memory" / "memory.limit_in_bytes", f"{2**63 - 4096}\n")
    write(root / "cpu,cpuacct" / "job" / "cpu.cfs_quota_us", "150000\n")
    write(root / "cpu,cpuacct" / "job" / "cpu.cfs_period_us", "100000\n")
    write(root / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    write(root / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert container_limits(root, own) == Limits(1.5, 2_000_000_000, 500_000_000)


@pytest.mark.parametrize("text", ["", "garbage\n", "0::/\n4:cpu:/\n7:memory:/\n"])
def test_no_limits(tmp_path: Path, text: str) -> None:
    write(tmp_path / "own", text)
    write(tmp_path / "fs" / "cpu.max", "max 100000\n")
    assert container_limits(tmp_path / "fs", tmp_path / "own") == Limits()
    assert container_limits(tmp_path / "fs", tmp_path / "missing") == Limits()


def test_cores_and_memory_respect_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert environment.usable_cores(Limits()) == 8
    assert environment.usable_cores(Limits(cores=1.5)) == 2
    assert environment.usable_cores(Limits(cores=0.2)) == 1
    assert environment.usable_cores(Limits(cores=64)) == 8
    assert environment.usable_memory(Limits(memory=1000, used=300)) == 700
    assert environment.usable_memory(Limits(memory=1000, used=3000)) == 0
    assert environment.usable_memory(Limits(memory=10**18)) <= psutil.virtual_memory().total


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_instruction_sets_are_those_that_torch_finds() -> None:
    if BF16 == "on":
        pytest.skip("the processor is made to look like another one")
    report = getattr(torch.cpu, "get_capabilities", dict)()
    if report.get("architecture") != "x86_64":
        pytest.skip("torch tells instruction sets of x86 only under these names")
    ours = set(environment.instruction_sets())
    for name, theirs in (("avx2", "avx2"), ("avx512f", "avx512_f"), ("avx512_bf16", "avx512_bf16"), ("fma", "fma3")):
        assert (name in ours) == report[theirs]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_state_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment.code_state() == {}
    try:
        git(tmp_path, "init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert environment.code_state() == {}  # no commit yet
    write(tmp_path / "file", "one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    result = environment.code_state()
    assert re.fullmatch(r"[0-9a-f]{40}", str(result["commit"]))
    assert result["changed"] is False
    write(tmp_path / "file", "two")
    assert environment.code_state()["changed"] is True


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.code_state() == {}


def test_measured_rates_are_bytes_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own, of which the best of three copies counts; and nothing is left behind."""
    readings = iter([0.0, 0.5, 1.0, 1.25, 2.0, 3.0])
    monkeypatch.setattr(environment.time, "perf_counter", lambda: next(readings))
    assert environment.copy_rate(4 << 20, 3) == 2 * (4 << 20) / 0.25
    readings = iter([0.0, 0.5])
    assert environment.write_rate(tmp_path, 2 << 20) == (2 << 20) / 0.5
    assert list(tmp_path.iterdir()) == []
    readings = iter([0.0])
    with pytest.raises(OSError, match="No such file"):
        environment.write_rate(tmp_path / "missing")


def test_modules_are_found_without_importing_them() -> None:
    assert environment.has_module("json.tool")
    assert not environment.has_module("no_such_module")
    assert not environment.has_module("no_such_package.part")


@pytest.mark.parametrize(
    ("flags", "variables", "sets"),
    [
        (["avx2", "fma"], {}, []),
        (["avx512f", "avx512_vnni"], {}, []),
        (["avx512f", "avx512_bf16"], {}, ["avx512_bf16"]),
        (["avx512_bf16", "amx_bf16"], {}, ["avx512_bf16", "amx_bf16"]),
        (["asimd", "bf16"], {}, ["bf16"]),
        (["avx512_bf16"], {"ONEDNN_MAX_CPU_ISA": "avx2"}, []),
        (["avx512_bf16"], {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, []),
        (["avx512_bf16"], {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, ["avx512_bf16"]),
        (["avx512_bf16"], {"ATEN_CPU_CAPABILITY": "default"}, []),
        (["avx512_bf16"], {"ATEN_CPU_CAPABILITY": "avx512"}, ["avx512_bf16"]),
    ],
)
def test_units_for_bf16_are_what_the_processor_has_and_may_use(
    flags: list[str], variables: dict[str, str], sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment.NO_BF16:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment, "instruction_sets", lambda: flags)
    assert environment.bf16_sets() == sets


@pytest.mark.parametrize(
    ("load", "now", "busy"),
    [(0.3, 2.0, 0.3), (4.0, 1.5, 1.5), (1.2, 6.0, 1.2), (5.0, float("inf"), 5.0)],
)
def test_a_load_counts_where_it_is_still_there(
    load: float, now: float, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has just ended is in the load of the last minute, and what has just begun is not yet."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(environment, "_busy_now", lambda seconds: now)
    assert environment.busy_cores() == busy


def test_busy_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four cores this process may use two: one of them did nothing in 100 ticks, the other worked for 60."""
    Core = type("Core", (), {"__init__": lambda self, **message: setattr(self, "told", message),
                             "_asdict": lambda self: self.told})  # fmt: skip
    before = [Core(user=50.0, idle=50.0, guest=10.0, iowait=0.0) for _ in range(4)]
    after = [
        Core(user=150.0, idle=50.0, guest=10.0, iowait=0.0), Core(user=50.0, idle=120.0, guest=10.0, iowait=30.0),
        Core(user=110.0, idle=90.0, guest=10.0, iowait=0.0), Core(user=150.0, idle=50.0, guest=10.0, iowait=0.0),
    ]  # fmt: skip
    given = iter([before, after, before, before])
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: next(given))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 2}, raising=False)
    assert environment._busy_now(0.0) == pytest.approx(0.6)
    assert environment._busy_now(0.0) == float("inf")  # a system that counts nothing
