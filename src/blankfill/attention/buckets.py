"""T5's relative position bias: scores that depend on the distance of query and key (Raffel et al. 2020, §2.1).

Small distances have a bucket each; larger distances share buckets whose width grows logarithmically; all distances from
`farthest` on share the last bucket. Logarithms are computed in float32, as in the original code (tensorflow/mesh,
transformer_layers.py), so that a distance at the edge of a bucket falls on the same side.

Shapes: B rows, Q queries, K keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def buckets_of(distances: Tensor, count: int, farthest: int, both_ways: bool) -> Tensor:
    """Return the bucket, 0 … count − 1, of each distance (position of the key minus that of the query); int64, any
    shape.

    farthest: the smallest distance that falls into the last bucket. both_ways: whether keys after the query have the
    upper half of the buckets to themselves; otherwise such keys count as distance 0.
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
    """Return the bucket of every pair of a batch, int64[B, Q, K], from the positions of its queries and keys
    (int64)."""
    distances = key_BK[:, None, :] - query_BQ[:, :, None]
    if torch.compiler.is_compiling():  # for an export, whose sizes are not known: no step may depend on values
        return buckets_of(distances, count, farthest, both_ways)
    most = int(distances.abs().max())
    distances_of_table = torch.arange(-most, most + 1, device=distances.device)
    return buckets_of(distances_of_table, count, farthest, both_ways)[distances + most]
