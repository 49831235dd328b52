"""An encoder of ours → ONNX, checked in onnxruntime against torch.

`model.onnx` takes `input_ids` and `attention_mask`, and `token_type_ids` where the model has them (int64, [batch,
length], any batch and any length up to the model's positions), and gives `last_hidden_state`, and `logits` where the
model has a language-model head. The mask says which columns are padding; padding is at the end of a row. The tokenizer
is in the same folder, so that a program needs this folder only.

Here are also the parts that the exports of fine-tuned models share (`exporting.onnx_heads`): columns of a graph's
inputs, writing and comparing. Generative models (gpt, glm) decode token by token and are not exported here.

Shapes: B rows, T columns, D width.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blankfill._version import __version__
from blankfill.attention.masks import Mask
from blankfill.checkpoint.hf_layout import hf_layout_of, tokenizer_files
from blankfill.checkpoint.load import Loaded
from blankfill.convert.card import README, Describe, Target
from blankfill.convert.check import TOLERANCE, larger, real_text
from blankfill.convert.score_change import ScoreChange
from blankfill.errors import UserError, setting
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer
from blankfill.objectives import OBJECTIVES
from blankfill.system.environment import has_module
from blankfill.system.files import whole_folder, write_file
from blankfill.types import Int32

FILE = "model.onnx"
IN_ONE_FILE = 1_500_000_000
"""Maximum size in bytes of weights inside model.onnx; a protocol buffer holds at most 2 GB."""
COMPARED_AT_ONCE = 3
"""Texts of a batch that is compared: several batches, of several sizes and widths."""
USUAL_INPUTS, TYPED_INPUTS = ("input_ids", "attention_mask"), ("input_ids", "token_type_ids", "attention_mask")

Named = dict[str, Tensor]
"""Tensors by the names of a graph's inputs."""


@dataclass(frozen=True)
class ExportedOnnx:
    """A finished export. files: names of the graphs. outputs: their names. difference: the largest between onnxruntime
    and torch over the texts; None when onnxruntime is not installed, so that nothing was compared."""

    folder: Path
    outputs: tuple[str, ...]
    texts: int
    difference: float | None
    files: tuple[str, ...] = (FILE,)
    task: str = ""
    """Name of the task whose dev set has the compared items; empty for texts."""
    change: ScoreChange | None = None
    """What became of the scores in a graph of 8 bits; None for one of full precision."""


Lower = Callable[[Path, Sequence[Named]], ScoreChange]
"""Makes the matrices of a written graph smaller and compares its outputs for some inputs."""


class Encoder(nn.Module):
    """The model with the interface of other programs: ids and a mask of ones and zeros → hidden states and token
    scores."""

    def __init__(self, model: Transformer, first_position: int) -> None:
        super().__init__()
        self.model = model
        self.first_position = first_position

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """input_ids, attention_mask, token_type_ids: int64[B, T] → [hidden [B, T, D]], and the scores [B, T, V]."""
        inputs = masked_inputs(self.model, self.first_position, input_ids, attention_mask, token_type_ids)
        wanted = "all" if self.model.config.lm_head else None
        outputs = self.model(inputs, self.model.dtype, logits_at=wanted)
        return [outputs.hidden] if outputs.logits is None else [outputs.hidden, outputs.logits]


def masked_inputs(
    model: Transformer, first_position: int, ids_BT: Tensor, mask_BT: Tensor, types_BT: Tensor | None
) -> Inputs:
    """Return the inputs of a model for ids and a mask of ones and zeros."""
    columns = torch.arange(ids_BT.shape[1], device=ids_BT.device) + first_position
    positions = [columns.expand_as(ids_BT)]
    if types_BT is not None:
        positions.append(types_BT)
    return Inputs(ids_BT, torch.stack(positions), padding_mask(mask_BT, model.dtype))


def padding_mask(mask_BT: Tensor, dtype: torch.dtype) -> Mask:
    """Return the mask that hides columns of padding, from ones and zeros."""
    hidden = (1 - mask_BT[:, None, None, :]).to(dtype)
    # finite, so that a row of padding alone has no softmax without a term
    return Mask("dense", hidden * torch.finfo(dtype).min)


def check_packages() -> None:
    """Raise UserError when a package that writes ONNX is missing."""
    if missing := [name for name in ("onnx", "onnxscript") if not has_module(name)]:
        raise UserError(f'ONNX needs {" and ".join(missing)}; install them with: pip install "blankfill[export]"')


def check_encoder(loaded: Loaded, path: str | Path) -> None:
    """Raise UserError for a model that is no encoder."""
    if not loaded.objective.masked:
        encoders = ", ".join(name for name, kind in OBJECTIVES.items() if kind.masked)
        raise UserError(
            f"{path}: ONNX is for encoders ({encoders}), and this model's objective is {loaded.objective.name}; "
            f"use {setting('format', 'transformers')}"
        )


