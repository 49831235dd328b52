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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill.attention.kernels import Mask, lower
from blankfill.data.batching import PADDING, collate, is_causal, sees_all
from blankfill.data.packing import padded_batches
from blankfill.model.cross import Reading, side_by_side
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import Transformer
from blankfill.types import AttentionRule, Example, Int32, Vocabulary

ENDLESS = 1 << 30
"""The room of a model whose positions have no end."""
ENOUGH = 256
"""Sources that have so many columns together are not read with longer ones."""


@dataclass(frozen=True)
class Context:
    """What one row has read, and where its new tokens stand.

    input_ids: int32[L]. positions: int32[P, L]. rule: over the L columns, one segment. next_position: int32[P], of the
    first new token; step: int32[P], what each further one adds. room: how many new tokens the position tables can hold
    (one more can be predicted, since the last is never read). asks: the id that asks for the next token in its place;
    None for families that answer one column before. source: what the encoder reads, of a model that has one.
    """

    input_ids: Int32
    positions: Int32
    rule: AttentionRule
    next_position: Int32
    step: Int32
    room: int
    asks: int | None = None
    source: Example | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def columns(self) -> int:
        """Columns that are read, those of the source among them."""
        return len(self) + (0 if self.source is None else len(self.source))


def gpt_context(ids: Sequence[int], table: int) -> Context:
    """A left-to-right row. ids: at least one, at most `table`, the rows of the position table."""
    if not 0 < len(ids) <= table:
        raise ValueError(f"a context of {len(ids)} tokens; it must have 1 to {table}")
    index = np.arange(len(ids), dtype=np.int32)
    return Context(
        np.asarray(ids, np.int32), index[None], AttentionRule.causal(len(ids)),
        np.array([len(ids)], np.int32), np.ones(1, np.int32), table - len(ids),
    )  # fmt: skip


def glm_context(
    part_a: Sequence[int],
    written: Sequence[tuple[int, Sequence[int]]],
    place: int,
    sop: int,
    tables: Sequence[int],
) -> Context:
    """A GLM row that is about to write one blank, laid out as `objectives.glm.infill` does in training.

    part_a: the text with a mask token for each blank, [CLS] and end token included. written: the blanks filled so far,
    each its mask's column and its ids, in the order in which they were written. place: the column of the mask that is
    filled now. tables: the rows of the two position tables.
    """
    if not 0 < len(part_a) <= tables[0]:
        raise ValueError(f"Part A has {len(part_a)} tokens; it must have 1 to {tables[0]}")
    spans = [(column, [sop, *ids]) for column, ids in written] + [(place, [sop])]
    length, whole = len(part_a), len(part_a) + sum(len(ids) for _, ids in spans)
    position_1 = [*range(length), *(column for column, ids in spans for _ in ids)]
    position_2 = [*([0] * length), *(k + 1 for _, ids in spans for k in range(len(ids)))]
    return Context(
        np.array([*part_a, *(token for _, ids in spans for token in ids)], np.int32),
        np.array([position_1, position_2], np.int32), AttentionRule.prefix(length, whole),
        np.array([place, 2], np.int32), np.array([0, 1], np.int32), max(0, tables[1] - 2),
    )  # fmt: skip


def asking_context(
    ids: Sequence[int], table: int, asks: int, types: tuple[int, int], both_ways: bool = True
) -> Context:
    """A row whose next token is asked for by a token behind it.

    ids: what is read, at least one token and fewer than `table`, the rows of the position table. types: of what is read
    and of what is written. both_ways: whether what is read sees itself both ways.
    """
    if not 0 < len(ids) < table:
        raise ValueError(f"a context of {len(ids)} tokens; it must have 1 to {table - 1}")
    index = np.arange(len(ids), dtype=np.int32)
    rule = AttentionRule.full(len(ids)) if both_ways else AttentionRule.causal(len(ids))
    return Context(
        np.asarray(ids, np.int32), np.stack([index, np.full_like(index, types[0])]), rule,
        np.array([len(ids), types[1]], np.int32), np.array([1, 0], np.int32), table - len(ids) - 1, asks,
    )  # fmt: skip


