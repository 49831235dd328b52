"""The Transformer of all families: from ids, positions and a mask to hidden states.

Token embeddings and position channels are summed and pass through the layers; heads then read the target columns. A
family with a context has a second stack for it, the encoder (`model.encoder`). This module does not depend on
objectives, losses or distribution.

Shapes: B rows, T columns, P position channels, D width, W columns of the embeddings: D, or fewer where a dense layer
makes D of them (ALBERT).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blankfill.attention.kernels import Kernel
from blankfill.attention.masks import Mask, Masks, behind, in_order, lower, lower_cross, lower_local, within
from blankfill.attention.positions import PositionTerms, terms_behind
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import CrossAttention, EncoderOutput, all_keys_values
from blankfill.model.dense import dense
from blankfill.model.embeddings import TokenEmbeddings, token_table
from blankfill.model.encoder import Encoder
from blankfill.model.heads import LMHead, Pooler, extra_heads
from blankfill.model.initial import draw_weights, initial_rules
from blankfill.model.io import Inputs, Outputs
from blankfill.model.layers import NO_POSITION, Attention, KeyValues, Layer, LayerCache, PositionedKeyValues, dropout
from blankfill.model.norms import norm
from blankfill.model.positions import (
    LearnedPositions,
    PositionScheme,
    RelativePositionBias,
    attention_scheme,
    terms_of,
)
from blankfill.model.prefix import PrefixEncoder, cached_form
from blankfill.model.quantized import OutputTable, QuantizedTable
from blankfill.model.span_boundary_head import SpanBoundaryHead
from blankfill.model.stack import layer_kinds, layer_modules, run_layers
from blankfill.types import MEMORY, QUERY, Batch, LayerKind

Read = Callable[["Transformer", Tensor], Any]
"""A function of the hidden states [N, D] of all columns and of the model's heads, called inside its forward pass."""

Prepare = Callable[["Transformer", Batch, Masks, bool], Batch]
"""What is computed before, from the batch, its masks and whether it is ordered; returns the batch that is read."""


