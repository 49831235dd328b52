"""Distillation: a student learns the predictions and hidden states of a teacher (DistilBERT, Sanh et al. 2019, arXiv
1910.01108).

Besides the targets, a student learns the teacher's whole distribution over the vocabulary (soft targets, Hinton et al.
2015) and the direction of its hidden states. The scores of all tokens never exist at once: some tokens are processed at
a time, and the gradient is computed in the same pass. The teacher reads the same batch, without dropout and without
gradients, in the current compute type.

Not here: opening a teacher and building a student from its layers (`blankfill.pretraining.teacher`).

Shapes: B rows, T columns, N tokens, M targets, D width, W columns of the token embeddings, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.lm_loss import SCORES, compute_dtype, lm_loss
from blankfill.model.heads import LM, head_losses
from blankfill.model.quantized import float_table
from blankfill.model.transformer import Transformer
from blankfill.training.loop import Trainer
from blankfill.training.loss import LossSums, counts
from blankfill.training.options import DistilOptions
from blankfill.types import PADDING, Batch

SOFT, HIDDEN = "soft", "hidden"
"""Names of the two losses: T² times the KL divergence from the teacher, and 1 − cosine, each by token."""


@dataclass(frozen=True)
class Distillation:
    """The losses of a student, called with (student, batch, compute type), with their counts and weights.

    shift: offset of the teacher's position numbers from the student's. answers: names of the objective's losses beside
    the language-model loss (of whole examples, or span boundaries).
    """

    teacher: Transformer
    options: DistilOptions
    shift: int = 0
    answers: tuple[str, ...] = ()

    def __call__(self, student: Transformer, batch: Batch, dtype: torch.dtype = torch.float32) -> LossSums:
        """Return the summed losses of a batch: language model, soft targets, hidden states, and the objective's
        others."""
        real_N = (batch.segment.flatten() != PADDING).nonzero().squeeze(1)
        over_all = self.options.over == "all" and bool(self.options.soft_weight)
        at_N = real_N if over_all else batch.target_index

        def teach(teacher: Transformer, seen_ND: Tensor) -> tuple[Tensor, Tensor | None]:
            return seen_ND, teacher.lm_head.transform(seen_ND[at_N]) if self.options.soft_weight else None

        with torch.no_grad():
            seen_ND, taught_NW = self.teacher(self.translated(batch), dtype, read=teach).read

        def learn(student: Transformer, hidden_ND: Tensor) -> dict[str, Tensor]:
            head, table = student.lm_head, student.output_table
            if over_all:
                transformed_NW = head.transform(hidden_ND)
                answers_MW, soft_NW = transformed_NW[batch.target_index], transformed_NW[real_N]
            else:
                soft_NW = answers_MW = head.transform(hidden_ND[batch.target_index])

            def lm(*_: Any) -> Tensor:
                return lm_loss(answers_MW, table, head.bias, batch.target_ids)

            losses = head_losses(student, hidden_ND, batch, {LM: lm})
            if taught_NW is not None:
                losses[SOFT] = soft_loss(student, soft_NW, self.teacher, taught_NW, self.options.temperature)
            if self.options.hidden_weight:
                cosine_N = F.cosine_similarity(hidden_ND[real_N].float(), seen_ND[real_N].float(), dim=-1)
                losses[HIDDEN] = (1 - cosine_N).sum()
            return losses

        result: LossSums = student(batch, dtype, read=learn).read
        return result

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of targets of each kind in a batch."""
        targets = counts(batch)
        if self.options.soft_weight:
            targets[SOFT] = batch.tokens if self.options.over == "all" else len(batch.target_ids)
        if self.options.hidden_weight:
            targets[HIDDEN] = batch.tokens
        return {name: count for name, count in targets.items() if count}

    @cached_property
    def weights(self) -> dict[str, float]:
        """Return the weight of the mean of each loss; the objective's other losses have the weight of the language
        model's."""
        options = self.options
        weights = dict.fromkeys((LM, *self.answers), options.lm_weight)
        return {SOFT: options.soft_weight, HIDDEN: options.hidden_weight, **weights}

    def teach(self, trainer: Trainer) -> None:
        """Let a trainer use these losses."""
        trainer.loss, trainer.counts, trainer.weights = self, self.counts, self.weights

    def translated(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's position numbers, and token types 0 where only the teacher has types."""
        places_BT = (batch.positions[0] + self.shift).clamp(min=0)  # padding has position 0 in every numbering
        channels = [places_BT, *batch.positions[1:]][: len(self.teacher.positions)]
        channels += [torch.zeros_like(places_BT)] * (len(self.teacher.positions) - len(channels))
        return Batch(
            batch.input_ids, torch.stack(channels), batch.segment, batch.rank, batch.horizon, batch.target_index,
            batch.target_ids, {}, batch.mask, batch.tokens, batch.no_split_before, group=batch.group,
        )  # fmt: skip


def soft_loss(
    student: Transformer, soft_NW: Tensor, teacher: Transformer, taught_NW: Tensor, temperature: float
) -> Tensor:
    """Compute T² · KL(teacher ‖ student) of the token distributions at temperature T, summed over tokens.

    soft_NW, taught_NW: hidden states of student and teacher after the transforms of their heads. The factor T² keeps
    the size of the gradient at temperature 1 (Hinton et al. 2015, section 2).
    """
    loss: Tensor = _SoftLoss.apply(  # type: ignore[no-untyped-call]
        soft_NW, student.output_table, student.lm_head.bias, taught_NW,
        float_table(teacher.output_table, compute_dtype(soft_NW)), teacher.lm_head.bias, temperature,
        compute_dtype(soft_NW), torch.is_grad_enabled(),
    )  # fmt: skip
    return loss


class _SoftLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        table_VW: Tensor,
        bias_V: Tensor | None,
        taught_NW: Tensor,
        taught_table_VW: Tensor,
        taught_bias_V: Tensor | None,
        temperature: float,
        dtype: torch.dtype,
        with_grad: bool,
    ) -> Tensor:
        hidden, table = hidden_NW.to(dtype), table_VW.to(dtype)
        taught, taught_table = taught_NW.to(dtype), taught_table_VW.to(dtype)
        grad_hidden = torch.empty(hidden_NW.shape, dtype=torch.float32, device=hidden.device)
        grad_table = torch.zeros(table_VW.shape, dtype=torch.float32, device=hidden.device)
        grad_bias = torch.zeros(len(table_VW), dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, SCORES // 4 // len(table_VW))
        for k in range(0, len(hidden), rows):
            at = slice(k, k + rows)
            wished_NV = (_scores(taught[at], taught_table, taught_bias_V) / temperature).log_softmax(1)
            given_NV = (_scores(hidden[at], table, bias_V) / temperature).log_softmax(1)
            shares_NV = wished_NV.exp()
            total += (shares_NV * (wished_NV - given_NV)).sum()
            if with_grad:
                # d(T²·KL)/d(score) = T · (student's share − teacher's share)
                grad_NV = given_NV.exp_().sub_(shares_NV).mul_(temperature)
                low = grad_NV.to(dtype)
                grad_hidden[at] = low @ table
                grad_table += low.T @ hidden[at]
                grad_bias += grad_NV.sum(0)
        if with_grad:
            ctx.save_for_backward(grad_hidden, grad_table, grad_bias if bias_V is not None else None)
            ctx.dtype = hidden_NW.dtype
        return total * temperature**2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        hidden, table, bias = ctx.saved_tensors  # scaled in place: torch refuses a second backward pass
        bias = None if bias is None else bias.mul_(scale)
        return hidden.mul_(scale).to(ctx.dtype), table.mul_(scale), bias, *[None] * 6


def _scores(hidden_NW: Tensor, table_VW: Tensor, bias_V: Tensor | None) -> Tensor:
    scores = (hidden_NW @ table_VW.T).float()
    return scores if bias_V is None else scores + bias_V
