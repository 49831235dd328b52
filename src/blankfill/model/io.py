"""Inputs and outputs of a model's forward pass.

Shapes: B rows, T columns, P position channels, D width, N = B·T, M columns whose scores are wanted, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blankfill.attention.masks import Mask, Masks
from blankfill.model.cross import EncoderOutput


@dataclass(frozen=True)
class Inputs:
    """Columns whose mask is lowered already, in place of a `Batch`: for steps of decoding and for exports.

    input_ids: int64[B, T]. positions: int64[P, B, T]. mask: one for all layers, or one for each kind. ordered: whether
    differences of columns equal differences of positions (`attention.masks.in_order`).
    """

    input_ids: Tensor
    positions: Tensor
    mask: Mask | Masks
    ordered: bool = False


@dataclass(frozen=True)
class Outputs:
    """Results of a forward pass.

    hidden: [B, T, D]. logits: scores of all tokens [M, V] at the requested columns, or [B, T, V] at all columns. read:
    the result of the function given as `read`. hidden_states: [B, T, D] of the first layer's input and of each layer's
    output, before the final norm. encoded: the encoder's output, for a decoder.
    """

    hidden: Tensor
    logits: Tensor | None = None
    read: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    encoded: EncoderOutput | None = None
