"""What to try when a fine-tuned model is no better than the baseline, from what the run itself shows.

Each sentence rests on an observation: the loss that did not fall, the score that still rose, frozen layers, few steps,
the same text under several labels. Not here: whether the model is better (`verdict`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blankfill.errors import Problem, setting
from blankfill.tasks.items import Item, MixedItem, TextItem

if TYPE_CHECKING:
    from blankfill.finetuning.verdict import Comparison
    from blankfill.tasks.options import FinetuneOptions

LOWEST_LR = 1e-6
"""Learning rate below which the weights of no model change much in a fine-tuning run."""
FEW_STEPS, ENOUGH_STEPS = 100, 300
FEW_ITEMS = 200
FEW_SCORED = 500
"""Scored examples below which a real difference may be lost in chance."""
STUCK, LEARNT = 0.97, 0.5
"""Share of the first training loss above which nothing was learnt, and below which the training items were."""
LARGEST_CLASS = 0.8


@dataclass(frozen=True)
class History:
    """The course of a run. losses: the mean training loss of its first and of its last tenth, None without any lines.
    scores: the primary metric at each evaluation."""

    losses: tuple[float, float] | None
    scores: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        """Number of evaluations, from which the best checkpoint was chosen."""
        return len(self.scores)

    @property
    def still_rose(self) -> bool:
        """Whether the last evaluation was the best of several."""
        return len(self.scores) > 1 and self.scores[-1] > max(self.scores[:-1])

    @property
    def fallen(self) -> float:
        """The last training loss as a share of the first; NaN when unknown."""
        if self.losses is None or not self.losses[0] > 0:
            return math.nan
        return self.losses[1] / self.losses[0]


def read_history(run: Path, metric: str) -> History:
    """Read the course of a run from its metrics.jsonl."""
    from blankfill.report.curves import read_tables

    tables = read_tables(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else {}
    losses, scores = np.zeros(0), np.zeros(0)
    if "train" in tables:
        losses = tables["train"].column("loss")
        losses = losses[~np.isnan(losses)]
    if "valid" in tables:
        scores = tables["valid"].column(metric)
        scores = scores[~np.isnan(scores)]
    tenth = max(1, len(losses) // 10)
    ends = (float(losses[:tenth].mean()), float(losses[-tenth:].mean())) if len(losses) > 1 else None
    return History(ends, tuple(scores.tolist()))


def advice(
    options: FinetuneOptions,
    train: Sequence[Item],
    steps: int,
    history: History,
    comparison: Comparison,
    name: str,
    same: bool = False,
) -> list[str]:
    """Return sentences on what to try, the likeliest first.

    name: of the set of items that was scored. same: whether all predictions for it are the same.
    """
    course = _of_course(options, history, same) if steps >= FEW_STEPS else ()
    sentences = [
        *_of_settings(options, len(train), steps, history), *course, *_of_data(options, train),
        *_of_size(comparison, name),
    ]  # fmt: skip
    if not sentences:
        sentences = [_other_rates(options)]
    return [Problem(sentence) for sentence in sentences]


def _of_settings(options: FinetuneOptions, items: int, steps: int, history: History) -> Iterator[str]:
    """Yield a sentence for each setting that keeps a model from learning."""
    if options.peak_lr < LOWEST_LR:
        yield (
            f"a higher {setting('lr')}: at {options.peak_lr:g} the weights hardly change; usual are 1e-5 to 5e-5, and "
            "more for small models, LoRA, a prefix and a frozen encoder"
        )
    if options.from_scratch:
        yield f"the pretrained weights: leave out {setting('from_scratch')}"
    if options.freeze == -1:
        yield f"training the encoder too: with {setting('freeze', -1)} only the head learns"
    elif options.freeze > 0:
        yield f"fewer frozen layers: {setting('freeze', options.freeze)} keeps the lowest {options.freeze}"
    if options.features != "none":
        yield f"training the encoder too: with {setting('features', options.features)} only the head learns"
    if steps < FEW_STEPS:
        epochs = math.ceil(options.epochs * ENOUGH_STEPS / max(1, steps))
        yield (
            f"more {setting('epochs')}: the run has {steps:,} steps on {items:,} examples, and "
            f"{setting('epochs', epochs)} makes about {ENOUGH_STEPS}"
        )
    elif history.still_rose:
        yield f"more {setting('epochs')}: the score still rose at the last evaluation"


def _of_course(options: FinetuneOptions, history: History, same: bool) -> Iterator[str]:
    """Yield a sentence for what the training loss shows."""
    if same and options.peak_lr >= LOWEST_LR:  # a loss may fall as far as a constant takes it
        yield f"{_other_rates(options)}: a model whose predictions never differ has learnt nothing from the texts"
        return
    if history.losses is None or math.isnan(history.fallen):
        return
    first, last = history.losses
    course = f"the training loss went from {first:.3f} to {last:.3f}"
    if history.fallen > STUCK and options.peak_lr >= LOWEST_LR:
        yield f"{_other_rates(options)}: {course}, so not even the training examples were learnt"
    elif history.fallen < LEARNT:
        yield (
            f"more training examples, or fewer {setting('epochs')}: {course}, so the model knows the training examples "
            "by heart; check as well that their labels mean the same as those of the other set"
        )


def _other_rates(options: FinetuneOptions) -> str:
    rates = f"{max(options.peak_lr / 3, 1e-6):.1g},{max(options.peak_lr * 3, 1e-5):.1g}"
    return (
        f"another learning rate and other seeds ({setting('grid', f'lr={rates}')} {setting('num_seeds', 3)})"
    )  # fmt: skip


def _of_data(options: FinetuneOptions, train: Sequence[Item]) -> Iterator[str]:
    """Yield a sentence for what the training items show."""
    if twice := conflicting(train):
        texts = "training text occurs" if twice == 1 else "training texts occur"
        yield f"a look at the labels: {twice:,} {texts} with several different labels"
    labels = Counter(item.label for item in train if isinstance(item, TextItem) and isinstance(item.label, int))
    if labels and options.method == "head" and options.class_weights == "none":
        share = max(labels.values()) / labels.total()
        if len(labels) > 1 and share >= LARGEST_CLASS:
            yield f"{setting('class_weights', 'balanced')}: {share:.0%} of the training examples have one label"
    if len(train) < FEW_ITEMS:
        yield f"more labelled examples: there are {len(train):,}"


def conflicting(items: Sequence[Item]) -> int:
    """Return the number of texts that occur with different labels."""
    labels: dict[tuple[str, str | None], set[object]] = {}
    for item in items:
        own = item.item if isinstance(item, MixedItem) else item
        if isinstance(own, TextItem) and isinstance(own.label, int) and not own.parts:
            labels.setdefault((own.first, own.second), set()).add(own.label)
    return sum(len(of) > 1 for of in labels.values())


def _of_size(comparison: Comparison, name: str) -> Iterator[str]:
    """Yield a sentence where the score is higher, and the set too small to tell."""
    if comparison.difference > 0 and not comparison.better and comparison.items < FEW_SCORED:
        off = ""
        if comparison.between is not None and (low := comparison.difference - comparison.between[0]) > 0:
            off = f", where a difference below about {low:.3f} may be chance"
        yield f"a larger {name} set: it has {comparison.items:,} examples{off}"
