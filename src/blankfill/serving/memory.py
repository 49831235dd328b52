"""The files of a model before it is opened: how much memory their weights need, and whether they have changed.

Only names, sizes and the headers of safetensors files are read, and torch is not imported, so that this takes
milliseconds and can be done by the process that only watches over workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blankfill.checkpoint.dtypes import WeightType
from blankfill.errors import UserError, setting
from blankfill.system.console import amount
from blankfill.system.environment import usable_memory

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Bytes of a number that is converted, by its type in safetensors files; others keep their size."""
LARGEST_HEADER = 100 * 2**20
"""Bytes of a header that are read at most, as the library of safetensors has it."""
SLACK = 1.02
"""How much more than its weights a model needs at least, for its tokenizer and the rest."""


@dataclass(frozen=True)
class Need:
    """The memory that the weights of a model need, in bytes; 0: unknown. mapped: whether they stay on disk as stored,
    so that processes share them."""

    name: str
    bytes: int
    mapped: bool

    @property
    def sentence(self) -> str:
        """A line for the user."""
        if not self.bytes:
            return f"model {self.name}: the size of its weights is not known before it is opened"
        how = "mapped from its files, shared by all processes" if self.mapped else "of memory in each process"
        return f"model {self.name}: weights of {amount(self.bytes, 'B')}, {how}"


CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""Variable with the number of compiled products that oneDNN keeps; it reads it at its first product."""


def keep_no_products() -> None:
    """Let oneDNN keep no compiled products, unless the user has set how many.

    It keeps one for each number of rows, and batches of a server have any number: 1,024 of them take a gigabyte.
    """
    os.environ.setdefault(CACHE, "0")


def need_of(name: str, folder: Path, dtype: WeightType = "auto", adapter: Path | None = None) -> Need:
    """Return what a model needs, as far as its files say."""
    total, mapped = 0, True
    for file in weight_files(folder) + (weight_files(adapter) if adapter is not None else []):
        try:
            size = file.stat().st_size
            stored = tensors(file) if file.suffix == ".safetensors" else None
        except (OSError, ValueError):
            return Need(name, 0, False)
        if file.suffix != ".safetensors":
            mapped = False
        if dtype != "auto" and stored is not None:
            converted = sum(bytes_of(kind, size, dtype) for kind, size in stored)
            mapped = mapped and converted == sum(size for _, size in stored)
            size = converted
        total += size
    return Need(name, total, mapped)


def bytes_of(kind: str, size: int, dtype: WeightType) -> int:
    """Return the size of a stored tensor after its conversion."""
    return size // STORED[kind] * WIDTHS[dtype] if kind in STORED else size


def tensors(file: Path) -> list[tuple[str, int]]:
    """Return (type, bytes) of each tensor of a safetensors file. Raises ValueError for a damaged header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"{file}: the header is too long")
        header = json.loads(stream.read(length))
    try:
        return [
            (str(entry["dtype"]), int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{file}: the header is damaged") from error


def checkpoint_of(folder: Path) -> Path:
    """Return the folder with the weights that a path names: a run's newest checkpoint, the one that `best` or `latest`
    names, else the path itself."""
    if folder.name in ("best", "latest") and folder.is_file():
        return folder.parent / "checkpoints" / Path(folder.read_text(encoding="utf-8").strip()).name
    steps = [path for path in (folder / "checkpoints").glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return max(steps, key=lambda path: int(path.name.removeprefix("step-"))) if steps else folder


def weight_files(folder: Path) -> list[Path]:
    """Return the files with weights of a model, without those that only training reads; empty where none is known."""
    try:
        place = checkpoint_of(folder)
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []
    except (OSError, UnicodeDecodeError):
        return []
    safe = [path for path in files if path.suffix == ".safetensors" and not path.name.startswith("optimizer")]
    return safe or [path for path in files if path.suffix in (".bin", ".pt")]


def fingerprint(*folders: Path | None) -> tuple[tuple[str, int, int, int], ...]:
    """Return what tells whether the files of a model have changed: their names, places on disk, sizes and times."""
    marks = []
    for folder in folders:
        if folder is None:
            continue
        places: Iterable[Path] = {folder, checkpoint_of(folder)} if folder.exists() else ()
        for place in sorted(places):
            for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                if path.is_file():
                    stat = path.stat()
                    marks.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def check_fits(needs: Sequence[Need], processes: int = 1, force: bool = False) -> list[str]:
    """Return a line for each model, and one for all. Raises UserError when the models surely do not fit.

    processes: number of processes that open them all; weights that stay on disk are counted once.
    """
    total = sum(need.bytes * (1 if need.mapped else processes) for need in needs)
    free = usable_memory()
    lines = [need.sentence for need in needs]
    lines.append(f"together {amount(total, 'B')}, and {amount(free, 'B')} of memory is free")
    if total * SLACK > free and not force:
        fewer = f"lower {setting('workers')}, " if processes > 1 and not all(need.mapped for need in needs) else ""
        raise UserError(
            f"the weights of {', '.join(need.name for need in needs)} need {amount(total, 'B')}, and "
            f"{amount(free, 'B')} of memory is free; {fewer}serve fewer models, quantise them with `blankfill "
            f"quantize`, or give {setting('force', True)}"
        )
    return lines
