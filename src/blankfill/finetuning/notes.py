"""The record of a fine-tuning run's inputs, and its comparison when the run is resumed.

The inputs are the options, the items, the pretrained model and the patterns. `runs.inputs` writes and compares notes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import setting
from blankfill.runs.inputs import FREE, Note, differing, plain, refuse, resume_note
from blankfill.system.console import say
from blankfill.tasks.content import content, items_mark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blankfill.checkpoint.load import Loaded
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.runs.start import Start
    from blankfill.tasks.items import Item, Split


def finetuning_note(
    values: Mapping[str, Any],
    train: Split,
    dev: Split,
    test: Split | None,
    more: Sequence[Item],
    soft_labels: tuple[Split, NDArray[np.float32]] | None,
    start: Note,
    patterns: str,
) -> Note:
    """Return the note of a fine-tuning run's inputs, except for the tokenizer.

    values: task, columns and options, as JSON values. test: the test set, if there is one. more: the texts of
    `--unlabelled`. soft_labels: items that replace those with labels. start: `model_note` of the pretrained model.
    patterns: the text of the patterns, "" for none.
    """
    data = {"train": items_mark(train.items, train.labels), "dev": items_mark(dev.items, dev.labels)}
    if test is not None:
        data["test"] = items_mark(test.items, test.labels)
    if more:
        data["unlabelled"] = items_mark(more)
    if soft_labels is not None:
        data["texts"] = items_mark(soft_labels[0].items)
        data["scores"] = {"items": len(soft_labels[1]), "content": content(soft_labels[1].tolist())}
    options = {name: value for name, value in plain(values["options"]).items() if name not in FREE}
    rest = {name: plain(values[name]) for name in ("task", "tables")}
    return {"config": {**rest, **options}, "data": data, "start": start, "patterns": patterns_mark(patterns)}


def patterns_mark(text: str) -> str | None:
    """Return the noted mark of a run's patterns; None without patterns."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else None


def model_note(loaded: Loaded) -> Note:
    """Return the note of the model that a run starts from."""
    from blankfill.checkpoint.load import weights_checksum
    from blankfill.model.config import config_values

    objective = {"name": loaded.objective.name, **dataclasses.asdict(loaded.objective)}
    values = {
        "model": config_values(loaded.model.config),
        "objective": objective,
        "embedding_lr_multiplier": loaded.embedding_lr_multiplier,
    }
    return {**plain(values), "roles": dict(loaded.vocabulary.roles), "weights": weights_checksum(loaded.model)}


def changed_inputs(notes: Sequence[Note], now: Note) -> list[str]:
    """Return the differences from the notes of a fine-tuning run, except for the weights of the pretrained model."""
    problems: list[str] = []
    for note in notes:
        problems += differing(note.get("config"), now["config"])
        if note.get("patterns") not in (None, now.get("patterns")):
            is_chat = now["config"].get("task") == "chat"
            problems.append("the chat template is another" if is_chat else "the patterns are others")
        before = note.get("data")
        for name, mark in now["data"].items():
            was = before.get(name) if isinstance(before, dict) else None
            if isinstance(was, dict) and was != mark:
                counts = f"{mark['items']:,} then and now" if was.get("items") == mark["items"] else (
                    f"{was.get('items'):,} then, {mark['items']:,} now"
                )  # fmt: skip
                problems.append(f"the items of `{name}` are others ({counts})")
        began = {name: value for name, value in now["start"].items() if name != "weights"}
        problems += (f"in the model it began from {phrase}" for phrase in differing(note.get("start"), began))
    return problems


def other_weights(notes: Sequence[Note], now: Note) -> bool:
    """Return whether the model that a run started from has other weights than noted."""
    noted = [note["start"].get("weights") for note in notes if isinstance(note.get("start"), dict)]
    return any(checksum not in (None, now["start"]["weights"]) for checksum in noted)


def check_inputs(out: Path, config: FinetuneConfig, start: Start, note: Note, tokenizer: Tokenizer) -> Note:
    """Compare the inputs of a resumed run with its notes; returns the note.

    A run with a checkpoint has all weights in it, and those of the pretrained model do not matter; but that of a run
    with a prefix has only the prefix. Raises UserError when an input differs.
    """
    problems = changed_inputs(start.notes, note)
    if other_weights(start.notes, note):
        if start.trained and not config.options.prefix_length:
            say(f"{config.model} has other weights than when {out} began from it; they are not needed any more")
            note = {**note, "start": start.notes[0].get("start", note["start"])}
        else:
            problems.append(f"{config.model} has other weights")
    refuse(out, problems, f"Put back what it was begun with, or train again into another {setting('out')}.")
    return resume_note(out, start.notes, note, tokenizer, str(config.model))
