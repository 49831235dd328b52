"""A model of any kind → a folder of another program, with a model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from blankfill.checkpoint.load import load_model
from blankfill.checkpoint.store import pointed
from blankfill.checkpoint.streams import ShardKind
from blankfill.convert.exporting import (
    Exported,
    ModelPart,
    dequantize,
    export_loaded,
    part_of,
    read_lines,
    refuse_quantized,
)
from blankfill.convert.importing import check_free
from blankfill.errors import UserError, setting
from blankfill.exporting.cards import fine_tuned_card, pretrained_card, writes_elsewhere
from blankfill.exporting.heads import export_fine_tuned
from blankfill.finetuning.predictor import Predictor, holds_fine_tuned, open_predictor

if TYPE_CHECKING:
    from blankfill.convert.onnx import ExportedOnnx
    from blankfill.exporting.onnx_int8 import OnnxType

LOWERED_TEXTS = 24
"""Number of texts on which a graph of 8 bits is compared."""
LoraExport = Literal["merged", "adapter"]


def export_model(
    path: str | Path,
    out: str | Path,
    text: str | Path | None = None,
    part: ModelPart = "model",
    lora: LoraExport = "merged",
    shards: ShardKind = "safetensors",
) -> Exported:
    """Write a model as a folder for transformers, and compare what transformers computes from it.

    Args:
        path: A run of pretraining or fine-tuning, one of its checkpoints, or an imported model.
        out: The new folder.
        text: File whose lines are compared; None for the run's validation text, else Python's documentation and words
            of the vocabulary.
        part: "model", or "generator" for the small language model that a model for replaced tokens was trained with.
        lora: "merged" adds the matrices of LoRA to the weights; "adapter" writes them or a prefix for peft, beside the
            model that they belong to, or a prefix as ChatGLM-6B's code does.
        shards: "safetensors", or "bin" for the pickles that older programs read; of a pretrained model.

    Returns:
        The folder, the class of transformers, and the largest difference of scores.

    Raises:
        UserError: transformers has no class for the model or its head, or computes something else from the folder; then
            nothing is left behind.
    """
    path, out = pointed(Path(path)), Path(out)
    check_free(out)
    lines = read_lines(Path(text)) if text else None
    if not holds_fine_tuned(path):
        loaded = part_of(load_model(path), part)
        if lora == "adapter":
            raise UserError(f"{path} was not fine-tuned with LoRA; leave out {setting('lora')}")
        return export_loaded(loaded, path, out, lines, pretrained_card(loaded, path, out.name), shards=shards)
    predictor = opened(path, part)
    if predictor.model.encoder.prefix_encoder is not None:
        if lora != "adapter":
            raise UserError(
                f"{path} has a prefix, which is not a part of any class of transformers; "
                f"{setting('lora', 'adapter')} writes it for the program that has one"
            )
        from blankfill.exporting.prefix import export_prefix

        return export_prefix(predictor, path, out, lines)
    if lora == "adapter":
        from blankfill.exporting.adapter import export_adapter

        refuse_quantized(predictor.model, path)
        return export_adapter(predictor, path, out, lines)
    dequantize(predictor.model, path, torch.float32)
    made = export_fine_tuned(predictor, path, out, lines, fine_tuned_card(predictor, out.name))
    if template := predictor.adapter.chat_template:
        template.save(out)
    return replace(made, note=writes_elsewhere(predictor))


def export_onnx(
    path: str | Path,
    out: str | Path,
    text: str | Path | None = None,
    part: ModelPart = "model",
    type: OnnxType = "f32",
    reduce_range: bool = True,
    force: bool = False,
) -> ExportedOnnx:
    """Write a model as ONNX, and compare what onnxruntime computes from it with torch.

    Args:
        path: A run of pretraining or fine-tuning of an encoder, one of its checkpoints, or an imported model.
        out: The new folder.
        text: As for `export_model`.
        part: As for `export_model`.
        type: Type of the matrices: f32, or int8 and int8_blocks, which are compared with f32 on real rows.
        reduce_range: Whether the weights of int8 have 7 bits, for processors without VNNI.
        force: Whether to write a graph that loses more than is allowed.

    Returns:
        The folder, the names of the outputs, and the largest difference.

    Raises:
        UserError: The model is not an encoder, a package is missing, or onnxruntime computes something else; then
            nothing is left behind.
    """
    from blankfill.convert.onnx import check_packages, export_loaded_onnx

    path, out = pointed(Path(path)), Path(out)
    check_free(out)
    check_packages()
    lines = read_lines(Path(text)) if text else None
    if holds_fine_tuned(path):
        from blankfill.exporting.onnx_heads import export_head_onnx

        predictor = opened(path, part)
        dequantize(predictor.model, path, torch.float32)
        if predictor.model.encoder.prefix_encoder is not None:
            raise UserError(f"{path} has a prefix, which is not written as ONNX; predict with `blankfill predict`")
        lower = None
        if type != "f32":
            from blankfill.exporting.onnx_int8 import check_packages as check_int8
            from blankfill.exporting.onnx_int8 import lowering

            check_int8()
            cloze = predictor.adapter.input_format.vocabulary.roles.get("mask")
            lower = lowering(type, reduce_range, force, cloze, predictor.task.kind == "multilabel")
        return export_head_onnx(predictor, path, out, lines, fine_tuned_card(predictor, out.name), lower)
    loaded = part_of(load_model(path, dtype=torch.float32), part)
    dequantize(loaded.model, path, torch.float32)
    loaded = replace(loaded, quantization=None)
    lower = None
    if type != "f32":
        from blankfill.convert.check import real_text
        from blankfill.exporting.onnx_int8 import check_packages as check_int8
        from blankfill.exporting.onnx_int8 import lowering

        check_int8()
        lower = lowering(type, reduce_range, force, loaded.vocabulary.roles.get("mask"), labels=False)
        lines = lines if lines is not None else real_text(loaded, path, LOWERED_TEXTS)
    return export_loaded_onnx(loaded, path, out, lines, pretrained_card(loaded, path, out.name), lower)


def opened(path: Path, part: ModelPart) -> Predictor:
    """Open a fine-tuned model on the CPU; UserError for one that is several models, or for another part of it."""
    if part != "model":
        raise UserError(f"{path}: a fine-tuned model has no generator; leave out {setting('part')}")
    predictor = open_predictor(path, "cpu", None)
    if not isinstance(predictor, Predictor):
        raise UserError(f"{path} is an ensemble of several models; export one of the runs in it")
    return predictor
