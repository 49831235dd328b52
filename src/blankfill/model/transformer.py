"""The one Transformer: ids, positions and a mask in, hidden states out.

Every family runs through this file: words and position channels are summed, layers follow, and the result is handed to
heads that see the target columns only. A family with a context has a second stack that reads it first
(`model.encoder`). It knows nothing of objectives, of losses or of distribution.

Shapes: B rows, T columns, P position channels, D width, W columns of the embeddings: D, or fewer where a dense layer
makes D of them (ALBERT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from blankfill.attention.kernels import Kernel
from blankfill.attention.masks import Mask, Masks, in_order, lower, lower_cross, lower_local, within
from blankfill.attention.positions import PositionTerms
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import CrossAttention, Reading, kept_keys_values
from blankfill.model.dense import dense
from blankfill.model.embeddings import table
from blankfill.model.encoder import Encoder
from blankfill.model.heads import PairHead, WordHead
from blankfill.model.initial import draw_weights
from blankfill.model.layers import Attention, KeyValues, Layer, LayerCache, dropout
from blankfill.model.neighbours import start_with_neighbours
from blankfill.model.norms import norm
from blankfill.model.positions import (
    LearnedPositions,
    PositionScheme,
    RelativePositionBias,
    attention_scheme,
    terms_of,
)
from blankfill.model.span_head import SpanHead
from blankfill.model.stack import layer_kinds, layer_modules, run_layers
from blankfill.types import MEMORY, QUERY, Batch, LayerKind


class Transformer(nn.Module):
    """Embeddings, layers, heads; `config` says which."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.words = table(config.vocab_size, config.word_size)
        self.relative = config.position_scheme == "relative"
        self.positions = LearnedPositions(config)
        self.attention_scheme = attention_scheme(config)
        self.query = nn.Parameter(torch.empty(1, config.word_size)) if self.relative else None
        """What a query slot begins as, [1, W]: it knows a place and no word (XLNet)."""
        self.embedding_norm = norm(config, config.word_size) if config.embedding_norm else None
        self.widen = dense(config.embedding_size, config.hidden_size) if config.embedding_size else None
        answers = config.encoder_layers > 0
        self.encoder = Encoder(config) if answers else None
        self.position_bias = RelativePositionBias(config, both_ways=not answers) if config.relative_buckets else None
        self.layers = layer_modules(config, config.num_layers, cross=answers)
        self.kinds = layer_kinds(config, config.num_layers)
        self.final_norm = norm(config, config.hidden_size) if config.norm == "pre" else None
        self.head = WordHead(config)
        self.pair_head = PairHead(config) if config.pooler else None
        self.span_head = SpanHead(config) if config.max_span_positions else None
        self.recompute = False
        """Keep each layer's input only and compute the layer again on the way back (gradient checkpointing)."""

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Mask | Masks,
        cache: Sequence[KeyValues] | None = None,
        keep: list[Tensor] | None = None,
        context: Reading | None = None,
        words_BTW: Tensor | None = None,
        ordered: bool = False,
    ) -> Tensor:
        """Hidden states [B, T, D]. input_ids int64[B, T]; positions int64[P, B, T]; cache: one per layer, or None.

        keep: receives what goes into the first layer and what comes out of each, the final norm aside. context: what
        `read` made of the encoder's side, for a model that has one. words: the rows of the word table, where they have
        been looked up already. ordered: whether columns tell the distances of positions.
        """
        embedded_BTW = self.words(input_ids) if words_BTW is None else words_BTW
        memory_BT = None
        if self.query is not None:
            stream = positions[2]
            embedded_BTW = torch.where((stream == QUERY)[..., None], self.query.to(embedded_BTW.dtype), embedded_BTW)
            memory_BT = stream == MEMORY if bool((stream == MEMORY).any()) else None
        masks = self._masks_of(mask, positions, cache, embedded_BTW.dtype) if isinstance(mask, Mask) else mask
        terms = self.terms(positions, cache, ordered)
        embedded_BTW = self.positions.embed(embedded_BTW, positions)
        if self.embedding_norm is not None:
            embedded_BTW = self.embedding_norm(embedded_BTW)
        drop = self.config.dropout if self.training else 0.0
        embedded_BTW = dropout(embedded_BTW, drop)
        hidden_BTD = embedded_BTW if self.widen is None else self.widen(embedded_BTW)
        if keep is not None:
            keep.append(hidden_BTD)
        hidden_BTD = run_layers(
            self.layers, self.kinds, hidden_BTD, masks, terms, cache, context,
            self.recompute and self.training, memory_BT, keep,
        )  # fmt: skip
        if self.final_norm is not None:
            hidden_BTD = self.final_norm(hidden_BTD)
        return dropout(hidden_BTD, drop) if self.config.more_dropout else hidden_BTD

    def terms(
        self, positions: Tensor, cache: Sequence[KeyValues] | None = None, ordered: bool = False
    ) -> Mapping[LayerKind, PositionTerms]:
        """What positions do inside attention, for each kind of layers. positions int64[P, B, T], behind those of a
        cache."""
        in_stack = self.position_bias if cache is None else None
        schemes: list[PositionScheme] = [s for s in (self.attention_scheme, in_stack) if s is not None]
        terms = terms_of(schemes, positions, sorted(set(self.kinds)), ordered)
        if self.position_bias is None or cache is None:
            return terms
        bias = self.cached_bias(positions[0], cache)
        return {kind: replace(part, bias=bias) for kind, part in terms.items()}

    def cached_bias(self, position_BT: Tensor, cache: Sequence[KeyValues]) -> Tensor:
        """What is added to the scores of columns at these positions behind cached ones, [B, H, T, S + T]."""
        assert self.position_bias is not None
        first = cache[0]
        assert isinstance(first, LayerCache)
        if first.bias_table is None:
            first.bias_table = self.position_bias.bias_per_distance()
        return self.position_bias.lookup(first.bias_table, position_BT, first.append_positions(position_BT))

    def _masks_of(self, mask: Mask, positions: Tensor, cache: Sequence[KeyValues] | None, dtype: torch.dtype) -> Masks:
        if "local" not in self.kinds:
            return {"global": mask}
        if cache is not None:
            raise ValueError("layers that attend locally know no cache")
        return {"global": mask, "local": within(mask, positions[0], self.config.window, dtype)}

    def encode(
        self,
        batch: Batch,
        dtype: torch.dtype | None = None,
        keep: list[Tensor] | None = None,
        alone: bool = False,
    ) -> Tensor:
        """Hidden states of a batch, [B, T, D].

        dtype: the compute type, which a dense mask shares; None for that of the weights. keep: see above. alone: of a
        model of two stacks only the encoder reads the batch, which has no context.
        """
        ordered = self._ordered(batch)
        if alone and self.encoder is not None:
            mask, words_BTD = self._masks(batch, dtype, ordered)["global"], self.words(batch.input_ids)
            states_BTD: Tensor = self.encoder(words_BTD, batch.positions, mask, self.recompute, keep, ordered)
            return states_BTD
        masks = self._masks(batch, dtype, ordered)
        if batch.context is None:
            return self(batch.input_ids, batch.positions, masks, keep=keep, ordered=ordered)
        # one look into the word table for both sides, since each makes a gradient as large as the table
        sides = batch.context.input_ids, batch.input_ids
        read, written = self.words(torch.cat([ids.flatten() for ids in sides])).split([ids.numel() for ids in sides])
        context = self.read(batch.context, batch.segment, dtype, words_BSW=read.view(*sides[0].shape, -1))
        written = written.view(*sides[1].shape, -1)
        return self(
            batch.input_ids, batch.positions, masks, keep=keep, context=context, words_BTW=written, ordered=ordered
        )

    def read(
        self,
        context: Batch,
        segment_BT: Tensor | None = None,
        dtype: torch.dtype | None = None,
        keep: bool = False,
        words_BSW: Tensor | None = None,
    ) -> Reading:
        """Run the encoder over the contexts of a batch, for `forward`.

        segment_BT: the segments of the decoder's columns; None where each row is one text. keep: make the keys and
        values of all layers now, without gradient, for a decoder that runs many times. words: as in `forward`.
        """
        if self.encoder is None:
            raise ValueError("the batch has a context, and the model no encoder to read it")
        ordered = self._ordered(context)
        mask = self._masks(context, dtype, ordered)["global"]
        words_BSW = self.words(context.input_ids) if words_BSW is None else words_BSW
        hidden_BSD = self.encoder(words_BSW, context.positions, mask, self.recompute, ordered=ordered)
        if segment_BT is None:
            segment_BT = context.segment.new_zeros(len(context.segment), 1)
        seen = lower_cross(context.mask, segment_BT, context.segment, dtype or self.words.weight.dtype)
        parts = [part for part in self.modules() if isinstance(part, CrossAttention)] if keep else []
        return Reading(hidden_BSD, seen, kept_keys_values(parts, hidden_BSD) if keep else None)

    def _ordered(self, batch: Batch) -> bool:
        """Whether columns tell the distances of positions, for a model to which it makes a difference."""
        matters = self.config.relative_buckets or self.config.window
        return bool(matters) and in_order(batch.positions[0], batch.segment)

    def _masks(self, batch: Batch, dtype: torch.dtype | None, ordered: bool) -> Masks:
        """The mask of each kind of layers, made once for a batch."""
        dtype = dtype or self.words.weight.dtype
        groups = None if batch.group is None else (batch.group, batch.group)
        query, key = (batch.segment, batch.horizon), (batch.segment, batch.rank)
        masks: dict[LayerKind, Mask] = {"global": lower(batch.mask, query, key, dtype, groups)}
        window, width = self.config.window, batch.input_ids.shape[1]
        if "local" in self.kinds and ordered and width <= window + 1:
            masks["local"] = masks["global"]
        elif "local" in self.kinds:
            masks["local"] = lower_local(query, key, batch.positions[0], window, dtype, groups, ordered)
        return masks

    @property
    def output_table(self) -> Tensor:
        """The table that words are scored with, [V, W]: the word table, or the head's own where they are not tied."""
        return self.words.weight if self.head.table is None else self.head.table

    def use_kernel(self, kernel: Kernel) -> None:
        """Compute attention with this kernel from now on."""
        for module in self.modules():
            if isinstance(module, Attention | CrossAttention):
                module.kernel = kernel

    @property
    def all_layers(self) -> list[Layer]:
        """The layers of the encoder, where there is one, and of the main stack."""
        stacks = [*(self.encoder.layers if self.encoder is not None else ()), *self.layers]
        return [layer for layer in stacks if isinstance(layer, Layer)]

    def new_cache(self, rows: int, size: int) -> list[LayerCache]:
        """Empty caches for `size` columns of `rows` rows, one per layer."""
        return [LayerCache(rows, self.config, size, self.words.weight, k == 0) for k in range(len(self.kinds))]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights as the family's paper does. Biases start at 0, norms at 1."""
        draw_weights(self, self.config, generator)
        if self.config.neighbours:
            start_with_neighbours(self, self.config.neighbours)


def build(config: TransformerConfig, seed: int = 0, device: torch.device | str = "cpu") -> Transformer:
    """A freshly initialised model: laid out without memory, allocated once, drawn from its own generator."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device=device)
    model.initialise(torch.Generator(device).manual_seed(seed))
    return model


def word_tables(config: TransformerConfig) -> frozenset[str]:
    """The names of the weights that have a row for each word: those that another vocabulary gives another length."""
    with torch.device("meta"):
        models = [Transformer(replace(config, vocab_size=config.vocab_size + more)) for more in (0, 1)]
    sizes = [{name: weight.shape for name, weight in model.state_dict().items()} for model in models]
    return frozenset(name for name, shape in sizes[0].items() if sizes[1][name] != shape)


def count_parameters(config: TransformerConfig) -> int:
    """How many weights a configuration has, without allocating them; tied tables count once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())
