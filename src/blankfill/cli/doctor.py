"""`blankfill doctor`: the properties of this machine, measured in a few seconds, and obstacles to a run.

The facts come from `environment`; this module adds measured rates and derives warnings. The command changes nothing and
always exits with 0.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from blankfill.cli.result import Result
from blankfill.errors import setting
from blankfill.system.environment import BF16_SETS, NO_BF16, Section

TORCH = ((2, 11), (2, 14))
"""First supported version of torch, and the first one that is not supported (pyproject.toml)."""
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "text": (("pyarrow", "zstandard", "rensa"), "Parquet files, zstandard compression, near-duplicate removal"),
    "sp": (("sentencepiece",), "training Unigram vocabularies with SentencePiece"),
    "zh": (("rjieba",), "whole words and phrases of Chinese"),
    "words": (("icu4py",), "whole words of Japanese, Thai, Lao, Khmer and Burmese"),
    "office": (
        ("python-calamine", "openpyxl", "python-docx", "pypdf", "trafilatura", "lxml_html_clean"),
        "spreadsheets, Word, PDF, EPUB, web pages",
    ),
    "export": (("onnx", "onnxscript", "onnxruntime"), "ONNX"),
    "metrics": (("rouge-score", "sacrebleu"), "ROUGE and BLEU of written texts"),
    "gguf": (("gguf",), "GGUF, the files of llama.cpp"),
    "serve": (("fastapi", "uvicorn", "httptools", "uvloop", "prometheus-client"), "models over HTTP"),
}
"""Optional extras: their modules, and the purpose of these."""
MODULES = {"python-docx": "docx"}
"""Names of modules that are not those of their packages."""
INSTRUCTIONS = {"portable": "no special instructions", "avx2": "AVX2", "avx512": "AVX-512 with VNNI"}
"""Names of the instructions of the compiled kernels."""
SIZES = (64, 256, 1024, 4096)
"""Sides of the matrix products that are measured."""
LONGEST = 0.3
"""Seconds that one product may take."""
LITTLE_DISK = 5_000_000_000
LITTLE_MEMORY = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show the properties of this machine, and anything that would slow down or stop a run."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill doctor --out runs",)

    out: Path = Path()
    """Folder where runs would be written: its free space and speed are measured."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    from blankfill.cli.arguments import parsed

    chosen = parsed(Doctor, argv, "doctor")
    report = examine(chosen.out)
    return Result(values=report, show=lambda: show_report(report), is_output=True)


def examine(out: Path) -> dict[str, Any]:
    """Return all facts as JSON values. Raises UserError when `out` has no folder above it."""
    from blankfill.system.environment import environment, has_module

    facts = environment()
    measured = measure(out)
    extras = {
        name: {
            "installed": not (missing := [m for m in modules if not has_module(MODULES.get(m, m.replace("-", "_")))]),
            "missing": missing,
            "for": use,
        }
        for name, (modules, use) in EXTRAS.items()
    }
    return {
        "environment": facts,
        "measured": measured,
        "precision": precision(measured),
        "kernels": kernels(),
        "extras": extras,
        "warnings": warnings(facts, measured, os.environ),
    }


def measure(out: Path) -> Section:
    """Measure rates: matrix products in FLOP/s, memory and disk in bytes per second. Takes a few seconds."""
    import torch

    from blankfill.system.device import pick_device
    from blankfill.system.environment import copy_rate, usable_cores, write_rate
    from blankfill.training.precision import matmul_rate

    device = pick_device("auto")
    torch.set_num_threads(usable_cores())
    rates: Section = {"device": str(device), "threads": torch.get_num_threads()}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # sizes are tried with one thread, since on a busy machine small products mostly wait for the others
        torch.set_num_threads(1)
        size = largest_size(functools.partial(matmul_rate, device, dtype, seconds=0.02))
        torch.set_num_threads(usable_cores())
        rates[name] = round(matmul_rate(device, dtype, size, 0.3))
    rates["memory_bytes_per_s"] = round(copy_rate())
    folder = existing(out)
    rates["disk_free"] = shutil.disk_usage(folder).free
    try:
        rates["disk_bytes_per_s"] = round(write_rate(folder))
    except OSError as error:
        rates["disk_error"] = error.strerror or str(error)
    if hasattr(os, "getloadavg"):
        rates["load"] = round(os.getloadavg()[0], 2)
    return rates