def two_stack_context(source: Sequence[int], begun: Sequence[int], first: int = 0, table: int = 0) -> Context:
    """A row of a model of two stacks, laid out as `objectives.base.two_sided` does in training.

    source: what the encoder reads. begun: what the decoder has written, the token that it starts from among it. first:
    the number of the first position of either side; table: rows of the position tables, 0 where there are none.
    """
    for ids, side in ((source, "a source"), (begun, "a text begun")):
        if not ids or (table and first + len(ids) > table):
            raise ValueError(
                f"{side} of {len(ids)} tokens; it must have 1 to {table - first if table else 'any number'}"
            )
    read, index = (np.arange(first, first + len(ids), dtype=np.int32)[None] for ids in (source, begun))
    nothing = np.zeros(0, np.int32)
    return Context(
        np.asarray(begun, np.int32), index, AttentionRule.causal(len(begun)),
        np.array([first + len(begun)], np.int32), np.ones(1, np.int32),
        table - first - len(begun) if table else ENDLESS,
        source=Example(np.asarray(source, np.int32), read, AttentionRule.full(len(source)), nothing, nothing),
    )  # fmt: skip


@torch.inference_mode()
def read_sources(model: Transformer, contexts: Sequence[Context], pad: int = 0) -> Reading | None:
    """What the encoder makes of the sources of contexts, with the keys and values of all layers; None without them.

    Those of like length are read together, so that hardly a column is padding.
    """
    sources = [context.source for context in contexts if context.source is not None]
    if not sources:
        return None
    weight = model.words.weight
    parts = []
    with evaluating(model):
        for alike in padded_batches(np.array([len(one) for one in sources]), min_tokens=ENOUGH):
            places = sorted(alike.tolist())
            batch = collate([[sources[k]] for k in places], pad).to(weight.device)
            parts.append((places, model.read(batch, dtype=weight.dtype, keep=True)))
    return parts[0][1] if len(parts) == 1 else side_by_side(parts)


