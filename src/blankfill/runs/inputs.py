"""What a run was begun with, noted so that a run that is resumed can see whether any of it has changed.

`inputs.json` in the run folder and `inputs` in the state of every checkpoint hold the same note: a section for each
kind of input. Files are noted by their marks (`system.marks`), the tokenizer by its content, the recipe and other
options by their values, so that the refusal can say which of them differs. Options of the machine and of what is
written may change under a run; they are left out.

Not here: whether a prepared corpus is as `prepare` left it (`corpus.identity`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.identity import TOKENIZER, corpus_marks, is_tokenizer, tokenizer_mark, verify_marks
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.system.console import say
from blankfill.system.files import flat, write_file
from blankfill.system.marks import changes
from blankfill.system.reading import read_json
from blankfill.tasks.content import content, items_mark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blankfill.checkpoint.load import Loaded
    from blankfill.config.recipe import Recipe
    from blankfill.pretraining.data_setup import Corpus
    from blankfill.pretraining.teacher import Teacher
    from blankfill.pretraining.warm_start import WarmStart
    from blankfill.tasks.items import Item, Split

FILE = "inputs.json"
FREE = frozenset(
    [
        *("threads", "device", "workers", "micro_batch"),
        *("log_every", "save_every", "save_total_limit", "sample_every", "samples"),
    ]
)
"""Options that a resumed run may have otherwise: where it computes and what it writes, not what it learns."""

Note = dict[str, Any]


def pretraining_note(
    recipe: Recipe, corpus: Corpus, old: Corpus | None, warm_start: WarmStart | None, taught: Teacher | None
) -> Note:
    """What a pretraining run notes of its inputs, all but the tokenizer. old: the corpus that is replayed."""
    note: Note = {"recipe": recipe_values(recipe), "corpus": dict(corpus.marks)}
    if old is not None:
        note["replay"] = dict(old.marks)
    if warm_start is not None:
        note["warm_start"] = warm_start_values(warm_start)
    if taught is not None:
        note["teacher"] = {"sha256": taught.sha256}
    return note


def finetuning_note(
    asked: Mapping[str, Any],
    train: Split,
    dev: Split,
    more: Sequence[Item],
    soft_labels: tuple[Split, NDArray[np.float32]] | None,
    start: Note,
    patterns: str,
) -> Note:
    """What a fine-tuning run notes of its inputs, all but the tokenizer.

    asked: the task, the columns and the options, as JSON values. more: the texts of `--unlabelled`. soft_labels: what
    is learnt from in place of the labels. start: `model_note` of the model that it begins from. patterns: the text that
    says how the task is put, "" for none.
    """
    data = {"train": items_mark(train.items, train.labels), "dev": items_mark(dev.items, dev.labels)}
    if more:
        data["unlabelled"] = items_mark(more)
    if soft_labels is not None:
        data["texts"] = items_mark(soft_labels[0].items)
        data["scores"] = {"items": len(soft_labels[1]), "content": content(soft_labels[1].tolist())}
    options = {name: value for name, value in plain(asked["options"]).items() if name not in FREE}
    rest = {name: plain(asked[name]) for name in ("task", "columns")}
    return {"asked": {**rest, **options}, "data": data, "start": start, "patterns": patterns_mark(patterns)}


def patterns_mark(text: str) -> str | None:
    """What is noted of the patterns of a run, None where it has none."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else None


def model_note(loaded: Loaded) -> Note:
    """What is noted of a model that a run begins from."""
    from blankfill.checkpoint.load import weights_checksum
    from blankfill.model.config import config_values

    objective = {"name": loaded.objective.name, **dataclasses.asdict(loaded.objective)}
    values = {
        "model": config_values(loaded.model.config),
        "objective": objective,
        "embedding_lr_multiplier": loaded.embedding_lr_multiplier,
    }
    return {**plain(values), "roles": dict(loaded.vocabulary.roles), "weights": weights_checksum(loaded.model)}


