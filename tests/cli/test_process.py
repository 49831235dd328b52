"""The process around a command: full and closed streams, odd locales and arguments, few open files, lost folders."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import blankfill
from blankfill.cli import main as cli
from blankfill.cli.process import sentence
from blankfill.runs.recorder import RunRecorder
from small_run import SMALL, texts_in

resource = pytest.importorskip("resource", reason="limits as Unix has them")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="streams and locales as Unix has them")
FULL = Path("/dev/full")
TINY = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 2})
    blankfill.pretrain([str(texts_in(folder, 20))], recipe, folder / "run")
    return folder / "run"


def run(argv: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 300, **more}
    return subprocess.run([sys.executable, "-m", "blankfill", *argv], check=False, encoding="utf-8", **given)


def shell(line: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A shell's line in which "$@" is the command."""
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "blankfill", *argv],
        capture_output=True, text=True, check=False, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["fill", "--help"], ["doctor", "--json"], ["fill"],
                                  ["generate"], ["embed"], ["evaluate"]])  # fmt: skip
def test_a_full_device_is_one_sentence(argv: list[str], trained: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("the farmer carries a wooden boat .\n", encoding="utf-8")
    whole = {
        "fill": ["--model", str(trained), "the [MASK] sat"],
        "generate": ["--model", str(trained), "--max-new-tokens", "3"],
        "embed": ["--model", str(trained), str(tmp_path / "lines.txt")],
        "evaluate": ["--model", str(trained), "--task", "perplexity", "--data", str(tmp_path / "lines.txt")],
    }
    with FULL.open("w") as full:
        ended = run(argv + (whole.get(argv[0], []) if len(argv) == 1 else []), stdout=full)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("blankfill: standard output cannot be written (No space left")
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_notices_that_cannot_be_written_do_not_end_a_run(trained: Path, tmp_path: Path) -> None:
    with FULL.open("w") as full:
        ended = run(["pretrain", str(trained / "corpus"), "--out", str(tmp_path / "run"), *TINY], stderr=full)
    assert ended.returncode == 0 and "12 steps" in ended.stdout
    ended = shell('"$@" 2>&-', "pretrain", str(trained / "corpus"), "--out", str(tmp_path / "other"), *TINY)
    assert ended.returncode == 0 and "12 steps" in ended.stdout and ended.stderr == ""
    lines = [(tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8") for name in ("run", "other")]
    assert all(len(text.splitlines()) == len(lines[0].splitlines()) > 5 for text in lines)


@pytest.mark.parametrize("argv", [["--help"], ["fill", "--help"], ["fill", "--model", "{}", "the [MASK] sat"]])
def test_a_closed_output_is_one_sentence(argv: list[str], trained: Path) -> None:
    ended = shell('"$@" >&-', *(arg.format(trained) for arg in argv))
    assert ended.returncode == 2
    assert ended.stderr == "blankfill: standard output cannot be written (it is closed); " \
                           "free some space, or send it elsewhere\n"  # fmt: skip
    assert shell('"$@" <&- >&- 2>&-', *(arg.format(trained) for arg in argv)).returncode == 2


def test_a_closed_input_is_an_empty_one(trained: Path) -> None:
    ended = shell('"$@" <&-', "fill", "--model", str(trained), "-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_reader_that_has_enough_is_no_error(trained: Path) -> None:
    ended = shell('"$@" | head -n 1', "generate", "--model", str(trained), "--num", "40", "--max-new-tokens", "30")
    assert ended.stdout == "--- 1 ---\n" and ended.stderr == ""


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_plain_locale_takes_all_text(locale: str, trained: Path, tmp_path: Path) -> None:
    variables = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"}
    model = tmp_path / "модель"
    shutil.copytree(trained, model)
    ended = run(["fill", "--json", "--model", str(model), "der [MASK] fährt 上海"], env=variables)
    assert ended.returncode == 0 and '"text": "der [MASK] fährt 上海"' in ended.stdout
    ended = run(["fill", "--model", str(model / "нет"), "a [MASK]"], env=variables)
    assert ended.returncode == 2 and "модель/нет" in ended.stderr


@pytest.mark.parametrize("place", [3, 2])
def test_arguments_that_are_not_utf8_are_refused(place: int, trained: Path) -> None:
    argv: list[bytes | str] = ["fill", "--model", str(trained), "the [MASK]"]
    argv[place] = b"caf\xe9\x1b[31m [MASK]"
    ended = subprocess.run([sys.executable, "-m", "blankfill", *argv], capture_output=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"blankfill: argument %d (caf\\xe9\\x1b[31m [MASK]) is not UTF-8; " % (place + 1))


@pytest.mark.parametrize(
    "argv",
    [
        ["pretrain", "{texts}", "--out", "{out}", *TINY, "--train.workers", "2"],
        ["pretrain", "--resume", "{run}"],
        ["fill", "--model", "{run}", "a [MASK]"],
        ["prepare", "{texts}", "--out", "{out}", "--workers", "2"],
    ],
    ids=["pretrain", "resume", "fill", "prepare"],
)
@pytest.mark.parametrize("files", [8, 24])
def test_few_open_files_are_enough_or_one_sentence(files: int, argv: list[str], trained: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(trained, own)
    names = {"texts": trained.parent, "out": tmp_path / "out", "run": own}
    texts = [path for path in trained.parent.iterdir() if path.suffix == ".txt"]
    names["texts"] = tmp_path / "texts"
    names["texts"].mkdir()
    for path in texts:
        shutil.copy(path, names["texts"])
    ended = run([arg.format(**names) for arg in argv],
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))  # fmt: skip
    assert "Traceback" not in ended.stderr and ended.returncode in (0, 2), ended.stderr
    if ended.returncode:
        assert ended.stderr.splitlines()[-1].startswith("blankfill: ") and "ulimit -n" in ended.stderr, ended.stderr


@pytest.mark.parametrize("gone", [".", "tensorboard"])
def test_a_folder_that_is_removed_under_a_run_is_no_traceback(
    gone: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    advance = RunRecorder.advance

    def advance_and_remove(self: RunRecorder, step: int, fields: dict[str, float | int | str]) -> None:
        advance(self, step, fields)
        if step == 3:
            shutil.rmtree(self.path.parent / gone)

    monkeypatch.setattr(RunRecorder, "advance", advance_and_remove)
    code = cli.main(["pretrain", str(trained / "corpus"), "--out", str(tmp_path / "run"), *TINY])
    time.sleep(0.1)  # TensorBoard writes in a thread
    err = capfd.readouterr().err
    assert code in (0, 2) and "Traceback" not in err, err
    if code:
        assert err.splitlines()[-1].startswith("blankfill: ") and str(tmp_path / "run") in err.splitlines()[-1]


def test_a_lost_current_folder_is_one_sentence(tmp_path: Path) -> None:
    line = f'cd {tmp_path} && mkdir x && cd x && rmdir {tmp_path}/x && "$@"'
    ended = shell(line, "fill", "--model", "m", "a [MASK]")
    assert ended.returncode == 2
    assert ended.stderr == "blankfill: the folder that this command is run in was removed; change to another one\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory; it was moved"),
        (FileNotFoundError(2, "No such file or directory", b"a/b"), "a/b: No such file or directory; it was moved"),
        (OSError(24, "Too many open files"), "Too many open files; allow this process more"),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "Too many open files; allow"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device; free some"),
        (OSError(36, "File name too long", "a" * 9), "aaaaaaaaa: File name too long; give a shorter name"),
        (ValueError("a mistake of the program"), None), (KeyError("x"), None), (AssertionError(), None),
    ],
)  # fmt: skip
def test_errors_of_the_system_are_sentences(error: Exception, message: str | None) -> None:
    result = sentence(error)
    assert result is None if message is None else result is not None and result.startswith(message)


def test_errors_of_the_program_stay_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(argv: Sequence[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("blankfill.cli.fill.main", wrong)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fill"])


BIG = "x" * 120_000


@pytest.mark.parametrize(
    "argv",
    [
        ["fill", "--model", "m", BIG], ["fill", f"--{BIG}"], ["fill", "--model", "m", "--top", BIG], [BIG],
        ["fill", "--model", "m", "--lengths", "9" * 120_000, "a [MASK]"], ["pretrain", f"--{BIG}"],
        ["pretrain", f"--train.{BIG}", "3"], ["pretrain", "--recipe", BIG], ["pretrain", "--train.lr", BIG],
        ["pretrain", "--stop-after", "1" * 120_000], ["pretrain", "--stop-after", "1." * 60_000],
        ["pretrain", "--stop-after", " 1d" * 40_000], ["finetune", f"--{BIG}=1"], ["pretrain", "--resume", BIG],
        ["generate", "--model", "m", "--num", "9" * 100_000], ["fill", "--model", BIG, "a [MASK]"],
        ["finetune", "--task", BIG, "--data", "d", "--from", "m", "--out", "o"],
        ["finetune", "--task", "sst2", "--data", "d", "--from", "m", "--out", "o", "--grid", BIG],
        ["finetune", "--task", "sst2", "--data", "d", "--from", "m", "--out", "o", "--grid", "lr=" + "x," * 50_000],
        ["predict", "--model", "m", "f", "--n-best", "9" * 5000], ["prepare", BIG, "--out", "o"],
        ["prepare", "x", "--out", BIG], ["bench", "--shapes", BIG], ["export", BIG, "--out", "o"],
    ],
    ids=lambda argv: "-".join(arg[:12] for arg in argv[-2:]),
)  # fmt: skip
def test_arguments_of_any_length_are_refused_soon_and_shortly(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    try:
        code = cli.main(argv)
    except SystemExit as stop:  # after a help
        code = int(stop.code or 0)
    assert code == 2 and time.process_time() - began < 5  # of the processor, so that a busy machine does not count
    output = capsys.readouterr()
    assert len(output.err) < 6000 and output.out == "" and "Traceback" not in output.err
    assert list(tmp_path.iterdir()) == []
