"""Loss scaling for fp16: keeps small gradients above fp16's smallest number, and skips the steps that overflow.

fp32 and bf16 need none and pay nothing: `LossScaler` passes everything through. fp16 gets `DynamicLossScaler`
(Micikevicius et al. 2018, arXiv:1710.03740): the loss is multiplied by a scale that halves whenever a gradient is not
finite and doubles after 2,000 finite steps in a row. What a skipped step leaves out is the optimiser's update alone;
rows and learning rate stay functions of the step.

A step of the loop: `scale(loss).backward()` for each micro-batch, `unscale_and_check`, clip, `step`. A loss or gradient
that no smaller scale would mend is not told here; the loop finds it as it does without scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blankfill.system.reading import field


class LossScaler:
    """The steps of an optimiser without any scaling, as fp32 and bf16 take them."""

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to take the gradient of."""
        return loss

    def unscale_and_check(self, optimizer: torch.optim.Optimizer) -> bool:
        """Bring the gradients back to their size, once a step and before clipping.

        False when one has overflowed and a smaller scale may mend that, so that `step` is going to skip.
        """
        return True

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser step, unless a gradient has overflowed; a loop that drops the step need not call this."""
        optimizer.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint notes, as JSON values; `scale` among them if there is one."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a noted state; an empty one, of a run without scaling, changes nothing."""


class DynamicLossScaler(LossScaler):
    """torch's GradScaler behind the loop's calls, for fp16.

    device: type of the device, "cpu" or "cuda". growth_interval: finite steps in a row after which the scale doubles.
    """

    SMALLEST = 1.0
    """The scale at which a gradient that is not finite is no longer the scale's fault."""

    def __init__(self, device: str, init_scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self._scaler = torch.amp.GradScaler(device, init_scale, growth_interval=growth_interval)
        self._unscaled = self._finite = False

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        return self._scaler.scale(loss)

    def unscale_and_check(self, optimizer: torch.optim.Optimizer) -> bool:
        """Divide the gradients by the scale, in place; False when a smaller scale may mend what is not finite."""
        if self._unscaled:  # the step before was dropped; GradScaler refuses a second look without an update
            self._scaler.update(self._scaler.get_scale())
        self._scaler.unscale_(optimizer)
        self._unscaled = True
        self._finite = not any(self._scaler._found_inf_per_device(optimizer).values())
        return self._finite or self._scaler.get_scale() <= self.SMALLEST

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser step if the gradients are finite, and move the scale."""
        if self._finite:
            optimizer.step()
        self._scaler.update()
        self._unscaled = False

    def state(self) -> dict[str, Any]:
        """The scale, how many finite steps it has held for, and what moves it."""
        return self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a noted state; an empty one, of a run without scaling, changes nothing.

        Raises UserError when it is none.
        """
        if not state:
            return
        known = self._scaler.state_dict()
        noted = {name: field(state, name, type(value), "the loss scaler's state") for name, value in known.items()}
        self._scaler.load_state_dict(noted)


def loss_scaler(device: torch.device, dtype: torch.dtype) -> LossScaler:
    """The scaler for a compute type: dynamic for fp16, none for the others."""
    return DynamicLossScaler(device.type) if dtype == torch.float16 else LossScaler()
