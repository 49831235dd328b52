"""SpanBERT's second head: it predicts a masked token from the two tokens outside its span and its position inside it.

K targets, D width, W columns of the table of output embeddings, V vocabulary. As released (facebookresearch/SpanBERT,
pair_bert.py): two dense layers with activation and norm each, then the output table with a bias of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.kernels.lm_loss import lm_loss
from blankfill.model.config import PLACE_SIZE, TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.layers import activate
from blankfill.model.quantized import OutputTable, table_scores


class SpanBoundaryHead(nn.Module):
    """[left; right; position] → scores, or the loss."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.places = nn.Embedding(
            config.max_span_positions, PLACE_SIZE, _weight=torch.empty(config.max_span_positions, PLACE_SIZE)
        )
        self.first = dense(2 * config.hidden_size + PLACE_SIZE, config.hidden_size)
        self.first_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.second = dense(config.hidden_size, config.word_size)
        self.second_norm = nn.LayerNorm(config.word_size, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, left_KD: Tensor, right_KD: Tensor, place_K: Tensor, table_VW: OutputTable, target_K: Tensor | None = None
    ) -> Tensor:
        """Return scores [K, V], or with targets the summed cross-entropy."""
        joined = torch.cat([left_KD, right_KD, self.places(place_K)], -1)
        hidden_KD = self.first_norm(activate(self.first(joined), self.activation))
        made_KW = self.second_norm(activate(self.second(hidden_KD), self.activation))
        if target_K is None:
            return table_scores(made_KW, table_VW, self.bias)
        return lm_loss(made_KW, table_VW, self.bias, target_K)
