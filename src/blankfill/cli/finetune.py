"""`blankfill finetune`: train a pretrained model on a task with labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

from blankfill.cli.arguments import given_names, parsed
from blankfill.errors import UserError, setting
from blankfill.system.bounds import Bound, at_least
from blankfill.system.schema import Option
from blankfill.tasks.options import FinetuneOptions

GOES_WITH_RESUME = "--resume"
MACHINE = {"--threads": "threads", "--device": "device", "--micro-batch": "micro_batch"}
"""Options that adapt a run to the machine, and may change with --resume."""


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments(FinetuneOptions):
    """Fine-tune a model on a task.

    Reads the task's own files, scores the model on its dev set during training, and retains the best checkpoint.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"num_seeds": at_least(1, 100_000)}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Data": (
            "task data text_column label_column id_column max_length document_context validation_split "
            "max_train_samples allow_unknown"
        ),
        "Model": "start method head head_on features lstm_size freeze lora_rank from_scratch",
        "Run": "out resume grid num_seeds seed",
        "Training": (
            "lr embedding_lr_multiplier layer_decay batch_size epochs warmup schedule weight_decay max_grad_norm "
            "label_smoothing class_weights eval_every patience"
        ),
        "Questions": "stride max_query_length max_answer_length",
        "Cloze": "pattern patterns multi_token mlm_weight unlabelled distil distil_epochs",
        "Generation": (
            "max_target_length blank beams length_penalty no_repeat_ngram max_eval_samples pseudo_noise target_noise"
        ),
        "Several tasks at once": "mixing_limit mixing_temperature",
        "Machine": "micro_batch precision device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill finetune --task sst2 --data glue --from runs/bert --out tuned/sst2",
        "blankfill finetune --task rte --data glue --from runs/glm --method cloze --out tuned/rte",
        "blankfill finetune --task mrpc --data glue --from runs/bert --grid lr=2e-5,5e-5 batch_size=16,32 "
        "--num-seeds 3 --out tuned/mrpc",
    )

    task: str = ""
    """Task, such as cola, sst2, mrpc, stsb, mnli or rte; an unknown name lists them all."""
    data: Path | None = None
    """Folder of the task, or of its benchmark."""
    start: Annotated[Path | None, Option(name="from")] = None
    """Pretrained model: a run, an imported model or a transformers folder."""
    out: Path | None = None
    """Folder to write."""
    resume: Path | None = None
    """Run to resume, with its own data and options; --threads, --device and --micro-batch may change."""
    text_column: tuple[str, ...] = ()
    """Own tables: column of the text, or of two texts (question and context, context and choices); without it, columns
    with the usual names."""
    label_column: tuple[str, ...] = ()
    """Own tables: column of the label, score, tags, answer or correct choice; several columns for multilabel tasks."""
    id_column: str | None = None
    """Own tables: column of the ids; without it, rows are numbered."""
    grid: Annotated[tuple[str, ...], Option(metavar="NAME=VALUE,VALUE")] = ()
    """Values of options of which every combination is trained, such as lr=5e-5,3e-5 batch_size=16,32; one run for each
    below --out."""
    num_seeds: int = 1
    """Runs per combination, with consecutive seeds from --seed; their mean and deviation are reported."""

    def options(self) -> FinetuneOptions:
        """Return the options of the training itself."""
        return FinetuneOptions(**{field.name: getattr(self, field.name) for field in fields(FinetuneOptions)})


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    given = parsed(FinetuneArguments, argv, "finetune")
    names = given_names(argv)
    more = [name for name in names if name != GOES_WITH_RESUME and name not in MACHINE]
    if given.resume is not None and more:
        raise UserError(
            f"{setting('resume')} keeps the options of {given.resume}; leave out {', '.join(more)} (options of the "
            f"machine may change: {setting('threads')}, {setting('device')}, {setting('micro_batch')})"
        )
    if given.resume is None and (missing := [setting(name) for name, value in _needed(given).items() if not value]):
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
        changes = {MACHINE[name]: getattr(given, MACHINE[name]) for name in names if name in MACHINE}
    else:
        assert given.data is not None and given.start is not None and given.out is not None
        columns = Columns(given.text_column, given.label_column, given.id_column)
        out, config = given.out, FinetuneConfig(given.task, given.data, given.start, given.options(), columns)
        if given.method == "cloze" and given.pattern == "all":
            if given.grid or given.num_seeds != 1:
                raise UserError(
                    f"{setting('pattern', 'all')} is a run for each pattern; leave out {setting('grid')} and "
                    f"{setting('num_seeds')}, or it"
                )
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
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    show(f"{config.task}: {scores} on the dev set at step {result.best_step:,} of {result.total:,}")
    show(f"baseline (ignores the texts): {result.baseline:.4f}; {result.items_per_second:.1f} items a second")
    show(f"the scores {'' if result.complete else 'so far '}are in {out / RESULTS}")
    return result.stopped.exit_code if result.stopped else 0


def _needed(given: FinetuneArguments) -> dict[str, object]:
    return {"task": given.task, "data": given.data, "from": given.start, "out": given.out}
