"""Task heads on an encoder, their losses and their scores.

A head sees only the target columns and returns K × C scores, whose meaning depends on its kind:

* "class": one of C classes for each target column (of a text its first one, of a word its first token): cross-entropy.
* "number": a score: squared error.
* "set": a score for each of C labels: binary cross-entropy.
* "choice": one score for each choice of an item; softmax over the choices of the item (BERT on SWAG).
* "span": two scores for each column of a text, beginning and end; softmax over the columns of the item (SQuAD).

Targets, int64 or float32: "class" [K], or the teachers' scores of each class, [K, C] float; "number" [K] float; "set"
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

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import Dense, dense
from blankfill.model.draw import Rule
from blankfill.model.heads import LM, head_losses, lm_head_activation, lm_head_loss
from blankfill.model.initial import ONE, ZERO, draw_weights
from blankfill.model.layers import activate, dropout
from blankfill.model.norms import Norm, norm
from blankfill.model.quantized import float_weight
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import ANSWER, ITEM
from blankfill.tasks.heads.features import FeatureReader
from blankfill.training.loss import LossSums
from blankfill.types import Batch

HeadKind = Literal["class", "number", "set", "choice", "span"]
TEMPERATURE = 2.0
"""Divisor of the scores of teachers and student (PET, arXiv 2001.07676, section 4)."""
WEIGHT = Rule("normal", 0.02)
"""The initial weights of new heads, as in BERT's classifiers."""


class TaskHead(nn.Module):
    """Target columns → scores.

    pooled: whether columns represent whole texts. Then a dense layer precedes the scores: the encoder's own pooler, if
    it has one (`TaskModel` passes it), else the head's (`TransformerConfig.classifier_transform`).
    """

    def __init__(
        self, config: TransformerConfig, outputs: int, kind: HeadKind, pooled: bool, own: bool, width: int = 0
    ) -> None:
        """own: whether the encoder has no pooler. width: width of features that replace hidden states, or 0."""
        super().__init__()
        self.kind: HeadKind = kind
        self.pooled = pooled and not width
        self.mean = self.pooled and config.classifier_pooling == "mean"
        """Whether the head reads the mean of a text's columns."""
        self.drop = config.dropout
        size = width or config.hidden_size
        of_lm_head = config.classifier_transform == "lm_head"
        has_dense = not width and (own if pooled else of_lm_head)
        self.dense = dense(size, size, config.head_transform_bias if of_lm_head else True) if has_dense else None
        self.norm = norm(config, size) if has_dense and of_lm_head else None
        self.activation = lm_head_activation(config) if of_lm_head else config.classifier_transform
        self.output = dense(size, outputs)

    def forward(self, hidden_KD: Tensor) -> Tensor:
        """Scores, [K, C]."""
        drop = self.drop if self.training else 0.0
        if self.dense is not None and self.norm is not None:  # without dropout before it (ModernBERT)
            hidden_KD = self.norm(activate(self.dense(hidden_KD), self.activation))
        elif self.dense is not None:
            hidden_KD = self.dense(dropout(hidden_KD, drop))
            hidden_KD = torch.tanh(hidden_KD) if self.activation == "tanh" else activate(hidden_KD, self.activation)
        out: Tensor = self.output(dropout(hidden_KD, drop))
        return out


class AnswerModel(nn.Module, ABC):
    """An encoder with a task head: the module that the loop trains and `HeadEvaluator` evaluates."""

    def __init__(self, encoder: Transformer, encoder_only: bool = False) -> None:
        """encoder_only: of a model with an encoder, only the encoder is run."""
        super().__init__()
        self.encoder, self.encoder_only = encoder, encoder_only

    @abstractmethod
    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """Return the losses of a batch, summed over its targets. dtype: the compute type."""


