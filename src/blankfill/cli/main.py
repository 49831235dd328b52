"""The `blankfill` command: it imports the module of a subcommand, runs it, prints its result, and user errors as
sentences.

Each command is one file beside this one with `main(argv) -> Result` (`cli.result`). Only the file of the given command
is imported, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blankfill.cli.result import Result, Rows

GROUPS: dict[str, dict[str, str]] = {
    "Text": {
        "prepare": "text of any shape → token files and a tokenizer",
        "tokenizer": "show the tokens of a text",
    },
    "Pretraining": {
        "demo": "a model in minutes, and how many hidden words it names",
        "recipes": "list the recipes, or show the settings of one",
        "show": "one training example, as text and as a picture",
        "plan": "estimate parameters, memory, disk and hours of a run",
        "pretrain": "train a model on text, from scratch or from a checkpoint",
        "compare": "several runs on one page: curves, results, settings",
    },
    "Tasks": {
        "tasks": "list the tasks, or show the files and rows of one",
        "finetune": "train a model on a task with labelled data",
        "predict": "predict new rows or a test set with a fine-tuned model",
        "evaluate": "measure a pretrained model, or score a file of predictions",
    },
    "Using a model": {
        "fill": "fill the blanks of a sentence",
        "generate": "continue a text",
        "chat": "talk to a model, round by round",
        "embed": "texts → vectors, to compare and search them",
        "import": "a transformers folder or a GLM checkpoint → a model to use and to train on",
        "export": "a model → a folder that transformers opens",
        "quantize": "a model → the same with weights of 8 or 4 bits",
        "serve": "models over HTTP, with a page in the browser",
    },
    "This machine": {
        "bench": "measure the training speed of this machine",
        "doctor": "show properties of this machine, and obstacles to a run",
    },
    "Help": {
        "help": "show the help of a command",
        "completion": "print a script that completes commands in bash, zsh or fish",
    },
}
"""The commands under their headings, each with its purpose."""

COMMANDS: dict[str, str] = {name: purpose for commands in GROUPS.values() for name, purpose in commands.items()}

MOST_SENTENCES = 20
"""Largest number of mistakes in one command line that are reported at once."""
EXIT_CODES: dict[int, str] = {
    0: "done",
    2: "bad input: a message names the problem and the remedy",
    75: "the time of --stop-after is over; the run is saved; resume it with --resume",
    130: "interrupted (Ctrl-C); a run is saved and can be resumed",
    143: "terminated (SIGTERM, as from schedulers); likewise",
    1: "an error of the program itself, with a traceback; please report it",
}


def usage(width: int = 0) -> str:
    """Return the text of `blankfill --help`. width: of the terminal; 0: detected."""
    from blankfill.cli.common import COMMON
    from blankfill.cli.layout import columns, group, wrapped

    width = columns(width)
    beside = max(map(len, COMMANDS)) + 4
    blocks = ["\n".join(wrapped(text, width)) for text in (
        "usage: blankfill COMMAND [OPTIONS]",
        "Pretrain language models on your own text, and fill blanks with them.",
    )]  # fmt: skip
    for title, commands in GROUPS.items():
        blocks.append(group(title, [((name,), purpose) for name, purpose in commands.items()], width, beside))
    general = {**COMMON, ("-V", "--version"): "Print the version."}
    blocks.append(group("Options of every command", list(general.items()), width, 18))
    codes = [((f"{code:>3}",), meaning) for code, meaning in EXIT_CODES.items()]
    blocks.append(group("Exit codes", codes, width, 8))
    blocks.append("\n".join(wrapped("`blankfill COMMAND --help` lists the options of a command.", width)))
    return "\n\n".join(blocks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: see `EXIT_CODES`."""
    if argv is None:
        if "_ARGCOMPLETE" in os.environ:
            from blankfill.cli.completion import complete

            complete()
        from blankfill.cli.process import settle

        settle()
    from blankfill.cli.common import split
    from blankfill.system.console import output_mode, settings_as_flags

    common, args = split(sys.argv[1:] if argv is None else argv)
    with settings_as_flags(), output_mode(common.json, common.quiet):
        return _guarded(args, common.debug)


