"""A fine-tuned model → a folder that transformers opens with the same head, checked against it.

A classifier, tagger or model of answers becomes `AutoModelForSequenceClassification`, `…TokenClassification` or
`…QuestionAnswering`, with its labels in config.json. A model that answers with its language-model head (a cloze, texts)
is exported as the language model that it is.

Shapes: T columns of a row, C outputs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.checkpoint.load import load_model
from blankfill.convert.exporting import Exported, ModelPart, differs, export_loaded, part_of, read_lines
from blankfill.convert.importing import check_free
from blankfill.errors import UserError, setting
from blankfill.families.head_format import HeadFormat, head_format_of
from blankfill.families.task_heads import HeadKind
from blankfill.finetuning.predictor import Predictor, holds_fine_tuned, open_predictor
from blankfill.system.environment import has_module
from blankfill.system.files import whole_folder, write_file

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.objectives import FramedRow
    from blankfill.tasks.adapter import HeadAdapter
    from blankfill.types import Example

KINDS: dict[str, HeadKind] = {
    "classify": "text", "regress": "text", "multilabel": "text", "choice": "choice", "tag": "token", "answer": "span",
}  # fmt: skip
"""The class of transformers for a kind of task."""
PROBLEMS = {
    "classify": "single_label_classification", "regress": "regression", "multilabel": "multi_label_classification",
}  # fmt: skip
"""`problem_type` of transformers for a kind of task."""
PAIR_WORDS = 12
"""Words of each text of a pair that is compared."""


def export_model(
    path: str | Path, out: str | Path, text: str | Path | None = None, part: ModelPart = "model"
) -> Exported:
    """Write a model as a folder for transformers, and compare what transformers computes from it.

    Args:
        path: A run of pretraining or fine-tuning, one of its checkpoints, or an imported model.
        out: The new folder.
        text: File whose lines are compared; None for the run's validation text, else Python's documentation and words
            of the vocabulary.
        part: "model", or "generator" for the small language model that a model for replaced tokens was trained with.

    Returns:
        The folder, the class of transformers, and the largest difference of scores.

    Raises:
        UserError: transformers has no class for the model or its head, or computes something else from the folder; then
            nothing is left behind.
    """
    path, out = Path(path), Path(out)
    check_free(out)
    lines = read_lines(Path(text)) if text else None
    if not holds_fine_tuned(path):
        return export_loaded(part_of(load_model(path), part), path, out, lines)
    if part != "model":
        raise UserError(f"{path}: a fine-tuned model has no generator; leave out {setting('part')}")
    predictor = open_predictor(path, "cpu", None)
    if not isinstance(predictor, Predictor):
        raise UserError(f"{path} is an ensemble of several models; export one of the runs in it")
    return export_fine_tuned(predictor, path, out, lines)


def export_fine_tuned(predictor: Predictor, path: Path, out: Path, lines: Sequence[str] | None = None) -> Exported:
    """Write an opened fine-tuned model; see `export_model`. lines: texts to compare; None for usual ones."""
    from blankfill.checkpoint.load import Loaded
    from blankfill.checkpoint.store import MODEL, write_weights
    from blankfill.convert.check import TOLERANCE, real_text
    from blankfill.tasks.adapter import HeadAdapter
    from blankfill.tasks.heads.models import TaskModel

    adapter, model = predictor.adapter, predictor.model
    format = adapter.input_format
    loaded = Loaded(model.encoder, adapter.tokenizer, format.vocabulary, format.objective, path)
    if not isinstance(adapter, HeadAdapter) or not isinstance(model, TaskModel):
        return export_loaded(loaded, path, out, lines)
    if model.reader is not None:
        raise UserError(
            f"{path} cannot be exported: its head reads features of several layers or an LSTM, and no class of "
            f"transformers does; fine-tune it without {setting('features')} and {setting('head')}"
        )
    kind = KINDS[adapter.task.kind]
    head_format = head_format_of(model.encoder.config, kind, format.objective, format.vocabulary)
    if isinstance(head_format, str):
        raise UserError(f"{path} cannot be exported: {head_format}")
    texts, largest = lines if lines is not None else real_text(loaded, path), None
    with whole_folder(out) as folder:
        for name, content in files_of(head_format, adapter, loaded).items():
            write_file(folder / name, content)
        pooler = model.encoder.pooler if model.head.pooled else None
        dense = model.head.dense if pooler is None else pooler.dense
        layers = [{} if layer is None else layer.state_dict() for layer in (model.head.output, dense, model.head.norm)]
        write_weights(folder / MODEL, head_format.to_theirs(model.encoder.state_dict(), *layers))
        if has_module("transformers"):
            largest = head_difference(predictor, folder, kind, texts)
            if not largest <= TOLERANCE:
                raise UserError(differs(path, largest))
    return Exported(out, head_format.names.architecture, len(texts), largest)


def files_of(head_format: HeadFormat, adapter: HeadAdapter, loaded: Loaded) -> dict[str, str]:
    """The texts of config.json and of the tokenizer's files, by name."""
    from blankfill.checkpoint.hf_layout import make_hf_layout
    from blankfill.checkpoint.hf_loading import CONFIG

    head: dict[str, Any] = {}
    if kind := PROBLEMS.get(adapter.task.kind):
        head["problem_type"] = kind
    if adapter.task.kind in ("classify", "multilabel", "tag"):
        head["id2label"] = {str(k): name for k, name in enumerate(adapter.labels)}
        head["label2id"] = {name: k for k, name in enumerate(adapter.labels)}
    elif adapter.task.kind == "regress":
        head |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    files = dict(make_hf_layout(head_format.encoder, loaded.objective, loaded.tokenizer, loaded.vocabulary).files)
    values = head_format.config_json(loaded.vocabulary, "float32", head)
    return {**files, CONFIG: json.dumps(values, indent=2, ensure_ascii=False) + "\n"}


