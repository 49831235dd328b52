"""The record of a pretraining run's inputs, and its comparison when the run is resumed.

The inputs are the recipe, the corpus, the old text, the model of a warm start and the teacher. `runs.inputs` writes and
compares notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.identity import corpus_marks
from blankfill.corpus.words import Units
from blankfill.errors import setting
from blankfill.prompts.sets import marks_of
from blankfill.runs.inputs import FREE, Note, differing, plain, refuse
from blankfill.system.console import quoted
from blankfill.system.files import flat
from blankfill.system.marks import changes

if TYPE_CHECKING:
    from blankfill.config.recipe import Recipe
    from blankfill.pretraining.data_setup import Corpus
    from blankfill.pretraining.teacher import Teacher
    from blankfill.pretraining.warm_start import WarmStart


def pretraining_note(
    recipe: Recipe, corpus: Corpus, old: Corpus | None, warm_start: WarmStart | None, taught: Teacher | None
) -> Note:
    """Return the note of a pretraining run's inputs, except for the tokenizer. old: the corpus that is replayed."""
    note: Note = {"recipe": recipe_values(recipe), "corpus": dict(corpus.marks)}
    if recipe.prompts.files:
        note["prompts"] = marks_of(recipe.prompts)
    if old is not None:
        note["replay"] = dict(old.marks)
    if words := {**word_sources(old), **word_sources(corpus)}:
        note["words"] = words
    if warm_start is not None:
        note["warm_start"] = warm_start_values(warm_start)
    if taught is not None:
        note["teacher"] = {"sha256": taught.sha256}
    return note


def word_sources(corpus: Corpus | None) -> dict[str, str]:
    """Return what finds the whole words of a corpus, by script; {} where its tokenizer does."""
    units = corpus.vocabulary.units if corpus is not None else None
    return units.sources if isinstance(units, Units) else {}


def recipe_values(recipe: Recipe) -> Note:
    """Return the options of a recipe by their dotted names, as JSON values, without those that may change."""
    from blankfill.config.recipe import to_values

    values: Note = {}
    for name, value in plain(to_values(recipe)).items():
        parts = {f"{name}.{key}": option for key, option in value.items()} if isinstance(value, dict) else {name: value}
        values |= {key: option for key, option in parts.items() if key.rpartition(".")[2] not in FREE}
    return values


def warm_start_values(warm_start: WarmStart) -> Note:
    """Return the noted values of the model that a run starts from."""
    from blankfill.model.config import config_values

    values = {"new_tokens": list(warm_start.new_tokens), "replay_ratio": warm_start.replay_ratio}
    result: dict[str, Any] = plain({**values, "model": config_values(warm_start.config)})
    return result


def check_inputs(out: Path, notes: Sequence[Note], recipe: Recipe, corpus: Path, warm_start: WarmStart | None) -> None:
    """Raise UserError when the recipe, the corpus or the old text of a run have changed since its start.

    corpus: the folder of its token files.
    """
    folders = {"corpus": corpus}
    if warm_start is not None and warm_start.replay is not None:
        folders["replay"] = Path(warm_start.replay)
    values = recipe_values(recipe)
    problems: list[str] = []
    for note in notes:
        problems += [f"in {out / 'recipe.yaml'} {phrase}" for phrase in differing(note.get("recipe"), values)]
        if warm_start is not None:
            problems += [
                f"in {out / 'warm_start.json'} {phrase}"
                for phrase in differing(note.get("warm_start"), warm_start_values(warm_start))
            ]
        for name in ("warm_start", "teacher"):
            if name in note and not (out / f"{name}.json").exists():
                problems.append(f"{name}.json is gone")
    for name, folder in folders.items():
        if any(isinstance(note.get(name), dict) for note in notes):
            marks = corpus_marks(folder)
            problems += [f"{flat(folder)}: {phrase}" for note in notes for phrase in changes(note.get(name, {}), marks)]
    if recipe.prompts.files and any(isinstance(note.get("prompts"), dict) for note in notes):
        marks = marks_of(recipe.prompts)
        problems += [phrase for note in notes for phrase in changes(note.get("prompts", {}), marks)]
    refuse(out, problems, again(out, corpus))


def check_words(out: Path, notes: Sequence[Note], note: Note) -> None:
    """Raise UserError when whole words are found in another way than at the start of a run."""
    phrases = [phrase for noted in notes for phrase in differing(noted.get("words"), note.get("words", {}))]
    refuse(
        out,
        [f"the source of the whole words of {phrase}" for phrase in phrases],
        "Install the package in the version that it was begun with; then it can be resumed.",
    )


def again(out: Path, corpus: Path) -> str:
    """Return the remedy for a pretraining run whose inputs have changed."""
    return (
        "Put back what it was begun with, then it can be resumed; or let a new run begin from its weights: "
        f"blankfill pretrain {quoted(flat(corpus))} --recipe {quoted(out / 'recipe.yaml')} --from {quoted(out)} --out …"
    )


def check_teacher(out: Path, notes: Sequence[Note], taught: Teacher | None) -> None:
    """Raise UserError when the teacher is not that of a run's checkpoints."""
    for note in notes:
        sha256 = note["teacher"].get("sha256") if isinstance(note.get("teacher"), dict) else None
        if taught is not None and sha256 not in (None, taught.sha256):
            refuse(out, [f"{taught.path} is another teacher"], f"Give the first one with {setting('teacher')}.")
