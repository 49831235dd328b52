"""`blankfill finetune`: a pretrained model and labelled data in, a model that answers a task out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from blankfill.cli.arguments import parsed
from blankfill.errors import UserError
from blankfill.system.bounds import Bound, at_least
from blankfill.tasks.options import FinetuneOptions

GOES_WITH_RESUME = "--resume"
MACHINE = {"--threads": "threads", "--device": "device", "--micro-batch": "micro_batch"}
"""Options that fit a run to the machine, and may be given anew with --resume."""


@dataclass(frozen=True)
class FinetuneArguments(FinetuneOptions):
    """Train a model on a task: blankfill finetune --task sst2 --data GLUE --from MODEL --out RUN

    Reads the task's own files, scores the model on its dev set while it learns, and keeps the best.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"num_seeds": at_least(1, 100_000)}

    task: str = ""
    """What to learn, such as cola, sst2, mrpc, stsb, mnli, rte; a wrong name lists them all."""
    data: Path | None = None
    """The task's folder, or that of its benchmark."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """The pretrained model: a run, an imported model, or a transformers folder."""
    out: Path | None = None
    """The folder to write to."""
    resume: Path | None = None
    """Go on with this run, with its own data and options; --threads, --device and --micro-batch may be given anew."""
    text_column: tuple[str, ...] = ()
    """Own tables: the column of the text, or of two texts (question and context, context and choices); found by the
    usual names otherwise."""
    label_column: tuple[str, ...] = ()
    """Own tables: the column of the label, score, tags, answer or right choice; several for multilabel."""
    id_column: str | None = None
    """Own tables: the column of the ids; rows are numbered otherwise."""
    grid: tuple[str, ...] = ()
    """Try every combination, such as --grid lr=5e-5,3e-5 batch_size=16,32; a run for each below --out."""
    num_seeds: int = 1
    """Runs of each setting, with seeds that count on from --seed; means and deviations are told."""

    def options(self) -> FinetuneOptions:
        """The options of the training itself."""
        return FinetuneOptions(**{field.name: getattr(self, field.name) for field in fields(FinetuneOptions)})


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    given = parsed(FinetuneArguments, argv, "finetune")
    names = {arg: arg.split("=")[0].replace("_", "-") for arg in argv if arg.startswith("--")}
    more = [arg for arg, name in names.items() if name != GOES_WITH_RESUME and name not in MACHINE]
    if given.resume is not None and more:
        raise UserError(
            f"--resume keeps the options of {given.resume}; leave out {', '.join(more)} (options of the "
            "machine may change: --threads, --device, --micro-batch)"
        )
    if given.resume is None and (missing := [name for name, value in _needed(given).items() if not value]):
        raise UserError(f"give {', '.join(missing)}: blankfill finetune --task sst2 --data GLUE --from MODEL --out RUN")

    from blankfill.finetuning.config import FinetuneConfig, read_config
    from blankfill.finetuning.grid import combinations, run_grid
    from blankfill.finetuning.pet import run_pet
    from blankfill.finetuning.run import finetune
    from blankfill.system.console import show
    from blankfill.tasks.datasets.tabular import Columns
    from blankfill.tasks.run_files import RESULTS

    changes = None
    if given.resume is not None:
        out, config = given.resume, read_config(given.resume)
        changes = {MACHINE[name]: getattr(given, MACHINE[name]) for name in names.values() if name in MACHINE}
    else:
        assert given.data is not None and given.start is not None and given.out is not None
        columns = Columns(given.text_column, given.label_column, given.id_column)
        out, config = given.out, FinetuneConfig(given.task, given.data, given.start, given.options(), columns)
        if given.method == "cloze" and given.pattern == "all":
            if given.grid or given.num_seeds != 1:
                raise UserError("--pattern all is a run for each pattern; leave out --grid and --num-seeds, or it")
            for line in run_pet(config, out):
                show(line)
            show(f"the scores are in {out / RESULTS}")
            return 0
        settings = combinations(given.options(), given.grid, given.num_seeds)
        if len(settings) > 1:
            for line in run_grid(config, settings, out):
                show(line)
            show(f"the scores are in {out / RESULTS}")
            return 0
    result = finetune(config, out, given.resume is not None, changes)
    told = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    show(f"{config.task}: {told} on the dev set at step {result.best_step:,} of {result.total:,}")
    show(f"without reading the texts: {result.baseline:.4f}; {result.items_per_second:.1f} items a second")
    show(f"the scores {'' if result.complete else 'so far '}are in {out / RESULTS}")
    return result.stopped.exit_code if result.stopped else 0


def _needed(given: FinetuneArguments) -> dict[str, object]:
    return {"--task": given.task, "--data": given.data, "--from": given.start, "--out": given.out}
