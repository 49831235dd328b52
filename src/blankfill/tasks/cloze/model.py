"""A model that predicts labels with its language-model head: no new weights, only scores of tokens at columns.

`ClozeTargets` hold the token that is scored at each column, and its label. The score of a label is the sum over its
tokens, and the mean over its words. The loss is cross-entropy over an item's labels; when words take several masks it
is PET's hinge loss: the right label must score better than each other label by a margin of 1. Several masks are trained
in one pass, and filled one after the other at inference (`ClozeTargets.in_turn`).

Shapes: N columns of a batch, D width, V vocabulary, K scored tokens, U different target columns, G items, C labels.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.model.quantized import table_rows
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import ANSWER, ITEM
from blankfill.tasks.cloze.targets import ClozeTargets
from blankfill.tasks.heads.models import ScoreModel, lm_loss_of
from blankfill.training.loss import LossSums
from blankfill.types import Batch

MARGIN = 1.0
TEXT = "text"
"""Name of a batch's targets that are masked tokens of texts."""


class ClozeModel(ScoreModel):
    """An encoder that predicts labels with its language-model head.

    raw: whether labels are compared by raw scores of single tokens, not by log-probabilities. hinge: PET's loss for
    several masks. text_weight: weight of the loss on masked tokens of texts, beside the loss on labels.
    """

    def __init__(self, encoder: Transformer, raw: bool, hinge: bool, text_weight: float = 0.0) -> None:
        super().__init__(encoder)
        self.raw, self.hinge, self.text_weight = raw, hinge, text_weight

    def scores(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the contribution of each scored token to the score of its label, fp32 [K, 1]."""
        targets = ClozeTargets.from_table(batch.labels[ANSWER][1])
        score_K = self._in_turn(batch, dtype) if targets.in_turn.any() else self._at_once(batch, dtype)
        out: Tensor = (score_K / targets.words)[:, None]
        return out

    def _at_once(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the score of each token of the targets, [K], all in one pass."""
        index_K, answer = batch.labels[ANSWER]
        token_K = ClozeTargets.from_table(answer).token
        column_U, where_K = index_K.unique(return_inverse=True)

        def read(encoder: Transformer, hidden_ND: Tensor) -> Tensor:
            head, table_VD = encoder.lm_head, encoder.output_table
            if self.raw:
                transformed_UD = head.transform(hidden_ND[column_U])
                score_K = (transformed_UD.float()[where_K] * table_rows(table_VD, token_K, torch.float32)).sum(1)
                return score_K if head.bias is None else score_K + head.bias[token_K]
            logs_UV = head(hidden_ND[column_U], table_VD).float().log_softmax(1)
            out: Tensor = logs_UV[where_K, token_K]
            return out

        scores_K: Tensor = self.encoder(batch, dtype, read=read).read
        return scores_K

    @torch.no_grad()
    def _in_turn(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the log-probability of each token of the targets, [K], when those of an Example are filled in one
        after the other: the likeliest first, then the likeliest of the others with that one in its place (arXiv
        2009.07118, section 3.1)."""
        index_K, answer = batch.labels[ANSWER]
        token_K, place_K = ClozeTargets.from_table(answer).token, torch.arange(len(index_K), device=index_K.device)
        segment = batch.segment.flatten()[index_K] + (index_K // batch.input_ids.shape[1]) * (batch.segment.max() + 1)
        _, word_K, size_W = segment.unique(return_inverse=True, return_counts=True)
        filled = batch.input_ids.clone()
        score_K = torch.full((len(index_K),), float("nan"), device=index_K.device)
        open_K = torch.ones_like(index_K, dtype=torch.bool)
        for _ in range(int(size_W.max())):
            logs_K = self._at_once(dataclasses.replace(batch, input_ids=filled), dtype)
            logs_K = logs_K.masked_fill(~open_K, float("-inf"))
            best_W = logs_K.new_full(size_W.shape, float("-inf")).scatter_reduce(0, word_K, logs_K, "amax")
            among_K = torch.where(open_K & (logs_K == best_W[word_K]), place_K, len(place_K))
            first_W = place_K.new_full(size_W.shape, len(place_K)).scatter_reduce(0, word_K, among_K, "amin")
            now = first_W[first_W < len(place_K)]
            score_K[now] = logs_K[now]
            filled.view(-1)[index_K[now]] = token_K[now]
            open_K[now] = False
        return score_K

    def losses(self, scores: Tensor, answer: Tensor) -> LossSums:
        """Return the loss of the labels, summed over items."""
        score_GC, present_GC, right_G = by_label(scores[:, 0], answer)
        score_GC = score_GC.masked_fill(~present_GC, float("-inf"))
        loss = hinge_loss(score_GC, right_G) if self.hinge else F.cross_entropy(score_GC, right_G, reduction="sum")
        return {ITEM: loss}

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """Return the losses of a batch of items, or of one of masked texts."""
        if TEXT not in batch.labels:
            return super().forward(batch, dtype)
        return {TEXT: self.text_weight * lm_loss_of(self.encoder, batch, TEXT, dtype)}


def by_label(score_K: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores of labels [G, C], whether an item has a label [G, C], and the right label [G], 0 where unknown."""
    _, item_K = answer[:, 0].unique_consecutive(return_inverse=True)
    targets = ClozeTargets.from_table(answer)
    place_K, right_K = targets.label, targets.right.bool()
    items, labels = int(item_K.max()) + 1, int(place_K.max()) + 1
    score_GC = score_K.new_zeros(items, labels).index_put((item_K, place_K), score_K, accumulate=True)
    present_GC = torch.zeros(items, labels, dtype=torch.bool, device=score_K.device)
    present_GC[item_K, place_K] = True
    right_G = torch.zeros(items, dtype=torch.int64, device=score_K.device)
    right_G[item_K[right_K]] = place_K[right_K]
    return score_GC, present_GC, right_G


def hinge_loss(score_GC: Tensor, right_G: Tensor) -> Tensor:
    """Sum max(0, 1 − right + wrong) over wrong labels and over items (arXiv 2009.07118, equation 4)."""
    right_G1 = score_GC.gather(1, right_G[:, None])
    margin_GC = (MARGIN - right_G1 + score_GC).clamp(min=0)
    return margin_GC.scatter(1, right_G[:, None], 0.0).sum()
