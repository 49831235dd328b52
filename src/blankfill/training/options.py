"""The train section of a recipe: the settings of an optimisation run. What they do is in `training.loop`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from blankfill.data.rows import RowSchedule
from blankfill.system.bounds import COUNT, SHARE, SOME, Bound, above, at_least, below, out_of_bounds
from blankfill.training.schedule import Schedule, learning_rate

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "adam", "sgd", "adafactor", "lamb"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The train section of a recipe."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("steps", "batch_size", "log_every", "eval_rows", "save_total_limit"), SOME),
        **dict.fromkeys(
            ("micro_batch", "batch_size_start", "phase1_steps", "warmup", "constant_steps", "decay_steps",
             "weight_decay", "z_loss", "max_grad_norm", "eval_every", "save_every", "patience", "sample_every"), COUNT
        ),
        **dict.fromkeys(("momentum", "beta1", "beta2"), below(1)),
        **dict.fromkeys(("lr", "embedding_lr_multiplier", "eps"), above(0)),
        "phase1_length": Bound(8, 2**20, also=(0,)),
        "batch_size_warmup": at_least(0, 10_000_000),
        "min_lr": SHARE,
    }  # fmt: skip

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Rows of a step, over all micro-batches and processes."""
    micro_batch: int = 0
    """Rows computed at once; 0 means all. Without dropout the result is the same to rounding; dropout draws anew for
    each part."""
    batch_size_start: int = 0
    """Rows of the first step when the batch grows; 0 means that it does not."""
    batch_size_warmup: float = 0.1
    """How long the batch grows, when it does: a share of the steps when below 1, a number of steps otherwise."""
    phase1_length: int = 0
    """Length of the rows of the first phase (BERT: 128 of 512), at most `objective.length`; 0 means one phase."""
    phase1_steps: float = 0.9
    """How long the first phase is, when there is one: a share of the steps when below 1, else a number of steps."""
    optimizer: OptimizerName = "adamw"
    """adam is AdamW without bias correction, as the original BERT ran it; adafactor's rate is relative to the size of
    each weight (T5: lr 0.01, max_grad_norm 0, weight_decay 0)."""
    momentum: float = 0.9
    """Momentum of sgd."""
    lr: float = 1e-4
    """Peak learning rate."""
    embedding_lr_multiplier: float = 1.0
    """Learning rate of the word table, as a multiple of the others': above 1, short runs learn much faster."""
    schedule: Schedule = "linear"
    """How the learning rate decays after warm-up."""
    warmup: float = 0.1
    """Warm-up: a share of the decay steps when below 1, a number of steps otherwise."""
    constant_steps: float = 0.0
    """How long the rate stays at its peak before it decays: a share of the decay steps when below 1, a number of steps
    otherwise (T5: 10,000)."""
    decay_steps: int = 0
    """Where the decay ends; 0 means at the last step."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay, as a share of the peak."""
    weight_decay: float = 0.01
    """Weight decay; biases and norms are left out."""
    decay_all: bool = False
    """Decay biases and norms too (fairseq's RoBERTa)."""
    beta1: float = 0.9
    """Adam's first decay rate."""
    beta2: float = 0.999
    """Adam's second decay rate."""
    eps: float = 1e-6
    """Adam's epsilon."""
    z_loss: float = 0.0
    """So many times log² Z is added to the loss of each answer, Z being what its softmax divides by (T5: 1e-4); it is
    trained with and not validated with."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    precision: Precision = "auto"
    """Type of the matrix products; auto is bf16 where the device has units for it, fp16 scales the loss."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer only and compute it again on the way back: a third more work, far less memory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """CPU threads; 0: as OMP_NUM_THREADS says, else all cores that other programs leave free."""
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
    save_total_limit: int = 2
    """Checkpoints kept, the best one besides."""
    patience: int = 0
    """Stop after this many validations without a better one; 0 means never."""
    sample_every: int = 0
    """Steps between samples; 0 means at each validation."""
    samples: tuple[str, ...] = ()
    """Texts to sample while training: one with [MASK] is filled, any other continued; none means validation text."""

    def problems(self) -> list[str]:
        """What is wrong with these options, a sentence each."""
        found = out_of_bounds(self, "train.")
        if self.batch_size_start > self.batch_size:
            found.append(
                f"train.batch_size_start is {self.batch_size_start}; it must not be above train.batch_size, the batch "
                f"that the ramp ends with ({self.batch_size})"
            )
        return found

    @property
    def warmup_steps(self) -> int:
        """Warm-up in steps."""
        return self._of_decay(self.warmup)

    def _of_decay(self, span: float) -> int:
        """A share of the decay steps when below 1, a number of steps otherwise; in steps."""
        return round(span * (self.decay_steps or self.steps)) if span < 1 else int(span)

    def every(self, name: Literal["eval", "save", "sample"]) -> int:
        """Steps between validations, checkpoints or samples, the defaults filled in."""
        evaluation = self.eval_every or max(1, self.steps // 10)
        given = {"eval": self.eval_every, "save": self.save_every, "sample": self.sample_every}
        return given[name] or evaluation

    @property
    def row_schedule(self) -> RowSchedule:
        """Which rows each step holds."""
        return RowSchedule(
            self.batch_size,
            self.batch_size_start,
            self.in_steps(self.batch_size_warmup) if self.batch_size_start else 0,
        )

    @property
    def long_from(self) -> int:
        """The first step with rows of the full length: 0 when there is one phase only."""
        return min(self.steps, self.in_steps(self.phase1_steps)) if self.phase1_length else 0

    def in_steps(self, span: float) -> int:
        """A share of the run when below 1, a number of steps otherwise; in steps."""
        return round(span * self.steps) if span < 1 else int(span)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        constant_steps = self._of_decay(self.constant_steps)
        return learning_rate(
            step, self.steps, self.lr, self.warmup_steps, self.schedule, self.min_lr, self.decay_steps, constant_steps
        )


WEIGHTS = ("soft_weight", "lm_weight", "hidden_weight")
"""What the parts of a loss count that is learnt from a teacher."""


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """The distil section of a recipe: how a run learns from a teacher, when it has one."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(WEIGHTS, COUNT),
        "temperature": above(0),
        "layers": COUNT,
    }

    temperature: float = 2.0
    """Both distributions over the words are made flatter by this much before they are compared."""
    soft_weight: float = 5.0
    """What the loss against the teacher's distributions counts; 0 leaves it out."""
    lm_weight: float = 2.0
    """What the loss of the masked words counts, and that of a pair's answer."""
    hidden_weight: float = 1.0
    """What 1 - the cosine of both models' last hidden states counts; 0 leaves it out."""
    over: Literal["all", "masked"] = "all"
    """Which tokens' distributions are compared: all of the text, or those alone that must be answered."""
    start: Literal["teacher", "drawn"] = "teacher"
    """The student begins as some of the teacher's layers with its embeddings and head, or from nothing."""
    layers: tuple[int, ...] = ()
    """Which of the teacher's layers, counted from 0; none means evenly from the first to the last."""

    def problems(self) -> list[str]:
        """What is wrong with these options, a sentence each."""
        found = out_of_bounds(self, "distil.")
        if not any(getattr(self, name) for name in WEIGHTS):
            found.append("distil.soft_weight, distil.lm_weight and distil.hidden_weight are all 0; give one a weight")
        return found
