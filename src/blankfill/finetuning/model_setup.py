"""The model of a fine-tuning run: the pretrained model, the adapter of its task, and the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.unknown import counting
from blankfill.errors import ConfigError, UserError, setting
from blankfill.finetuning.config import FinetuneConfig, write_config
from blankfill.finetuning.data import TaskData
from blankfill.finetuning.forgetting import OldText
from blankfill.finetuning.notes import check_inputs, model_note
from blankfill.runs.inputs import Note, begin_note
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.tasks.cloze.pattern import PATTERNS
from blankfill.tasks.cloze.soft_labels import with_soft_labels
from blankfill.tasks.items import listed
from blankfill.tasks.options import FinetuneOptions

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.model.config import TransformerConfig
    from blankfill.model.prefix import PrefixShape
    from blankfill.model.transformer import Transformer
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start
    from blankfill.tasks.adapter import Adapter
    from blankfill.tasks.batching import EncodedItem
    from blankfill.tasks.heads.models import AnswerModel
    from blankfill.tasks.items import Item
    from blankfill.tasks.task import Task


@dataclass(frozen=True)
class TaskSetup:
    """The model and data of a run. encoded: the training items as model inputs. note: the run's record of its inputs.
    base: the identity of the pretrained model, for an adapter."""

    loaded: Loaded
    adapter: Adapter
    encoded: list[EncodedItem]
    model: AnswerModel
    note: Note
    base: dict[str, Any]
    old: OldText | None = None
    """The old text that is replayed or measured."""


def set_up(
    config: FinetuneConfig, options: FinetuneOptions, data: TaskData, context: RunContext, start: Start
) -> TaskSetup:
    """Load the pretrained model, encode the data, and build the model of the task.

    A new run records its inputs in its folder; a resumed one compares them with its records.

    Args:
        config: The configuration, as the run notes it.
        options: The current options; those of the machine may differ from the configuration's.
        data: The data of the run.
        context: The process and its folder.
        start: How the run starts.

    Raises:
        UserError: The model and the task do not fit, or an input of a resumed run has changed.
    """
    from blankfill.adapt.identity import identity_of
    from blankfill.tasks.text.seq2seq_adapter import Write

    out = context.folder
    loaded, noted = load_pretrained(config)
    of_run = with_saved_patterns(options, out) if start.resumed else options
    adapter = build_adapter(data.task, data.train.labels, loaded, of_run)
    note = data.note(config, noted, patterns_of(adapter))
    old = OldText.opened(loaded, options, out) if options.replay else None
    if old is not None:
        note = {**note, "data": {**note["data"], "old text": old.mark()}}
    if start.resumed:
        note = check_inputs(out, config, start, note, loaded.tokenizer)
    if isinstance(adapter, Write):
        adapter.check_answers(data.dev.items)
    with counting("the training texts", allow=options.allow_unknown, report=True):
        encoded = adapter.encode(data.learnt.items, learn=True).encoded
    if data.soft_labels is not None:
        encoded = with_soft_labels(encoded, data.soft_labels[1])
    base = {**identity_of(loaded.model, config.model), "path": str(config.model.resolve())}
    model = build_model(loaded, adapter, data.train.items, options, context.device, context.dtype)
    model.encoder.use_kernel(context.machine.attention)
    if not start.resumed:
        loaded.tokenizer.save(out)
        note = begin_note(out, note, loaded.tokenizer)
        if template := adapter.chat_template:
            template.save(out)
        elif patterns := patterns_of(adapter):
            write_file(out / PATTERNS, patterns)
        write_config(out, config)  # the last: with it, the folder is a run to resume
    return TaskSetup(loaded, adapter, encoded, model, note, base, old)


def load_pretrained(config: FinetuneConfig) -> tuple[Loaded, Note]:
    """Return the pretrained model, or one like it with weights drawn from the seed; and the record of the former.

    Of a fine-tuned model this is its encoder, with its head (`Loaded.head`) if training is to continue with that.
    """
    import torch

    from blankfill.checkpoint.load import load_model
    from blankfill.finetuning.predictor import holds_fine_tuned

    if holds_fine_tuned(config.model):
        loaded = encoder_of_tuned(config.model)
    else:
        loaded = load_model(config.model, dtype=torch.float32)  # master weights
    part = loaded.language_model if config.options.method == "cloze" else loaded.encoder
    loaded = dataclasses.replace(loaded, model=part)
    note = model_note(loaded)
    if config.options.from_scratch:
        loaded.model.initialise(config.options.seed)
    return loaded, note


def encoder_of_tuned(path: Path) -> Loaded:
    """Return the encoder of a fine-tuned model with its head; UserError for a model that is not an encoder with a
    head."""
    from blankfill.checkpoint.load import Loaded, TrainedHead
    from blankfill.finetuning.predictor import Predictor, open_predictor
    from blankfill.tasks.heads.models import TaskModel

    predictor = open_predictor(path, "cpu", None)
    if not isinstance(predictor, Predictor) or not isinstance(predictor.model, TaskModel) or predictor.model.reader:
        raise UserError(
            f"{path}: this model was fine-tuned for {predictor.task.name} and is not an encoder with one head; give "
            "the pretrained model that it was made from"
        )
    if predictor.model.encoder.prefix_encoder is not None:
        raise UserError(f"{path}: this model has a prefix, which is not trained further; give the model below it")
    model, format = predictor.model, predictor.adapter.input_format
    model.encoder.requires_grad_(True)
    head = TrainedHead(predictor.task.kind, predictor.labels, model.head.state_dict())
    return Loaded(model.encoder, predictor.adapter.tokenizer, format.vocabulary, format.objective, path, head=head)


def continue_head(model: AnswerModel, adapter: Adapter, loaded: Loaded) -> None:
    """Give a new model the head that its encoder was fine-tuned with, if kind and labels are the same; say which head
    training begins with."""
    import torch

    from blankfill.tasks.heads.models import TaskModel

    trained = loaded.head
    if trained is None or not isinstance(model, TaskModel):
        return
    own, labels = model.head.state_dict(), adapter.labels
    same = trained.kind == adapter.task.kind and sorted(trained.labels) == sorted(labels)
    state = dict(trained.state)
    if same and labels and trained.labels != labels:
        order = [trained.labels.index(label) for label in labels]
        state |= {name: tensor[order] for name, tensor in state.items() if name.startswith("output.")}
    if same and {name: part.shape for name, part in own.items()} == {name: part.shape for name, part in state.items()}:
        with torch.no_grad():
            model.head.load_state_dict(state)
        say(f"{loaded.path}: its head for {trained.kind} continues, which has the same labels")
    else:
        labels_of = f" with the labels {listed(trained.labels)}" if trained.labels else ""
        say(f"{loaded.path}: its head for {trained.kind}{labels_of} does not fit these data; a new head is drawn")


def patterns_of(adapter: Adapter) -> str:
    """Return the text of the patterns of a run, or of its chat template; "" for neither."""
    from blankfill.tasks.adapter import LMHeadAdapter

    if template := adapter.chat_template:
        return template.source
    return adapter.patterns() if isinstance(adapter, LMHeadAdapter) else ""


def with_saved_patterns(options: FinetuneOptions, out: Path) -> FinetuneOptions:
    """Return the options of a run with the cloze patterns, and the chat template, in its own folder."""
    from blankfill.chatting.templates import FILE

    saved = {"patterns": out / PATTERNS, "template": out / FILE}
    own = {name: str(file) for name, file in saved.items() if file.exists()}
    return dataclasses.replace(options, **own)  # type: ignore[arg-type]  # both are names of files


def build_adapter(task: Task, labels: tuple[str, ...], loaded: Loaded, options: FinetuneOptions) -> Adapter:
    """Return the adapter between a task and a model; UserError for a task that no head can solve."""
    from blankfill.chatting.models import template_of
    from blankfill.tasks.adapters import ADAPTERS, CLOZE
    from blankfill.tasks.chat.adapter import Converse
    from blankfill.tasks.cloze.setup import check_model
    from blankfill.tasks.input_format import InputFormat, reads_encoder_only
    from blankfill.tasks.text.mixture import Mixture
    from blankfill.tasks.text.mixture_text import MixedText
    from blankfill.tasks.text.seq2seq_adapter import check_writer
    from blankfill.tasks.text.text_to_text import READ as TEXT
    from blankfill.tasks.text.text_to_text import TextToText

    adapters: Mapping[str, type[Adapter]] = ADAPTERS
    if options.method == "cloze":
        if task.kind not in CLOZE:
            raise UserError(
                f"{task.name} is a task of kind {task.kind}, not one of labels; leave out {setting('method', 'cloze')}"
            )
        check_model(loaded, options)
        adapters = CLOZE
    elif options.method == "text":
        members = task.members if isinstance(task, Mixture) else [task]
        if unfit := [member for member in members if member.kind not in TEXT]:
            raise UserError(
                f"{unfit[0].name} is a task of kind {unfit[0].kind}, which has no form as text; leave "
                f"{'it' if len(members) > 1 else setting('method', 'text')} out"
            )
        adapters = {**dict.fromkeys(TEXT, TextToText), "mixture": MixedText}
    elif task.kind == "mixture":
        raise UserError(f"{task.name}: tasks are learnt together as texts; add {setting('method', 'text')}")
    if task.kind not in adapters:
        raise UserError(f"{task.name} is a task of kind {task.kind}, which `finetune` does not know yet")
    if task.writes or options.method == "text":
        check_writer(loaded, options)
    check_dialogue_options(task, options)
    sizes = loaded.model.config.position_sizes
    encoder_only = reads_encoder_only(loaded.objective, options.head_on, task)
    input_format = InputFormat(loaded.objective.format(loaded.vocabulary, sizes), options.max_length, encoder_only)
    adapter = adapters[task.kind](task, task.labels or labels, options, loaded.tokenizer, input_format)
    if isinstance(adapter, Converse):
        adapter.use_template(template_of(loaded.path, options.template or None, loaded.objective.chat_template))
    return adapter


def check_dialogue_options(task: Task, options: FinetuneOptions) -> None:
    """Raise ConfigError for options of dialogues with another task, and for those that dialogues do not have."""
    if task.kind == "chat":
        given = {"blank": options.blank != FinetuneOptions.blank, "method": options.method != "head"}
        problems = [
            f"{setting(name)} is not for dialogues; leave it out" for name, is_given in given.items() if is_given
        ]
    else:
        names = ("template", "max_prompt_length", "replay", "replay_ratio")
        given = {name: bool(getattr(options, name)) for name in names} | {"learn_start": not options.learn_start}
        problems = [
            f"{setting(name)} is for dialogues; use it with {setting('task', 'chat')}, or leave it out"
            for name, is_given in given.items()
            if is_given
        ]
    if problems:
        raise ConfigError(problems)


def build_model(
    loaded: Loaded,
    adapter: Adapter,
    items: Sequence[Item],
    options: FinetuneOptions,
    device: torch.device,
    dtype: torch.dtype,
) -> AnswerModel:
    """Return the model with a new head, or with its own language-model head (cloze), ready to be trained."""
    from blankfill.adapt.lora import add_lora
    from blankfill.adapt.prefix import add_prefix
    from blankfill.attention.kernels import best_kernel
    from blankfill.tasks.training import balanced, check_layers

    check_layers(loaded.model.config, options)
    learns_beside = options.lora_rank or options.prefix_length or options.features != "none"
    if loaded.quantization is not None and not learns_beside:
        raise UserError(
            f"{loaded.path}: the weights are quantised, so that they cannot learn; give {setting('lora_rank', 8)} or "
            f"{setting('prefix_length', 128)}, or the model that it was made from"
        )
    if options.lora_rank:
        add_lora(loaded.model, options.lora_rank, loaded.model.config.dropout, options.seed)
    elif options.prefix_length:
        add_prefix(loaded.model, prefix_shape(loaded.model.config, options), options.seed)
    weights = None
    if options.class_weights == "balanced" and (sizes := adapter.classes(items)) is not None:
        weights = balanced(sizes.tolist())
    model = task_model(loaded.model, adapter, options, options.seed, weights)
    if not options.from_scratch:
        continue_head(model, adapter, loaded)
    model = model.to(device)
    model.encoder.use_kernel(best_kernel(device, dtype))
    return model.train()


def prefix_shape(config: TransformerConfig, options: FinetuneOptions) -> PrefixShape:
    """Return the shape of a run's prefix."""
    from blankfill.model.prefix import PrefixShape

    inner = config.hidden_size if options.prefix_projection else 0
    return PrefixShape(options.prefix_length, inner, options.prefix_dropout)


