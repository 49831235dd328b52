"""Scores that depend on how far apart query and key stand (Transformer-XL, Dai et al. 2019; XLNet, Yang et al. 2019).

A query's score for a key is, beside their product, the product of the query with an encoding of the distance between
their places, and a number for keys of another segment of the text. Distances are lowered once for a batch and shared by
all layers (`lower_distances`); `distance_scores` makes of them what is added to the scores before the softmax.

Places need not be columns: XLNet's query slots stand at the places of their targets. So the scores of all distances are
computed, 2·T − 1 of them for each query, and those of the keys are gathered. Reading along the diagonals instead
(Transformer-XL's relative shift) and gathering the slots alone was no faster on a CPU (docs/log.md).

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
    """encoding [W, D]: of the distances from (W − 1) / 2 down to its negative, query's place minus key's. index:
    int64[B, Q, K], its row for each pair. other: bool[B, Q, K], which keys are of another segment than the query; None
    when all are of one."""

    encoding: Tensor
    index: Tensor
    other: Tensor | None


def sines(distances: Tensor, width: int) -> Tensor:
    """The encoding of distances [W] → [W, D]: all sines, then all cosines."""
    exponents = torch.arange(0, width, 2, device=distances.device, dtype=torch.float32) / width
    angles = distances[:, None].float() / BASE**exponents
    return torch.cat([angles.sin(), angles.cos()], -1)


def lower_distances(places: Tensor, segments: Tensor, width: int, clamp: int = 0) -> Distances:
    """Lower the places and segments of a batch, int64[B, T] each. clamp: the farthest distance told apart, 0: all."""
    most = int(places.max())
    told = torch.arange(most, -most - 1, -1, device=places.device)
    encoding = sines(told.clamp(-clamp, clamp) if clamp else told, width)
    other = segments[:, :, None] != segments[:, None, :]
    return Distances(encoding, most - places[:, :, None] + places[:, None, :], other if bool(other.any()) else None)


def distance_scores(query_BHQE: Tensor, key_HEW: Tensor, distances: Distances) -> Tensor:
    """The product of each query with the encoding of its distance from each key, [B, H, Q, K], not scaled."""
    found: Tensor = _Gather.apply(query_BHQE @ key_HEW, distances.index[:, None])
    return found


class _Gather(torch.autograd.Function):
    """`gather` along the last dimension, for all heads the same; torch's own keeps the whole table for its shape."""

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
