"""The train section of a recipe: the settings of an optimisation run. `training.loop` uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from blankfill.data.rows import RowSchedule
from blankfill.errors import Problem, setting
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
             "weight_decay", "z_loss", "max_grad_norm", "eval_every", "save_every", "patience", "sample_every",
             "hidden_words"), COUNT
        ),
        "batch_size_increment": SOME,
        **dict.fromkeys(("momentum", "beta1", "beta2"), below(1)),
        **dict.fromkeys(("lr", "embedding_lr_multiplier", "eps"), above(0)),
        "phase1_length": Bound(8, 2**20, also=(0,)),
        "batch_size_warmup": at_least(0, 10_000_000),
        **dict.fromkeys(("min_lr", "warmup_lr"), SHARE),
        "embedding_gradient_shrink": above(0, 1),
    }  # fmt: skip

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Steps and batches": (
            "steps batch_size micro_batch batch_size_start batch_size_warmup batch_size_increment phase1_length "
            "phase1_steps"
        ),
        "Optimiser and learning rate": (
            "optimizer lr embedding_lr_multiplier embedding_gradient_shrink schedule schedule_unit warmup warmup_lr "
            "constant_steps decay_steps min_lr weight_decay decay_all momentum beta1 beta2 eps z_loss max_grad_norm"
        ),
        "Machine": "precision gradient_checkpointing device threads workers",
        "Validation, checkpoints and samples": (
            "log_every eval_every eval_rows save_every save_total_limit patience sample_every samples hidden_words"
        ),
    }

    steps: int = 1000
    """Number of optimiser steps."""
    batch_size: int = 32
    """Rows per optimiser step, summed over all micro-batches and processes."""
    micro_batch: int = 0
    """Rows computed at once; smaller values need less memory. 0: the whole batch. Without dropout the result is the
    same up to rounding; dropout masks differ."""
    batch_size_start: int = 0
    """Batch size of the first step, for a batch size that grows; 0: constant batch size."""
    batch_size_warmup: float = 0.1
    """Duration of the growth from batch_size_start to batch_size: a fraction of all steps when below 1, else a number
    of steps (with schedule_unit rows: a fraction of steps × batch_size, or a number of rows)."""
    batch_size_increment: int = 1
    """Rows by which the batch size grows at a time (GLM-130B: 24)."""
    phase1_length: int = 0
    """Row length of the first phase in tokens (BERT: 128 of 512), at most objective.length; 0: a single phase."""
    phase1_steps: float = 0.9
    """Duration of the first phase: a fraction of all steps when below 1, else a number of steps (BERT: 0.9)."""
    optimizer: OptimizerName = "adamw"
    """Optimiser. adam is AdamW without bias correction, as the original BERT ran it; the learning rate of adafactor is
    relative to the size of each weight (T5: lr 0.01, max_grad_norm 0, weight_decay 0)."""
    momentum: float = 0.9
    """Momentum of sgd; usually 0.9."""
    lr: float = 1e-4
    """Peak learning rate; usually 1e-4 to 1e-3."""
    embedding_lr_multiplier: float = 1.0
    """Learning rate of the token embeddings as a multiple of lr; values above 1 speed up short runs considerably."""
    embedding_gradient_shrink: float = 1.0
    """Factor of the gradient that reaches the token embeddings through the model's input; a tied output layer's part of
    it is not shrunk. Below 1, large models diverge less often (GLM-130B: 0.1). 1: off."""
    schedule: Schedule = "linear"
    """Learning-rate decay after warm-up and constant_steps. 1-sqrt: one minus the square root of the share of the decay
    that is past (ModernBERT's last phase)."""
    warmup: float = 0.1
    """Duration of the linear warm-up of the learning rate: a fraction of the decay steps when below 1, else a number of
    steps."""
    warmup_lr: float = 0.0
    """Learning rate at the beginning of the warm-up, as a fraction of the peak; usually 0."""
    constant_steps: float = 0.0
    """Duration at the peak learning rate before it decays: a fraction of the decay steps when below 1, else a number of
    steps (T5: 10,000)."""
    decay_steps: int = 0
    """Step at which the learning rate reaches its minimum; 0: the last step."""
    schedule_unit: Literal["steps", "rows"] = "steps"
    """Unit of warmup, constant_steps, decay_steps and batch_size_warmup: optimiser steps, or rows, which differ while
    the batch size grows (GLM-130B, Megatron: samples)."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay, as a fraction of the peak; usually 0 to 0.1."""
    weight_decay: float = 0.01
    """Decoupled weight decay, not applied to biases and norms; usually 0.01 to 0.1."""
    decay_all: bool = False
    """Apply weight decay to biases and norms too, as fairseq's RoBERTa does."""
    beta1: float = 0.9
    """Decay rate of Adam's first moment; usually 0.9."""
    beta2: float = 0.999
    """Decay rate of Adam's second moment; usually 0.95 to 0.999."""
    eps: float = 1e-6
    """Epsilon in Adam's denominator; usually 1e-8 to 1e-6."""
    z_loss: float = 0.0
    """Weight of the squared log-partition function that is added to the training loss of each target (T5: 1e-4); 0:
    off. Validation leaves it out."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm when theirs is larger; usually 1.0. 0: no clipping."""
    precision: Precision = "auto"
    """Number type of matrix products. auto: bf16 where the device has units for it, else fp32. fp16 scales the loss."""
    gradient_checkpointing: bool = False
    """Store only the inputs of layers and compute the rest again in the backward pass: about a third more computation,
    far less memory."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""
    workers: int = 0
    """Processes that prepare batches; 0: a thread of the main process."""
    log_every: int = 10
    """Steps between lines of training metrics."""
    eval_every: int = 0
    """Steps between validations; 0: ten per run."""
    eval_rows: int = 512
    """Maximum number of validation rows; every validation uses the same rows and masks."""
    save_every: int = 0
    """Steps between checkpoints; 0: at each validation."""
    save_total_limit: int = 2
    """Number of most recent checkpoints to retain; the best checkpoint is retained as well."""
    patience: int = 0
    """Stop after this number of validations without improvement; 0: never."""
    sample_every: int = 0
    """Steps between samples of the model's output; 0: at each validation."""
    samples: tuple[str, ...] = ()
    """Texts to sample during training: a text with [MASK] is filled, any other text is continued. Without texts,
    validation text is used."""
    hidden_words: int = 300
    """Number of words that are hidden, one at a time, in validation text at each validation, to record how many of them
    the model names; for models that fill blanks with [MASK]. 0: none."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = out_of_bounds(self, "train")
        if self.batch_size_start > self.batch_size:
            problems.append(
                Problem(
                    f"{setting('train.batch_size_start')} is {self.batch_size_start}; it must not be above "
                    f"{setting('train.batch_size')}, the batch size that the warm-up ends with ({self.batch_size})"
                )
            )
        return problems

    @property
    def warmup_steps(self) -> int:
        """Number of warm-up steps."""
        warmup = self._of_decay(self.warmup)
        return self.row_schedule.step_of(warmup) if self.schedule_unit == "rows" else warmup

    def _of_decay(self, span: float) -> int:
        """Convert to units of the schedule: a fraction of the decay when below 1, a number of units otherwise."""
        return round(span * (self.decay_steps or self._units)) if span < 1 else int(span)

    @property
    def _units(self) -> int:
        """Length of the run in units of the schedule."""
        return self.row_schedule.first(self.steps) if self.schedule_unit == "rows" else self.steps

    def every(self, name: Literal["eval", "save", "sample"]) -> int:
        """Return the steps between validations, checkpoints or samples, with defaults filled in."""
        evaluation = self.eval_every or max(1, self.steps // 10)
        given = {"eval": self.eval_every, "save": self.save_every, "sample": self.sample_every}
        return given[name] or evaluation

    @cached_property
    def row_schedule(self) -> RowSchedule:
        """The rows of each step."""
        in_rows = self.schedule_unit == "rows"
        ramp = self.in_steps(self.batch_size_warmup)
        if in_rows and self.batch_size_warmup < 1:
            ramp = round(self.batch_size_warmup * self.steps * self.batch_size)
        return RowSchedule(
            self.batch_size, self.batch_size_start, ramp if self.batch_size_start else 0,
            increment=self.batch_size_increment, in_rows=in_rows,
        )  # fmt: skip

    @property
    def long_from(self) -> int:
        """The first step with rows of the full length; 0 with a single phase."""
        return min(self.steps, self.in_steps(self.phase1_steps)) if self.phase1_length else 0

    def in_steps(self, span: float) -> int:
        """Convert to steps: a fraction of the run when below 1, a number of steps otherwise."""
        return round(span * self.steps) if span < 1 else int(span)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        at = self.row_schedule.first(step + 1) - 1 if self.schedule_unit == "rows" else step
        return learning_rate(
            at, self._units, self.lr, self._of_decay(self.warmup), self.schedule, self.min_lr, self.decay_steps,
            self._of_decay(self.constant_steps), self.warmup_lr,
        )  # fmt: skip


WEIGHTS = ("soft_weight", "lm_weight", "hidden_weight")
"""Options with the weights of the parts of a distillation loss."""


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """The distil section of a recipe: how a run learns from a teacher, when it has one."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(WEIGHTS, COUNT),
        "temperature": above(0),
        "layers": COUNT,
    }

    temperature: float = 2.0
    """Temperature of both word distributions when they are compared; above 1 they are flatter. Usually 2."""
    soft_weight: float = 5.0
    """Weight of the loss against the teacher's word distributions; 0: off."""
    lm_weight: float = 2.0
    """Weight of the loss on the targets themselves, and on the labels of pairs; 0: off."""
    hidden_weight: float = 1.0
    """Weight of 1 − cosine similarity between the last hidden states of teacher and student; 0: off."""
    over: Literal["all", "masked"] = "all"
    """Tokens whose word distributions are compared. all: every token of the text; masked: the targets only."""
    start: Literal["teacher", "drawn"] = "teacher"
    """Initial weights of the student. teacher: copies of some of the teacher's layers, its embeddings and its head;
    drawn: random weights."""
    layers: tuple[int, ...] = ()
    """Indices of the teacher's layers to copy, counted from 0; without any, layers evenly spaced from the first to the
    last."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = out_of_bounds(self, "distil")
        if not any(getattr(self, name) for name in WEIGHTS):
            names = [setting(f"distil.{name}") for name in WEIGHTS]
            problems.append(Problem(f"{names[0]}, {names[1]} and {names[2]} are all 0; give one of them a weight"))
        return problems
