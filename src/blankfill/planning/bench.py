"""How fast this machine trains: real steps of the one loop on made-up text, beside the rate of bare matrix products.

A shape is an objective, a model size and a batch. Its rows are random tokens put through the real objective and
packing, so that masks, targets and padding are those of a run; what the tokens say does not matter to the speed.
Utilisation is the floating-point operations of a step (`planning.flops`, matrix products only) by the time that it
took, as a share of the rate of a large matrix product measured in the same process. Comparisons with other programs are
in `bench/` of the repository; what a particular run would take is `blankfill plan`'s to say.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from blankfill.attention.kernels import best_kernel
from blankfill.data.batching import collate
from blankfill.errors import UserError
from blankfill.families import FAMILIES, default_family
from blankfill.families.options import ModelOptions
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.objectives import OBJECTIVES, Objective
from blankfill.planning.flops import batch_flops
from blankfill.system.allocator import keep_freed_memory
from blankfill.system.schema import nearest
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.training.precision import peak_rate
from blankfill.training.progress import Progress
from blankfill.training.scaling import loss_scaler
from blankfill.types import ROLES, Batch, Document, Example, Vocabulary

ENDLESS = 10**9
"""So many steps that neither validation nor checkpoints come due."""
BATCHES = 4
"""Different batches that the steps take turns with."""
HEAD = 64
"""Width of an attention head."""


@dataclass(frozen=True)
class Shape:
    """What is timed: an objective's rows of `length` tokens through a model of `layers` × `width`."""

    objective: str
    layers: int
    width: int
    length: int = 128
    rows: int = 32
    dropout: float = 0.1
    vocabulary: int = 30_522

    def __str__(self) -> str:
        return f"{self.objective} {self.layers}×{self.width}, {self.rows} × {self.length} tokens"

    def made_objective(self) -> Objective:
        """The objective, with its usual options."""
        return OBJECTIVES[self.objective](length=self.length)

    def made_vocabulary(self) -> Vocabulary:
        """Made-up words, and the sentinels that the objective needs among them."""
        return made_up_vocabulary(self.vocabulary, self.made_objective().sentinels())

    def config(self) -> TransformerConfig:
        """The model: the family that goes with the objective."""
        options = ModelOptions(
            family=default_family(self.objective), hidden_size=self.width, num_layers=self.layers,
            num_heads=max(1, self.width // HEAD), dropout=self.dropout, attention_dropout=self.dropout,
        )  # fmt: skip
        return options.config_for(self.made_objective(), self.vocabulary)

    def problems(self) -> list[str]:
        """Return a sentence for each impossible size."""
        objective = self.made_objective()
        special = len(ROLES) + objective.sentinels()
        problems = [f"{self}: {problem}" for problem in objective.problems() + self.config().problems()]
        if self.vocabulary <= special:
            problems.append(f"{self}: a vocabulary of {self.vocabulary} holds no words beside {special} special tokens")
        return problems

    def batches(self, count: int = BATCHES, seed: int = 0) -> list[Batch]:
        """Return batches of made-up rows."""
        objective, vocabulary, rng = self.made_objective(), self.made_vocabulary(), np.random.default_rng(seed)
        return [collate([[made_up_example(objective, vocabulary, rng)] for _ in range(self.rows)], 0)
                for _ in range(count)]  # fmt: skip


def shape_named(name: str, **sizes: Any) -> Shape:
    """Return the shape of a name such as bert-4x256; sizes: the other fields of `Shape`.

    Raises UserError for another name.
    """
    objective, _, size = name.rpartition("-")  # glm-130b has one of its own
    layers, _, width = size.partition("x")
    measured = [name for spec in FAMILIES.values() for name in spec.default_for]
    if objective not in measured or not (layers.isdecimal() and width.isdecimal()):
        known = [name for name in OBJECTIVES if name in measured]
        close = nearest(objective, known) if objective not in known else ""
        hint = f"; did you mean {close}?" if close else ""
        raise UserError(
            f"{name} is no shape; write an objective ({', '.join(known)}), layers and width, such as bert-4x256{hint}"
        )
    return Shape(objective, int(layers), int(width), **sizes)


def made_up_vocabulary(size: int, sentinels: int = 0) -> Vocabulary:
    """Return a vocabulary of all roles, then ordinary tokens, each a word of its own, then sentinels."""
    roles = {role: k for k, role in enumerate(ROLES)}
    last = tuple(reversed(range(size - sentinels, size)))
    return Vocabulary(size, roles, frozenset([*roles.values(), *last]), np.ones(size, np.bool_), sentinels=last)


def made_up_document(objective: Objective, vocabulary: Vocabulary, rng: np.random.Generator) -> Document:
    """Random tokens that just fill a row, in sentences of about 20; a pair's second part begins in the middle."""
    spec = objective.packing()
    size = spec.max_tokens - spec.before - spec.after
    ids = rng.integers(len(ROLES), vocabulary.size - len(vocabulary.sentinels), size).astype(np.int32)
    cuts = [0, size // 2, size] if spec.unit == "pairs" else [*range(0, size - 10, 20), size]
    return Document(
        ids, np.array(cuts, np.int32), np.ones(size, np.bool_), 0 if "next_sentence" in objective.labels() else None
    )


def made_up_example(objective: Objective, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
    """An Example of such a Document."""
    return objective.example(made_up_document(objective, vocabulary, rng), vocabulary, rng)


@dataclass
class _Clock:
    """Takes the loop's reports and notes when steps end, by the wall clock and by that of the process."""

    wall: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)

    def record(self, metrics: Metrics) -> None:
        """Metrics are of no interest."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Nor is what happens on the way."""

    def advance(self, step: int, fields: Metrics) -> None:
        """A step is done; its loss has been read, so a GPU has finished it too."""
        self.wall.append(time.perf_counter())
        self.process.append(time.process_time())


class Bench:
    """A model of a shape, ready to be trained for some steps at a time."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        keep_freed_memory()
        self.shape, self.device, self.dtype = shape, device, dtype
        self.config = shape.config()
        self.given = shape.batches()
        model = build(self.config, 0, device)
        model.use_kernel(best_kernel(device, dtype))
        self.options = TrainOptions(
            steps=ENDLESS, batch_size=shape.rows, log_every=ENDLESS, eval_every=ENDLESS, save_every=ENDLESS,
            sample_every=ENDLESS, warmup=0,
        )  # fmt: skip
        self._clock = _Clock()
        self.trainer = Trainer(
            model, build_optimizer(model, self.options), self.options, 0, device, dtype, self._clock, lambda step: [],
            lambda progress: None, self.options.row_schedule, loss_scaler(device, dtype), on_nan="skip",
        )  # fmt: skip
        self.progress = Progress()

    def steps(self, count: int) -> tuple[list[float], list[float]]:
        """Train for `count` steps; returns the seconds of each, by the wall clock and of this process's processors."""
        first = self.progress.step

        def batches() -> Iterator[tuple[int, list[Batch]]]:
            for step in range(first, first + count):
                yield step, [self.given[step % len(self.given)]]

        self._clock.wall, self._clock.process = [time.perf_counter()], [time.process_time()]
        self.trainer.train(batches(), self.progress)
        wall, process = self._clock.wall, self._clock.process
        return [b - a for a, b in pairwise(wall)], [b - a for a, b in pairwise(process)]

    @property
    def flops(self) -> float:
        """Floating-point operations of a step, the mean of the batches."""
        return statistics.mean(batch_flops(self.config, batch) for batch in self.given)

    @property
    def tokens(self) -> float:
        """Tokens of a step, padding left out, the mean of the batches."""
        return statistics.mean(batch.tokens for batch in self.given)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on a GPU of its memory, else of the system's; 0 where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def examples_per_second(shape: Shape, seconds: float = 0.5) -> float:
    """Rows of the objective that one core makes, packed into batches, in a second."""
    objective, vocabulary = shape.made_objective(), shape.made_vocabulary()
    rng = np.random.default_rng(0)
    documents = [made_up_document(objective, vocabulary, rng) for _ in range(shape.rows)]

    def batch() -> None:
        collate([[objective.example(document, vocabulary, rng)] for document in documents], 0)

    batch()
    done, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        batch()
        done += shape.rows
    return done / spent


def measure(shape: Shape, precision: torch.dtype, device: torch.device, seconds: float) -> dict[str, Any]:
    """Time a shape for about `seconds`, at least three steps; returns JSON values, rates per second.

    Peak memory is that of the process so far: a process for each shape.
    """
    made = examples_per_second(shape)
    bench = Bench(shape, device, precision)
    peaks = [peak_rate(device, precision)]
    (warm,), _ = bench.steps(1)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) + warm < seconds:
        taken += bench.steps(1)[0]
    peaks.append(peak_rate(device, precision))
    step = statistics.median(taken)
    return {
        **dataclasses.asdict(shape),
        "precision": str(precision).removeprefix("torch."),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "steps": len(taken),
        "seconds_per_step": step,
        "fastest_step": min(taken),
        "tokens_per_s": bench.tokens / step,
        "flops_per_step": bench.flops,
        "gemm_flops_per_s": max(peaks),
        "utilisation": bench.flops / step / max(peaks),
        "peak_memory": peak_memory(device),
        "examples_per_s": made,
        "example_share": shape.rows / step / made,
    }
