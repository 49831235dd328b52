"""Bootstrap resamples of a task's metrics (Efron and Tibshirani 1993): the metric of rows drawn with replacement.

A resample is a weight for each row, how often it was drawn. Most metrics are functions of sums over the rows (right
answers, entities, moments), so all resamples of a metric are one product of sums and weights; ranks are counted with
weights. The draws depend on the number of rows alone, so two predictions of the same rows get the same draws, and their
difference is a paired one. Rows that a metric combines (the answers to a question of MultiRC) are drawn together.

Not here: the draws, intervals and what is said of them (`intervals`); the metrics of the rows themselves (`scoring`).

Shapes: N rows, U units that are drawn, R resamples (b at a time), C classes, S sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blankfill.tasks.items import Split
from blankfill.tasks.metrics.dialogues import Answered, compared, references
from blankfill.tasks.metrics.entities import entities
from blankfill.tasks.metrics.generation import bleu_of_sums, bleu_rows, rouge_rows, without_spaces
from blankfill.tasks.metrics.intervals import Scores, draws
from blankfill.tasks.metrics.questions import item_scores, script_of
from blankfill.tasks.metrics.scoring import choice_scores, score
from blankfill.tasks.task import Task

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]
"""The metric of each resample, [b], from the weights of the rows, [N, b]."""


def resampled(task: Task, split: Split, predicted: Any) -> dict[str, Floats]:
    """Return the metrics of each resample, float64[R], by name, in the order of the task's metrics.

    predicted: as `scoring.score` takes it, which has accepted it. The user's own metrics are left out, since they may
    be slow, and so is an average that they are part of.
    """
    measures = _MEASURES[task.kind](task, split, predicted) if task.kind in _MEASURES else {}
    names = [name for name in task.metrics if name in measures and name not in task.own_metrics]
    if not names:
        return {}
    groups = _groups(task, split)
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    for weights_Ub in draws(int(groups.max()) + 1):
        weights_Nb = weights_Ub[groups]
        for name in names:
            parts[name].append(measures[name](weights_Nb))
    values = {name: np.concatenate(of) for name, of in parts.items()}
    if task.primary_metric == "average" and len(values) == len(task.metrics):
        values["average"] = np.mean(list(values.values()), axis=0)
    return values


def scored(task: Task, split: Split, predicted: Any) -> Scores:
    """Return the metrics of a task with their resamples. predicted: as `scoring.score` takes it, which raises."""
    return Scores(score(task, split, predicted), len(split), resampled(task, split, predicted))


def _groups(task: Task, split: Split) -> NDArray[np.int64]:
    """Return the unit of each row: the row itself, or the group that a metric of the task combines."""
    rows = len(split)
    if not _GROUPED & set(task.metrics):
        return np.arange(rows)
    of_group: dict[str, int] = {}
    return np.array([of_group.setdefault(item.group, len(of_group)) for item in split.texts()], np.int64)


def _of_sums(rows: Any, value: Callable[[Floats], Floats]) -> Measure:
    """Return a metric that is a function of sums. rows: [N, S], dense or sparse; value: from sums [S, b]."""
    from scipy import sparse

    table_SN = sparse.csr_array(rows).T.tocsr()
    return lambda weights_Nb: value(table_SN @ weights_Nb)


def _mean(scores: ArrayLike, of: ArrayLike | None = None) -> Measure:
    """Return the mean of scores, [N]; of: the rows that count, all by default. 0 without any."""
    values_N = np.asarray(scores, np.float64)
    counted_N = np.ones(len(values_N)) if of is None else np.asarray(of, np.float64)
    return _of_sums(np.stack([values_N * counted_N, counted_N], 1), lambda sums: _share(sums[0], sums[1]))


def _share(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _marks(sets: Sequence[Sequence[int]], classes: int) -> Any:
    """Return a sparse table of 0 and 1, [N, C]: the classes of each row."""
    from scipy import sparse

    sizes = [len(set(row)) for row in sets]
    columns = np.array([place for row in sets for place in sorted(set(row))], np.int64)
    table = (np.ones(len(columns)), columns, np.concatenate([[0], np.cumsum(sizes)]))
    return sparse.csr_array(table, shape=(len(sets), classes))


def _hits(gold: Sequence[Sequence[int]], given: Sequence[Sequence[int]], classes: int) -> Any:
    """Return the right, the given and the true classes of each row beside each other, [N, 3 C]."""
    from scipy import sparse

    gold_NC, given_NC = _marks(gold, classes), _marks(given, classes)
    return sparse.hstack([gold_NC * given_NC, given_NC, gold_NC], format="csr")


def _f1_of_each(sums: Floats) -> tuple[Floats, Floats]:
    """Return F1 of each class, and its number of rows in gold and predictions together, each [C, b]."""
    right, given, gold = np.split(sums, 3)
    return _share(2 * right, given + gold), given + gold


def _mcc(sums: Floats) -> Floats:
    right, given, gold = np.split(sums, 3)
    count = gold.sum(0)
    together = count * right.sum(0) - (given * gold).sum(0)
    spread = (count**2 - (given**2).sum(0)) * (count**2 - (gold**2).sum(0))
    return _share(together, np.sqrt(np.maximum(spread, 0.0)))


def _classes(task: Task, split: Split, predicted: Sequence[int]) -> Mapping[str, Measure]:
    items = split.texts()
    gold, given = np.array([item.label for item in items], np.int64), np.asarray(predicted, np.int64)
    hits = _hits(gold[:, None].tolist(), given[:, None].tolist(), int(max(gold.max(), given.max(), 1)) + 1)

    def macro(sums: Floats) -> Floats:
        values, rows = _f1_of_each(sums)
        return _share(values.sum(0), (rows > 0).sum(0).astype(np.float64))

    groups = [item.group for item in items]
    return {
        "accuracy": _mean(gold == given),
        "f1": _of_sums(hits, lambda sums: _f1_of_each(sums)[0][1]),
        "macro-f1": _of_sums(hits, macro),
        "mcc": _of_sums(hits, _mcc),
        "group-exact": _of_groups(groups, lambda rows: bool((gold[rows] == given[rows]).all())),
        "parity": _of_groups(groups, lambda rows: len(set(given[rows].tolist())) == 1),
    }


def _of_groups(groups: Sequence[str], right: Callable[[list[int]], bool]) -> Measure:
    """Return the share of groups that are right. All rows of a group have its weight, so its first row stands for
    it."""
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    first, scores = np.zeros(len(groups)), np.zeros(len(groups))
    for members in rows.values():
        first[members[0]], scores[members[0]] = 1.0, right(members)
    return _mean(scores, first)


def _numbers(task: Task, split: Split, predicted: Sequence[float]) -> Mapping[str, Measure]:
    gold_N = np.array([item.label for item in split.texts()], np.float64)
    given_N = np.asarray(predicted, np.float64)
    a, b = gold_N - gold_N.mean(), given_N - given_N.mean()
    moments = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], 1)
    ranks = _ranks(gold_N), _ranks(given_N)
    return {
        "pearson": _of_sums(moments, lambda sums: _correlation(*sums)),
        "spearman": lambda weights: _rank_correlation(weights, *ranks),
        "mse": _mean((gold_N - given_N) ** 2),
    }


def _correlation(n: Floats, a: Floats, b: Floats, aa: Floats, bb: Floats, ab: Floats) -> Floats:
    """Return Pearson's correlation from sums; 0 where one side is constant."""
    of_a, of_b = aa - a * a / n, bb - b * b / n
    varies = (of_a > 1e-12 * aa) & (of_b > 1e-12 * bb)
    return np.where(varies, _share(ab - a * b / n, np.sqrt(np.maximum(of_a * of_b, 0.0))), 0.0)


