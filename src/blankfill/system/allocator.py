"""Keeps the memory that a training step frees for the next step.

glibc gives large blocks back to the system as soon as they are freed, so each training step on a CPU allocates the same
hundreds of megabytes, and every page is cleared and mapped again: 7% of a step of BERT 4×256 (docs/performance.md).
`keep_freed_memory` makes glibc keep freed memory. Short commands do not need it, and other systems ignore it: macOS and
Windows have other allocators, GPUs that of torch.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of `mallopt` (glibc, malloc.h)."""
NEVER = -1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on; return whether the C library supports this."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        change = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl lacks `mallopt`
        return False
    return bool(change(MMAP_MAX, 0)) and bool(change(TRIM_THRESHOLD, NEVER))
