"""Checks whether a prepared corpus and a tokenizer have changed since their marks were recorded.

`prepare` records the marks of its files (`system.marks`) in `corpus.json`. Opening the corpus compares sizes and
sampled fingerprints with them; `--verify` also compares checksums of all bytes. A checkpoint records the tokenizer that
its model was trained with.

Not here: what a run records about its inputs (`blankfill.runs.inputs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus import summary
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.system.marks import Mark, changes, checksum, marks, unlike
from blankfill.system.reading import read_json

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"
NAMES = ("train.bin", "train.idx", "valid.bin", "valid.idx", "unigram.npy", TOKENIZER)
"""Files of a prepared corpus that a run reads."""


def corpus_marks(folder: Path, full: bool = False) -> dict[str, Mark]:
    """Return the marks of the files of a corpus as they are now; with `full`, with checksums. Raises UserError."""
    return marks(folder, NAMES, full)


def noted_marks(folder: Path) -> dict[str, Any]:
    """Return the marks in the report of a corpus; {} where an older version wrote none, or, with a notice, where the
    report cannot be read."""
    try:
        marks = read_json(folder / summary.FILE).get("files")
    except UserError as error:
        say(f"{error}; so the files of this corpus are not compared with what `prepare` noted")
        return {}
    return marks if isinstance(marks, dict) else {}


def prepared_marks(folder: Path) -> dict[str, Mark]:
    """Return the marks of the files of a corpus after comparing them with the marks recorded by `prepare`; with
    checksums where the recorded marks have them.

    Raises UserError when a file is gone or was changed.
    """
    noted, now = noted_marks(folder), corpus_marks(folder)
    if noted and (changed := changes(noted, now)):
        raise UserError(
            f"{folder} was changed since it was prepared: {'; '.join(changed)}. These files do not belong together; "
            f"put back what was there, or prepare the text again with {setting('force', True)}"
        )
    return {name: {**noted.get(name, {}), **mark} for name, mark in now.items()}


def verify_corpus(folder: Path) -> int:
    """Compare all bytes of a corpus with the checksums recorded by `prepare`; return the number of files compared.

    Raises UserError when a file is gone or was changed, or no checksums were recorded.
    """
    if not (folder / summary.FILE).is_file():
        raise UserError(f"{folder} is not a prepared corpus (no {summary.FILE}): give the folder of one")
    marks = prepared_marks(folder)
    verify_marks(folder, marks)
    if not any("sha256" in mark for mark in marks.values()):
        raise UserError(
            f"{folder}: {summary.FILE} holds no checksums (an older version wrote it); prepare the text again with "
            f"{setting('force', True)} to have them"
        )
    return len(marks)


def verify_marks(folder: Path, noted: Mapping[str, Any]) -> None:
    """Raise UserError when the bytes of a file do not match its recorded checksum."""
    if changed := unlike(folder, noted):
        raise UserError(
            f"{folder} is damaged or was changed: {'; '.join(changed)}; copy it again from where it is whole, or "
            f"prepare the text again with {setting('force', True)}"
        )


def tokenizer_mark(tokenizer: Tokenizer, folder: Path) -> dict[str, str]:
    """Return what a checkpoint records about its tokenizer, which was saved in `folder`."""
    return {"fingerprint": tokenizer.fingerprint, "sha256": checksum(folder / TOKENIZER)}


def is_tokenizer(tokenizer: Tokenizer, folder: Path, noted: Mapping[str, Any], *sums: object) -> bool:
    """Return whether the tokenizer in a folder is the recorded one: the same file, or a file that gives the same ids.

    sums: further checksums that the file may have. In most cases the checksum decides; the ids decide when a version of
    the library writes the same tokenizer differently.
    """
    path = folder / TOKENIZER
    if path.is_file() and checksum(path) in (noted.get("sha256"), *sums):
        return True
    return tokenizer.fingerprint == noted.get("fingerprint")


def check_tokenizer(state: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, checkpoint: Path) -> None:
    """Raise UserError when the tokenizer in `folder` is not the one that a checkpoint was trained with.

    state: of the checkpoint. A checkpoint of an older version records nothing and passes.
    """
    inputs, sums = state.get("inputs"), state.get("sha256")
    noted = inputs.get("tokenizer") if isinstance(inputs, Mapping) else None
    beside = sums.get(TOKENIZER) if isinstance(sums, Mapping) else None
    if not isinstance(noted, Mapping):
        if beside is None or folder != checkpoint:
            return
        noted = {"sha256": beside}
    if is_tokenizer(tokenizer, folder, noted, beside):
        return
    copy = checkpoint / TOKENIZER
    where = f"copy it from {copy}" if folder != checkpoint and copy.is_file() else "put that file back"
    raise UserError(
        f"{folder / TOKENIZER} is not the tokenizer that the model in {checkpoint} was trained with, so its answers "
        f"would be nonsense; {where}"
    )
