"""Optimisers that torch lacks, or implements differently: LAMB and Adafactor.

Both are plain torch optimisers: state in tensors, learning rate from outside, no clipping of the whole gradient.
`train.optimizer` chooses between them. Both treat each weight tensor separately; query, key and value, three tensors in
the papers' code, are one tensor here, with one ratio and one scale.

Neither optimiser waits for the device: values by tensor stay on the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT

from blankfill.kernels.capability import plain_weights


class Lamb(Optimizer):
    """LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2) with φ(x) = x and bias correction.

    For each weight tensor w: r = m̂ / (√v̂ + eps) + decay · w, then w ← w - lr · ‖w‖ / ‖r‖ · r; the ratio is 1 where
    either norm is 0. Groups with `adapt` off take the plain step w ← w - lr · r.

    Google's released code (ALBERT's `lamb_optimizer.py`) corrects no bias and leaves norms and biases out of both decay
    and ratio. TensorFlow Addons and NVIDIA's apex correct the bias; the former takes the exclusions from decay for the
    ratio too, the latter drops the ratio wherever decay is 0, unless `use_nvlamb` is set. Here the bias is
    corrected, and the ratio does not depend on whether there is decay.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        # with "fused" among its settings, a group's step counts are restored onto the device of its weights
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True, "fused": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step. Closures are not supported."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            updates = self._adam_updates(group, weights)
            lr, decay = group["lr"], group["weight_decay"]
            if decay:
                torch._foreach_add_(updates, weights, alpha=-decay)
            if not group["adapt"]:
                torch._foreach_add_(weights, updates, alpha=lr)
                continue
            sizes, lengths = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
            ratio = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0)
            torch._foreach_addcmul_(weights, updates, list((lr * ratio).unbind()))

    def _adam_updates(self, group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
        """Return -m̂ / (√v̂ + eps) of each weight, and update the moments.

        The result is that of one step of Adam on zeros at learning rate 1: a single pass over memory in torch's fused
        kernel, and many passes when written out.
        """
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["exp_avg"] = torch.zeros_like(weight)
                state["exp_avg_sq"] = torch.zeros_like(weight)
        updates = [torch.zeros_like(weight) for weight in weights]
        beta1, beta2 = group["betas"]
        adam(
            updates,
            [weight.grad for weight in weights if weight.grad is not None],
            [self.state[weight]["exp_avg"] for weight in weights],
            [self.state[weight]["exp_avg_sq"] for weight in weights],
            [],
            [self.state[weight]["step"] for weight in weights],
            fused=plain_weights(weights) or None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=1.0,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        return updates


class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) without momentum, as T5 ran it; the rate comes from outside.

    For a matrix, only the row and column means of the squared gradient are stored, V̂ = R Cᵀ / mean(R), with
    β₂ = 1 - step^-0.8; the update U = G / √V̂ is scaled down to RMS 1 where it is larger, and
    w ← w - lr · max(1e-3, RMS(w)) · U. Decay is decoupled, w ← (1 - lr · decay) w; the paper has none. T5's rate is
    1 / √max(step, 10⁴): `--train.schedule inverse_sqrt --train.warmup 0 --train.constant-steps 10000 --train.lr 0.01`.

    It equals transformers' Adafactor with scale_parameter and without relative_step, except for decay. torch's own
    limits the rate to 1 / √step, which overrides the schedule of a long run and `embedding_lr_multiplier` in a short
    one, and adds its epsilon where it changes the update of small gradients.
    """

    DECAY = 0.8
    """The exponent of 1 - β₂."""
    SQUARE_EPS = 1e-30
    """Added to squared gradients."""
    SCALE_EPS = 1e-3
    """Smallest scale of a weight tensor, so that a tensor of zeros can grow."""
    THRESHOLD = 1.0
    """The RMS above which an update is scaled down."""

    def __init__(self, params: ParamsT, lr: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step. Closures are not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    rate = group["lr"] * rms(weight).clamp_(min=self.SCALE_EPS)
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    self._move(weight, weight.grad, rate)

    def _move(self, weight: Tensor, grad: Tensor, rate: Tensor) -> None:
        """Update a weight: w ← w - rate · the clipped update."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            if weight.dim() > 1:
                state["row_var"] = grad.new_zeros(grad.shape[:-1])
                state["col_var"] = grad.new_zeros(grad.shape[:-2] + grad.shape[-1:])
            else:
                state["variance"] = torch.zeros_like(grad)
        state["step"] += 1
        fresh = float(state["step"]) ** -self.DECAY
        square = grad.square()
        if weight.dim() < 2:
            variance = state["variance"].lerp_(square.add_(self.SQUARE_EPS), fresh)
            update = variance.rsqrt().mul_(grad)
            weight.addcmul_(update, rate / self._excess(rms(update)), value=-1.0)
            return
        row = state["row_var"].lerp_(square.mean(-1).add_(self.SQUARE_EPS), fresh)
        column = state["col_var"].lerp_(square.mean(-2).add_(self.SQUARE_EPS), fresh)
        by_row = (row / row.mean(-1, keepdim=True)).rsqrt_()
        by_column = column.rsqrt()
        # the RMS of the update from existing squares: two products with vectors instead of two passes over a matrix
        length = by_row.square() * (square @ by_column.square().unsqueeze(-1)).squeeze(-1)
        rate = rate / self._excess((length.sum() / grad.numel()).sqrt())
        update = torch.mul(grad, by_row.unsqueeze(-1), out=square)
        weight.addcmul_(update, (by_column * rate).unsqueeze(-2), value=-1.0)

    def _excess(self, size: Tensor) -> Tensor:
        """Return the divisor of an update of this RMS."""
        return (size / self.THRESHOLD).clamp(min=1.0)


def rms(values: Tensor) -> Tensor:
    """Return the root of the mean square of a tensor, as a scalar tensor on its device."""
    out: Tensor = values.norm() / values.numel() ** 0.5
    return out
