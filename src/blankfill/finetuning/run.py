"""The wiring of a fine-tuning run: a task's data, a pretrained model, a head, the one loop, a run folder.

A run folder holds `finetune.json` (what was asked for), the checkpoint that did best on the dev set, `results.json`,
`predictions.jsonl`, the metrics of every score and `report.html`. It is enough alone to predict with; to go on after a
kill, the data and the model that it began from must still be where they were.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import ConfigError, UserError
from blankfill.runs import inputs
from blankfill.runs.folder import (
    newest_whole,
    note_facts,
    note_machine,
    note_step,
    renew_report,
    run_folder,
    stop_signals,
)
from blankfill.system.console import progress as progress_bar
from blankfill.system.console import say
from blankfill.system.files import write_file
from blankfill.system.loader import build
from blankfill.system.reading import UnreadableError, field, read_json
from blankfill.system.stopping import Stop, reason
from blankfill.tasks.cloze.pattern import PATTERNS
from blankfill.tasks.cloze.soft_labels import Scores, SoftLabels, read_soft_labels, with_soft_labels
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.datasets.tabular import TABULAR, Columns, tabular_task
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, PREDICTIONS, RESULTS

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.model.transformer import Transformer
    from blankfill.tasks.adapter import Adapter, Prediction
    from blankfill.tasks.heads.models import AnswerModel
    from blankfill.tasks.items import Item, Split
    from blankfill.tasks.task import Task
    from blankfill.training.machine import Machine
    from blankfill.training.progress import Progress


@dataclass(frozen=True)
class FinetuneConfig:
    """The configuration of a fine-tuning run. columns: which columns hold what, for tasks on one's own tables.
    soft_labels: what is learnt from instead of the labels of the training data."""

    task: str
    data: Path
    model: Path
    options: FinetuneOptions
    columns: Columns = dataclasses.field(default_factory=Columns)
    soft_labels: SoftLabels | None = None

    def build_task(self) -> Task:
        """The task; UserError for a name that there is none of, or columns for a task that has its own."""
        task = task_named(self.task)
        if self.columns == Columns():
            return task
        if task not in TABULAR:
            names = ", ".join(one.name for one in TABULAR)
            raise UserError(f"{task.name} knows the columns of its files; columns are named for {names} only")
        return tabular_task(task.name, self.columns)

    def values(self) -> dict[str, Any]:
        """As JSON values; paths as they are found from anywhere."""
        paths = {"data": str(self.data.resolve()), "model": str(self.model.resolve())}
        parts = {"columns": dataclasses.asdict(self.columns), "options": dataclasses.asdict(self.options)}
        soft_labels = {} if self.soft_labels is None else {"soft_labels": self.soft_labels.values()}
        return {"task": self.task, **paths, **parts, **soft_labels}


@dataclass(frozen=True)
class FinetuneResult:
    """How a fine-tuning run ended. metrics: of the best checkpoint on the dev set; score: the one that chose it.

    steps: done, of `total`. items_per_second: training items, without the scoring between. complete: False when the
    run was stopped before its end. stopped: the signal that it got, be it after its last step.
    """

    folder: Path
    metrics: dict[str, float]
    score: float
    baseline: float
    best_step: int
    steps: int
    items_per_second: float
    complete: bool
    total: int = 0
    stopped: Stop | None = None


def read_config(out: Path) -> FinetuneConfig:
    """What a run was asked for; UserError when the folder is no fine-tuning run, or a damaged one."""
    file = out / CONFIG
    try:
        values = read_json(file)
    except UnreadableError as error:
        if not error.missing:
            raise
        if not out.exists():
            raise UserError(f"{out} does not exist; give the folder of a run that was begun") from error
        if (out / RESULTS).exists():
            raise UserError(f"{out} holds several runs; repeat the command that began them to continue") from error
        raise UserError(f"{out}: not a fine-tuning run ({CONFIG} is missing)") from error
    soft_labels = None
    if "soft_labels" in values:
        told = field(values, "soft_labels", dict, file)
        soft_labels = SoftLabels(Path(field(told, "texts", str, file)), Path(field(told, "scores", str, file)))
    return FinetuneConfig(
        field(values, "task", str, file), Path(field(values, "data", str, file)),
        Path(field(values, "model", str, file)),
        build(FinetuneOptions, field(values, "options", dict, file), f"{file}: `options`"),
        build(Columns, field(values, "columns", dict, file), f"{file}: `columns`"), soft_labels,
    )  # fmt: skip


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    alike: Machine | None = None,
) -> FinetuneResult:
    """Fine-tune a model on a task, score it on the dev set, and keep the best.

    resume: go on with the run in `out`. changes: for a resumed run, the options of `training.machine.CHANGEABLE` that
    were
    given anew. alike: for a run among several, what they all compute with where their options leave it free. Raises
    UserError or ConfigError for whatever the user can mend.
    """
    from blankfill.checkpoint import store
    from blankfill.runs.recorder import RunRecorder
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.tasks.adapter import LMHeadAdapter
    from blankfill.tasks.cloze.setup import with_texts
    from blankfill.tasks.heads.models import task_losses
    from blankfill.tasks.text.seq2seq_adapter import Write
    from blankfill.tasks.text.writing import evaluator_for
    from blankfill.tasks.training import task_optimizer
    from blankfill.training.loop import Trainer
    from blankfill.training.machine import NOTED, machine_from, settle, settle_again
    from blankfill.training.progress import Progress

    out, options = Path(out), dataclasses.replace(config.options, **(changes or {}))
    if problems := options.problems():
        raise ConfigError(problems)
    task = config.build_task()
    read = read_all(task, config)
    train, dev, more = read.train, read.dev, read.more
    learnt, scores = read.soft_labels or (train, None)
    with ExitStack() as stack:
        stack.enter_context(run_folder(out, resume))
        checkpoint = newest_whole(out) if resume else None
        if checkpoint is None:
            conditions = settle(options, alike)
        else:
            conditions = settle_again(options, machine_from(checkpoint.state.get(NOTED)), changes or {})
            options = dataclasses.replace(options, micro_batch=conditions.machine.micro_batch)
        device, dtype = conditions.device, conditions.dtype
        conditions.begin()
        keep_freed_memory()
        loaded, start = start_of(config)
        adapter = adapter_of(task, train.labels, loaded, with_kept_patterns(options, out) if resume else options)
        note = read.note(config, start, patterns_of(adapter))
        if resume:
            note = same_inputs(out, config, note, loaded, checkpoint is not None)
        if isinstance(adapter, Write):
            adapter.check_answers(dev.items)
        encoded = adapter.encode(learnt.items, learn=True).encoded
        if scores is not None:
            encoded = with_soft_labels(encoded, scores)
        pad = loaded.vocabulary.roles.get("pad", 0)
        model = with_head(loaded, adapter, train.items, options, device, dtype)
        model.encoder.use_kernel(conditions.machine.attention)
        if not resume:
            loaded.tokenizer.save(out)
            note = inputs.begin(out, note, loaded.tokenizer)
            if patterns := patterns_of(adapter):
                write_file(out / PATTERNS, patterns)
            # the last: with it, the folder is a run to resume
            write_file(out / CONFIG, json.dumps(config.values(), indent=1) + "\n")
        settings = options.train_options(len(encoded))
        optimizer = task_optimizer(
            model, options, settings, options.embedding_lr_multiplier or loaded.embedding_lr_multiplier
        )
        done = Progress()
        if checkpoint is not None:
            where = f"{checkpoint.path / store.STATE}: `progress`"
            done = Progress.from_state(checkpoint.state.get("progress"), where)
            store.put_weights(model, checkpoint.model, checkpoint.path)
            store.restore_optimizer(optimizer, checkpoint.optimizer)
            done.parts = 1 if "micro_batch" in (changes or {}) else done.parts
        where = conditions.machine.where
        announce(config, adapter, learnt, dev, model, settings.steps, where)
        plain = adapter.measure(dev.items, adapter.baseline_predictions(train.items, dev.items))
        facts = {"steps": settings.steps, "items": {"train": len(learnt), "dev": len(dev)}, "computed_on": where}
        note_facts(out, {**facts, **run_facts(adapter, model, loaded, plain, resume)}, resume)
        note_step(out, done)
        note_machine(out, conditions.machine)

        stopping = stack.enter_context(stop_signals())
        bar = stack.enter_context(progress_bar("fine-tuning", settings.steps, "steps", done.step))
        recorder = stack.enter_context(RunRecorder(out, bar, done.step))
        writer = stack.enter_context(store.Writer(out / "checkpoints", settings.save_total_limit))
        scored = evaluator_for(adapter, dev.items, pad, done.best_loss, options.max_eval_samples)
        state = {**task_state(loaded, adapter, options), "inputs": note}

        for remark in conditions.remarks:
            recorder.event(done.step, "machine", remark)

        def save(now: Progress) -> None:
            known = {**state, NOTED: conditions.machine.values(), "progress": now.state()}
            writer.save(now.step, model, optimizer, known, now.best_step)

        def changed(step: int, kind: str, text: str) -> None:
            recorder.event(step, kind, text)
            note_machine(out, conditions.machine)

        batches = adapter.batches(encoded, adapter.epochs(encoded), pad, options.micro_batch)
        if options.mlm_weight:
            batches = with_texts(batches, loaded, adapter, encoded, more)
        trainer = Trainer(
            model, optimizer, settings, options.seed, device, dtype, recorder, lambda step: [], save, batches,
            stop=lambda: bool(stopping), validated=lambda now: renew_report(out), loss=task_losses,
            examine=lambda: scored.examine(model, device, dtype), examine_first=isinstance(adapter, LMHeadAdapter),
            pace=conditions.watch(changed),
        )  # fmt: skip
        if done.step == 0:
            save(done)  # nothing may be better than the beginning
        done = trainer.train(batches.steps(done.step, settings.steps), done)
        writer.wait()
        note_step(out, done, reason(stopping) if trainer.stopped else None)
        if trainer.stopped:
            say(f"stopped at step {done.step:,} of {settings.steps:,}; resume with: blankfill finetune --resume {out}")
        predictions = scored.best
        if predictions is None:  # the best was before this run was gone on with, or there was no score yet
            if done.best_step >= 0:
                best = store.read(out / "checkpoints" / f"step-{done.best_step}", with_optimizer=False)
                store.put_weights(model, best.model, best.path)
            predictions, _ = scored.predict(model, device, dtype)
    speed = done.step * options.batch_size / done.seconds if done.seconds else 0.0
    found = conclude(
        config, out, adapter, learnt.items, dev.items, plain, predictions, done, speed, not trainer.stopped
    )
    renew_report(out)
    return dataclasses.replace(found, total=settings.steps, stopped=reason(stopping))


def start_of(config: FinetuneConfig) -> tuple[Loaded, inputs.Note]:
    """The pretrained model, or one like it whose weights are drawn by the seed; and what a run notes of the former."""
    import torch

    from blankfill.checkpoint.load import load_model

    loaded = load_model(config.model)
    note = inputs.model_note(loaded)
    if config.options.from_scratch:
        loaded.model.initialise(torch.Generator().manual_seed(config.options.seed))
    return loaded, note


@dataclass(frozen=True)
class Read:
    """The data of a run. soft_labels: texts and the scores that replace their labels; more: texts of `--unlabelled`."""

    train: Split
    dev: Split
    soft_labels: tuple[Split, Scores] | None
    more: Sequence[Item]

    def note(self, config: FinetuneConfig, start: inputs.Note, patterns: str) -> inputs.Note:
        """What a run notes of its inputs."""
        return inputs.finetuning_note(
            config.values(), self.train, self.dev, self.more, self.soft_labels, start, patterns
        )  # fmt: skip


def read_all(task: Task, config: FinetuneConfig) -> Read:
    """Read the data of a run; UserError for what is missing or cannot be read."""
    from blankfill.tasks.cloze.setup import read_unlabelled

    train, dev = read_data(task, config.data, config.options)
    soft_labels = (
        read_soft_labels(task, config.soft_labels, task.labels or train.labels) if config.soft_labels else None
    )
    return Read(train, dev, soft_labels, read_unlabelled(task, config.options, train.labels))


def patterns_of(adapter: Adapter) -> str:
    """The text of the patterns that a run keeps, "" for none."""
    from blankfill.tasks.adapter import LMHeadAdapter

    return adapter.patterns() if isinstance(adapter, LMHeadAdapter) else ""


def same_inputs(out: Path, config: FinetuneConfig, note: inputs.Note, loaded: Loaded, trained: bool) -> inputs.Note:
    """The note of a run that is resumed, whose data, options and first model were compared with what it noted.

    trained: whether it has a checkpoint; then all weights are in it, and those of the first model do not matter.
    Raises UserError when anything differs.
    """
    notes = inputs.read_notes(out)
    found = inputs.finetuning_changes(notes, note)
    if inputs.other_weights(notes, note):
        if trained:
            say(f"{config.model} has other weights than when {out} began from it; they are not needed any more")
            note = {**note, "start": notes[0].get("start", note["start"])}
        else:
            found.append(f"{config.model} has other weights")
    inputs.refuse(out, found, "Put back what it was begun with, or train again into another --out.")
    return inputs.go_on(out, notes, note, loaded.tokenizer, str(config.model))


def with_kept_patterns(options: FinetuneOptions, out: Path) -> FinetuneOptions:
    """The options of a run, its cloze patterns read from its own folder."""
    kept = out / PATTERNS
    return dataclasses.replace(options, patterns=str(kept)) if kept.exists() else options


def read_data(task: Task, data: Path, options: FinetuneOptions) -> tuple[Split, Split]:
    """The train and the dev split, their problems told; UserError when one is missing or empty.

    Of the training items only `max_train_samples`, where that is asked for.

    Data without a dev set, such as a single file, are split: see `tasks.datasets.held_out`.
    """
    from blankfill.tasks.datasets.held_out import fewer, hold_out
    from blankfill.tasks.text.mixture import Mixture

    if isinstance(task, Mixture):
        places = task.places(data)
        parts = [read_data(one, places[one.name], options) for one in task.members]
        return task.mixed([train for train, _ in parts]), task.mixed([dev for _, dev in parts])
    splits = task.splits(data) if data.is_dir() else []
    if "train" in splits and "dev" in splits:
        train = task.read(data, "train")
        dev = task.read(data, "dev", train.labels)
        problems = train.problems + dev.problems
    else:
        only = next((name for name in ("train", "all", "dev", *splits) if name in splits), next(iter(task.files)))
        whole = task.read(data, only)
        train, dev = hold_out(whole, options.validation_split)  # the same for every seed, so that runs can be compared
        problems = [*whole.problems, f"{data}: there is no dev set, so {len(dev):,} of the items are held out as one"]
    for problem in problems:
        say(problem)
    for name, split in (("train", train), ("dev", dev)):
        if not len(split):
            raise UserError(f"{data}: the {name} split of {task.name} holds no items")
    return (fewer(train, options.max_train_samples, options.seed) if options.max_train_samples else train), dev


def adapter_of(task: Task, labels: tuple[str, ...], loaded: Loaded, options: FinetuneOptions) -> Adapter:
    """What stands between a task and a model; UserError for a task that a head cannot answer."""
    from blankfill.tasks.adapters import ADAPTERS, CLOZE
    from blankfill.tasks.cloze.setup import check_model
    from blankfill.tasks.input_format import InputFormat, reads_alone
    from blankfill.tasks.text.mixture import Mixture
    from blankfill.tasks.text.mixture_text import MixedText
    from blankfill.tasks.text.seq2seq_adapter import check_writer
    from blankfill.tasks.text.text_to_text import READ as TEXT
    from blankfill.tasks.text.text_to_text import TextToText

    adapters: Mapping[str, type[Adapter]] = ADAPTERS
    if options.method == "cloze":
        if task.kind not in CLOZE:
            raise UserError(f"{task.name} is a task of kind {task.kind}, not one of labels; leave out --method cloze")
        check_model(loaded, options)
        adapters = CLOZE
    elif options.method == "text":
        members = task.members if isinstance(task, Mixture) else [task]
        if unfit := [one for one in members if one.kind not in TEXT]:
            raise UserError(
                f"{unfit[0].name} is a task of kind {unfit[0].kind}, which has no form as text; leave "
                f"{'it' if len(members) > 1 else '--method text'} out"
            )
        adapters = {**dict.fromkeys(TEXT, TextToText), "mixture": MixedText}
    elif task.kind == "mixture":
        raise UserError(f"{task.name}: tasks are learnt together as texts; add --method text")
    if task.kind not in adapters:
        raise UserError(f"{task.name} is a task of kind {task.kind}, which `finetune` does not know yet")
    if task.kind == "generate" or options.method == "text":
        check_writer(loaded, options)
    sizes = loaded.model.config.position_sizes
    alone = reads_alone(loaded.objective, options.head_on, task)
    input_format = InputFormat(loaded.objective, loaded.vocabulary, sizes[0], options.max_length, sizes[-1], alone)
    return adapters[task.kind](task, task.labels or labels, options, loaded.tokenizer, input_format)


def with_head(
    loaded: Loaded,
    adapter: Adapter,
    items: Sequence[Item],
    options: FinetuneOptions,
    device: torch.device,
    dtype: torch.dtype,
) -> AnswerModel:
    """The model with a new head, or with its own words (a cloze), ready to be trained."""
    import torch

    from blankfill.adapt.lora import add_lora
    from blankfill.attention.kernels import best_kernel
    from blankfill.tasks.training import balanced, check_layers

    check_layers(loaded.model.config, options)
    if options.lora_rank:
        add_lora(loaded.model, options.lora_rank, loaded.model.config.dropout, options.seed)
    weights = None
    if options.class_weights == "balanced" and (sizes := adapter.classes(items)) is not None:
        weights = balanced(sizes.tolist())
    torch.manual_seed(options.seed)
    model = answering(loaded.model, adapter, options, torch.Generator().manual_seed(options.seed), weights)
    model = model.to(device)
    model.encoder.use_kernel(best_kernel(device, dtype))
    return model.train()


def answering(
    encoder: Transformer,
    adapter: Adapter,
    options: FinetuneOptions,
    generator: torch.Generator | None = None,
    class_weights: Sequence[float] | None = None,
) -> AnswerModel:
    """What answers a task with an encoder: its own words, or a head on it, drawn from a generator if one is given."""
    from blankfill.tasks.adapter import HeadAdapter, LMHeadAdapter
    from blankfill.tasks.heads.features import reader_for
    from blankfill.tasks.heads.models import TaskModel, empty_head, new_head

    if isinstance(adapter, LMHeadAdapter):
        return adapter.model(encoder)
    assert isinstance(adapter, HeadAdapter)
    alone = adapter.input_format.alone
    reader = reader_for(encoder, options, alone)
    width = reader.width if reader is not None else 0
    kind, outputs, pooled = adapter.head, adapter.outputs, adapter.pooled
    if generator is None:
        head = empty_head(encoder, kind, outputs, pooled, width)
    else:
        head = new_head(encoder, kind, outputs, pooled, generator, width)
    return TaskModel(encoder, head, class_weights, reader, alone)


def task_state(loaded: Loaded, adapter: Adapter, options: FinetuneOptions) -> dict[str, Any]:
    """What a checkpoint says of the model and its task."""
    from blankfill.model.config import config_values

    objective = {"name": loaded.objective.name, **dataclasses.asdict(loaded.objective)}
    task = {
        "name": adapter.task.name, "labels": list(adapter.labels), "options": dataclasses.asdict(options),
    }  # fmt: skip
    roles = dict(loaded.vocabulary.roles)
    return {"model": config_values(loaded.model.config), "objective": objective, "roles": roles, "task": task}


def run_facts(
    adapter: Adapter, model: AnswerModel, loaded: Loaded, plain: dict[str, float], resumed: bool
) -> dict[str, Any]:
    """What a reader of the run folder should know of the model, the machine and what is to be beaten."""
    from blankfill.model.config import config_values
    from blankfill.system.environment import environment

    return {
        "learning": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "weights": sum(one.numel() for one in model.parameters()),
        "objective": loaded.objective.name,
        "model": config_values(loaded.model.config),
        "primary_metric": adapter.task.primary_metric,
        "baseline": plain,
        "resumed" if resumed else "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
    }


def announce(
    config: FinetuneConfig, adapter: Adapter, train: Split, dev: Split, model: AnswerModel, steps: int, where: str
) -> None:
    """Say what is about to be trained."""
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(
        f"{adapter.task.name}: {len(train):,} items to train on, {len(dev):,} to score; {learning:,} weights learn, "
        f"{steps:,} steps of {config.options.batch_size} items, {where}"
    )
    for remark in adapter.remarks():
        say(remark)


def conclude(
    config: FinetuneConfig,
    out: Path,
    adapter: Adapter,
    train: Sequence[Item],
    dev: Sequence[Item],
    plain: dict[str, float],
    predictions: Sequence[Prediction],
    done: Progress,
    speed: float,
    complete: bool,
) -> FinetuneResult:
    """Write the results and the predictions of the best checkpoint. plain: the metrics without reading the items."""
    best_step = done.best_step if done.best_step >= 0 else done.step
    metrics = adapter.measure(dev, predictions)
    threshold = getattr(adapter, "threshold", None)
    lines = [{"id": item.id, **adapter.record(one)} for item, one in zip(dev, predictions, strict=True)]
    score, baseline = metrics[adapter.task.primary_metric], plain[adapter.task.primary_metric]
    write_file(out / PREDICTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    found = {
        **config.values(),
        "labels": list(adapter.labels),
        "items": {"train": len(train), "dev": len(dev)},
        "metrics": metrics,
        "primary_metric": adapter.task.primary_metric,
        "score": score,
        "baseline": {"metrics": plain, "score": baseline},
        **adapter.error_analysis(dev, predictions),
        **({} if threshold is None else {"threshold": threshold}),
        "complete": complete,
        "best_step": best_step,
        "steps": done.step,
        "seconds": done.seconds,
        "items_per_second": speed,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_file(out / RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return FinetuneResult(out, metrics, score, baseline, best_step, done.step, speed, complete)
