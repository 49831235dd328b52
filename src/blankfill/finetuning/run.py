"""Fine-tuning a pretrained model on a task: the stages of a run, from its folder to its result.

A run folder holds `finetune.json` (its configuration), the checkpoint that was best on the dev set, `results.json`,
`predictions.jsonl`, the metrics of every evaluation and `report.html`. The folder suffices for predictions; to resume
an interrupted run, its data and pretrained model must still be at their paths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import ConfigError
from blankfill.runs.folder import refuse_sources, run_folder

if TYPE_CHECKING:
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.outcome import FinetuneResult
    from blankfill.training.machine import Machine


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    shared: Machine | None = None,
) -> FinetuneResult:
    """Fine-tune a model on a task, evaluate it on the dev set, and keep the best checkpoint.

    Args:
        config: The task, its data, the model to start from, and the options.
        out: The run folder: a new one, or with `resume` that of a started run.
        resume: Resume the run in `out`, whose configuration is `finetuning.config.read_config(out)`.
        changes: For a resumed run, changed options of `training.machine.CHANGEABLE`.
        shared: For a run of a grid, the machine properties of all its runs, where the options leave them open.

    Returns:
        The metrics of the best checkpoint on the dev set, and how the run ended.

    Raises:
        UserError: For any problem that the user can solve; ConfigError, with all problems, for options.
    """
    from blankfill.finetuning import outcome
    from blankfill.finetuning.data import read_task_data
    from blankfill.finetuning.model_setup import set_up
    from blankfill.finetuning.training import Training
    from blankfill.runs.context import open_context
    from blankfill.runs.start import resolve_start

    out, options = Path(out), dataclasses.replace(config.options, **(changes or {}))
    if problems := options.problems():
        raise ConfigError(problems)
    refuse_sources(out, [config.data])
    data = read_task_data(config)
    with run_folder(out, resume):
        start = resolve_start(out, resume, changes, from_checkpoint=not options.from_scratch)
        with open_context(out, start, options, shared=shared) as context:
            options = dataclasses.replace(options, micro_batch=context.machine.micro_batch)
            setup = set_up(config, options, data, context, start)
            training = Training(config, options, data, setup, context, start)
            done = training.run()
            predictions = training.best_predictions(done)
            test_predictions = training.test_predictions(done)
            training.write_adapter(done, predictions)
            training.measure_forgetting(done)
    return outcome.finish(training, done, predictions, test_predictions)