def _ranks(values_N: Floats) -> Measure:
    """Return a function from weights [N, b] to the ranks of the values in each resample, [N, b]; ties share their mean
    rank."""
    order = np.argsort(values_N, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], np.diff(values_N[order]) != 0]))
    place_N = np.empty(len(order), np.int64)
    place_N[order] = np.repeat(np.arange(len(begins)), np.diff([*begins, len(order)]))

    def ranks(weights_Nb: Floats) -> Floats:
        count = np.add.reduceat(weights_Nb[order], begins, axis=0)
        ranked: Floats = (np.cumsum(count, axis=0) - (count - 1) / 2)[place_N]
        return ranked

    return ranks


def _rank_correlation(weights_Nb: Floats, gold: Measure, given: Measure) -> Floats:
    n = weights_Nb.sum(0)
    a, b = gold(weights_Nb) - (n + 1) / 2, given(weights_Nb) - (n + 1) / 2
    of_a, of_b, both = ((weights_Nb * product).sum(0) for product in (a * a, b * b, a * b))
    return _share(both, np.sqrt(of_a * of_b))


def _sets(task: Task, split: Split, predicted: Sequence[Sequence[int]]) -> Mapping[str, Measure]:
    gold = [item.label if isinstance(item.label, tuple) else () for item in split.texts()]
    hits = _hits(gold, predicted, len(split.labels))

    def micro(sums: Floats) -> Floats:
        right, given, wanted = (part.sum(0) for part in np.split(sums, 3))
        return _share(2 * right, given + wanted)

    return {
        "micro-f1": _of_sums(hits, micro),
        "macro-f1": _of_sums(hits, lambda sums: _f1_of_each(sums)[0].mean(0)),
        "exact": _mean([set(a) == set(b) for a, b in zip(gold, predicted, strict=True)]),
    }


