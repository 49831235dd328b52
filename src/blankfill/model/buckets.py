"""The table of what distances are worth, shared by all layers of a stack (T5, Raffel et al. 2020, §2.1).

Shapes: B rows (1 where all have the same places), H heads, Q queries, K keys, W buckets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.buckets import buckets_of, lower_buckets
from blankfill.attention.kernels import Mask
from blankfill.model.config import TransformerConfig


class DistanceTable(nn.Module):
    """A number for each bucket and head. both_ways: whether keys behind the query have buckets of their own."""

    def __init__(self, config: TransformerConfig, both_ways: bool) -> None:
        super().__init__()
        self.farthest, self.both_ways = config.relative_distance, both_ways
        self.weight = nn.Parameter(torch.empty(config.relative_buckets, config.num_heads))
        """[W, H]."""

    def forward(self, query_BQ: Tensor, key_BK: Tensor) -> Tensor:
        """What is added to the scores of queries at these places for keys at those, [B, H, Q, K], with gradient."""
        index_BQK = lower_buckets(query_BQ, key_BK, len(self.weight), self.farthest, self.both_ways)
        return F.embedding(index_BQK, self.weight).permute(0, 3, 1, 2).contiguous()

    def of_each(self) -> Tensor:
        """What distances are worth, from −`farthest` to `farthest`, farther ones as those; [2 · farthest + 1, H]."""
        far = self.farthest
        told = torch.arange(-far, far + 1, device=self.weight.device)
        return F.embedding(buckets_of(told, len(self.weight), far, self.both_ways), self.weight)

    def looked_up(self, worth: Tensor, query_BQ: Tensor, key_BK: Tensor) -> Tensor:
        """As `forward`, from what `of_each` made before: for few queries at a time."""
        index_BQK = key_BK[:, None, :] - query_BQ[:, :, None]
        index_BQK.clamp_(-self.farthest, self.farthest).add_(self.farthest)
        return F.embedding(index_BQK, worth).permute(0, 3, 1, 2).contiguous()

    def of(self, places_BT: Tensor, mask: Mask) -> Tensor:
        """The same for columns that attend to one another, [B or 1, H, T, T]."""
        if mask.in_order:
            places_BT = torch.arange(places_BT.shape[1], device=places_BT.device)[None]
        return self(places_BT, places_BT)
