"""The train section of a recipe: the settings of an optimisation run. What they do is in `train.loop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blankfill.train.schedule import Schedule, learning_rate

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The train section of a recipe."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Rows of a step, over all micro-batches and processes."""
    micro_batch: int = 0
    """Rows computed at once; 0 means all. The result is the same, to rounding."""
    lr: float = 1e-4
    """Peak learning rate."""
    word_lr: float = 1.0
    """Learning rate of the word table, as a multiple of the others': above 1, short runs learn much faster."""
    schedule: Schedule = "linear"
    """How the learning rate decays after warm-up."""
    warmup: float = 0.1
    """Warm-up: a share of the decay steps when below 1, a number of steps otherwise."""
    decay_steps: int = 0
    """Where the decay ends; 0 means at the last step."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay, as a share of the peak."""
    weight_decay: float = 0.01
    """AdamW's decay; biases and norms are left out."""
    decay_all: bool = False
    """Decay biases and norms too (fairseq's RoBERTa)."""
    beta1: float = 0.9
    """Adam's first decay rate."""
    beta2: float = 0.999
    """Adam's second decay rate."""
    eps: float = 1e-6
    """Adam's epsilon."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    precision: Precision = "auto"
    """Type of the matrix products; auto measures whether bf16 pays on this machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """CPU threads; 0 means all cores."""
    workers: int = 0
    """Processes that prepare batches; 0 means a thread."""
    log_every: int = 10
    """Steps between lines of training metrics."""
    eval_every: int = 0
    """Steps between validations; 0 means ten times a run."""
    eval_rows: int = 512
    """Most validation rows, always the same ones with the same masks."""
    save_every: int = 0
    """Steps between checkpoints; 0 means at each validation."""
    keep: int = 2
    """Checkpoints kept, the best one besides."""

    def problems(self) -> list[str]:
        """What is wrong with these options, a sentence each."""
        found = []
        for name in ("steps", "batch_size", "log_every", "eval_rows", "keep"):
            if getattr(self, name) < 1:
                found.append(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("micro_batch", "eval_every", "save_every", "threads", "workers", "clip", "weight_decay", "warmup"):
            if getattr(self, name) < 0:
                found.append(f"train.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("lr", "word_lr"):
            if getattr(self, name) <= 0:
                found.append(f"train.{name} is {getattr(self, name)}; it must be above 0")
        return found

    @property
    def warmup_steps(self) -> int:
        """Warm-up in steps."""
        share = self.warmup < 1
        return round(self.warmup * (self.decay_steps or self.steps)) if share else int(self.warmup)

    def every(self, name: Literal["eval", "save"]) -> int:
        """Steps between validations or checkpoints, the defaults filled in."""
        evaluation = self.eval_every or max(1, self.steps // 10)
        return evaluation if name == "eval" else self.save_every or evaluation

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(step, self.steps, self.lr, self.warmup_steps, self.schedule, self.min_lr, self.decay_steps)