class Transformer(nn.Module):
    """Embeddings, layers, heads; `config` says which."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embeddings: TokenEmbeddings | QuantizedTable
        self.token_embeddings = token_table(config.vocab_size, config.word_size)
        self.relative = config.position_scheme == "relative"
        self.positions = LearnedPositions(config)
        self.attention_scheme = attention_scheme(config)
        self.query = nn.Parameter(torch.empty(1, config.word_size)) if self.relative else None
        """The embedding of a query column, [1, W]: it has a position and no token (XLNet)."""
        self.embedding_norm = norm(config, config.word_size) if config.embedding_norm else None
        self.embedding_projection = (
            dense(config.embedding_size, config.hidden_size) if config.embedding_size else None
        )  # fmt: skip
        two_stacks = config.encoder_layers > 0
        self.encoder = Encoder(config) if two_stacks else None
        self.position_bias = (
            RelativePositionBias(config, both_ways=not two_stacks) if config.relative_buckets else None
        )  # fmt: skip
        self.layers = layer_modules(config, config.num_layers, cross=two_stacks)
        self.kinds = layer_kinds(config, config.num_layers)
        self.final_norm = norm(config, config.hidden_size) if config.norm == "pre" else None
        self.lm_head = LMHead(config.generator if config.generator_size else config)
        self.pooler = Pooler(config) if config.pooler else None
        has_classifier = config.pooler and config.pair_classifier
        self.classifier = dense(config.hidden_size, 2) if has_classifier else None
        """Of pairs: next sentence, sentence order."""
        self.span_boundary_head = SpanBoundaryHead(config) if config.max_span_positions else None
        self.heads = extra_heads(config)
        self.prefix_encoder: PrefixEncoder | None = None
        """Learnt keys and values before those of every row (`adapt.prefix`)."""
        self.recompute = False
        """Whether to save only the input of each layer and compute the layer again in the backward pass (gradient
        checkpointing)."""

    def forward(
        self,
        inputs: Batch | Inputs,
        dtype: torch.dtype | None = None,
        *,
        cache: Sequence[KeyValues] | None = None,
        encoded: EncoderOutput | None = None,
        read: Read | None = None,
        prepare: Prepare | None = None,
        logits_at: Tensor | Literal["all"] | None = None,
        output_hidden_states: bool = False,
        encoder_only: bool = False,
        keys_values: bool = False,
    ) -> Outputs:
        """Run the model; all uses of its weights are inside this method.

        dtype: the compute type, also of dense masks; None for the type of the weights. cache: one for each layer, with
        the columns before the new ones; that of a model with a prefix begins with it (`new_cache`), and masks of
        `Inputs` have its columns. encoded: the encoder's output for the decoder's columns, where it exists
        already (`encode_source`). read: see `Outputs.read`. prepare: see `Prepare`; not with an encoder. logits_at:
        int64[M], flat indices over B·T of the columns to score, or "all". output_hidden_states: whether to return them.
        encoder_only: for a model of two stacks, whether to run only the encoder over the batch, which has no context.
        keys_values: whether to compute those of all decoder layers too, without gradient, for a decoder that runs many
        times.
        """
        dtype = dtype or self.dtype
        if cache is not None and "local" in self.kinds:
            raise ValueError("layers with local attention do not support a cache")
        states: list[Tensor] | None = [] if output_hidden_states else None
        if isinstance(inputs, Batch):
            ordered = cache is None and self._ordered(inputs)
            masks = self._masks(inputs, dtype, ordered)
            if prepare is not None:
                inputs = prepare(self, inputs, masks, ordered)
        else:
            ordered, masks = inputs.ordered, self._masks_of(inputs, dtype)
        if encoder_only and self.encoder is not None:
            tokens_BTD = self.look_up(inputs.input_ids)
            hidden_BTD = self._encode(tokens_BTD, inputs.positions, masks, ordered, states, dtype)
            computed = self._all_keys_values(hidden_BTD) if keys_values else None
            encoded = EncoderOutput(hidden_BTD, _source_mask(inputs, dtype), computed)
        else:
            tokens_BTW = None
            if isinstance(inputs, Batch) and inputs.context is not None:
                if self.encoder is None:
                    raise ValueError("the batch has a context, and the model has no encoder")
                # one lookup for both sides, since each lookup makes a gradient as large as the table
                context, sides = inputs.context, (inputs.context.input_ids, inputs.input_ids)
                looked_up = self.look_up(torch.cat([ids.flatten() for ids in sides]))
                source, tokens = looked_up.split([ids.numel() for ids in sides])
                tokens_BTW = tokens.view(*sides[1].shape, -1)
                hidden_BSD = self._encode_context(context, source.view(*sides[0].shape, -1), dtype)
                mask = lower_cross(context.mask, inputs.segment, context.segment, dtype)
                encoded = EncoderOutput(hidden_BSD, mask)
            hidden_BTD = self._decode(inputs, masks, cache, encoded, tokens_BTW, ordered, states, dtype)
        answers = None if read is None else read(self, hidden_BTD.flatten(0, 1))
        logits = None
        if logits_at is not None:
            if self.config.generator_size:
                raise ValueError("the language model in this model is its generator; see replaced_tokens.generator_of")
            selected = hidden_BTD if isinstance(logits_at, str) else hidden_BTD.flatten(0, 1)[logits_at]
            logits = self.lm_head(selected, self.output_table)
        return Outputs(hidden_BTD, logits, answers, None if states is None else tuple(states), encoded)

    def encode_source(
        self, source: Batch, dtype: torch.dtype | None = None, keys_values: bool = False
    ) -> EncoderOutput:
        """Run the encoder over sources, for decoders of which each row is one text; see `forward`."""
        if self.encoder is None:
            raise ValueError("the batch has a context, and the model has no encoder")
        encoded = self(source, dtype, encoder_only=True, keys_values=keys_values).encoded
        assert isinstance(encoded, EncoderOutput)
        return encoded

    def _decode(
        self,
        inputs: Batch | Inputs,
        masks: Masks,
        cache: Sequence[KeyValues] | None,
        encoded: EncoderOutput | None,
        tokens_BTW: Tensor | None,
        ordered: bool,
        states: list[Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Compute the hidden states of the main stack, [B, T, D]. tokens: embeddings, where they were looked up
        already."""
        positions = inputs.positions
        embedded_BTW = self.look_up(inputs.input_ids) if tokens_BTW is None else tokens_BTW
        memory_BT = None
        if self.query is not None:
            stream = positions[2]
            embedded_BTW = torch.where((stream == QUERY)[..., None], self.query.to(embedded_BTW.dtype), embedded_BTW)
            memory_BT = stream == MEMORY if bool((stream == MEMORY).any()) else None
        terms = self.terms(positions, cache, ordered)
        prefixes = None
        if self.prefix_encoder is not None:
            columns = self.prefix_encoder.shape.length
            if cache is None:
                prefixes = self.prefix_encoder(len(inputs.input_ids), dtype)[self.config.encoder_layers :]
                terms = terms_behind(terms, columns)
            if cache is None or isinstance(inputs, Batch):
                masks = {kind: behind(mask, columns) for kind, mask in masks.items()}
        embedded_BTW = self.embed(embedded_BTW, positions)
        project = self.embedding_projection
        hidden_BTD = embedded_BTW if project is None else project(embedded_BTW)
        if states is not None:
            states.append(hidden_BTD)
        hidden_BTD = run_layers(
            self.layers, self.kinds, hidden_BTD, masks, terms, cache, encoded,
            self.recompute and self.training, memory_BT, states, prefixes,
        )  # fmt: skip
        if self.final_norm is not None:
            hidden_BTD = self.final_norm(hidden_BTD)
        drop = self.config.dropout if self.training else 0.0
        return dropout(hidden_BTD, drop) if self.config.more_dropout else hidden_BTD

    def embed(self, tokens_BTW: Tensor, positions: Tensor) -> Tensor:
        """What goes into the embedding projection, [B, T, W]: token embeddings and positions, the norm, dropout."""
        embedded_BTW = self.positions.embed(tokens_BTW, positions)
        if self.embedding_norm is not None:
            embedded_BTW = self.embedding_norm(embedded_BTW)
        return dropout(embedded_BTW, self.config.dropout if self.training else 0.0)

    def _encode_context(self, context: Batch, tokens_BSD: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute the encoder's output for the contexts of a batch, [B, S, D]."""
        ordered = self._ordered(context)
        masks = self._masks(context, dtype, ordered)
        return self._encode(tokens_BSD, context.positions, masks, ordered, None, dtype)

    def _encode(
        self,
        tokens_BSD: Tensor,
        positions: Tensor,
        masks: Masks,
        ordered: bool,
        states: list[Tensor] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        assert self.encoder is not None
        prefixes = None
        if self.prefix_encoder is not None:
            prefixes = self.prefix_encoder(len(tokens_BSD), dtype)[: self.config.encoder_layers]
        made: Tensor = self.encoder(tokens_BSD, positions, masks["global"], self.recompute, states, ordered, prefixes)
        return made

    def _all_keys_values(self, hidden_BSD: Tensor) -> list[tuple[Tensor, Tensor]]:
        return all_keys_values([part for part in self.modules() if isinstance(part, CrossAttention)], hidden_BSD)

    def terms(
        self, positions: Tensor, cache: Sequence[KeyValues] | None = None, ordered: bool = False
    ) -> Mapping[LayerKind, PositionTerms]:
        """Compute the position terms of each kind of layer. positions int64[P, B, T], those of a cache first."""
        in_stack = self.position_bias if cache is None else None
        schemes: list[PositionScheme] = [s for s in (self.attention_scheme, in_stack) if s is not None]
        terms = terms_of(schemes, positions, sorted(set(self.kinds)), ordered)
        if self.position_bias is None or cache is None:
            return terms
        bias = self.cached_bias(positions[0], cache)
        return {kind: replace(part, bias=bias) for kind, part in terms.items()}

    def cached_bias(self, position_BT: Tensor, cache: Sequence[KeyValues]) -> Tensor:
        """Compute the bias of the scores of columns at these positions, after cached ones: [B, H, T, S + T]."""
        assert self.position_bias is not None
        first = cache[0]
        assert isinstance(first, PositionedKeyValues)
        if first.bias_table is None:
            first.bias_table = self.position_bias.bias_per_distance()
        key_BS = first.append_positions(position_BT)
        bias = self.position_bias.lookup(first.bias_table, position_BT, key_BS)
        if self.prefix_encoder is not None:
            bias.masked_fill_((key_BS == NO_POSITION)[:, None, None], 0.0)
        return bias

    def _ordered(self, batch: Batch) -> bool:
        """Return whether differences of columns equal differences of positions, where the model depends on it."""
        matters = self.config.relative_buckets or self.config.window
        return bool(matters) and in_order(batch.positions[0], batch.segment)

    def _masks(self, batch: Batch, dtype: torch.dtype, ordered: bool) -> Masks:
        """Make the mask of each kind of layer, once for a batch."""
        if batch.texts is not None and self.reads_texts(max(batch.texts.lengths, default=0)):
            mask = Mask("texts", texts=batch.texts)
            return dict.fromkeys(("global", *self.kinds), mask)
        groups = None if batch.group is None else (batch.group, batch.group)
        query, key = (batch.segment, batch.horizon), (batch.segment, batch.rank)
        masks: dict[LayerKind, Mask] = {"global": lower(batch.mask, query, key, dtype, groups)}
        window, width = self.config.window, batch.input_ids.shape[1]
        if "local" in self.kinds and ordered and width <= window + 1:
            masks["local"] = masks["global"]
        elif "local" in self.kinds:
            masks["local"] = lower_local(query, key, batch.positions[0], window, dtype, groups, ordered)
        return masks

    def reads_texts(self, longest: int) -> bool:
        """Return whether attention computes each text of `Batch.texts` alone, for texts of at most `longest` columns;
        a model with biases of positions, a prefix or fewer heads of keys follows the vectors of the rule."""
        config = self.config
        plain = self.position_bias is None and self.query is None and self.encoder is None
        local = "local" in self.kinds and longest > config.window + 1
        return plain and self.prefix_encoder is None and config.kv_heads == config.num_heads and not local

    def _masks_of(self, inputs: Inputs, dtype: torch.dtype) -> Masks:
        """Return the masks of inputs with masks of their own."""
        if not isinstance(inputs.mask, Mask):
            return inputs.mask
        if "local" not in self.kinds:
            return {"global": inputs.mask}
        return {"global": inputs.mask, "local": within(inputs.mask, inputs.positions[0], self.config.window, dtype)}

    @property
    def output_table(self) -> OutputTable:
        """The output embeddings, [V, W]: the token embeddings, or the head's own when they are not tied."""
        own, tokens = self.lm_head.table, self.token_embeddings
        if own is not None:
            return own
        return tokens if isinstance(tokens, QuantizedTable) else tokens.weight

    def look_up(self, ids: Tensor) -> Tensor:
        """Return the token embeddings of ids of any shape, [..., W]."""
        tokens = self.token_embeddings
        made: Tensor = tokens(ids, self.dtype) if isinstance(tokens, QuantizedTable) else tokens(ids)
        return made

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights that are not quantised, in which the model computes."""
        weight: Tensor = self.token_embeddings.weight
        return weight.dtype if weight.is_floating_point() else next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.token_embeddings.weight.device
        return device

    def use_kernel(self, kernel: Kernel) -> None:
        """Compute attention with this kernel from now on."""
        for module in self.modules():
            if isinstance(module, Attention | CrossAttention):
                module.kernel = kernel

    @property
    def all_layers(self) -> list[Layer]:
        """Return the layers of the encoder, if any, and of the main stack."""
        stacks = [*(self.encoder.layers if self.encoder is not None else ()), *self.layers]
        return [layer for layer in stacks if isinstance(layer, Layer)]

    def new_cache(self, rows: int, size: int) -> list[LayerCache]:
        """Make caches for `size` columns of `rows` rows, one for each layer, with nothing but the prefix, if any."""
        like, prefixes = torch.empty(0, dtype=self.dtype, device=self.device), self.cached_prefixes()
        return [LayerCache(rows, self.config, size, like, k == 0, prefixes[k]) for k in range(len(self.kinds))]

    @property
    def prefix_length(self) -> int:
        """The number of columns of the prefix; 0 for a model without one."""
        return 0 if self.prefix_encoder is None else self.prefix_encoder.shape.length

    @torch.no_grad()
    def cached_prefixes(self) -> list[Tensor] | list[None]:
        """Return the prefix of each layer as a cache stores it, [2, 1, G, P, E]; None for a model without a prefix."""
        if self.prefix_encoder is None:
            return [None] * len(self.kinds)
        made = self.prefix_encoder(1, self.dtype)[self.config.encoder_layers :]
        return [cached_form(prefix) for prefix in made]

    def initialise(self, seed: int) -> None:
        """Draw all weights as the family's paper does, each by the seed and its name (`model.draw`)."""
        draw_weights(self, initial_rules(self), seed)


def build(config: TransformerConfig, seed: int = 0, device: torch.device | str = "cpu") -> Transformer:
    """Return a freshly initialised model: laid out without memory, allocated once, drawn by the seed."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device=device)
    model.initialise(seed)
    return model


def _source_mask(inputs: Batch | Inputs, dtype: torch.dtype) -> Mask:
    """Return the mask of the encoder's output for decoders whose rows are one text each."""
    if not isinstance(inputs, Batch):
        return Mask("none")
    return lower_cross(inputs.mask, inputs.segment.new_zeros(len(inputs.segment), 1), inputs.segment, dtype)


def word_tables(config: TransformerConfig) -> frozenset[str]:
    """Return the names of the weights that have a row for each word: those that another vocabulary gives another
    length."""
    with torch.device("meta"):
        models = [Transformer(replace(config, vocab_size=config.vocab_size + more)) for more in (0, 1)]
    sizes = [{name: weight.shape for name, weight in model.state_dict().items()} for model in models]
    return frozenset(name for name, shape in sizes[0].items() if sizes[1][name] != shape)


def count_parameters(config: TransformerConfig) -> int:
    """Return the number of weights of a configuration, without allocating them; tied tables count once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())
