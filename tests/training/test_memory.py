"""Freed memory is kept, so that a step does not have its pages mapped anew. In a process of its own."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from blankfill.system.allocator import keep_freed_memory
if {keep} and not keep_freed_memory():
    raise SystemExit(3)
for _ in range(12):
    torch.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages mapped while 32 MiB are taken and freed four times.

    Not the first times: the small remainders of aligned blocks must have filled glibc's lists of small chunks.
    """
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_is_kept() -> None:
    assert faults(keep=True) < 100
    assert faults(keep=False) > 1000  # else there is nothing to mend any more
