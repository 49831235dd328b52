"""Position terms inside attention: rotations of queries and keys, and biases of the scores by distance.

`PositionTerms` holds the tensors of one batch, computed once and shared by all layers of a kind; the position scheme of
the model decides which of them exist (`model.positions`).

Rotary positions (Su et al. 2021, arXiv 2104.09864) rotate pairs of columns of each query and key by the position times
a frequency, so that a score depends only on the difference of two positions. Pairs are half-split: column j and column
j + P form a pair. With several axes (ChatGLM: two) a head is split into as many parts, each rotated by its own
position.

Shapes: B rows, T columns, H heads, E width of a head, A axes, P pairs of columns of an axis (A · 2 · P = E).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.attention.relative import Distances
from blankfill.types import LayerKind, RotaryRounding

PORTION, PORTIONS = 1 << 17, 32
"""Numbers of queries and keys that are rotated at a time, and the largest number of such portions: in wide models the
rotation is a small part of the work, and each portion takes time of its own, also where `plan` only counts memory."""


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles of a batch, fp32 [B, T, A, P] each."""

    cosine: Tensor
    sine: Tensor

    @classmethod
    def of(cls, positions_ABT: Tensor, width: int, theta: float, rounding: RotaryRounding = "none") -> Rotation:
        """Compute the rotation of a batch. positions: one channel for each axis, int64. width: E. theta: base of the
        frequencies; the slowest pair turns by about 1 / theta radians per position. rounding: what is rounded to fp16,
        as in ChatGLM-6B: nothing, the frequencies, or also positions and angles, their products."""
        axes = len(positions_ABT)
        pairs = width // (2 * axes)
        exponents = torch.arange(pairs, device=positions_ABT.device, dtype=torch.float32) / pairs
        frequencies, positions = 1.0 / theta**exponents, positions_ABT.movedim(0, -1)[..., None].float()
        if rounding != "none":
            frequencies = frequencies.half().float()
        if rounding == "angles":
            angles = (positions.half().float() * frequencies).half().float()
        else:
            angles = positions * frequencies
        return cls(angles.cos(), angles.sin())

    def rotate(self, x_BTHE: Tensor) -> Tensor:
        """Rotate queries or keys. x: [B, T, …, E], with any dimensions of heads between."""
        B, T, *heads, _ = x_BTHE.shape
        cosine, sine = (part.view(B, T, *[1] * len(heads), *part.shape[2:]) for part in (self.cosine, self.sine))
        first, second = x_BTHE.unflatten(-1, (cosine.shape[-2], 2, cosine.shape[-1])).unbind(-2)
        rotated = torch.stack([first * cosine - second * sine, second * cosine + first * sine], -2)
        return rotated.to(x_BTHE.dtype).flatten(-3)

    def rotate_packed(self, qkv_BT3HE: Tensor) -> Tensor:
        """Rotate the queries and keys of a joint projection; its values stay as they are."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            rotated: Tensor = torch.cat([self.rotate(qkv_BT3HE[:, :, :2]), qkv_BT3HE[:, :, 2:]], 2)
        else:
            rotated = _RotatePacked.apply(qkv_BT3HE, self.cosine, self.sine)  # type: ignore[no-untyped-call]
        return rotated


@dataclass(frozen=True)
class PositionTerms:
    """The position terms of one batch for the layers of a kind.

    rotation: rotation of queries and keys. bias: [B or 1, H, Q, K], with gradient, added to the scores (T5's buckets).
    distances: distances between queries and keys, for layers with weights for them (Transformer-XL).
    """

    rotation: Rotation | None = None
    bias: Tensor | None = None
    distances: Distances | None = None


NO_TERMS = PositionTerms()
"""The terms of a model whose positions are in the embeddings, or that has none."""


def terms_behind(terms: Mapping[LayerKind, PositionTerms], columns: int) -> dict[LayerKind, PositionTerms]:
    """Return the terms of the same queries when this number of columns without positions comes before the keys."""
    return {
        kind: part if part.bias is None else replace(part, bias=F.pad(part.bias, (columns, 0)))
        for kind, part in terms.items()
    }


def _rotate_into(out: Tensor, x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Write the rotation of x [B, T, 2, H, E] to `out`; cosine and sine [B, T, 1, 1, A, P]."""
    shape = (cosine.shape[-2], 2, cosine.shape[-1])
    first, second = x.unflatten(-1, shape).unbind(-2)
    into_first, into_second = out.unflatten(-1, shape).unbind(-2)
    if x.dtype == cosine.dtype:
        torch.mul(first, cosine, out=into_first).addcmul_(second, sine, value=-1)
        torch.mul(second, cosine, out=into_second).addcmul_(first, sine)
    else:
        into_first.copy_(first * cosine - second * sine)
        into_second.copy_(second * cosine + first * sine)


def _rotated_packed(qkv_BT3HE: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return queries and keys rotated and values copied; on a CPU some columns at a time, which stay in its cache."""
    B, T, _, H, E = qkv_BT3HE.shape
    columns = max(1, PORTION // (B * 2 * H * E), -(-T // PORTIONS)) if qkv_BT3HE.device.type == "cpu" else T
    out = torch.empty_like(qkv_BT3HE)
    for start in range(0, T, columns):
        at = slice(start, start + columns)
        _rotate_into(out[:, at, :2], qkv_BT3HE[:, at, :2], cosine[:, at], sine[:, at])
        out[:, at, 2] = qkv_BT3HE[:, at, 2]
    return out


class _RotatePacked(torch.autograd.Function):
    """The rotation as one operation: it writes into one new tensor and saves only the angles."""

    @staticmethod
    def forward(ctx: Any, qkv_BT3HE: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        cosine, sine = cosine[:, :, None, None], sine[:, :, None, None]
        ctx.save_for_backward(cosine, sine)
        return _rotated_packed(qkv_BT3HE, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return _rotated_packed(upstream[0], cosine, -sine), None, None
