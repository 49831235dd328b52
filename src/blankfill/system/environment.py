"""The environment of a run: facts for repeating its figures or understanding a bug report.

Versions, processor, memory, limits of a container, accelerators, the state of the code. Never the names of users or
hosts, and never a path, since users share these facts. Two quick measurements (memory, disk) are here as well;
`training.precision` measures the rate of matrix products. Importing this module is cheap: torch is imported inside
functions.
"""

from __future__ import annotations

import locale
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from blankfill._version import __version__

Section = dict[str, str | int | float | bool | None]

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
PACKAGES = ("numpy", "tokenizers", "safetensors", "transformers")
INSTRUCTIONS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile",
    "amx_int8", "amx_bf16", "amx_fp16", "neon", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
"""Instruction sets that affect the speed of a model, by their Linux names."""
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND",
    "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY", "MALLOC_ARENA_MAX", "BLANKFILL_NATIVE",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "WORLD_SIZE", "RANK", "LOCAL_RANK",
    "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONHASHSEED", "LC_ALL", "LC_CTYPE", "LANG",
)  # fmt: skip
"""Environment variables that affect a run and hold numbers or short words, not paths or secrets."""
UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number of about 2^63."""
IDLE = 0.7
"""Load of other programs, in cores, that is ignored."""
BF16_SETS = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that multiply matrices of bf16: Intel's and AMD's, and (the last) ARM's."""
NO_BF16 = {
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"),
    "ATEN_CPU_CAPABILITY": ("DEFAULT", "AVX2"),
}
"""Values of variables that keep oneDNN and torch from using bf16 instructions."""


@dataclass(frozen=True)
class Limits:
    """Limits of a container. cores: of processor time, None for all. memory and used: bytes, None for no limit."""

    cores: float | None = None
    memory: int | None = None
    used: int = 0


