"""How a model is asked for the answer to a blank: one class for each way of filling, all with the same two questions.

`blank(before, answer, after)` asks for an answer between two texts, `tokens(text, …)` for the tokens of a running text.
Both give Examples whose answers, in order, are what is asked for; `answers.answered` computes them. So a measurement
knows nothing of families, and a family that fills blanks in another way (T5's second stack) is one class here.

Three things differ between the ways and must be told beside every figure: whether the model sees what follows a blank,
whether it must find the blank's length itself, and how many answers say that it is at its end.

GLM     both sides, length unknown: `[CLS] before [MASK] after <eos>`, then the answer and [E], as in training.
masked  both sides, length given: as many [MASK]s as the answer has tokens, answered from left to right, each with the
        ones before it in place. Telling the length helps much, so these figures do not compare with the others'.
XLNet   the same, but nothing stands for a token that is hidden: a query slot at its place asks for it.
GPT     what stands before alone, length unknown but never asked for: the answer's tokens and no end.
T5      both sides, length unknown: the encoder reads a sentinel in the blank's place, the decoder has written it, then
        the answer and what ends it: the next sentinel, or the end of the text where nothing follows the blank.
BART    both sides, length unknown: the encoder reads a mask in the blank's place, the decoder has written the text
        before it, then the answer and the token that follows it in the text, which says that it is at its end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from blankfill.generation.fill import check_can_fill
from blankfill.generation.rows import longest_role
from blankfill.objectives import T5, Bart, Glm, Gpt, Xlnet
from blankfill.objectives.format import join
from blankfill.objectives.glm import GlmChoice, infill
from blankfill.objectives.two_stacks import two_sided
from blankfill.objectives.xlnet import two_streams
from blankfill.tasks.input_format import InputFormat
from blankfill.types import AttentionRule, Example, Int32

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

NOTHING = np.zeros(0, np.int32)


class Scorer(ABC):
    """A model that is asked for answers."""

    sides: ClassVar[str]
    """What it sees of the text around a blank: "both" or "left"."""
    length: ClassVar[str]
    """Whether it is told how many tokens an answer has: "unknown" or "given"."""
    ends: ClassVar[int] = 0
    """How many answers behind those of a blank say that it is at its end."""
    room: int
    """The most tokens of text that it reads at a time, the answer among them."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.vocabulary = loaded, loaded.vocabulary

    @abstractmethod
    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """The answer to a blank between two texts; all answers in order are its tokens, and `ends` more.

        The three together have at most `room` tokens.
        """

    def reads(self, before: Int32, after: Int32) -> int:
        """How many tokens around a blank it reads."""
        return len(before) + (len(after) if self.sides == "both" else 0)


class Writer(Scorer):
    """A model that writes from left to right, and so gives a text a probability."""

    length = "unknown"

    @abstractmethod
    def tokens(self, text: Int32, begin: int, first: int, stop: int) -> Example:
        """Tokens `first` … `stop` − 1 of a text as answers, given those from `begin` on; `stop` − `begin` ≤ `room`."""


class GptScorer(Writer):
    """GPT: a text begins after the end-of-text token, as documents do in training."""

    sides = "left"

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        (self.room,) = loaded.model.config.position_sizes

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """The text before the blank, then the answer."""
        text = join(before, answer)
        return [self.tokens(text, 0, len(before), len(text))]

    def tokens(self, text: Int32, begin: int, first: int, stop: int) -> Example:
        """A plain left-to-right row; a window inside the text begins with the token before it."""
        row = text[begin - 1 : stop] if begin else join([self.vocabulary["eos"]], text[:stop])
        index = np.arange(len(row) - 1, dtype=np.int32)
        asked = index[first - begin :]
        return Example(row[:-1].copy(), index[None], AttentionRule.causal(len(index)), asked, row[1:][asked])


class GlmScorer(Writer):
    """GLM: blanks as in training; running text as a document-level blank that ends the row (its paper, section 3.3).

    both_ways: the text before a window is read in Part A, where it sees itself both ways; otherwise it is written in
    Part B like the window's own, which makes the model a left-to-right one.
    """

    sides = "both"
    ends = 1

    def __init__(self, loaded: Loaded, objective: Glm, both_ways: bool = True) -> None:
        super().__init__(loaded)
        self.both_ways = both_ways
        role = longest_role(objective) if objective.task_mask else "mask"
        self.running = role if role in self.vocabulary.roles else "mask"
        self.room = min(loaded.model.config.position_sizes) - 3  # beside [CLS] and <eos>; the tables have a row more

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """The answer in Part B, closed by [E]. A blank at the end of the text is not followed by <eos>: the original
        code asks for last words so."""
        first = 1 + len(before)
        end = [self.vocabulary["eos"]] if len(after) else NOTHING
        row = join([self.vocabulary["cls"]], before, answer, after, end)
        return [infill(row, GlmChoice(((first, first + len(answer)),), (0,)), self.vocabulary)]

    def tokens(self, text: Int32, begin: int, first: int, stop: int) -> Example:
        """Part A is `[CLS] context [gMASK]`, Part B the rest; no [E] is asked for, since the text goes on."""
        row = join([self.vocabulary["cls"]], text[begin:stop])
        start = 1 + (first - begin if self.both_ways else 0)
        choice = GlmChoice(((start, len(row)),), (0,), self.running, to_end=True)
        whole = infill(row, choice, self.vocabulary)
        asked = slice(len(whole.target_ids) - (stop - first), None)
        return replace(whole, target_index=whole.target_index[asked], target_ids=whole.target_ids[asked])