def _guarded(args: Sequence[str], debug: bool) -> int:
    """Run a command line and print its result; a user's mistake becomes one sentence."""
    from blankfill.cli.process import finished, sentence, threads_in_sentences
    from blankfill.cli.result import Result, render
    from blankfill.errors import ConfigError, NoArgumentsError, UserError
    from blankfill.system.console import OutputError
    from blankfill.system.stopping import Stop, StoppedError, Terminated, termination_raises

    try:
        with termination_raises(), nullcontext() if debug else threads_in_sentences(), finished():
            result = run(args)
            code = render(result)
            if isinstance(result, Result) and result.problems:
                _refused(result.problems, code, as_json=False)
            return code
    except NoArgumentsError as error:
        return _refused([error.sentence], usage=error.usage)
    except UserError as error:
        if debug and not isinstance(error, OutputError):
            raise
        return _refused(error.problems if isinstance(error, ConfigError) else [error.sentence])
    except StoppedError as stopped:
        return _refused([str(stopped)], stopped.why.exit_code)
    except KeyboardInterrupt as stop:
        why = Stop.TERMINATED if isinstance(stop, Terminated) else Stop.INTERRUPTED
        return _refused([why.value], why.exit_code)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug or (message := sentence(error)) is None:
            _as_json([f"{type(error).__name__}: {error}"], 1)
            raise
        return _refused([message])


def run(args: Sequence[str]) -> Result | Rows[Any]:
    """Run a command and return its result. Raises UserError."""
    from blankfill.cli.common import module_of
    from blankfill.errors import UserError

    if not args or args[0] in ("-h", "--help"):
        return overview()
    if args[0] in ("-V", "--version"):
        return version()
    for number, arg in enumerate(args, 1):
        try:
            arg.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"argument {number} ({_bytes_shown(arg)}) is not UTF-8; give text as UTF-8, and rename files whose "
                "names are not"
            ) from None
    name = command_named(args[0])
    try:
        Path.cwd()
    except FileNotFoundError:  # libraries end the process over it
        raise UserError("the folder that this command is run in was removed; change to another one") from None
    result: Result | Rows[Any] = importlib.import_module(module_of(name)).main(args[1:])
    return result


def command_named(name: str) -> str:
    """Return the name of a command itself; UserError with the nearest one when there is no such command."""
    if name in COMMANDS:
        return name
    import difflib

    from blankfill.errors import UserError

    if name.startswith("-"):
        raise UserError(
            f"there is no option {name[:40]} before a command; `blankfill --help` lists the commands and the options"
        )
    close = difflib.get_close_matches(name[:100].lower(), COMMANDS, 1)
    hint = f"did you mean `blankfill {close[0]}`?" if close else "`blankfill --help` lists them"
    raise UserError(f"there is no command {name}; {hint}")


def overview() -> Result:
    """Return the list of the commands."""
    from blankfill.cli.result import Result
    from blankfill.system.console import show

    return Result(values={"commands": COMMANDS}, show=lambda: show(usage()), is_output=True)


def version() -> Result:
    """Return the version of the package."""
    from blankfill._version import __version__
    from blankfill.cli.result import Result
    from blankfill.system.console import show

    return Result(values={"version": __version__}, show=lambda: show(f"blankfill {__version__}"), is_output=True)


def _refused(sentences: Sequence[str], code: int = 2, usage: str = "", as_json: bool = True) -> int:
    """Print why a command ends, line by line, or how it is called; returns the exit code."""
    from blankfill.cli.arguments import shortened
    from blankfill.system.console import complain, worded

    different = list(dict.fromkeys(map(worded, sentences)))
    lines = [shortened(f"blankfill: {text}") for text in different[:MOST_SENTENCES]]
    if len(different) > MOST_SENTENCES:
        lines.append(f"blankfill: and {len(different) - MOST_SENTENCES:,} more")
    for line in [usage] if usage else lines:
        complain(line)
    if as_json:
        _as_json(different, code)
    return code


def _as_json(sentences: Sequence[str], code: int) -> None:
    """Print the JSON object of a failure where results are JSON; nothing where standard output cannot be written."""
    from blankfill.cli.result import failure
    from blankfill.system.console import OutputError, is_json, show_json

    if is_json():
        with suppress(OutputError, BrokenPipeError):
            show_json(failure(sentences, code))


def _bytes_shown(arg: str) -> str:
    """Return an argument with its odd bytes as escapes; lone surrogates too, which only Python's own callers can
    give."""
    try:
        data = arg.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = arg.encode("utf-8", "backslashreplace")
    shown = data.decode("utf-8", "backslashreplace")
    return shown if len(shown) < 100 else f"{shown[:100]}…"


if __name__ == "__main__":
    sys.exit(main())
