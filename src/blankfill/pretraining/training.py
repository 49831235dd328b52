"""The training of a pretraining run: the loop with its validations, checkpoints, samples, reports and rollbacks.

The teacher's losses belong here too, and rolling back after numbers that are not finite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_layout import hf_layout_of
from blankfill.checkpoint.load import Loaded
from blankfill.config.recipe import Recipe, to_values
from blankfill.data.loader import Phase, Steps, load
from blankfill.errors import Problem, UserError, setting
from blankfill.generation.samples import Samples
from blankfill.model.config import TransformerConfig, config_values
from blankfill.planning.flops import batch_flops
from blankfill.pretraining.data_setup import Rows, old_validation, target_baseline, validation_batches
from blankfill.pretraining.hidden_words import HiddenWordsWatch
from blankfill.pretraining.inputs import Inputs
from blankfill.pretraining.outcome import announce, announce_prompts, note_run
from blankfill.pretraining.teacher import Teacher
from blankfill.runs.context import RunContext
from blankfill.runs.folder import newest_whole, note_step, renew_report
from blankfill.runs.recorder import RunRecorder
from blankfill.runs.start import Start, restore
from blankfill.training.faults import NonFiniteError, OnNan
from blankfill.training.loop import Trainer, evaluate
from blankfill.training.loss import loss_sums
from blankfill.training.machine import NOTED
from blankfill.training.precision import peak_rate
from blankfill.training.progress import Progress
from blankfill.training.scaling import loss_scaler

if TYPE_CHECKING:
    import torch

    from blankfill.model.transformer import Transformer
    from blankfill.types import Batch

MOST_ROLLBACKS = 5


class Training:
    """A run that is ready to be trained.

    baselines: the unigram baseline of each phase, in nats per target. stopped: whether the run ended before its last
    step. A trainer exists only while `run` runs: it calls methods of this object, and a cycle of references would keep
    model and optimizer in memory after the run.
    """

    def __init__(
        self,
        inputs: Inputs,
        rows: Sequence[Rows],
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        context: RunContext,
        start: Start,
        done: Progress,
        on_nan: OnNan = "stop",
    ) -> None:
        """done: the progress so far. on_nan: what to do when numbers are not finite."""
        recipe, options, out = inputs.recipe, inputs.recipe.train, context.folder
        self.inputs, self.rows, self.context, self.start = inputs, rows, context, start
        self.model, self.optimizer, self.on_nan, self.stopped = model, optimizer, on_nan, False
        self.old_batches = old_validation(inputs.old, recipe, rows[-1].micro) if inputs.old else []
        self.validations = [
            (part.start, validation_batches(part.valid, options.eval_rows, part.micro)) for part in rows
        ]
        self.baselines = [
            target_baseline(inputs.corpus, part.new, batches)
            for part, (_, batches) in zip(rows, self.validations, strict=True)
        ]
        announce(inputs, model, rows[0].train.rows_in_epoch(0), context.machine.where, self.baselines[-1])
        if (prompted := rows[-1].prompted) is not None:
            announce_prompts(prompted, recipe.prompts.share)
        self.recorder = context.record("training", options.steps, done.step)
        hf_layout = hf_layout_of(model.config, recipe.objective, inputs.corpus.tokenizer)
        self.writer = context.enter(store.Writer(out / "checkpoints", options.save_total_limit, hf_layout))
        loaded = Loaded(model, inputs.corpus.tokenizer, inputs.corpus.vocabulary, recipe.objective, out)
        self.samples = Samples(loaded, inputs.corpus.valid, options.samples)
        self.hidden_words = watch_hidden_words(loaded, inputs, options.hidden_words, self.recorder)
        self.watch = baseline_watcher(self.baselines, recipe, self.recorder)

    def new_trainer(self) -> Trainer:
        """Make the trainer of the run."""
        context, recipe, config = self.context, self.inputs.recipe, self.model.config
        options = recipe.train
        trainer = Trainer(
            self.model, self.optimizer, options, recipe.seed, context.device, context.dtype, self.recorder,
            self.validation, self.save, options.row_schedule, loss_scaler(context.device, context.dtype),
            context.should_stop, self.validated, self.sample, self.on_nan, lambda batch: batch_flops(config, batch),
            peak_rate(context.device, context.dtype), pace=context.watch(), group=context.group,
            weights=recipe.objective.loss_weights,
        )  # fmt: skip
        if options.z_loss:
            trainer.loss = partial(loss_sums, z_loss=options.z_loss)
        if self.inputs.teacher is not None:
            learn_from(self.inputs.teacher, recipe, config, trainer)
        return trainer

    def run(self, done: Progress) -> Progress:
        """Train up to the last step, or until the run is stopped; returns the progress.

        Raises NonFiniteError when numbers are not finite, unless the run may skip the step or roll back.
        """
        options, trainer = self.inputs.recipe.train, self.new_trainer()
        note_run(self.inputs, self.context, self.start, trainer, self.baselines[-1], self.rows[-1].prompted)
        note_step(self.context.folder, done)
        if self.start.resumed and done.step < options.steps:
            self.recorder.event(done.step, "resumed", f"continuing from step {done.step}")
        if self.start.trained and "workers" in self.start.changes:
            remark = f"{setting('train.workers')} is {options.workers} from here on; no number depends on it"
            self.context.conditions.remarks.append(Problem(remark))
        self.context.note_conditions(done)
        if done.step == 0:
            self.sample(0)
            self.save(done)
        parts = [Phase(part.start, part.train, part.micro) for part in self.rows]
        while True:
            trainer.scaler.restore(done.scaler)
            trainer.schedule = schedule = dataclasses.replace(options.row_schedule, skipped=done.skipped_rows)
            steps = Steps(parts, schedule, self.context.rank, self.context.world_size)
            batches = load(steps, done.step, options.steps, options.workers)
            try:
                with closing(batches):
                    done = trainer.train(batches, done)
                self.stopped = trainer.stopped
                return done
            except NonFiniteError as error:
                if self.on_nan != "rollback":
                    raise
                done = self.roll_back(error, done)

    def roll_back(self, error: NonFiniteError, now: Progress) -> Progress:
        """Return to the newest checkpoint and skip the rows since; raises the error when rollbacks do not help."""
        self.writer.wait()
        checkpoint = newest_whole(self.context.folder)
        if checkpoint is None or now.rollbacks >= MOST_ROLLBACKS:
            raise UserError(f"{error.template}. It was rolled back {now.rollbacks} times") from error
        schedule = self.inputs.recipe.train.row_schedule
        passed = schedule.first(error.step + 1) - schedule.first(checkpoint.step)
        self.recorder.event(
            error.step,
            "rollback",
            f"{error.template}. Rolled back to step {checkpoint.step}; {passed:,} rows are skipped",
        )
        self.recorder.rewind(checkpoint.step)
        back = restore(checkpoint, self.model, self.optimizer)
        back.skipped_rows, back.rollbacks = now.skipped_rows + passed, now.rollbacks + 1
        return back

    def validation(self, step: int) -> Sequence[Batch]:
        """Return the validation rows of the phase of a step."""
        return [batches for start, batches in self.validations if start <= step][-1]

    def validated(self, now: Progress) -> None:
        """Measure the old text after a validation, update the report, and compare with the baseline."""
        if self.old_batches:
            losses = evaluate(self.model, self.old_batches, self.context.device, self.context.dtype)
            self.recorder.record(old_text_line(now, losses))
        if self.hidden_words:
            self.hidden_words.measure(now.step, now.tokens)
        self.watch(now)

    def sample(self, step: int) -> None:
        """Record fills and continuations of the current model."""
        self.recorder.sample(step, self.samples.take(step))

    def save(self, now: Progress) -> None:
        """Write a checkpoint."""
        values = to_values(self.inputs.recipe)
        state = {
            "model": config_values(self.model.config), "objective": values["objective"],
            "embedding_lr_multiplier": self.inputs.recipe.train.embedding_lr_multiplier, "recipe": values,
            "inputs": self.inputs.note, NOTED: self.context.machine.values(), "progress": now.state(),
        }  # fmt: skip
        self.writer.save(now.step, self.model, self.optimizer, state, now.best_step)


def watch_hidden_words(loaded: Loaded, inputs: Inputs, count: int, recorder: RunRecorder) -> HiddenWordsWatch | None:
    """Return what measures the hidden words of a run; None without validation text, for a model that does not fill
    blanks by places, and for a count of 0."""
    objective, valid = loaded.objective, inputs.corpus.valid
    if not count or valid is None or not objective.fills or loaded.format.fill_method != "places":
        return None
    return HiddenWordsWatch(loaded, inputs.corpus.train, valid, count, recorder)


def old_text_line(now: Progress, losses: Mapping[str, float]) -> dict[str, float | int | str]:
    """Return the line of metrics with the old text's validation loss; NaN when the old text has no targets."""
    loss = losses.get("lm", math.nan)
    return {"step": now.step, "split": "old", "loss": loss, "lr": 0.0, "tokens": now.tokens, "tokens_per_s": 0.0}


