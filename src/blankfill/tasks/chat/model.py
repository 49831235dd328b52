"""A model that learns to chat: the loss of its answers and of replayed old text, and the probability of each answer.

Shapes: N columns of a batch, K target columns, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import ANSWER
from blankfill.tasks.heads.models import lm_loss_of
from blankfill.tasks.text.seq2seq_model import WritingModel
from blankfill.training.loss import LossSums
from blankfill.types import Batch

OLD = "old"
"""Name of the targets of replayed text in a batch, and of their loss."""
AT_ONCE = 512
"""Targets whose scores of the whole vocabulary are in memory together."""


class ChatModel(WritingModel):
    """A model that learns answers, and old text beside them."""

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """Return the cross-entropy of the targets of answers or of old text, summed over their tokens."""
        if OLD in batch.labels:
            return {OLD: lm_loss_of(self.encoder, batch, OLD, dtype)}
        return super().forward(batch, dtype)

    @torch.no_grad()
    def nats(self, batch: Batch, dtype: torch.dtype = torch.float32, label: str = ANSWER) -> Tensor:
        """Return the negative log-probability of each target of a batch, fp32 [K]."""
        index_K, target_K = batch.labels[label]
        bare = replace(batch, target_index=index_K, target_ids=target_K, labels={})

        def read(encoder: Transformer, hidden_ND: Tensor) -> Tensor:
            parts = []
            for index, target in zip(index_K.split(AT_ONCE), target_K.split(AT_ONCE), strict=True):
                logs_KV = encoder.lm_head(hidden_ND[index], encoder.output_table).float().log_softmax(1)
                parts.append(-logs_KV.gather(1, target[:, None].long())[:, 0])
            return torch.cat(parts)

        nats_K: Tensor = self.encoder(bare, dtype, read=read).read
        return nats_K


def as_old(batch: Batch) -> Batch:
    """Return rows of pretraining whose targets are those of old text. Further answers of the rows are left out."""
    labels = {OLD: (batch.target_index, batch.target_ids)}
    return replace(batch, target_index=batch.target_index[:0], target_ids=batch.target_ids[:0], labels=labels)
