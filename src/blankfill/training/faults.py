"""When a step goes wrong: numbers that are not finite, and memory that does not suffice.

A loss or gradient that is not finite is traced to the first module that made it and to the rows that it came from, by
running the step again, slowly, with hooks. Nothing here runs while all is well.
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
    """A loss or a gradient was not finite at a step (0-based). The weights are those before it."""

    def __init__(self, step: int, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step


def finite(losses: dict[str, float], norm: float) -> bool:
    """Whether the losses of a step and the norm of its gradient are."""
    return math.isfinite(norm) and all(math.isfinite(loss) for loss in losses.values())


def trace(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    rows: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    loss: LossFunction = loss_sums,
) -> str:
    """Where the first number that is not finite comes from, as part of a sentence.

    rows: the numbers of the examples' rows, in the order of the batches.
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
            return f"the first module at fault is {module}, with {told(named)}"
        before += len(batch.input_ids)
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    where = f"; the gradient of {bad[-1]} is the first at fault on the way back" if bad else ""
    return f"the forward pass is finite{where}, with {told(rows)}"


def first_bad_module(model: nn.Module, batch: Batch, dtype: torch.dtype, loss: LossFunction = loss_sums) -> str | None:
    """The name of the first module whose output for a batch is not finite; "the loss" when only that is; else None."""
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


def told(rows: Sequence[int]) -> str:
    """Row numbers in words: a range when they follow one another, a few of them otherwise."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return f"rows {rows[0]} to {rows[-1]}"
    return f"rows {', '.join(map(str, rows[:8]))}" + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
