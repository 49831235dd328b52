"""The unigram baseline: what a model must beat to have learnt more than how often each token occurs.

The best constant prediction for an objective answers with the share of each token among its targets: text tokens by
their counts in the training files, marks such as GLM's [E] by their share among the answers of some training rows. Its
cross-entropy on the validation targets is the number that the validation loss is held against, in nats.
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
    """Cross-entropy in nats of the unigram prediction on the validation targets; NaN when there are none.

    counts: int64[V], occurrences of each id in the training text. Add-one smoothed.
    """
    size = vocabulary.size
    text = np.zeros(size)
    text[: len(counts)] = counts[:size]
    special = np.zeros(size, np.bool_)
    special[list(vocabulary.special)] = True
    text[special] = 0
    text[~special] += 1
    seen, valid = _histogram(train_targets, size), _histogram(valid_targets, size)
    # a mark that the sampled rows happen to lack still has a share: half an occurrence
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
