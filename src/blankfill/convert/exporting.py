"""A model of ours → a folder that transformers opens without any code of ours, checked against it.

The GLM family has no class in transformers: its folder opens once `blankfill.hf` is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blankfill.checkpoint.dtypes import name_of
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.checkpoint.store import MODEL, write_weights
from blankfill.convert.check import TOLERANCE, difference, real_text
from blankfill.convert.importing import check_free
from blankfill.errors import UserError
from blankfill.families.form import CheckpointFormat, form_of
from blankfill.system.environment import has_module
from blankfill.system.files import whole_folder, write_file
from blankfill.system.reading import read_text


@dataclass(frozen=True)
class Exported:
    """A finished export. difference: the largest between transformers' scores and ours; None when it is not
    installed, so that nothing was compared."""

    folder: Path
    architecture: str
    texts: int
    difference: float | None
    left_out: str = ""
    """A head that transformers' class has no place for; empty when all of the model was written."""


def export_model(path: str | Path, out: str | Path, text: str | Path | None = None) -> Exported:
    """Write a model as a folder for transformers, and compare what transformers computes from it.

    Args:
        path: A run, a checkpoint or an imported model.
        out: The new folder.
        text: File whose lines are compared; None for the run's validation text, else Python's documentation and words
            of the vocabulary.

    Returns:
        The folder, the class of transformers, and the largest difference of scores.

    Raises:
        UserError: transformers has no class for the model, or computes something else from the folder; then nothing
            is left behind.
    """
    out = Path(out)
    check_free(out)
    lines = read_lines(Path(text)) if text else None
    loaded = load_model(path)
    form = the_form(loaded)
    largest = None
    texts = lines if lines is not None else real_text(loaded, Path(path))
    with whole_folder(out) as folder:
        dtype = name_of(loaded.model.token_embeddings.weight.dtype)
        hf_layout = make_hf_layout(form, loaded.objective, loaded.tokenizer, loaded.vocabulary, dtype)
        for name, content in hf_layout.files.items():
            write_file(folder / name, content)
        weights = loaded.model.state_dict()
        write_weights(folder / MODEL, form.table.to_theirs(weights))
        if has_module("transformers"):
            largest = difference(loaded, folder, texts)
            if not largest <= TOLERANCE:
                raise UserError(
                    f"{path}: transformers computes other scores from the export than blankfill from the model: they "
                    f"differ by up to {largest:.2g}, and {TOLERANCE:g} is allowed; please report this"
                )
    left_out = ", ".join(sorted({name.partition(".")[0].replace("_", " ") for name in form.table.kept_apart(weights)}))
    return Exported(out, form.family.write(form.config)["architectures"][0], len(texts), largest, left_out)


def the_form(loaded: Loaded) -> CheckpointFormat:
    """The form of a model in transformers' names; UserError when it has none."""
    form = form_of(loaded.model.config, loaded.objective, loaded.vocabulary)
    if isinstance(form, str):
        raise UserError(f"{loaded.path} cannot be exported: {form}")
    return form


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that say something; UserError when there are none."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    if texts := [line for line in lines if line]:
        return texts
    raise UserError(f"{path}: the file is empty; give a text to compare on")
