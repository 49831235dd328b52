"""What a model thinks of given answers: Examples in, the log-probability of every answer out.

Everything that is measured of a pretrained model comes down to this one function: a window of a text (perplexity), a
text with one token masked (pseudo-perplexity), a text with its last word, or any blank, written out behind it. The
answers of an Example are read with the ones before them in place, so the *hits* say what greedy decoding would write:
it writes an answer exactly when each of its tokens is the likeliest after the ones before.

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
"""Begins a progress bar of so many things by their name; what it gives is called as they are done."""
POOL = 2048
"""Examples that are sorted by length together; memory grows with this, not with the text."""


def silent(total: int, unit: str) -> Callable[[int], None]:
    """No progress bar."""
    return lambda done: None


@dataclass(frozen=True)
class Answered:
    """An Example's answers. log_probabilities: float64[M], natural; hits: bool[M], whether the model ranks it first."""

    log_probabilities: NDArray[np.float64]
    hits: NDArray[np.bool_]

    @property
    def total(self) -> float:
        """The log-probability of all answers together."""
        return float(self.log_probabilities.sum())


def answered(loaded: Loaded, examples: Iterable[Example], pool: int = POOL) -> Iterator[Answered]:
    """What the model thinks of the answers of each Example, in their order.

    Those of like length are computed together, so that hardly a column is padding. pool: how many are sorted at a time.
    """
    pad = loaded.vocabulary.roles.get("pad", 0)
    remaining = iter(examples)
    while chosen := list(itertools.islice(remaining, pool)):
        sides = [(len(example), 0 if example.context is None else len(example.context)) for example in chosen]
        lengths = np.array([max(side) for side in sides], np.int64)
        found: dict[int, Answered] = {}
        order = list(padded_batches(lengths))
        groups = [[chosen[k] for k in numbers] for numbers in order]
        batches = prefetch(collate([[example] for example in group], pad) for group in groups)
        for numbers, group, batch in zip(order, groups, batches, strict=True):
            logs, hits = _scores(loaded, batch)
            edges = np.cumsum([len(example.target_ids) for example in group])[:-1]
            parts = zip(np.split(logs, edges), np.split(hits, edges), strict=True)
            found |= {int(k): Answered(*part) for k, part in zip(numbers, parts, strict=True)}
        yield from (found[k] for k in range(len(chosen)))


def joined(loaded: Loaded, groups: Iterable[Sequence[Example]]) -> Iterator[Answered]:
    """The answers of each group of Examples, one after the other, as one."""
    sizes: deque[int] = deque()

    def flat() -> Iterator[Example]:
        for group in groups:
            sizes.append(len(group))
            yield from group

    held: list[Answered] = []
    for found in answered(loaded, flat()):
        held.append(found)
        if len(held) == sizes[0]:
            sizes.popleft()
            logs = np.concatenate([one.log_probabilities for one in held])
            yield Answered(logs, np.concatenate([one.hits for one in held]))
            held = []


@torch.inference_mode()
def _scores(loaded: Loaded, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of all answers of a batch, (log-probabilities [M], whether each is the likeliest [M])."""
    model = evaluation_view(loaded.language_model)
    batch = batch.to(model.token_embeddings.weight.device)
    logs, hits = [np.zeros(0)], [np.zeros(0, np.bool_)]

    def score(model: Transformer, hidden_ND: Tensor) -> None:
        hidden_MD, parts = hidden_ND[batch.target_index], batch.target_ids.split(SCORED_AT_ONCE)
        for hidden, targets in zip(hidden_MD.split(SCORED_AT_ONCE), parts, strict=True):
            scores_MV = model.lm_head(hidden, model.output_table).float()
            right_M = scores_MV.gather(1, targets[:, None])[:, 0]
            logs.append((right_M - scores_MV.logsumexp(-1)).double().cpu().numpy())
            hits.append((scores_MV.argmax(-1) == targets).cpu().numpy())

    model(batch, model.token_embeddings.weight.dtype, read=score)
    return np.concatenate(logs), np.concatenate(hits)
