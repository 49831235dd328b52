"""Relative attention: scores that depend on distances (Transformer-XL, Dai et al. 2019; XLNet, Yang et al. 2019).

The score of a query for a key is the sum of three terms: their product, the product of the query with an encoding of
the distance between their positions, and a term for keys of another segment of the text. Distances are lowered once for
a batch and shared by all layers (`lower_distances`); `distance_scores` computes the bias of the scores from them.

Positions need not equal columns: the query columns of XLNet have the positions of their targets. So the scores of all
2·T − 1 distances are computed for each query, and the scores of the keys are gathered from them. Reading along the
diagonals instead (Transformer-XL's relative shift), with a gather for the query columns alone, was no faster on a CPU
(docs/log.md).

Shapes: B rows, H heads, Q queries, K keys, E width of a head, D width of an encoding, W distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BASE = 10_000.0
"""The slowest sine's wavelength is nearly 2π times this (Vaswani et al. 2017)."""


@dataclass(frozen=True)
class Distances:
    """encoding [W, D]: encodings of the distances from (W − 1) / 2 down to −(W − 1) / 2, position of the query minus
    that of the key. index: int64[B, Q, K], the row of `encoding` for each pair. other: bool[B, Q, K], whether the key
    is of another segment than the query; None when all are of one segment."""

    encoding: Tensor
    index: Tensor
    other: Tensor | None


def sines(distances: Tensor, width: int) -> Tensor:
    """Encode distances [W] → [W, D]: all sines, then all cosines."""
    exponents = torch.arange(0, width, 2, device=distances.device, dtype=torch.float32) / width
    angles = distances[:, None].float() / BASE**exponents
    return torch.cat([angles.sin(), angles.cos()], -1)


def lower_distances(places: Tensor, segments: Tensor, width: int, clamp: int = 0) -> Distances:
    """Lower the positions and segments of a batch, int64[B, T] each. clamp: the largest distance told apart; 0: no
    limit."""
    most = int(places.max())
    all_distances = torch.arange(most, -most - 1, -1, device=places.device)
    encoding = sines(all_distances.clamp(-clamp, clamp) if clamp else all_distances, width)
    other = segments[:, :, None] != segments[:, None, :]
    return Distances(encoding, most - places[:, :, None] + places[:, None, :], other if bool(other.any()) else None)


def distance_scores(query_BHQE: Tensor, key_HEW: Tensor, distances: Distances) -> Tensor:
    """Multiply each query with the encoding of its distance from each key; returns [B, H, Q, K], not scaled."""
    scores: Tensor = _Gather.apply(query_BHQE @ key_HEW, distances.index[:, None])  # type: ignore[no-untyped-call]
    return scores


class _Gather(torch.autograd.Function):
    """`gather` along the last dimension with one index for all heads; torch's own saves the whole input for its
    shape."""

    @staticmethod
    def forward(ctx: Any, all_BHQW: Tensor, index_B1QK: Tensor) -> Tensor:
        ctx.save_for_backward(index_B1QK)
        ctx.shape = all_BHQW.shape
        return all_BHQW.gather(-1, index_B1QK.expand(-1, all_BHQW.shape[1], -1, -1))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (index_B1QK,) = ctx.saved_tensors
        (grad_BHQK,) = upstream
        zeros = grad_BHQK.new_zeros(ctx.shape)
        return zeros.scatter_add_(-1, index_B1QK.expand(-1, ctx.shape[1], -1, -1), grad_BHQK), None
