"""A source and the text to be written from it, cut to the room of a row and laid out as the model's objective lays them
out (`Format.source`, `Format.target`).

A source that is too long loses its end, and of a target no more than `longest` tokens are learnt, then without an end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.errors import ConfigError
from blankfill.objectives import SourceRow, TargetNoise
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.input_format import InputFormat, truncate_pair
from blankfill.tasks.options import Blank
from blankfill.types import DecoderInput, Example

USUAL_TARGET = 128
"""Tokens of a target at most, unless an option says otherwise."""
DRAWS = 1 << 40
"""Where the keys of the draws of targets begin, beyond those of the orders of epochs."""
QUIET = TargetNoise()
NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Source:
    """What is read before the first token is written. cut: number of tokens that were left out."""

    row: SourceRow
    cut: int


class Writing:
    """Encodes sources and targets. longest: tokens of a target at most."""

    def __init__(self, input_format: InputFormat, longest: int = 0, blank: Blank = "mask") -> None:
        """longest: 0 is the usual number, or as many as there is room for. blank: the kind of blank that a target
        fills. Raises ConfigError when the model has no room for such targets, or knows no such blank."""
        self.input_format, self.format, self.blank = input_format, input_format.format, blank
        roles = input_format.vocabulary.roles
        if blank != "mask" and (blank not in roles or self.format.source((), None, blank).blank < 0):
            raise ConfigError([f"--blank {blank}: the model knows no such blank; leave it out"])
        most, usual = self.format.target_room(input_format.length)
        self.longest = longest or min(USUAL_TARGET, usual)
        if not 0 < self.longest <= most:
            raise ConfigError([f"--max-target-length {longest}: there is room for {max(0, most)} tokens; give fewer"])

    @property
    def end(self) -> int:
        """The id that ends a target."""
        return self.format.target_end

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """Cut a source, and the text beside it, given without special tokens, and lay them out."""
        a, b = np.asarray(first, np.int32), np.asarray(() if second is None else second, np.int32)
        taken = self.format.source_specials(second is not None, self.blank) + self.format.target_columns(self.longest)
        keep_a, keep_b = truncate_pair(len(a), len(b), self.input_format.length - taken)
        row = self.format.source(a[:keep_a], None if second is None else b[:keep_b], self.blank)
        return Source(row, len(a) - keep_a + len(b) - keep_b)

    def encoded(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """Return a source and its target, given whole (teacher forcing); the targets are its tokens and its end."""
        return _encoded(self.format.target(source.row, self.whole(target)))

    def learnt(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """Return a source and its target as they are learnt from, before the draws of a step."""
        return _encoded(self.format.training_target(source.row, self.whole(target)))

    def whole(self, target: Sequence[int]) -> list[int]:
        """Return a target and its end, or as much of it as is learnt."""
        return [*target, self.end] if len(target) <= self.longest else list(target[: self.longest])

    def batches(
        self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int, noise: TargetNoise = QUIET
    ) -> Batches:
        """Return the batches of a run; items as `learnt` makes them. noise: for UniLM v2 alone."""
        if not self.format.redraws(noise):
            return Batches(items, epochs, pad, micro)
        return DrawnTargets(items, epochs, pad, micro, lambda example, rng: self.format.redraw(example, noise, rng))

    def context(self, source: Source) -> DecoderInput:
        """What the decoder reads before it writes."""
        return self.format.target_input(source.row, self.longest)


class DrawnTargets(Batches):
    """Batches in which targets are changed by draws: a function of (seed, step, place in the step)."""

    def __init__(
        self,
        items: Sequence[EncodedItem],
        epochs: Epochs,
        pad: int,
        micro: int,
        change: Callable[[Example, np.random.Generator], Example],
    ) -> None:
        """change: what makes the Example of a step of an Example with its targets."""
        super().__init__(items, epochs, pad, micro)
        self.change = change

    def chosen(self, step: int) -> list[EncodedItem]:
        """Return the items of a step."""
        return [self._changed(item, self._rng(step, place)) for place, item in enumerate(super().chosen(step))]

    def _changed(self, item: EncodedItem, rng: np.random.Generator) -> EncodedItem:
        (example,), (columns,) = item.examples, item.columns
        targets = item.answers.astype(np.int32)
        return _encoded(self.change(dataclasses.replace(example, target_index=columns, target_ids=targets), rng))

    def _rng(self, step: int, place: int) -> np.random.Generator:
        number = DRAWS + step * self.epochs.size + place
        return np.random.Generator(np.random.Philox(key=[self.epochs.seed, number]))


def _encoded(example: Example) -> EncodedItem:
    """Return an Example as an item, whose answers are the targets of the Example."""
    plain = dataclasses.replace(example, target_index=NOTHING, target_ids=NOTHING)
    return EncodedItem((plain,), (example.target_index,), example.target_ids.astype(np.int64))
