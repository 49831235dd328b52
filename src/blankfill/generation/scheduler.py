"""Rows that generate in a loop: they join, get a token in each step, and leave when they are finished.

    scheduler = Scheduler(model, slots=8)
    handle = scheduler.join(decoder_input, Sampling(seed=1), max_new_tokens=100, ends=[vocabulary["eos"]])
    while scheduler.busy:
        for handle, update in scheduler.step().items():
            ...  # update.token is new, or update.finish is why the row ended

More rows may join than there are slots; they wait, and are read when others leave, rows of similar length together. The
tokens of a row depend only on its own decoder input, settings and number.

With `piece`, a step reads about that number of columns of rows that join, so that rows which generate need not
wait: of a longer row whose prompt is causal, a piece in each step (`pieces`), while shorter ones overtake it.

One thread at a time may call `step`; any thread may call `join` and `cancel` meanwhile.

Not here: text (`write`), the cache (`slots`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blankfill.data.packing import padded_batches
from blankfill.generation.logprobs import Logprobs, logprobs_of
from blankfill.generation.pieces import PieceReader, is_readable_in_pieces
from blankfill.generation.sampling import SampledRow, Sampler, Sampling
from blankfill.generation.slots import Slots
from blankfill.model.transformer import Transformer
from blankfill.types import DecoderInput

SLOTS = 32
"""Default number of rows that generate at a time."""
PIECE = 256
"""Usual number of columns of a piece of a long row."""
NOT_FINITE = "not finite"
"""Reason for which a row ends whose scores are no finite numbers."""


@dataclass(frozen=True)
class Update:
    """The result of a step for one row.

    token: the new token; None when the row ended without one. logprobs: of it, for a row that wants them. finish:
    None while the row continues; "end" (it generated one of its ends, which is not returned as a token), "length" (it
    has max_new_tokens), "positions" (the model has no more positions), "not finite" (the model's scores are no finite
    numbers, where that is checked) or "cancelled".
    """

    token: int | None
    finish: str | None = None
    logprobs: Logprobs | None = None
    prompt: Sequence[Logprobs] = ()
    """Of the first token, for a row that wants them: those of the tokens of the decoder input but the first."""


@dataclass(eq=False)
class _Row:
    """A row that waits or generates. left: number of tokens that it may still generate; limit: why it will end then.
    logprobs, prompt_logprobs: see `join`."""

    handle: int
    context: DecoderInput
    sampled: SampledRow
    ends: Collection[int]
    left: int
    limit: str
    logprobs: int | None
    prompt_logprobs: bool


class Scheduler:
    """The rows of one model. A handle identifies a row from `join` until its last update."""

    def __init__(
        self,
        model: Transformer,
        slots: int = SLOTS,
        pad: int = 0,
        columns: int = 0,
        *,
        finite: bool = False,
        piece: int = 0,
    ) -> None:
        """slots: largest number of rows at a time. pad: id of padding. columns: see `Slots`. finite: whether a row ends
        when its scores are not finite; otherwise its next token is arbitrary. piece: number of columns, about, that a
        step reads of rows that join, and of a longer row that can be read in pieces; 0: no limit."""
        self._model, self._finite, self._piece = model, finite, piece
        self._slots = Slots(model, slots, pad, columns)
        self._sampler = Sampler()
        self._running: list[_Row] = []
        self._ids: list[int] = []
        """The last token of each running row."""
        self._waiting: deque[_Row] = deque()
        self._long: tuple[_Row, PieceReader] | None = None
        """The row that is read in pieces; a slot is kept for it."""
        self._cancelled: deque[int] = deque()
        self._handles = itertools.count()
        self._nothing_banned = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=self._slots.device)

    @property
    def busy(self) -> bool:
        """Whether any row generates, is read or waits."""
        return bool(self._running or self._waiting or self._long)

    @property
    def running(self) -> int:
        """Number of rows that have a slot."""
        return len(self._running) + (self._long is not None)

    @property
    def waiting(self) -> int:
        """Number of rows that wait for a slot."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Number of rows that can join without waiting."""
        return max(0, self._open - len(self._waiting))

    @property
    def _open(self) -> int:
        """Number of slots that no row has or will have."""
        return self._slots.free - (self._long is not None)

    def sampled(
        self, sampling: Sampling, history: Sequence[int] = (), banned_V: Tensor | None = None, number: int = 0
    ) -> SampledRow:
        """Make the settings of a row, for `join`. See `SampledRow`."""
        return SampledRow(sampling, history, self._nothing_banned if banned_V is None else banned_V, number)

    def join(
        self,
        decoder_input: DecoderInput,
        sampling: Sampling | SampledRow,
        max_new_tokens: int,
        ends: Collection[int] = (),
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> int:
        """Add a row; returns its handle.

        sampling: settings for choosing tokens; a `SampledRow` (see `sampled`) also has the tokens so far, the tokens
        that are never generated, and the number of the sample. max_new_tokens: largest number of tokens, at least 1.
        ends: tokens that end the row. logprobs: how many of the likeliest tokens each update has with their
        log-probabilities, beside the chosen one; None: no log-probabilities. prompt_logprobs: whether the first update
        also has those of the decoder input's tokens, with `logprobs`; for rows that can be read in pieces.
        """
        if prompt_logprobs and not is_readable_in_pieces(self._model, decoder_input):
            raise ValueError("log-probabilities of the tokens of a row that is not causal")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        sampled = sampling if isinstance(sampling, SampledRow) else self.sampled(sampling)
        most = decoder_input.room + 1
        limit = "positions" if most < max_new_tokens else "length"
        left = min(max_new_tokens, most)
        row = _Row(next(self._handles), decoder_input, sampled, ends, left, limit, logprobs, prompt_logprobs)
        self._waiting.append(row)
        return row.handle

    def cancel(self, handle: int) -> None:
        """Stop a row: the next step returns its last update. No effect on a finished row."""
        self._cancelled.append(handle)

    def release(self) -> None:
        """Give the buffers back. Raises ValueError while any row generates."""
        self._slots.release()

    def step(self) -> dict[int, Update]:
        """Generate a token in each running row, after cancelled rows left and waiting rows joined; returns the
        updates."""
        updates = self._drop_cancelled() if self._cancelled else {}
        scores = [self._slots.step(torch.tensor(self._ids, device=self._slots.device))] if self._running else []
        prompts: dict[int, Sequence[Logprobs]] = {}
        if self._long is not None and (read := self._read_on(*self._long, prompts)) is not None:
            scores.append(read)
        if self._waiting and self._open:
            scores += self._admit()
        if not scores:
            return updates
        scores_BV = scores[0] if len(scores) == 1 else torch.cat(scores)
        failed: Collection[int] = ()
        if self._finite and not scores_BV.sum(dtype=torch.float32).isfinite():  # quicker than a look at each score
            finite_BV = scores_BV.isfinite()
            failed = (~finite_BV.all(1)).nonzero()[:, 0].tolist()
            scores_BV = scores_BV.masked_fill(~finite_BV, 0.0)  # so that a token can be chosen, which is not used
        ids = self._sampler(scores_BV)
        logprobs = self._logprobs(scores_BV, ids)
        over = []
        for k, (row, token) in enumerate(zip(self._running, ids, strict=True)):
            if k in failed:
                updates[row.handle] = Update(None, NOT_FINITE)
                over.append(k)
                continue
            if token in row.ends:
                updates[row.handle] = Update(None, "end")
                over.append(k)
                continue
            row.left -= 1
            updates[row.handle] = Update(
                token, None if row.left else row.limit, logprobs.get(k), prompts.get(row.handle, ())
            )
            if not row.left:
                over.append(k)
        self._ids = ids
        for k in reversed(over):
            self._leave(k)
        return updates

    def _logprobs(self, scores_BV: Tensor, ids: Sequence[int]) -> dict[int, Logprobs]:
        """Return the log-probabilities of the new tokens of the rows that want them, by number."""
        wanted = {k: row.logprobs for k, row in enumerate(self._running) if row.logprobs is not None}
        if not wanted:
            return {}
        rows = [*wanted]
        scores_BV = scores_BV if len(rows) == len(ids) else scores_BV[rows]
        made = logprobs_of(scores_BV, [ids[k] for k in rows], [*wanted.values()])
        return dict(zip(rows, made, strict=True))

    def _read_on(self, row: _Row, reader: PieceReader, prompts: dict[int, Sequence[Logprobs]]) -> Tensor | None:
        """Read a piece of the long row; returns the scores of its first token when it has joined."""
        scores_1V = reader.read()
        if scores_1V is None:
            return None
        self._slots.land(reader)
        self._long = None
        self._running.append(row)
        self._sampler.join(row.sampled)
        if row.prompt_logprobs:
            prompts[row.handle] = reader.logprobs
        return scores_1V

    def _admitted(self) -> list[_Row]:
        """Take the rows that are read at once from those that wait; the first long one begins to be read."""
        rows: list[_Row] = []
        later: list[_Row] = []
        columns = 0
        while self._waiting and len(rows) < self._open:
            row = self._waiting.popleft()
            long = row.prompt_logprobs or (self._piece and len(row.context) > self._piece)
            if long and (row.prompt_logprobs or is_readable_in_pieces(self._model, row.context)):
                if self._long is None:
                    logprobs = row.logprobs or 0 if row.prompt_logprobs else None
                    self._long = row, PieceReader(self._model, row.context, self._piece or PIECE, logprobs)
                else:
                    later.append(row)
                continue
            columns += row.context.columns
            if rows and self._piece and columns > self._piece:
                later.append(row)
                break
            rows.append(row)
        self._waiting.extendleft(reversed(later))
        return rows

    def _admit(self) -> list[Tensor]:
        """Read as many waiting rows as have room; returns the scores of their first tokens."""
        rows = self._admitted()
        if not rows:
            return []
        scores = []
        # longest first, so that shorter rows find room in their columns
        for places in reversed([*padded_batches(np.array([len(row.context) for row in rows]))]):
            alike = [rows[place] for place in sorted(places.tolist())]
            scores.append(self._slots.join([row.context for row in alike]))
            self._running += alike
            for row in alike:
                self._sampler.join(row.sampled)
        return scores

    def _leave(self, k: int) -> None:
        """Remove a running row; the last one takes its number."""
        self._slots.leave(k)
        self._sampler.leave(k)
        self._running[k], self._ids[k] = self._running[-1], self._ids[-1]
        del self._running[-1], self._ids[-1]

    def _drop_cancelled(self) -> dict[int, Update]:
        handles = {self._cancelled.popleft() for _ in range(len(self._cancelled))}
        updates = {}
        if self._long is not None and (handle := self._long[0].handle) in handles:
            updates[handle] = Update(None, "cancelled")
            self._long = None
        for k in reversed(range(len(self._running))):
            if (handle := self._running[k].handle) in handles:
                updates[handle] = Update(None, "cancelled")
                self._leave(k)
        for _ in range(len(self._waiting)):
            row = self._waiting.popleft()
            if row.handle in handles:
                updates[row.handle] = Update(None, "cancelled")
            else:
                self._waiting.append(row)
        return updates
