"""The encoder of a model with two stacks (Vaswani et al. 2017; T5, BART).

It shares the token embeddings with the decoder and has its own position tables, norms, layers and table of distances.
Every layer of the decoder attends to its output.

Shapes: B rows, S columns, P position channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from blankfill.attention.masks import Mask, behind
from blankfill.attention.positions import terms_behind
from blankfill.model.config import TransformerConfig
from blankfill.model.layers import dropout
from blankfill.model.norms import norm
from blankfill.model.positions import LearnedPositions, RelativePositionBias, terms_of
from blankfill.model.stack import layer_kinds, layer_modules, run_layers


class Encoder(nn.Module):
    """Positions, layers and norms of the encoder."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout, self.more_dropout = config.dropout, config.more_dropout
        self.positions = LearnedPositions(config)
        self.embedding_norm = norm(config, config.hidden_size) if config.embedding_norm else None
        self.position_bias = RelativePositionBias(config, both_ways=True) if config.relative_buckets else None
        self.layers = layer_modules(config, config.encoder_layers)
        self.final_norm = norm(config, config.hidden_size) if config.norm == "pre" else None
        self.kinds = layer_kinds(config, config.encoder_layers)

    def forward(
        self,
        tokens_BSD: Tensor,
        positions: Tensor,
        mask: Mask,
        recompute: bool = False,
        outputs: list[Tensor] | None = None,
        ordered: bool = False,
        prefixes: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Compute the encoder's output, [B, S, D]. tokens: their embeddings; positions int64[P, B, S]; recompute: as in
        `model.stack`; outputs: receives the input of the first layer and the output of each layer; ordered: whether
        differences of columns equal differences of positions; prefixes: of each layer (`model.prefix`)."""
        drop = self.dropout if self.training else 0.0
        hidden_BSD = self.positions.embed(tokens_BSD, positions)
        if self.embedding_norm is not None:
            hidden_BSD = self.embedding_norm(hidden_BSD)
        hidden_BSD = dropout(hidden_BSD, drop)
        terms = terms_of([self.position_bias] if self.position_bias else [], positions, ("global",), ordered)
        if prefixes is not None:
            mask, terms = behind(mask, prefixes[0].shape[1]), terms_behind(terms, prefixes[0].shape[1])
        if outputs is not None:
            outputs.append(hidden_BSD)
        hidden_BSD = run_layers(
            self.layers, self.kinds, hidden_BSD, {"global": mask}, terms,
            recompute=recompute and self.training, outputs=outputs, prefixes=prefixes,
        )  # fmt: skip
        if self.final_norm is not None:
            hidden_BSD = self.final_norm(hidden_BSD)
        return dropout(hidden_BSD, drop) if self.more_dropout else hidden_BSD
