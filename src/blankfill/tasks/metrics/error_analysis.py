"""Analysis of predictions beyond the score: confusions, scores of each class, the worst mistakes with their texts.
Every function returns JSON values, which a run saves in `results.json` and shows on its page. Not here: the official
metrics (`classes`, `entities`, `questions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from blankfill.tasks.items import ChoiceItem, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.metrics.entities import Entity, entities, entity_scores
from blankfill.tasks.metrics.questions import item_scores, script_of

WORST = 20
"""Number of mistakes to keep."""
DRAWN = 2000
"""Largest number of points of a scatter plot, spread evenly over the items."""
EXAMPLES = 3
"""Number of examples of each confusion."""
AROUND = 60
"""Characters of a context on each side of an answer."""
BORDERS, MISSED, NOTHING = "other borders", "missed", "no entity"
ASKING = ("为什么", "什么时候", "什么", "多少", "哪", "谁", "几", "如何", "怎")
"""Interrogatives that classify Chinese questions; longer ones first."""


def class_analysis(labels: Sequence[str], gold: Sequence[int], given: Sequence[int]) -> dict[str, Any]:
    """Return the confusion matrix, a row for each true class and a column for each predicted class, and the scores of
    each class."""
    table = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(table, (np.asarray(gold, np.int64), np.asarray(given, np.int64)), 1)
    right, given_C, gold_C = table.diagonal(), table.sum(0), table.sum(1)
    classes = [
        of_class(name, int(right[k]), int(given_C[k]), int(gold_C[k])) for k, name in enumerate(labels)
    ]  # fmt: skip
    return {"confusions": table.tolist(), "classes": classes}


def of_class(name: str, right: int, given: int, support: int) -> dict[str, Any]:
    """Return precision, recall and F1 of a class that was predicted `given` times, `right` times correctly. support:
    its number of items."""
    return {
        "name": name,
        "precision": right / given if given else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (given + support) if given + support else 0.0,
        "support": support,
        "given": given,
    }


def surest_mistakes(
    items: Sequence[TextItem | ChoiceItem], right: Sequence[str], shown: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the mistakes with the highest probability. right: the label of each item; shown: its prediction."""
    wrong = [
        (prediction["probabilities"][prediction["label"]], k)
        for k, prediction in enumerate(shown)
        if prediction["label"] != right[k]
    ]
    mistakes = []
    for probability, k in sorted(wrong, key=lambda pair: -pair[0])[:WORST]:
        item, prediction = items[k], shown[k]
        mistake: dict[str, Any] = {
            "id": item.id,
            "right": right[k],
            "given": prediction["label"],
            "probability": probability,
        }
        if isinstance(item, ChoiceItem):
            names = item.names or item.choices
            mistake |= {"text": item.context, "right": names[int(right[k])], "given": names[int(prediction["label"])]}
        else:
            mistake |= {"text": item.first, **({} if item.second is None else {"second": item.second})}
        mistakes.append(mistake)
    return mistakes


def number_analysis(items: Sequence[TextItem], given: Sequence[float]) -> dict[str, Any]:
    """Return true and predicted numbers, and the items with the largest errors."""
    gold = [float(item.label) if isinstance(item.label, int | float) else 0.0 for item in items]
    off = np.abs(np.subtract(given, gold))
    drawn = np.unique(np.linspace(0, len(items) - 1, min(len(items), DRAWN)).round().astype(int))
    return {
        "scatter": [[round(gold[k], 4), round(float(given[k]), 4)] for k in drawn.tolist()],
        "largest_errors": [
            {"id": items[k].id, "right": gold[k], "given": round(float(given[k]), 4), **_texts(items[k])}
            for k in np.argsort(-off, kind="stable")[:WORST].tolist()
        ],
    }


