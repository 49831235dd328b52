"""The training loop of all objectives.

The loop handles models, batches and numbers; files, progress bars and samples belong to the recorder (`runs.recorder`),
and `pretraining` and `finetuning` assemble runs. A step is: micro-batches → summed losses divided by the number of
targets of the whole step → gradients → clipping → optimiser with the learning rate of the step. Only the tensors and
the counters of `Progress` carry over from one step to the next, so that a run can be resumed. Decisions that several
processes must share go through `agree`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Protocol

import torch
from torch import nn

from blankfill.errors import UserError, setting
from blankfill.model.heads import LM
from blankfill.training.agree import ALONE, Decision, Group, T, agree
from blankfill.training.faults import NonFiniteError, OnNan, finite, is_out_of_memory, trace
from blankfill.training.loss import CountFunction, LossFunction, counts, loss_sums
from blankfill.training.options import TrainOptions
from blankfill.training.precision import computing
from blankfill.training.progress import Progress, Window
from blankfill.training.scaling import LossScaler
from blankfill.types import Batch

Metrics = dict[str, float | int | str]

MOST_BAD_STEPS = 10
"""Number of consecutive steps without finite numbers that ends a run that skips them: the weights will not recover."""


class Recorder(Protocol):
    """Receives the numbers of the loop."""

    def record(self, metrics: Metrics) -> None:
        """Record one line of metrics."""

    def advance(self, step: int, fields: Metrics) -> None:
        """Record that `step` steps are done."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Record an event that a user should know about."""


class Numbered(Protocol):
    """Maps a step to the numbers of its rows, for messages about faults."""

    def rows(self, step: int) -> Sequence[int]:
        """Return the numbers of a step's rows, in the order of its batches."""


