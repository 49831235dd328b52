"""A model for generation: the loss of its targets, and the search for its own texts.

Shapes: N columns of a batch, K target columns, D width, V vocabulary, R rows of a search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blankfill.data.packing import longest_first
from blankfill.generation.beam import Hypothesis, beam_search, greedy_search
from blankfill.generation.engine import Decoder, banned
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import ANSWER
from blankfill.tasks.heads.models import AnswerModel, lm_loss_of
from blankfill.training.loss import LossSums
from blankfill.types import Batch, DecoderInput, Vocabulary

COLUMNS = 8192
"""Columns of all rows of a search together, with those of tokens to be generated."""


class WritingModel(AnswerModel):
    """A model that generates answers. smoothing: label smoothing in training; the dev loss is without it."""

    def __init__(self, encoder: Transformer, smoothing: float = 0.0) -> None:
        super().__init__(encoder)
        self.smoothing = smoothing

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """Return the cross-entropy of the targets, summed over their tokens."""
        smoothing = self.smoothing if self.training else 0.0
        return {ANSWER: lm_loss_of(self.encoder, batch, ANSWER, dtype, smoothing)}


@dataclass(frozen=True)
class Search:
    """Settings of a search: see `generation.beam.beam_search`. longest: largest number of tokens; end: the token that
    ends a text."""

    longest: int
    end: int
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0

    @torch.inference_mode()
    def run(
        self, model: Transformer, contexts: Sequence[DecoderInput], vocabulary: Vocabulary, columns: int = COLUMNS
    ) -> list[list[Hypothesis]]:
        """Return the best texts of each context, best first, in the order of the contexts.

        Contexts of similar length share a batch of about `COLUMNS` columns; in a greedy search the next context takes
        the slot of a finished one. Special tokens and empty texts are never generated.
        """
        never_V = torch.from_numpy(banned(vocabulary, model.config.vocab_size)).to(model.device)

        def grammar(scores_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
            end_R = scores_RV[:, self.end]
            end_R = end_R if count else torch.full_like(end_R, -math.inf)
            return scores_RV.masked_fill(never_V, -math.inf), end_R

        pad = vocabulary.roles.get("pad", 0)
        texts_by_context: list[list[Hypothesis]] = [[] for _ in contexts]
        if self.beams == 1 and contexts:
            order = sorted(range(len(contexts)), key=lambda k: -contexts[k].columns)
            rows = max(1, columns // (contexts[order[0]].columns + self.longest))
            texts = greedy_search(
                model, [contexts[k] for k in order], grammar, self.longest, rows,
                self.length_penalty, self.no_repeat_ngram, pad, settled=1,
            )  # fmt: skip
            for k, hypotheses in zip(order, texts, strict=True):
                texts_by_context[k] = hypotheses
            return texts_by_context
        sizes = np.array([self.beams * (context.columns + self.longest) for context in contexts], np.int64)
        for places in longest_first(sizes, columns):
            decoder = Decoder(model, [contexts[k] for k in places], self.longest, pad)
            texts = beam_search(
                decoder, self.beams, grammar, self.longest, self.length_penalty, self.no_repeat_ngram, thorough=False
            )
            for k, hypotheses in zip(places, texts, strict=True):
                texts_by_context[k] = hypotheses
        return texts_by_context
