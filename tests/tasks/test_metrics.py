"""Metrics by hand: worked cases, and what is refused."""

import math

import numpy as np
import pytest

from blankfill.errors import UserError
from blankfill.tasks.metrics.classes import class_metrics, grouped_exact, grouped_same, number_metrics, set_metrics


def test_classes_by_hand() -> None:
    """3 true positives, 1 false positive, 2 false negatives, 2 true negatives."""
    gold = [1, 1, 1, 0, 1, 1, 0, 0]
    predicted = [1, 1, 1, 1, 0, 0, 0, 0]
    metrics = class_metrics(["accuracy", "f1", "macro-f1", "mcc"], gold, predicted)
    positive, negative = 2 * 3 / (2 * 3 + 1 + 2), 2 * 2 / (2 * 2 + 2 + 1)
    assert metrics["accuracy"] == 5 / 8
    assert metrics["f1"] == pytest.approx(positive)
    assert metrics["macro-f1"] == pytest.approx((positive + negative) / 2)
    assert metrics["mcc"] == pytest.approx((3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4))


def test_one_class_only_is_no_correlation() -> None:
    assert class_metrics(["mcc", "f1"], [0, 1, 0], [0, 0, 0]) == {"mcc": 0.0, "f1": 0.0}
    assert number_metrics(["pearson", "spearman"], [1.0, 2.0], [3.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_numbers_by_hand() -> None:
    """Ranks 1..4 against 1, 3, 2, 4: Spearman is 1 - 6·2/(4·15)."""
    gold, predicted = [1.0, 2.0, 3.0, 4.0], [0.1, 9.0, 2.0, 100.0]
    metrics = number_metrics(["pearson", "spearman", "mse"], gold, predicted)
    assert metrics["spearman"] == pytest.approx(1 - 12 / 60)
    assert metrics["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    assert metrics["mse"] == pytest.approx((0.9**2 + 49 + 1 + 96**2) / 4)


def test_sets_by_hand() -> None:
    """Class 0: 1 hit of 2; class 1: 1 hit and 1 false alarm; class 2 is never there."""
    metrics = set_metrics(["micro-f1", "macro-f1", "exact"], [(0,), (0, 1), ()], [(0,), (1,), (1,)], 3)
    assert metrics["micro-f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert metrics["macro-f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert metrics["exact"] == pytest.approx(1 / 3)


def test_groups_by_hand() -> None:
    assert grouped_exact([1, 0, 1], [1, 1, 1], ["a", "a", "b"]) == 1 / 2
    assert grouped_same([1, 1, 0, 1], ["a", "a", "b", "b"]) == 1 / 2


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"1 of 2 predictions are not numbers: the model has diverged"):
        number_metrics(["pearson"], [1.0, 2.0], [1.0, math.nan])
    with pytest.raises(UserError, match="1 predictions for 2 answers"):
        class_metrics(["accuracy"], [1, 2], [1])
    with pytest.raises(UserError, match="0 predictions for 0 answers"):
        set_metrics(["exact"], [], [], 3)