def learn_from(teacher: Teacher, recipe: Recipe, config: TransformerConfig, trainer: Trainer) -> None:
    """Let a run use a teacher's losses, and count the teacher's computation."""
    from blankfill.planning.estimate import batch_shape
    from blankfill.planning.flops import distil_flops

    teacher.distillation(recipe).teach(trainer)
    student = trainer.flops

    def flops(batch: Batch) -> float:
        more = distil_flops(teacher.config, config, recipe.distil, batch_shape(batch))
        return student(batch) + len(batch.input_ids) * more

    trainer.flops = flops


def baseline_watcher(baselines: Sequence[float], recipe: Recipe, recorder: RunRecorder) -> Callable[[Progress], None]:
    """Return a function for after each validation: it updates the report, and warns once when a baseline is not
    beaten."""
    options = recipe.train
    due = max(200, 2 * options.warmup_steps, min(options.steps // 5, 5000))
    steps_said: list[int] = []

    def watch(now: Progress) -> None:
        renew_report(recorder.path.parent, live=True)
        baseline = baselines[0] if now.step < options.long_from else baselines[-1]
        if now.step >= due and not steps_said and now.valid_loss > baseline - 0.02:
            steps_said.append(now.step)
            recorder.event(
                now.step,
                "baseline",
                f"step {now.step}: the validation loss ({now.valid_loss:.3f}) has not beaten the unigram baseline "
                f"({baseline:.3f}): the model knows only how often each token occurs. Likely causes: "
                f"{setting('train.lr')} ({options.lr:g}) is too high (look at grad_norm) or too low, the warm-up is "
                "too long, the text repeats itself or is not natural language (look at the report of `prepare` and at "
                "`blankfill show`), or the model needs more steps: masked models often learn little in their first "
                "steps",
            )

    return watch
