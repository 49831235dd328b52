"""`blankfill doctor`: the judgement from given facts, agreement with the packaging, and the command as a whole."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from blankfill.cli import doctor
from blankfill.cli import main as cli
from blankfill.kernels.native import library
from blankfill.system import environment

ROOT = Path(__file__).resolve().parents[2]
FACTS: dict[str, Any] = {
    "processor": {"logical_cores": 8, "usable_cores": 8},
    "memory": {"total": 16 * 10**9, "available": 12 * 10**9},
    "text": {"output_encoding": "utf-8", "preferred_encoding": "UTF-8"},
    "torch": {"version": "2.13.0+cpu"},
    "devices": {"cuda:0": "a card"},
}
MEASURED: dict[str, Any] = {
    "device": "cpu", "fp32": 1e11, "bf16": 3e11, "disk_free": 10**11, "disk_bytes_per_s": 10**9, "load": 0.5,
}  # fmt: skip


def warnings(variables: dict[str, str] | None = None, **changed: object) -> list[str]:
    """Warnings of a machine without trouble, but for what is changed: `section__name` of the facts, or a rate."""
    facts, measured = copy.deepcopy(FACTS), dict(MEASURED)
    for name, value in changed.items():
        section, _, key = name.partition("__")
        if key:
            facts.setdefault(section, {})[key] = value
        elif name in measured or name == "disk_error":
            measured[name] = value
        else:
            facts[name] = value
    return doctor.warnings(facts, measured, variables or {})


def test_a_machine_without_trouble() -> None:
    assert warnings() == []
    assert warnings({"OMP_NUM_THREADS": "8"}) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"processor__usable_cores": 2, "container__cores": 1.5},
            r"only 2 of 8 .*limit of 1\.5.*all commands start 2 threads",
        ),
        ({"processor__usable_cores": 3}, r"only 3 of 8 cores may be used \(the process's affinity\)"),
        ({"variables": {"OMP_NUM_THREADS": "16"}}, r"OMP_NUM_THREADS is 16 with 8 cores to use; threads that wait"),
        (
            {"variables": {"OMP_NUM_THREADS": "2"}},
            r"OMP_NUM_THREADS is 2 with 8 usable cores; every command uses 2 threads",
        ),
        ({"load": 20.0}, r"a load of 20 on 8 cores"),
        ({"memory__available": 5 * 10**8}, r"only 500 MB of memory is free"),
        ({"disk_free": 10**9}, r"only 1 GB is free on the disk"),
        ({"disk_error": "Read-only file system"}, r"nothing can be written .*\(Read-only file system\)"),
        ({"text__output_encoding": "cp1252"}, r"the output encoding is cp1252.*PYTHONUTF8=1"),
        ({"text__preferred_encoding": "ANSI_X3.4-1968"}, r"the preferred encoding is ANSI_X3"),
        ({"torch__version": "2.10.1"}, r"torch 2\.10\.1 is not a version .*'torch>=2\.11,<2\.14'"),
        ({"torch__version": "2.14.0+cu130"}, r"torch 2\.14\.0\+cu130 is not"),
    ],
)
def test_each_trouble_is_told_alone(changed: dict[str, Any], message: str) -> None:
    (warning,) = warnings(**changed)
    assert re.search(message, warning)


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    (warning,) = warnings(devices={})
    assert "torch sees no GPU" in warning


def test_large_products_are_left_out_where_they_take_long() -> None:
    """A product of side n takes 2·n³ operations: 1 GFLOP/s allows 256 in 0.3 s, 100 GFLOP/s 1,024, 1 TFLOP/s 4,096."""
    assert [doctor.largest_size(lambda size, rate=rate: rate) for rate in (1e6, 1e9, 1e11, 1e12)] == [
        64, 256, 1024, 4096,
    ]  # fmt: skip


def test_what_it_says_of_packaging_is_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = [requirement for requirement in project["dependencies"] if re.match(r"torch\b", requirement)]
    low, high = (".".join(map(str, bound)) for bound in doctor.TORCH)
    assert torch == f"torch>={low},<{high}"
    extras = project["optional-dependencies"]
    named = {name: tuple(re.findall(r"^[\w-]+", "\n".join(extras[name]), re.MULTILINE)) for name in doctor.EXTRAS}
    assert named == {name: modules for name, (modules, _) in doctor.EXTRAS.items()}
    tools = {"docs", "dev"}
    assert set(extras) - tools == set(doctor.EXTRAS)


def test_the_command(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "blankfill", "doctor", "--json", "--out", str(tmp_path / "runs" / "new")],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    values = json.loads(run.stdout)
    assert set(values) == {"environment", "measured", "precision", "kernels", "extras", "warnings"}
    assert values["kernels"]["instructions"] in (None, *doctor.INSTRUCTIONS)
    measured = values["measured"]
    assert measured["fp32"] > 0 and measured["bf16"] > 0 and measured["disk_bytes_per_s"] > 0
    assert values["precision"]["auto"] in ("float32", "bfloat16")
    assert not (tmp_path / "runs").exists()
    assert str(tmp_path) not in run.stdout


def test_the_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure", lambda out: dict(MEASURED, memory_bytes_per_s=2 * 10**10))
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "matrix products on cpu, bf16  300.0 GFLOP/s" in printed
    assert "memory, one core              20 GB/s" in printed
    assert "--train.precision auto computes in" in printed
    assert "Kernels: " in printed
    assert "3 times the fp32 rate" in printed
    assert "[text]" in printed


def test_its_flags_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    flags = set(re.findall(r"--([a-z][a-z-]*)", capsys.readouterr().out))
    assert flags == {"out", "json", "quiet", "debug", "help"}


@pytest.mark.parametrize(
    ("flags", "limit", "rates", "kind", "why"),
    [
        (["avx512_bf16"], "", (1e11, 1e9), "bfloat16", "has units for bf16 (avx512_bf16)"),
        (["avx2"], "", (1e9, 1e11), "float32", "has no units for bf16"),
        (["avx512_bf16"], "AVX2", (1e9, 1e11), "float32", "forbids the units for bf16 that this processor has"),
    ],
)
def test_what_auto_computes_in_is_told_from_the_processor(
    flags: list[str],
    limit: str,
    rates: tuple[float, float],
    kind: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The measured rates say the contrary here, and decide nothing."""
    monkeypatch.setattr(environment, "instruction_sets", lambda: flags)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    result = doctor.precision({"device": "cpu", "fp32": rates[0], "bf16": rates[1]})
    assert result["auto"] == kind and why in result["why"]


@pytest.mark.parametrize("instructions", doctor.INSTRUCTIONS)
def test_the_instructions_of_the_kernels(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    monkeypatch.setattr(library, "summary", lambda: (instructions, ""))
    result = doctor.kernels()
    assert result["instructions"] == instructions and doctor.INSTRUCTIONS[instructions] in str(result["why"])


@pytest.mark.parametrize(("value", "remedy"), [("off", "unset BLANKFILL_NATIVE"), ("", "install gcc or clang")])
def test_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch, value: str, remedy: str) -> None:
    monkeypatch.setenv("BLANKFILL_NATIVE", value)
    monkeypatch.setattr(library, "summary", lambda: (None, "it is\nso"))
    result = doctor.kernels()
    assert result["instructions"] is None
    assert "(it is so)" in str(result["why"]) and remedy in str(result["why"])
