"""A fine-tuned model → a folder that transformers opens with the same head, checked against it.

A classifier, tagger, model of answers or of choices becomes `AutoModelForSequenceClassification`,
`…TokenClassification`, `…QuestionAnswering` or `…MultipleChoice`, with its labels in config.json. A model that answers
with its language-model head (a cloze, texts) is exported as the language model that it is.

Shapes: T columns of a row, C outputs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.convert.card import README, Describe, Target
from blankfill.convert.exporting import Exported, differs, export_loaded
from blankfill.errors import UserError, setting
from blankfill.families.head_format import HeadFormat, head_format_of
from blankfill.families.task_heads import HeadKind
from blankfill.finetuning import tuned
from blankfill.finetuning.predictor import Predictor
from blankfill.system.environment import has_module
from blankfill.system.files import whole_folder, write_file

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.exporting.rows import Row
    from blankfill.objectives import FramedRow
    from blankfill.tasks.adapter import HeadAdapter
    from blankfill.tasks.heads.models import TaskModel
    from blankfill.types import Example

KINDS: dict[str, HeadKind] = {
    "classify": "text", "regress": "text", "multilabel": "text", "choice": "choice", "tag": "token", "answer": "span",
}  # fmt: skip
"""The class of transformers for a kind of task."""
PROBLEMS = {task: problem for problem, task in tuned.PROBLEMS.items()}
"""`problem_type` of transformers for a kind of task."""
GENERATION = "generation_config.json"
"""File of transformers with the options of a search for texts."""


def export_fine_tuned(
    predictor: Predictor,
    path: Path,
    out: Path,
    lines: Sequence[str] | None = None,
    describe: Describe | None = None,
) -> Exported:
    """Write an opened fine-tuned model; see `export_model`.

    lines: texts to compare; None for usual ones. describe: writes the model card.
    """
    from blankfill.checkpoint.store import MODEL, write_weights
    from blankfill.convert.check import TOLERANCE
    from blankfill.exporting.rows import rows_to_compare
    from blankfill.tasks.adapter import HeadAdapter
    from blankfill.tasks.heads.models import TaskModel

    adapter, model, loaded = predictor.adapter, predictor.model, loaded_of(predictor, path)
    if not isinstance(adapter, HeadAdapter) or not isinstance(model, TaskModel):
        compared = rows_to_compare(predictor, loaded, path, lines, "token")
        made = export_loaded(loaded, path, out, compared.texts, describe, generation_config(predictor))
        return replace(made, task=compared.task)
    kind = KINDS[adapter.task.kind]
    head_format = format_of_head(predictor, path)
    compared, largest = rows_to_compare(predictor, loaded, path, lines, kind), None
    with whole_folder(out) as folder:
        for name, content in files_of(head_format, adapter, loaded).items():
            write_file(folder / name, content)
        write_weights(folder / MODEL, head_format.to_theirs(model.encoder.state_dict(), *head_layers(model)))
        if has_module("transformers"):
            largest = head_difference(predictor, folder, kind, compared.rows)
            if not largest <= TOLERANCE:
                raise UserError(differs(path, largest))
        if describe is not None:
            target = Target("transformers", head_format.names.architecture, compared.count, largest)
            write_file(folder / README, describe(target))
    return Exported(out, head_format.names.architecture, compared.count, largest, task=compared.task)


def loaded_of(predictor: Predictor, path: Path) -> Loaded:
    """Return the encoder of a fine-tuned model like a pretrained model of the folder."""
    from blankfill.checkpoint.load import Loaded

    adapter, format = predictor.adapter, predictor.adapter.input_format
    return Loaded(predictor.model.encoder, adapter.tokenizer, format.vocabulary, format.objective, path)


def format_of_head(predictor: Predictor, path: Path) -> HeadFormat:
    """Return the class of transformers that computes what a head does; UserError if there is none."""
    from blankfill.tasks.heads.models import TaskModel

    adapter, model = predictor.adapter, predictor.model
    assert isinstance(model, TaskModel)
    check_linear(model, path)
    format = adapter.input_format
    head_format = head_format_of(
        model.encoder.config, KINDS[adapter.task.kind], format.objective, format.vocabulary, format.encoder_only
    )
    if isinstance(head_format, str):
        raise UserError(f"{path} cannot be exported: {head_format}")
    return head_format


def check_linear(model: TaskModel, path: Path) -> None:
    """Raise UserError for a head on features of the encoder's layers."""
    if model.reader is not None:
        raise UserError(
            f"{path} cannot be exported: its head reads features of several layers or an LSTM, and no class of "
            f"transformers does; fine-tune it without {setting('features')} and {setting('head')}"
        )


