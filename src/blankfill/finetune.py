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

from blankfill.console import progress as progress_bar
from blankfill.console import say
from blankfill.environment import competing, usable_cores
from blankfill.errors import ConfigError, UserError
from blankfill.run_folder import (
    newest_whole,
    note_facts,
    note_step,
    renew_report,
    run_folder,
    stop_signals,
    write_text,
)
from blankfill.system.stopping import Stop, StoppedError, reason
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.own import OWN, Columns, own_task
from blankfill.tasks.pattern import PATTERNS
from blankfill.tasks.registry import task_named
from blankfill.tasks.run_files import ASKED, PREDICTIONS, RESULTS
from blankfill.tasks.together import Taught, read_taught, softened

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.model.transformer import Transformer
    from blankfill.tasks.adapter import Adapter, Decided
    from blankfill.tasks.heads import AnswerModel
    from blankfill.tasks.items import Item, Split
    from blankfill.tasks.task import Task
    from blankfill.train.progress import Progress


@dataclass(frozen=True)
class Request:
    """What a fine-tuning run was asked for. columns: which columns hold what, for tasks on one's own tables. taught:
    what is learnt from instead of the labels of the training data."""

    task: str
    data: Path
    start: Path
    options: FinetuneOptions
    columns: Columns = dataclasses.field(default_factory=Columns)
    taught: Taught | None = None

    def task_asked(self) -> Task:
        """The task; UserError for a name that there is none of, or columns for a task that has its own."""
        task = task_named(self.task)
        if self.columns == Columns():
            return task
        if task not in OWN:
            names = ", ".join(one.name for one in OWN)
            raise UserError(f"{task.name} knows the columns of its files; columns are named for {names} only")
        return own_task(task.name, self.columns)

    def values(self) -> dict[str, Any]:
        """As JSON values; paths as they are found from anywhere."""
        paths = {"data": str(self.data.resolve()), "from": str(self.start.resolve())}
        parts = {"columns": dataclasses.asdict(self.columns), "options": dataclasses.asdict(self.options)}
        taught = {} if self.taught is None else {"taught": self.taught.values()}
        return {"task": self.task, **paths, **parts, **taught}


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


def read_request(out: Path) -> Request:
    """What a run was asked for; UserError when the folder is no fine-tuning run."""
    try:
        values = json.loads((out / ASKED).read_text(encoding="utf-8"))
        columns: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values["columns"].items()
        }
        taught = {name: Path(path) for name, path in values.get("taught", {}).items()}
        return Request(
            values["task"], Path(values["data"]), Path(values["from"]), FinetuneOptions(**values["options"]),
            Columns(**columns), Taught(**taught) if taught else None,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out}: not a fine-tuning run ({ASKED} is missing or unreadable)") from error