def export_loaded_onnx(
    loaded: Loaded,
    path: str | Path,
    out: Path,
    lines: Sequence[str] | None = None,
    describe: Describe | None = None,
    lower: Lower | None = None,
) -> ExportedOnnx:
    """Write a pretrained encoder to the new folder `out` as ONNX; see `exporting.model.export_onnx`.

    lines: texts to compare; None for those of the run at `path`. describe: writes the model card. lower: makes the
    matrices of the graph smaller.
    """
    check_encoder(loaded, path)
    encoder = Encoder(loaded.model.eval(), loaded.objective.position_offset)
    encoder.model.use_kernel("explicit")  # plain products, which every runtime has
    batches = list(inputs_of(loaded, lines if lines is not None else real_text(loaded, Path(path)), encoder))
    names = ("last_hidden_state", "logits") if loaded.model.config.lm_head else ("last_hidden_state",)
    count = sum(len(batch["input_ids"]) for batch in batches)
    with whole_folder(out) as folder:
        hf_layout = hf_layout_of(loaded.model.config, loaded.objective, loaded.tokenizer)
        for name, content in (hf_layout.files if hf_layout is not None else plain_files(loaded)).items():
            write_file(folder / name, content)
        metadata = {"objective": loaded.objective.name, "max_length": most_columns(loaded)}
        write_onnx(encoder, folder / FILE, example_of(loaded), names, metadata)
        largest = compared(encoder, folder / FILE, batches, path)
        change = None if lower is None else lower(folder / FILE, batches)
        if describe is not None:
            target = Target("onnxruntime", ", ".join(names), count, largest, change=change.text() if change else "")
            write_file(folder / README, describe(target))
    return ExportedOnnx(out, names, count, largest, change=change)


def plain_files(loaded: Loaded) -> dict[str, str]:
    """Return the tokenizer's files, by name, for a model without a class of transformers."""
    inputs = TYPED_INPUTS if len(loaded.model.config.position_sizes) > 1 else USUAL_INPUTS
    return tokenizer_files(loaded.objective, loaded.tokenizer, loaded.vocabulary, inputs, most_columns(loaded))


def most_columns(loaded: Loaded) -> int:
    """Return the largest number of columns of a row."""
    return loaded.model.config.position_sizes[0] - loaded.objective.position_offset


def inputs_of(loaded: Loaded, texts: Sequence[str], encoder: Encoder) -> Iterator[Named]:
    """Yield padded batches of texts, by the names of the inputs, with different sizes and lengths."""
    room = most_columns(loaded) - 2
    cls, sep, pad = (loaded.vocabulary[role] for role in ("cls", "sep", "pad"))
    for first in range(0, len(texts), COMPARED_AT_ONCE):
        encoded = loaded.tokenizer.encode_batch(list(texts[first : first + COMPARED_AT_ONCE]))
        yield named_inputs(loaded.model, *padded([[cls, *ids[:room], sep] for ids in encoded], pad))


def padded(rows: Sequence[Sequence[int] | Int32], pad: int) -> tuple[Tensor, Tensor]:
    """Return the ids of rows, padded at their ends to the longest, and the mask: 1 for a token, 0 for padding."""
    shape = len(rows), max(map(len, rows))
    ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)], mask[k, : len(row)] = torch.as_tensor(row), 1
    return ids, mask


def named_inputs(model: Transformer, ids: Tensor, mask: Tensor) -> Named:
    """Return the inputs of a model by name; token types, if it has them, are zeros."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "token_type_ids": torch.zeros_like(ids)} if len(model.config.position_sizes) > 1 else inputs


def example_of(loaded: Loaded) -> Named:
    """Return inputs of a size that a graph is traced with."""
    ids = torch.ones((2, min(most_columns(loaded), 16)), dtype=torch.int64)
    return named_inputs(loaded.model, ids, torch.ones_like(ids))


def write_onnx(
    graph: nn.Module, path: Path, example: Named, outputs: Sequence[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Trace a module and write it; all axes of its inputs are free but those of the width of hidden states.

    example: inputs by name. outputs: names of the outputs. metadata: values by name; lists are written as JSON.
    """
    axes = {
        name: dict.fromkeys(range(tensor.dim() - tensor.is_floating_point()), torch.export.Dim.DYNAMIC)
        for name, tensor in example.items()
    }
    size = sum(weight.numel() * weight.element_size() for weight in graph.parameters())
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph, (), kwargs=example, input_names=list(example), output_names=list(outputs),
            dynamic_shapes=axes, dynamo=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        for key, value in {"blankfill": __version__, **(metadata or {})}.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            program.model.metadata_props[key] = text
        program.save(path, external_data=size > IN_ONE_FILE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's remarks on versions of operators inside a `with` block."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def compared(graph: nn.Module, file: Path, batches: Sequence[Named], path: str | Path) -> float | None:
    """Return the largest difference between onnxruntime's outputs and torch's, None without onnxruntime; UserError when
    it is no rounding. path: of the model."""
    if not has_module("onnxruntime"):
        return None
    largest = difference(graph, file, batches)
    if not largest <= TOLERANCE:
        raise UserError(
            f"{path}: onnxruntime computes other numbers from the export than torch from the model: they differ by up "
            f"to {largest:.2g}, and {TOLERANCE:g} is allowed; please report this"
        )
    return largest


@torch.no_grad()
def difference(graph: nn.Module, file: Path, batches: Sequence[Named]) -> float:
    """Return the largest difference between onnxruntime's outputs and torch's, over the columns that are not padding
    where an output has columns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in batches:
        theirs = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        inside = batch["attention_mask"].numpy().astype(bool) if "attention_mask" in batch else None
        for ours, other in zip(graph(**batch), theirs, strict=True):
            apart = np.abs(ours.numpy() - other)
            if inside is not None and apart.shape[: inside.ndim] == inside.shape:
                apart = apart[inside]
            largest = larger(largest, float(apart.max()))
    return largest
