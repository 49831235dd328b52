"""Chooses the device to compute on by its name, and checks that it exists."""

from __future__ import annotations

import torch

from blankfill.errors import UserError, setting


def pick_device(name: str) -> torch.device:
    """Return the device of a name; `auto` prefers CUDA, then Apple's MPS, then the CPU.

    Raises UserError for a name that torch does not know and for a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = named_device(name)
    if not is_here(device):
        raise UserError(f"{setting('device')} is {device}, and torch finds no such device here; use cpu or auto")
    return device


def named_device(name: str) -> torch.device:
    """Return the device of a name, whether this machine has it or not. Raises UserError for a name that torch does not
    know."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{setting('device')} is {name}; give auto, cpu, cuda, cuda:1 or mps") from error


def is_here(device: torch.device) -> bool:
    """Return whether torch finds a device of this type."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
