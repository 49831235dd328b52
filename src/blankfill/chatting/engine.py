"""Answers to conversations: the prompt of a template, trimmed to the model's context, and the text behind it.

    chat = Chat(speaker_of(loaded), built_in("plain"), ChatOptions())
    answering = chat.answer([user("Hello")])
    for piece in answering:
        print(piece, end="")
    answering.reply.text

What does not fit loses its oldest rounds, a question with its answer at a time, until a quarter of the context is left
for the answer (less where `max_new_tokens` is less). A message of the system stays. A last message that does not fit
alone is an error.

Scores that are not finite numbers, as fp16 gives when it overflows, end an answer with an error. ChatGLM-6B's own code
replaces them by blanks and continues, which hides from a reader that the model has failed.

Not here: the conversation of a terminal (`session`), models (`inference`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blankfill.chatting.messages import Message, assistant, check
from blankfill.chatting.options import ChatOptions
from blankfill.chatting.templates import ChatTemplate
from blankfill.corpus.unknown import counting, uncounted
from blankfill.errors import UserError, setting
from blankfill.generation.cancel import CancelFlag, is_cancelled
from blankfill.generation.engine import banned
from blankfill.generation.sampling import Penalties, SampledRow
from blankfill.generation.scheduler import NOT_FINITE, SLOTS, Scheduler
from blankfill.generation.text_stream import SPACES, Detokenizer, Stream
from blankfill.generation.write import MOST_COLUMNS
from blankfill.types import DecoderInput, Vocabulary

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.model.transformer import Transformer


class TooLongError(UserError):
    """The last message of a conversation does not fit into the model's context."""


@dataclass(frozen=True)
class Speaker:
    """What an answer needs of a model.

    row: makes the input of the decoder from the ids of a prompt; UserError when they are too many. ends: ids that end
    an answer. longest: largest number of tokens of an answer; 0: no limit of its own. tuned: whether the model has
    learnt where an answer ends.
    """

    model: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    path: Path
    row: Callable[[Sequence[int]], DecoderInput]
    ends: tuple[int, ...]
    longest: int = 0
    tuned: bool = False


def speaker_of(loaded: Loaded) -> Speaker:
    """Return the speaker of a pretrained model, which continues the prompt. Raises UserError for one that does not
    write."""
    objective, vocabulary = loaded.objective, loaded.vocabulary
    if not objective.writes:
        raise UserError(
            f"{loaded.path}: a model of the objective {objective.name} does not write; chat with a model of the "
            "objective chatglm, gpt, glm or unilm, or one that was fine-tuned to write"
        )
    loaded.check_tokens("generate", "which an answer needs")
    layout = loaded.format

    def row(ids: Sequence[int]) -> DecoderInput:
        made = layout.continuation(ids)
        begin = made.input_ids[:2].tolist()
        if ids and begin == [ids[0], ids[0]] and ids[1:2] != [ids[0]] and ids[0] in vocabulary.special:
            return layout.with_bos(False).continuation(ids)  # the template has written the begin token
        return made

    ends = tuple(layout.end_ids)
    return Speaker(loaded.model, loaded.tokenizer, vocabulary, loaded.path, row, ends)