def set_analysis(labels: Sequence[str], items: Sequence[TextItem], given: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the scores of each label of a multi-label task, and the items with most labels wrong."""
    gold = [set(item.label) if isinstance(item.label, tuple) else set[int]() for item in items]
    sets = [set(predicted) for predicted in given]
    classes = [
        of_class(
            name, sum(k in a and k in b for a, b in zip(gold, sets, strict=True)),
            sum(k in predicted for predicted in sets), sum(k in predicted for predicted in gold),
        )
        for k, name in enumerate(labels)
    ]  # fmt: skip
    wrong = sorted((k for k in range(len(items)) if gold[k] != sets[k]), key=lambda k: -len(gold[k] ^ sets[k]))
    mistakes = [
        {
            "id": items[k].id,
            "right": ", ".join(labels[c] for c in sorted(gold[k])) or "none",
            "given": ", ".join(labels[c] for c in sorted(sets[k])) or "none",
            **_texts(items[k]),
        }
        for k in wrong[:WORST]
    ]
    return {"classes": classes, "most_wrong": mistakes}


def tag_analysis(items: Sequence[TaggedItem], given: Sequence[Sequence[str]], by_characters: bool) -> dict[str, Any]:
    """Return the scores of each type of entity, the confusions between types, and examples. A predicted entity with the
    right words but another type counts as that type; a true entity whose prediction has other words is `other borders`;
    without a prediction, `missed`; a prediction without a true entity is `no entity`.
    """
    table = entity_scores([item.tags or () for item in items], given)
    kinds = [name for name in table if name != "all"]
    types = [
        {
            "name": name, "precision": scores.precision, "recall": scores.recall, "f1": scores.f1,
            "support": scores.support, "given": scores.predicted,
        }
        for name, scores in table.items()
    ]  # fmt: skip
    counts: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], list[dict[str, str]]] = {}
    for item, tags in zip(items, given, strict=True):
        for right, predicted, span in _taken_for(entities(item.tags or ()), entities(tags)):
            counts[right, predicted] += 1
            shown = places.setdefault((right, predicted), [])
            if right != predicted and len(shown) < EXAMPLES:
                shown.append(_place(item, span, by_characters))
    columns, rows = [*kinds, BORDERS, MISSED], [*kinds, NOTHING]
    confused = [pair for pair, _ in counts.most_common() if pair[0] != pair[1]][:WORST]
    return {
        "types": types,
        "taken_for": {
            "rows": rows, "columns": columns, "counts": [[counts[row, column] for column in columns] for row in rows],
        },
        "confused": [
            {"right": pair[0], "given": pair[1], "count": counts[pair], "examples": places[pair]} for pair in confused
        ],
    }  # fmt: skip


def _taken_for(gold: Sequence[Entity], predicted: Sequence[Entity]) -> Iterable[tuple[str, str, tuple[int, int]]]:
    """Yield (true type, predicted type, words) of every entity of a sentence, including correct ones."""
    by_span = {(first, end): kind for kind, first, end in predicted}
    for kind, first, end in gold:
        if (first, end) in by_span:
            yield kind, by_span[first, end], (first, end)
        else:
            overlaps = any(a < end and first < b for a, b in by_span)
            yield kind, BORDERS if overlaps else MISSED, (first, end)
    for kind, first, end in predicted:
        if not any(a < end and first < b for _, a, b in gold):
            yield NOTHING, kind, (first, end)


def _place(item: TaggedItem, span: tuple[int, int], by_characters: bool) -> dict[str, str]:
    space, (first, end) = "" if by_characters else " ", span
    before = space.join(item.words[max(0, first - 12) : first])
    after = space.join(item.words[end : end + 12])
    return {"before": before, "entity": space.join(item.words[first:end]), "after": after}


def question_analysis(
    items: Sequence[QuestionItem], given: Sequence[str], by_characters: bool, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return exact matches and F1 by the first word of the question and by whether it has an answer, and the misses.
    names: the metrics of the task."""
    script = script_of(items, by_characters, names)
    scored = [item_scores(item, answer, script) for item, answer in zip(items, given, strict=True)]
    words = [_asks(item.question, by_characters) for item in items]
    frequent = {word for word, _ in Counter(words).most_common(WORST)}
    groups: dict[str, list[int]] = {}
    for k, word in enumerate(words):
        groups.setdefault(word if word in frequent else "other", []).append(k)
    refusing = {"with an answer": [k for k, item in enumerate(items) if item.answers],
                "without an answer": [k for k, item in enumerate(items) if not item.answers]}  # fmt: skip
    rows = {name: of for name, of in refusing.items() if of and len(of) < len(items)}
    by_word = {name: groups[name] for name in sorted(groups, key=lambda name: -len(groups[name]))}
    missed = sorted((k for k in range(len(items)) if not scored[k][0]), key=lambda k: scored[k][1])
    return {
        "questions": [_group(name, [scored[k] for k in of]) for name, of in {**rows, **by_word}.items()],
        "misses": [_miss(items[k], given[k], scored[k][1]) for k in _spread(missed)],
    }


def _group(name: str, scored: Sequence[tuple[float, float]]) -> dict[str, Any]:
    exact, f1 = np.mean(scored, axis=0).tolist()
    return {"name": name, "count": len(scored), "exact": exact, "f1": f1}


def _asks(question: str, by_characters: bool) -> str:
    """Return the first word of a question; in Chinese, its interrogative."""
    if by_characters:
        return next((word for word in ASKING if word in question), "other")
    return next(iter(question.lower().split()), "other").strip("?,.:;\"'")


def _spread(places: Sequence[int]) -> list[int]:
    """Return at most `WORST` indices, spread from the first to the last."""
    chosen = np.linspace(0, len(places) - 1, min(len(places), WORST)).round().astype(int)
    return [places[k] for k in chosen.tolist()]


def _miss(item: QuestionItem, given: str, f1: float) -> dict[str, Any]:
    place = next(
        (answer.start for answer in item.answers if answer.start is not None), item.context.find(given) if given else 0
    )
    first, last = max(0, place - AROUND), place + 2 * AROUND
    around = ("… " * (first > 0)) + item.context[first:last] + (" …" * (last < len(item.context)))
    right = " / ".join(dict.fromkeys(answer.text for answer in item.answers)) or "no answer"
    miss = {"id": item.id, "text": item.question, "right": right, "given": given or "no answer", "f1": round(f1, 4)}
    return {**miss, "second": around}


def _texts(item: TextItem) -> dict[str, str]:
    return {"text": item.first, **({} if item.second is None else {"second": item.second})}