def recipe_values(recipe: Recipe) -> Note:
    """The options of a recipe by their dotted names, as JSON values, those that may change left out."""
    from blankfill.config.recipe import to_values

    found: Note = {}
    for name, value in plain(to_values(recipe)).items():
        parts = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: one for key, one in parts.items() if key.rpartition(".")[2] not in FREE}
    return found


def warm_start_values(warm_start: WarmStart) -> Note:
    """What is noted of the model that a run began from."""
    from blankfill.model.config import config_values

    values = {"new_tokens": list(warm_start.new_tokens), "replay_ratio": warm_start.replay_ratio}
    return plain({**values, "model": config_values(warm_start.config)})


def plain(value: Any) -> Any:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def write_note(out: Path, note: Note) -> None:
    """Write `inputs.json` whole."""
    write_file(out / FILE, json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def read_notes(out: Path) -> list[Note]:
    """The notes that a run folder holds: that of its newest readable checkpoint, and `inputs.json`.

    A file that cannot be read holds none; that is said where another one takes its place.
    """
    from blankfill.checkpoint import store

    found: list[Note] = []
    steps = sorted(store.steps_in(out / "checkpoints"), reverse=True)
    for step in steps:
        try:
            state = read_json(out / "checkpoints" / f"step-{step}" / store.STATE)
        except UserError:
            continue
        if isinstance(state.get("inputs"), dict):
            found.append(state["inputs"])
        break
    if (out / FILE).exists():
        try:
            found.append(read_json(out / FILE))
        except UserError as error:
            say(f"{error}; it is written anew" if found else f"{error}; so the inputs of this run are not compared")
    elif steps and not found:
        say(
            f"{out} was begun by a version that did not note its inputs, so they cannot be compared with what they "
            "were then"
        )
    return found


def differing(before: object, now: Mapping[str, Any]) -> Iterator[str]:
    """A phrase for each value that is other than noted; names that only one side has are of another version."""
    if not isinstance(before, Mapping):
        return
    for name, value in now.items():
        was = before.get(name, value)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            yield from (f"{name}.{phrase}" for phrase in differing(was, value))
        elif was != value:
            yield f"{name} is {shown(value)} and was {shown(was)}"


def shown(value: object) -> str:
    """A value on a line, long ones cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def refuse(out: Path, found: Sequence[str], remedy: str) -> None:
    """Raise UserError with what differs from the beginning of a run, if there is anything."""
    if found:
        raise UserError(f"{out} was begun with other inputs: {'; '.join(dict.fromkeys(found))}. {remedy}")


def check_pretraining(
    out: Path, notes: Sequence[Note], recipe: Recipe, corpus: Path, warm_start: WarmStart | None
) -> None:
    """Raise UserError when the recipe, the corpus or the old text of a run are not those it was begun with.

    corpus: the folder of its token files.
    """
    folders = {"corpus": corpus}
    if warm_start is not None and warm_start.replay is not None:
        folders["replay"] = Path(warm_start.replay)
    values = recipe_values(recipe)
    found: list[str] = []
    for note in notes:
        found += [f"in {out / 'recipe.yaml'} {phrase}" for phrase in differing(note.get("recipe"), values)]
        if warm_start is not None:
            found += [
                f"in {out / 'warm_start.json'} {one}"
                for one in differing(note.get("warm_start"), warm_start_values(warm_start))
            ]
        for name in ("warm_start", "teacher"):
            if name in note and not (out / f"{name}.json").exists():
                found.append(f"{name}.json is gone")
    for name, folder in folders.items():
        if any(isinstance(note.get(name), dict) for note in notes):
            marks = corpus_marks(folder)
            found += [f"{flat(folder)}: {one}" for note in notes for one in changes(note.get(name, {}), marks)]
    refuse(out, found, again(out, corpus))


def finetuning_changes(notes: Sequence[Note], now: Note) -> list[str]:
    """What differs from the notes of a fine-tuning run, but for the weights of the model that it began from."""
    found: list[str] = []
    for note in notes:
        found += differing(note.get("asked"), now["asked"])
        if note.get("patterns") not in (None, now.get("patterns")):
            found.append("the patterns are others")
        before = note.get("data")
        for name, mark in now["data"].items():
            was = before.get(name) if isinstance(before, dict) else None
            if isinstance(was, dict) and was != mark:
                told = f"{mark['items']:,} then and now" if was.get("items") == mark["items"] else (
                    f"{was.get('items'):,} then, {mark['items']:,} now"
                )  # fmt: skip
                found.append(f"the items of `{name}` are others ({told})")
        began = {name: value for name, value in now["start"].items() if name != "weights"}
        found += (f"in the model it began from {phrase}" for phrase in differing(note.get("start"), began))
    return found


def other_weights(notes: Sequence[Note], now: Note) -> bool:
    """Whether the model that a run began from has other weights than noted."""
    noted = [note["start"].get("weights") for note in notes if isinstance(note.get("start"), dict)]
    return any(one not in (None, now["start"]["weights"]) for one in noted)


def again(out: Path, corpus: Path) -> str:
    """What can be done about a pretraining run whose inputs have changed."""
    return (
        "Put back what it was begun with, then it can be resumed; or let a new run begin from its weights: "
        f"blankfill pretrain {flat(corpus)} --recipe {out / 'recipe.yaml'} --from {out} --out …"
    )


def check_teacher(out: Path, notes: Sequence[Note], taught: Teacher | None) -> None:
    """Raise UserError when the teacher is not the one that a run's checkpoints learnt from."""
    for note in notes:
        sha256 = note["teacher"].get("sha256") if isinstance(note.get("teacher"), dict) else None
        if taught is not None and sha256 not in (None, taught.sha256):
            refuse(out, [f"{taught.path} is another teacher"], f"Give the first one: --resume {out} --teacher …")


def check_run_tokenizer(out: Path, notes: Sequence[Note], tokenizer: Tokenizer, source: str) -> None:
    """Raise UserError unless the run's own tokenizer is the one noted, and `tokenizer`, which `source` names, is it."""
    own = Tokenizer.load(out)
    for note in notes:
        noted = note.get("tokenizer")
        if isinstance(noted, dict) and not is_tokenizer(own, out, noted):
            same = tokenizer.fingerprint == noted.get("fingerprint")
            remedy = f"Put that file back; the tokenizer of {source} is the same." if same else "Put that file back."
            refuse(out, [f"{out / TOKENIZER} is another tokenizer"], remedy)
    if own.fingerprint != tokenizer.fingerprint:
        refuse(out, [f"the tokenizer of {source} is not that of the run"], "Put back what it was begun with.")


def begin(out: Path, note: Note, tokenizer: Tokenizer) -> Note:
    """Write the note of a run that begins, whose tokenizer was saved in its folder; returns it with the tokenizer."""
    note = {**note, "tokenizer": tokenizer_mark(tokenizer, out)}
    write_note(out, note)
    return note


def go_on(out: Path, notes: Sequence[Note], note: Note, tokenizer: Tokenizer, source: str) -> Note:
    """The note of a run that is resumed: what was noted, with what is known now; written where the file lacks it.

    Raises UserError for another tokenizer, as `check_run_tokenizer` does.
    """
    if not (out / TOKENIZER).exists():
        tokenizer.save(out)
    check_run_tokenizer(out, notes, tokenizer, source)
    note = {**(notes[0] if notes else {}), **note}
    note.setdefault("tokenizer", tokenizer_mark(tokenizer, out))
    if notes[-1:] != [note] or len(notes) < 2:  # the file is the last of the two
        write_note(out, note)
    return note


def verify(note: Note, folders: Mapping[str, Path]) -> None:
    """Compare all bytes of a run's corpora with the checksums noted. Raises UserError. folders: by section."""
    for name, folder in folders.items():
        marks = note.get(name)
        if not isinstance(marks, dict) or not any("sha256" in one for one in marks.values() if isinstance(one, dict)):
            say(f"{folder}: no checksums were noted for it (an older version prepared it), so --verify cannot compare")
            continue
        verify_marks(folder, marks)
        say(f"{folder}: the checksums of {len(marks)} files are those that were noted")
