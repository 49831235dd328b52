"""`blankfill finetune`: train a pretrained model on a task with labelled data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from blankfill.cli.arguments import given_names, parsed
from blankfill.cli.result import Result, interim, page_of, show_page
from blankfill.cli.tasks import known_tasks
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.bounds import Bound, at_least
from blankfill.system.console import quoted, show, worded
from blankfill.system.schema import Option
from blankfill.tasks.options import FinetuneOptions

if TYPE_CHECKING:
    from blankfill.finetuning.outcome import FinetuneResult

GOES_WITH_RESUME = "--resume"
MACHINE = {"--threads": "threads", "--device": "device", "--micro-batch": "micro_batch"}
"""Options that adapt a run to the machine, and may change with --resume."""


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments(FinetuneOptions, TableOptions):
    """Fine-tune a model on a task.

    Reads the task's own files, scores the model on its dev set during training, and retains the best checkpoint.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"num_seeds": at_least(1, 100_000)}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Data": (
            "task data columns encoding delimiter sheet max_length document_context validation_split test_split "
            "max_train_samples allow_unknown"
        ),
        "Model": (
            "start method head head_on features lstm_size freeze lora_rank prefix_length prefix_projection "
            "prefix_dropout from_scratch"
        ),
        "Run": "out resume grid num_seeds seed",
        "Training": (
            "lr embedding_lr_multiplier layer_decay batch_size epochs warmup schedule weight_decay max_grad_norm "
            "label_smoothing class_weights eval_every patience"
        ),
        "Questions": "stride max_query_length max_answer_length answer_columns",
        "Cloze": "pattern patterns multi_token mlm_weight unlabelled distil distil_epochs",
        "Generation": (
            "max_target_length blank beams length_penalty no_repeat_ngram max_eval_samples pseudo_noise target_noise"
        ),
        "Dialogues": "template max_prompt_length learn_start replay replay_ratio",
        "Several tasks at once": "mixing_limit mixing_temperature",
        "Machine": "micro_batch precision device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill finetune --task sst2 --data glue --from runs/bert --out tuned/sst2",
        "blankfill finetune --task classify --data reviews.csv --columns text=body label=stars --from runs/bert "
        "--out tuned/stars",
        "blankfill finetune --task rte --data glue --from runs/glm --method cloze --out tuned/rte",
        "blankfill finetune --task chat --data rounds.jsonl --from runs/glm --replay texts --replay-ratio 0.2 "
        "--out tuned/chat",
        "blankfill finetune --task mrpc --data glue --from runs/bert --grid lr=2e-5,5e-5 batch_size=16,32 "
        "--num-seeds 3 --out tuned/mrpc",
    )

    task: Annotated[str, Option(unless="resume", suggestions=known_tasks)] = ""
    """Task, such as cola, sst2, mrpc, stsb, mnli or rte; `blankfill tasks` lists them."""
    data: Annotated[Path | None, Option(unless="resume")] = None
    """Folder of the task, or of its benchmark."""
    start: Annotated[Path | None, Option(name="from", unless="resume")] = None
    """Pretrained model: a run, an imported model or a transformers folder."""
    out: Annotated[Path | None, Option(unless="resume")] = None
    """Folder to write."""
    resume: Path | None = None
    """Run to resume, with its own data and options; --threads, --device and --micro-batch may change."""
    grid: Annotated[tuple[str, ...], Option(metavar="NAME=VALUE,VALUE")] = ()
    """Values of options of which every combination is trained, such as lr=5e-5,3e-5 batch_size=16,32; one run for each
    below --out."""
    num_seeds: int = 1
    """Runs per combination, with consecutive seeds from --seed; their mean and deviation are reported."""

    def options(self) -> FinetuneOptions:
        """Return the options of the training itself."""
        return FinetuneOptions(**{field.name: getattr(self, field.name) for field in fields(FinetuneOptions)})


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    given = parsed(FinetuneArguments, argv, "finetune")
    names = given_names(argv)
    more = [name for name in names if name != GOES_WITH_RESUME and name not in MACHINE]
    if given.resume is not None and more:
        raise UserError(
            f"{setting('resume')} keeps the options of {given.resume}; leave out {', '.join(more)} (options of the "
            f"machine may change: {setting('threads')}, {setting('device')}, {setting('micro_batch')})"
        )

    from blankfill.finetuning.config import FinetuneConfig, read_config
    from blankfill.finetuning.grid import combinations, run_grid
    from blankfill.finetuning.pet import run_pet
    from blankfill.finetuning.run import finetune

    changes = None
    if given.resume is not None:
        out, config = given.resume, read_config(given.resume)
        changes = {MACHINE[name]: getattr(given, MACHINE[name]) for name in names if name in MACHINE}
    else:
        assert given.data is not None and given.start is not None and given.out is not None
        if problems := given.table_problems():
            raise ConfigError(problems)
        out = given.out
        config = FinetuneConfig(given.task, given.data, given.start, given.options(), given.table_options())
        if given.method == "cloze" and given.pattern == "all":
            if given.grid or given.num_seeds != 1:
                raise UserError(
                    f"{setting('pattern', 'all')} is a run for each pattern; leave out {setting('grid')} and "
                    f"{setting('num_seeds')}, or it"
                )
            return several(run_pet(config, out), out)
        settings = combinations(given.options(), given.grid, given.num_seeds)
        if len(settings) > 1:
            return several(run_grid(config, settings, out), out)
    result = finetune(config, out, given.resume is not None, changes)
    metric = config.build_task().primary_metric
    values = {"task": config.task, **result.values(), "report": page_of(out)}
    code = result.stopped.exit_code if result.stopped else 0
    return Result(values=values, show=lambda: show_result(config.task, metric, result, out), exit_code=code)


def several(lines: Iterable[str], out: Path) -> Result:
    """Train all runs of a grid or of all patterns, and print a line for each as soon as it is known."""
    from blankfill.system.reading import read_json
    from blankfill.tasks.run_files import RESULTS

    for line in lines:
        interim(line)

    def show_files() -> None:
        show(f"the scores are in {out / RESULTS}")
        show_page(out)

    values = {"folder": out, "results": read_json(out / RESULTS), "report": page_of(out)}
    return Result(values=values, show=show_files)


def show_result(task: str, metric: str, result: FinetuneResult, out: Path) -> None:
    """Print the scores of a run, where they are, and how its model is tried."""
    from blankfill.tasks.run_files import RESULTS

    for line in result.lines(task, metric):
        show(worded(line))
    so_far = "" if result.complete else "so far "
    show(f"{result.items_per_second:.1f} items a second; the scores {so_far}are in {out / RESULTS}")
    show_page(out)
    if result.complete and not result.stopped:
        chats = result.kind == "chat"
        show(f"try: blankfill {'chat' if chats else 'predict'} --model {quoted(out)}{'' if chats else ' rows.txt'}")