def finetune(request: Request, out: str | Path, resume: bool = False) -> FinetuneResult:
    """Fine-tune a model on a task, score it on the dev set, and keep the best.

    resume: go on with the run in `out`. Raises UserError or ConfigError for whatever the user can mend.
    """
    import torch

    from blankfill.checkpoint import store
    from blankfill.tasks.adapter import OwnWords
    from blankfill.tasks.cloze_setup import read_unlabelled, with_texts
    from blankfill.tasks.heads import task_losses
    from blankfill.tasks.seq2seq_adapter import Write
    from blankfill.tasks.training import task_optimizer
    from blankfill.tasks.writing import examiner
    from blankfill.train.loop import Trainer
    from blankfill.train.memory import keep_freed_memory
    from blankfill.train.precision import pick_device, pick_dtype
    from blankfill.train.progress import Progress
    from blankfill.train.record import RunRecorder

    out, options = Path(out), request.options
    if problems := options.problems():
        raise ConfigError(problems)
    task = request.task_asked()
    train, dev = read_data(task, request.data, options)
    learnt, scores = read_taught(task, request.taught, task.labels or train.labels) if request.taught else (train, None)
    more = read_unlabelled(task, options, train.labels)
    with ExitStack() as stack:
        stack.enter_context(run_folder(out, resume))
        busy = competing(options.threads or usable_cores())
        torch.set_num_threads(options.threads or usable_cores())
        keep_freed_memory()
        device = pick_device(options.device)
        dtype = pick_dtype(options.precision, device)
        loaded = start_of(request)
        adapter = adapter_of(task, train.labels, loaded, with_kept_patterns(options, out) if resume else options)
        if isinstance(adapter, Write):
            adapter.check_answers(dev.items)
        encoded = adapter.encode(learnt.items, learn=True).encoded
        if scores is not None:
            encoded = softened(encoded, scores)
        pad = loaded.vocabulary.roles.get("pad", 0)
        model = with_head(loaded, adapter, train.items, options, device, dtype)
        if not resume:
            loaded.tokenizer.save(out)
            write_text(out / ASKED, json.dumps(request.values(), indent=1) + "\n")
            if isinstance(adapter, OwnWords) and (patterns := adapter.patterns()):
                write_text(out / PATTERNS, patterns)
        settings = options.train_options(len(encoded))
        optimizer = task_optimizer(model, options, settings, options.word_lr or loaded.word_lr)
        done = Progress()
        checkpoint = newest_whole(out) if resume else None
        if checkpoint is not None:
            model.load_state_dict(checkpoint.model)
            store.restore_optimizer(optimizer, checkpoint.optimizer)
            done = Progress.from_state(checkpoint.state["progress"])
        where = f"{device.type} {str(dtype)[6:]}"
        announce(request, adapter, learnt, dev, model, settings.steps, where)
        plain = adapter.measure(dev.items, adapter.plainest(train.items, dev.items))
        facts = {"steps": settings.steps, "items": {"train": len(learnt), "dev": len(dev)}, "computed_on": where}
        note_facts(out, {**facts, **run_facts(adapter, model, loaded, plain, resume)}, resume)
        note_step(out, done)
        if device.type == "cpu" and busy:
            say(busy)

        bar = stack.enter_context(progress_bar("fine-tuning", settings.steps, "steps", done.step))
        stopping = stack.enter_context(stop_signals())
        recorder = stack.enter_context(RunRecorder(out, bar, done.step))
        writer = stack.enter_context(store.Writer(out / "checkpoints", settings.keep))
        scored = examiner(adapter, dev.items, pad, done.best_loss, options.eval_items)
        state = task_state(loaded, adapter, options)

        def save(now: Progress) -> None:
            writer.save(now.step, model, optimizer, {**state, "progress": now.state()}, now.best_step)

        batches = adapter.batches(encoded, adapter.epochs(encoded), pad, options.micro_batch)
        if options.mlm_weight:
            batches = with_texts(batches, loaded, adapter, encoded, more)
        trainer = Trainer(
            model, optimizer, settings, options.seed, device, dtype, recorder, lambda step: [], save, batches,
            stop=lambda: bool(stopping), validated=lambda now: renew_report(out), loss=task_losses,
            examine=lambda: scored.examine(model, device, dtype), examine_first=isinstance(adapter, OwnWords),
        )  # fmt: skip
        if done.step == 0:
            save(done)  # nothing may be better than the beginning
        done = trainer.train(batches.steps(done.step, settings.steps), done)
        writer.wait()
        note_step(out, done, reason(stopping) if trainer.stopped else None)
        if trainer.stopped:
            say(f"stopped at step {done.step:,} of {settings.steps:,}; go on with: blankfill finetune --resume {out}")
        decided = scored.best
        if decided is None:  # the best was before this run was gone on with, or there was no score yet
            if done.best_step >= 0:
                best = store.read(out / "checkpoints" / f"step-{done.best_step}", with_optimizer=False)
                model.load_state_dict(best.model)
            decided, _ = scored.decide(model, device, dtype)
    speed = done.step * options.batch_size / done.seconds if done.seconds else 0.0
    found = conclude(request, out, adapter, learnt.items, dev.items, plain, decided, done, speed, not trainer.stopped)
    renew_report(out)
    return dataclasses.replace(found, total=settings.steps, stopped=reason(stopping))


def finished(request: Request, folder: Path) -> dict[str, Any]:
    """The results of a run among several, which is begun or gone on with unless it is complete.

    Raises StoppedError when a signal stops it, so that the runs after it are not begun.
    """
    path = folder / RESULTS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found.get("complete"):
        result = finetune(request, folder, resume=(folder / ASKED).exists())
        if result.stopped is not None:
            raise StoppedError(result.stopped, f"stopped in {folder}; the same command goes on there")
        found = json.loads(path.read_text(encoding="utf-8"))
    return found


def start_of(request: Request) -> Loaded:
    """The pretrained model, or one like it whose weights are drawn by the seed."""
    import torch

    from blankfill.checkpoint.load import load_model

    loaded = load_model(request.start)
    if request.options.from_scratch:
        loaded.model.initialise(torch.Generator().manual_seed(request.options.seed))
    return loaded


