"""How a model is asked for the answer to a blank, and for the tokens of running text.

The rows are those of the objective's format (`Format.blank`, `.window`, `.hide`); `answers.answered` computes them.
So a measurement knows nothing of families.

Every figure is reported with three facts that differ between models: whether the model sees the text behind a blank
(`sees`), whether the row gives the length of the blank (`blank_length`), and the number of answers that end the blank
(`blank_ends`).

masked  Both sides, length given: one [MASK] for each token of the answer. Tokens are predicted from left to right, each
        with the earlier ones in place. A given length helps much, so these figures do not compare with the others.
XLNet   The same, except that a hidden token has no column of text: a query column at its position predicts it.
GLM     Both sides, length unknown: the answer in Part B, and its end.
T5      Both sides, length unknown: the answer behind its sentinel, and the token that ends it.
BART    Both sides, length unknown: the answer in the text that the decoder writes, and the token that follows it.
GPT     Only the text before the blank, length unknown and not predicted: the tokens of the answer, without an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from blankfill.generation.fill import check_can_fill
from blankfill.types import Example, Int32

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

NOTHING = np.zeros(0, np.int32)


class Scorer:
    """A model that is asked for answers.

    both_ways: whether the text before a window of running text sees itself both ways, where the model can (GLM);
    otherwise the model is a left-to-right one.
    """

    def __init__(self, loaded: Loaded, both_ways: bool = True) -> None:
        """Raises UserError for a model that has no words to answer with."""
        check_can_fill(loaded)
        self.loaded, self.vocabulary, self.format = loaded, loaded.vocabulary, loaded.format
        self.both_ways = both_ways and self.format.windows_both_ways

    @property
    def sees(self) -> Literal["both", "left"]:
        """What the model sees of the text around a blank."""
        return self.format.sees

    @property
    def length(self) -> Literal["given", "unknown"]:
        """Whether the row says how many tokens an answer has."""
        return self.format.blank_length

    @property
    def ends(self) -> int:
        """Number of answers behind those of a blank that say that it is at its end."""
        return self.format.blank_ends

    @property
    def room(self) -> int:
        """The most tokens of text that the model reads at a time, the answer among them."""
        return self.format.blank_room

    @property
    def hides_tokens(self) -> bool:
        """Whether single tokens of a text can be hidden and asked for."""
        return self.format.fill_method == "places"

    def reads(self, before: Int32, after: Int32) -> int:
        """Number of tokens around a blank that the model reads."""
        return len(before) + (len(after) if self.sees == "both" else 0)

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """The answer to a blank between two texts; all answers in order are its tokens, and `ends` more.

        The three together have at most `room` tokens.
        """
        return self.format.blank(before, answer, after)

    def window(self, text: Int32, begin: int, first: int, stop: int) -> Example:
        """Tokens `first` … `stop` − 1 of a text as answers, given those from `begin` on; `stop` − `begin` ≤ `room`."""
        return self.format.window(text, begin, first, stop, self.both_ways)

    def hidden(self, text: Int32, place: int, places: Sequence[int]) -> Example:
        """The token at one place of a text as the answer; what it sees has seen none of those at `places`, itself
        among them."""
        return self.format.hide(text, [place, *(other for other in places if other != place)], 1)


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
