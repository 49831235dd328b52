"""The bias of the scores in a model with relative positions (Dai et al. 2019; Yang et al. 2019, §2.2, §2.5).

    score(i, j) = [(q + u)·k + (q + v)·R(i − j) + (q + w)·s(same segment or not)] / √E

u, v, w are learnt for each head of each layer, R is a projection of the distance's sines and cosines, and s one of two
learnt vectors. There are no position tables, so a row may be longer than those that were trained on.

Shapes: B rows, H heads, Q queries, K keys, E width of a head, D width, W distances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.attention.relative import Distances, distance_scores
from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense


class TransformerXLAttention(nn.Module):
    """The weights of relative attention in one layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        shape = (config.num_heads, config.hidden_size // config.num_heads)
        self.content_bias = nn.Parameter(torch.empty(shape))
        """u, [H, E]."""
        self.distance_bias = nn.Parameter(torch.empty(shape))
        """v, [H, E]."""
        self.segment_bias = nn.Parameter(torch.empty(shape))
        """w, [H, E]."""
        self.segments = nn.Parameter(torch.empty(2, *shape))
        """[2, H, E]: for keys of the query's segment, and of another segment."""
        self.distance = dense(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, query_BHQE: Tensor, distances: Distances) -> tuple[Tensor, Tensor]:
        """Return the queries for the product with the keys, and the bias of the scaled scores, [B, H, Q, K]."""
        H, E = self.content_bias.shape
        key_HEW = self.distance(distances.encoding.to(query_BHQE.dtype)).view(-1, H, E).permute(1, 2, 0)
        added = distance_scores(query_BHQE + self.distance_bias[:, None], key_HEW, distances)
        if distances.other is not None:
            # a constant over all keys of a query does not change the softmax, so the difference of the two vectors
            # suffices
            apart_HE = self.segments[1] - self.segments[0]
            apart_BHQ = ((query_BHQE + self.segment_bias[:, None]) * apart_HE[:, None]).sum(-1)
            added = added + apart_BHQ[..., None] * distances.other[:, None]
        return query_BHQE + self.content_bias[:, None], added * E**-0.5
