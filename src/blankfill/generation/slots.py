"""Decoding slots: rows of a model that generate together, and that join and leave while others generate.

`Decoder` (engine) reads all its rows at once; here `join` reads the input of a row (prefill), `step` adds one token to
every row, and `leave` removes a row. Every row has its own length, positions and source, and its scores do not depend
on other rows, except for the last bits of matrix products of another size.

All rows share columns and are aligned on the *right*: the newest token of every row is in the same column, and a row
that joins is placed in the columns just before it. This is correct because order is given by positions and ranks, never
by columns. So a step costs as much as with rows of one length: keys and values of the new column are one copy for each
layer, and only the columns of the longest row are read. Rows shorter than the longest one are masked on the left.

      columns →   first          end
      row 0    ···[a a a a a a a]···      rows 0 to 2 generate; all read the columns from `first` to `end`
      row 1    ···[· · · b b b b]···      (· is masked)
      row 2    ···[· c c c c c c]···
      slot 3        (free)

The rows that generate are the first ones of the buffers, without gaps: when one leaves, the last row moves to its
place. When the columns reach the end of the buffers, the window moves back to the beginning, or the buffers grow.

Not here: choosing tokens (`sampling`), the order in which rows join (`scheduler`).

Shapes: A rows that generate, J rows that join, N slots, Q new columns, S columns, P position channels, H heads, E width
of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.attention.masks import Mask
from blankfill.generation.engine import mask_kind, read_columns, read_sources
from blankfill.generation.pieces import PieceReader
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import EncoderOutput
from blankfill.model.layers import NO_POSITION, LayerCache, PositionedKeyValues
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import Transformer
from blankfill.model.view import evaluation_view
from blankfill.types import PADDING, AttentionRule, Batch, DecoderInput

MARGIN = 64
"""Free columns of a buffer beyond those of its first rows, when its final size is unknown."""


@dataclass
class Window:
    """The columns in use, `first` to `end`, and the number of rows in use."""

    first: int = 0
    end: int = 0
    rows: int = 0


class SlotCache(LayerCache):
    """The keys and values of one layer for all slots. window: shared by the layers; `Slots` moves its borders."""

    def __init__(
        self, slots: int, config: TransformerConfig, columns: int, like: Tensor, first: bool, window: Window
    ) -> None:
        super().__init__(slots, config, columns, like, first)
        self.window = window
        self.narrow()

    def narrow(self) -> None:
        """Adapt to another number of rows, or to other buffers."""
        self.rows_in_use = self.kept.narrow(1, 0, self.window.rows)
        self.active_positions = None if self.positions is None else self.positions.narrow(0, 0, self.window.rows)

    def append(self, both_2BHQE: Tensor) -> tuple[Tensor, ...]:
        """Write the keys and values of new columns of all rows; returns those of all columns in use."""
        columns = both_2BHQE.shape[3]
        first, end = self.extend(columns)
        self.rows_in_use.narrow(3, end - columns, columns).copy_(both_2BHQE)
        return self.rows_in_use.narrow(3, first, end - first).unbind(0)

    def extend(self, columns: int) -> tuple[int, int]:
        """Return the columns that new ones see, with the new ones; `Slots` makes the room."""
        return self.window.first, self.window.end + columns

    @property
    def active(self) -> Tensor:
        """The rows in use."""
        return self.rows_in_use

    def append_positions(self, position_BQ: Tensor) -> Tensor:
        """Store the positions of the columns that are added next; returns the positions of all columns in use."""
        assert self.active_positions is not None
        first, end, columns = self.window.first, self.window.end, position_BQ.shape[1]
        self.active_positions[:, end : end + columns] = position_BQ
        return self.active_positions[:, first : end + columns]

    def clear(self, row: int, first: int, end: int) -> None:
        """Zero masked columns of a row: they are multiplied with a weight of 0, so they must be finite."""
        self.kept[:, row, :, first:end] = 0.0

    def move(self, source: int, target: int) -> None:
        """Copy the columns in use of one row to another row."""
        at = slice(self.window.first, self.window.end)
        self.kept[:, target, :, at] = self.kept[:, source, :, at]
        if self.positions is not None:
            self.positions[target, at] = self.positions[source, at]

    def shift(self, end: int, columns: int) -> None:
        """Move the columns in use so that they end at column `end`. columns: size of the buffers."""
        at, size = slice(self.window.first, self.window.end), self.window.end - self.window.first
        rows, to = slice(0, self.window.rows), slice(end - size, end)
        shifted = self.kept[:, rows, :, at].clone()
        positions = None if self.positions is None else self.positions[rows, at].clone()
        if columns != self.kept.shape[3]:
            shape = list(self.kept.shape)
            shape[3] = columns
            self.kept = self.kept.new_empty(shape)
            if self.positions is not None:
                self.positions = self.positions.new_zeros(len(self.positions), columns)
        self.kept[:, rows, :, to] = shifted
        if self.positions is not None and positions is not None:
            self.positions[rows, to] = positions


class _Landing(PositionedKeyValues):
    """The cache of a layer while rows that join are read: it passes keys and values on to their columns."""

    def __init__(self, target: SlotCache, lengths: Sequence[int], prefix_21GPE: Tensor | None = None) -> None:
        """lengths: number of columns of each row to store, from its first column. prefix: columns of every row before
        those that are read."""
        self.target, self.lengths, self.bias_table = target, lengths, target.bias_table
        self.prefix = prefix_21GPE
        self.row, self.end = target.window.rows, target.window.end

    def append(self, both_2BHQE: Tensor) -> tuple[Tensor, ...]:
        """Pass the new keys and values on; returns them."""
        lengths, row, end = self.lengths, self.row, self.end
        if self.prefix is not None:
            both_2BHQE = torch.cat([self.prefix.expand(-1, both_2BHQE.shape[1], -1, -1, -1), both_2BHQE], 3)
        if min(lengths) == max(lengths):
            rows, at = slice(row, row + len(lengths)), slice(end - lengths[0], end)
            self.target.kept[:, rows, :, at] = both_2BHQE[:, :, :, : lengths[0]]
        else:
            for j, length in enumerate(lengths):
                self.target.kept[:, row + j, :, end - length : end] = both_2BHQE[:, j, :, :length]
        return both_2BHQE.unbind(0)

    def append_positions(self, position_BQ: Tensor) -> Tensor:
        """Pass the new positions on; returns them."""
        assert self.target.positions is not None
        if self.prefix is not None:
            position_BQ = F.pad(position_BQ, (self.prefix.shape[3], 0), value=NO_POSITION)
        for j, length in enumerate(self.lengths):
            self.target.positions[self.row + j, self.end - length : self.end] = position_BQ[j, :length]
        return position_BQ


class _Sources:
    """The keys and values of the sources of rows in every layer, aligned on the left."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.lengths: list[int] = []

    def join(self, reading: EncoderOutput, lengths: Sequence[int]) -> None:
        """Add the sources of rows that join. lengths: their columns without padding."""
        assert reading.keys_values is not None
        rows, width = len(self.lengths), max(lengths)
        if not rows and len(lengths) == self.slots:
            self.kept, self.lengths = list(reading.keys_values), list(lengths)
            return
        if not self.kept or width > self.kept[0][0].shape[2]:
            old = self.kept
            self.kept = [(self._buffer(key, width), self._buffer(value, width)) for key, value in reading.keys_values]
            for layer, before in zip(self.kept, old, strict=True) if rows else ():
                for into, made in zip(layer, before, strict=True):
                    into[:rows, :, : made.shape[2]] = made[:rows]
        for layer, new in zip(self.kept, reading.keys_values, strict=True):
            for into, made in zip(layer, new, strict=True):
                into[rows : rows + len(lengths), :, :width] = made[:, :, :width]
        self.lengths += lengths

    def _buffer(self, like: Tensor, width: int) -> Tensor:
        return like.new_zeros(self.slots, like.shape[1], width, like.shape[3])

    def leave(self, row: int) -> None:
        """Remove the source of a row; the source of the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.kept:
                for side in layer:
                    side[row, :, : self.lengths[last]] = side[last, :, : self.lengths[last]]
            self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def reading(self) -> EncoderOutput:
        """Return the encoder's output for the rows in use."""
        rows, width = len(self.lengths), max(self.lengths)
        keys_values = [(key[:rows, :, :width], value[:rows, :, :width]) for key, value in self.kept]
        key = keys_values[0][0]
        mask = Mask("none")
        if min(self.lengths) < width:
            lengths = torch.tensor(self.lengths, device=key.device)
            hidden_AS = torch.arange(width, device=key.device) >= lengths[:, None]
            bias = key.new_zeros(rows, 1, 1, width).masked_fill_(hidden_AS[:, None, None], float("-inf"))
            mask = Mask("dense", bias)
        return EncoderOutput(key.new_empty(rows, 0, 0), mask, keys_values)


