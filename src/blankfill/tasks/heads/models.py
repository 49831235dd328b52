"""What is put on an encoder to answer a task, what it is trained for, and what it says.

A head sees the target columns only and gives K × C scores; its kind says what they mean:

* "class": one of C classes for each target column (a text at its first one, a word at its first piece): cross-entropy.
* "number": a score: squared error.
* "set": each of C labels on its own: binary cross-entropy.
* "choice": one score for each choice of an item; softmax over the choices of the item (BERT on SWAG).
* "span": two scores for each column of a text, beginning and end; softmax over the columns of the item (SQuAD).

Answers, int64 or float32: "class" [K], or what teachers score each class, [K, C] float; "number" [K] float; "set"
[K, C] of 0 and 1, float; "choice" [K, 2]: the number of the item and whether this is the right one; "span" [K, 3]: the
number of the item, whether the answer begins here, whether it ends here.

Shapes: N columns of a batch, D width, K target columns, C outputs, G items, S candidates of the item with most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.model.dense import dense
from blankfill.model.draw import Rule
from blankfill.model.heads import LM, head_losses, lm_head_loss
from blankfill.model.initial import draw_weights
from blankfill.model.layers import dropout
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import ANSWER, ITEM
from blankfill.tasks.heads.features import FeatureReader
from blankfill.training.loss import LossSums
from blankfill.types import Batch

HeadKind = Literal["class", "number", "set", "choice", "span"]
TEMPERATURE = 2.0
"""What the scores of teachers and pupil are divided by (PET, arXiv 2001.07676, section 4)."""
WEIGHT, BIAS = Rule("normal", 0.02), Rule("constant", 0.0)
"""How new heads are drawn: as BERT draws its classifiers."""


class TaskHead(nn.Module):
    """Target columns → scores.

    pooled: columns stand for whole texts and go through a tanh dense first: the encoder's own pooler where it has one
    (`TaskModel` hands it over), one of the head's own otherwise (RoBERTa's classification head).
    """

    def __init__(self, width: int, outputs: int, kind: HeadKind, pooled: bool, own: bool, drop: float) -> None:
        super().__init__()
        self.kind: HeadKind = kind
        self.pooled = pooled
        self.drop = drop
        self.dense = dense(width, width) if pooled and own else None
        self.output = dense(width, outputs)

    def forward(self, hidden_KD: Tensor) -> Tensor:
        """Scores, [K, C]."""
        drop = self.drop if self.training else 0.0
        if self.dense is not None:
            hidden_KD = torch.tanh(self.dense(dropout(hidden_KD, drop)))
        return self.output(dropout(hidden_KD, drop))


class AnswerModel(nn.Module, ABC):
    """An encoder that answers a task: what the loop trains and `HeadEvaluator` examines."""

    def __init__(self, encoder: Transformer, encoder_only: bool = False) -> None:
        """encoder_only: of a model with an encoder, only the encoder is run."""
        super().__init__()
        self.encoder, self.encoder_only = encoder, encoder_only

    @abstractmethod
    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """The losses of a batch, summed over its targets. dtype: the compute type in force."""


class ScoreModel(AnswerModel):
    """A model that gives scores of target columns."""

    @abstractmethod
    def scores(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scores at the target columns, fp32 [K, C]. dtype: the compute type in force."""

    @abstractmethod
    def losses(self, scores: Tensor, answer: Tensor) -> LossSums:
        """The losses of scores against the answers of their batch, summed."""

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """The losses of a batch, summed over its target columns (`answer`) or, of choices and spans, its items
        (`item`)."""
        return self.losses(self.scores(batch, dtype), batch.labels[ANSWER][1])


