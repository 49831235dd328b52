"""Encoding sources and targets of generation: truncated to the length of a row, in the layout of the model's objective
(`Format.source`, `Format.target`).

A source that is too long loses its end; of a target at most `longest` tokens are trained, and a truncated target has no
end token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.errors import ConfigError, setting
from blankfill.objectives import SourceRow, TargetNoise
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.input_format import InputFormat, truncate_pair
from blankfill.tasks.options import Blank
from blankfill.types import DecoderInput, Example

USUAL_TARGET = 128
"""Default for the largest number of tokens of a target."""
DRAWS = 1 << 40
"""First key of the draws of targets, beyond the keys of the orders of epochs."""
QUIET = TargetNoise()
NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Source:
    """The encoded source. cut: number of tokens that were left out."""

    row: SourceRow
    cut: int


class Writing:
    """Encodes sources and targets. longest: largest number of tokens of a target."""

    def __init__(self, input_format: InputFormat, longest: int = 0, blank: Blank = "auto") -> None:
        """longest: 0 means the usual number, or less when the model has less room. blank: kind of blank that a target
        fills. Raises ConfigError when the model has no room for such targets, or no such blank."""
        self.input_format, self.format = input_format, input_format.format
        self.blank = self.format.default_role if blank == "auto" else blank
        roles = input_format.vocabulary.roles
        if blank == "gmask" and (blank not in roles or self.format.source((), None, blank).blank < 0):
            raise ConfigError([f"{setting('blank', blank)}: the model knows no such blank; leave it out"])
        most, usual = self.format.target_room(input_format.length)
        self.longest = longest or min(USUAL_TARGET, usual)
        if not 0 < self.longest <= most:
            raise ConfigError(
                [f"{setting('max_target_length', longest)}: there is room for {max(0, most)} tokens; give fewer"]
            )

    @property
    def end(self) -> int:
        """The id that ends a target."""
        return self.format.target_end

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """Truncate a source and its second text, given without special tokens, and lay them out."""
        a, b = np.asarray(first, np.int32), np.asarray(() if second is None else second, np.int32)
        taken = self.format.source_specials(second is not None, self.blank) + self.format.target_columns(self.longest)
        keep_a, keep_b = truncate_pair(len(a), len(b), self.input_format.length - taken)
        row = self.format.source(a[:keep_a], None if second is None else b[:keep_b], self.blank)
        return Source(row, len(a) - keep_a + len(b) - keep_b)

    def encoded(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """Encode a source with its target (teacher forcing); the targets are the tokens and the end."""
        return encoded_item(self.format.target(source.row, self.whole(target)))

    def learnt(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """Encode a source and its target for training, before the draws of a step."""
        return encoded_item(self.format.training_target(source.row, self.whole(target)))

    def whole(self, target: Sequence[int]) -> list[int]:
        """Return a target and its end, or the part of it that is trained."""
        return [*target, self.end] if len(target) <= self.longest else list(target[: self.longest])

    def batches(
        self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int, noise: TargetNoise = QUIET
    ) -> Batches:
        """Return the batches of a run; items: from `learnt`. noise: only for UniLM v2."""
        if not self.format.redraws(noise):
            return Batches(items, epochs, pad, micro)
        return DrawnTargets(items, epochs, pad, micro, lambda example, rng: self.format.redraw(example, noise, rng))

    def context(self, source: Source) -> DecoderInput:
        """Return the decoder's input before the first generated token."""
        return self.format.target_input(source.row, self.longest)


class DrawnTargets(Batches):
    """Batches with randomly changed targets; the draws are a function of (seed, step, place in the step)."""

    def __init__(
        self,
        items: Sequence[EncodedItem],
        epochs: Epochs,
        pad: int,
        micro: int,
        change: Callable[[Example, np.random.Generator], Example],
    ) -> None:
        """change: makes the Example of a step from an Example with its targets."""
        super().__init__(items, epochs, pad, micro)
        self.change = change

    def chosen(self, step: int) -> list[EncodedItem]:
        """Return the items of a step."""
        return [self._changed(item, self._rng(step, place)) for place, item in enumerate(super().chosen(step))]

    def _changed(self, item: EncodedItem, rng: np.random.Generator) -> EncodedItem:
        (example,), (columns,) = item.examples, item.columns
        targets = item.answers.astype(np.int32)
        return encoded_item(self.change(dataclasses.replace(example, target_index=columns, target_ids=targets), rng))

    def _rng(self, step: int, place: int) -> np.random.Generator:
        number = DRAWS + step * self.epochs.size + place
        return np.random.Generator(np.random.Philox(key=[self.epochs.seed, number]))


def encoded_item(example: Example) -> EncodedItem:
    """Return an Example as an item, whose answers are the targets of the Example."""
    plain = dataclasses.replace(example, target_index=NOTHING, target_ids=NOTHING)
    return EncodedItem((plain,), (example.target_index,), example.target_ids.astype(np.int64))
