"""Rows of dialogues: the text before each answer, written out by the chat template, and the answer as the target.

A model whose text before an answer sees itself in both directions (GLM, ChatGLM, UniLM, T5, BART) learns each answer
from a row of its own: the round with all rounds before it; several such rows are packed into one without seeing each
other. A left-to-right model learns all answers of a dialogue in one row, each once, where the text of each prompt
begins with that of the round before (`Format.joins_rounds`).

What is too long loses its oldest rounds, then the message of the system, then the end of the last message; an answer
loses its end, and then has no end token. All of it is counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from blankfill.chatting.messages import Message
from blankfill.chatting.templates import ChatTemplate
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import Problem, UserError, setting
from blankfill.tasks.items import ChatItem, listed
from blankfill.tasks.text.seq2seq import Source, Writing
from blankfill.types import DecoderInput, Example


@dataclass
class Cuts:
    """What did not fit into rows. history: answers that are learnt without some of the rounds before them; system:
    those without the message of the system; message: those whose last message lost its end; answer: lines of the
    dialogues with an answer that lost its end."""

    history: int = 0
    system: int = 0
    message: int = 0
    answer: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Prompt:
    """A prompt that fits. ids: without the special tokens of the row. start: number of older messages that are left
    out, those of the system not counted. system: whether the message of the system is in it, or there is none."""

    ids: list[int]
    start: int = 0
    system: bool = True


class ChatWriting(Writing):
    """Encodes prompts and answers, given as ids: a prompt is laid out as the text before an answer."""

    ended_by = -1
    """The id that ends an answer by the chat template; negative where the model's own does."""

    @property
    def end(self) -> int:
        """The id that ends an answer."""
        return self.ended_by if self.ended_by >= 0 else self.format.target_end

    @property
    def specials(self) -> int:
        """Number of special tokens around a prompt."""
        return len(self.format.before_answer([0]).ids) - 1

    def room(self, answer: int) -> int:
        """Return the most tokens of a prompt before an answer of some tokens."""
        return self.input_format.length - self.specials - self.format.target_columns(answer)

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """Lay out a prompt, which loses its end where it is too long."""
        prompt = first[: max(1, self.room(self.longest))]
        return Source(self.format.before_answer(prompt), len(first) - len(prompt))


