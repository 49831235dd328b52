"""The one Transformer: ids, positions and a mask in, hidden states out.

Every family runs through this file: words and position channels are summed, layers follow, and the result is handed to
heads that see the target columns only. It knows nothing of objectives, of losses or of distribution.

Shapes: B rows, T columns, P position channels, D width, W columns of the embeddings: D, or fewer where a dense layer
makes D of them (ALBERT).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blankfill.attention.kernels import Kernel, Mask, lower
from blankfill.attention.relative import lower_distances
from blankfill.model.config import TransformerConfig
from blankfill.model.heads import PairHead, WordHead
from blankfill.model.layers import Layer, LayerCache, dropout
from blankfill.model.neighbours import start_with_neighbours
from blankfill.model.relative import RelativeTerms
from blankfill.model.span_head import SpanHead
from blankfill.types import MEMORY, QUERY, Batch


class Transformer(nn.Module):
    """Embeddings, layers, heads; `config` says which."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.words = _table(config.vocab_size, config.word_size)
        self.relative = config.position_scheme == "relative"
        tables = () if self.relative else config.position_sizes
        self.positions = nn.ModuleList(_table(size, config.word_size) for size in tables)
        self.query = nn.Parameter(torch.empty(1, config.word_size)) if self.relative else None
        """What a query slot begins as, [1, W]: it knows a place and no word (XLNet)."""
        self.embedding_norm = nn.LayerNorm(config.word_size, config.norm_eps) if config.embedding_norm else None
        self.widen = nn.Linear(config.embedding_size, config.hidden_size) if config.embedding_size else None
        first = Layer(config)
        self.layers = nn.ModuleList([first, *(Layer(config, first) for _ in range(config.num_layers - 1))])
        self.final_norm = nn.LayerNorm(config.hidden_size, config.norm_eps) if config.norm == "pre" else None
        self.head = WordHead(config)
        self.pair_head = PairHead(config) if config.pooler else None
        self.span_head = SpanHead(config) if config.span_places else None
        self.recompute = False
        """Keep each layer's input only and compute the layer again on the way back (gradient checkpointing)."""

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Mask,
        cache: list[LayerCache] | None = None,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D]. input_ids int64[B, T]; positions int64[P, B, T]; cache: one per layer, or None.

        keep: receives what goes into the first layer and what comes out of each, the final norm aside.
        """
        embedded_BTW = self.words(input_ids)
        memory_BT = None
        if self.query is not None:
            place, segment, stream = positions
            embedded_BTW = torch.where((stream == QUERY)[..., None], self.query.to(embedded_BTW.dtype), embedded_BTW)
            memory_BT = stream == MEMORY if bool((stream == MEMORY).any()) else None
            distances = lower_distances(place, segment, self.config.hidden_size, self.config.clamp)
            mask = replace(mask, distances=distances)
        for table, channel in zip(self.positions, () if self.relative else positions, strict=True):
            embedded_BTW = embedded_BTW + table(channel)
        if self.embedding_norm is not None:
            embedded_BTW = self.embedding_norm(embedded_BTW)
        embedded_BTW = dropout(embedded_BTW, self.config.dropout if self.training else 0.0)
        hidden_BTD = embedded_BTW if self.widen is None else self.widen(embedded_BTW)
        if keep is not None:
            keep.append(hidden_BTD)
        for k, layer in enumerate(self.layers):
            if memory_BT is not None:  # what is remembered is read at every layer, and learns nothing by it
                hidden_BTD = torch.where(memory_BT[..., None], hidden_BTD.detach(), hidden_BTD)
            if self.recompute and self.training:
                hidden_BTD = checkpoint(layer, hidden_BTD, mask, use_reentrant=False)
            else:
                hidden_BTD = layer(hidden_BTD, mask, cache[k] if cache is not None else None)
            if keep is not None:
                keep.append(hidden_BTD)
        return self.final_norm(hidden_BTD) if self.final_norm is not None else hidden_BTD

    def encode(self, batch: Batch, dtype: torch.dtype = torch.float32, keep: list[Tensor] | None = None) -> Tensor:
        """Hidden states of a batch, [B, T, D]. dtype: the compute type, which a dense mask shares; keep: see above."""
        groups = None if batch.group is None else (batch.group, batch.group)
        mask = lower(batch.mask, (batch.segment, batch.horizon), (batch.segment, batch.rank), dtype, groups)
        return self(batch.input_ids, batch.positions, mask, keep=keep)

    @property
    def output_table(self) -> Tensor:
        """The table that words are scored with, [V, W]: the word table, or the head's own where they are not tied."""
        return self.words.weight if self.head.table is None else self.head.table

    def use_kernel(self, kernel: Kernel) -> None:
        """Compute attention with this kernel from now on."""
        for module in self.layers:
            assert isinstance(module, Layer)
            module.attention.kernel = kernel

    def new_cache(self, rows: int, size: int) -> list[LayerCache]:
        """Empty caches for `size` columns of `rows` rows, one per layer."""
        return [LayerCache(rows, self.config, size, self.words.weight) for _ in self.layers]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights as the family's paper does. Biases start at 0, norms at 1."""
        config = self.config
        residual = config.init_std / math.sqrt(2 * config.num_layers) if config.scaled_init else config.init_std
        for name, module in self.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()
            elif isinstance(module, nn.Linear):
                is_residual = name.endswith(("attention.output", "ffn.output"))
                _draw(module.weight, residual if is_residual else config.init_std, config, generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, RelativeTerms):
                for parameter in module.parameters(recurse=False):
                    _draw(parameter, config.init_std, config, generator)
            elif isinstance(module, nn.Embedding):
                std = config.position_std if name.startswith("positions") else config.init_std
                _draw(module.weight, std, config, generator)
        if self.head.bias is not None:
            self.head.bias.zero_()
        if self.span_head is not None:
            self.span_head.bias.zero_()
        if self.head.table is not None:
            _draw(self.head.table, config.init_std, config, generator)
        if self.query is not None:
            _draw(self.query, config.init_std, config, generator)
        if config.neighbours:
            start_with_neighbours(self, config.neighbours)


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding without torch's own initialisation, which on the meta device takes a second for its imports."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def _draw(weight: Tensor, std: float, config: TransformerConfig, generator: torch.Generator) -> None:
    weight.normal_(std=std, generator=generator)
    if config.init != "truncated_normal":
        return
    flat = weight.view(-1)
    outside = (flat.abs() > 2 * std).nonzero().squeeze(1)
    while len(outside):  # several times as fast as torch's trunc_normal_, which inverts the error function everywhere
        flat[outside] = torch.empty(len(outside), device=flat.device).normal_(std=std, generator=generator)
        outside = outside[flat[outside].abs() > 2 * std]


def build(config: TransformerConfig, seed: int = 0, device: torch.device | str = "cpu") -> Transformer:
    """A freshly initialised model: laid out without memory, allocated once, drawn from its own generator."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device=device)
    model.initialise(torch.Generator(device).manual_seed(seed))
    return model


def count_parameters(config: TransformerConfig) -> int:
    """How many weights a configuration has, without allocating them; tied tables count once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())