class TaskModel(ScoreModel):
    """An encoder with a head.

    class_weights: what each class counts, [C], mean 1 over the training items; or None. reader: what makes features of
    the encoder's layers, for an encoder that does not learn; or None. encoder_only: see `AnswerModel`.
    """

    def __init__(
        self,
        encoder: Transformer,
        head: TaskHead,
        class_weights: Sequence[float] | None = None,
        reader: FeatureReader | None = None,
        encoder_only: bool = False,
    ) -> None:
        super().__init__(encoder, encoder_only)
        self.head, self.reader = head, reader
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def scores(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
        """The head's scores at the target columns, fp32 [K, C]. dtype: the compute type in force."""
        index_K = batch.labels[ANSWER][0]
        if self.reader is not None:
            return self.head(self.reader(self.encoder, batch, dtype)[index_K]).float()

        def read(encoder: Transformer, hidden_ND: Tensor) -> Tensor:
            pooled = encoder.pooler if self.head.pooled else None
            return hidden_ND[index_K] if pooled is None else pooled(hidden_ND[index_K])

        hidden_KD = self.encoder(batch, dtype, encoder_only=self.encoder_only, read=read).read
        return self.head(hidden_KD).float()

    def losses(self, scores: Tensor, answer: Tensor) -> LossSums:
        """The losses of scores; see `AnswerModel.forward`."""
        kind = self.head.kind
        if kind in ("choice", "span"):
            return {ITEM: candidate_loss(scores, answer)}
        if kind == "class" and answer.dim() == 2:
            total = soft_label_loss(scores, answer)
        elif kind == "class":
            weights = self.class_weights
            assert weights is None or isinstance(weights, Tensor)
            total = F.cross_entropy(scores, answer, weight=weights, reduction="sum")
        elif kind == "number":
            total = F.mse_loss(scores[:, 0], answer, reduction="sum")
        else:
            total = F.binary_cross_entropy_with_logits(scores, answer, reduction="none").mean(1).sum()
        return {ANSWER: total}


def task_losses(model: AnswerModel, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
    """What the loop trains a model for: see `AnswerModel.forward`."""
    losses: LossSums = model(batch, dtype)
    return losses


def lm_loss_of(model: Transformer, batch: Batch, label: str, dtype: torch.dtype, smoothing: float = 0.0) -> Tensor:
    """The summed language-model loss of a batch whose targets are its labels of a name; smoothing: of labels."""
    index_K, target_K = batch.labels[label]
    targets = replace(batch, target_index=index_K, target_ids=target_K, labels={})
    losses = partial(head_losses, batch=targets, replaced={LM: partial(lm_head_loss, smoothing=smoothing)})
    loss: Tensor = model(targets, dtype, read=losses).read[LM]
    return loss


def soft_label_loss(scores_KC: Tensor, teacher_KC: Tensor) -> Tensor:
    """How far the pupil's probabilities are from the teachers' (Kullback-Leibler), both at `TEMPERATURE`, summed over
    items and times its square, so that the gradient is as large as without (Hinton et al., arXiv 1503.02531)."""
    wanted_KC = (teacher_KC / TEMPERATURE).softmax(1)
    logs_KC = (scores_KC / TEMPERATURE).log_softmax(1)
    return F.kl_div(logs_KC, wanted_KC, reduction="sum") * TEMPERATURE**2


def candidate_loss(scores_KC: Tensor, answer: Tensor) -> Tensor:
    """Cross-entropy over the candidates of each item, summed over items; for spans the mean of beginning and end."""
    spread_GSC = grouped(scores_KC, answer[:, 0])
    right_GSC = grouped(answer[:, 1:].to(scores_KC.dtype), answer[:, 0], 0.0)
    logs_GSC = spread_GSC.log_softmax(1).masked_fill(right_GSC == 0, 0.0)
    return -(logs_GSC * right_GSC).sum() / scores_KC.shape[1]


def grouped(values_KC: Tensor, item_K: Tensor, absent: float = float("-inf")) -> Tensor:
    """Values by item, [G, most, C], `absent` where an item has fewer; items in the order in which they come."""
    _, group_K, sizes_G = item_K.unique_consecutive(return_inverse=True, return_counts=True)
    starts_G = sizes_G.cumsum(0) - sizes_G
    inside_K = torch.arange(len(item_K), device=item_K.device) - starts_G[group_K]
    spread = values_KC.new_full((len(sizes_G), int(sizes_G.max()), values_KC.shape[1]), absent)
    return spread.index_put((group_K, inside_K), values_KC)


def empty_head(encoder: Transformer, kind: HeadKind, outputs: int, pooled: bool, width: int = 0) -> TaskHead:
    """A head for an encoder, its weights not drawn. width: of features that it reads instead of hidden states, or 0."""
    config = encoder.config
    own = encoder.pooler is None
    return TaskHead(width or config.hidden_size, outputs, kind, pooled and not width, own, config.dropout)


def new_head(encoder: Transformer, kind: HeadKind, outputs: int, pooled: bool, seed: int, width: int = 0) -> TaskHead:
    """A head for an encoder, drawn by the seed and its parameters' names in a `TaskModel`; see `empty_head`."""
    head = empty_head(encoder, kind, outputs, pooled, width)
    rules = {name: WEIGHT if name.endswith("weight") else BIAS for name, _ in head.named_parameters()}
    draw_weights(head, rules, seed, "head.")
    return head
