"""`--json` and `--quiet` of every command, the object of a failure, styles, and the page of a run at its end."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blankfill
from blankfill.cli import demo, doctor
from blankfill.cli.main import COMMANDS, main
from blankfill.system import console
from small_run import SMALL, texts_in
from small_tasks import model_folder

TINY = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]
Printed = tuple[int, str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a small run in `run`, a model to fine-tune and its rows, and rows for a grid."""
    folder = tmp_path_factory.mktemp("output modes")
    (folder / "texts").mkdir()
    recipe = blankfill.load_recipe("glm-nano", {**SMALL, "train.steps": 2})
    blankfill.pretrain([str(texts_in(folder / "texts", 20))], recipe, folder / "run")
    model_folder(folder)
    rows = "".join(f"the {word} sat,{label}\n" for word, label in (("cat", "yes"), ("dog", "no")) for _ in range(8))
    (folder / "rows").mkdir()
    for split in ("train", "dev"):
        (folder / "rows" / f"{split}.csv").write_text("text,label\n" + rows, encoding="utf-8")
    talk = [{"messages": [{"role": "user", "content": text}]} for text in ("the farmer", "a boat")]
    (folder / "talk.json").write_text(json.dumps(talk), encoding="utf-8")
    (folder / "lines.txt").write_text("the cat sat\nthe dog ran\n", encoding="utf-8")
    return folder


def run_b(place: Path) -> str:
    """Another run: a copy of the files for readers."""
    other = place / "run b"
    other.mkdir(exist_ok=True)
    for name in ("recipe.yaml", "metrics.jsonl", "run.json"):
        (other / name).write_bytes((place / "run" / name).read_bytes())
    return str(other)


TUNE = ["--epochs", "1", "--batch-size", "8", "--threads", "1"]


def line_of(command: str, place: Path, out: Path) -> list[str]:
    """A command line that works, for each command."""
    run, tuned, lines = str(place / "run"), str(out / "tuned"), str(place / "lines.txt")
    model = str(next((place / "made").iterdir()))
    lines_of: dict[str, list[str]] = {
        "prepare": [str(place / "texts"), "--out", str(out / "corpus"), "--workers", "1", "--no-vocab-exact"],
        "tokenizer": ["show", "the farmer", "--tokenizer", run],
        "demo": [str(place / "texts"), "--out", str(out / "demo")],
        "recipes": ["bert-nano"],
        "show": [str(place / "run" / "corpus"), "--objective.length", "32"],
        "plan": [str(place / "run" / "corpus"), "--no-measure", *TINY],
        "pretrain": [str(place / "run" / "corpus"), "--out", str(out / "new run"), *TINY],
        "compare": [run, run_b(place), "--out", str(out / "compare.html")],
        "tasks": ["qa"],
        "finetune": ["--task", "classify", "--data", str(place / "rows"), "--from", model, "--out", tuned, *TUNE],
        "predict": [lines, "--model", tuned],
        "evaluate": ["--model", run, "--task", "perplexity", "--data", lines, "--limit", "2"],
        "fill": ["the farmer [MASK] a boat", "a [MASK]", "--model", run],
        "generate": ["--model", run, "--prompt", "the", "--max-new-tokens", "3"],
        "chat": ["--model", run, "--messages", str(place / "talk.json"), "--max-new-tokens", "3"],
        "embed": [lines, "--model", run],
        "import": [str(out / "exported"), "--out", str(out / "imported")],
        "export": [model, "--out", str(out / "exported")],
        "quantize": ["--model", model, "--out", str(out / "quantised"), "--force", "--gate-seconds", "0.1"],
        "serve": ["--model", f"served={run}", "--port", "0", "--threads", "1"],
        "bench": ["--shapes", "gpt-1x64", "--tokens", "64", "--length", "16", "--vocabulary", "50",
                  "--seconds", "0.01"],
        "doctor": ["--out", str(out)],
        "help": ["fill"],
        "completion": ["bash"],
    }  # fmt: skip
    return [command, *lines_of[command]]


