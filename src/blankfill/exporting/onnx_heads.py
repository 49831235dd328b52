"""A fine-tuned model → ONNX, checked in onnxruntime against torch on rows as the task reads them.

A head gives one graph, `model.onnx`, with the inputs and outputs that transformers' classes have: `logits` of texts
[B, C], of choices [B, S], of tokens [B, T, C]; `start_logits` and `end_logits` of answers, [B, T]. The inputs of
choices are [B, S, T]. A T5 or BART that writes gives two graphs: `encoder_model.onnx`, and
`decoder_model.onnx`, which scores the next token of a text. A cloze is exported as its language model.

Shapes: B rows, S choices, T columns, U columns of the decoder, C outputs, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blankfill.attention.masks import Mask
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.convert.card import README, Describe, Target
from blankfill.convert.check import LONGEST
from blankfill.convert.exporting import export_format
from blankfill.convert.onnx import (
    COMPARED_AT_ONCE,
    FILE,
    ExportedOnnx,
    Lower,
    Named,
    check_encoder,
    compared,
    example_of,
    export_loaded_onnx,
    masked_inputs,
    named_inputs,
    padded,
    padding_mask,
    plain_files,
    write_onnx,
)
from blankfill.errors import UserError, setting
from blankfill.exporting.heads import (
    KINDS,
    PROBLEMS,
    check_linear,
    files_of,
    generation_config,
    loaded_of,
)
from blankfill.exporting.rows import Row, framed, longest_row, rows_to_compare
from blankfill.families.head_format import head_format_of
from blankfill.families.task_heads import HeadKind
from blankfill.model.cross import EncoderOutput
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer
from blankfill.system.files import whole_folder, write_file
from blankfill.tasks.adapter import HeadAdapter
from blankfill.tasks.heads.models import TaskModel
from blankfill.tasks.text.seq2seq_adapter import Write

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.predictor import Predictor
    from blankfill.types import Example

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
OUTPUTS: dict[HeadKind, tuple[str, ...]] = {
    "text": ("logits",), "choice": ("logits",), "token": ("logits",), "span": ("start_logits", "end_logits"),
}  # fmt: skip
"""Names of the outputs for a kind of head."""
CHOICES = 2
"""Choices of the items that are compared."""


class HeadGraph(nn.Module):
    """An encoder with a head, with the inputs and outputs of other programs."""

    def __init__(self, model: TaskModel, kind: HeadKind, first_position: int) -> None:
        super().__init__()
        self.model, self.kind, self.first_position = model, kind, first_position

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        """Return the scores. Inputs int64[B, T], of choices [B, S, T]; see the top of the file."""
        if self.kind == "choice":
            shape = input_ids.shape[:2]
            flat = [None if given is None else given.flatten(0, 1) for given in (attention_mask, token_type_ids)]
            assert flat[0] is not None
            return [self._scores(input_ids.flatten(0, 1), flat[0], flat[1]).reshape(shape)]
        scores = self._scores(input_ids, attention_mask, token_type_ids)
        return [scores[..., 0], scores[..., 1]] if self.kind == "span" else [scores]

    def _scores(self, ids_BT: Tensor, mask_BT: Tensor, types_BT: Tensor | None) -> Tensor:
        encoder, head = self.model.encoder, self.model.head
        inputs = masked_inputs(encoder, self.first_position, ids_BT, mask_BT, types_BT)
        hidden: Tensor = encoder(inputs, encoder.dtype).hidden
        if self.kind in ("text", "choice"):
            weights_BT1 = mask_BT[:, :, None].to(hidden.dtype)
            hidden = (hidden * weights_BT1).sum(1) / weights_BT1.sum(1) if head.mean else hidden[:, 0]
            pooler = encoder.pooler if head.pooled else None
            hidden = hidden if pooler is None else pooler(hidden)
        scores: Tensor = head(hidden)
        return scores


class SourceGraph(nn.Module):
    """The encoder of a model of two stacks."""

    def __init__(self, model: Transformer, first_position: int) -> None:
        super().__init__()
        self.model, self.first_position = model, first_position

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """input_ids, attention_mask: int64[B, T] → [hidden states [B, T, D]]."""
        inputs = masked_inputs(self.model, self.first_position, input_ids, attention_mask, None)
        return [self.model(inputs, encoder_only=True).hidden]


class TargetGraph(nn.Module):
    """The decoder of a model of two stacks, without a cache."""

    def __init__(self, model: Transformer, first_position: int) -> None:
        super().__init__()
        self.model, self.first_position = model, first_position

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> list[Tensor]:
        """input_ids: int64[B, U], what is written so far. encoder_hidden_states: [B, T, D]. encoder_attention_mask:
        int64[B, T]. Returns the scores of the token behind each column, [B, U, V]."""
        dtype = self.model.dtype
        width = input_ids.shape[1]
        columns = torch.arange(width, device=input_ids.device)
        later = (columns[None, :] > columns[:, None]).to(dtype)
        mask = Mask("dense", (later * torch.finfo(dtype).min)[None, None])
        positions = (columns + self.first_position).expand_as(input_ids)[None]
        encoded = EncoderOutput(encoder_hidden_states, padding_mask(encoder_attention_mask, dtype))
        outputs = self.model(Inputs(input_ids, positions, mask), encoded=encoded, logits_at="all")
        assert outputs.logits is not None
        return [outputs.logits]


def export_head_onnx(
    predictor: Predictor,
    path: Path,
    out: Path,
    lines: Sequence[str] | None = None,
    describe: Describe | None = None,
    lower: Lower | None = None,
) -> ExportedOnnx:
    """Write an opened fine-tuned model as ONNX; see `exporting.model.export_onnx`."""
    adapter, model, loaded = predictor.adapter, predictor.model, loaded_of(predictor, path)
    model.encoder.use_kernel("explicit")
    if isinstance(adapter, Write):
        if lower is not None:
            raise UserError(f"{path} writes texts, and ONNX of 8 bits is for encoders; leave out {setting('type')}")
        return _export_writer(predictor, loaded, path, out, lines, describe)
    check_encoder(loaded, path)
    if not isinstance(adapter, HeadAdapter) or not isinstance(model, TaskModel):
        given = rows_to_compare(predictor, loaded, path, lines, "token")
        return replace(export_loaded_onnx(loaded, path, out, given.texts, describe, lower), task=given.task)
    check_linear(model, path)
    kind = KINDS[adapter.task.kind]
    graph = HeadGraph(model, kind, loaded.objective.position_offset).eval()
    given = rows_to_compare(predictor, loaded, path, lines, kind)
    head_format = head_format_of(model.encoder.config, kind, loaded.objective, loaded.vocabulary)
    files = plain_files(loaded) if isinstance(head_format, str) else files_of(head_format, adapter, loaded)
    rows = read_rows(predictor, files["tokenizer.json"], given.rows)
    batches = [batch_of(predictor, rows[k : k + COMPARED_AT_ONCE], kind) for k in range(0, len(rows), COMPARED_AT_ONCE)]
    example = example_of(loaded)
    if kind == "choice":
        example = {name: tensor[None].repeat(2, 1, 1) for name, tensor in example.items()}
    with whole_folder(out) as folder:
        for name, content in files.items():
            write_file(folder / name, content)
        write_onnx(graph, folder / FILE, example, OUTPUTS[kind], metadata_of(predictor))
        largest = compared(graph, folder / FILE, batches, path)
        change = None if lower is None else lower(folder / FILE, batches)
        if describe is not None:
            became = change.text() if change else ""
            target = Target("onnxruntime", ", ".join(OUTPUTS[kind]), given.count, largest, change=became)
            write_file(folder / README, describe(target))
    return ExportedOnnx(out, OUTPUTS[kind], given.count, largest, task=given.task, change=change)


def metadata_of(predictor: Predictor) -> dict[str, Any]:
    """Return what a program that runs the graph must know of the task."""
    adapter = predictor.adapter
    values: dict[str, Any] = {"task": adapter.task.name, "kind": adapter.task.kind}
    values["max_length"] = adapter.input_format.length
    if adapter.labels:
        values["labels"] = list(adapter.labels)
    if problem := PROBLEMS.get(adapter.task.kind):
        values["problem_type"] = problem
    if (threshold := getattr(adapter, "threshold", None)) is not None:
        values["threshold"] = threshold
    return values


def read_rows(predictor: Predictor, tokenizer_json: str, rows: Sequence[Row]) -> list[Example]:
    """Return rows as the task frames them.

    Raises UserError when the exported tokenizer reads one otherwise.
    """
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(tokenizer_json)
    theirs.enable_truncation(longest_row(predictor))
    examples = []
    for first, second in rows:
        row = framed(predictor, first, second).example
        other = theirs.encode(first) if second is None else theirs.encode(first, second)
        typed = len(row.positions) > 1
        if other.ids != row.input_ids.tolist() or (typed and other.type_ids != row.positions[1].tolist()):
            raise UserError(
                f"the export cannot be written: its tokenizer reads {first[:60]!r} otherwise than the model was "
                "fine-tuned to read it"
            )
        examples.append(row)
    return examples


def batch_of(predictor: Predictor, rows: Sequence[Example], kind: HeadKind) -> Named:
    """Return the inputs of some rows, padded, by name; each row is a choice of one item, where items have choices."""
    inputs = named_inputs(predictor.model.encoder, *padded([row.input_ids for row in rows], predictor.pad))
    if "token_type_ids" in inputs and len(rows[0].positions) > 1:
        inputs["token_type_ids"] = padded([row.positions[1] for row in rows], 0)[0]
    return {name: tensor[None] for name, tensor in inputs.items()} if kind == "choice" else inputs


def _export_writer(
    predictor: Predictor,
    loaded: Loaded,
    path: Path,
    out: Path,
    lines: Sequence[str] | None,
    describe: Describe | None,
) -> ExportedOnnx:
    """Write the two graphs of a T5 or BART that writes texts."""
    adapter, model = predictor.adapter, predictor.model.encoder
    assert isinstance(adapter, Write)
    if not loaded.objective.two_sided:
        raise UserError(
            f"{path}: a model of the objective {loaded.objective.name} writes with a cache, for which no graph is "
            f"written; use {setting('format', 'transformers')} where transformers has its class, or `blankfill predict`"
        )
    offset = loaded.objective.position_offset
    source, target = SourceGraph(model, offset).eval(), TargetGraph(model, offset).eval()
    given = rows_to_compare(predictor, loaded, path, lines, "token")
    texts = given.texts
    starts = range(0, len(texts), COMPARED_AT_ONCE)
    batches = [_read_sources(predictor, texts[k : k + COMPARED_AT_ONCE]) for k in starts]
    decoded = [_decoder_batch(source, loaded, batch) for batch in batches]
    outputs = ("last_hidden_state", "logits")
    layout = make_hf_layout(export_format(loaded), loaded.objective, loaded.tokenizer, loaded.vocabulary)
    files = {**layout.files, **generation_config(predictor)}
    with whole_folder(out) as folder:
        for name, content in files.items():
            write_file(folder / name, content)
        metadata = metadata_of(predictor) | {
            "decoder_start": int(loaded.vocabulary[loaded.objective.decoder_start]), "end": adapter.writing.end,
            "max_new_tokens": adapter.writing.longest,
        }  # fmt: skip
        write_onnx(source, folder / ENCODER, batches[0], outputs[:1], metadata)
        write_onnx(target, folder / DECODER, decoded[0], outputs[1:], metadata)
        differences = [
            compared(source, folder / ENCODER, batches, path), compared(target, folder / DECODER, decoded, path),
        ]  # fmt: skip
        largest = None if None in differences else max(value for value in differences if value is not None)
        if describe is not None:
            write_file(folder / README, describe(Target("onnxruntime", ", ".join(outputs), len(texts), largest)))
    return ExportedOnnx(out, outputs, len(texts), largest, (ENCODER, DECODER), given.task)


def _read_sources(predictor: Predictor, texts: Sequence[str]) -> Named:
    """Return a padded batch of sources."""
    adapter = predictor.adapter
    assert isinstance(adapter, Write)
    rows = [adapter.writing.source(ids[:LONGEST], None).row.ids for ids in adapter.tokenizer.encode_batch(list(texts))]
    ids, mask = padded(rows, predictor.pad)
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def _decoder_batch(source: SourceGraph, loaded: Loaded, batch: Named) -> Named:
    """Return inputs of the decoder: each source's own beginning behind the start token."""
    (hidden,) = source(**batch)
    start = torch.full((len(hidden), 1), loaded.vocabulary[loaded.objective.decoder_start])
    written = torch.cat([start, batch["input_ids"][:, :8]], 1)
    return {
        "input_ids": written, "encoder_hidden_states": hidden, "encoder_attention_mask": batch["attention_mask"],
    }  # fmt: skip
