"""Where to compute, by its name; only what is there is taken."""

from __future__ import annotations

import torch

from blankfill.errors import UserError, setting


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA when there, then Apple's MPS, else the CPU.

    Raises UserError for a name that torch does not know and for a device that is not there.
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
    """The device of a name, there or not. Raises UserError for a name that torch does not know."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{setting('device')} is {name}; give auto, cpu, cuda, cuda:1 or mps") from error


def is_here(device: torch.device) -> bool:
    """Whether torch finds a device of a kind that models are computed on."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
