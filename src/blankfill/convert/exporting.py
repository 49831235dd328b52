"""A model of ours → a folder that transformers opens without any code of ours, checked against it.

The GLM family has no class in transformers: its folder opens once `blankfill.hf` is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from blankfill.checkpoint.dtypes import name_of
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.load import Loaded
from blankfill.checkpoint.quantization import holds_quantized, with_scales
from blankfill.checkpoint.streams import Renamed, ShardKind, Stream, write_shards
from blankfill.convert.card import README, Describe, Target
from blankfill.convert.check import TOLERANCE, difference, real_text
from blankfill.corpus.tokenizer_layout import images_of, sentencepiece_file
from blankfill.errors import UserError, setting
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.system.console import amount, say
from blankfill.system.environment import has_module, usable_memory
from blankfill.system.files import whole_folder, write_file
from blankfill.system.reading import read_text

SHARD = 5 << 30
"""Largest number of bytes of a file of weights."""
TOKENIZER_CONFIG = "tokenizer_config.json"
ModelPart = Literal["model", "generator"]


@dataclass(frozen=True)
class Exported:
    """A finished export. difference: the largest between transformers' scores and ours; None when it is not
    installed, so that nothing was compared."""

    folder: Path
    architecture: str
    texts: int
    difference: float | None
    left_out: str = ""
    """Name of a head that transformers' class does not have; empty if the whole model was written."""
    note: str = ""
    """A sentence for the user on what the class cannot do; empty if it does all that the model does."""
    task: str = ""
    """Name of the task whose dev set has the compared items; empty for texts."""


def export_loaded(
    loaded: Loaded,
    path: str | Path,
    out: Path,
    lines: Sequence[str] | None = None,
    describe: Describe | None = None,
    more: Mapping[str, str] | None = None,
    shards: ShardKind = "safetensors",
) -> Exported:
    """Write a pretrained model as a folder for transformers, and compare what transformers computes from it.

    See `exporting.model.export_model`. lines: texts to compare; None for those of the run at `path`. describe: writes
    the model card. more: texts of further files, by name. shards: kind of the files of weights.
    """
    checkpoint_format = export_format(loaded)
    loaded = as_the_format_holds(loaded, checkpoint_format)
    largest = None
    texts = lines if lines is not None else real_text(loaded, Path(path))
    with whole_folder(out) as folder:
        dtype = name_of(loaded.model.dtype)
        hf_layout = make_hf_layout(checkpoint_format, loaded.objective, loaded.tokenizer, loaded.vocabulary, dtype)
        for name, content in with_notes(hf_layout.files, loaded, checkpoint_format).items():
            write_file(folder / name, content)
        for file, data in {**(more or {}), **extra_files(loaded, checkpoint_format)}.items():
            write_file(folder / file, data)
        weights, table = loaded.model.state_dict(), checkpoint_format.table
        if loaded.quantization is not None:
            table = with_scales(table, loaded.quantization.layers)
        write_shards(folder, with_copies(Renamed(table, weights), checkpoint_format), SHARD, shards)
        note = uncompared(loaded)
        if not note and has_module("transformers"):
            largest = difference(loaded, folder, texts)
            if not largest <= TOLERANCE:
                raise UserError(differs(path, largest))
        left_out = {name.partition(".")[0].replace("_", " ") for name in checkpoint_format.table.kept_apart(weights)}
        architecture = checkpoint_format.family.write(checkpoint_format.config)["architectures"][0]
        absent = ", ".join(sorted(left_out))
        if describe is not None:
            target = Target("transformers", architecture, len(texts), largest, absent)
            write_file(folder / README, describe(target))
    return Exported(out, architecture, len(texts), largest, absent, note)


def with_copies(stream: Stream, form: CheckpointFormat) -> Stream:
    """Return the weights of a family whose files hold a weight twice, with the copies at the end."""
    copies = form.table.copies if form.family.writes_copies else {}
    plan = {**stream.plan, **{copy: stream.plan[source] for copy, source in copies.items()}}
    return Stream(plan, lambda name: stream[copies.get(name, name)])


