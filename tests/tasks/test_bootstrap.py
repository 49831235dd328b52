"""Bootstrap resamples: the metric of drawn rows as the metrics' own libraries compute it, and intervals as scipy's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.items import Answer, ChoiceItem, GenerationItem, QuestionItem, Split, TaggedItem, TextItem
from blankfill.tasks.metrics import bootstrap, intervals
from blankfill.tasks.metrics.bootstrap import resampled
from blankfill.tasks.metrics.intervals import FEWEST_ROWS, Scores, counted, figure, interval, of_sums
from blankfill.tasks.metrics.scoring import score
from blankfill.tasks.task import Task

RNG = np.random.default_rng(0)
ROWS = 60


def noisy(values: Any, draw: Callable[[], Any], share: float = 0.7) -> list[Any]:
    """The values, some of them replaced by a draw."""
    return [value if RNG.random() < share else draw() for value in values]


def texts(labels: Any, groups: int = 1, names: tuple[str, ...] = ("0", "1")) -> Split:
    return Split([TextItem(str(k), "a", None, label, str(k // groups)) for k, label in enumerate(labels)], names)


def label_set() -> tuple[int, ...]:
    return tuple(np.flatnonzero(RNG.random(5) < 0.3).tolist())


def cases() -> dict[str, tuple[Task, Split, Any]]:
    """For each kind and metric, a task with items and predictions."""
    binary = RNG.integers(0, 2, ROWS).tolist()
    guessed = noisy(binary, lambda: int(RNG.integers(0, 2)))
    classes = RNG.integers(0, 6, ROWS).tolist()
    numbers = np.round(RNG.random(ROWS) * 5, 1).tolist()
    sets = [label_set() for _ in range(ROWS)]
    tags = [tuple(RNG.choice(["O", "O", "B-X", "I-X", "B-Y"], 6).tolist()) for _ in range(ROWS)]
    questions = [
        QuestionItem(str(k), "?", "the big cat sat", (Answer("the big cat", 0),) if k % 3 else (), k % 3 == 0)
        for k in range(ROWS)
    ]
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    written = [" ".join(RNG.choice(words, 8).tolist()) for _ in range(ROWS)]
    pairs = [GenerationItem(str(k), "s", (text, text[::-1])[: 1 + k % 2]) for k, text in enumerate(written)]
    choices = [ChoiceItem(str(k), "c", ("red cat", "big cat", "dog"), k % 3, (k % 3,)) for k in range(ROWS)]
    return {
        "mrpc": (TASKS["mrpc"], texts(binary), guessed),
        "cola": (TASKS["cola"], texts(binary), guessed),
        "classify": (
            TASKS["classify"],
            texts(classes, names=tuple("abcdef")),
            noisy(classes, lambda: int(RNG.integers(0, 6))),
        ),
        "multirc": (TASKS["multirc"], texts(binary, groups=3), guessed),
        "regress": (TASKS["regress"], texts(numbers), noisy(numbers, lambda: float(RNG.integers(0, 5)))),
        "stsb": (TASKS["stsb"], texts(numbers), noisy(numbers, lambda: float(RNG.integers(0, 5)))),
        "multilabel": (TASKS["multilabel"], texts(sets, names=tuple("abcde")), noisy(sets, label_set)),
        "conll": (
            TASKS["conll"],
            Split([TaggedItem(str(k), ("w",) * 6, row) for k, row in enumerate(tags)]),
            noisy(tags, lambda: ("O",) * 6),
        ),
        "squad2": (
            TASKS["squad2"],
            Split(questions),
            {str(k): ["big cat", "", "dog", "the big cat sat"][k % 4] for k in range(ROWS)},
        ),
        "seq2seq": (TASKS["seq2seq"], Split(pairs), noisy(written, lambda: " ".join(RNG.choice(words, 5).tolist()))),
        "record": (TASKS["record"], Split(choices), noisy([k % 3 for k in range(ROWS)], lambda: 0)),
        "lambada": (
            TASKS["lambada"],
            Split([GenerationItem(str(k), "s", ("cat",)) for k in range(ROWS)]),
            noisy(["cat"] * ROWS, lambda: "dog"),
        ),
    }


CASES = cases()


def taken(split: Split, predicted: Any, rows: np.ndarray) -> tuple[Split, Any]:
    """The drawn rows as a data set of their own, each with an id of its own."""
    items = [split.items[k] for k in rows]
    if isinstance(predicted, dict):
        renamed = [QuestionItem(str(n), i.question, i.context, i.answers, i.impossible) for n, i in enumerate(items)]
        return Split(renamed, split.labels), {str(n): predicted[item.id] for n, item in enumerate(items)}
    return Split(items, split.labels), [predicted[k] for k in rows]


@pytest.mark.parametrize("name", CASES)
def test_a_resample_has_the_metrics_of_its_rows(name: str) -> None:
    """By the libraries that score the task: scikit-learn, scipy, seqeval's counts, sacrebleu, rouge-score."""
    task, split, predicted = CASES[name]
    values = resampled(task, split, predicted)
    whole = score(task, split, predicted)
    assert values.keys() == whole.keys()
    size = 3 if name == "multirc" else 1
    weights = np.concatenate(list(intervals.draws(ROWS // size)), axis=1)
    for resample in (0, 1, 2, 500, 999):
        units = np.repeat(np.arange(ROWS // size), weights[:, resample].astype(int))
        rows = (units[:, None] * size + np.arange(size)).ravel()
        drawn, given = taken(split, predicted, rows)
        if size > 1:  # a group that was drawn twice counts as two
            items = [TextItem(str(n), "a", None, i.label, str(n // size)) for n, i in enumerate(drawn.texts())]
            drawn = Split(items, split.labels)
        expected = score(task, drawn, given)
        assert {metric: of[resample] for metric, of in values.items()} == pytest.approx(expected, abs=1e-9)
    for metric, (low, high) in intervals.intervals(values).items():
        assert low <= whole[metric] <= high, metric


def test_bleu_of_resamples_without_common_four_words_is_smoothed_as_that_of_the_rows() -> None:
    pytest.importorskip("sacrebleu")
    split = Split([GenerationItem(str(n), "a", (f"the {n} cat sat down here",)) for n in range(8)])
    predicted = [f"the {n} cat {word} up" for n, word in enumerate(("ran", "sat", "ran", "lay") * 2)]
    task = TASKS["seq2seq"]
    of_resamples, whole = resampled(task, split, predicted)["bleu"], score(task, split, predicted)["bleu"]
    weights = np.concatenate(list(intervals.draws(8)), axis=1)
    for resample in range(5):
        rows = np.repeat(np.arange(8), weights[:, resample].astype(int))
        assert of_resamples[resample] == pytest.approx(score(task, *taken(split, predicted, rows))["bleu"], abs=1e-9)
    none = [f"the {n} dogs ran off" for n in range(8)]
    of_none = score(task, split, none)["bleu"]
    assert of_none > 0.01 and resampled(task, split, none)["bleu"] == pytest.approx(of_none)
    low, high = interval(of_resamples)
    assert 0 < low <= whole <= high


def test_the_interval_is_that_of_scipy() -> None:
    """Of an accuracy and of a correlation, up to the noise of a thousand resamples."""
    right = (RNG.random(400) < 0.8).astype(float)
    task, split, predicted = TASKS["sst2"], texts(np.ones(400, int).tolist()), right.astype(int).tolist()
    between = interval(resampled(task, split, predicted)["accuracy"])
    theirs = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert between == pytest.approx((theirs.low, theirs.high), abs=0.008)
    gold = RNG.random(400)
    given = gold + RNG.normal(size=400) / 3
    values = resampled(TASKS["stsb"], texts(gold.tolist()), given.tolist())
    for metric, theirs_of in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        theirs = stats.bootstrap(
            (gold, given),
            lambda a, b, of=theirs_of: of(a, b)[0],
            paired=True,
            vectorized=False,
            method="percentile",
            n_resamples=2000,
            rng=1,
        ).confidence_interval
        assert interval(values[metric]) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_it_is_the_same_each_time_and_paired() -> None:
    task, split, predicted = CASES["cola"]
    first, again = resampled(task, split, predicted), resampled(task, split, predicted)
    assert np.array_equal(first["mcc"], again["mcc"]) and len(first["mcc"]) == 1000
    gold = [item.label for item in split.texts()]
    one_wrong = [1 - gold[0], *gold[1:]]
    accuracy = TASKS["sst2"]
    gain = resampled(accuracy, split, gold)["accuracy"] - resampled(accuracy, split, one_wrong)["accuracy"]
    drawn = np.concatenate(list(intervals.draws(ROWS)), axis=1)[0]
    assert gain == pytest.approx(drawn / ROWS)  # the one row in which they differ, as often as it was drawn


def test_constant_predictions_have_no_correlation_in_any_resample() -> None:
    values = resampled(TASKS["regress"], CASES["regress"][1], [2.5] * ROWS)
    assert not values["pearson"].any() and not values["spearman"].any() and values["mse"].all()
    assert not resampled(TASKS["cola"], CASES["cola"][1], [1] * ROWS)["mcc"].any()


def test_metrics_of_the_user_have_no_interval() -> None:
    own = Task(
        "mine", "classify", {}, TASKS["sst2"].parse, ("accuracy", "mine"), "average", labels=("0", "1"),
        own_metrics={"mine": lambda split, predicted: 0.5},
    )  # fmt: skip
    assert resampled(own, CASES["cola"][1], CASES["cola"][2]).keys() == {"accuracy"}


def test_very_many_rows_have_fewer_resamples() -> None:
    assert sum(weights.shape[1] for weights in intervals.draws(10_000)) == intervals.RESAMPLES
    assert sum(weights.shape[1] for weights in intervals.draws(100_000)) == 500
    assert sum(weights.shape[1] for weights in intervals.draws(1_000_000)) == intervals.FEWEST
    weights = next(intervals.draws(100_000))
    assert (weights.sum(0) == 100_000).all()


def test_scores_in_words() -> None:
    assert figure(0.9) == "0.9000" and figure(0.9, (0.85, 0.951)) == "0.9000 [0.8500, 0.9510]"
    assert counted(1, False) == "1 example" and counted(1200, True, "texts").startswith("1,200 texts; in brackets")
    scores = Scores({"f1": 0.5}, 7)
    assert scores.sentence() == "f1 0.5000 (7 examples)" and scores.values()["intervals"] == {}
    assert of_sums([(1, 2)] * (FEWEST_ROWS - 1), {"x": lambda sums: sums[0]}) == {}
    assert of_sums([(1, 2)] * FEWEST_ROWS, {"x": lambda sums: sums[1] / sums[0]}) == {"x": (2.0, 2.0)}


def test_every_kind_that_is_scored_can_be_resampled() -> None:
    from blankfill.tasks.metrics.scoring import _SCORES

    assert bootstrap._MEASURES.keys() == _SCORES.keys()
