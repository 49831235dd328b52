"""The training of a fine-tuning run: the loop with its evaluations, checkpoints and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blankfill.checkpoint import store
from blankfill.finetuning.before import BEFORE, BEFORE_TEST, as_pretrained, baseline_of
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.data import TaskData
from blankfill.finetuning.forgetting import Forgetting
from blankfill.finetuning.model_setup import TaskSetup, task_state
from blankfill.finetuning.outcome import announce, note_run
from blankfill.runs.context import RunContext
from blankfill.runs.folder import note_step, renew_report
from blankfill.runs.start import Start
from blankfill.system.console import quoted, say
from blankfill.tasks.adapter import LMHeadAdapter, Prediction
from blankfill.tasks.batching import ANSWER
from blankfill.tasks.chat.adapter import ChatEvaluator
from blankfill.tasks.chat.model import OLD
from blankfill.tasks.cloze.setup import with_texts
from blankfill.tasks.datasets.predicted import options_of
from blankfill.tasks.datasets.tabular import ROLES
from blankfill.tasks.heads import models
from blankfill.tasks.items import Item
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.text.writing import WritingEvaluator, evaluator_for
from blankfill.tasks.training import HeadEvaluator, task_optimizer
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.machine import NOTED
from blankfill.training.progress import Progress


class Training:
    """A run that is ready to be trained.

    baseline: predictions for the dev set that ignore the items. stopped: whether the run ended before its last step. A
    trainer exists only while `run` runs: it calls methods of this object, and a cycle of references would keep model
    and optimizer in memory after the run.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        options: FinetuneOptions,
        data: TaskData,
        setup: TaskSetup,
        context: RunContext,
        start: Start,
    ) -> None:
        """Restore the progress of a resumed run. options: the current options."""
        self.config, self.data, self.setup, self.context = config, data, setup, context
        self.options, self.stopped = options, False
        adapter, model, dev = setup.adapter, setup.model, data.dev.items
        self.settings = settings = options.train_options(len(setup.encoded))
        self.optimizer = task_optimizer(
            model, options, settings, options.embedding_lr_multiplier or setup.loaded.embedding_lr_multiplier
        )
        self.done = start.restore(model, self.optimizer)
        announce(config, data, setup, settings.steps, context.machine.where)
        pad = setup.loaded.vocabulary.roles.get("pad", 0)
        self.evaluator = evaluator_for(adapter, dev, pad, self.done.best_loss, options.max_eval_samples)
        self.test_baseline: Sequence[Prediction] = ()
        with as_pretrained(model):
            self.baseline = self._baseline(dev, BEFORE, self.evaluator)
            if data.test is not None:
                on_test = evaluator_for(adapter, data.test.items, pad) if adapter.from_start else self.evaluator
                self.test_baseline = self._baseline(data.test.items, BEFORE_TEST, on_test)
            self.forgetting = self._forgetting()
        note_run(data, setup, context, start, settings.steps, adapter.measure(dev, self.baseline))
        note_step(context.folder, self.done)
        self.recorder = context.record("fine-tuning", settings.steps, self.done.step)
        self.writer = context.enter(store.Writer(context.folder / "checkpoints", settings.save_total_limit))
        columns = data.train.columns
        tables = None
        if columns:  # dialogues remember only the columns that were named, since each row may have another form
            tables = options_of(columns, config.tables) if data.task.kind in ROLES else config.tables
        self.state = {**task_state(setup.loaded, adapter, options, tables), "inputs": setup.note}
        if options.prefix_length:
            self.state[store.BASE] = setup.base
        context.note_conditions(self.done)
        self.batches = adapter.batches(setup.encoded, adapter.epochs(setup.encoded), pad, options.micro_batch)
        if options.mlm_weight:
            self.batches = with_texts(self.batches, setup.loaded, adapter, setup.encoded, data.unlabelled)
        if setup.old is not None and options.replay_ratio:
            self.batches = setup.old.mixed_into(self.batches, options.replay_ratio)

    def _baseline(
        self, items: Sequence[Item], name: str, evaluator: HeadEvaluator | WritingEvaluator | ChatEvaluator
    ) -> Sequence[Prediction]:
        """Return the predictions that the run is compared with."""
        context, model = self.context, self.setup.model
        return baseline_of(
            self.setup.adapter, self.data.train.items, items, context.folder / name, self.done.step > 0,
            lambda: evaluator.predict(model, context.device, context.dtype)[0],
        )  # fmt: skip

    def _forgetting(self) -> Forgetting | None:
        """Return the loss of old text before the training; None without old text."""
        if self.setup.old is None:
            return None
        context = self.context
        return Forgetting.begun(
            self.setup.old, self.setup.model, context.device, context.dtype, context.folder, self.done.step > 0,
            self.options.replay_ratio,
        )  # fmt: skip

    def new_trainer(self) -> Trainer:
        """Make the trainer of the run."""
        context, model = self.context, self.setup.model
        device, dtype = context.device, context.dtype
        return Trainer(
            model, self.optimizer, self.settings, self.options.seed, device, dtype, self.recorder, lambda step: [],
            self.save, self.batches, stop=context.should_stop,
            validated=lambda now: renew_report(context.folder, live=True),
            loss=models.task_losses, examine=self._examine, weights=self._weights(),
            examine_first=isinstance(self.setup.adapter, LMHeadAdapter), pace=context.watch(), group=context.group,
        )  # fmt: skip

    def _weights(self) -> Mapping[str, float]:
        """Return the weights of the losses of answers and of old text."""
        share = self.options.replay_ratio
        return {ANSWER: 1 - share, OLD: share} if share else {}

    def _examine(self) -> tuple[float, Metrics]:
        """Return the figure of the dev set, of which less is better, and all metrics."""
        context, model = self.context, self.setup.model
        figure, metrics = self.evaluator.examine(model, context.device, context.dtype)
        if self.setup.old is not None:
            metrics["old_loss"] = self.setup.old.loss(model, context.device, context.dtype)
        return figure, metrics

    def run(self) -> Progress:
        """Train up to the last step, or until the run is stopped; returns the progress."""
        trainer = self.new_trainer()
        if self.done.step == 0:
            self.save(self.done)  # the initial model may remain the best
        steps, out = self.settings.steps, self.context.folder
        done = trainer.train(self.batches.steps(self.done.step, steps), self.done)
        self.writer.wait()
        self.stopped = trainer.stopped
        note_step(out, done, self.context.stop_reason(False) if self.stopped else None)
        if self.stopped:
            say(f"stopped at step {done.step:,} of {steps:,}; resume with: blankfill finetune --resume {quoted(out)}")
        return done

    def best_predictions(self, done: Progress) -> Sequence[Prediction]:
        """Return the predictions of the best checkpoint for the dev set."""
        if self.evaluator.best is not None:
            return self.evaluator.best
        self._load_best(done)  # the best was before this run was resumed, or there was no score yet
        predictions, _ = self.evaluator.predict(self.setup.model, self.context.device, self.context.dtype)
        return predictions

    def test_predictions(self, done: Progress) -> Sequence[Prediction] | None:
        """Return the predictions of the best checkpoint for the test set; None without one, and for a run that was
        stopped, whose best checkpoint is not chosen yet."""
        if self.data.test is None or self.stopped:
            return None
        self._load_best(done)
        pad = self.setup.loaded.vocabulary.roles.get("pad", 0)
        evaluator = evaluator_for(self.setup.adapter, self.data.test.items, pad)
        predictions, _ = evaluator.predict(self.setup.model, self.context.device, self.context.dtype)
        return predictions

    def write_adapter(self, done: Progress, predictions: Sequence[Prediction]) -> None:
        """Write the adapter of the best checkpoint, of a run that trains one. predictions: its own for the dev set."""
        if self.options.lora_rank or self.options.prefix_length:
            from blankfill.finetuning.adapter_folder import write_adapter

            self._load_best(done)
            self.setup.adapter.tune(self.data.dev.items, predictions)
            write_adapter(self.context.folder, self.setup, self.options, self.state)

    def measure_forgetting(self, done: Progress) -> None:
        """Measure the loss of old text with the best checkpoint."""
        if self.forgetting is not None:
            self._load_best(done)
            self.forgetting.measure(self.setup.model, self.context.device, self.context.dtype)

    def _load_best(self, done: Progress) -> None:
        """Give the model the weights of the best checkpoint, if there is one."""
        if done.best_step >= 0:
            path = self.context.folder / "checkpoints" / f"step-{done.best_step}"
            best = store.read(path, with_optimizer=False)
            store.put_weights(self.setup.model, best.model, best.path, partial=best.partial)

    def save(self, now: Progress) -> None:
        """Write a checkpoint."""
        state = {**self.state, NOTED: self.context.machine.values(), "progress": now.state()}
        self.writer.save(now.step, self.setup.model, self.optimizer, state, now.best_step)