def extra_files(loaded: Loaded, form: CheckpointFormat) -> dict[str, str | bytes]:
    """Return the tokenizer file of the original code, for a family that has one."""
    words = sentencepiece_file(loaded.tokenizer) if form.family.fixed_ids else None
    return {} if words is None else {"ice_text.model": words}


def with_notes(files: Mapping[str, str], loaded: Loaded, form: CheckpointFormat) -> dict[str, str]:
    """Return the files beside the weights, with what the original code reads in them."""
    files = dict(files)
    if loaded.quantization is not None:
        values = {**json.loads(files[CONFIG]), form.family.quantization_key: loaded.quantization.bits}
        files[CONFIG] = json.dumps(values, indent=2) + "\n"
    if form.family.fixed_ids:
        values = {**json.loads(files[TOKENIZER_CONFIG]), "num_image_tokens": images_of(loaded.tokenizer)}
        files[TOKENIZER_CONFIG] = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    return files


def uncompared(loaded: Loaded) -> str:
    """Return why transformers cannot compare a model here; empty if it can."""
    weights = loaded.model.state_dict().values()
    copies = 1 if loaded.model.dtype == torch.float32 else 2
    need, free = copies * 4 * sum(tensor.numel() for tensor in weights), usable_memory()
    if need <= free:
        return ""
    return (
        f"the export was not compared: transformers needs {amount(need, 'B')} of memory for it, and "
        f"{amount(free, 'B')} is free"
    )


def differs(path: str | Path, largest: float) -> str:
    """Return the message for an export that computes other scores. largest: largest difference of two scores."""
    return (
        f"{path}: transformers computes other scores from the export than blankfill from the model: they differ by up "
        f"to {largest:.2g}, and {TOLERANCE:g} is allowed; please report this"
    )


def part_of(loaded: Loaded, part: ModelPart) -> Loaded:
    """Return the part of a model to write: the discriminator or the generator of a model that has both, else the model.

    Raises UserError for the generator of a model that has none.
    """
    if part == "generator" and not loaded.model.config.generator_size:
        raise UserError(f"{loaded.path}: the model has no generator; leave out {setting('part')}")
    return replace(loaded, model=loaded.language_model if part == "generator" else loaded.encoder)


def export_format(loaded: Loaded) -> CheckpointFormat:
    """The format of a model in transformers; UserError when it has none."""
    checkpoint_format = checkpoint_format_of(loaded.model.config, loaded.objective, loaded.vocabulary)
    if isinstance(checkpoint_format, str):
        raise UserError(f"{loaded.path} cannot be exported: {checkpoint_format}")
    return checkpoint_format


def as_the_format_holds(loaded: Loaded, checkpoint_format: CheckpointFormat) -> Loaded:
    """Return a model as it can be written: quantised weights as they are for a family whose files hold them, else
    dequantised."""
    quantization = loaded.quantization
    if quantization is None or (
        checkpoint_format.family.quantization_key and holds_quantized(checkpoint_format.table, quantization.layers)
    ):
        return loaded
    dequantize(loaded.model, loaded.path, loaded.model.dtype)
    return replace(loaded, quantization=None)


def dequantize(model: torch.nn.Module, path: object, dtype: torch.dtype) -> None:
    """Replace quantised weights of a model, in place, by the numbers that they stand for; says so."""
    from blankfill.model.dequantized import make_plain

    if make_plain(model, dtype):
        say(
            f"{path}: the weights are written dequantised, as {name_of(dtype)}, since the format has no integers; the "
            "model computes the same, and is as large as the one that it was made from"
        )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file that are not blank; UserError if there are none."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    if texts := [line for line in lines if line]:
        return texts
    raise UserError(f"{path}: the file is empty; give a text to compare on")


def refuse_quantized(model: torch.nn.Module, path: Path) -> None:
    """Raise UserError for a model with quantised weights."""
    from blankfill.model.quantized import quantized_formats

    if quantized_formats(model):
        raise UserError(
            f"{path} is quantised and cannot be written in this format; export the model that it was made from"
        )
