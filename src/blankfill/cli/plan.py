"""`blankfill plan`: print what a run takes before it starts; the figures are those of `pretraining.plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blankfill.cli.recipe_arguments import RunArguments, parse
from blankfill.cli.result import Result

if TYPE_CHECKING:
    from blankfill.pretraining.plan import Plan, PlannedTime

SECONDS = 20.0
"""Seconds for timed steps."""


@dataclass(frozen=True, kw_only=True)
class PlanArguments(RunArguments):
    """Estimate parameters, memory, disk space, tokens and hours of a run before it starts.

    Takes the arguments of `blankfill pretrain`. Given a folder made by `blankfill prepare`, the command reads rows of
    that text; otherwise it generates rows. If the run does not fit, the command lists changes that would make it fit
    and ends with exit code 2.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Run": "recipe out teacher seed threads",
        "Time": "measure",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill plan corpus --recipe bert-base",
        "blankfill plan --recipe glm-large --train.micro-batch 4 --no-measure --json",
    )

    measure: bool = True
    """Time some training steps, for about 20 seconds, to estimate the hours; off: no estimate of the hours."""


def main(argv: Sequence[str]) -> Result:
    """Run the command; the result fails with what keeps the run from fitting. Raises UserError."""
    args, recipe = parse(PlanArguments, "plan", argv)

    from blankfill.pretraining.plan import plan

    result = plan(recipe, args.paths, args.out, args.teacher, SECONDS if args.measure else 0.0)
    return Result(
        values=result.values(),
        show=lambda: show_plan(result),
        is_output=True,
        exit_code=2 if result.problems else 0,
        problems=result.problems,
    )


def show_plan(plan: Plan) -> None:
    """Print the plan as tables."""
    from blankfill.system.console import amount, show, table

    show(f"Plan of {plan.recipe} on {plan.device}, computing in {plan.compute_type}")
    show(f"  text: {plan.text}")
    table("Parameters", [(name.replace("_", " "), f"{count:,}") for name, count in plan.parameters.items()])
    rows = [
        (f"{phase.rows:,}", f"{phase.shape.columns:,}", f"{phase.shape.tokens:.1f}", f"{phase.shape.targets:.1f}",
         phase.shape.mask, f"{phase.micro_batch:,}") for phase in plan.phases
    ]  # fmt: skip
    table("Rows", rows, ("rows in the run", "columns", "tokens", "targets", "mask", "rows per micro-batch"))
    memory, disk, work = plan.memory, plan.disk, plan.work
    sizes = [
        *([("teacher", memory.teacher)] if memory.teacher else []),
        ("weights", memory.weights), ("gradients", memory.gradients), ("optimizer", memory.optimizer),
        ("activations", memory.activations), ("loss (gradients computed early)", memory.loss),
        ("temporary tensors", memory.working), ("batches", memory.batches), ("copy to save", memory.saving),
        ("peak", memory.peak), ("free here", plan.available.memory),
    ]  # fmt: skip
    table(
        f"Memory in training, {memory.micro_batch:,} rows per micro-batch",
        [(name, amount(size, "B")) for name, size in sizes],
    )
    count = round(disk.checkpoints / disk.checkpoint)
    table("Disk", [
        ("one checkpoint", amount(disk.checkpoint, "B")),
        ("peak", f"{amount(disk.checkpoints, 'B')} ({count}: kept, best and being written)"),
        ("token files", amount(disk.token_files, "B")),
        ("free here", amount(plan.available.disk, "B")),
    ])  # fmt: skip
    about = "" if work.epochs_exact else "very roughly "
    table("Run", [
        ("steps", f"{work.steps:,}"),
        ("tokens per step", f"{work.tokens_per_step:,.0f}"),
        ("tokens in total", f"{work.tokens:,.0f}"),
        *([("epochs", f"{about}{work.epochs:,.3g}")] if work.epochs is not None else []),
        ("FLOPs per step", f"{work.flops_per_step:.3g}"),
        ("FLOPs in total", f"{work.flops:.3g}"),
    ])  # fmt: skip
    if plan.time is not None:
        show_time(plan.time)
    for note in plan.notes:
        show(f"Note: {note}")


def show_time(time: PlannedTime) -> None:
    """Print how long the run takes, and the steps that were timed."""
    from blankfill.system.console import show, table

    share = time.flops_per_second / time.matmul_rate
    table("Time on this machine", [
        ("per step", spoken(time.step)),
        ("tokens per second", f"{time.tokens_per_second:,.0f}"),
        ("training", spoken(time.training)),
        ("validation", spoken(time.validation)),
        ("in total", spoken(time.training + time.validation)),
        ("FLOP/s", f"{time.flops_per_second:.3g}, {share:.0%} of the rate of matrix products alone"),
    ])  # fmt: skip
    trials = [trial for timing in time.timings for trial in timing.trials]
    for trial in trials:
        size = f"{trial.layers} of {time.layers} layers, rows per micro-batch {trial.rows}, steps {trial.steps}"
        show(f"  timed: {size}: {spoken(trial.seconds)} each")
    if len(trials) > len(time.timings):
        show("  times of the whole model with all rows are computed from these")


def spoken(seconds: float) -> str:
    """Return a time in the unit that fits."""
    for unit, size, limit in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("hours", 3600.0, 259200.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 800 else f"{days / 365.25:,.1f} years"
