"""`case`: the folder of one of the small inputs that once failed, copied so that a test may change it.

The inputs lie beside the project, one folder for each fault, and every test here that reads one is skipped where they
are absent. The same faults are tested on inputs written on the spot in the tests of the module that was mended.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """A function: name of a case → a copy of its folder below tmp_path."""

    def copied(name: str) -> Path:
        if not (CASES / name).is_dir():
            pytest.skip(f"the inputs of {name} are absent: {CASES}")
        return Path(shutil.copytree(CASES / name, tmp_path / name, symlinks=True))

    return copied
