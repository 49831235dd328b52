"""Checkpoints on disk: written whole or not at all, checked when read, never unpickled.

`checkpoints/step-N/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which names the step, the
run's counters and a checksum of each file. A checkpoint is written under a temporary name, synced to disk and renamed,
so a kill at any instant leaves the one before whole; `latest` names the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blankfill.errors import UserError

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: `step` steps are done, `state` is what the run noted."""

    path: Path
    step: int
    state: dict[str, Any]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def save(
    folder: Path,
    step: int,
    model: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
    keep: int = 2,
    protect: frozenset[int] = frozenset(),
) -> Path:
    """Write `folder/step-N` and drop all but the newest `keep` (and those in `protect`).

    model: its state dict. state: JSON values. Raises UserError when the disk is full or not writable.
    """
    final = folder / f"step-{step}"
    temporary = folder / f".step-{step}.{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary / MODEL, model)
        if optimizer is not None:
            _write(temporary / OPTIMIZER, optimizer_tensors(optimizer))
        sums = {path.name: checksum(path) for path in sorted(temporary.iterdir())}
        _write_text(temporary / STATE, json.dumps({**state, "step": step, "sha256": sums}, indent=1))
        _sync_folder(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(folder)
        pointer = folder.parent / f".latest.{os.getpid()}"
        _write_text(pointer, final.name + "\n")
        pointer.replace(folder.parent / "latest")
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{final}: the checkpoint could not be written ({error.strerror or error}); free some space or give "
            "another --out; the checkpoints before it are whole"
        ) from error
    for old in sorted(steps_in(folder))[: -keep or None]:
        if old not in protect and old != step:
            shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    return final


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in no order."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.glob("step-*") if path.is_dir())
    return [int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit()]


def read(path: Path, with_optimizer: bool = True) -> Checkpoint:
    """Read one checkpoint folder and check it against its checksums; UserError when anything is missing or damaged."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        sums, step = dict(state["sha256"]), int(state["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole checkpoint ({STATE} is missing or unreadable)") from error
    wanted = [MODEL, OPTIMIZER] if with_optimizer and OPTIMIZER in sums else [MODEL]
    loaded = []
    for name in wanted:
        try:
            if checksum(path / name) != sums.get(name):
                raise UserError(f"{path / name} is damaged: its checksum is not the one noted when it was written")
            loaded.append(load_file(path / name))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path / name} cannot be read ({error})") from error
    return Checkpoint(path, step, state, loaded[0], loaded[1] if len(loaded) > 1 else {})


def newest(folder: Path, with_optimizer: bool = True, damaged: list[str] | None = None) -> Checkpoint | None:
    """The newest whole checkpoint in a folder, None when there is none.

    damaged: receives a sentence for every newer one that was passed over.
    """
    for step in sorted(steps_in(folder), reverse=True):
        try:
            return read(folder / f"step-{step}", with_optimizer)
        except UserError as error:
            if damaged is not None:
                damaged.append(str(error))
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimiser's state as named tensors: `<parameter number>.<name>`."""
    state = optimizer.state_dict()["state"]
    found = {}
    for number, values in state.items():
        for name, value in values.items():
            found[f"{number}.{name}"] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put state saved by `optimizer_tensors` back."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
