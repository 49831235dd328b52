"""The decoding engine: from rows of input to the scores of the next token, one column at a time.

A `DecoderInput` holds the input of a row: ids, positions, ranks of the attention rule, and the positions of its new
tokens. Families differ in it: GPT (every column sees the columns before it; positions count up), GLM (Part A has
bidirectional attention, the rest is causal; position 1 stays at the mask, position 2 counts 1, 2, 3, …) and UniLM,
which predicts at a mask: a [MASK] follows the text, and the predicted token replaces it, so that a step reads two
columns, the new token and the next mask, and drops the mask from the cache. A model of two stacks (T5, BART) also has a
source: the encoder runs once, and every layer stores the keys and values of its output, once for all rows that share
it. The engine depends only on the `DecoderInput`, so a new family needs only a function that makes one.

Rows of unequal length are padded on the *right*, and the new tokens of all rows share the columns after the longest
row. This is correct because order is given by positions and ranks, never by columns: padding is a segment of its own,
which no other column sees. When no row is padded, a new token sees every column so far, and no mask is built.

Keys and values are in buffers that are allocated once, with room for the tokens to come. The scores of a cached row
equal those of one uncached pass (tests/generate/test_engine.py).

Not here: choosing a token (`sampling`, `beam`), text (`fill`, `write`).

Shapes: B rows, T columns, P position channels, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from blankfill.attention.masks import Mask, lower
from blankfill.data.batching import collate, is_causal, sees_all
from blankfill.data.packing import padded_batches
from blankfill.model.cross import EncoderOutput, side_by_side
from blankfill.model.io import Inputs
from blankfill.model.layers import ColumnOwners, LayerCache
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import Transformer
from blankfill.model.view import evaluation_view
from blankfill.types import PADDING, AttentionRule, Batch, DecoderInput, Vocabulary

ENOUGH = 256
"""Number of columns from which a batch of sources takes no longer sources."""


@torch.inference_mode()
def read_sources(model: Transformer, contexts: Sequence[DecoderInput], pad: int = 0) -> EncoderOutput | None:
    """Run the encoder over sources, with the keys and values of all layers; None for rows without sources.

    Sources of similar length are batched together, so that little of a batch is padding.
    """
    sources = [context.source for context in contexts if context.source is not None]
    if not sources:
        return None
    model = evaluation_view(model)
    parts = []
    for alike in padded_batches(np.array([len(source) for source in sources]), min_tokens=ENOUGH):
        places = sorted(alike.tolist())
        batch = collate([[sources[k]] for k in places], pad).to(model.device)
        parts.append((places, model.encode_source(batch, model.dtype, keys_values=True)))
    return parts[0][1] if len(parts) == 1 else side_by_side(parts)


class Decoder:
    """Rows of a model with their key/value caches: call `prefill` once, then `step` for each new column."""

    def __init__(
        self,
        model: Transformer,
        contexts: Sequence[DecoderInput],
        new_tokens: int,
        pad: int = 0,
        reading: EncoderOutput | None = None,
    ) -> None:
        """contexts: one for each row. new_tokens: largest number of columns that will be added. pad: id of padding.
        reading: the result of `read_sources` for the contexts, where it exists; it is not changed."""
        self.model = model = evaluation_view(model)
        self.device = model.device
        self.room = min(new_tokens, *(context.room for context in contexts))
        self.rows, self.query_token = len(contexts), contexts[0].query_token
        width = max(len(context) for context in contexts)
        self.lengths = torch.tensor([len(context) for context in contexts], device=self.device)
        shape = (self.rows, width)
        ids = np.full(shape, pad, np.int64)
        positions = np.zeros((len(contexts[0].positions), *shape), np.int64)
        segment = np.full(shape, PADDING, np.int32)
        rank = np.zeros(shape, np.int32)
        horizon = np.zeros(shape, np.int32)
        for row, context in enumerate(contexts):
            at = slice(0, len(context))
            ids[row, at], positions[:, row, at], segment[row, at] = context.input_ids, context.positions, 0
            rank[row, at], horizon[row, at] = context.rule.rank, context.rule.horizon
        self._ids = torch.from_numpy(ids).to(self.device)
        self._positions = torch.from_numpy(positions).to(self.device)
        self._rule = tuple(torch.from_numpy(vector).to(self.device) for vector in (segment, rank, horizon))
        self._kind = mask_kind([context.rule for context in contexts], width)
        next_position = np.stack([context.next_position for context in contexts], axis=1).astype(np.int64)
        step = np.stack([context.step for context in contexts], axis=1).astype(np.int64)
        self._next = torch.from_numpy(next_position[:, :, None]).to(self.device)
        self._step = torch.from_numpy(step[:, :, None]).to(self.device)
        self._width = width + self.room + (self.query_token is not None)
        self._cache = model.new_cache(self.rows, self._width)
        self._bias = self._padding_bias(width) if any(len(context) < width for context in contexts) else None
        if self._bias is not None:
            self._bias = F.pad(self._bias, (model.prefix_length, 0))
        self._single = SingleColumn(model) if fits(model) else None
        self._reading = read_sources(model, contexts, pad) if reading is None else dataclasses.replace(reading)
        self._read_by = torch.arange(self.rows, device=self.device)
        """The source of each row, ascending, with the same number of rows for each, int64[B]."""

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Read the contexts; returns the scores of each row's first new token, [B, V]."""
        rows, width = self._ids.shape
        last_B = None
        if self.query_token is None:
            last_B = torch.arange(rows, device=self.device) * width + self.lengths - 1
        segment, rank, horizon = self._rule
        batch = Batch.of_rows(self._ids, self._positions, segment, rank, horizon, mask=self._kind)
        dtype = self.model.dtype
        outputs = self.model(batch, dtype, cache=self._cache, encoded=self._reading, logits_at=last_B)
        logits = self._read(self._next, self._asking) if last_B is None else outputs.logits
        assert isinstance(logits, Tensor)
        return logits

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Add one token to every row, int64[B]; returns the scores of the next one, [B, V]."""
        if self.room <= 0:
            raise ValueError("the decoder has no room for another token")
        here, self._next = self._next, self._next + self._step
        self.room -= 1
        if self.query_token is None:
            return self._read(here, ids_B[:, None])
        return self._read(torch.cat([here, self._next], 2), torch.cat([ids_B[:, None], self._asking], 1))

    @property
    def _asking(self) -> Tensor:
        """Return the query token of each row, int64[B, 1]."""
        assert self.query_token is not None
        return torch.full((self.rows, 1), self.query_token, device=self.device)

    def _read(self, positions_PBQ: Tensor, ids_BQ: Tensor) -> Tensor:
        """Read columns after those in the cache, each seeing those before it; returns the scores at the last one, [B,
        V].

        The query columns are then dropped from the cache, since no later column may see them.
        """
        bias = None if self._bias is None else self._bias[..., : self._cache[0].length + ids_BQ.shape[1]]
        logits = read_columns(self.model, self._single, ids_BQ, positions_PBQ, bias, self._cache, self._reading)
        if self.query_token is not None:
            for layer in self._cache:
                layer.truncate(1)
        return logits

    @torch.inference_mode()
    def select(self, rows_K: Tensor) -> None:
        """Keep these rows, in this order, repeats allowed (beams); int64[K]."""
        rows_K = rows_K.to(self.device)
        if len(rows_K) == self.rows and bool((rows_K == torch.arange(self.rows, device=self.device)).all()):
            return
        first = self._cache[0]
        if first.owners is None and self._single is not None and self._single.compiled and self.query_token is None:
            owners = ColumnOwners(self.rows, first.kept.shape[3], self.device)
            for layer in self._cache:
                layer.owners = owners
        for layer in self._cache:
            layer.select(rows_K)
        if first.owners is not None:
            first.owners.select(rows_K, first.length)
        self._next, self._step = self._next[:, rows_K], self._step[:, rows_K]
        self._bias = self._bias[rows_K] if self._bias is not None else None
        self.rows = len(rows_K)
        if self._reading is not None:
            self._select_sources(self._reading, self._read_by[rows_K])

    def _select_sources(self, reading: EncoderOutput, read_by_K: Tensor) -> None:
        """Keep the sources of these rows: one for adjacent rows, when all rows are in groups of one size."""
        read_rows, count = read_by_K.unique_consecutive(return_counts=True)
        size = int(count[0])
        if not bool((count == size).all()):
            read_rows, size = read_by_K, 1
        have = len(reading.hidden)
        if len(read_rows) != have or not bool((read_rows == torch.arange(have, device=self.device)).all()):
            reading.select(read_rows)
        self._read_by = torch.arange(len(read_rows), device=self.device).repeat_interleave(size)

    def _padding_bias(self, width: int) -> Tensor:
        hidden = torch.full((self.rows, self._width), 0, dtype=torch.int32, device=self.device)
        hidden[:, :width] = self._rule[0]
        query = torch.zeros((self.rows, 1), dtype=torch.int32, device=self.device)
        mask = lower("rule", (query, query), (hidden, torch.zeros_like(hidden)), self.model.dtype)
        assert mask.bias is not None
        return mask.bias


def mask_kind(rules: Sequence[AttentionRule], width: int) -> str:
    """Return the kind of mask for rows padded to `width`: see `attention.masks.lower`."""
    if all(map(is_causal, rules)):
        return "causal"
    return "none" if all(len(rule) == width and sees_all(rule) for rule in rules) else "rule"


def read_columns(
    model: Transformer,
    single: SingleColumn | None,
    ids_BQ: Tensor,
    positions_PBQ: Tensor,
    bias: Tensor | None,
    cache: Sequence[LayerCache],
    reading: EncoderOutput | None,
) -> Tensor:
    """Read Q columns of every row after the cached ones; returns the scores at the last column, [B, V].

    A column sees the cached columns and the new ones up to itself. single: the fast path for one column, for a model
    that `fits`. bias: [B, 1, 1, S + Q], 0 or −inf, hides padding; None when no row is padded.
    """
    B, Q = ids_BQ.shape
    if Q == 1 and single is not None and not torch.is_autocast_enabled(ids_BQ.device.type):
        return single.logits(ids_BQ, positions_PBQ, bias, cache, reading)
    mask = Mask("none" if Q == 1 else "causal")
    if bias is not None:
        if Q > 1:
            bias = bias.expand(-1, -1, Q, -1).clone()
            bias[..., -Q:] += bias.new_full((Q, Q), float("-inf")).triu_(1)
        mask = Mask("dense", bias)
    last_B = torch.arange(Q - 1, B * Q, Q, device=ids_BQ.device)
    inputs, dtype = Inputs(ids_BQ, positions_PBQ, mask), model.dtype
    logits = model(inputs, dtype, cache=cache, encoded=reading, logits_at=last_B).logits
    assert isinstance(logits, Tensor)
    return logits


def banned(vocabulary: Vocabulary, rows: int, keep: Sequence[int] = ()) -> NDArray[np.bool_]:
    """Return the ids that are never generated, bool[rows]: special tokens, the unknown token, rows past the vocabulary;
    not `keep`."""
    out = np.zeros(rows, np.bool_)
    out[[*vocabulary.special, *vocabulary.roles.values()]] = True
    out[vocabulary.size :] = True
    out[list(keep)] = False
    return out
