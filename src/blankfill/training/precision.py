"""Which device, and in which type to compute.

bf16 triples the speed of a CPU that has the units for it and slows one that has not a hundredfold; the processor's
instruction sets say which it is. A measured rate would not do: it differs from start to start on a busy machine, and a
resumed run must compute in the type that it began in. Rates are measured here too, for utilisation only.
"""

from __future__ import annotations

import contextlib
import math
import time

import torch

from blankfill.system.environment import bf16_sets
from blankfill.training.options import Precision


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
    """The compute type: `precision`, or where that is auto bf16 if the device has units for it, else fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a device has units for bf16 that torch uses."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and bool(bf16_sets())


def computing(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