def head_difference(predictor: Predictor, folder: Path, kind: HeadKind, texts: Sequence[str]) -> float:
    """The largest difference between transformers' scores and ours over texts, and over pairs where the kind has any.

    folder: the export. Raises UserError when its tokenizer reads a text otherwise than ours.
    """
    import torch

    from blankfill.checkpoint.hf_loading import CONFIG
    from blankfill.convert.check import larger, no_bars
    from blankfill.system.reading import read_json

    transformers: Any = importlib.import_module("transformers")
    with no_bars(transformers):
        maker = getattr(transformers, read_json(folder / CONFIG)["architectures"][0])
        theirs = maker.from_pretrained(folder).float().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    largest = 0.0
    with torch.inference_mode():
        for first, second in rows_of(texts, kind):
            inputs, row = read_both(predictor, tokenizer, first, second)
            if kind == "choice":
                inputs = {name: tensor[None] for name, tensor in inputs.items()}
            outputs = theirs(**inputs)
            if kind == "span":
                scores = torch.stack([outputs.start_logits, outputs.end_logits], -1)[0]
            else:
                scores = outputs.logits[0] if kind == "token" else outputs.logits
            largest = larger(largest, float((scores - our_scores(predictor, row, kind)).abs().max()))
    return largest


def rows_of(texts: Sequence[str], kind: HeadKind) -> Iterator[tuple[str, str | None]]:
    """Texts and pairs of texts to compare; choices and answers are pairs."""
    for text in texts:
        words = text.split()
        if kind in ("text", "token"):
            yield text, None
        if kind != "token" and len(words) > 1:
            middle = min(len(words) // 2, PAIR_WORDS)
            yield " ".join(words[:middle]), " ".join(words[middle : middle + PAIR_WORDS])


def read_both(
    predictor: Predictor, tokenizer: Any, first: str, second: str | None
) -> tuple[dict[str, torch.Tensor], FramedRow]:
    """(what transformers' tokenizer makes of a text or a pair, our row of it), cut to `LONGEST` tokens."""
    from blankfill.convert.check import LONGEST
    from blankfill.tasks.input_format import InputFormat

    adapter = predictor.adapter
    format = InputFormat(adapter.input_format.format, min(LONGEST, adapter.input_format.length))
    a, b = adapter.tokenizer.encode(first), None if second is None else adapter.tokenizer.encode(second)
    row = format.frame(a, b)
    room = {"truncation": True, "max_length": format.length, "return_tensors": "pt"}
    inputs = dict(tokenizer(first, **room) if second is None else tokenizer(first, second, **room))
    if inputs["input_ids"][0].tolist() != row.example.input_ids.tolist():
        what = repr(first[:60]) if second is None else f"the pair {first[:30]!r}, {second[:30]!r}"
        raise UserError(
            f"the export cannot be written: transformers' tokenizer reads {what} otherwise than the model was "
            "fine-tuned to read it"
        )
    return inputs, row


def our_scores(predictor: Predictor, row: FramedRow, kind: HeadKind) -> torch.Tensor:
    """Our scores of a row: [1, C] of a text, [T, C] of its columns."""
    import torch

    from blankfill.data.batching import collate
    from blankfill.tasks.batching import ANSWER
    from blankfill.tasks.heads.models import TaskModel

    assert isinstance(predictor.model, TaskModel)
    example: Example = row.example
    columns = [row.pooled] if kind in ("text", "choice") else list(range(len(example)))
    batch = collate([[example]], predictor.pad)
    answer = torch.tensor(columns), torch.zeros(len(columns), dtype=torch.int64)
    return predictor.model.scores(replace(batch, labels={ANSWER: answer}))
