"""What goes into a model's forward pass and what comes out of it.

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
    """Columns whose mask is lowered already, in place of a `Batch`: steps of decoding, and exports.

    input_ids: int64[B, T]. positions: int64[P, B, T]. mask: of all layers, or of each kind. ordered: whether columns
    tell the distances of positions (`attention.masks.in_order`).
    """

    input_ids: Tensor
    positions: Tensor
    mask: Mask | Masks
    ordered: bool = False


@dataclass(frozen=True)
class Outputs:
    """Results of a forward pass.

    hidden: [B, T, D]. logits: scores of all tokens [M, V] at the columns in question, or [B, T, V] at all. read: what
    the function given as `read` returned. hidden_states: [B, T, D] of the first layer's input and of each layer's
    output, the final norm aside. encoded: the encoder's output, for a decoder.
    """

    hidden: Tensor
    logits: Tensor | None = None
    read: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    encoded: EncoderOutput | None = None
