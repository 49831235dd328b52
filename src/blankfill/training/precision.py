"""Choosing the compute type of a device.

bf16 triples the speed of a CPU with units for it and makes a CPU without them a hundred times slower; the processor's
instruction sets show which case it is. A measured rate would not do: it differs from start to start on a busy machine,
and a resumed run must compute in its original type. Rates are measured here too, only for the utilisation.
"""

from __future__ import annotations

import contextlib
import math
import time

import torch

from blankfill.system.environment import bf16_sets
from blankfill.training.options import Precision

PEAK_SIZE, PEAK_SIZE_GPU, PEAK_SECONDS = 1024, 8192, 0.3
"""Size of the products that the rate of a run's utilisation is measured with, and how long it is measured."""


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 512, seconds: float = 0.1) -> float:
    """Measure the best rate of square matrix products of this size and type, in FLOP/s (2·size³ for each product).

    The result is the best of all tries within `seconds`, at least two, since other work on the machine only slows
    tries.
    """
    a = torch.ones(size, size, dtype=dtype, device=device)
    together = 1 if device.type == "cpu" else 20  # so that the time of launching them does not count
    best, tries, end = math.inf, 0, time.perf_counter() + seconds
    while tries < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(together):
            a @ a
        wait_for(device)
        best = min(best, (time.perf_counter() - start) / together) if tries else math.inf  # the first try is a warm-up
        tries += 1
    return 2.0 * size**3 / best


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the matrix-product rate for a run's utilisation, in FLOP/s."""
    return matmul_rate(device, dtype, PEAK_SIZE if device.type == "cpu" else PEAK_SIZE_GPU, PEAK_SECONDS)


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the compute type: `precision`, or for auto bf16 if the device has units for it, else fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has units for bf16 that torch uses."""
    if device.type == "cuda":
        result: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return result
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and bool(bf16_sets())


def computing(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return the context for a forward pass."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