def with_kept_patterns(options: FinetuneOptions, out: Path) -> FinetuneOptions:
    """The options of a run, its cloze patterns read from its own folder."""
    kept = out / PATTERNS
    return dataclasses.replace(options, patterns=str(kept)) if kept.exists() else options


def read_data(task: Task, data: Path, options: FinetuneOptions) -> tuple[Split, Split]:
    """The train and the dev split, their problems told; UserError when one is missing or empty.

    Of the training items only `train_items`, where that is asked for.

    Data without a dev set, such as a single file, are split: see `tasks.held_out`.
    """
    from blankfill.tasks.held_out import fewer, hold_out
    from blankfill.tasks.mixture import Mixture

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
        train, dev = hold_out(whole, options.hold_out)  # the same for every seed, so that runs can be compared
        problems = [*whole.problems, f"{data}: there is no dev set, so {len(dev):,} of the items are held out as one"]
    for problem in problems:
        say(problem)
    for name, split in (("train", train), ("dev", dev)):
        if not len(split):
            raise UserError(f"{data}: the {name} split of {task.name} holds no items")
    return (fewer(train, options.train_items, options.seed) if options.train_items else train), dev


def adapter_of(task: Task, labels: tuple[str, ...], loaded: Loaded, options: FinetuneOptions) -> Adapter:
    """What stands between a task and a model; UserError for a task that a head cannot answer."""
    from blankfill.tasks.adapters import ADAPTERS, CLOZE
    from blankfill.tasks.cloze_setup import check_model
    from blankfill.tasks.frames import Frames, reads_alone
    from blankfill.tasks.mixture import Mixture
    from blankfill.tasks.mixture_text import MixedText
    from blankfill.tasks.seq2seq_adapter import check_writer
    from blankfill.tasks.text_to_text import READ as TEXT
    from blankfill.tasks.text_to_text import TextToText

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
    alone = reads_alone(loaded.objective, options.stack, task)
    frames = Frames(loaded.objective, loaded.vocabulary, sizes[0], options.max_length, sizes[-1], alone)
    return adapters[task.kind](task, task.labels or labels, options, loaded.tokenizer, frames)


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
    from blankfill.tasks.adapter import HeadAdapter, OwnWords
    from blankfill.tasks.features import reader_for
    from blankfill.tasks.heads import TaskModel, empty_head, new_head

    if isinstance(adapter, OwnWords):
        return adapter.model(encoder)
    assert isinstance(adapter, HeadAdapter)
    alone = adapter.frames.alone
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
    from blankfill.environment import environment
    from blankfill.model.config import config_values

    return {
        "learning": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "weights": sum(one.numel() for one in model.parameters()),
        "objective": loaded.objective.name,
        "model": config_values(loaded.model.config),
        "main": adapter.task.main,
        "baseline": plain,
        "resumed" if resumed else "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
    }


def announce(
    request: Request, adapter: Adapter, train: Split, dev: Split, model: AnswerModel, steps: int, where: str
) -> None:
    """Say what is about to be trained."""
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(
        f"{adapter.task.name}: {len(train):,} items to train on, {len(dev):,} to score; {learning:,} weights learn, "
        f"{steps:,} steps of {request.options.batch_size} items, {where}"
    )
    for remark in adapter.remarks():
        say(remark)


def conclude(
    request: Request,
    out: Path,
    adapter: Adapter,
    train: Sequence[Item],
    dev: Sequence[Item],
    plain: dict[str, float],
    decided: Sequence[Decided],
    done: Progress,
    speed: float,
    complete: bool,
) -> FinetuneResult:
    """Write the results and the predictions of the best checkpoint. plain: the metrics without reading the items."""
    best_step = done.best_step if done.best_step >= 0 else done.step
    metrics = adapter.measure(dev, decided)
    threshold = getattr(adapter, "threshold", None)
    lines = [{"id": item.id, **adapter.told(one)} for item, one in zip(dev, decided, strict=True)]
    score, baseline = metrics[adapter.task.main], plain[adapter.task.main]
    write_text(out / PREDICTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    found = {
        **request.values(),
        "labels": list(adapter.labels),
        "items": {"train": len(train), "dev": len(dev)},
        "metrics": metrics,
        "main": adapter.task.main,
        "score": score,
        "baseline": {"metrics": plain, "score": baseline},
        **adapter.study(dev, decided),
        **({} if threshold is None else {"threshold": threshold}),
        "complete": complete,
        "best_step": best_step,
        "steps": done.step,
        "seconds": done.seconds,
        "items_per_second": speed,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_text(out / RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return FinetuneResult(out, metrics, score, baseline, best_step, done.step, speed, complete)