class ChatRows:
    """Makes rows of dialogues. prompt_limit: most tokens of a prompt, 0 for what a row holds."""

    def __init__(
        self,
        writing: ChatWriting,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        prompt_limit: int = 0,
        learn_start: bool = True,
    ) -> None:
        """learn_start: whether training rows may have a target at the mask, the token that begins an answer."""
        self.writing, self.format, self.longest = writing, writing.format, writing.longest
        self.tokenizer, self.template = tokenizer, template
        self.prompt_limit, self.learn_start = prompt_limit, learn_start
        self.cuts = Cuts()
        closing = template.closing(tokenizer)
        writing.ended_by = closing[0] if closing else -1

    def room(self, answer: int) -> int:
        """Return the most tokens of a prompt before an answer of some tokens."""
        left = self.writing.room(answer)
        return min(left, self.prompt_limit) if self.prompt_limit else left

    def rows(self, item: ChatItem, learn: bool = False) -> list[Example]:
        """Return the rows of a dialogue, whose targets are its answers. learn: for training, where what does not fit is
        counted."""
        rows = self._joined(item, learn) if self.format.joins_rounds else self._apart(item, learn)
        return list(rows)

    def context(self, messages: Sequence[Message]) -> DecoderInput:
        """Return the decoder input for an answer to the last message."""
        prompt = self.prompt(messages, self.room(self.longest))
        return self.format.target_input(self.format.before_answer(prompt.ids), self.longest)

    def _apart(self, item: ChatItem, learn: bool) -> Iterator[Example]:
        for index in item.answers:
            if index not in item.unasked:
                answer, targets = self._answer(item, index, learn)
                prompt = self.prompt(item.messages[:index], self.room(len(answer)), learn)
                source = self.format.before_answer(prompt.ids)
                row = (self.format.training_target if learn else self.format.target)(source, targets)
                yield row if self.learn_start else without_start(row, source.blank)

    def _joined(self, item: ChatItem, learn: bool) -> Iterator[Example]:
        text: list[int] = []
        answers: list[tuple[int, list[int]]] = []
        prompt = Prompt([])
        for index in item.answers:
            answer, targets = self._answer(item, index, learn)
            before, room = item.messages[:index], self.room(len(answer))
            further = self._ids(before, prompt.start, prompt.system) if text else []
            if text and further[: len(text)] == text and len(further) <= room:
                prompt = Prompt(further, prompt.start, prompt.system)
            else:
                if answers:
                    yield self.format.dialogue(text, answers)
                answers, prompt = [], self.prompt(before, room, learn)
            text = [*prompt.ids, *answer]
            if index not in item.unasked:
                answers.append((len(prompt.ids), targets))
        if answers:
            yield self.format.dialogue(text, answers)

    def _answer(self, item: ChatItem, index: int, learn: bool) -> tuple[list[int], list[int]]:
        """Return an answer as it is read, and its targets."""
        ids: list[int] = self.tokenizer.encode_plain([item.messages[index].content])[0].tolist()
        if len(ids) <= self.longest:
            return ids, [*ids, self.writing.end]
        if learn and index not in item.unasked:
            self.cuts.answer.append(item.line)
        return ids[: self.longest], ids[: self.longest]

    def prompt(self, messages: Sequence[Message], room: int, count: bool = False) -> Prompt:
        """Return what is read before the answer to the last message, of at most `room` tokens. count: whether what is
        left out is counted. Raises UserError when not even the template fits."""
        begin = int(messages[0].role == "system")
        ids = self._ids(messages)
        if len(ids) <= room:
            return Prompt(ids)
        starts = range(0, len(messages) - begin, 2)
        place = bisect.bisect_left(starts, True, key=lambda start: len(self._ids(messages, start)) <= room)
        self.cuts.history += count and len(starts) > 1
        if place < len(starts):
            return Prompt(self._ids(messages, starts[place]), starts[place])
        start, last = starts[-1], messages[-1]
        self.cuts.system += count and begin > 0
        ids = self._ids([last])
        if len(ids) <= room:
            return Prompt(ids, start, not begin)
        self.cuts.message += count
        whole = last.content
        size_kept = bisect.bisect_left(
            range(1, len(whole) + 1), True, key=lambda size: len(self._ids([Message("user", whole[:size])])) > room
        )
        if not size_kept:
            raise UserError(
                f"the chat template alone takes more than the {room} tokens that a row has for a prompt; give a larger "
                f"{setting('max_length')} or a smaller {setting('max_target_length')}"
            )
        return Prompt(self._ids([Message("user", whole[:size_kept])]), start, not begin)

    def _ids(self, messages: Sequence[Message], start: int = 0, system: bool = True) -> list[int]:
        """Return the ids of a prompt without its oldest `start` messages. system: with that of the system."""
        begin = int(messages[0].role == "system")
        left = [*(messages[:begin] if system else ()), *messages[begin + start :]]
        return self.template.prompt_ids(left, self.tokenizer)

    def remarks(self) -> list[str]:
        """Return sentences on what did not fit."""
        cuts, length = self.cuts, self.writing.input_format.length
        said = []
        if cuts.history:
            said.append(
                f"{cuts.history:,} answers are learnt without the oldest rounds before them, which do not fit into "
                f"{length} tokens; see {setting('max_length')}"
            )
        if cuts.system:
            said.append(f"{cuts.system:,} of them also without the message of the system")
        if cuts.message:
            said.append(f"{cuts.message:,} of them with only the beginning of the message that they answer")
        if cuts.answer:
            said.append(
                f"{len(cuts.answer):,} answers are longer than {self.longest} tokens; they are learnt up to there, "
                f"without an end (line or record {listed(sorted(set(cuts.answer)))} of the training data); see "
                f"{setting('max_target_length')}"
            )
        return [Problem(sentence) for sentence in said]


def without_start(row: Example, blank: int) -> Example:
    """Return a row without a target at the mask of its answer, the column `blank`."""
    others = row.target_index != blank
    if others.all():
        return row
    return replace(row, target_index=row.target_index[others], target_ids=row.target_ids[others])
