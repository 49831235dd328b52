"""Several runs of one command, each in a subfolder: complete runs with the same inputs are not repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError, setting
from blankfill.finetuning.config import FinetuneConfig, read_config
from blankfill.finetuning.data import TaskData, read_task_data
from blankfill.finetuning.model_setup import build_adapter, load_pretrained, patterns_of
from blankfill.finetuning.notes import changed_inputs, other_weights
from blankfill.finetuning.run import finetune
from blankfill.runs import inputs
from blankfill.runs.folder import note_machine, noted_machine
from blankfill.system.console import say
from blankfill.system.loader import fitting
from blankfill.system.reading import UnreadableError, field, read_json
from blankfill.system.stopping import StoppedError
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.training.machine import Machine


def finish_run(config: FinetuneConfig, folder: Path, shared: Machine | None = None) -> dict[str, Any]:
    """Return the results of a run of several, which is started or resumed unless it is complete.

    Args:
        config: The configuration of the run.
        folder: The run folder, in the folder of the several runs.
        shared: The machine properties of all runs, where the options leave them open.

    Returns:
        The contents of the run's `results.json`.

    Raises:
        StoppedError: A signal has stopped the run; the runs after it are not started.
        UserError: For any problem that the user can solve.
    """
    results = read_results(folder)
    if not results.get("complete"):
        resume = (folder / CONFIG).exists()
        try:
            result = finetune(
                config, folder, resume, machine_changes(config.options, folder) if resume else None, shared
            )
        finally:
            if shared is not None and folder.is_dir():  # which it is not where the run was refused
                note_machine(folder.parent, shared)
        if result.stopped is not None:
            raise StoppedError(result.stopped, f"stopped in {folder}; the same command continues there")
        results = read_results(folder)
    return results


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results of a run; {} when they are missing or damaged, so that the run counts as incomplete."""
    path = folder / RESULTS
    try:
        results = read_json(path)
        field(results, "complete", bool, path)
        for name, kind in (("score", float), ("primary_metric", str), ("best_step", int), ("steps", int)):
            field(results, name, kind, path)
        field(field(results, "baseline", dict, path), "score", float, path)
        fitting(field(results, "metrics", dict, path), dict[str, float], str(path))
    except UnreadableError as error:
        if not error.missing:
            raise
        return {}
    except UserError as error:
        say(f"{error}; the run in {folder} is repeated from its last checkpoint")
        return {}
    return results


def machine_changes(options: FinetuneOptions, folder: Path) -> dict[str, Any]:
    """Return the machine options that differ between the command that resumes a run and the one that started it."""
    before = read_config(folder).options
    names = ("device", "threads", "micro_batch")
    return {name: getattr(options, name) for name in names if getattr(options, name) != getattr(before, name)}


def shared_machine(options: FinetuneOptions, out: Path) -> Machine:
    """Return the machine properties of several runs in `out`, where the options leave them open: those of the first
    run."""
    import torch

    from blankfill.system.device import is_here
    from blankfill.system.threads import from_variables
    from blankfill.training.machine import able, settle

    noted = noted_machine(out)
    if noted is not None and is_here(device := torch.device(noted.device)) and able(device, noted.dtype):
        return dataclasses.replace(noted, threads=options.threads or from_variables() or noted.threads)
    conditions = settle(options)
    for remark in conditions.remarks:
        say(remark)
    return conditions.machine


def check_inputs_unchanged(runs: Sequence[tuple[FinetuneConfig, Path]]) -> None:
    """Raise UserError when an existing run had other data, options or another model than the new command gives it.

    Otherwise one table would compare different things. Inputs that several runs share are read once. The folder above
    them must not be a run itself, whose results the table would replace.
    """
    for above in dict.fromkeys(folder.parent for _, folder in runs):
        if (above / CONFIG).exists():
            raise UserError(f"{above} holds a single run; give another {setting('out')} for several")
    starts: dict[tuple[Path, bool, int], tuple[Loaded, inputs.Note]] = {}
    data: dict[tuple[object, ...], TaskData] = {}
    for config, folder in runs:
        if not (folder / CONFIG).exists() or not (notes := inputs.read_notes(folder)):
            continue
        task, options = config.build_task(), config.options
        seed = options.seed if options.from_scratch else 0
        if (begins := (config.model, options.from_scratch, seed)) not in starts:
            starts = {begins: load_pretrained(config)}
        reads = (
            options.validation_split,
            options.test_split,
            options.max_train_samples,
            options.seed if options.max_train_samples else 0,
            options.unlabelled,
        )
        if reads not in data:
            data = {reads: read_task_data(config)}
        (loaded, start), read = starts[begins], data[reads]
        now = read.note(config, start, patterns_of(build_adapter(task, read.train.labels, loaded, options)))
        problems = changed_inputs(notes, now)
        if other_weights(notes, now):
            problems.append(f"{config.model} has other weights")
        inputs.refuse(folder, problems, f"Put back what it was begun with, or give another {setting('out')}.")
        inputs.check_run_tokenizer(folder, notes, loaded.tokenizer, str(config.model))