EXPECTED = {
    "prepare": {"folder", "documents", "vocabulary", "train", "valid", "report"},
    "tokenizer": {"tokens", "ids", "decoded", "roles"},
    "demo": {"folder", "steps", "hidden_words", "report"},
    "recipes": {"name", "objective", "family", "parameters", "tokens", "settings"},
    "show": {"title", "examples"},
    "plan": {"parameters", "memory", "disk", "problems"},
    "pretrain": {"folder", "steps", "valid_loss", "baseline", "report", "stopped"},
    "compare": {"runs", "notes", "report", "files"},
    "tasks": {"name", "kind", "metrics", "files", "example"},
    "finetune": {"task", "folder", "metrics", "score", "baseline", "report"},
    "predict": {"id", "label", "probabilities"},
    "evaluate": {"task", "metrics"},
    "fill": {"text", "filled", "blanks"},
    "generate": {"prompt", "text", "whole", "finish"},
    "chat": {"answer", "finish", "messages"},
    "embed": {"text", "vector"},
    "import": {"folder", "family", "parameters"},
    "export": {"folder", "architecture", "difference"},
    "quantize": {"folder", "bits", "before", "after", "error", "gate"},
    "serve": {"url", "models", "limits", "key_needed"},
    "bench": {"shapes"},
    "doctor": {"environment", "measured", "warnings"},
    "help": {"help"},
    "completion": {"shell", "script"},
}
"""Some keys of the JSON of each command."""
ROWS = ("predict", "fill", "chat", "embed")
"""Commands that print a line for each row."""
SILENT = ("prepare", "demo", "pretrain", "compare", "finetune", "export", "import", "quantize", "serve")
"""Commands whose result is files: with --quiet they print nothing."""


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seconds of measuring, no new process, a demo of two steps, and a server that ends when it is ready."""
    from blankfill.cli import bench
    from blankfill.serving import run

    announce = run.announce

    def announce_and_end(*given: Any) -> None:
        announce(*given)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run, "announce", announce_and_end)

    measured = {"device": "cpu", "fp32": 1e9, "bf16": 1e9, "memory_bytes_per_s": 1e9, "disk_free": 1e12}
    monkeypatch.setattr(doctor, "measure", lambda out: measured)
    monkeypatch.setattr(bench, "alone", bench.timed)
    small = {**SMALL, "train.steps": 2}
    monkeypatch.setattr(demo, "load_recipe", lambda name: blankfill.load_recipe(name, small))


def printed(capsys: pytest.CaptureFixture[str], argv: list[str]) -> Printed:
    capsys.readouterr()
    try:
        code = main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_every_command_has_a_line_and_keys() -> None:
    assert set(EXPECTED) == set(COMMANDS)


def test_every_command_prints_json_alone(
    place: Path, tmp_path: Path, light: None, capsys: pytest.CaptureFixture[str]
) -> None:
    order = [*(name for name in COMMANDS if name != "import"), "import"]  # reads what export wrote
    for command in order:
        code, out, err = printed(capsys, [*line_of(command, place, tmp_path), "--json"])
        assert code == 0, (command, err)
        values = [json.loads(line) for line in out.splitlines()]
        assert len(values) == (2 if command in ROWS else 1), command
        for value in values:
            assert set(value) >= EXPECTED[command], command
    assert (tmp_path / "new run" / "report.html").is_file()


def test_quiet_commands_print_their_output_alone(
    place: Path, tmp_path: Path, light: None, capsys: pytest.CaptureFixture[str]
) -> None:
    order = [*(name for name in COMMANDS if name != "import"), "import"]
    for command in order:
        code, out, err = printed(capsys, ["--quiet", *line_of(command, place, tmp_path)])
        assert (code, err) == (0, ""), command
        assert (out == "") == (command in SILENT), command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_an_object_and_a_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, [command, "--jsno", "--json", "-q"])
    assert code == 2 and "did you mean --json?" in err
    failure = json.loads(out)
    assert failure["exit_code"] == 2 and failure["error"] == "\n".join(failure["problems"])
    assert "there is no option --jsno; did you mean --json?" in failure["problems"]
    assert all(f"blankfill: {problem}" in err.splitlines() for problem in failure["problems"])


def test_a_plan_that_does_not_fit_is_one_document(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blankfill.planning.fit_check.fit_problems", lambda *given, **more: ["it does not fit"])
    argv = ["plan", str(place / "run" / "corpus"), "--no-measure", "--json", *TINY]
    code, out, err = printed(capsys, argv)
    assert code == 2 and json.loads(out)["problems"] == ["it does not fit"] and "blankfill: it does not fit" in err


def test_rows_before_a_mistake_are_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fill", "--model", str(place / "run"), "a [MASK]", "no blank", "--json"]
    code, out, _ = printed(capsys, argv)
    first, last = map(json.loads, out.splitlines())
    assert code == 2 and first["text"] == "a [MASK]" and "no blank" in last["error"]


def test_what_follows_two_dashes_is_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, ["tokenizer", "show", "--tokenizer", str(place / "run"), "--json", "--", "--json"])
    assert code == 0 and json.loads(out)["characters"] == len("--json")


def test_an_error_of_the_program_is_an_object_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(out: Path) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "examine", fails)
    with pytest.raises(RuntimeError):
        main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "error": "RuntimeError: no such thing", "problems": ["RuntimeError: no such thing"], "exit_code": 1
    }  # fmt: skip


def test_the_end_of_a_run_names_its_page(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, folder in (("pretrain", "new run"), ("finetune", "tuned")):
        code, out, _ = printed(capsys, line_of(command, place, tmp_path))
        assert code == 0 and f"the report, for a browser: {tmp_path / folder / 'report.html'}" in out
    assert "blankfill fill --model '" in printed(capsys, line_of("pretrain", place, tmp_path / "b c"))[1]


def test_a_fill_is_quoted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = printed(capsys, ["fill", "--model", str(place / "run"), "a [MASK]", "--top", "3"])
    rows = [line.split()[1] for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 3 and all(row.startswith("«") for row in rows)


@pytest.mark.parametrize("command", ["fill", "generate", "embed", "predict", "evaluate", "bench", "finetune"])
def test_the_device_is_chosen(command: str) -> None:
    from blankfill.cli.arguments import arguments_of
    from blankfill.system.schema import fields_of

    (device,) = [field for field in fields_of(arguments_of(command)) if field.name == "device"]
    assert device.default == "auto"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch


def drawn(monkeypatch: pytest.MonkeyPatch, terminal: bool, **values: str) -> str:
    """What a table writes, and a progress bar."""
    stream: io.StringIO = Terminal() if terminal else io.StringIO()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    console.table("Title", [("a", 1)], ("name", "count"))
    with console.progress("work", 2) as bar:
        bar.advance(2)
    return stream.getvalue()


def test_styles_follow_the_terminal(variables: pytest.MonkeyPatch) -> None:
    assert "\x1b[1m" in drawn(variables, True, TERM="xterm")
    assert "\x1b" not in drawn(variables, False, TERM="xterm")


def test_no_color_keeps_all_styles_away(variables: pytest.MonkeyPatch) -> None:
    text = drawn(variables, True, TERM="xterm", NO_COLOR="1", FORCE_COLOR="1")
    assert "Title" in text and "\x1b[1m" not in text and "\x1b[3" not in text


def test_a_dumb_terminal_gets_plain_lines(variables: pytest.MonkeyPatch) -> None:
    text = drawn(variables, True, TERM="dumb")
    assert "\x1b" not in text and "\r" not in text and "work: 2 of 2 (100%)" in text


def test_force_color_styles_a_pipe_without_cutting_it(variables: pytest.MonkeyPatch) -> None:
    assert "\x1b[1mTitle\x1b[0m\n" in drawn(variables, False, FORCE_COLOR="1")
    assert console.plain_table("", [("x",)], ("name",), bold=True) == "\n\x1b[1m  name\x1b[0m\n  x"


def test_json_has_nothing_but_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    value = {"a": "猫", "b": float("nan"), "c": (1, Path("x")), "d": np.float32(0.5), 3: {"e": np.arange(2)}}
    console.show_json(value)
    stream.seek(0)
    assert stream.read() == '{"a": "\\u732b", "b": null, "c": [1, "x"], "d": 0.5, "3": {"e": [0, 1]}}\n'


def test_a_command_to_copy_is_quoted_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert console.quoted(Path("my run/it's")) == "'my run/it'\"'\"'s'"
    assert console.quoted("fill", "a b") == "fill 'a b'"
    monkeypatch.setattr(console.os, "name", "nt")
    assert console.quoted("C:\\my runs\\a") == '"C:\\my runs\\a"'
