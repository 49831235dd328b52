"""Scoring given answers: from Examples to the log-probability of each answer.

All measurements of a pretrained model use this one function: for windows of a text (perplexity), texts with one token
masked (pseudo-perplexity), and texts with the last word or any blank predicted. The answers of an Example are scored
with the answers before them in place, so `hits` tells what greedy decoding would generate: it generates an answer
exactly when each of its tokens is the likeliest after the tokens before it.

Shapes: B rows, T columns, D width, M answers, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill.data.batching import collate, prefetch
from blankfill.data.packing import padded_batches
from blankfill.generation.fill_written import SCORED_AT_ONCE
from blankfill.model.transformer import Transformer
from blankfill.model.view import evaluation_view
from blankfill.types import Batch, Example

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

Start = Callable[[int, str], Callable[[int], None]]
"""Starts a progress bar, from the number of items and their unit; returns a function that takes the number done."""
POOL = 2048
"""Examples that are sorted by length together; memory grows with this number, not with the text."""


def silent(total: int, unit: str) -> Callable[[int], None]:
    """Start no progress bar."""
    return lambda done: None


@dataclass(frozen=True)
class Answered:
    """The scores of an Example's answers. log_probabilities: float64[M], natural logarithm; hits: bool[M], whether the
    answer ranks first."""

    log_probabilities: NDArray[np.float64]
    hits: NDArray[np.bool_]

    @property
    def total(self) -> float:
        """The sum of the log-probabilities of all answers."""
        return float(self.log_probabilities.sum())


def answered(loaded: Loaded, examples: Iterable[Example], pool: int = POOL) -> Iterator[Answered]:
    """Score the answers of each Example, in order.

    Examples of similar length share a batch, so that little of it is padding. pool: number of Examples sorted at a
    time.
    """
    pad = loaded.vocabulary.roles.get("pad", 0)
    remaining = iter(examples)
    while chosen := list(itertools.islice(remaining, pool)):
        sides = [(len(example), 0 if example.context is None else len(example.context)) for example in chosen]
        lengths = np.array([max(side) for side in sides], np.int64)
        results: dict[int, Answered] = {}
        order = list(padded_batches(lengths))
        groups = [[chosen[k] for k in numbers] for numbers in order]
        batches = prefetch(collate([[example] for example in group], pad) for group in groups)
        for numbers, group, batch in zip(order, groups, batches, strict=True):
            logs, hits = _scores(loaded, batch)
            edges = np.cumsum([len(example.target_ids) for example in group])[:-1]
            parts = zip(np.split(logs, edges), np.split(hits, edges), strict=True)
            results |= {int(k): Answered(*part) for k, part in zip(numbers, parts, strict=True)}
        yield from (results[k] for k in range(len(chosen)))


def joined(loaded: Loaded, groups: Iterable[Sequence[Example]]) -> Iterator[Answered]:
    """Score the answers of each group of Examples and join the answers of a group in order."""
    sizes: deque[int] = deque()

    def flat() -> Iterator[Example]:
        for group in groups:
            sizes.append(len(group))
            yield from group

    held: list[Answered] = []
    for result in answered(loaded, flat()):
        held.append(result)
        if len(held) == sizes[0]:
            sizes.popleft()
            logs = np.concatenate([part.log_probabilities for part in held])
            yield Answered(logs, np.concatenate([part.hits for part in held]))
            held = []


@torch.inference_mode()
def _scores(loaded: Loaded, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the log-probability of each answer of a batch [M], and whether the answer is the likeliest token [M]."""
    model = evaluation_view(loaded.language_model)
    batch = batch.to(model.device)
    logs, hits = [np.zeros(0)], [np.zeros(0, np.bool_)]

    def score(model: Transformer, hidden_ND: Tensor) -> None:
        hidden_MD, parts = hidden_ND[batch.target_index], batch.target_ids.split(SCORED_AT_ONCE)
        for hidden, targets in zip(hidden_MD.split(SCORED_AT_ONCE), parts, strict=True):
            scores_MV = model.lm_head(hidden, model.output_table).float()
            right_M = scores_MV.gather(1, targets[:, None])[:, 0]
            logs.append((right_M - scores_MV.logsumexp(-1)).double().cpu().numpy())
            hits.append((scores_MV.argmax(-1) == targets).cpu().numpy())

    model(batch, model.dtype, read=score)
    return np.concatenate(logs), np.concatenate(hits)
