"""Keep the memory of a step for the next one.

glibc gives large blocks back to the system as soon as they are freed, so a training step on a CPU asks for the same
hundreds of megabytes again and again, and every page of them is cleared and mapped anew: 7% of a step of BERT 4×256
(docs/performance.md). Here it is told to keep what it has. Not for short commands, and nothing to do elsewhere: macOS
and Windows have other allocators, GPUs torch's own.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Names of the parameters of `mallopt` (glibc, malloc.h)."""
NEVER = -1


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process; returns whether the C library knows how."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        change = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no such call
        return False
    return bool(change(MMAP_MAX, 0)) and bool(change(TRIM_THRESHOLD, NEVER))
