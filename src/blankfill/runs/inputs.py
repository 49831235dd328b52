"""The record of a run's inputs, with which a resumed run finds out whether an input has changed.

`inputs.json` in the run folder and `inputs` in the state of every checkpoint hold the same record (a note): a section
for each kind of input. Files are represented by their marks (`system.marks`), the tokenizer by its content, the recipe
and other options by their values, so that an error names the difference. Options of the machine and of output may
change in a run; the note leaves them out.

Not here: whether a prepared corpus is unchanged since `prepare` (`corpus.identity`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.identity import TOKENIZER, is_tokenizer, tokenizer_mark, verify_marks
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.system.reading import read_json

if TYPE_CHECKING:
    pass

FILE = "inputs.json"
FREE = frozenset(
    [
        *("threads", "device", "workers", "micro_batch"),
        *("log_every", "save_every", "save_total_limit", "sample_every", "samples", "hidden_words"),
    ]
)
"""Options that a resumed run may change: they concern where it computes and what it writes, not what it learns."""

Note = dict[str, Any]


def plain(value: Any) -> Any:
    """Return a value as it is read back from a JSON file."""
    return json.loads(json.dumps(value))


def write_note(out: Path, note: Note) -> None:
    """Write `inputs.json` completely."""
    write_file(out / FILE, json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def read_notes(out: Path) -> list[Note]:
    """Return the notes of a run folder: that of its newest readable checkpoint, and `inputs.json`.

    A file that cannot be read has no note; a message says so when another note replaces it.
    """
    from blankfill.checkpoint import store

    notes: list[Note] = []
    steps = sorted(store.steps_in(out / "checkpoints"), reverse=True)
    for step in steps:
        try:
            state = read_json(out / "checkpoints" / f"step-{step}" / store.STATE)
        except UserError:
            continue
        if isinstance(state.get("inputs"), dict):
            notes.append(state["inputs"])
        break
    if (out / FILE).exists():
        try:
            notes.append(read_json(out / FILE))
        except UserError as error:
            say(f"{error}; it is written again" if notes else f"{error}; so the inputs of this run are not compared")
    elif steps and not notes:
        say(
            f"{out} was begun by a version that did not note its inputs, so they cannot be compared with what they "
            "were then"
        )
    return notes


def differing(before: object, now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a phrase for each value that differs from the note; names on one side only come from another version."""
    if not isinstance(before, Mapping):
        return
    for name, value in now.items():
        was = before.get(name, value)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            yield from (f"{name}.{phrase}" for phrase in differing(was, value))
        elif was != value:
            yield f"{name} is {shown(value)} and was {shown(was)}"


def shown(value: object) -> str:
    """Return a value on one line; long ones are shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def refuse(out: Path, problems: Sequence[str], remedy: str) -> None:
    """Raise UserError with the differences from the start of a run, if there are any."""
    if problems:
        raise UserError(f"{out} was begun with other inputs: {'; '.join(dict.fromkeys(problems))}. {remedy}")


def check_run_tokenizer(out: Path, notes: Sequence[Note], tokenizer: Tokenizer, source: str) -> None:
    """Raise UserError unless the run's own tokenizer is the noted one, and equals `tokenizer`, from `source`."""
    own = Tokenizer.load(out)
    for note in notes:
        noted = note.get("tokenizer")
        if isinstance(noted, dict) and not is_tokenizer(own, out, noted):
            same = tokenizer.fingerprint == noted.get("fingerprint")
            remedy = f"Put that file back; the tokenizer of {source} is the same." if same else "Put that file back."
            refuse(out, [f"{out / TOKENIZER} is another tokenizer"], remedy)
    if own.fingerprint != tokenizer.fingerprint:
        refuse(out, [f"the tokenizer of {source} is not that of the run"], "Put back what it was begun with.")


def begin_note(out: Path, note: Note, tokenizer: Tokenizer) -> Note:
    """Write the note of a new run, whose tokenizer is in its folder; returns the note with the tokenizer."""
    note = {**note, "tokenizer": tokenizer_mark(tokenizer, out)}
    write_note(out, note)
    return note


def resume_note(out: Path, notes: Sequence[Note], note: Note, tokenizer: Tokenizer, source: str) -> Note:
    """Return the note of a resumed run: the stored note, updated; the file is written when it lacks something.

    Raises UserError for another tokenizer, as `check_run_tokenizer` does.
    """
    if not (out / TOKENIZER).exists():
        tokenizer.save(out)
    check_run_tokenizer(out, notes, tokenizer, source)
    note = {**(notes[0] if notes else {}), **note}
    note.setdefault("tokenizer", tokenizer_mark(tokenizer, out))
    if notes[-1:] != [note] or len(notes) < 2:  # the note of the file is the last of the two
        write_note(out, note)
    return note


def verify(note: Note, folders: Mapping[str, Path]) -> None:
    """Compare all bytes of a run's corpora with the noted checksums. Raises UserError. folders: by section."""
    for name, folder in folders.items():
        marks = note.get(name)
        if not isinstance(marks, dict) or not any(
            "sha256" in mark for mark in marks.values() if isinstance(mark, dict)
        ):
            say(
                f"{folder}: no checksums were noted for it (an older version prepared it), so {setting('verify')} "
                "cannot compare"
            )
            continue
        verify_marks(folder, marks)
        say(f"{folder}: the checksums of {len(marks)} files are those that were noted")
