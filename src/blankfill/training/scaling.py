"""Loss scaling for fp16: it keeps small gradients above the smallest fp16 number, and skips steps that overflow.

fp32 and bf16 need no scaling: `LossScaler` passes everything through. fp16 uses `DynamicLossScaler` (Micikevicius et
al. 2018, arXiv:1710.03740): the loss is multiplied by a scale that halves when a gradient is not finite and doubles
after 2,000 consecutive finite steps. A skipped step leaves out only the optimiser's update; rows and learning rate stay
functions of the step.

A step of the loop calls `scale(loss).backward()` for each micro-batch, `unscale_and_check`, clipping, and `step`. The
loop itself detects losses and gradients that no smaller scale would make finite, as it does without scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blankfill.system.reading import field


class LossScaler:
    """The steps of an optimiser without scaling, for fp32 and bf16."""

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss for the backward pass."""
        return loss

    def unscale_and_check(self, optimizer: torch.optim.Optimizer) -> bool:
        """Unscale the gradients, once in a step and before clipping.

        Returns False when a gradient has overflowed and a smaller scale may help, so that `step` will skip.
        """
        return True

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Run the optimiser unless a gradient has overflowed; a loop that drops the step need not call this method."""
        optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return JSON values for a checkpoint, with `scale` if there is one."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a stored state; an empty state, of a run without scaling, changes nothing."""


class DynamicLossScaler(LossScaler):
    """torch's GradScaler with the interface of `LossScaler`, for fp16.

    device: type of the device, "cpu" or "cuda". growth_interval: consecutive finite steps after which the scale
    doubles.
    """

    SMALLEST = 1.0
    """Smallest scale; below it the scale is not the cause of gradients that are not finite."""

    def __init__(self, device: str, init_scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self._scaler = torch.amp.GradScaler(device, init_scale, growth_interval=growth_interval)
        self._unscaled = self._finite = False

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale."""
        return self._scaler.scale(loss)

    def unscale_and_check(self, optimizer: torch.optim.Optimizer) -> bool:
        """Divide the gradients by the scale, in place; returns False when a smaller scale may make them finite."""
        if self._unscaled:  # the last step was dropped; GradScaler refuses a second check without an update
            self._scaler.update(self._scaler.get_scale())
        self._scaler.unscale_(optimizer)
        self._unscaled = True
        self._finite = not any(self._scaler._found_inf_per_device(optimizer).values())
        return self._finite or self._scaler.get_scale() <= self.SMALLEST

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Run the optimiser if the gradients are finite, and update the scale."""
        if self._finite:
            optimizer.step()
        self._scaler.update()
        self._unscaled = False

    def state(self) -> dict[str, Any]:
        """Return the scale, its number of finite steps, and the settings that change it."""
        return self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a stored state; an empty state, of a run without scaling, changes nothing.

        Raises UserError for anything else.
        """
        if not state:
            return
        known = self._scaler.state_dict()
        noted = {name: field(state, name, type(value), "the loss scaler's state") for name, value in known.items()}
        self._scaler.load_state_dict(noted)


def loss_scaler(device: torch.device, dtype: torch.dtype) -> LossScaler:
    """Return the scaler of a compute type: dynamic for fp16, a pass-through for the others."""
    return DynamicLossScaler(device.type) if dtype == torch.float16 else LossScaler()
