"""Whether a prepared corpus and a tokenizer are still what they were when they were noted.

`prepare` notes the marks of its files (`system.marks`) in `corpus.json`. Whoever opens the corpus compares sizes and
sampled fingerprints with them; checksums of all bytes are compared where that is asked for. A checkpoint notes the
tokenizer that its model was trained with.

Not here: what a run notes of all that it was begun with (`blankfill.runs.inputs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus import summary
from blankfill.errors import UserError
from blankfill.system.console import say
from blankfill.system.marks import Mark, changes, checksum, marks, unlike
from blankfill.system.reading import read_json

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"
NAMES = ("train.bin", "train.idx", "valid.bin", "valid.idx", "unigram.npy", TOKENIZER)
"""The files of a prepared corpus that a run reads."""


def corpus_marks(folder: Path, full: bool = False) -> dict[str, Mark]:
    """The marks of a corpus's files as they lie there; `full` with checksums. Raises UserError."""
    return marks(folder, NAMES, full)


def noted_marks(folder: Path) -> dict[str, Any]:
    """The marks in a corpus's report; {} where it has none, being older, or cannot be read, which is said."""
    try:
        found = read_json(folder / summary.FILE).get("files")
    except UserError as error:
        say(f"{error}; so the files of this corpus are not compared with what `prepare` noted")
        return {}
    return found if isinstance(found, dict) else {}


def prepared_marks(folder: Path) -> dict[str, Mark]:
    """The marks of a corpus's files, compared with those that `prepare` noted; they have checksums where those do.

    Raises UserError when a file is gone or was changed.
    """
    noted, now = noted_marks(folder), corpus_marks(folder)
    if noted and (found := changes(noted, now)):
        raise UserError(
            f"{folder} was changed since it was prepared: {'; '.join(found)}. These files do not belong together; "
            "put back what was there, or prepare the text again with --force"
        )
    return {name: {**noted.get(name, {}), **mark} for name, mark in now.items()}


def verify_corpus(folder: Path) -> int:
    """Compare all bytes of a corpus with the checksums that `prepare` noted; returns how many files that were.

    Raises UserError when a file is gone or was changed, or no checksums were noted.
    """
    if not (folder / summary.FILE).is_file():
        raise UserError(f"{folder} is not a prepared corpus (no {summary.FILE}): give the folder of one")
    found = prepared_marks(folder)
    verify_marks(folder, found)
    if not any("sha256" in mark for mark in found.values()):
        raise UserError(
            f"{folder}: {summary.FILE} holds no checksums (an older version wrote it); prepare the text again with "
            "--force to have them"
        )
    return len(found)


def verify_marks(folder: Path, noted: Mapping[str, Any]) -> None:
    """Raise UserError when the bytes of a file are not those of its noted checksum."""
    if found := unlike(folder, noted):
        raise UserError(
            f"{folder} is damaged or was changed: {'; '.join(found)}; copy it again from where it is whole, or "
            "prepare the text again with --force"
        )


def tokenizer_mark(tokenizer: Tokenizer, folder: Path) -> dict[str, str]:
    """What a checkpoint notes of its tokenizer, which was saved in `folder`."""
    return {"fingerprint": tokenizer.fingerprint, "sha256": checksum(folder / TOKENIZER)}


def is_tokenizer(tokenizer: Tokenizer, folder: Path, noted: Mapping[str, Any], *sums: object) -> bool:
    """Whether the tokenizer in a folder is the one noted: the same file, or another one that reads and numbers alike.

    sums: further checksums that its file may have. The file alone settles it in most cases; it stays the same when
    the library begins to write tokenizers otherwise.
    """
    path = folder / TOKENIZER
    if path.is_file() and checksum(path) in (noted.get("sha256"), *sums):
        return True
    return tokenizer.fingerprint == noted.get("fingerprint")


def check_tokenizer(state: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, checkpoint: Path) -> None:
    """Raise UserError when the tokenizer in `folder` is not the one that a checkpoint was trained with.

    state: of the checkpoint. One that notes nothing, being older, is believed.
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