@dataclass(frozen=True)
class Reply:
    """An answer.

    text: the answer. finish: "end" (the model ended it), "length" (it has `max_new_tokens`), "positions" (the context
    is full) or "cancelled". tokens, prompt_tokens: of the answer, and of the prompt with the special tokens of its row.
    dropped: number of the oldest rounds that did not fit. messages: the conversation with the answer.
    """

    text: str
    finish: str
    tokens: int
    prompt_tokens: int
    dropped: int
    messages: tuple[Message, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the reply as plain values for `json.dumps`."""
        return {
            "answer": self.text, "finish": self.finish, "tokens": self.tokens, "prompt_tokens": self.prompt_tokens,
            "dropped_rounds": self.dropped, "messages": [message.to_json() for message in self.messages],
        }  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A conversation as it is read. row: the decoder's input. ids: of the text. most: largest number of tokens of the
    answer. dropped: number of rounds that were left out."""

    messages: tuple[Message, ...]
    row: DecoderInput
    ids: list[int]
    most: int
    dropped: int


class Chat:
    """Answers conversations with one model, in one format."""

    def __init__(
        self,
        speaker: Speaker,
        template: ChatTemplate,
        options: ChatOptions | None = None,
        *,
        ends: Sequence[int] = (),
        process: Callable[[str], str] | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """ends: further ids that end an answer; the token that the template writes behind one is found here. process:
        changes the text of an answer. allow_unknown: answer although most of a prompt is unknown to the tokenizer."""
        self.speaker, self.template, self.options = speaker, template, options or ChatOptions()
        self.options.check()
        template.check()
        self.process, self.allow_unknown, self.quiet = process, allow_unknown, False
        rows = speaker.model.config.vocab_size
        self.stop = template.next_question(speaker.tokenizer) if not speaker.tuned else ""
        """The text at which an answer of a pretrained model ends, since it does not know where to end."""
        ids = dict.fromkeys([*speaker.ends, *template.closing(speaker.tokenizer), *ends])
        self.ends = [id for id in ids if id < rows]
        self.banned_V = torch.from_numpy(banned(speaker.vocabulary, rows, keep=self.ends))
        self.banned_V = self.banned_V.to(speaker.model.device)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Return a conversation as it is read, without the oldest rounds that do not fit. Raises UserError when the
        last message does not fit either."""
        check(messages)
        begin = 1 if messages[0].role == "system" else 0
        rounds = (len(messages) - begin) // 2
        last = self._placed(messages, rounds)
        if isinstance(last, UserError):
            with_system = " with that of the system" if begin else ""
            raise TooLongError(f"the message{with_system} does not fit into the model: {last.template}")
        if not last.most:
            raise TooLongError(
                f"the message has {len(last.row):,} tokens with those around it, so that "
                f"{setting('max_length', self.options.max_length)} leaves no room for an answer; shorten the message"
            )
        quarter = min(MOST_COLUMNS, (last.row.columns + last.row.room) // 4)
        if self.options.max_length:
            quarter = min(quarter, self.options.max_length // 4)
        wanted = min(last.most, max(1, quarter))
        low, high = 0, rounds  # dropping `high` rounds is enough
        best = last
        while low < high:
            middle = (low + high) // 2
            placed = self._placed(messages, middle)
            if isinstance(placed, UserError) or placed.most < wanted:
                low = middle + 1
            else:
                high, best = middle, placed
        return best

    def _placed(self, messages: Sequence[Message], dropped: int) -> Prompt | UserError:
        """Return a conversation without some rounds, or the error of one that is too long."""
        begin = 1 if messages[0].role == "system" else 0
        shorter = (*messages[:begin], *messages[begin + 2 * dropped :])
        with uncounted():
            ids = self.template.prompt_ids(shorter, self.speaker.tokenizer)
        try:
            row = self.speaker.row(ids)
        except UserError as error:
            return error
        limits = [row.room + 1, *(limit for limit in (self.options.max_new_tokens, self.speaker.longest) if limit)]
        if self.options.max_length:
            limits.append(self.options.max_length - len(row))
        return Prompt(shorter, row, ids, max(0, min(limits)), dropped)

    def answer(self, messages: Sequence[Message], cancel: CancelFlag | None = None, number: int = 0) -> Answering:
        """Return the answer to a conversation, written while it is iterated. number: of the sample; the same seed with
        another number draws another answer. Raises UserError for messages that cannot be answered."""
        return Answering(self, messages, self.read(messages), cancel, number)

    def read(self, messages: Sequence[Message]) -> Prompt:
        """Return `prompt`. Raises UserError also for a last message that is unknown to the tokenizer."""
        with counting("the message", allow=self.allow_unknown, notes=not self.quiet):
            prompt = self.prompt(messages)
            self.speaker.tokenizer.encode_plain([messages[-1].content])
        return prompt

    def with_options(self, options: ChatOptions, allow_unknown: bool = False) -> Chat:
        """Return the same for a server, with other options and without notices. Raises ConfigError for values out of
        range."""
        options.check()
        chat = copy.copy(self)
        chat.options, chat.allow_unknown, chat.quiet = options, allow_unknown, True
        return chat

    def answer_many(self, dialogues: Sequence[Sequence[Message]], cancel: CancelFlag | None = None) -> list[Reply]:
        """Answer several conversations in one batch, each as it would be alone."""
        return self.write([self.answer(messages) for messages in dialogues], cancel)

    def write(self, answerings: Sequence[Answering], cancel: CancelFlag | None = None) -> list[Reply]:
        """Write several answers in one batch, each as it would be alone. answerings: as `answer` returns them, not yet
        iterated."""
        for _ in _run(answerings, self.speaker, cancel):
            pass
        return [answering.reply for answering in answerings]


class Answering:
    """An answer while it is written: iterate it once for the pieces of its text.

    `reply` is the answer so far; of one that was not iterated to its end, "cancelled".
    """

    dropped = 0
    """Its pieces have no white space at their beginning; log-probabilities count characters from the first token."""

    def __init__(
        self, chat: Chat, messages: Sequence[Message], prompt: Prompt, cancel: CancelFlag | None = None,
        number: int = 0, stops: Sequence[str] = (), penalties: Penalties | None = None,
    ) -> None:  # fmt: skip
        """prompt: of the messages. number: of the sample. stops: texts that end the answer."""
        speaker = chat.speaker
        self.prompt, self.row, self.most = prompt, prompt.row, prompt.most
        self.ends, self.cancel, self.path = chat.ends, cancel, speaker.path
        self.sampled = SampledRow(chat.options.sampling, prompt.ids, chat.banned_V, number, penalties)
        self._speaker, self._messages, self._finish, self._tokens = speaker, tuple(messages), "cancelled", 0
        self._words = Detokenizer(speaker.tokenizer)
        self._stream = answer_stream([chat.stop, *stops], chat.process)

    def __iter__(self) -> Iterator[str]:
        for pieces in _run([self], self._speaker, self.cancel):
            yield from filter(None, pieces)

    @property
    def reply(self) -> Reply:
        """The answer so far."""
        text, prompt = self._stream.text, self.prompt
        said = (assistant(text),) if text else ()
        return Reply(
            text, self._finish, self._tokens, prompt.row.columns, prompt.dropped, (*self._messages, *said)
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Number of characters of its tokens so far, with white space around the text."""
        return self._stream.length

    @property
    def stopped(self) -> bool:
        """Whether the text has ended before the model said so."""
        return self._stream.stopped

    def add(self, token: int) -> str:
        """Take a token; returns the text that is now certain."""
        self._tokens += 1
        return self._stream.push(self._words.push(token))

    def end(self, finish: str) -> str:
        """End the answer; returns the rest of its text. Raises UserError for scores that are not finite."""
        if finish == NOT_FINITE:
            raise UserError(
                f"{self.path}: the model's scores are not finite numbers after {self._tokens} tokens of the answer; "
                f"with weights in fp16 they may be too large, so try {setting('dtype', 'fp32')} or bf16"
            )
        self._finish = "end" if self.stopped else finish
        return self._stream.push(self._words.flush()) + self._stream.end()


def _run(answerings: Sequence[Answering], speaker: Speaker, cancel: CancelFlag | None) -> Iterator[list[str]]:
    """Write answers; yields the new pieces of each for each token. Raises UserError for scores that are not finite."""
    pad = speaker.vocabulary.roles.get("pad", 0)
    columns = max(len(answering.row) + min(answering.most, MOST_COLUMNS) for answering in answerings)
    scheduler = Scheduler(speaker.model, min(len(answerings), SLOTS), pad, columns, finite=True)
    handles = {
        scheduler.join(answering.row, answering.sampled, answering.most, answering.ends): index
        for index, answering in enumerate(answerings)
    }
    while scheduler.busy:
        if is_cancelled(cancel):
            for handle in handles:
                scheduler.cancel(handle)
        pieces = [""] * len(answerings)
        for handle, update in scheduler.step().items():
            index = handles[handle]
            if update.token is not None:
                pieces[index] += answerings[index].add(update.token)
                if answerings[index].stopped:
                    scheduler.cancel(handle)
            if update.finish is not None:
                del handles[handle]
                pieces[index] += answerings[index].end(update.finish)
        yield pieces


def answer_stream(stops: Sequence[str] = (), process: Callable[[str], str] | None = None) -> Stream:
    """Return the text of an answer in pieces: processed, or without white space around it. See `Stream`."""
    return Stream(stops, process, _CHANGING) if process else Stream(stops, str.strip, SPACES)


_CHANGING = SPACES + ",!:;?[]训练时间"
"""Characters that ChatGLM's processing may change at the end of a text when more follows."""
