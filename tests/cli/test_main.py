"""The command itself: help, unknown commands, exit codes, and the frozen list of flags."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from blankfill.cli import main as cli
from blankfill.cli.recipe_arguments import recipe_of


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from blankfill import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"blankfill {__version__}"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrian"]) == 2
    assert "did you mean `blankfill pretrain`?" in capsys.readouterr().err
    assert cli.main(["zzz"]) == 2
    assert "`blankfill --help` lists them" in capsys.readouterr().err
    assert cli.main(["-x"]) == 2
    assert "there is no option -x before a command" in capsys.readouterr().err


def test_a_wrong_choice_without_a_name_is_called_as_the_help_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bsh"]) == 2
    assert (
        capsys.readouterr().err == "blankfill: SHELL is 'bsh'; it must be one of bash, zsh, fish (did you mean bash?)\n"
    )


def test_help_of_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["help", "tokenizer", "show"])
    assert capsys.readouterr().out.startswith("usage: blankfill tokenizer show")
    assert cli.main(["help", "tokenizer", "shw"]) == 2
    assert "`blankfill tokenizer` has one subcommand, show; leave out 'shw'" in capsys.readouterr().err
    assert cli.main(["help", "fill", "show"]) == 2
    assert "`blankfill fill` has no subcommands" in capsys.readouterr().err


def test_a_users_mistake_is_one_sentence_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "--recipe", "brt-nano"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("blankfill: no recipe named brt-nano") and "Traceback" not in err
    assert cli.main(["pretrain", "--train.lr", "-1", "--model.num-heads", "3"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no recipe named x"):
        cli.main(["--debug", "pretrain", "--recipe", "x"])


def test_the_recipe_is_found_in_the_command_line() -> None:
    assert recipe_of(["--out", "x", "--recipe", "gpt-nano"]) == "gpt-nano"
    assert recipe_of(["--recipe=a.yaml"]) == "a.yaml"
    assert recipe_of(["text.txt"]) == "glm-nano"


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_is_light(command: str) -> None:
    """`--help` never imports torch, which takes seconds."""
    code = (
        "import sys\n"
        "from blankfill.cli.main import main\n"
        "try:\n"
        f"    main([{command!r}, '--help'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-500:]
    assert "usage: blankfill " + command in run.stdout


def test_unwritable_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("x", encoding="utf-8")
    assert cli.main(["pretrain", "--out", str(occupied / "run")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("x", encoding="utf-8")
    assert cli.main(["pretrain", "--out", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_resume_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "--resume", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_many_mistakes_are_told_once_and_up_to_a_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    values = ",".join(["x", "x", *(f"y{k}" for k in range(30))])
    arguments = ["--task", "sst2", "--data", str(tmp_path), "--from", str(tmp_path), "--out", str(tmp_path / "o")]
    assert cli.main(["finetune", *arguments, "--grid", f"lr={values}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "blankfill: --grid lr is 'x'; it must be a number" and "'y0'; it must be" in lines[1]
    assert len(lines) == 21 and lines[-1] == "blankfill: and 11 more"


def test_the_package_is_described_by_what_it_can_do() -> None:
    """What the description says is done to language models has a command."""
    root = Path(__file__).resolve().parents[2]
    said = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["description"]
    verbs = re.split(r", | and ", said.partition(" language models")[0].lower())
    assert verbs and {verb.replace("-", "") for verb in verbs} <= set(cli.COMMANDS)
