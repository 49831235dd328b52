"""The wiring of a run: corpus, rows, model, loop, checkpoints. The only place where all of them meet."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe, load_recipe, to_values, to_yaml
from blankfill.errors import ConfigError, UserError
from blankfill.pretraining.data_setup import (
    Corpus,
    Rows,
    old_validation,
    open_corpus,
    phases,
    prepared_in,
    target_baseline,
    validation_batches,
)
from blankfill.pretraining.teacher import FILE as TEACHER
from blankfill.pretraining.teacher import Teacher, open_teacher, read_teacher
from blankfill.pretraining.warm_start import FILE as WARM_START
from blankfill.pretraining.warm_start import InitFrom, WarmStart, open_warm_start, read_warm_start
from blankfill.runs import inputs
from blankfill.runs.folder import (
    corpus_of,
    given_corpus,
    informing,
    is_empty,
    mend_recipe,
    newest_whole,
    note_corpus,
    note_facts,
    note_machine,
    note_step,
    renew_report,
    run_folder,
    stop_signals,
)
from blankfill.system.console import progress as progress_bar
from blankfill.system.console import say
from blankfill.system.environment import usable_memory
from blankfill.system.files import write_file
from blankfill.system.stopping import Stop, reason

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.store import Checkpoint
    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer
    from blankfill.runs.recorder import RunRecorder
    from blankfill.training.faults import NonFiniteError, OnNan
    from blankfill.training.loop import Trainer
    from blankfill.training.machine import Conditions
    from blankfill.training.progress import Progress
    from blankfill.types import Batch

MOST_ROLLBACKS = 5


@dataclass(frozen=True)
class RunResult:
    """How a run ended. Losses in nats per answer."""

    folder: Path
    steps: int
    tokens: int
    valid_loss: float
    baseline: float
    seconds: float
    old_loss: tuple[float, float] | None = None
    """Validation loss of the old text before and after, for a run that goes on from a model and was given it."""
    stopped: Stop | None = None
    """What stopped the run: a signal, or the end of its time. It is saved, and can be resumed unless it was done."""


def pretrain(
    paths: Sequence[str | Path],
    recipe: Recipe,
    out: str | Path,
    resume: bool = False,
    stop_after: float | None = None,
    on_nan: OnNan = "stop",
    init_from: InitFrom | None = None,
    teacher: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    verify: bool = False,
) -> RunResult:
    """Train a model from text, as a recipe says, into a run folder. UserError for whatever the user can mend.

    paths: text sources or one prepared folder; none means the embedded corpus. resume: go on from the newest whole
    checkpoint of `out`. stop_after: seconds after which the run saves and ends, to be resumed. on_nan: what to do when
    a loss or gradient is not finite: stop, skip the step, or roll back to the last checkpoint and take other rows.
    init_from: the model to begin from, with its architecture and tokenizer; None draws weights. teacher: the model to
    learn from, as the recipe's distil section says; for a resumed run, where its teacher lies now if it was moved.
    changes: for a resumed run, options of `training.machine.CHANGEABLE` that are other than they were.
    verify: compare all bytes of the corpus with its checksums first; otherwise sizes and samples are compared.
    """
    from blankfill.checkpoint import store
    from blankfill.checkpoint.hf_layout import dress_of
    from blankfill.checkpoint.load import Loaded
    from blankfill.data.loader import Phase, Steps, load
    from blankfill.generation.samples import Samples, compare
    from blankfill.model.config import config_values
    from blankfill.model.transformer import build
    from blankfill.planning.estimate import batch_flops
    from blankfill.report.plots import loss_plot
    from blankfill.runs.recorder import RunRecorder, of_step
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.training.faults import NonFiniteError
    from blankfill.training.loop import Trainer, evaluate
    from blankfill.training.loss import loss_sums
    from blankfill.training.machine import NOTED, settle
    from blankfill.training.optimizer import build_optimizer
    from blankfill.training.precision import peak_rate
    from blankfill.training.progress import Progress
    from blankfill.training.scaling import loss_scaler

    began = time.monotonic()
    recipe.check()
    out = Path(out)
    with ExitStack() as stack:
        stack.enter_context(run_folder(out, resume))
        free = usable_memory() if resume else 0  # before a checkpoint is read, whose pages count as used
        checkpoint = newest_whole(out) if resume else None
        if checkpoint is None:
            recipe = with_changes(recipe, changes or {})
            conditions = settle(recipe.train)
        else:
            recipe, conditions = conditions_again(recipe, checkpoint, changes or {})
        options, device, dtype = recipe.train, conditions.device, conditions.dtype
        conditions.begin()
        keep_freed_memory()
        warm_start = read_warm_start(out) if resume else None
        if init_from is not None and not resume:
            warm_start, recipe = open_warm_start(init_from, recipe)
        notes = inputs.read_notes(out) if resume else []
        if resume:
            inputs.check_pretraining(out, notes, recipe, prepared_in(paths, out / "corpus"), warm_start)
        taught = read_teacher(out, teacher, device) if resume else open_teacher(teacher, device) if teacher else None
        inputs.check_teacher(out, notes, taught)
        corpus, old = open_texts(paths, recipe, out, warm_start, taught)
        if resume and is_empty(out / "tokenizer.json"):
            corpus.tokenizer.save(out)
        note = inputs.pretraining_note(recipe, corpus, old, warm_start, taught)
        if resume:
            note = inputs.go_on(out, notes, note, corpus.tokenizer, str(corpus.folder))
            note_corpus(out, corpus.folder)
        if verify:
            inputs.verify(note, {"corpus": corpus.folder} | ({"replay": old.folder} if old else {}))
        rows = phases(corpus, recipe, old, warm_start.replay_ratio if warm_start else 0.0)
        old_batches = old_validation(old, recipe, rows[-1].micro) if old else []
        config = warm_start.config if warm_start else recipe.model_config(corpus.vocabulary.size)
        if taught is not None:
            taught.loaded.model.use_kernel(conditions.machine.attention)
            config = config if warm_start else taught.student_config(config, recipe)
        check_it_fits(config, rows, recipe, conditions, corpus, out, free, taught)
        model = warm_start.build(recipe.seed, device) if warm_start else build(config, recipe.seed, device)
        model.use_kernel(conditions.machine.attention)
        model.recompute = options.gradient_checkpointing
        if taught is not None and warm_start is None and not resume and recipe.distil.start == "teacher":
            taken = taught.start(model, recipe)
            say(f"the student begins as layers {', '.join(map(str, taken))} of {taught.path}, counted from 0")
        optimizer = build_optimizer(model, options)
        scaler = loss_scaler(device, dtype)
        done = Progress()
        if resume:
            if checkpoint is None and warm_start is not None:
                raise UserError(
                    f"{out} ended before its first checkpoint; remove it and begin again from {warm_start.path}"
                )
            done = restore(of_model(checkpoint, config), model, optimizer) if checkpoint else done
            done.parts = 1 if "micro_batch" in (changes or {}) else done.parts
        else:
            corpus.tokenizer.save(out)
            note = inputs.begin(out, note, corpus.tokenizer)
            if warm_start is not None:
                write_file(out / WARM_START, warm_start.write(out, old.folder if old else None))
            if taught is not None:
                write_file(out / TEACHER, taught.write(out))
            note_corpus(out, corpus.folder)
            write_file(out / "recipe.yaml", to_yaml(recipe))  # the last: with it, the folder is a run to resume

        validations = [(part.start, validation_batches(part.valid, options.eval_rows, part.micro)) for part in rows]
        baselines = [
            target_baseline(corpus, part.new, batches) for part, (_, batches) in zip(rows, validations, strict=True)
        ]
        announce(recipe, corpus, model, rows[0].train.rows_in_epoch(0), conditions.machine.where, baselines[-1])

        def validation(step: int) -> Any:
            return [batches for start, batches in validations if start <= step][-1]

        stopping = stack.enter_context(stop_signals())
        bar = stack.enter_context(progress_bar("training", options.steps, "steps", done.step))
        recorder = stack.enter_context(RunRecorder(out, bar, done.step))
        dress = dress_of(config, recipe.objective, corpus.tokenizer)
        writer = stack.enter_context(store.Writer(out / "checkpoints", options.save_total_limit, dress))
        samples = Samples(
            Loaded(model, corpus.tokenizer, corpus.vocabulary, recipe.objective, out), corpus.valid, options.samples
        )
        recipe_values = to_values(recipe)

        watch = watcher(baselines, recipe, recorder)

        def validated(now: Progress) -> None:
            if old_batches:
                recorder.record(old_text_line(now, evaluate(model, old_batches, device, dtype)))
            watch(now)

        def save(now: Progress) -> None:
            known = {"model": config_values(config), "objective": recipe_values["objective"]}
            known |= {"embedding_lr_multiplier": options.embedding_lr_multiplier, "recipe": recipe_values}
            known |= {"inputs": note, NOTED: conditions.machine.values()}
            writer.save(now.step, model, optimizer, {**known, "progress": now.state()}, now.best_step)

        def changed(step: int, kind: str, text: str) -> None:
            recorder.event(step, kind, text)
            note_machine(out, conditions.machine)

        def stop() -> bool:
            return bool(stopping) or (stop_after is not None and time.monotonic() - began > stop_after)

        trainer = Trainer(
            model, optimizer, options, recipe.seed, device, dtype, recorder, validation, save, options.row_schedule,
            scaler, stop, validated, lambda step: recorder.sample(step, samples.take(step)),
            on_nan, lambda batch: batch_flops(config, batch), peak_rate(device, dtype),
        )  # fmt: skip
        if options.z_loss:
            trainer.loss = partial(loss_sums, z_loss=options.z_loss)
        if taught is not None:
            learn_from(taught, recipe, config, trainer)
        trainer.pace = conditions.watch(changed)
        note_machine(out, conditions.machine)
        note_run(out, baselines[-1], model, trainer.peak, resume, warm_start, taught, conditions.machine.where)
        note_step(out, done)
        if resume and done.step >= options.steps:
            say(f"{out} is finished: all its {options.steps:,} steps are done")
        elif resume:
            recorder.event(done.step, "resumed", f"going on from step {done.step}")
        for remark in conditions.remarks:
            recorder.event(done.step, "machine", remark)
        if done.step == 0:
            recorder.sample(0, samples.take(0))
            save(done)
        parts = [Phase(part.start, part.train, part.micro) for part in rows]
        while True:
            scaler.restore(done.scaler)
            trainer.schedule = dataclasses.replace(options.row_schedule, skipped=done.skipped_rows)
            batches = load(Steps(parts, trainer.schedule), done.step, options.steps, options.workers)
            try:
                with closing(batches):
                    done = trainer.train(batches, done)
                break
            except NonFiniteError as error:
                if on_nan != "rollback":
                    raise
                writer.wait()
                checkpoint = newest_whole(out)
                done = roll_back(error, checkpoint, done, recipe, recorder)
                restore(checkpoint, model, optimizer)
    stopped = reason(stopping) or (Stop.TIME if trainer.stopped else None)
    note_step(out, done, stopped if trainer.stopped else None)
    with informing(out / "loss.png"):
        baseline = None if math.isnan(baselines[-1]) else baselines[-1]
        loss_plot(out / "metrics.jsonl", out / "loss.png", baseline, recipe.name)
    renew_report(out)
    if trainer.stopped:
        say(f"stopped at step {done.step:,} of {options.steps:,}; resume with: blankfill pretrain --resume {out}")
    compare(of_step(out / "samples.jsonl", 0), of_step(out / "samples.jsonl", done.step))
    return RunResult(
        out, done.step, done.tokens, done.valid_loss, baselines[-1], done.seconds, old_text_losses(out), stopped
    )


def resume(
    out: str | Path,
    stop_after: float | None = None,
    on_nan: OnNan = "stop",
    teacher: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    verify: bool = False,
    paths: Sequence[str | Path] = (),
) -> RunResult:
    """Go on with a run from its newest whole checkpoint, with its own recipe, corpus and teacher; see `pretrain`.

    paths: where its prepared corpus lies now, for a run that was moved away from it.
    """
    out = Path(out)
    mend_recipe(out)
    corpus = given_corpus(out, paths) if paths else corpus_of(out)
    recipe = load_recipe(out / "recipe.yaml")
    return pretrain([str(corpus)], recipe, out, True, stop_after, on_nan, None, teacher, changes, verify)


def open_texts(
    paths: Sequence[str | Path], recipe: Recipe, out: Path, warm_start: WarmStart | None, teacher: Teacher | None = None
) -> tuple[Corpus, Corpus | None]:
    """The corpus of a run, and that of old text for a run that goes on from a model and was given one.

    A run with a teacher has its tokenizer; ConfigError when it cannot learn from it.
    """
    if teacher is not None:
        teacher.check(recipe, warm_start.tokenizer if warm_start else teacher.tokenizer, begun=warm_start is not None)
    if warm_start is None:
        own = teacher.tokenizer if teacher else None
        return open_corpus(paths, recipe, out / "corpus", own, (own,) if own else ()), None
    tokenizer, earlier = warm_start.tokenizer, warm_start.original_tokenizer
    corpus = open_corpus(paths, recipe, out / "corpus", tokenizer, (tokenizer,) if earlier else ())
    if warm_start.replay is None:
        return corpus, None
    # old text may lie prepared for the model as it was: nothing in it needs the new words
    accepted = (tokenizer, earlier) if earlier else ()
    return corpus, open_corpus([warm_start.replay], recipe, out / "replay", tokenizer, accepted)


def old_text_line(now: Progress, losses: Mapping[str, float]) -> dict[str, float | int | str]:
    """The line of metrics that tells the old text's validation loss, NaN where no word of it is asked for."""
    loss = losses.get("lm", math.nan)
    return {"step": now.step, "split": "old", "loss": loss, "lr": 0.0, "tokens": now.tokens, "tokens_per_s": 0.0}


