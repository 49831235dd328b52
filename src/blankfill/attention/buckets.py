"""Scores that depend on how far apart query and key stand, distances counted in buckets (T5, Raffel et al. 2020, §2.1).

Near distances have a bucket each, farther ones share buckets that grow with the logarithm of the distance, and all from
some distance on share the last. Logarithms are taken in float32, as the original code takes them
(tensorflow/mesh, transformer_layers.py), so that distances at a bucket's edge fall on the same side.

Shapes: B rows, Q queries, K keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def buckets_of(distances: Tensor, count: int, farthest: int, both_ways: bool) -> Tensor:
    """The bucket, 0 … count − 1, of distances (the key's place minus the query's), int64 of any shape.

    farthest: distances from here on share the last bucket. both_ways: keys behind the query have half of the buckets to
    themselves, the upper one; otherwise they count as distance 0.
    """
    if both_ways:
        count //= 2
        first, away = (distances > 0) * count, distances.abs()
    else:
        first, away = torch.zeros_like(distances), (-distances).clamp(min=0)
    exact = count // 2
    logarithm = torch.log(away.clamp(min=exact).float() / exact) / math.log(farthest / exact)
    far = exact + (logarithm * (count - exact)).long()
    return first + torch.where(away < exact, away, far.clamp(max=count - 1))


def lower_buckets(query_BQ: Tensor, key_BK: Tensor, count: int, farthest: int, both_ways: bool) -> Tensor:
    """The bucket of every pair of a batch, int64[B, Q, K], from the places of its queries and keys, int64 each."""
    distances = key_BK[:, None, :] - query_BQ[:, :, None]
    if torch.compiler.is_compiling():  # for an export, whose sizes are not known: no step may depend on values
        return buckets_of(distances, count, farthest, both_ways)
    most = int(distances.abs().max())
    told = torch.arange(-most, most + 1, device=distances.device)
    return buckets_of(told, count, farthest, both_ways)[distances + most]
