"""`blankfill pretrain`: text in, a trained model out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from blankfill.errors import UserError

if TYPE_CHECKING:
    from blankfill.pretraining.warm_start import InitFrom

From = Annotated[Path | None, tyro.conf.arg(name="from")]
OnNan = Literal["stop", "skip", "rollback"]
LONGEST = 36_500 * 86_400.0
"""Seconds of the longest time that a run may be given: a hundred years."""
GOES_WITH_RESUME = ("--resume", "--stop-after", "--on-nan", "--teacher", "--verify", "--no-verify")
MACHINE = {
    "--threads": "threads", "--train.threads": "threads", "--train.device": "device", "--train.workers": "workers",
    "--train.micro-batch": "micro_batch",
}  # fmt: skip
"""Options that fit a run to the machine, and may be given anew with --resume."""

DESCRIBED = """Train a model on text.

Every option of the recipe can be changed by its dotted name, e.g. --train.lr 3e-4 --objective.length 256.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    from blankfill.cli.recipes import OUT, THREADS, parse, with_threads

    extra = [
        OUT,
        ("resume", Path | None, None, "Go on with this run folder from its newest checkpoint, with its own recipe; "
         "--threads, --train.device, --train.workers and --train.micro-batch may be given anew."),
        ("stop_after", str, "", "Save and end after this time, e.g. 8h, 45m or 1h30m; go on later with --resume."),
        ("on_nan", OnNan, "stop", "When a loss or gradient is not finite: stop, skip the step, or go back to the last "
         "checkpoint and go on with other rows."),
        ("from_", From, None, "Begin from this model: a run, a checkpoint, an imported model, a transformers folder."),
        ("add_tokens", str, "", "New words for its vocabulary: a file with one on each line, or a list with commas."),
        ("replay", Path | None, None, "Old text: a file, or a folder. Its loss is told before and after."),
        ("replay_ratio", float, 0.0, "The share of rows that come from the old text, against forgetting."),
        ("teacher", Path | None, None, "Learn from this model too, as --distil.* says; given like --from."),
        THREADS,
        ("verify", bool, False, "Compare all bytes of the corpus with its checksums before anything is trained."),
    ]  # fmt: skip
    args, recipe = parse("pretrain", DESCRIBED, argv, extra)
    recipe = with_threads(recipe, args.threads)
    stop_after = seconds(args.stop_after) if args.stop_after else None
    if args.resume and (changed := overridden(argv)):
        raise UserError(
            f"--resume keeps the recipe of {args.resume}; leave out {', '.join(changed)} (options of the "
            "machine may change: --threads, --train.device, --train.workers, --train.micro-batch)"
        )

    from blankfill.pretraining import run
    from blankfill.pretraining.outcome import forgetting
    from blankfill.system.console import show

    if args.resume:
        changes = {MACHINE[name]: getattr(recipe.train, MACHINE[name]) for name in named(argv) if name in MACHINE}
        result = run.resume(args.resume, stop_after, args.on_nan, args.teacher, changes, args.verify, args.paths)
    else:
        start = beginning(args, argv)
        asked = [arg for arg in argv if arg.startswith("--distil.")]
        if asked and args.teacher is None:
            raise UserError(f"{asked[0].split('=')[0]} goes with a model to learn from; name it with --teacher")
        result = run.pretrain(
            args.paths, recipe, args.out, False, stop_after, args.on_nan, start, args.teacher, verify=args.verify
        )  # fmt: skip
    if not math.isnan(result.valid_loss):
        below = result.baseline - result.valid_loss
        side = "below" if below >= 0 else "ABOVE"
        when = "the last validation loss was" if result.stopped else "validation loss"
        show(
            f"{when} {result.valid_loss:.3f} nats, {abs(below):.3f} {side} the unigram baseline ({result.baseline:.3f})"
        )
    if result.old_loss is not None:
        show(forgetting(result.old_loss))
    show(f"{result.steps:,} steps, {result.tokens:,} tokens in {result.seconds:.0f} s; the run is in {result.folder}")
    if result.stopped:
        return result.stopped.exit_code
    show(f'try: blankfill fill --model {result.folder} "… [MASK] …"')
    return 0


def beginning(args: Any, argv: Sequence[str]) -> InitFrom | None:
    """The model to begin from, as the command line asks; UserError for options that need one and have none."""
    from blankfill.pretraining.warm_start import GIVEN, InitFrom, new_tokens_from

    if args.from_ is None:
        for name, given in (("--add-tokens", args.add_tokens), ("--replay", args.replay),
                            ("--replay-ratio", args.replay_ratio)):  # fmt: skip
            if given:
                raise UserError(f"{name} goes with a model to begin from; name it with --from")
        return None
    options = [arg.removeprefix("--").split("=")[0].replace("-", "_") for arg in argv if arg.startswith("--")]
    insisted = [name.replace(".no_", ".") for name in options if name.partition(".")[0] in GIVEN]
    words = new_tokens_from(args.add_tokens) if args.add_tokens else []
    replay = None if args.replay is None else str(args.replay)
    return InitFrom(args.from_, words, replay, args.replay_ratio, insisted)


def seconds(text: str) -> float:
    """A time such as 8h, 45m, 90s or 1h30m in seconds; a bare number counts seconds."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text):
        raise UserError(f"--stop-after {text}: not a time; write for example 8h, 45m or 1h30m")
    found = sum(float(number) * units[unit] for number, unit in parts)
    if found > LONGEST:
        raise UserError(f"--stop-after {text[:40]}: longer than any run; give at most {LONGEST / units['d']:,.0f}d")
    return found


def overridden(argv: Sequence[str]) -> list[str]:
    """The options of a command line that a resumed run cannot take."""
    return [name for name in named(argv) if name not in GOES_WITH_RESUME and name not in MACHINE]


def named(argv: Sequence[str]) -> list[str]:
    """The names of the options of a command line."""
    return [arg.split("=")[0].replace("_", "-") for arg in argv if arg.startswith("--")]