@dataclass
class Trainer:
    """Everything that one run trains with.

    validation: the fixed validation batches of a step. save: writes a checkpoint of the progress. stop: returns whether
    the run should end. validated and sample: called after a validation, and when samples are due. flops: operations of
    a batch's forward and backward pass; peak: largest number of operations of the machine per second; both are for the
    utilisation. loss: the loss of a batch; counts: divisors of its parts; weights: weight of the mean of each part, 1
    by default. examine: replaces the mean validation loss by another figure, of which less is better, and metrics.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    seed: int
    device: torch.device
    dtype: torch.dtype
    recorder: Recorder
    validation: Callable[[int], Sequence[Batch]]
    save: Callable[[Progress], None]
    schedule: Numbered
    scaler: LossScaler = field(default_factory=LossScaler)
    stop: Callable[[], bool] = field(default=lambda: False)
    validated: Callable[[Progress], None] = field(default=lambda progress: None)
    sample: Callable[[int], None] = field(default=lambda step: None)
    on_nan: OnNan = "stop"
    flops: Callable[[Batch], float] = field(default=lambda batch: 0.0)
    peak: float = 0.0
    loss: LossFunction = field(default_factory=lambda: loss_sums)
    counts: CountFunction = field(default_factory=lambda: counts)
    weights: Mapping[str, float] = field(default_factory=dict)
    examine: Callable[[], tuple[float, Metrics]] | None = None
    examine_first: bool = True
    group: Group = ALONE
    """The processes that train together."""
    parts: int = 1
    """Number of parts of each micro-batch, as in the progress."""
    pace: Callable[[int, float, int], bool] = field(default=lambda step, seconds, tokens: False)
    """Called after each step with (step, seconds, tokens); returns whether it has changed the computation of steps."""
    stopped: bool = field(default=False, init=False)
    """Whether `stop` ended the run before its last step."""
    main: str = field(default="", init=False)
    """Name of the loss that is recorded as `loss`: see `main_name`."""

    def train(self, batches: Iterable[tuple[int, list[Batch]]], progress: Progress) -> Progress:
        """Run the steps that `batches` yields; returns the updated `progress`."""
        options, model, self.parts = self.options, self.model, progress.parts
        evaluate_every, save_every, sample_every = options.every("eval"), options.every("save"), options.every("sample")
        if progress.step == 0 and self.examine_first:
            self._evaluate(progress)
        model.train()
        self.optimizer.zero_grad(set_to_none=True)  # gradients may remain of a step that a rollback undid
        finished = time.perf_counter()
        for step, micro_batches in batches:
            started = time.perf_counter()
            rate = options.lr_at(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            losses = self._agree("losses", self._backward(step, micro_batches))
            self.main = main_name(losses, self.main)
            norm = self._update(step, micro_batches, losses, progress)

            progress.step, progress.parts = step + 1, self.parts
            tokens = sum(batch.tokens for batch in micro_batches)
            progress.tokens += tokens
            waited, seconds = started - finished, time.perf_counter() - finished
            progress.seconds += seconds
            window = progress.window
            window.add(losses, tokens, sum(map(self.flops, micro_batches)), seconds, waited)
            self.recorder.advance(progress.step, {"loss": losses.get(self.main, nan), "tokens_per_s": window.rate})
            last = progress.step == options.steps
            if progress.step % options.log_every == 0 or last:
                line: Metrics = {"step": progress.step, "split": "train"}
                line |= {"loss": nan, **named(window.means(), self.main), "lr": rate}
                line |= {"grad_norm": norm, "tokens": progress.tokens, "tokens_per_s": window.rate}
                line["loader_wait"] = window.waited / window.seconds
                if progress.scaler:
                    line["loss_scale"] = progress.scaler["scale"]
                if self.peak:
                    line["mfu"] = window.flops / window.seconds / self.peak
                self.recorder.record(line)
                progress.window = Window()

            improved = impatient = False
            if progress.step % evaluate_every == 0 or last:
                improved = self._evaluate(progress)
                waits = (progress.step - max(progress.best_step, options.long_from)) // evaluate_every
                waiting = bool(options.patience) and progress.best_step >= 0  # else there is nothing to improve
                impatient = waiting and progress.step > options.long_from and waits >= options.patience
                model.train()
            if progress.step % sample_every == 0 or last:
                self.sample(progress.step)
            if impatient and not last:
                text = f"no better validation in {options.patience}; the best was {progress.best_loss:.4f} at step "
                self.recorder.event(progress.step, "early stop", f"{text}{progress.best_step}")
            self.stopped = not last and not impatient and self._agree("stop", self.stop())
            ending = last or impatient or self.stopped
            changed = self.pace(
                progress.step, seconds - waited, tokens
            )  # a resume must start here with the new threads
            changed = self._agree("checkpoint now", changed)
            if improved or progress.step % save_every == 0 or ending or changed:
                self.save(progress)
            if ending:
                break
            finished = time.perf_counter()
        return progress

    def _agree(self, decision: Decision, value: T) -> T:
        """Return the common result of a decision of all processes."""
        return agree(self.group, decision, value)

    def _update(self, step: int, micro_batches: list[Batch], losses: dict[str, float], progress: Progress) -> float:
        """Clip the gradient and run the optimiser, unless a number is not finite; returns the norm of the gradient."""
        if not losses:  # the step has no targets and so no gradient, without which the scaler raises an error
            return 0.0
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        overflowed = not self.scaler.unscale_and_check(self.optimizer) and all(map(math.isfinite, losses.values()))
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm or math.inf))
        if self._agree("finite", overflowed or finite(losses, norm)):
            self.scaler.step(self.optimizer)  # after an overflow it only changes the scale
            progress.bad_in_a_row = 0
        else:
            progress.skipped_steps += 1
            progress.bad_in_a_row += 1
            self._fault(step, micro_batches, losses, norm, progress)
        progress.scaler = self.scaler.state()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _fault(
        self, step: int, micro_batches: list[Batch], losses: dict[str, float], norm: float, progress: Progress
    ) -> None:
        """Report what is not finite and where it comes from; raises NonFiniteError unless the step is skipped."""
        worst = named({name: loss for name, loss in losses.items() if not math.isfinite(loss)}, self.main)
        what = f"the {', '.join(worst)} is not finite" if worst else f"the norm of the gradient is {norm}"
        self.model.eval()
        where = trace(self.model, micro_batches, list(self.schedule.rows(step)), self.device, self.dtype, self.loss)
        self.model.train()
        sentence = f"step {step}: {what}; {where}"
        if self.on_nan == "skip" and progress.bad_in_a_row < MOST_BAD_STEPS:
            self.recorder.event(step, "skipped", f"{sentence}; the step is left out")
            return
        if self.on_nan == "skip":
            sentence = f"{sentence}; {MOST_BAD_STEPS} consecutive steps were left out, so it will not recover"
        elif self.on_nan == "stop":
            self.save(progress)
        remedy = (
            f"Lower {setting('train.lr')} or {setting('train.max_grad_norm')}, or resume it with "
            f"{setting('resume', True)} and {setting('on_nan', 'rollback')} (or skip)"
        )
        raise NonFiniteError(step, f"{sentence}. {remedy}")

    def _backward(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        """Compute the gradients of a step's mean losses; when memory runs out, once more with half the rows at a
        time."""
        losses: dict[str, float] = {}
        cause: BaseException | None = None
        try:
            losses = self._accumulate(step, micro_batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = error.with_traceback(None)  # the frames of the traceback hold on to the memory of the step
        if not self._agree("out of memory", cause is not None):
            return losses
        rows = self._agree("rows at once", max(len(batch.input_ids) for batch in micro_batches))
        if self.parts > 1 or rows < 2:
            raise UserError(
                f"step {step}: there is not enough memory even for {-(-rows // self.parts)} rows at a time; lower "
                f"{setting('train.micro_batch')} or {setting('objective.length')}, or turn on "
                f"{setting('train.gradient_checkpointing')}"
            ) from cause
        self.parts = 2
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"memory ran out with {rows} rows at a time; continuing with {-(-rows // 2)}"
        text += ", the same but for dropout and rounding"
        self.recorder.event(step, "out of memory", f"step {step}: {text}")
        return self._backward(step, micro_batches)

    def _accumulate(self, step: int, micro_batches: list[Batch]) -> dict[str, float]:
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout depends on the step, not on earlier steps
        totals: dict[str, int] = {}
        for batch in micro_batches:
            for name, count in self.counts(batch).items():
                totals[name] = totals.get(name, 0) + count
        totals = self._agree("target counts", totals)
        summed: dict[str, float] = {}
        for batch in micro_batches:
            for part in split(batch, self.parts):
                part = part.to(self.device)
                with computing(self.device, self.dtype):
                    sums = self.loss(self.model, part, self.dtype)
                losses = {name: total for name, total in sums.items() if name in totals}
                if not losses:  # these rows have no targets: no loss, no gradient
                    continue
                loss = torch.stack([self.weights.get(name, 1.0) * losses[name] / totals[name] for name in losses]).sum()
                self.scaler.scale(loss).backward()
                for name, value in losses.items():
                    summed[name] = summed.get(name, 0.0) + float(value.detach()) / totals[name]
        return summed

    def _evaluate(self, progress: Progress) -> bool:
        """Validate on the fixed rows and record the result; returns whether the loss is the best so far."""
        if self.examine is not None:
            figure, metrics = self.examine()
        elif batches := self.validation(progress.step):
            losses = evaluate(self.model, batches, self.device, self.dtype, self.loss, self.counts)
            if not losses:
                text = "the validation rows have no targets, so there is no validation loss"
                self.recorder.event(progress.step, "validation", f"step {progress.step}: {text}")
            self.main = main_name(losses, self.main)
            figure, metrics = losses.get(self.main, nan), {"loss": nan, **named(losses, self.main)}
        else:
            self.validated(progress)
            return False
        progress.valid_loss = self._agree("validation", figure)
        line: Metrics = {"step": progress.step, "split": "valid", **metrics, "tokens": progress.tokens}
        rate = progress.tokens / progress.seconds if progress.seconds else 0.0
        lr = self.options.lr_at(max(0, progress.step - 1)) if progress.step else 0.0
        self.recorder.record(line | {"lr": lr, "tokens_per_s": rate})
        if self.options.long_from and progress.best_step <= self.options.long_from < progress.step:
            progress.best_loss = math.inf  # losses on rows of another length are not comparable
        improved = progress.valid_loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_step = progress.valid_loss, progress.step
        self.validated(progress)
        return improved


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
    loss: LossFunction = loss_sums,
    count: CountFunction = counts,
) -> dict[str, float]:
    """Return the mean losses over all targets of some batches, by name."""
    model.eval()
    summed: dict[str, float] = {}
    totals: dict[str, int] = {}
    for batch in batches:
        with computing(device, dtype):
            sums = loss(model, batch.to(device), dtype)
        batch_counts = {name: size for name, size in count(batch).items() if name in sums}
        for name, size in batch_counts.items():
            summed[name] = summed.get(name, 0.0) + float(sums[name])
            totals[name] = totals.get(name, 0) + size
    return {name: value / totals[name] for name, value in summed.items()}


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` batches of nearly equal numbers of rows; rows of one question stay
    together."""
    rows = len(batch.input_ids)
    if parts < 2 or rows < 2:
        return [batch]
    size = -(-rows // parts)
    edges = [0]
    for row in range(1, rows):
        if row - edges[-1] >= size and row not in batch.no_split_before:
            edges.append(row)
    return [batch.part(first, stop) for first, stop in zip(edges, [*edges[1:], rows], strict=True)]


def main_name(losses: Mapping[str, float], before: str = "") -> str:
    """Return the name of the loss that represents a model: the language-model loss if there is one, else the first.

    before: what it was until now, so that steps without word targets do not take another loss for it.
    """
    return LM if LM in (before, *losses) else before or next(iter(losses), "")


def named(losses: Mapping[str, float], main: str) -> Metrics:
    """Losses under the names of the metrics: `loss` for the one named `main`, `<label>_loss` for the others."""
    return {("loss" if name == main else f"{name}_loss"): value for name, value in losses.items()}
