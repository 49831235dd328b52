"""`blankfill pretrain`: train a model on text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from blankfill.cli.arguments import given_names
from blankfill.cli.recipe_arguments import RunArguments, parse, value_of
from blankfill.cli.result import Result, page_of, show_page
from blankfill.errors import UserError, setting
from blankfill.system.console import as_json, quoted, say, show
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.config.recipe import Recipe
    from blankfill.pretraining.outcome import RunResult
    from blankfill.pretraining.warm_start import InitFrom

OnNan = Literal["stop", "skip", "rollback"]
LONGEST = 36_500 * 86_400.0
"""Longest time of a run in seconds: a hundred years."""
GOES_WITH_RESUME = ("--resume", "--stop-after", "--on-nan", "--teacher", "--verify", "--no-verify")
MACHINE = {
    "--threads": "threads", "--train.threads": "threads", "--train.device": "device", "--train.workers": "workers",
    "--train.micro-batch": "micro_batch",
}  # fmt: skip
"""Options that adapt a run to the machine, and may change with --resume."""


@dataclass(frozen=True, kw_only=True)
class PretrainArguments(RunArguments):
    """Train a model on text.

    Every option of the recipe can be changed by its dotted name, such as --train.lr 3e-4 or --objective.length 256.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Run": "recipe out resume stop_after on_nan seed threads verify",
        "Continued pretraining": "from_ add_tokens replay replay_ratio",
        "Teacher": "teacher",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill pretrain texts/ --recipe bert-nano --out runs/bert",
        "blankfill pretrain corpus --recipe glm-base --train.batch-size 64 --train.micro-batch 8 --out runs/glm",
        "blankfill pretrain new.txt --from runs/gpt --replay texts/ --replay-ratio 0.2 --out runs/b",
    )

    NEEDS_ARGUMENTS: ClassVar[bool] = True

    resume: Path | None = None
    """Run folder to resume from its last checkpoint, with its own recipe; --threads, --train.device, --train.workers
    and --train.micro-batch may change."""
    stop_after: str = ""
    """Save and stop after this time, such as 8h, 45m or 1h30m; --resume continues the run."""
    on_nan: OnNan = "stop"
    """What to do when a loss or gradient is not finite: stop, skip the step, or roll back to the last checkpoint and
    use other rows."""
    from_: Annotated[Path | None, Option(name="from")] = None
    """Model to start from: a run, a checkpoint, an imported model or a transformers folder. Without --recipe, the
    recipe that continues it is chosen."""
    add_tokens: str = ""
    """New tokens of its vocabulary: a file with one on each line, or a list with commas."""
    replay: Path | None = None
    """Old text, a file or folder, of which rows are mixed in to reduce forgetting; its loss is reported before and
    after."""
    replay_ratio: float = 0.0
    """Fraction of rows that come from the old text; usually 0.05 to 0.5."""
    verify: bool = False
    """Compare all bytes of the corpus with its checksums before training."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    chosen = chosen_for(argv)
    args, recipe = parse(PretrainArguments, "pretrain", argv, None if chosen is None else chosen[0])
    stop_after = seconds(args.stop_after) if args.stop_after else None
    if args.resume and (changed := overridden(argv)):
        raise UserError(
            f"{setting('resume')} keeps the recipe of {args.resume}; leave out {', '.join(changed)} (options of the "
            f"machine may change: {setting('threads')}, {setting('train.device')}, {setting('train.workers')}, "
            f"{setting('train.micro_batch')})"
        )

    from blankfill.pretraining import run
    from blankfill.pretraining.continued import announcement

    if args.resume:
        changes = {MACHINE[name]: getattr(recipe.train, MACHINE[name]) for name in given_names(argv) if name in MACHINE}
        result = run.resume(args.resume, stop_after, args.on_nan, args.teacher, changes, args.verify, args.paths)
    else:
        if chosen is not None and args.from_ is not None:
            say(announcement(args.from_, chosen[1], recipe))
        start = beginning(args, argv)
        distil = [arg for arg in argv if arg.startswith("--distil.")]
        if distil and args.teacher is None:
            raise UserError(
                f"{setting(distil[0].split('=')[0].removeprefix('--'))} goes with a model to learn from; name it "
                f"with {setting('teacher')}"
            )
        result = run.pretrain(
            args.paths, recipe, args.out, False, stop_after, args.on_nan, start, args.teacher, verify=args.verify
        )  # fmt: skip
    values = {**as_json(result), "report": page_of(result.folder)}
    code = result.stopped.exit_code if result.stopped else 0
    return Result(values=values, show=lambda: show_result(result), exit_code=code)


def show_result(result: RunResult) -> None:
    """Print the losses of a run, where it is, and how its model is tried."""
    from blankfill.pretraining.outcome import forgetting

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
    show_page(result.folder)
    if not result.stopped:
        show(f'try: blankfill fill --model {quoted(result.folder)} "… [MASK] …"')


def chosen_for(argv: Sequence[str]) -> tuple[Recipe, str] | None:
    """Return the recipe that continues the model of --from, and what it is; None where the command line names a recipe
    or no model."""
    model = value_of(argv, "--from")
    if model is None or value_of(argv, "--recipe") is not None or {"--help", "-h", "--resume"} & set(argv):
        return None
    from blankfill.pretraining.continued import chosen_recipe

    return chosen_recipe(Path(model))


def beginning(args: Any, argv: Sequence[str]) -> InitFrom | None:
    """Return the model to start from; UserError for options that need such a model without one."""
    from blankfill.pretraining.warm_start import GIVEN, InitFrom, new_tokens_from

    if args.from_ is None:
        for name, given in (("add_tokens", args.add_tokens), ("replay", args.replay),
                            ("replay_ratio", args.replay_ratio)):  # fmt: skip
            if given:
                raise UserError(f"{setting(name)} goes with a model to begin from; name it with {setting('from')}")
        return None
    options = [arg.removeprefix("--").split("=")[0].replace("-", "_") for arg in argv if arg.startswith("--")]
    insisted = [name.replace(".no_", ".") for name in options if name.partition(".")[0] in GIVEN]
    words = new_tokens_from(args.add_tokens) if args.add_tokens else []
    replay = None if args.replay is None else str(args.replay)
    return InitFrom(args.from_, words, replay, args.replay_ratio, insisted)


def seconds(text: str) -> float:
    """Return a time such as 8h, 45m, 90s or 1h30m in seconds; a bare number counts seconds."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text):
        raise UserError(f"{setting('stop_after', text)}: not a time; write for example 8h, 45m or 1h30m")
    total = sum(float(number) * units[unit] for number, unit in parts)
    if total > LONGEST:
        raise UserError(
            f"{setting('stop_after', text[:40])}: longer than any run; give at most {LONGEST / units['d']:,.0f}d"
        )
    return total


def overridden(argv: Sequence[str]) -> list[str]:
    """Return the options of a command line that a resumed run cannot take."""
    return [name for name in given_names(argv) if name not in GOES_WITH_RESUME and name not in MACHINE]
