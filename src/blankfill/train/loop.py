"""The training loop. There is one, it reads from top to bottom, and every objective runs through it.

It knows models, batches and numbers; files, progress bars and samples are the recorder's (`train.record`), and wiring
is `run`'s. A step is: micro-batches → summed losses divided by the answers of the whole step → gradients → clip →
AdamW at the step's learning rate. Nothing in it depends on what happened before a resume but the tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from blankfill.errors import UserError
from blankfill.model.transformer import Transformer
from blankfill.train.loss import counts, loss_sums
from blankfill.train.options import TrainOptions
from blankfill.train.precision import computing
from blankfill.types import Batch

Metrics = dict[str, float | int | str]


class Recorder(Protocol):
    """Where the loop's numbers go."""

    def record(self, metrics: Metrics) -> None:
        """Take one line of metrics."""

    def advance(self, step: int, fields: Metrics) -> None:
        """Take note that `step` steps are done."""


@dataclass
class Progress:
    """What a run has done; saved with each checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = -1
    valid_loss: float = math.nan


@dataclass
class Trainer:
    """What one run trains with. `save` writes a checkpoint of the progress; `stop` says that the run should end."""

    model: Transformer
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    seed: int
    device: torch.device
    dtype: torch.dtype
    recorder: Recorder
    validation: Sequence[Batch]
    save: Callable[[Progress], None]
    stop: Callable[[], bool] = field(default=lambda: False)

    def train(self, batches: Iterable[tuple[int, list[Batch]]], progress: Progress) -> Progress:
        """Run the steps that `batches` yields; returns the progress (the same object, moved on)."""
        options, model = self.options, self.model
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        evaluate_every, save_every = options.every("eval"), options.every("save")
        window = Window()
        if progress.step == 0:
            self._evaluate(progress)
        model.train()
        for step, micro_batches in batches:
            started = time.perf_counter()
            rate = options.lr_at(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            torch.manual_seed(self.seed * 1_000_003 + step)  # dropout is a function of the step, not of the past
            step_losses = self._backward(micro_batches)
            if not all(math.isfinite(loss) for loss in step_losses.values()):
                raise UserError(
                    f"step {step}: the loss is not finite ({step_losses}); lower train.lr, or resume from the last "
                    f"checkpoint with another seed. Rows {step * options.batch_size} to "
                    f"{(step + 1) * options.batch_size - 1} were at work"
                )
            norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip or math.inf)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

            progress.step = step + 1
            tokens = sum(batch.tokens for batch in micro_batches)
            progress.tokens += tokens
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            window.add(step_losses, tokens, seconds)
            self.recorder.advance(progress.step, {"loss": step_losses["words"], "tokens_per_s": window.rate})
            last = progress.step == options.steps
            if progress.step % options.log_every == 0 or last:
                told: Metrics = {"step": progress.step, "split": "train", **window.means(), "lr": rate}
                told |= {"grad_norm": float(norm), "tokens": progress.tokens, "tokens_per_s": window.rate}
                self.recorder.record(told)
                window = Window()
            if progress.step % evaluate_every == 0 or last:
                self._evaluate(progress)
                model.train()
            stopping = self.stop()
            if progress.step % save_every == 0 or last or stopping:
                self.save(progress)
            if stopping:
                break
        return progress

    def _backward(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Gradients of the mean losses of a step; returns these losses."""
        totals: dict[str, int] = {}
        for batch in micro_batches:
            for name, count in counts(batch).items():
                totals[name] = totals.get(name, 0) + count
        summed = dict.fromkeys(totals, 0.0)
        for batch in micro_batches:
            batch = batch.to(self.device)
            with computing(self.device, self.dtype):
                sums = loss_sums(self.model, batch, self.dtype)
            parts = {"words": sums.words, **sums.labels}
            loss = torch.stack([part / totals[name] for name, part in parts.items()]).sum()
            loss.backward()
            for name, part in parts.items():
                summed[name] += float(part.detach()) / totals[name]
        return summed

    @torch.no_grad()
    def _evaluate(self, progress: Progress) -> None:
        """Validate on the fixed rows and record it."""
        if not self.validation:
            return
        losses = evaluate(self.model, self.validation, self.device, self.dtype)
        told: Metrics = {"step": progress.step, "split": "valid", **named(losses), "tokens": progress.tokens}
        rate = progress.tokens / progress.seconds if progress.seconds else 0.0
        lr = self.options.lr_at(max(0, progress.step - 1)) if progress.step else 0.0
        self.recorder.record(told | {"lr": lr, "tokens_per_s": rate})
        progress.valid_loss = losses["words"]
        if progress.valid_loss < progress.best_loss:
            progress.best_loss, progress.best_step = progress.valid_loss, progress.step


@torch.no_grad()
def evaluate(
    model: Transformer, batches: Iterable[Batch], device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Mean losses over all answers of some batches: `words`, and each whole-example label by name."""
    model.eval()
    summed: dict[str, float] = {}
    totals: dict[str, int] = {}
    for batch in batches:
        with computing(device, dtype):
            sums = loss_sums(model, batch.to(device), dtype)
        for name, part in {"words": sums.words, **sums.labels}.items():
            summed[name] = summed.get(name, 0.0) + float(part)
        for name, count in counts(batch).items():
            totals[name] = totals.get(name, 0) + count
    return {name: value / totals[name] for name, value in summed.items()}


def named(losses: dict[str, float]) -> Metrics:
    """Losses under the names of the metrics: `loss` for words, `<label>_loss` for the rest."""
    return {("loss" if name == "words" else f"{name}_loss"): value for name, value in losses.items()}


class Window:
    """Means over the steps since the last line of metrics."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.tokens = 0
        self.seconds = 0.0

    def add(self, losses: dict[str, float], tokens: int, seconds: float) -> None:
        """Take in one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps, self.tokens, self.seconds = self.steps + 1, self.tokens + tokens, self.seconds + seconds

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def means(self) -> Metrics:
        """Mean losses, under the names of the metrics."""
        return named({name: value / self.steps for name, value in self.sums.items()})