def old_text_losses(out: Path) -> tuple[float, float] | None:
    """The first and the last validation loss of the old text, None when a run has none."""
    from blankfill.runs.recorder import read_lines

    losses = [line.get("loss") for line in read_lines(out / "metrics.jsonl") if line.get("split") == "old"]
    before, after = (losses[0], losses[-1]) if losses else (None, None)
    return (before, after) if isinstance(before, float) and isinstance(after, float) else None


def forgetting(losses: tuple[float, float]) -> str:
    """A sentence on the old text's loss before and after."""
    before, after = losses
    told = f"{after - before:.3f} forgotten" if after >= before else f"{before - after:.3f} better"
    return f"old text: validation loss {before:.3f} nats before, {after:.3f} after ({told})"


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some options of its train section replaced. Raises ConfigError for values that cannot be."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes)).check()


def conditions_again(recipe: Recipe, checkpoint: Checkpoint, changes: Mapping[str, Any]) -> tuple[Recipe, Conditions]:
    """The recipe of a resumed run with its machine options as they are now, and what it computes under."""
    from blankfill.training.machine import NOTED, machine_from, settle_again

    noted = machine_from(checkpoint.state.get(NOTED))
    recipe = with_changes(recipe, changes)
    found = settle_again(recipe.train, noted, changes)
    if "workers" in changes:
        found.remarks.append(f"train.workers is {recipe.train.workers} from here on; no number depends on it")
    return with_changes(recipe, {"micro_batch": found.machine.micro_batch}), found


