"""Workers never run the parent's script again."""

import subprocess
import sys
from pathlib import Path


def test_a_script_without_the_usual_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from blankfill.corpus.pool import run_tasks\n"
        "from math import factorial\n"
        "print('started')\n"
        "print(sorted(pair[1] for pair in run_tasks(factorial, [3, 4, 5], 2) if pair))\n",
        encoding="utf-8",
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["started", "[6, 24, 120]"]