def task_model(
    encoder: Transformer,
    adapter: Adapter,
    options: FinetuneOptions,
    seed: int | None = None,
    class_weights: Sequence[float] | None = None,
) -> AnswerModel:
    """Build the model of a task: with its own language-model head, or with a head, drawn by `seed` if given."""
    from blankfill.tasks.adapter import HeadAdapter, LMHeadAdapter
    from blankfill.tasks.heads.features import reader_for
    from blankfill.tasks.heads.models import TaskModel, empty_head, new_head

    if isinstance(adapter, LMHeadAdapter):
        return adapter.model(encoder)
    assert isinstance(adapter, HeadAdapter)
    encoder_only = adapter.input_format.encoder_only
    reader = reader_for(encoder, options, encoder_only, seed)
    width = reader.width if reader is not None else 0
    kind, outputs, pooled = adapter.head, adapter.outputs, adapter.pooled
    if seed is None:
        head = empty_head(encoder, kind, outputs, pooled, width)
    else:
        head = new_head(encoder, kind, outputs, pooled, seed, width)
    return TaskModel(encoder, head, class_weights, reader, encoder_only)


def task_state(
    loaded: Loaded, adapter: Adapter, options: FinetuneOptions, tables: TableOptions | None = None
) -> dict[str, Any]:
    """Return the description of a model and its task for a checkpoint. tables: how the table of the training data was
    read, with the columns that were chosen; None for other data."""
    from blankfill.checkpoint.quantization import KEY
    from blankfill.model.config import config_values

    objective = {"name": loaded.objective.name, **dataclasses.asdict(loaded.objective)}
    task: dict[str, Any] = {
        "name": adapter.task.name, "labels": list(adapter.labels), "options": dataclasses.asdict(options),
    }  # fmt: skip
    if tables is not None:
        task["tables"] = dataclasses.asdict(tables) | {"columns": list(tables.columns)}
    roles = dict(loaded.vocabulary.roles)
    state = {"model": config_values(loaded.model.config), "objective": objective, "roles": roles, "task": task}
    return state if loaded.quantization is None else state | {KEY: loaded.quantization.state()}
