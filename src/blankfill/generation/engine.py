"""The decoding engine: rows of context in, the scores of the next token out, one column at a time.

A *context* is what a row has read before it writes: ids, positions, ranks of the attention rule, and where its new
tokens will stand. Families differ in it: GPT (every column sees what is before it; the position counts on), GLM (Part A
sees itself both ways, then causal; position 1 stays at the mask's place, position 2 counts 1, 2, 3, …) and UniLM, which
answers at a mask: behind what is there stands a [MASK], which the answer then replaces, so that a step reads two
columns, the new token and the next mask, and forgets the mask. A model of two stacks (T5, BART) has read a text of its
own besides: the encoder runs once, and every layer's keys and values of it are kept, once for all the rows that answer
to it. The engine knows only the context, so a new family is a new function that makes one.

Rows of unequal length are padded at the *right*, after their own tokens, and new tokens of all rows share the columns
after the widest row. That is sound because order lies in positions and ranks, never in columns: padding is its own
segment, which nothing else sees. Where no row is padded, a new token sees every column so far and no mask is built.

Keys and values live in buffers made once for the context and all the tokens that may follow. What a cached row answers
is what the same row answers in one uncached pass (tests/generate/test_engine.py).

Not here: choosing a token (`sampling`, `beam`), text (`fill`, `write`).

Shapes: B rows, T columns, P position channels, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill.attention.masks import Mask, lower
from blankfill.data.batching import collate, is_causal, sees_all
from blankfill.data.packing import padded_batches
from blankfill.model.cross import EncoderOutput, side_by_side
from blankfill.model.io import Inputs
from blankfill.model.layers import LayerCache
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import Transformer
from blankfill.model.view import evaluation_view
from blankfill.types import PADDING, AttentionRule, Batch, DecoderInput, Vocabulary

ENOUGH = 256
"""Number of columns from which a batch of sources takes no longer sources."""


@torch.inference_mode()
def read_sources(model: Transformer, contexts: Sequence[DecoderInput], pad: int = 0) -> EncoderOutput | None:
    """What the encoder makes of the sources of contexts, with the keys and values of all layers; None without them.

    Those of like length are read together, so that hardly a column is padding.
    """
    sources = [context.source for context in contexts if context.source is not None]
    if not sources:
        return None
    model, weight = evaluation_view(model), model.token_embeddings.weight
    parts = []
    for alike in padded_batches(np.array([len(source) for source in sources]), min_tokens=ENOUGH):
        places = sorted(alike.tolist())
        batch = collate([[sources[k]] for k in places], pad).to(weight.device)
        parts.append((places, model.encode_source(batch, weight.dtype, keys_values=True)))
    return parts[0][1] if len(parts) == 1 else side_by_side(parts)


class Decoder:
    """Rows of a model with their key/value caches: `prefill` once, then `step` for each new column."""

    def __init__(
        self,
        model: Transformer,
        contexts: Sequence[DecoderInput],
        new_tokens: int,
        pad: int = 0,
        reading: EncoderOutput | None = None,
    ) -> None:
        """contexts: one for each row. new_tokens: the most columns that will be added. pad: the id of padding. reading:
        what `read_sources` made of the contexts, where they were read before; it is left as it is."""
        self.model = model = evaluation_view(model)
        self.device = model.token_embeddings.weight.device
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
        self._single = SingleColumn(model) if fits(model) else None
        self._reading = read_sources(model, contexts, pad) if reading is None else dataclasses.replace(reading)
        self._read_by = torch.arange(self.rows, device=self.device)
        """Which of the sources each row answers to, ascending by as many rows for each, int64[B]."""

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Read the contexts; the scores of each row's first new token, [B, V]."""
        rows, width = self._ids.shape
        last_B = None
        if self.query_token is None:
            last_B = torch.arange(rows, device=self.device) * width + self.lengths - 1
        segment, rank, horizon = self._rule
        batch = Batch.of_rows(self._ids, self._positions, segment, rank, horizon, mask=self._kind)
        dtype = self.model.token_embeddings.weight.dtype
        outputs = self.model(batch, dtype, cache=self._cache, encoded=self._reading, logits_at=last_B)
        logits = self._read(self._next, self._asking) if last_B is None else outputs.logits
        assert isinstance(logits, Tensor)
        return logits

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Add one token to every row, int64[B]; the scores of the next one, [B, V]."""
        if self.room <= 0:
            raise ValueError("the decoder has no room for another token")
        here, self._next = self._next, self._next + self._step
        self.room -= 1
        if self.query_token is None:
            return self._read(here, ids_B[:, None])
        return self._read(torch.cat([here, self._next], 2), torch.cat([ids_B[:, None], self._asking], 1))

    @property
    def _asking(self) -> Tensor:
        """What asks for each row's next token, int64[B, 1]."""
        assert self.query_token is not None
        return torch.full((self.rows, 1), self.query_token, device=self.device)

    def _read(self, positions_PBQ: Tensor, ids_BQ: Tensor) -> Tensor:
        """Read columns behind those in the cache, each seeing those before it; the scores at the last one, [B, V].

        What asks is forgotten again, since no later column may see it.
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
        for layer in self._cache:
            layer.select(rows_K)
        self._next, self._step = self._next[:, rows_K], self._step[:, rows_K]
        self._bias = self._bias[rows_K] if self._bias is not None else None
        self.rows = len(rows_K)
        if self._reading is not None:
            self._select_sources(self._reading, self._read_by[rows_K])

    def _select_sources(self, reading: EncoderOutput, read_by_K: Tensor) -> None:
        """Keep what these rows answer to: once for rows that stand together, where all stand in groups of one size."""
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
        mask = lower(
            "rule", (query, query), (hidden, torch.zeros_like(hidden)), self.model.token_embeddings.weight.dtype
        )
        assert mask.bias is not None
        return mask.bias


def mask_kind(rules: Sequence[AttentionRule], width: int) -> str:
    """The kind of mask that rows padded to `width` need: see `attention.masks.lower`."""
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
    """Read Q columns of every row behind the cached ones; the scores at the last, [B, V].

    A column sees the cached columns and the new ones up to itself. single: the fast road for one column, for a model
    that `fits`. bias: [B, 1, 1, S + Q], 0 or −inf, hides padding; None where no row has any.
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
    inputs, dtype = Inputs(ids_BQ, positions_PBQ, mask), model.token_embeddings.weight.dtype
    logits = model(inputs, dtype, cache=cache, encoded=reading, logits_at=last_B).logits
    assert isinstance(logits, Tensor)
    return logits


def banned(vocabulary: Vocabulary, rows: int, keep: Sequence[int] = ()) -> NDArray[np.bool_]:
    """The ids never to be written, bool[rows]: specials, the unknown token, rows past the vocabulary; not `keep`."""
    out = np.zeros(rows, np.bool_)
    out[[*vocabulary.special, *vocabulary.roles.values()]] = True
    out[vocabulary.size :] = True
    out[list(keep)] = False
    return out
