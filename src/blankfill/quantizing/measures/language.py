"""The scores of two pretrained models for the targets of a text, and the vectors of its sentences.

Shapes: M targets, V vocabulary, N sentences, D width.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blankfill.model.view import evaluation_view
from blankfill.quantizing.measures.differences import Differences, compare
from blankfill.quantizing.measures.pair import Pair
from blankfill.types import Batch

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.inference import Model

Blocks = Sequence[tuple[Batch, Tensor]]
"""Batches, each with the unit of each target."""
BUFFER = 512 << 20
"""Bytes of the scores of the first model that are in memory while the second is measured, where both models do not fit;
scores are fp16."""


def scores(loaded: Loaded, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yield the scores of the targets of each batch, [M, V]."""
    model = evaluation_view(loaded.language_model)
    device = model.device
    for batch in batches:
        with torch.inference_mode():
            batch = batch.to(device)
            logits = model(batch, logits_at=batch.target_index).logits
        assert logits is not None
        yield logits


def until(blocks: Blocks, seconds: float) -> Iterator[tuple[Batch, Tensor]]:
    """Yield blocks until the time is over, at least one."""
    end = time.monotonic() + seconds
    for number, block in enumerate(blocks):
        if number and time.monotonic() > end:
            return
        yield block


def language(pair: Pair, blocks: Blocks, seconds: float) -> Differences:
    """Compare the scores of two models for the targets of some rows, as many as the time allows: blocks are in a random
    order, so that those that are measured are from the whole text."""
    order = np.random.Generator(np.random.Philox(key=[0, len(blocks)])).permutation(len(blocks))
    blocks = [blocks[k] for k in order]
    if pair.together:
        before, after = pair.models
        copies = itertools.tee(until(blocks, seconds), 4)
        first = scores(before.loaded, (batch for batch, _ in copies[0]))
        second = scores(after.loaded, (batch for batch, _ in copies[1]))
        return compare(first, second, (batch.target_ids for batch, _ in copies[2]), (units for _, units in copies[3]))
    held = pair.of_original(lambda model: _held(model, blocks, seconds / 2))
    used = blocks[: len(held)]

    def compared(model: Model) -> Differences:
        second = scores(model.loaded, (batch for batch, _ in used))
        return compare(held, second, [batch.target_ids for batch, _ in used], [units for _, units in used])

    return pair.of_quantised(compared)


def _held(model: Model, blocks: Blocks, seconds: float) -> list[Tensor]:
    """Return the log-probabilities of some blocks in fp16, of at most `BUFFER` bytes, but of one block at least."""
    held: list[Tensor] = []
    for logits in scores(model.loaded, (batch for batch, _ in until(blocks, seconds))):
        block = torch.log_softmax(logits.float(), -1).half().cpu()
        if held and sum(part.nbytes for part in held) + block.nbytes > BUFFER:
            break
        held.append(block)
    return held


@dataclass(frozen=True)
class Cosines:
    """Cosines of the vectors that two models make of the same sentences."""

    mean: float
    worst: float
    sentences: int


def cosines(pair: Pair, sentences: Sequence[str]) -> Cosines:
    """Compare the vectors of sentences. Raises UserError for models that make no vectors."""
    before_ND, after_ND = pair.each(lambda model: model.embedder().vectors(sentences).array)
    return cosines_of(before_ND, after_ND)


def cosines_of(before_ND: np.ndarray, after_ND: np.ndarray) -> Cosines:
    """Return the cosines of vectors, row by row; 0 for a vector that is zero, or not finite."""
    first, second = before_ND.astype(np.float64), after_ND.astype(np.float64)
    with np.errstate(all="ignore"):
        products = (first * second).sum(1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
    products = np.where(np.isfinite(products), products, 0.0)
    return Cosines(float(products.mean()), float(products.min()), len(products))
