"""Another program's model → a folder of ours: weights in their stored type, tokenizer, config.json, objective.

`load_model` and transformers both open the folder. It is written under a temporary name, opened again to check that it
is complete, and then renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from blankfill.checkpoint import store
from blankfill.checkpoint.dtypes import WeightType, dtype_named, name_of
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.hf_loading import ExternalCheckpoint, open_external
from blankfill.checkpoint.hf_words import read_tokenizer, roles_unsaid
from blankfill.checkpoint.load import check_vocabulary, load_model, with_roles_of
from blankfill.errors import UserError, setting
from blankfill.model.config import config_values
from blankfill.system.console import amount, say
from blankfill.system.environment import usable_memory
from blankfill.system.files import whole_folder


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


def import_model(
    path: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    dtype: WeightType = "auto",
) -> Imported:
    """Import a transformers folder or an original GLM checkpoint.

    Args:
        path: The transformers folder, or the file or folder of the GLM checkpoint.
        out: The new folder.
        tokenizer: Path of the tokenizer, where it is not beside the weights.
        heads: Number of attention heads of a checkpoint that does not store it.
        dtype: Type of the weights in the new folder; "auto" keeps the stored type.

    Returns:
        The folder, the family, the number of parameters and their type.

    Raises:
        UserError: A file is missing, damaged, unknown or too large; then nothing is left behind.
    """
    path, out = Path(path), Path(out)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a transformers folder or a GLM checkpoint")
    if (path / "checkpoints").is_dir():
        raise UserError(f"{path} is a run of blankfill, which every command opens as it is; there is nothing to import")
    check_free(out)
    source = open_external(path, heads, dtype_named(dtype))
    check_room(source, out)
    words = read_tokenizer(source, Path(tokenizer) if tokenizer else None)
    check_vocabulary(words.vocabulary(), source.checkpoint_format.config, path)
    if source.weights.converted:
        say(f"{path}: {source.weights.converted} weights are converted to {name_of(source.weights.target)}")
    values = {"name": source.objective.name, **asdict(source.objective)}
    state = {"model": config_values(source.checkpoint_format.config), "objective": values, "source": path.name}
    if roles := roles_unsaid(source, words.vocabulary()):
        state["roles"] = roles
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
        store.write_files(folder, 0, source.state(), {}, state, hf_layout)
        del source  # so that what is read again is not in memory twice
        load_model(folder)
    return made


def check_room(source: ExternalCheckpoint, out: Path) -> None:
    """Print the memory and disk space that an import needs; UserError if there is less."""
    need, free, size = source.memory, usable_memory(), source.weights.target.itemsize * source.parameters
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
