"""An encoder of ours → ONNX, checked in onnxruntime against torch.

`model.onnx` takes `input_ids` and `attention_mask`, and `token_type_ids` where the model has them (int64, [batch,
length], any batch and any length up to the model's positions), and gives `last_hidden_state`, and `logits` where the
model has a language-model head. The mask says which columns are padding; padding is at the end of a row. The tokenizer
is in the same folder, so that a program needs this folder only. Generative models (gpt, glm) decode token by token
and are not exported here.

Shapes: B rows, T columns, D width.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from blankfill.attention.masks import Mask
from blankfill.checkpoint.hf_layout import hf_layout_of
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.convert.check import TOLERANCE, larger, real_text
from blankfill.convert.exporting import ModelPart, part_of, read_lines
from blankfill.convert.importing import check_free
from blankfill.errors import UserError, setting
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer
from blankfill.objectives import OBJECTIVES
from blankfill.system.environment import has_module
from blankfill.system.files import whole_folder, write_file

FILE = "model.onnx"
IN_ONE_FILE = 1_500_000_000
"""Maximum size in bytes of weights inside model.onnx; a protocol buffer holds at most 2 GB."""
COMPARED_AT_ONCE = 3
"""Texts of a batch that is compared: several batches, of several sizes and widths."""


@dataclass(frozen=True)
class ExportedOnnx:
    """A finished export. outputs: their names. difference: the largest between onnxruntime and torch over the texts;
    None when onnxruntime is not installed, so that nothing was compared."""

    folder: Path
    outputs: tuple[str, ...]
    texts: int
    difference: float | None


class Encoder(nn.Module):
    """The model with the interface of other programs: ids and a mask of ones and zeros → hidden states and token
    scores."""

    def __init__(self, model: Transformer, first_position: int) -> None:
        super().__init__()
        self.model = model
        self.first_position = first_position

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """input_ids, attention_mask, token_type_ids: int64[B, T] → [hidden [B, T, D]], and the scores [B, T, V]."""
        columns = torch.arange(input_ids.shape[1], device=input_ids.device) + self.first_position
        positions = [columns.expand_as(input_ids)]
        if token_type_ids is not None:
            positions.append(token_type_ids)
        hidden = (1 - attention_mask[:, None, None, :]).to(self.model.token_embeddings.weight.dtype)
        # finite, so that a row of padding alone has no softmax without a term
        mask = Mask("dense", hidden * torch.finfo(hidden.dtype).min)
        wanted = "all" if self.model.config.lm_head else None
        outputs = self.model(Inputs(input_ids, torch.stack(positions), mask), hidden.dtype, logits_at=wanted)
        return [outputs.hidden] if outputs.logits is None else [outputs.hidden, outputs.logits]


def export_onnx(
    path: str | Path, out: str | Path, text: str | Path | None = None, part: ModelPart = "model"
) -> ExportedOnnx:
    """Write a run, a checkpoint or an imported model to the new folder `out` as ONNX.

    text: a file whose lines are compared; without it the run's validation text, else Python's documentation and words
    of the vocabulary. part: as for `export_model`. Raises UserError for a model that is no encoder, for missing
    packages, and when onnxruntime computes something else than torch; then nothing is left behind.
    """
    out = Path(out)
    check_free(out)
    if missing := [name for name in ("onnx", "onnxscript") if not has_module(name)]:
        raise UserError(f'ONNX needs {" and ".join(missing)}; install them with: pip install "blankfill[export]"')
    lines = read_lines(Path(text)) if text else None
    loaded = part_of(load_model(path, dtype=torch.float32), part)
    if not loaded.objective.masked:
        encoders = ", ".join(name for name, kind in OBJECTIVES.items() if kind.masked)
        raise UserError(
            f"{path}: ONNX is for encoders ({encoders}), and this model's objective is {loaded.objective.name}; "
            f"use {setting('format', 'transformers')}"
        )
    encoder = Encoder(loaded.model.eval(), loaded.objective.position_offset)
    encoder.model.use_kernel("explicit")  # plain products, which every runtime has
    batches = list(inputs_of(loaded, lines if lines is not None else real_text(loaded, Path(path)), encoder))
    largest = None
    with whole_folder(out) as folder:
        hf_layout = hf_layout_of(loaded.model.config, loaded.objective, loaded.tokenizer)
        files = hf_layout.files if hf_layout is not None else loaded.tokenizer.files()
        for name, content in files.items():
            write_file(folder / name, content)
        outputs = write_onnx(encoder, folder / FILE)
        if has_module("onnxruntime"):
            largest = difference(encoder, folder / FILE, batches)
            if not largest <= TOLERANCE:
                raise UserError(
                    f"{path}: onnxruntime computes other numbers from the export than torch from the model: they "
                    f"differ by up to {largest:.2g}, and {TOLERANCE:g} is allowed; please report this"
                )
    return ExportedOnnx(out, outputs, sum(len(batch["input_ids"]) for batch in batches), largest)


def inputs_of(loaded: Loaded, texts: list[str], encoder: Encoder) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of texts, by the names of the inputs, with different sizes and lengths."""
    room = loaded.model.config.position_sizes[0] - encoder.first_position - 2
    cls, sep, pad = (loaded.vocabulary[role] for role in ("cls", "sep", "pad"))
    for first in range(0, len(texts), COMPARED_AT_ONCE):
        encoded = loaded.tokenizer.encode_batch(texts[first : first + COMPARED_AT_ONCE])
        rows = [[cls, *ids[:room], sep] for ids in encoded]
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        yield named_inputs(loaded.model, ids, mask)


def named_inputs(model: Transformer, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the inputs of a model by name; token types, if it has them, are zeros."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "token_type_ids": torch.zeros_like(ids)} if len(model.config.position_sizes) > 1 else inputs


def write_onnx(encoder: Encoder, path: Path) -> tuple[str, ...]:
    """Trace the encoder and write it; returns the names of its outputs."""
    outputs = ("last_hidden_state", "logits") if encoder.model.config.lm_head else ("last_hidden_state",)
    shortest = min(encoder.model.config.position_sizes[0] - encoder.first_position, 16)
    ids = torch.ones((2, shortest), dtype=torch.int64)
    example = named_inputs(encoder.model, ids, torch.ones_like(ids))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    with quiet(), torch.no_grad():
        torch.onnx.export(
            encoder, (), str(path), kwargs=example, input_names=list(example), output_names=list(outputs),
            dynamic_shapes=dict.fromkeys(example, axes), dynamo=True, external_data=size > IN_ONE_FILE, verbose=False,
        )  # fmt: skip
    return outputs


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


@torch.no_grad()
def difference(encoder: Encoder, file: Path, batches: list[dict[str, Tensor]]) -> float:
    """Return the largest difference between onnxruntime's outputs and torch's, over the columns that are not
    padding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in batches:
        theirs = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        inside = batch["attention_mask"].numpy().astype(bool)
        for ours, other in zip(encoder(**batch), theirs, strict=True):
            largest = larger(largest, float(np.abs(ours.numpy() - other)[inside].max()))
    return largest
