"""Differences of two models that score the same targets: loss, KL divergence, and how often the same token ranks first.

Only scores come in, so that any two models can be compared: the weights of one in two formats, or the same model in two
programs. Intervals are paired: units of targets, such as rows of text, are drawn with replacement, and both models keep
the units that were drawn, so that what is hard for both does not make the interval wide.

Shapes: M targets of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blankfill.kernels.divergence import row_differences
from blankfill.tasks.metrics.intervals import Interval, of_sums


@dataclass(frozen=True)
class Differences:
    """Differences of two models over the same targets.

    targets, units: numbers of them. nats_before, nats_after: mean negative log-probability of a target. loss: relative
    difference of the perplexities, after / before − 1, with its interval where there are enough units. kl: mean
    divergence KL(before‖after) of a target in nats; kl_99: its 99th percentile. same_top: share of targets for which
    both models rank the same token first.
    """

    targets: int
    units: int
    nats_before: float
    nats_after: float
    loss: float
    interval: Interval | None
    kl: float
    kl_99: float
    same_top: float

    @property
    def perplexity_before(self) -> float:
        """Perplexity of the model before, by target."""
        return float(np.exp(min(self.nats_before, 709.0)))

    @property
    def perplexity_after(self) -> float:
        """Perplexity of the model after, by target."""
        return float(np.exp(min(self.nats_after, 709.0)))


def compare(
    scores_before: Iterable[Tensor],
    scores_after: Iterable[Tensor],
    targets: Iterable[Tensor],
    units: Iterable[Sequence[int] | Tensor] | None = None,
) -> Differences:
    """Compare the scores of two models.

    Args:
        scores_before: Scores of blocks of targets, [M, V] each, in any type: logits or log-probabilities.
        scores_after: The other model's scores of the same targets.
        targets: The ids of the targets, int64[M] for each block.
        units: The number of the unit of each target, [M] for each block; without it, each block is a unit.

    Returns:
        The differences over all targets.

    Raises:
        ValueError: There are no targets, or the blocks of the two models differ in number or shape.
    """
    sums: dict[int, list[float]] = {}
    divergences: list[Tensor] = []
    same = 0
    blocks = zip(scores_before, scores_after, targets, strict=True) if units is None else None
    numbered = (
        ((before, after, target, [k] * len(target)) for k, (before, after, target) in enumerate(blocks))
        if blocks is not None
        else zip(scores_before, scores_after, targets, units or (), strict=True)
    )
    for before, after, target_M, unit_M in numbered:
        made = row_differences(before, after, target_M)
        divergences.append(made.kl)
        same += int(made.same.sum())
        pairs = zip(unit_M, made.nats_before.tolist(), made.nats_after.tolist(), strict=True)
        for unit, loss_before, loss_after in pairs:
            row = sums.setdefault(int(unit), [0.0, 0.0, 0.0])
            row[0] += loss_before
            row[1] += loss_after
            row[2] += 1
    if not sums:
        raise ValueError("there are no targets to compare the models on")
    table = np.array(list(sums.values()))
    before_sum, after_sum, count = table.sum(0).tolist()
    of_units = of_sums(
        table, {"loss": lambda of: np.expm1(np.minimum((of[1] - of[0]) / of[2], 709.0))}
    )  # fmt: skip
    kl = torch.cat(divergences).numpy()
    difference = (after_sum - before_sum) / count
    return Differences(
        int(count), len(sums), before_sum / count, after_sum / count,
        float(np.expm1(min(difference, 709.0))), of_units.get("loss"),
        float(kl.mean()), float(np.quantile(kl, 0.99)), same / count,
    )  # fmt: skip
