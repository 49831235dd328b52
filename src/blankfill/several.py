"""Runs of one command in folders below one: a complete one is not run again, if it is what is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill import inputs
from blankfill.errors import UserError
from blankfill.finetune import Read, Request, adapter_of, finetune, patterns_of, read_all, start_of
from blankfill.tasks.run_files import ASKED, RESULTS

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded


def finished(request: Request, folder: Path) -> dict[str, Any]:
    """The results of a run among several, which is begun or gone on with unless it is complete.

    Raises UserError when it is told to stop, so that the runs after it are not begun.
    """
    path = folder / RESULTS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found.get("complete"):
        finetune(request, folder, resume=(folder / ASKED).exists())
        found = json.loads(path.read_text(encoding="utf-8"))
    if not found["complete"]:
        raise UserError(f"stopped in {folder}; the same command goes on there")
    return found


def check_same(runs: Sequence[tuple[Request, Path]]) -> None:
    """Raise UserError when a run that is there already had other data, options or another model than it is to have.

    Otherwise results of different things would stand in one table. Whatever several runs have in common is read once.
    """
    starts: dict[tuple[Path, bool, int], tuple[Loaded, inputs.Note]] = {}
    data: dict[tuple[object, ...], Read] = {}
    for request, folder in runs:
        if not (folder / ASKED).exists() or not (notes := inputs.read_notes(folder)):
            continue
        task, options = request.task_asked(), request.options
        seed = options.seed if options.from_scratch else 0
        if (begins := (request.start, options.from_scratch, seed)) not in starts:
            starts = {begins: start_of(request)}
        reads = (options.hold_out, options.train_items, options.seed if options.train_items else 0, options.unlabelled)
        if reads not in data:
            data = {reads: read_all(task, request)}
        (loaded, start), read = starts[begins], data[reads]
        now = read.note(request, start, patterns_of(adapter_of(task, read.train.labels, loaded, options)))
        found = inputs.finetuning_changes(notes, now)
        if inputs.other_weights(notes, now):
            found.append(f"{request.start} has other weights")
        inputs.refuse(folder, found, "Put back what it was begun with, or give another --out.")
        inputs.check_run_tokenizer(folder, notes, loaded.tokenizer, str(request.start))
