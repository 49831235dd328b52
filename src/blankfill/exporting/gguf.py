"""A model of ours → a folder with `model.gguf` for llama.cpp and its model card, checked by reading the file back.

The numbers of the file are put into a copy of the model, whose scores are compared with the model's on real text: that
is what the type of the file loses. Where xllamacpp is installed, llama.cpp reads the file too (`exporting.llama_cpp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blankfill.chatting.templates import ChatTemplate
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.checkpoint.store import pointed
from blankfill.convert.card import README, Describe, Target
from blankfill.convert.check import our_scores, real_text
from blankfill.convert.exporting import ModelPart, part_of, read_lines, refuse_quantized
from blankfill.convert.gguf import BITS, FILE, GgufType, check_package, put_back, write_gguf
from blankfill.convert.gguf_layout import GgufLayout, Pooling, layout_of
from blankfill.convert.gguf_tokenizer import Frame, tokenizer_values
from blankfill.convert.importing import check_free
from blankfill.convert.score_change import ScoreChange, ScoreComparison
from blankfill.corpus.tokenizer_chat import template_source
from blankfill.errors import UserError
from blankfill.exporting.cards import fine_tuned_card, pretrained_card
from blankfill.exporting.framing import frame_of, framed_ids, vector_of
from blankfill.exporting.heads import loaded_of
from blankfill.exporting.llama_cpp import LlamaCheck, compare_with_llama_cpp
from blankfill.exporting.model import opened
from blankfill.finetuning.predictor import Predictor, holds_fine_tuned
from blankfill.system.files import whole_folder, write_file

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter

TEXTS = 24
"""Number of texts that are compared."""
REMEDY = "choose a type with more bits, such as q8_0 or f16"


@dataclass(frozen=True)
class ExportedGguf:
    """A finished export. size: bytes of the file. change: what became of the scores. check: what llama.cpp computed,
    None where it is not installed. left_out: parts that the file does not have. notes: sentences for the user."""

    folder: Path
    architecture: str
    type: str
    size: int
    texts: int
    change: ScoreChange
    check: LlamaCheck | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def export_gguf(
    path: str | Path,
    out: str | Path,
    type: GgufType = "f16",
    text: str | Path | None = None,
    part: ModelPart = "model",
    pooling: Pooling = "mean",
    force: bool = False,
) -> ExportedGguf:
    """Write a model as GGUF, and compare what the file computes with the model.

    Args:
        path: A run of pretraining, one of its checkpoints, an imported model, or a GPT-2 that was fine-tuned to write.
        out: The new folder.
        type: Type of the matrices.
        text: As for `exporting.model.export_model`.
        part: As for `exporting.model.export_model`.
        pooling: How llama.cpp makes the vector of a text from an encoder: the mean of its columns, or the first.
        force: Whether to write a file that loses more than is allowed.

    Returns:
        The folder, the architecture, and the change of the scores.

    Raises:
        UserError: llama.cpp has no architecture or tokenizer for the model, the gguf package is missing, the file loses
            too much, or llama.cpp computes something else; then nothing is left behind.
    """
    path, out = pointed(Path(path)), Path(out)
    check_free(out)
    check_package()
    lines = read_lines(Path(text)) if text else None
    describe: Describe
    if holds_fine_tuned(path):
        predictor = _writer(path, part)
        loaded, template = loaded_of(predictor, path), predictor.adapter.chat_template
        describe = fine_tuned_card(predictor, out.name)
        made = _export(loaded, path, out, type, lines, pooling, force, describe, template, predictor.adapter)
    else:
        loaded = part_of(load_model(path, dtype=torch.float32), part)
        refuse_quantized(loaded.model, path)
        source = template_source(path) if path.is_dir() else None
        template = None if source is None else ChatTemplate(source.text, where=source.where)
        describe = pretrained_card(loaded, path, out.name)
        made = _export(loaded, path, out, type, lines, pooling, force, describe, template)
    return made


def _writer(path: Path, part: ModelPart) -> Predictor:
    """Open a model that was fine-tuned to write; UserError for every other fine-tuned model."""
    predictor = opened(path, part)
    encoder = predictor.model.encoder
    if encoder.prefix_encoder is not None:
        raise UserError(f"{path} has a prefix, which GGUF has no place for; use it with `blankfill predict`")
    refuse_quantized(predictor.model, path)
    if not encoder.config.lm_head or not predictor.adapter.input_format.objective.causal or not predictor.task.writes:
        raise UserError(
            f"{path} cannot be written as GGUF: llama.cpp has no heads of the task {predictor.task.name} as blankfill "
            "has them; write transformers or onnx, or give the pretrained model for vectors of texts"
        )
    return predictor


def _export(
    loaded: Loaded, path: Path, out: Path, type: GgufType, lines: Sequence[str] | None, pooling: Pooling, force: bool,
    describe: Describe, template: ChatTemplate | None, adapter: Adapter | None = None,
) -> ExportedGguf:  # fmt: skip
    weights = loaded.model.float().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    layout = layout_of(loaded.model.config, loaded.objective, shapes, path, pooling)
    frame = frame_of(loaded, path)
    made = tokenizer_values(
        loaded.tokenizer, loaded.vocabulary, loaded.model.config.vocab_size, frame, loaded.objective.causal, path
    )
    values: dict[str, Any] = dict(made.values)
    if template is not None and loaded.objective.causal:
        values["tokenizer.chat_template"] = template.source
        if closing := template.closing(loaded.tokenizer):
            values["tokenizer.ggml.eot_token_id"] = closing[0]
    texts = list(lines if lines is not None else real_text(loaded, path, TEXTS))
    with whole_folder(out) as folder:
        file = folder / FILE
        write_gguf(file, layout, values, weights, type, out.name)
        change = change_of(loaded, layout, file, texts, frame, pooling, BITS[type])
        change.check(f"a file of the type {type}", REMEDY, force)
        check = compare_with_llama_cpp(loaded, file, texts, frame, pooling, change, path)
        size = file.stat().st_size
        target = Target("llama.cpp", f"{layout.architecture}, {type}", len(texts), None, ", ".join(layout.left_out),
                        change=change.text(), read="" if check is None else check.text())  # fmt: skip
        write_file(folder / README, describe(target))
    notes = made.notes + ((_GELU,) if loaded.model.config.activation == "gelu" else ())
    return ExportedGguf(
        out, layout.architecture, type, size, len(texts), change, check, layout.left_out, notes
    )  # fmt: skip


_GELU = "llama.cpp computes this model's GELU by its tanh approximation, which changes scores a little"


@torch.inference_mode()
def change_of(
    loaded: Loaded, layout: GgufLayout, file: Path, texts: Sequence[str], frame: Frame, pooling: Pooling, bits: float
) -> ScoreChange:
    """Return how the scores of the model change with the numbers of a file."""
    copy = replace(loaded, model=deepcopy(loaded.model))
    put_back(file, layout, copy.model.state_dict())
    comparison = ScoreComparison(bits)
    for text in texts:
        ids = framed_ids(loaded, text, frame)
        if len(ids) < 2:
            continue
        if loaded.objective.causal:
            row = loaded.format.export_row(np.array(ids[:-1], np.int32))
            comparison.add_scores(our_scores(loaded, row), our_scores(copy, row), torch.tensor(ids[1:]))
        else:
            comparison.add_vectors(*(vector_of(model, ids, pooling) for model in (loaded, copy)))
    return comparison.result()
