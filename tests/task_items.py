"""Items of every kind of head, for the tests of what trains on them."""

import numpy as np

from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.heads.models import HeadKind
from blankfill.types import AttentionRule, Example


def example(ids: list[int], channels: int) -> Example:
    nothing = np.zeros(0, np.int32)
    positions = np.zeros((channels, len(ids)), np.int32)
    positions[0] = np.arange(len(ids))
    return Example(np.array(ids, np.int32), positions, AttentionRule.full(len(ids)), nothing, nothing)


def some_items(kind: HeadKind, channels: int = 2) -> list[EncodedItem]:
    """Eight items of several lengths with answers of a kind."""
    rng = np.random.default_rng(0)
    results = []
    for k in range(8):
        texts = 3 if kind == "choice" else 1
        examples = tuple(
            example([2, *rng.integers(11, 30, int(rng.integers(2, 30))).tolist(), 3], channels) for _ in range(texts)
        )
        columns = tuple(np.array([0], np.int32) for _ in examples)
        answers: np.ndarray = np.array([k % 3], np.int64)
        if kind == "number":
            answers = np.array([k / 2], np.float32)
        elif kind == "set":
            answers = rng.integers(0, 2, (1, 3)).astype(np.float32)
        elif kind == "choice":
            answers = np.eye(3, dtype=np.int64)[k % 3][:, None]
        elif kind == "span":
            columns = (np.arange(len(examples[0]), dtype=np.int32),)
            answers = np.zeros((len(columns[0]), 2), np.int64)
            answers[1, 0] = answers[2, 1] = 1
        results.append(EncodedItem(examples, columns, answers, kind in ("choice", "span")))
    return results