class Decoder:
    """Rows of a model with their key/value caches: `prefill` once, then `step` for each new column."""

    def __init__(
        self,
        model: Transformer,
        contexts: Sequence[Context],
        new_tokens: int,
        pad: int = 0,
        reading: Reading | None = None,
    ) -> None:
        """contexts: one for each row. new_tokens: the most columns that will be added. pad: the id of padding. reading:
        what `read_sources` made of the contexts, where they were read before; it is left as it is."""
        self.model = model
        self.device = model.words.weight.device
        self.room = min(new_tokens, *(context.room for context in contexts))
        self.rows, self.asks = len(contexts), contexts[0].asks
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
        self._kind = _kind(contexts, width)
        next_position = np.stack([context.next_position for context in contexts], axis=1).astype(np.int64)
        step = np.stack([context.step for context in contexts], axis=1).astype(np.int64)
        self._next = torch.from_numpy(next_position[:, :, None]).to(self.device)
        self._step = torch.from_numpy(step[:, :, None]).to(self.device)
        self._width = width + self.room + (self.asks is not None)
        self._cache = model.new_cache(self.rows, self._width)
        self._bias = self._padding_bias(width) if any(len(context) < width for context in contexts) else None
        self._single = SingleColumn(model) if fits(model) else None
        self._reading = read_sources(model, contexts, pad) if reading is None else dataclasses.replace(reading)
        self._read_by = torch.arange(self.rows, device=self.device)
        """Which of the sources each row answers to, ascending by as many rows for each, int64[B]."""

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Read the contexts; the scores of each row's first new token, [B, V]."""
        segment, rank, horizon = self._rule
        mask = lower(self._kind, (segment, horizon), (segment, rank), self.model.words.weight.dtype)
        with evaluating(self.model):
            hidden_BTD = self.model(self._ids, self._positions, mask, self._cache, context=self._reading)
        if self.asks is not None:
            return self._read(self._next, self._asking)
        last_BD = hidden_BTD[torch.arange(self.rows, device=self.device), self.lengths - 1]
        return self.model.head.logits(last_BD, self.model.output_table)

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Add one token to every row, int64[B]; the scores of the next one, [B, V]."""
        if self.room <= 0:
            raise ValueError("the decoder has no room for another token")
        here, self._next = self._next, self._next + self._step
        self.room -= 1
        if self.asks is None:
            return self._read(here, ids_B[:, None])
        return self._read(torch.cat([here, self._next], 2), torch.cat([ids_B[:, None], self._asking], 1))

    @property
    def _asking(self) -> Tensor:
        """What asks for each row's next token, int64[B, 1]."""
        assert self.asks is not None
        return torch.full((self.rows, 1), self.asks, device=self.device)

    def _read(self, positions_PBQ: Tensor, ids_BQ: Tensor) -> Tensor:
        """Read columns behind those in the cache, each seeing those before it; the scores at the last one, [B, V].

        What asks is forgotten again, since no later column may see it.
        """
        Q = ids_BQ.shape[1]
        bias = None if self._bias is None else self._bias[..., : self._cache[0].length + Q]
        if Q == 1 and self._single is not None and not torch.is_autocast_enabled(self.device.type):
            hidden_BD = self._single(ids_BQ, positions_PBQ, bias, self._cache, self._reading)
        else:
            mask = Mask("none" if Q == 1 else "causal")
            if bias is not None:
                if Q > 1:
                    bias = bias.expand(-1, -1, Q, -1).clone()
                    bias[..., -Q:] += bias.new_full((Q, Q), float("-inf")).triu_(1)
                mask = Mask("dense", bias)
            with evaluating(self.model):
                hidden_BD = self.model(ids_BQ, positions_PBQ, mask, self._cache, context=self._reading)[:, -1]
        if self.asks is not None:
            for layer in self._cache:
                layer.forget(1)
        return self.model.head.logits(hidden_BD, self.model.output_table)

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

    def _select_sources(self, reading: Reading, read_by_K: Tensor) -> None:
        """Keep what these rows answer to: once for rows that stand together, where all stand in groups of one size."""
        kept, count = read_by_K.unique_consecutive(return_counts=True)
        size = int(count[0])
        if not bool((count == size).all()):
            kept, size = read_by_K, 1
        have = len(reading.hidden)
        if len(kept) != have or not bool((kept == torch.arange(have, device=self.device)).all()):
            reading.select(kept)
        self._read_by = torch.arange(len(kept), device=self.device).repeat_interleave(size)

    def _padding_bias(self, width: int) -> Tensor:
        hidden = torch.full((self.rows, self._width), 0, dtype=torch.int32, device=self.device)
        hidden[:, :width] = self._rule[0]
        query = torch.zeros((self.rows, 1), dtype=torch.int32, device=self.device)
        mask = lower("rule", (query, query), (hidden, torch.zeros_like(hidden)), self.model.words.weight.dtype)
        assert mask.bias is not None
        return mask.bias


def _kind(contexts: Sequence[Context], width: int) -> str:
    if all(is_causal(context.rule) for context in contexts):
        return "causal"
    return "none" if all(len(c) == width and sees_all(c.rule) for c in contexts) else "rule"


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout; a model in training mode returns to it."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def banned(vocabulary: Vocabulary, rows: int, keep: Sequence[int] = ()) -> NDArray[np.bool_]:
    """The ids never to be written, bool[rows]: specials, the unknown token, rows past the vocabulary; not `keep`."""
    out = np.zeros(rows, np.bool_)
    out[[*vocabulary.special, *vocabulary.roles.values()]] = True
    out[vocabulary.size :] = True
    out[list(keep)] = False
    return out