class Slots:
    """Rows of a model that write together; see above.

    Rows are numbered from 0; when row k leaves, the last row becomes row k.
    """

    def __init__(self, model: Transformer, slots: int, pad: int = 0, columns: int = 0) -> None:
        """slots: largest number of rows at a time. pad: id of padding. columns: largest number of columns of a row,
        with the tokens to be generated, if known: the buffers then need not grow."""
        if slots < 1:
            raise ValueError(f"a decoder of {slots} slots; it must have at least 1")
        self.model, self.slots, self.pad = evaluation_view(model), slots, pad
        self.device, self.dtype = model.device, model.dtype
        self._window = Window()
        self._first_columns = self._columns = columns + model.prefix_length if columns else 0
        self._cache: list[SlotCache] = []
        self._bias = torch.empty(0, dtype=self.dtype, device=self.device)
        self._starts: list[int] = []
        """The first column of each row."""
        self._padded = False
        """Whether any row begins later than the window."""
        self._sources = _Sources(slots)
        self._reading: EncoderOutput | None = None
        self._query_token: int | None = None
        self._next = self._step = torch.empty(0)
        self._single = SingleColumn(self.model) if fits(self.model) else None

    @property
    def rows(self) -> int:
        """The number of rows that generate."""
        return self._window.rows

    @property
    def free(self) -> int:
        """The number of rows that may join."""
        return self.slots - self._window.rows

    @torch.inference_mode()
    def join(self, contexts: Sequence[DecoderInput]) -> Tensor:
        """Read the inputs of rows that join; returns the scores of the first token of each, [J, V].

        The rows get the next numbers, in the order of the inputs. Raises ValueError when there are not enough free
        slots.
        """
        if len(contexts) > self.free:
            raise ValueError(f"{len(contexts)} rows cannot join, as only {self.free} slots are free")
        more, prefixes = self.model.prefix_length, self.model.cached_prefixes()
        lengths = [more + len(context) for context in contexts]
        reading = read_sources(self.model, contexts, self.pad)
        self._query_token = contexts[0].query_token
        self._make_room(max(lengths))
        caches = [_Landing(cache, lengths, prefix) for cache, prefix in zip(self._cache, prefixes, strict=True)]
        batch = self._laid_out(contexts)
        last_J = torch.tensor(lengths, device=self.device) - more
        if self._query_token is None:
            last_J -= 1
        last_J += torch.arange(len(contexts), device=self.device) * batch.input_ids.shape[1]
        scores_JV = self.model(batch, self.dtype, cache=caches, encoded=reading, logits_at=last_J).logits
        assert isinstance(scores_JV, Tensor)
        self._take(contexts, lengths, reading, caches)
        return scores_JV

    @torch.inference_mode()
    def land(self, reader: PieceReader) -> None:
        """Add a row that has been read in pieces. Raises ValueError without a free slot."""
        if not self.free:
            raise ValueError("the row cannot join, as no slot is free")
        length = reader.cache[0].length
        self._query_token = None
        self._make_room(length)
        row, at = self.rows, slice(self._window.end - length, self._window.end)
        for cache, made in zip(self._cache, reader.cache, strict=True):
            cache.kept[:, row, :, at] = made.kept[:, 0, :, :length]
            if cache.positions is not None and made.positions is not None:
                cache.positions[row, at] = made.positions[0, :length]
        self._take([reader.context], [length], None, reader.cache)

    def _take(
        self,
        contexts: Sequence[DecoderInput],
        lengths: Sequence[int],
        reading: EncoderOutput | None,
        caches: Sequence[PositionedKeyValues],
    ) -> None:
        """Add rows that have been read to those that generate."""
        window, rows, first = self._window, self._window.rows, self._window.first
        next_PJ1, step_PJ1 = (
            torch.from_numpy(np.stack(vectors, 1)[:, :, None].astype(np.int64)).to(self.device)
            for vectors in (
                [decoder_input.next_position for decoder_input in contexts],
                [decoder_input.step for decoder_input in contexts],
            )
        )
        self._next = torch.cat([self._next, next_PJ1], 1) if rows else next_PJ1
        self._step = torch.cat([self._step, step_PJ1], 1) if rows else step_PJ1
        self._starts += [window.end - length for length in lengths]
        window.rows += len(contexts)
        for cache, landing in zip(self._cache, caches, strict=True):
            cache.bias_table = landing.bias_table
            cache.narrow()
        for row in range(rows, window.rows):
            self._hide(row)
        if reading is not None:
            sources = [len(context.source) for context in contexts if context.source is not None]
            self._sources.join(reading, sources)
            self._reading = self._sources.reading()
        self._set_first()
        for row, start in enumerate(self._starts):
            masked = start if row >= rows else first
            if masked > window.first:
                for cache in self._cache:
                    cache.clear(row, window.first, masked)

    @torch.inference_mode()
    def step(self, ids_A: Tensor) -> Tensor:
        """Add one token to every row, int64[A]; returns the scores of the next one, [A, V]."""
        window, asks = self._window, self._query_token
        here, self._next = self._next, self._next + self._step
        ids, positions = ids_A[:, None], here
        if asks is not None:
            ids = torch.cat([ids, torch.full_like(ids, asks)], 1)
            positions = torch.cat([here, self._next], 2)
        end = window.end + ids.shape[1]
        if end > self._columns:
            self._move_back(ids.shape[1])
            end = window.end + ids.shape[1]
        bias = self._bias[: window.rows, :, :, window.first : end] if self._padded else None
        logits = read_columns(self.model, self._single, ids, positions, bias, self._cache, self._reading)
        window.end += 1
        return logits

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        window, last = self._window, self._window.rows - 1
        if not 0 <= row <= last:
            raise ValueError(f"there is no row {row} among {last + 1}")
        if row != last:
            for cache in self._cache:
                cache.move(last, row)
            self._starts[row] = self._starts[last]
            self._hide(row)
        del self._starts[last]
        window.rows = last
        for cache in self._cache:
            cache.narrow()
        keep = [*range(last)]
        if row != last:
            keep[row] = last
        self._next, self._step = self._next[:, keep], self._step[:, keep]
        if self._reading is not None:
            self._sources.leave(row)
            self._reading = self._sources.reading() if last else None
        self._set_first()

    def release(self) -> None:
        """Give the buffers back; the next rows that join get new ones. Raises ValueError while rows generate."""
        if self.rows:
            raise ValueError(f"the buffers of {self.rows} rows are in use")
        self._window.first = self._window.end = 0
        self._columns, self._cache = self._first_columns, []
        self._bias = torch.empty(0, dtype=self.dtype, device=self.device)
        self._sources, self._reading = _Sources(self.slots), None
        self._padded = False

    def _set_first(self) -> None:
        """Set the beginning of the window to that of the longest row."""
        window, starts = self._window, self._starts
        window.first = min(starts, default=0)
        window.end = window.end if starts else 0
        self._padded = bool(starts) and max(starts) > window.first

    def _laid_out(self, contexts: Sequence[DecoderInput]) -> Batch:
        """Pad rows on the right, with the query columns for their first tokens."""
        asks = [] if self._query_token is None else [self._query_token]
        rules = [_with_query(context.rule) if asks else context.rule for context in contexts]
        width = max(map(len, rules))
        shape = (len(contexts), width)
        ids = np.full(shape, self.pad, np.int64)
        positions = np.zeros((len(contexts[0].positions), *shape), np.int64)
        segment = np.full(shape, PADDING, np.int32)
        rank, horizon = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for row, (context, rule) in enumerate(zip(contexts, rules, strict=True)):
            size = len(context)
            ids[row, :size], positions[:, row, :size] = context.input_ids, context.positions
            if asks:
                ids[row, size], positions[:, row, size] = asks[0], context.next_position
            segment[row, : len(rule)], rank[row, : len(rule)], horizon[row, : len(rule)] = 0, rule.rank, rule.horizon
        vectors = [torch.from_numpy(vector).to(self.device) for vector in (segment, rank, horizon)]
        ids_JT, positions_PJT = torch.from_numpy(ids).to(self.device), torch.from_numpy(positions).to(self.device)
        kind = mask_kind(rules, width)
        return Batch.of_rows(ids_JT, positions_PJT, vectors[0], vectors[1], vectors[2], mask=kind)

    def _make_room(self, widest: int) -> None:
        """Move or grow the window when rows of `widest` columns do not fit before its end."""
        window = self._window
        asking = self._query_token is not None
        if not self._cache:
            self._columns = max(self._columns, widest + 1) + asking if self._columns else widest + MARGIN
            like, config = self._bias, self.model.config
            self._cache = [
                SlotCache(self.slots, config, self._columns, like, k == 0, window)
                for k in range(len(self.model.layers))
            ]
            self._bias = like.new_zeros(self.slots, 1, 1, self._columns)
        if window.end < widest:
            if widest > self._columns:
                self._shift(widest, max(2 * self._columns, widest + MARGIN))
            else:
                self._shift(widest, self._columns)

    def _move_back(self, more: int) -> None:
        """Make room for more columns at the end: move the window to the beginning, or grow when it is there already.
        Buffers that a long row has left behind are halved."""
        size = self._window.end - self._window.first
        enough = size + more <= self._columns and 4 * size <= 3 * self._columns
        columns = self._columns if enough else 2 * self._columns + more
        if 8 * (size + more) <= self._columns and self._columns >= 2 * max(self._first_columns, MARGIN):
            columns = self._columns // 2
        self._shift(size, columns)

    def _shift(self, end: int, columns: int) -> None:
        """Move the window so that it ends at column `end`. columns: size of the buffers."""
        window = self._window
        for cache in self._cache:
            cache.shift(end, columns)
        by = end - window.end
        self._starts = [start + by for start in self._starts]
        window.first, window.end = (window.first + by, end) if window.rows else (end, end)
        if columns != self._columns:
            self._columns = columns
            self._bias = self._bias.new_zeros(self.slots, 1, 1, columns)
        for cache in self._cache:
            cache.narrow()
        for row in range(window.rows):
            self._hide(row)

    def _hide(self, row: int) -> None:
        """Mask the columns before the first column of a row."""
        self._bias[row, ..., : self._starts[row]] = float("-inf")
        self._bias[row, ..., self._starts[row] :] = 0.0


def _with_query(rule: AttentionRule) -> AttentionRule:
    """Return a rule with one more column, which sees all columns and which no other column sees."""
    behind = np.array([max(int(rule.rank.max()), int(rule.horizon.max())) + 1], np.int32)
    rank, horizon = np.concatenate([rule.rank, behind]), np.concatenate([rule.horizon, behind])
    return AttentionRule(np.zeros(len(rank), np.int32), rank, horizon)