class ScoreModel(AnswerModel):
    """A model with scores at target columns."""

    @abstractmethod
    def scores(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return scores at the target columns, fp32 [K, C]. dtype: the compute type."""

    @abstractmethod
    def losses(self, scores: Tensor, answer: Tensor) -> LossSums:
        """Return the losses of scores against the targets of their batch, summed."""

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """The losses of a batch, summed over its target columns (`answer`) or, of choices and spans, its items
        (`item`)."""
        return self.losses(self.scores(batch, dtype), batch.labels[ANSWER][1])


class TaskModel(ScoreModel):
    """An encoder with a head.

    class_weights: weight of each class, [C], with mean 1 over the training items; or None. reader: makes features from
    the layers of a frozen encoder; or None. encoder_only: see `AnswerModel`.
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
            out: Tensor = self.head(self.reader(self.encoder, batch, dtype)[index_K]).float()
            return out

        def read(encoder: Transformer, hidden_ND: Tensor) -> Tensor:
            hidden_KD = text_means(hidden_ND, batch.segment, index_K) if self.head.mean else hidden_ND[index_K]
            pooler = encoder.pooler if self.head.pooled else None
            return hidden_KD if pooler is None else pooler(hidden_KD)

        hidden_KD = self.encoder(batch, dtype, encoder_only=self.encoder_only, read=read).read
        scores_KC: Tensor = self.head(hidden_KD).float()
        return scores_KC

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
    """Return the losses that the loop minimises: see `AnswerModel.forward`."""
    losses: LossSums = model(batch, dtype)
    return losses


def lm_loss_of(model: Transformer, batch: Batch, label: str, dtype: torch.dtype, smoothing: float = 0.0) -> Tensor:
    """Return the summed language-model loss of a batch whose targets are its labels of a name; smoothing: of labels."""
    index_K, target_K = batch.labels[label]
    targets = replace(batch, target_index=index_K, target_ids=target_K, labels={})
    losses = partial(head_losses, batch=targets, replaced={LM: partial(lm_head_loss, smoothing=smoothing)})
    loss: Tensor = model(targets, dtype, read=losses).read[LM]
    return loss


def soft_label_loss(scores_KC: Tensor, teacher_KC: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's probabilities from the teachers', both at `TEMPERATURE`,
    summed over items and multiplied by its square, so that the size of the gradient does not depend on it (Hinton et
    al., arXiv 1503.02531)."""
    wanted_KC = (teacher_KC / TEMPERATURE).softmax(1)
    logs_KC = (scores_KC / TEMPERATURE).log_softmax(1)
    return F.kl_div(logs_KC, wanted_KC, reduction="sum") * TEMPERATURE**2


def candidate_loss(scores_KC: Tensor, answer: Tensor) -> Tensor:
    """Return the cross-entropy over the candidates of each item, summed over items; for spans the mean of beginning and
    end."""
    spread_GSC = grouped(scores_KC, answer[:, 0])
    right_GSC = grouped(answer[:, 1:].to(scores_KC.dtype), answer[:, 0], 0.0)
    logs_GSC = spread_GSC.log_softmax(1).masked_fill(right_GSC == 0, 0.0)
    return -(logs_GSC * right_GSC).sum() / scores_KC.shape[1]


def grouped(values_KC: Tensor, item_K: Tensor, absent: float = float("-inf")) -> Tensor:
    """Return values by item, [G, S, C], padded with `absent`; items are in their order in the batch."""
    _, group_K, sizes_G = item_K.unique_consecutive(return_inverse=True, return_counts=True)
    starts_G = sizes_G.cumsum(0) - sizes_G
    inside_K = torch.arange(len(item_K), device=item_K.device) - starts_G[group_K]
    spread = values_KC.new_full((len(sizes_G), int(sizes_G.max()), values_KC.shape[1]), absent)
    return spread.index_put((group_K, inside_K), values_KC)


def text_means(hidden_ND: Tensor, segment_BT: Tensor, index_K: Tensor) -> Tensor:
    """Return for each target column the mean of all columns of its text, [K, D]. segment_BT: the text of each
    column."""
    rows, columns = segment_BT.shape
    row_B1 = torch.arange(rows, device=segment_BT.device)[:, None]
    _, text_N, sizes_S = (row_B1 * (columns + 1) + segment_BT).flatten().unique(return_inverse=True, return_counts=True)
    sums_SD = hidden_ND.new_zeros(len(sizes_S), hidden_ND.shape[1], dtype=torch.float32)
    sums_SD = sums_SD.index_add(0, text_N, hidden_ND.float())  # bf16 would lose the later ones of many columns
    text_K = text_N[index_K]
    out: Tensor = (sums_SD[text_K] / sizes_S[text_K, None]).to(hidden_ND.dtype)
    return out


def empty_head(encoder: Transformer, kind: HeadKind, outputs: int, pooled: bool, width: int = 0) -> TaskHead:
    """Return a head for an encoder, without initial weights. width: width of features that replace hidden states, or
    0."""
    return TaskHead(encoder.config, outputs, kind, pooled, encoder.pooler is None, width)


def begin_with_lm_head(dense: Dense, norm: Norm, encoder: Transformer) -> None:
    """Copy the transform of an encoder's LM head, unless it has another width or the encoder has none."""
    theirs = encoder.lm_head
    if theirs.dense is not None and theirs.norm is not None and theirs.dense.out_features == dense.out_features:
        dense.weight.copy_(float_weight(theirs.dense))
        if dense.bias is not None and theirs.dense.bias is not None:
            dense.bias.copy_(theirs.dense.bias)
        norm.load_state_dict(theirs.norm.state_dict())


def new_head(encoder: Transformer, kind: HeadKind, outputs: int, pooled: bool, seed: int, width: int = 0) -> TaskHead:
    """Return a head for an encoder, drawn by the seed and its parameters' names in a `TaskModel`; see `empty_head`.

    A transform of the form of the LM head's is initialised with its weights, as transformers loads them.
    """
    head = empty_head(encoder, kind, outputs, pooled, width)
    with torch.no_grad():
        draw_weights(head, {name: _head_rule(name) for name, _ in head.named_parameters()}, seed, "head.")
        if head.dense is not None and head.norm is not None:
            begin_with_lm_head(head.dense, head.norm, encoder)
    return head


def _head_rule(name: str) -> Rule:
    """Return the rule of a parameter of a new head: weights as in BERT's classifiers, biases 0, norms 1."""
    if name.endswith("bias"):
        return ZERO
    return ONE if name.startswith("norm.") else WEIGHT