def of_model(checkpoint: Checkpoint, config: TransformerConfig) -> Checkpoint:
    """A checkpoint of a pretraining run, which must be of this model. Raises UserError when it is not."""
    from blankfill.checkpoint import store

    if store.model_of(checkpoint.state, checkpoint.path) != config:
        raise UserError(f"{checkpoint.path}: the checkpoint is of another model than the recipe asks for")
    return checkpoint


def restore(checkpoint: Checkpoint | None, model: Transformer, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's tensors into the model and the optimiser; returns its progress."""
    from blankfill.checkpoint import store
    from blankfill.training.progress import Progress

    assert checkpoint is not None
    done = Progress.from_state(checkpoint.state.get("progress"), f"{checkpoint.path / store.STATE}: `progress`")
    store.put_weights(model, checkpoint.model, checkpoint.path)
    store.restore_optimizer(optimizer, checkpoint.optimizer)
    return done


def roll_back(
    error: NonFiniteError, checkpoint: Checkpoint | None, now: Progress, recipe: Recipe, recorder: RunRecorder
) -> Progress:
    """The progress of the checkpoint before an error, with the rows since passed over; raises it when that is vain."""
    from blankfill.training.progress import Progress

    if checkpoint is None or now.rollbacks >= MOST_ROLLBACKS:
        raise UserError(f"{error}. It was rolled back {now.rollbacks} times") from error
    schedule = recipe.train.row_schedule
    passed = schedule.first(error.step + 1) - schedule.first(checkpoint.step)
    recorder.event(
        error.step, "rollback", f"{error}. Rolled back to step {checkpoint.step}; {passed:,} rows are passed over"
    )
    recorder.rewind(checkpoint.step)
    back = Progress.from_state(checkpoint.state["progress"])
    back.skipped_rows, back.rollbacks = now.skipped_rows + passed, now.rollbacks + 1
    return back


def check_it_fits(
    config: TransformerConfig,
    rows: Sequence[Rows],
    recipe: Recipe,
    conditions: Conditions,
    corpus: Corpus,
    out: Path,
    free: int,
    teacher: Teacher | None = None,
) -> None:
    """Raise a ConfigError when the run cannot work on this machine, before it begins; see `planning.fit_check`.

    free: bytes of main memory that there were before a checkpoint was read.
    """
    from blankfill.planning import estimate, fit_check

    options, pad = recipe.train, corpus.vocabulary["pad"]
    shapes = []
    for part in rows:
        shapes.append(estimate.row_shape(estimate.sampled_rows(part.new), pad, corpus.unigram))
    parts = estimate.parts(options, shapes, [part.new.objective.length for part in rows])
    device = conditions.device
    room = fit_check.room(str(device), out)
    main = max(room.main, free)
    room = dataclasses.replace(room, main=main, memory=room.memory if device.type == "cuda" else main)
    written = sum(path.lstat().st_size for path in out.glob("checkpoints/*/*"))  # a resumed run replaces these
    kept = estimate.distil_bytes(teacher.config, config, recipe.distil) if teacher else 0
    room = dataclasses.replace(room, disk=room.disk + written, memory=room.memory - kept)
    computing = estimate.Computing(conditions.dtype.itemsize, conditions.machine.attention, device.type)
    if found := fit_check.verdict(config, parts, options, computing, room, corpus.vocabulary.size):
        raise ConfigError(found)


def announce(recipe: Recipe, corpus: Corpus, model: Transformer, rows: int, where: str, baseline: float) -> None:
    """Say what is about to be trained, and what it must beat."""
    options = recipe.train
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"{recipe.name}: {parameters:,} parameters, vocabulary {corpus.vocabulary.size:,}, "
        f"{len(corpus.train.tokens):,} training tokens, {rows:,} rows an epoch, "
        f"{options.steps:,} steps of {options.batch_size} rows, {where}"
    )
    if math.isnan(baseline):
        say("there is no validation text, so nothing is held against the baseline; prepare with --validation 0.1")
    else:
        say(f"unigram baseline on the validation answers: {baseline:.3f} nats (a model that learns goes below it)")


