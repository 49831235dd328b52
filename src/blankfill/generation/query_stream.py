"""The query stream of a permutation model (XLNet): scores of tokens that are absent, at their positions.

The open positions of a row are left out of the text; behind the text stands one query column for each, which sees all
of the text and no other query column. So a blank of several tokens can be filled in any order, each fill read by the
next.

Shapes: N rows, T columns, M open places in all rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blankfill.model.transformer import Transformer
from blankfill.types import QUERY, Batch


def query_logits(model: Transformer, ids_NT: Tensor, open_NT: Tensor) -> Tensor:
    """Scores [M, V] of the open places, row by row. open_NT: bool, as many in each row; the rest is text that
    ends in [CLS], a segment of its own."""
    N, T = ids_NT.shape
    device = ids_NT.device
    count = int(open_NT[0].sum())
    # the text's columns, then the open places, each in their order
    place_NT = open_NT.to(torch.int8).argsort(dim=1, stable=True)
    segment_NT = torch.where(place_NT == T - 1, 2, 0)
    query_NT = (torch.arange(T, device=device) >= T - count).expand(N, T)
    positions = torch.stack([place_NT, segment_NT, query_NT * QUERY])
    zeros_NT, rank_NT = torch.zeros_like(place_NT), query_NT.to(torch.int64)
    batch = Batch.of_rows(ids_NT.gather(1, place_NT), positions, zeros_NT, rank_NT, zeros_NT)
    logits = model(batch, model.token_embeddings.weight.dtype, logits_at=query_NT.flatten().nonzero()[:, 0]).logits
    assert isinstance(logits, Tensor)
    return logits
