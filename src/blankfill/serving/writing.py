"""Rows that write for requests: they join and leave the running batch of a model between its steps.

A handler lays out the rows of its request and starts them; the thread of the model calls `Writing.step`, and what a
step has written is handed to each event loop in one call. Where slots are few, requests take turns: each gives one row,
so that a request of a hundred answers does not hold up a request of one.

    with writing.running(answers, tokens) as inbox:  # dropped rows leave at the next step
        async for pieces in inbox:           # until every answer has finished
            ...

An answer whose scores are not finite ends with an error; an exception in a step is the error of all answers with it,
and the next ones get a new scheduler. Buffers that have grown are given back when nothing is left to write.

Not here: prompts and texts (`generation.continuation`, `chatting.engine`), the shape of answers (`routes`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blankfill.generation.continuation import WrittenText
from blankfill.generation.logprobs import Logprobs
from blankfill.generation.scheduler import NOT_FINITE, PIECE, Scheduler, Update
from blankfill.generation.text_stream import token_text
from blankfill.serving.engine import Engine
from blankfill.serving.errors import ApiError
from blankfill.serving.requests import counted

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.model.transformer import Transformer

log = logging.getLogger("blankfill.serving")


@dataclass(frozen=True)
class Token:
    """A token of an answer with its log-probabilities.

    offset: characters of the answer before it. likeliest: the texts of `logprobs.ids`.
    """

    id: int
    text: str
    offset: int
    logprobs: Logprobs
    likeliest: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """What is new of an answer. index: of the answer. finish: None until the last piece, then "stop" or "length".
    count: number of its tokens so far."""

    index: int
    text: str
    tokens: Sequence[Token]
    finish: str | None
    count: int
    error: Exception | None = None
    prompt: Sequence[Logprobs] = ()
    """In the first piece of an answer that wants them: the log-probabilities of the tokens of its row but the first."""


class Inbox:
    """Pieces of one request that its handler has not taken yet; lives in the event loop."""

    def __init__(self, answers: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._pieces: list[Piece] = []
        self._arrived = asyncio.Event()
        self._open = answers

    def put(self, piece: Piece) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[list[Piece]]:
        """Yield the pieces that have arrived, until every answer has its last. Raises the error of an answer."""
        while self._open:
            await self._arrived.wait()
            self._arrived.clear()
            pieces, self._pieces = self._pieces, []
            if error := next((piece.error for piece in pieces if piece.error is not None), None):
                raise error
            self._open -= sum(piece.finish is not None for piece in pieces)
            yield pieces


@dataclass(frozen=True)
class Whole:
    """A finished answer."""

    text: str
    tokens: Sequence[Token]
    finish: str
    count: int
    prompt: Sequence[Logprobs] = ()


async def collected(inbox: Inbox, answers: int) -> list[Whole]:
    """Return the finished answers of a request, in order. Raises the error of an answer."""
    parts: list[list[Piece]] = [[] for _ in range(answers)]
    async for pieces in inbox:
        for piece in pieces:
            parts[piece.index].append(piece)
    return [
        Whole(
            "".join(piece.text for piece in made), [token for piece in made for token in piece.tokens],
            made[-1].finish or "stop", made[-1].count, made[0].prompt,
        )
        for made in parts
    ]  # fmt: skip


class Answer:
    """One row that writes. Made in the event loop, then used by the thread of the model alone."""

    def __init__(
        self,
        index: int,
        text: WrittenText,
        tokenizer: Tokenizer,
        *,
        stream: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> None:
        """index: in the request. stream: whether to hand over pieces, and not the whole alone. logprobs: number of
        likeliest tokens with log-probabilities; None: no log-probabilities. prompt_logprobs: whether those of the
        prompt are wanted too."""
        self.index, self.text, self.logprobs, self.prompt_logprobs = index, text, logprobs, prompt_logprobs
        self._prompt: Sequence[Logprobs] = ()
        self.dropped = False
        self.handle = -1
        self.inbox: Inbox | None = None
        self._tokenizer, self._stream = tokenizer, stream
        self._pieces: list[str] = []
        self._tokens: list[Token] = []
        self._ids: list[int] = list(text.sampled.history)[-8:]
        self.count = self._offset = 0

    def take(self, update: Update) -> Piece | None:
        """Take the result of a step; returns what is to be handed over, if anything."""
        if update.finish == NOT_FINITE:
            return self.failed(
                ApiError(
                    500,
                    f"the model's scores are not finite numbers after {self.count} tokens of the answer; with weights "
                    "in fp16 they may be too large, so serve it with dtype fp32 or bf16",
                    "scores_not_finite",
                )
            )
        piece, finish = "", update.finish
        if update.token is not None:
            self.count += 1
            piece = self.text.add(update.token)
            self._prompt = update.prompt or self._prompt
            if update.logprobs is not None:
                self._tokens.append(self._scored(update.token, update.logprobs))
        if self.text.stopped:
            finish = "end"
        if finish is not None:
            piece += self.text.end(finish)
            if self.text.stopped:  # perhaps by the last word, which was held back
                finish = "end"
        if piece:
            self._pieces.append(piece)
        if finish is None and not (self._stream and self._pieces):
            return None
        text, self._pieces = "".join(self._pieces), []
        tokens, self._tokens = self._tokens, []
        if self.text.stopped:
            tokens = [token for token in tokens if token.offset < self.text.length]
        if self.text.dropped:
            tokens = [replace(token, offset=max(0, token.offset - self.text.dropped)) for token in tokens]
        prompt, self._prompt = self._prompt, ()
        reason = None if finish is None else "stop" if finish == "end" else "length"
        return Piece(self.index, text, tokens, reason, self.count, prompt=prompt)

    def failed(self, error: Exception) -> Piece:
        """Return the piece of an answer that fails."""
        return Piece(self.index, "", (), "error", self.count, error)

    def _scored(self, token: int, logprobs: Logprobs) -> Token:
        likeliest = tuple(token_text(self._tokenizer, self._ids, id) for id in logprobs.ids)
        text = token_text(self._tokenizer, self._ids, token)
        self._ids = [*self._ids[-7:], token]
        scored = Token(token, text, self._offset, logprobs, likeliest)
        self._offset += len(text)
        return scored


class Writing:
    """The rows of one model that write: a `engine.Stepper`."""

    def __init__(self, engine: Engine, model: Transformer, pad: int = 0) -> None:
        """pad: id of padding."""
        self.engine, self.model, self.pad = engine, model, pad
        self._scheduler = self._new_scheduler()
        self._rows: dict[int, Answer] = {}
        self._incoming: deque[Answer] = deque()
        self._queues: OrderedDict[Inbox | None, deque[Answer]] = OrderedDict()
        """The answers of each request that have no slot; the request whose turn it is comes first."""
        self._queued = 0
        self._gone: deque[Answer] = deque()

    @property
    def busy(self) -> bool:
        """Whether any answer is written, waits, or is to be dropped."""
        return bool(self._incoming or self._gone or self._queued or self._scheduler.busy)

    @property
    def waiting(self) -> int:
        """Number of answers that wait for a slot."""
        return len(self._incoming) + self._queued + self._scheduler.waiting

    @property
    def slots_in_use(self) -> int:
        """Number of answers that are read or written now."""
        return self._scheduler.running

    @property
    def rows(self) -> int:
        """Number of answers that are known to the thread: that wait, are read, or write."""
        return len(self._rows) + self._queued

    @contextmanager
    def running(self, answers: Sequence[Answer], read: int = 0) -> Iterator[Inbox]:
        """Write answers, and drop what is left of them at the end of the block. Called in the event loop.

        read: number of tokens of the prompts, for the numbers of the server.
        """
        inbox = Inbox(len(answers))
        for answer in answers:
            answer.inbox = inbox
        self.engine.hand_over(lambda: self._incoming.extend(answers))
        if self.engine.metrics is not None:
            self.engine.metrics.texts(self.engine.name, len(answers))
        counted(read=read)
        try:
            yield inbox
        finally:
            counted(written=sum(answer.count for answer in answers))
            for answer in answers:
                answer.dropped = True
            self._gone.extend(answers)
            self.engine.wake()

    def step(self) -> None:
        """Let rows join and leave, and write a token of each."""
        pieces: list[tuple[Answer, Piece]] = []
        try:
            self._leave_and_join(pieces)
            updates = self._scheduler.step() if self._scheduler.busy else {}
            self._take(updates, pieces)
            if not self._scheduler.busy:
                self._scheduler.release()
        except Exception as error:
            log.exception("a step of the model %s failed; its %d answers end", self.engine.name, len(self._rows))
            pieces += [(answer, answer.failed(error)) for answer in self._rows.values()]
            self._rows, self._scheduler = {}, self._new_scheduler()
        _deliver(pieces)

    def _take(self, updates: Mapping[int, Update], pieces: list[tuple[Answer, Piece]]) -> None:
        """Give rows what a step has written, and collect what is to be handed over."""
        for handle, update in updates.items():
            answer = self._rows.get(handle)
            if answer is None:
                continue
            try:
                piece = answer.take(update)
            except Exception as error:
                log.exception("the text of an answer of the model %s failed", self.engine.name)
                piece = answer.failed(error)
            if piece is None:
                continue
            pieces.append((answer, piece))
            if piece.finish is not None:
                del self._rows[handle]
                if update.finish is None:
                    self._scheduler.cancel(handle)

    def _leave_and_join(self, pieces: list[tuple[Answer, Piece]]) -> None:
        while self._incoming:
            answer = self._incoming.popleft()
            if not answer.dropped:
                self._queues.setdefault(answer.inbox, deque()).append(answer)
                self._queued += 1
        while self._gone:
            answer = self._gone.popleft()
            if self._rows.pop(answer.handle, None) is not None:
                self._scheduler.cancel(answer.handle)
            self._queued -= len(self._queues.pop(answer.inbox, ()))  # all answers of a request are dropped together
        while self._queues and self._scheduler.waiting < self.engine.settings.slots:  # of which short ones overtake
            inbox, queue = next(iter(self._queues.items()))
            answer = queue.popleft()
            self._queued -= 1
            if queue:
                self._queues.move_to_end(inbox)
            else:
                del self._queues[inbox]
            self._join(answer, pieces)

    def _join(self, answer: Answer, pieces: list[tuple[Answer, Piece]]) -> None:
        text = answer.text
        try:
            answer.handle = self._scheduler.join(
                text.row, text.sampled, text.most, text.ends, answer.logprobs, answer.prompt_logprobs
            )
        except Exception as error:
            log.exception("a row cannot join the model %s", self.engine.name)
            pieces.append((answer, answer.failed(error)))
            return
        self._rows[answer.handle] = answer

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self.model, self.engine.settings.slots, self.pad, finite=True, piece=PIECE)


def _deliver(pieces: Sequence[tuple[Answer, Piece]]) -> None:
    """Hand pieces over to their event loops, in one call for each."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Inbox, Piece]]] = {}
    for answer, piece in pieces:
        if answer.inbox is not None:
            by_loop.setdefault(answer.inbox.loop, []).append((answer.inbox, piece))
    for loop, arrived in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put, arrived)
        except RuntimeError:  # the loop was closed meanwhile, and nobody awaits the pieces
            log.debug("pieces for a closed event loop are dropped")


def _put(arrived: Sequence[tuple[Inbox, Piece]]) -> None:
    for inbox, piece in arrived:
        inbox.put(piece)
