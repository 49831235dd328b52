"""Another program's pretrained model → a folder of ours: weights in their stored type, tokenizer, config, objective.

`load_model` and transformers both open the folder. It is written under a temporary name, opened again to check that it
is complete, and then renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from blankfill.checkpoint import store
from blankfill.checkpoint.dtypes import name_of
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.hf_loading import CONFIG, ExternalCheckpoint
from blankfill.checkpoint.hf_words import read_tokenizer, roles_unsaid
from blankfill.checkpoint.load import check_vocabulary, load_model, with_roles_of
from blankfill.checkpoint.missing import check_exists
from blankfill.checkpoint.quantization import KEY
from blankfill.corpus.tokenizer_chat import chat_files
from blankfill.errors import UserError, setting
from blankfill.model.config import config_values
from blankfill.system.console import amount, say
from blankfill.system.environment import usable_memory
from blankfill.system.files import whole_folder, write_file


@dataclass(frozen=True)
class Imported:
    """A finished import."""

    folder: Path
    family: str
    parameters: int
    dtype: str
    """The type of the weights, such as float32."""
    converted: str
    """The original types of converted weights; empty if no weight was converted."""
    task: str = ""
    """The task of a fine-tuned model; empty for a pretrained one."""
    labels: tuple[str, ...] = ()
    """The labels of a fine-tuned model."""


def check_source(path: Path, out: Path) -> None:
    """Raise UserError for a path without a model of another program, and for a folder that is not empty."""
    check_exists(path, "a transformers folder or a GLM checkpoint")
    of_run = (path / "checkpoints").is_dir()
    if of_run or ((path / store.STATE).is_file() and not (path / CONFIG).is_file()):
        what = "a run" if of_run else "a model"
        raise UserError(
            f"{path} is {what} of blankfill, which every command opens as it is; there is nothing to import"
        )
    check_free(out)


def import_pretrained(source: ExternalCheckpoint, out: Path, tokenizer: Path | None = None) -> Imported:
    """Write an opened model as a folder of ours; see `finetuning.importing.import_model`."""
    path = source.path
    check_room(source, out)
    words = read_tokenizer(source, tokenizer)
    check_vocabulary(words.vocabulary(), source.checkpoint_format.config, path)
    if source.weights.converted:
        say(f"{path}: {source.weights.converted} weights are converted to {name_of(source.weights.target)}")
    values = {"name": source.objective.name, **asdict(source.objective)}
    state = {"model": config_values(source.checkpoint_format.config), "objective": values, "source": path.name}
    if roles := roles_unsaid(source, words.vocabulary()):
        state["roles"] = roles
    if source.quantization is not None:
        state[KEY] = source.quantization.state()
    made = Imported(
        out,
        source.checkpoint_format.family.name,
        source.parameters,
        name_of(source.weights.target),
        source.weights.converted,
    )
    with whole_folder(out) as folder:
        vocabulary = with_roles_of(words.vocabulary(), roles)
        hf_layout = make_hf_layout(source.checkpoint_format, source.objective, words, vocabulary, made.dtype)
        store.write_files(folder, 0, source.stream(), {}, state, hf_layout)
        for name, text in chat_files(path if path.is_dir() else path.parent).items():
            write_file(folder / name, text)
        source.weights.release()  # so that what is read again is not in memory twice
        load_model(folder)
    return made


def check_room(source: ExternalCheckpoint, out: Path, memory: int | None = None) -> None:
    """Print the memory and disk space that an import needs; UserError if there is less. memory: where it is more than
    for one weight at a time."""
    need, free, size = memory or source.memory, usable_memory(), source.disk
    say(
        f"{source.path}: {source.checkpoint_format.family.name}, about {amount(need, 'B')} of memory and "
        f"{amount(size, 'B')} of disk"
    )
    if need > free:
        raise UserError(
            f"{source.path}: importing takes about {amount(need, 'B')} of memory, and {amount(free, 'B')} is free; "
            "close other programs or use a larger machine"
        )
    folder = out.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    disk = shutil.disk_usage(folder).free
    if size > disk:
        raise UserError(
            f"{out}: the model takes about {amount(size, 'B')} of disk, and {amount(disk, 'B')} is free; "
            f"free some space or give another {setting('out')}"
        )


def check_free(out: Path) -> None:
    """Raise UserError if a folder exists and is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and not empty; give another {setting('out')}")
