"""Which device, and in which type to compute: measured at start, never assumed.

bf16 triples the speed of a CPU that has the units for it and slows one that has not a hundredfold; a quarter of a
second of matrix products tells which.
"""

from __future__ import annotations

import contextlib
import math
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
    """What square matrix products of this size and type reach at best, in FLOP/s (2·size³ for one).

    The best of the tries within so many seconds, at least two: other work on the machine only ever slows one down.
    """
    a = torch.ones(size, size, dtype=dtype, device=device)
    together = 1 if device.type == "cpu" else 20  # so that launching them is not what is measured
    best, tries, end = math.inf, 0, time.perf_counter() + seconds
    while tries < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(together):
            a @ a
        wait_for(device)
        best = min(best, (time.perf_counter() - start) / together) if tries else math.inf  # the first one warms up
        tries += 1
    return 2.0 * size**3 / best


def wait_for(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The matrix-product rate that a run's utilisation is held against, in FLOP/s."""
    return matmul_rate(device, dtype, 1024 if device.type == "cpu" else 8192, 0.3)


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The compute type: bf16 where it pays, fp32 elsewhere; `precision` overrides the measurement."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        return torch.float16
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
