"""Faults in a step: numbers that are not finite, and a lack of memory.

A loss or gradient that is not finite is traced to the first module that produced it and to its rows, by running the
step again, slowly, with hooks. Nothing here runs in steps without a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blankfill.errors import UserError
from blankfill.training.loss import LossFunction, loss_sums
from blankfill.training.precision import computing
from blankfill.types import Batch

OnNan = Literal["stop", "skip", "rollback"]


class NonFiniteError(UserError):
    """A loss or a gradient was not finite in a step (0-based). The weights are those before the step."""

    def __init__(self, step: int, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[int, str]]:
        return (type(self), (self.step, self.template))


def finite(losses: dict[str, float], norm: float) -> bool:
    """Return whether the losses of a step and the norm of its gradient are finite."""
    return math.isfinite(norm) and all(math.isfinite(loss) for loss in losses.values())


def trace(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    rows: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    loss: LossFunction = loss_sums,
) -> str:
    """Describe where the first number that is not finite comes from, as part of a sentence.

    rows: numbers of the examples' rows, in the order of the batches.
    """
    bad = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if bad:
        return f"the weights of {bad[0]} are not finite before the step"
    before = 0
    for batch in micro_batches:
        module = first_bad_module(model, batch.to(device), dtype, loss)
        if module is not None:
            suspects = [
                rows[before + r]
                for r in range(len(batch.input_ids))
                if first_bad_module(model, batch.part(r, r + 1).to(device), dtype, loss) is not None
            ]
            named = suspects or list(rows[before : before + len(batch.input_ids)])
            return f"the first module at fault is {module}, with {in_words(named)}"
        before += len(batch.input_ids)
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    where = f"; the gradient of {bad[-1]} is the first at fault on the way back" if bad else ""
    return f"the forward pass is finite{where}, with {in_words(rows)}"


def first_bad_module(model: nn.Module, batch: Batch, dtype: torch.dtype, loss: LossFunction = loss_sums) -> str | None:
    """Return the name of the first module with an output that is not finite; "the loss" when only that is; else
    None."""
    modules: list[str] = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if not modules and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                modules.append(name)

        return look

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if not list(m.children())]
    try:
        with torch.no_grad(), computing(batch.input_ids.device, dtype):
            sums = loss(model, batch, dtype)
    finally:
        for handle in handles:
            handle.remove()
    if modules:
        return modules[0]
    return None if all(bool(loss.isfinite()) for loss in sums.values()) else "the loss"


def in_words(rows: Sequence[int]) -> str:
    """Describe row numbers in words: a range when they are consecutive, some of them otherwise."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return f"rows {rows[0]} to {rows[-1]}"
    return f"rows {', '.join(map(str, rows[:8]))}" + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