def generation_config(predictor: Predictor) -> dict[str, str]:
    """Return generation_config.json of a model of two stacks that writes texts, with the search of the run, by name; {}
    for any other model."""
    from blankfill.generation.engine import banned
    from blankfill.tasks.text.seq2seq_adapter import Write

    adapter = predictor.adapter
    format, vocabulary = adapter.input_format.format, adapter.input_format.vocabulary
    if not isinstance(adapter, Write) or not format.objective.two_sided:
        return {}
    search, begun = adapter.search, format.target_input(format.source([0]), 1).input_ids.tolist()
    never = banned(vocabulary, predictor.model.encoder.config.vocab_size).nonzero()[0].tolist()
    values: dict[str, Any] = {
        "decoder_start_token_id": begun[0], "eos_token_id": search.end, "pad_token_id": vocabulary.roles.get("pad"),
        "num_beams": search.beams, "length_penalty": search.length_penalty,
        "no_repeat_ngram_size": search.no_repeat_ngram, "do_sample": False,
        "max_new_tokens": search.longest + len(begun) - 1,
        "suppress_tokens": [token for token in never if token not in (search.end, *begun)],
        "begin_suppress_tokens": [search.end],
    }  # fmt: skip
    if len(begun) > 1:
        values["forced_bos_token_id"] = begun[1]
    return {GENERATION: json.dumps(values, indent=2) + "\n"}


def head_layers(model: TaskModel) -> list[dict[str, torch.Tensor]]:
    """Return the weights of the head's layers: of the scores, of the layer before them, and of its norm; {} for a layer
    that the head does not have."""
    pooler = model.encoder.pooler if model.head.pooled else None
    dense = model.head.dense if pooler is None else pooler.dense
    return [{} if layer is None else layer.state_dict() for layer in (model.head.output, dense, model.head.norm)]


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


def head_difference(predictor: Predictor, folder: Path, kind: HeadKind, rows: Sequence[Row]) -> float:
    """Return the largest difference between transformers' scores and ours over rows.

    folder: the export. Raises UserError when its tokenizer reads a text otherwise than ours.
    """
    from blankfill.convert.check import open_in_transformers

    theirs = open_in_transformers(folder, predictor.adapter.input_format.objective.hf_auto_class)
    return head_difference_of(predictor, theirs, folder, kind, rows)


def head_difference_of(predictor: Predictor, theirs: Any, folder: Path, kind: HeadKind, rows: Sequence[Row]) -> float:
    """Return the difference of `head_difference` for an opened model. folder: of its tokenizer."""
    import torch

    from blankfill.convert.check import larger

    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    largest = 0.0
    with torch.inference_mode():
        for first, second in rows:
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


def read_both(
    predictor: Predictor, tokenizer: Any, first: str, second: str | None
) -> tuple[dict[str, torch.Tensor], FramedRow]:
    """(what transformers' tokenizer makes of a text or a pair, our row of it), cut to `LONGEST` tokens."""
    from blankfill.exporting.rows import framed, longest_row

    row = framed(predictor, first, second)
    read = row.example if row.example.context is None else row.example.context
    room = {"truncation": True, "max_length": longest_row(predictor), "return_tensors": "pt"}
    inputs = dict(tokenizer(first, **room) if second is None else tokenizer(first, second, **room))
    if inputs["input_ids"][0].tolist() != read.input_ids.tolist():
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
