"""Metrics of classes, scores and sets of classes, by scikit-learn and scipy. All are shares: the best is 1, not 100.

Not here: metrics of answers (`questions`), entities (`entities`) and generated texts (`generation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blankfill.errors import UserError


def class_metrics(names: Sequence[str], gold: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Return the named metrics of predicted classes, N numbers each.

    names: "accuracy"; "f1" of class 1 (of two classes); "macro-f1", the mean of the F1 of each class that is in gold or
    predicted; "mcc", Matthews' correlation, 0 where all predictions are one class. Raises UserError without any items.
    """
    from sklearn import metrics

    gold_N, predicted_N = _paired(gold, predicted)
    table = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda a, b: metrics.f1_score(a, b, average="binary", zero_division=0),
        "macro-f1": lambda a, b: metrics.f1_score(a, b, average="macro", zero_division=0),
        "mcc": metrics.matthews_corrcoef,
    }
    return {name: float(table[name](gold_N, predicted_N)) for name in names}


def number_metrics(names: Sequence[str], gold: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Return the named metrics of predicted scores, N numbers each: "pearson", "spearman", "mse".

    The correlation with constant predictions is undefined and returned as 0. Raises UserError for predictions
    that are not finite.
    """
    from scipy import stats

    gold_N, predicted_N = _paired(gold, predicted)
    constant = np.ptp(predicted_N) == 0 or np.ptp(gold_N) == 0
    table = {
        "pearson": lambda: 0.0 if constant else stats.pearsonr(gold_N, predicted_N)[0],
        "spearman": lambda: 0.0 if constant else stats.spearmanr(gold_N, predicted_N)[0],
        "mse": lambda: np.mean((gold_N - predicted_N) ** 2),
    }
    return {name: float(table[name]()) for name in names}  # type: ignore[no-untyped-call]


def set_metrics(
    names: Sequence[str], gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], classes: int
) -> dict[str, float]:
    """Return the named metrics of predicted sets of classes (multi-label): "micro-f1", "macro-f1" (a class that is
    neither in gold nor predicted counts 0), "exact" (the share of items whose set is right)."""
    from sklearn import metrics

    if len(gold) != len(predicted) or not len(gold):
        raise UserError(f"There are {len(predicted)} predictions for {len(gold)} answers: the numbers must be equal.")
    gold_NC, predicted_NC = _table(gold, classes), _table(predicted, classes)
    values = {
        "micro-f1": metrics.f1_score(gold_NC, predicted_NC, average="micro", zero_division=0),
        "macro-f1": metrics.f1_score(gold_NC, predicted_NC, average="macro", zero_division=0),
        "exact": np.mean((gold_NC == predicted_NC).all(1)),
    }
    return {name: float(values[name]) for name in names}


def grouped_exact(gold: ArrayLike, predicted: ArrayLike, groups: Sequence[str]) -> float:
    """Return the share of groups in which every prediction is right (MultiRC's EM, AX-g's parity with itself)."""
    gold_N, predicted_N = _paired(gold, predicted)
    right: dict[str, bool] = {}
    for group, same in zip(groups, gold_N == predicted_N, strict=True):
        right[group] = right.get(group, True) and bool(same)
    return sum(right.values()) / len(right)


def grouped_same(predicted: ArrayLike, groups: Sequence[str]) -> float:
    """Return the share of groups whose predictions are all one class (AX-g's gender parity)."""
    seen: dict[str, set[int]] = {}
    for group, value in zip(groups, np.asarray(predicted).tolist(), strict=True):
        seen.setdefault(group, set()).add(value)
    return sum(len(values) == 1 for values in seen.values()) / len(seen)


def _paired(gold: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gold_N, predicted_N = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    if gold_N.shape != predicted_N.shape or not gold_N.size:
        raise UserError(
            f"There are {predicted_N.size} predictions for {gold_N.size} answers: the numbers must be equal."
        )
    broken = int((~np.isfinite(predicted_N)).sum())
    if broken:
        raise UserError(
            f"{broken} of {predicted_N.size} predictions are not numbers: the model has diverged; train it again with "
            f"a lower learning rate."
        )
    return gold_N, predicted_N


def _table(sets: Sequence[Sequence[int]], classes: int) -> NDArray[np.bool_]:
    table_NC = np.zeros((len(sets), classes), np.bool_)
    for row, places in enumerate(sets):
        table_NC[row, list(places)] = True
    return table_NC