def environment() -> dict[str, Section]:
    """Return all facts, one level deep: section → name → text or number (bytes for memory); unknown values are left
    out."""
    import psutil

    memory = psutil.virtual_memory()
    limits = container_limits()
    sections: dict[str, Section] = {
        "blankfill": {"version": __version__},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "system": {
            "name": platform.system(),
            "release": platform.release(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "processor": {
            "model": processor_model(),
            "machine": platform.machine(),
            "cores": psutil.cpu_count(logical=False),
            "logical_cores": psutil.cpu_count(),
            "usable_cores": usable_cores(limits),
            "instructions": " ".join(instruction_sets()) or None,
        },
        "memory": {"total": memory.total, "available": usable_memory(limits)},
        "container": {"cores": limits.cores, "memory": limits.memory},
        "torch": torch_facts(),
        "devices": devices(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "code": code_state(),
        "text": {
            "preferred_encoding": locale.getpreferredencoding(False),
            "output_encoding": getattr(sys.stdout, "encoding", None),
            "filesystem_encoding": sys.getfilesystemencoding(),
            "locale": ".".join(part for part in locale.getlocale() if part) or "C",
        },
        "variables": {name: without_home(os.environ[name]) for name in VARIABLES if name in os.environ},
    }
    known: dict[str, Section] = {}
    for name, part in sections.items():
        section: Section = {key: value for key, value in part.items() if value is not None}
        if section:
            known[name] = section
    return known


def package_version(name: str) -> str | None:
    """Return the version of an installed package, None when it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def usable_cores(limits: Limits | None = None) -> int:
    """Return the number of cores that this process may use: its affinity, at most its container's share, rounded up."""
    limits = limits or container_limits()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if limits.cores is None else max(1, min(cores, -int(-limits.cores // 1)))


def busy_cores(seconds: float = 0.2) -> float:
    """Return the number of cores that other programs keep busy, over the last minute and still now; 0.0 where unknown.

    The load of the last minute includes programs that have ended, so above `IDLE` it is compared with the use of the
    cores during `seconds`, while this process sleeps.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return min(load, _busy_now(seconds)) if load >= IDLE else load


def _busy_now(seconds: float) -> float:
    """Return the number of busy cores among those that this process may run on; infinite where unknown."""
    import psutil

    def ticks() -> list[tuple[float, float]]:
        """Return (all, idle) ticks of each core so far."""
        cores = []
        for core in psutil.cpu_times(percpu=True):
            times = core._asdict()
            guests = times.get("guest", 0.0) + times.get("guest_nice", 0.0)  # `user` and `nice` include these
            cores.append((sum(times.values()) - guests, times["idle"] + times.get("iowait", 0.0)))
        return cores

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(len(after))
    busy, known = 0.0, False
    for core in cores:
        if core >= min(len(before), len(after)):
            continue
        passed, idle = (b - a for a, b in zip(before[core], after[core], strict=True))
        known |= passed > 0
        busy += max(0.0, 1 - idle / passed) if passed > 0 else 0.0
    return busy if known else float("inf")


def usable_memory(limits: Limits | None = None) -> int:
    """Return the bytes that this process can still allocate: available to the system, and left in its container."""
    import psutil

    limits = limits or container_limits()
    available = int(psutil.virtual_memory().available)
    return available if limits.memory is None else max(0, min(available, limits.memory - limits.used))


def container_limits(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> Limits:
    """Return the limits of the control groups (v1 and v2) of this process and of the groups above them."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return Limits()
    cores: list[float] = []
    memory: list[tuple[int, int]] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        named = controllers.split(",")
        if not controllers:
            for folder in _upward(root, group) + _upward(root / "unified", group):
                quota, period = _numbers(folder / "cpu.max", 2)
                cores += [quota / period] if quota and period else []
                most = _numbers(folder / "memory.max", 1)[0]
                memory += [(most, _used(folder, "memory.current", "inactive_file"))] if most else []
        if "cpu" in named:
            for folder in _upward(root / controllers, group) + _upward(root / "cpu", group):
                quota = _numbers(folder / "cpu.cfs_quota_us", 1)[0]
                period = _numbers(folder / "cpu.cfs_period_us", 1)[0]
                cores += [quota / period] if quota and period and quota > 0 else []
        if "memory" in named:
            for folder in _upward(root / "memory", group):
                most = _numbers(folder / "memory.limit_in_bytes", 1)[0]
                if most and most < UNLIMITED:
                    memory.append((most, _used(folder, "memory.usage_in_bytes", "total_inactive_file")))
    tightest = min(memory, key=lambda pair: pair[0] - pair[1], default=None)
    return Limits(min(cores, default=None), *(tightest or (None, 0)))


def _upward(root: Path, group: str) -> list[Path]:
    """Return the folders of a group and of the groups above it; inside a container only `root` may exist."""
    folder = root / group.strip("/")
    folders = [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]
    return [folder_ for folder_ in folders if folder_.is_dir()]


def _numbers(path: Path, count: int) -> list[int | None]:
    """Return the whole numbers in a file of a control group; None for a missing file or `max`."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        words = []
    return [int(word) if re.fullmatch(r"-?\d+", word) else None for word in (words + [""] * count)[:count]]


def _used(folder: Path, file: str, reclaimable: str) -> int:
    """Return the bytes in use in a group, without the file cache, which is released when memory is short."""
    used = _numbers(folder / file, 1)[0] or 0
    try:
        statistics = (folder / "memory.stat").read_text(encoding="utf-8")
    except OSError:
        statistics = ""
    cache = re.search(rf"^{reclaimable} (\d+)$", statistics, re.MULTILINE)
    return max(0, used - (int(cache[1]) if cache else 0))


def processor_model() -> str:
    """Return the model name of the processor."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    named = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return the instruction sets of `INSTRUCTIONS` that this processor has."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    if flags:
        present = set(flags[1].split())
        return [name for name in INSTRUCTIONS if name in present]
    import torch

    report: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    other_names = {"avx512f": "avx512_f", "fma": "fma3"}
    return [name for name in INSTRUCTIONS if report.get(other_names.get(name, name)) is True]


def bf16_sets() -> list[str]:
    """Return the instruction sets that speed up products of bf16 matrices here; none where a variable forbids their
    use."""
    forbidden = any(os.environ.get(name, "").upper() in values for name, values in NO_BF16.items())
    return [] if forbidden else [name for name in instruction_sets() if name in BF16_SETS]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def torch_facts() -> Section:
    """Return how torch was built, and its number of threads."""
    import torch

    built = torch.__config__.show()
    mkl = re.search(r"Math Kernel Library Version ([\w.]+)", built)
    onednn = re.search(r"MKL-DNN v([\d.]+)", built)
    openmp = re.search(r"OpenMP (\d+)", built)
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": mkl[1] if mkl else None,
        "onednn": onednn[1] if onednn else None,
        "openmp": openmp[1] if openmp else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
    }


def devices() -> Section:
    """Return the accelerators that torch sees, each with its memory."""
    import torch

    section: Section = {}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(number)
        section[f"cuda:{number}"] = f"{card.name}, {card.total_memory / 2**30:.1f} GiB, {card.major}.{card.minor}"
    if torch.backends.mps.is_available():
        section["mps"] = f"{torch.mps.recommended_max_memory() / 2**30:.1f} GiB"
    return section


def code_state() -> Section:
    """Return the commit of the current folder when it is a git work tree, and whether tracked files differ from it."""
    commit = _output("git", "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def _output(*command: str) -> str | None:
    """Return the output of a program; None when it is missing, fails or takes too long."""
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=5,
            env=quiet,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def without_home(text: str) -> str:
    """Return a value with `~` for the home folder, which holds the user's name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def copy_rate(size: int = 64 << 20, repeats: int = 3) -> float:
    """Measure the memory bandwidth of one core, in bytes read and written per second; the best of a few copies."""
    import numpy as np

    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def write_rate(folder: Path, size: int = 32 << 20) -> float:
    """Measure the rate of writing a file to a folder and syncing it, in bytes per second. Raises OSError when that
    fails."""
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - began)


def has_module(name: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    from importlib import util

    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
