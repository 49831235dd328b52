"""The stack that reads the context of a model of two stacks (Vaswani et al. 2017; T5, BART).

It shares its word table with the decoder and has all else of its own: position tables, norms, layers, the table of
distances. Its output is what every layer of the decoder attends to.

Shapes: B rows, S columns, P position channels, D width.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blankfill.attention.kernels import Mask
from blankfill.model.buckets import DistanceTable
from blankfill.model.config import TransformerConfig
from blankfill.model.embeddings import position_tables, summed
from blankfill.model.layers import Layer, dropout
from blankfill.model.norms import norm


class Encoder(nn.Module):
    """Positions, layers and norms of the stack that reads."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout, self.more_dropout = config.dropout, config.more_dropout
        self.positions = position_tables(config)
        self.embedding_norm = norm(config, config.hidden_size) if config.embedding_norm else None
        self.distances = DistanceTable(config, both_ways=True) if config.relative_buckets else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.final_norm = norm(config, config.hidden_size) if config.norm == "pre" else None

    def forward(
        self,
        words_BSD: Tensor,
        positions: Tensor,
        mask: Mask,
        recompute: bool = False,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """The context as the decoder sees it, [B, S, D]. words: of the shared table; positions int64[P, B, S];
        recompute: compute layers again on the way back; keep: as in `Transformer.forward`."""
        drop = self.dropout if self.training else 0.0
        hidden_BSD = summed(words_BSD, self.positions, positions)
        if self.embedding_norm is not None:
            hidden_BSD = self.embedding_norm(hidden_BSD)
        hidden_BSD = dropout(hidden_BSD, drop)
        if self.distances is not None:
            mask = replace(mask, added=self.distances.of(positions[0], mask))
        if keep is not None:
            keep.append(hidden_BSD)
        for layer in self.layers:
            if recompute and self.training:
                hidden_BSD = checkpoint(layer, hidden_BSD, mask, use_reentrant=False)
            else:
                hidden_BSD = layer(hidden_BSD, mask)
            if keep is not None:
                keep.append(hidden_BSD)
        if self.final_norm is not None:
            hidden_BSD = self.final_norm(hidden_BSD)
        return dropout(hidden_BSD, drop) if self.more_dropout else hidden_BSD