def _choices(task: Task, split: Split, predicted: Sequence[int]) -> Mapping[str, Measure]:
    items = split.choices()
    measures = {"accuracy": _mean([item.label == place for item, place in zip(items, predicted, strict=True)])}
    if {"exact", "f1"} & set(task.metrics):
        pairs = [choice_scores(item, int(place)) for item, place in zip(items, predicted, strict=True)]
        measures |= {"exact": _mean([exact for exact, _ in pairs]), "f1": _mean([f1 for _, f1 in pairs])}
    return measures


def _tags(task: Task, split: Split, predicted: Sequence[Sequence[str]]) -> Mapping[str, Measure]:
    rows = []
    for item, given in zip(split.tagged(), predicted, strict=True):
        gold = item.tags or ()
        wanted, ours = set(entities(gold)), set(entities(given))
        same = sum(a == b for a, b in zip(gold, given, strict=True))
        rows.append((len(wanted & ours), len(ours), len(wanted), same, len(gold)))
    table = np.array(rows, np.float64)
    return {
        "precision": _of_sums(table, lambda sums: _share(sums[0], sums[1])),
        "recall": _of_sums(table, lambda sums: _share(sums[0], sums[2])),
        "f1": _of_sums(table, lambda sums: _share(2 * sums[0], sums[1] + sums[2])),
        "accuracy": _of_sums(table, lambda sums: _share(sums[3], sums[4])),
    }


def _answers(task: Task, split: Split, predicted: Mapping[str, str]) -> Mapping[str, Measure]:
    items = split.questions()
    script = script_of(items, task.by_characters, task.metrics)
    pairs = np.array([item_scores(item, predicted[item.id], script) for item in items])
    has = np.array([bool(item.answers) for item in items])
    counted = {"has": has, "no": ~has}
    return {
        name: _mean(pairs[:, 0 if name.endswith("exact") else 1], counted.get(name.split("-")[0]))
        for name in task.metrics
    }


def _texts(task: Task, split: Split, predicted: Sequence[str]) -> Mapping[str, Measure]:
    targets = [item.targets for item in split.generations()]
    by_characters = task.by_characters or without_spaces(targets)
    rouge = [name for name in task.metrics if name.startswith("rouge")]
    of_each = rouge_rows(rouge, targets, predicted, by_characters) if rouge else []
    measures = {name: _mean([row[name] for row in of_each]) for name in rouge}
    if "bleu" in task.metrics:
        measures["bleu"] = _of_sums(bleu_rows(targets, predicted, by_characters), _bleu_of_each)
    return measures


def _chats(task: Task, split: Split, predicted: Sequence[Answered]) -> Mapping[str, Measure]:
    items, N = split.chats(), len(predicted)
    table = np.array([(answer.nats, answer.tokens) for answer in predicted])
    measures: dict[str, Measure] = {
        "log-likelihood": _of_sums(table, lambda sums: -_share(sums[0], sums[1])),
        "perplexity": _of_sums(table, lambda sums: np.exp(np.minimum(_share(sums[0], sums[1]), 700.0))),
    }
    places = compared(items, predicted)
    if not places:
        return measures
    right, written = references(items, places), [predicted[k].text or "" for k in places]
    by_characters = task.by_characters or without_spaces(right)
    has_N = np.zeros(N)
    has_N[places] = 1.0
    rouge = [name for name in task.metrics if name.startswith("rouge")]
    of_each = rouge_rows(rouge, right, written, by_characters)
    for name in rouge:
        score_N = np.zeros(N)
        score_N[places] = [row[name] for row in of_each]
        measures[name] = _mean(score_N, has_N)
    counts = np.array(bleu_rows(right, written, by_characters))
    sums_N = np.zeros((N, counts.shape[1]))
    sums_N[places] = counts
    measures["bleu"] = _of_sums(sums_N, _bleu_of_each)
    return measures


def _bleu_of_each(sums: Floats) -> Floats:
    return np.array([bleu_of_sums(of) for of in sums.T.round().astype(int).tolist()])


def _last_words(task: Task, split: Split, predicted: Sequence[str]) -> Mapping[str, Measure]:
    pairs = zip(split.generations(), predicted, strict=True)
    return {"accuracy": _mean([text.strip() in item.targets for item, text in pairs])}


_GROUPED = {"group-exact", "parity"}
"""Metrics that combine the rows of a group."""
_MEASURES: dict[str, Callable[[Task, Split, Any], Mapping[str, Measure]]] = {
    "classify": _classes, "regress": _numbers, "multilabel": _sets, "choice": _choices, "tag": _tags,
    "answer": _answers, "generate": _texts, "last-word": _last_words, "chat": _chats,
}  # fmt: skip
"""The metrics of each kind of task."""
