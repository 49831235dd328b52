"""Losses of a batch: summed over targets, and divided by the caller by the number of targets of the global batch.

The losses are made by the heads inside the model (`model.heads`), the language-model loss like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blankfill.model.heads import LM, BatchLosses, counts, lm_head_loss
from blankfill.model.transformer import Transformer
from blankfill.types import Batch

LossSums = Mapping[str, Tensor]
"""Losses by name, each summed over its targets in a batch; a loss without targets is absent."""

LossFunction = Callable[[Any, Batch, torch.dtype], LossSums]
"""Runs a batch through a model and sums its losses; the type is the compute type in force."""

CountFunction = Callable[[Batch], dict[str, int]]
"""Number of targets of each kind in a batch, by the names of the losses."""

__all__ = ["CountFunction", "LossFunction", "LossSums", "counts", "loss_sums"]


def loss_sums(model: Transformer, batch: Batch, dtype: torch.dtype = torch.float32, z_loss: float = 0.0) -> LossSums:
    """Run a batch through a model and sum its losses.

    dtype: the compute type in force. z_loss: see `kernels.lm_loss`; it regularises training, so a model in evaluation
    mode is measured without it.
    """
    z_loss = z_loss if model.training else 0.0
    losses = BatchLosses(batch, {LM: partial(lm_head_loss, z_loss=z_loss)})
    prepare = {"prepare": losses.prepare} if losses.prepares else {}
    result: Mapping[str, Tensor] = model(batch, dtype, read=losses, **prepare).read
    return result
