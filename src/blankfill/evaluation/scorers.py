"""Scoring by any objective: the rows that predict the answer to a blank, or the tokens of running text.

The objective's format builds the rows (`Format.blank`, `.window`, `.hide`); `answers.answered` scores them. So
measurements do not depend on families.

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
    """Builds the rows that score answers with a model.

    both_ways: whether the text before a window of running text sees itself in both directions, where the model supports
    it (GLM); otherwise the text is read from left to right.
    """

    def __init__(self, loaded: Loaded, both_ways: bool = True) -> None:
        """Raises UserError for a model without a language-model head."""
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
        """Number of answers, after the tokens of a blank, that mark its end."""
        return self.format.blank_ends

    @property
    def room(self) -> int:
        """Largest number of tokens of text that the model reads at a time, with the answer."""
        return self.format.blank_room

    @property
    def hides_tokens(self) -> bool:
        """Whether single tokens of a text can be hidden and predicted."""
        return self.format.fill_method == "places"

    def reads(self, before: Int32, after: Int32) -> int:
        """Return the number of tokens around a blank that the model reads."""
        return len(before) + (len(after) if self.sees == "both" else 0)

    def blank(self, before: Int32, answer: Int32, after: Int32) -> list[Example]:
        """Build the rows that score the answer to a blank between two texts: its tokens in order, then `ends` more.

        The three texts together have at most `room` tokens.
        """
        return self.format.blank(before, answer, after)

    def window(self, text: Int32, begin: int, first: int, stop: int) -> Example:
        """Score tokens `first` … `stop` − 1 of a text, given those from `begin` on; `stop` − `begin` ≤ `room`."""
        return self.format.window(text, begin, first, stop, self.both_ways)

    def hidden(self, text: Int32, place: int, places: Sequence[int]) -> Example:
        """Score the token at one place of a text, with all tokens at `places` hidden from it, its own included."""
        return self.format.hide(text, [place, *(other for other in places if other != place)], 1)


def windows(count: int, room: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, first, stop) of the windows over a text of `count` tokens: tokens `first` … `stop` − 1 are scored,
    given those from `begin` on. Every token is scored once; all windows but the first are `room` long, so that a token
    has at least `room` − `stride` tokens before it. 1 ≤ stride ≤ room (ValueError otherwise).
    """
    if not 1 <= stride <= room:
        raise ValueError(f"a stride of {stride} in windows of {room}")
    stop = 0
    while stop < count:
        first, stop = stop, min(count, stop + (stride if stop else room))
        yield max(0, stop - room), first, stop
