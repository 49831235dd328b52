"""The `blankfill` command: finds the file of a subcommand, runs it, and turns a user's mistake into one sentence.

Each command is one file beside this one with `main(argv) -> int`. Only the one asked for is imported, so that `--help`
answers at once.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "prepare": "text of any shape → token files and a tokenizer",
    "tokenizer": "look at what a tokenizer makes of a text",
    "show": "one training example, as text and as a picture",
    "plan": "what a run would take: parameters, memory, disk, hours",
    "pretrain": "train a model on text, from nothing or from a checkpoint",
    "finetune": "train a model on a task with labelled data",
    "predict": "answer a task for new rows or a test set with a fine-tuned model",
    "evaluate": "measure a pretrained model, or score predictions that lie in a file",
    "fill": "fill the blanks of a sentence",
    "generate": "continue a text",
    "embed": "texts → vectors, to compare and search them",
    "import": "a transformers folder or a GLM checkpoint → a model to use and to train on",
    "export": "a model → a folder that transformers opens",
    "bench": "how fast this machine trains",
    "doctor": "what this machine offers, and what stands in its way",
}


def usage() -> str:
    """The text of `blankfill --help`."""
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
            "blankfill COMMAND --help tells the options of a command; --debug shows tracebacks; --version the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 well, 2 a mistake of the user's, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        from blankfill._version import __version__

        print(f"blankfill {__version__}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(args[0], COMMANDS, 1)
        hint = f"did you mean `blankfill {close[0]}`?" if close else "`blankfill --help` lists them"
        print(f"blankfill: there is no command {args[0]}; {hint}", file=sys.stderr)
        return 2
    from blankfill.errors import ConfigError, UserError

    try:
        module = args[0] + "_" * keyword.iskeyword(args[0])
        run = importlib.import_module(f"blankfill.cli.{module}").main
        code: int = run(args[1:])
        return code
    except UserError as error:
        if debug:
            raise
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        for problem in problems:
            print(f"blankfill: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("blankfill: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
