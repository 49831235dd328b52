"""The `blankfill` command: it imports the module of a subcommand, runs it, and prints user errors as sentences.

Each command is one file beside this one with `main(argv) -> int`. Only the file of the given command is imported, so
that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

COMMANDS: dict[str, str] = {
    "prepare": "text of any shape → token files and a tokenizer",
    "tokenizer": "show the tokens of a text",
    "show": "one training example, as text and as a picture",
    "plan": "estimate parameters, memory, disk and hours of a run",
    "pretrain": "train a model on text, from scratch or from a checkpoint",
    "finetune": "train a model on a task with labelled data",
    "predict": "predict new rows or a test set with a fine-tuned model",
    "evaluate": "measure a pretrained model, or score a file of predictions",
    "fill": "fill the blanks of a sentence",
    "generate": "continue a text",
    "embed": "texts → vectors, to compare and search them",
    "import": "a transformers folder or a GLM checkpoint → a model to use and to train on",
    "export": "a model → a folder that transformers opens",
    "bench": "measure the training speed of this machine",
    "doctor": "show properties of this machine, and obstacles to a run",
}

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


def usage() -> str:
    """Return the text of `blankfill --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: blankfill COMMAND [options]",
            "",
            "Pretrain language models on your own text, and fill blanks with them.",
            "",
            *lines,
            "",
            "blankfill COMMAND --help lists the options of a command; --debug shows tracebacks; --version the version.",
            "",
            "Exit codes:",
            *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: see `EXIT_CODES`."""
    if argv is None:
        from blankfill.cli.process import settle

        settle()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    from blankfill.system.console import settings_as_flags

    with settings_as_flags():
        return _guarded(args, debug)


def _guarded(args: Sequence[str], debug: bool) -> int:
    """Run a command line; a user's mistake becomes one sentence."""
    from blankfill.cli.process import finished, sentence, threads_in_sentences
    from blankfill.errors import ConfigError, UserError
    from blankfill.system.console import OutputError
    from blankfill.system.stopping import Stop, StoppedError, Terminated, termination_raises

    try:
        with termination_raises(), nullcontext() if debug else threads_in_sentences(), finished():
            return _run(args)
    except UserError as error:
        if debug and not isinstance(error, OutputError):
            raise
        return _refused(error.problems if isinstance(error, ConfigError) else [error.sentence])
    except StoppedError as stopped:
        _refused([str(stopped)])
        return stopped.why.exit_code
    except KeyboardInterrupt as stop:
        why = Stop.TERMINATED if isinstance(stop, Terminated) else Stop.INTERRUPTED
        _refused([why.value])
        return why.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug or (message := sentence(error)) is None:
            raise
        return _refused([message])


def _run(args: Sequence[str]) -> int:
    from blankfill.errors import UserError
    from blankfill.system.console import show

    if not args or args[0] in ("-h", "--help", "help"):
        show(usage())
        return 0
    if args[0] in ("-V", "--version"):
        from blankfill._version import __version__

        show(f"blankfill {__version__}")
        return 0
    for number, arg in enumerate(args, 1):
        try:
            arg.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"argument {number} ({_bytes_shown(arg)}) is not UTF-8; give text as UTF-8, and rename files whose "
                "names are not"
            ) from None
    if args[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(args[0][:100], COMMANDS, 1)
        hint = f"did you mean `blankfill {close[0]}`?" if close else "`blankfill --help` lists them"
        raise UserError(f"there is no command {args[0]}; {hint}")
    try:
        Path.cwd()
    except FileNotFoundError:  # libraries end the process over it
        raise UserError("the folder that this command is run in was removed; change to another one") from None
    module = args[0] + "_" * keyword.iskeyword(args[0])
    run = importlib.import_module(f"blankfill.cli.{module}").main
    code: int = run(args[1:])
    return code


def _refused(sentences: Sequence[str]) -> int:
    """Print why a command ends, line by line; returns the exit code of a user error."""
    from blankfill.cli.arguments import shortened
    from blankfill.system.console import say, worded

    different = list(dict.fromkeys(map(worded, sentences)))
    for text in different[:MOST_SENTENCES]:
        say(shortened(f"blankfill: {text}"))
    if len(different) > MOST_SENTENCES:
        say(f"blankfill: and {len(different) - MOST_SENTENCES:,} more")
    return 2


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
