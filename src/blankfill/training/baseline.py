"""The unigram baseline: the loss of a model that knows only the frequency of each token.

The best constant prediction for an objective is the share of each token among its targets: for text tokens from their
counts in the training files, for special tokens such as GLM's [E] from the targets of some training rows. The baseline
is its cross-entropy on the validation targets, in nats.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from blankfill.types import Vocabulary


def unigram_baseline(
    counts: NDArray[np.int64],
    train_targets: Iterable[NDArray[np.integer]],
    valid_targets: Iterable[NDArray[np.integer]],
    vocabulary: Vocabulary,
) -> float:
    """Return the cross-entropy of the unigram prediction on the validation targets in nats; NaN without targets.

    counts: int64[V], occurrences of each id in the training text. Smoothed with one added to each count.
    """
    size = vocabulary.size
    text = np.zeros(size)
    text[: len(counts)] = counts[:size]
    special = np.zeros(size, np.bool_)
    special[list(vocabulary.special)] = True
    text[special] = 0
    text[~special] += 1
    seen, valid = _histogram(train_targets, size), _histogram(valid_targets, size)
    # a special token that the sampled rows happen to lack counts as half an occurrence
    marks = np.where(special & (seen + valid > 0), np.maximum(seen, 0.5), 0.0)
    total = seen[~special].sum() + marks.sum()
    law = (1 - marks.sum() / total) * text / text.sum() + marks / total
    law[valid == 0] = 1.0
    return float(-(valid @ np.log(law)) / valid.sum()) if valid.sum() else float("nan")


def _histogram(targets: Iterable[NDArray[np.integer]], size: int) -> NDArray[np.int64]:
    total = np.zeros(size, np.int64)
    for ids in targets:
        total += np.bincount(ids, minlength=size)
    return total