def learn_from(teacher: Teacher, recipe: Recipe, config: TransformerConfig, trainer: Trainer) -> None:
    """Let a run learn by a teacher's losses, and count its work."""
    from blankfill.planning.estimate import batch_shape, distil_flops

    teacher.distillation(recipe).teach(trainer)
    student = trainer.flops

    def flops(batch: Batch) -> float:
        more = distil_flops(teacher.config, config, recipe.distil, batch_shape(batch))
        return student(batch) + len(batch.input_ids) * more

    trainer.flops = flops


def note_run(
    out: Path,
    baseline: float,
    model: Transformer,
    peak: float,
    resumed: bool,
    warm_start: WarmStart | None,
    teacher: Teacher | None,
    where: str,
) -> None:
    """Write what a reader of the run folder should know of where it was made: `run.json`."""
    from blankfill.system.environment import environment

    noted = {
        "baseline": None if math.isnan(baseline) else baseline,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "matmul_flops_per_s": peak,
        "computed_on": where,
        "resumed" if resumed else "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": environment(),
    }
    if warm_start is not None:
        noted |= {
            "from": warm_start.path,
            "new_tokens": len(warm_start.new_tokens),
            "replay_ratio": warm_start.replay_ratio,
        }
    if teacher is not None:
        noted["teacher"] = str(teacher.path)
    note_facts(out, noted, resumed)


def watcher(baselines: Sequence[float], recipe: Recipe, recorder: RunRecorder) -> Callable[[Progress], None]:
    """What happens after each validation: the report is renewed; a baseline not beaten in time is told of, once."""
    options = recipe.train
    due = max(200, 2 * options.warmup_steps, min(options.steps // 5, 5000))
    told: list[int] = []

    def watch(now: Progress) -> None:
        renew_report(recorder.path.parent)
        baseline = baselines[0] if now.step < options.long_from else baselines[-1]
        if now.step >= due and not told and now.valid_loss > baseline - 0.02:
            told.append(now.step)
            recorder.event(
                now.step,
                "baseline",
                f"step {now.step}: the validation loss ({now.valid_loss:.3f}) has not beaten the unigram baseline "
                f"({baseline:.3f}): the model knows no more than how often each word occurs. Likely causes: train.lr "
                f"({options.lr:g}) is too high (look at grad_norm) or too low, the warm-up is too long, the text "
                "repeats itself or is no language (look at the report of `prepare` and at `blankfill show`), or the "
                "model needs more steps: masked models often begin late",
            )

    return watch
