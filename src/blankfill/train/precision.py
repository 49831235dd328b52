"""Which device, and in which type to compute: measured at start, never assumed.

bf16 triples the speed of a CPU that has the units for it and slows one that has not a hundredfold; a quarter of a
second of matrix products tells which.
"""

from __future__ import annotations

import contextlib
import time

import torch

from blankfill.train.options import Precision


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA when there, then Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 512, seconds: float = 0.1) -> float:
    """Multiply-adds of a square matrix product of this type, in FLOP/s."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    start, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - start < seconds:
        a @ a
        done += 1
        if done == 1:
            start = time.perf_counter()
    return 2.0 * size**3 * (done - 1) / (time.perf_counter() - start)


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute type: bf16 where it pays, fp32 elsewhere; `precision` overrides the measurement."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type != "cpu":
        return torch.float32
    small = matmul_rate(device, torch.bfloat16, 64, 0.01)  # a CPU without bf16 units would take seconds on a large one
    if small < 0.25 * matmul_rate(device, torch.float32, 64, 0.01):
        return torch.float32
    pays = matmul_rate(device, torch.bfloat16) > 1.3 * matmul_rate(device, torch.float32)
    return torch.bfloat16 if pays else torch.float32


def computing(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
