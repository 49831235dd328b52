"""Reading a long prompt in pieces, between the steps of rows that generate, so that they need not wait for it.

A piece sees the columns before it through a cache of the row's own, so only a prompt that is causal can be read so: GPT
and its like. Where every column of a prompt sees all others (Part A of GLM, the source of T5 and BART), it is read at
once.

Shapes: Q columns of a piece, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blankfill.attention.masks import Mask
from blankfill.data.batching import is_causal
from blankfill.generation.logprobs import Logprobs, logprobs_of
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer
from blankfill.model.view import evaluation_view
from blankfill.types import DecoderInput

SCORED = 64
"""Columns of a piece of which all scores are needed."""


def is_readable_in_pieces(model: Transformer, context: DecoderInput) -> bool:
    """Return whether a row may be read in pieces."""
    plain = context.source is None and context.query_token is None
    return plain and "local" not in model.kinds and is_causal(context.rule)


class PieceReader:
    """A row that is read in pieces. cache: its keys and values, one for each layer."""

    def __init__(self, model: Transformer, context: DecoderInput, columns: int, logprobs: int | None = None) -> None:
        """columns: of a piece. logprobs: number of the likeliest tokens with log-probabilities at every column of the
        row; None: no log-probabilities."""
        self.model, self.context = evaluation_view(model), context
        self._columns = columns if logprobs is None else min(columns, SCORED)
        self.cache = self.model.new_cache(1, len(context))
        self.logprobs: list[Logprobs] = []
        """Those of the row's tokens but the first, as far as it is read."""
        self._count, self._read = logprobs, 0
        self._ids = torch.from_numpy(context.input_ids.astype(np.int64)).to(model.device)
        self._positions = torch.from_numpy(context.positions.astype(np.int64)).to(model.device)

    @torch.inference_mode()
    def read(self) -> Tensor | None:
        """Read the next piece; returns the scores of the first new token, [1, V], after the last piece."""
        at = slice(self._read, min(self._read + self._columns, len(self.context)))
        inputs = Inputs(self._ids[None, at], self._positions[:, None, at], Mask("causal"))
        size = at.stop - at.start
        scored = torch.arange(0 if self._count is not None else size - 1, size, device=self._ids.device)
        logits = self.model(inputs, self.model.dtype, cache=self.cache, logits_at=scored).logits
        assert isinstance(logits, Tensor)
        self._read = at.stop
        if self._count is not None:
            following = self._ids[at.start + 1 : at.stop + 1].tolist()
            self.logprobs += logprobs_of(logits[: len(following)], following, [self._count] * len(following))
        return logits[-1:] if self._read == len(self.context) else None