class MaskedScorer(Scorer):
    """BERT, RoBERTa and ALBERT: a mask for each token of the answer."""

    sides = "both"
    length = "given"

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self.input_format = InputFormat(loaded.objective, loaded.vocabulary, loaded.model.config.position_sizes[0], 0)
        self.room = self.input_format.room(pair=False)

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """A row for each token, in which it and the later ones are masked."""
        text = join(before, answer, after)
        places = range(len(before), len(before) + len(answer))
        return [self.masked(text, place, range(place, places.stop)) for place in places]

    def masked(self, text: Int32, asked: int, hidden: Sequence[int]) -> Example:
        """The token at one place of a text as the answer, those at the places `hidden` masked, itself among them."""
        row = text.copy()
        row[list(hidden)] = self.vocabulary["mask"]
        framed = self.input_format.frame(row)
        column = np.array([framed.first[0] + asked], np.int32)
        return replace(framed.example, target_index=column, target_ids=text[asked : asked + 1])


class XlnetScorer(MaskedScorer):
    """XLNet: the row of a text, its hidden tokens last in the order, a query slot for each that is asked for.

    What is not hidden sees all of itself, [SEP] and [CLS] as well, as where `fill` reads a text.
    """

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """One row: each token is asked for given those to its left, which the text around the blank does not see, as
        in training."""
        places = np.arange(len(before), len(before) + len(answer), dtype=np.int32)
        return [self.ordered(join(before, answer, after), places, asked=len(answer))]

    def masked(self, text: Int32, asked: int, hidden: Sequence[int]) -> Example:
        """The token at one place as the answer; nothing that it sees has seen those at the places `hidden`."""
        order = np.array([asked, *(place for place in hidden if place != asked)], np.int32)
        return self.ordered(text, order, asked=1)

    def ordered(self, text: Int32, hidden: Int32, asked: int) -> Example:
        """The first `asked` of the places `hidden` as answers, each given what is not hidden and those before it."""
        framed = self.input_format.frame(text)
        row, columns = framed.example.input_ids, np.int32(framed.first[0]) + hidden
        loose = np.ones(len(row), np.bool_)
        loose[columns] = False
        order = np.zeros(len(row), np.int32)
        order[columns] = np.arange(len(hidden))
        segments, block = framed.example.positions[1], (0, len(row))
        return two_streams(row, segments, loose, columns[:asked], order, [block], self.vocabulary)


class StackScorer(Scorer):
    """A model of two stacks: the encoder reads the text with its blank, the decoder writes the answer."""

    sides = "both"
    length = "unknown"
    ends = 1
    beside: ClassVar[int]
    """Tokens of a side that are not text."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        objective = loaded.objective
        self.start = self.vocabulary[objective.decoder_start]
        self.first = objective.position_offset if isinstance(objective, Bart) else 0
        self.room = loaded.model.config.position_sizes[0] - self.first - self.beside

    def written(self, source: Int32, begun: Int32, asked: Int32) -> list[Example]:
        """A row whose decoder has written `begun` behind its start, and is asked for `asked`."""
        example = two_sided(source, join(begun, asked), self.start, self.first)
        index, ids = example.target_index[len(begun) :], example.target_ids[len(begun) :]
        return [replace(example, target_index=index, target_ids=ids)]


class T5Scorer(StackScorer):
    """T5: spans behind sentinels, as in training."""

    beside = 2  # a sentinel and the end, on either side

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """One sentinel on each side, and its end."""
        end, sentinels = [self.vocabulary["eos"]], [[number] for number in self.vocabulary.sentinels]
        close = sentinels[1] if len(after) and len(sentinels) > 1 else end
        return self.written(join(before, sentinels[0], after, end), join(sentinels[0]), join(answer, close))


class BartScorer(StackScorer):
    """BART: a blank is one mask, and all of the text is written."""

    beside = 4  # start and both ends, and the mask

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """The text up to the blank is written; asked are the answer and the token behind it."""
        cls, sep, mask = ([self.vocabulary[role]] for role in ("cls", "sep", "mask"))
        close = join(after, sep)[:1]
        return self.written(join(cls, before, mask, after, sep), join(cls, before), join(answer, close))


def scorer_of(loaded: Loaded, both_ways: bool = True) -> Scorer:
    """How a model is asked. both_ways: see `GlmScorer`. UserError for a model that has no words to answer with."""
    check_can_fill(loaded)
    objective = loaded.objective
    if isinstance(objective, Glm):
        return GlmScorer(loaded, objective, both_ways)
    if isinstance(objective, T5):
        return T5Scorer(loaded)
    if isinstance(objective, Bart):
        return BartScorer(loaded)
    if isinstance(objective, Gpt):
        return GptScorer(loaded)
    return XlnetScorer(loaded) if isinstance(objective, Xlnet) else MaskedScorer(loaded)


def windows(count: int, room: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, stop) of the windows over a text of `count` tokens: tokens `first` … `stop` − 1 are asked for,
    given those from `begin` on. Every token is asked for once; all but the first window are `room` long, so that a
    token has at least `room` − `stride` tokens before it. 1 ≤ stride ≤ room (ValueError otherwise).
    """
    if not 1 <= stride <= room:
        raise ValueError(f"a stride of {stride} in windows of {room}")
    stop = 0
    while stop < count:
        first, stop = stop, min(count, stop + (stride if stop else room))
        yield max(0, stop - room), first, stop