def largest_size(rate: Callable[[int], float]) -> int:
    """Return the size of the largest square product that takes no more than `LONGEST` seconds.

    rate: FLOP/s of a product of a size. Without units for its type, a processor would take seconds on a large one.
    """
    for size, larger in itertools.pairwise(SIZES):
        if 2 * larger**3 > LONGEST * rate(size):
            return size
    return SIZES[-1]


def existing(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def precision(measured: Mapping[str, Any]) -> dict[str, str]:
    """Return the compute type that `train.precision auto` chooses here, and why. The measured rates are only shown."""
    import torch

    from blankfill.system.environment import bf16_sets, instruction_sets
    from blankfill.training.precision import pick_dtype

    device = torch.device(measured["device"])
    kind = str(pick_dtype("auto", device)).removeprefix("torch.")
    rate = f"its products were measured at {measured['bf16'] / measured['fp32']:.3g} times the fp32 rate"
    if device.type == "cuda":
        why = "this GPU has units for bf16" if kind == "bfloat16" else "this GPU has no units for bf16"
    elif device.type != "cpu":
        why = f"bf16 is not used on {device.type}"
    elif kind == "bfloat16":
        why = f"this processor has units for bf16 ({', '.join(bf16_sets())}); {rate}"
    elif bf16_sets():
        why = "this processor has units for bf16, but this build of torch does not use them (it has no oneDNN)"
    elif any(name in BF16_SETS for name in instruction_sets()):
        why = f"{' or '.join(NO_BF16)} forbids the units for bf16 that this processor has; {rate}"
    else:
        why = f"this processor has no units for bf16; {rate}"
    return {"auto": kind, "why": why}


def kernels() -> dict[str, str | None]:
    """Return the instructions that the compiled kernels use, or None, and what that means."""
    from blankfill.kernels.native.build import VARIABLE, turned_off
    from blankfill.kernels.native.library import summary

    instructions, reason = summary()
    if instructions is not None:
        return {
            "instructions": instructions,
            "why": f"the compiled kernels are used, with {INSTRUCTIONS[instructions]}",
        }
    remedy = f"unset {VARIABLE}" if turned_off() else "install gcc or clang, if that is the reason"
    slower = f"decoding and quantised models are slower without the compiled kernels; {remedy}"
    return {"instructions": None, "why": f"torch computes everything ({' '.join(reason.split())}); {slower}"}


def warnings(facts: Mapping[str, Section], measured: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Return a sentence with its remedy for everything that would slow down or stop a run."""
    from blankfill.system.console import amount, worded

    notes = []
    processor, container, text = facts["processor"], facts.get("container", {}), facts["text"]
    cores, usable = int(processor["logical_cores"] or 1), int(processor["usable_cores"] or 1)
    threads = variables.get("OMP_NUM_THREADS", "")
    if usable < cores:
        limit = f"a container's limit of {container['cores']:g}" if "cores" in container else "the process's affinity"
        notes.append(
            f"only {usable} of {cores} cores may be used ({limit}), so all commands start {usable} threads, unless "
            f"{setting('threads')} says otherwise"
        )
    if threads.isdigit() and int(threads) > usable:
        notes.append(f"OMP_NUM_THREADS is {threads} with {usable} cores to use; threads that wait for one another are "
                     f"slower than fewer: set it to {usable} or unset it")  # fmt: skip
    elif threads.isdigit() and int(threads) < usable:
        notes.append(f"OMP_NUM_THREADS is {threads} with {usable} usable cores; every command uses {threads} threads "
                     f"unless {setting('threads')} says otherwise")  # fmt: skip
    if measured.get("load", 0) > 1.5 * cores:
        notes.append(f"other programs keep this machine busy (a load of {measured['load']:g} on {cores} cores), so the "
                     "rates measured here are too low")  # fmt: skip
    if (free := int(facts["memory"]["available"] or 0)) < LITTLE_MEMORY:
        notes.append(f"only {amount(free, 'B')} of memory is free; end other programs, and look at `blankfill plan` "
                     "before a run")  # fmt: skip
    if measured["disk_free"] < LITTLE_DISK:
        notes.append(f"only {amount(measured['disk_free'], 'B')} is free on the disk where runs would be written; free "
                     f"some, or give {setting('out')} a folder on another disk")  # fmt: skip
    if "disk_error" in measured:
        notes.append(
            f"nothing can be written where runs would be ({measured['disk_error']}); give another {setting('out')}"
        )
    encodings = {"output": text.get("output_encoding"), "preferred": text.get("preferred_encoding")}
    for name, encoding in encodings.items():
        if encoding and not re.fullmatch(r"utf-?8(-sig)?", str(encoding), re.IGNORECASE):
            notes.append(f"the {name} encoding is {encoding}, so some characters cannot be shown; set PYTHONUTF8=1")
    version = tuple(map(int, re.findall(r"\d+", str(facts["torch"]["version"]))[:2]))
    if not TORCH[0] <= version < TORCH[1]:
        low, high = (".".join(map(str, bound)) for bound in TORCH)
        notes.append(f"torch {facts['torch']['version']} is not a version that blankfill is tested with; "
                     f"pip install 'torch>={low},<{high}'")  # fmt: skip
    if not facts.get("devices") and shutil.which("nvidia-smi"):
        notes.append("there is an NVIDIA driver, but torch sees no GPU; install a build of torch with CUDA, or look at "
                     "CUDA_VISIBLE_DEVICES")  # fmt: skip
    return list(map(worded, notes))


def show_report(report: Mapping[str, Any]) -> None:
    """Print it as tables."""
    from blankfill.system.console import amount, show, table, worded

    facts = report["environment"]
    rows = []
    for section, part in facts.items():
        for name, value in part.items():
            is_size = section in ("memory", "container") and name != "cores"
            rows.append((f"{section} {name.replace('_', ' ')}", amount(value, "B") if is_size else value))
    table("Environment", rows)
    measured = report["measured"]
    table("Measured", [
        (f"matrix products on {measured['device']}, fp32", f"{measured['fp32'] / 1e9:,.1f} GFLOP/s"),
        (f"matrix products on {measured['device']}, bf16", f"{measured['bf16'] / 1e9:,.1f} GFLOP/s"),
        ("memory, one core", f"{amount(measured['memory_bytes_per_s'], 'B')}/s"),
        ("disk, written", f"{amount(measured['disk_bytes_per_s'], 'B')}/s" if "disk_bytes_per_s" in measured else "-"),
        ("disk, free", amount(measured["disk_free"], "B")),
    ])  # fmt: skip
    chosen = report["precision"]
    show(worded(f"{setting('train.precision', 'auto')} computes in {chosen['auto']} here: {chosen['why']}"))
    show(f"Kernels: {report['kernels']['why']}")
    extras = [
        (f"[{name}]", "installed" if extra["installed"] else f"missing: {', '.join(extra['missing'])}", extra["for"])
        for name, extra in report["extras"].items()
    ]
    table("Optional extras (pip install 'blankfill[NAME]')", extras)
    for warning in report["warnings"]:
        show(f"Warning: {warning}")
    if not report["warnings"]:
        show("Nothing stands in the way of a run.")
    if sys.stdout.isatty():
        show("For a report of a fault: blankfill doctor --json")
