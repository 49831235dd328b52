"""`blankfill completion`: what bash completes for real, and that torch is not imported for it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blankfill.cli import main as cli
from blankfill.cli.completion import parser_of

BASH = shutil.which("bash")
LINES = {
    "blankfill pre": {"prepare", "pretrain", "predict"},
    "blankfill help fi": {"finetune", "fill"},
    "blankfill pretrain --recipe glm-4": {"glm-410m "},
    "blankfill pretrain --recipe electra-nano --objective.generator-s": {"--objective.generator-size "},
    "blankfill pretrain --recipe glm-nano --objective.generator-s": set(),
    "blankfill pretrain --train.schedule in": {"inverse_sqrt "},
    "blankfill finetune --task squad-": {"squad-questions "},
    "blankfill fill --device ": {"auto", "cpu", "cuda", "mps"},
    "blankfill recipes t5-v1.1-x": {"t5-v1.1-xl", "t5-v1.1-xxl"},
    "blankfill tasks multi": {"multirc", "multilabel"},
    "blankfill tokenizer ": {"show "},
    "blankfill completion ": {"bash", "zsh", "fish"},
    "blankfill --json pla": {"plan "},
    "blankfill embed --pooling c": {"cls "},
    "blankfill fill --model ru": {"runs/"},
    "blankfill doctor --qu": {"--quiet "},
}
"""What bash offers for a line."""


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.skipif(os.name == "nt", reason="needs a Unix")
def test_bash_completes_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bash runs the script itself, once for each line."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "blankfill"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m blankfill "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "runs").mkdir()
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    commands = [f'source {shlex.quote(str(script))}\nspec=($(complete -p blankfill))\nname="${{spec[-2]}}"']
    commands += [
        f'COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=(); "$name" blankfill\n'
        'printf "%s\\037" "${COMPREPLY[@]}"; echo'
        for line in LINES
    ]
    variables = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    assert BASH is not None
    run = subprocess.run(
        [BASH, "--norc", "-c", "\n".join(commands)], capture_output=True, encoding="utf-8", check=False, cwd=tmp_path,
        env=variables, timeout=300,
    )  # fmt: skip
    offered = dict(zip(LINES, (set(line.split("\x1f")) - {""} for line in run.stdout.splitlines()), strict=True))
    assert offered == LINES, run.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command"}[shell] in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "fsh"]) == 2
    assert "it must be one of bash, zsh, fish (did you mean fish?)" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_parser_of_every_command_is_light_and_has_its_options(command: str) -> None:
    code = (
        "import sys\nfrom blankfill.cli.completion import parser_of\n"
        f"parser, _ = parser_of([{command!r}, '--recipe', 'no such recipe'])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    if command in ("pretrain", "finetune", "fill", "tasks"):  # a process of its own takes a second
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    parser, _ = parser_of([command])
    own = parser._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr, index]
    assert {"--json", "--quiet", "--help"} <= set(own._option_string_actions)
