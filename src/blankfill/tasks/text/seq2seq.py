"""A source and the text to be written from it, as a model that writes reads them.

glm   `[CLS] source [SEP] second [MASK] <eos>`, which sees itself both ways, then `[S] target` from left to right at the
      place of the mask, counted on by position 2; asked is the target and `[E]` (Du et al., arXiv 2103.10360, section
      3.3). With [gMASK] the row ends in the mask, as document-level rows do in training.
unilm `[CLS] source [SEP] second [SEP] target [SEP]`, the source seeing itself both ways (see `seq2seq_unilm`).
t5, bart  the source in the encoder's row, the target in the decoder's (see `seq2seq_stacks`).
gpt   `<eos> source <eos> second <eos> target`, left to right; asked is the target and `<eos>`. What parts the texts
      is [SEP] where the vocabulary has it.

What a tokenizer has no token for is left out. A source that is too long loses its end, and of a target no more than
`longest` tokens are learnt, then without an end. A GLM has a table of positions for the target alone, so its source may
be as long as the row; a GPT counts on, so the source leaves room for the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blankfill.errors import ConfigError
from blankfill.objectives import Glm, Gpt
from blankfill.objectives.glm import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.input_format import NOTHING, InputFormat, truncate_pair
from blankfill.tasks.options import Blank
from blankfill.types import AttentionRule, DecoderInput, Example, Int32

USUAL_TARGET = 128
"""Tokens of a target at most, unless told otherwise."""


@dataclass(frozen=True)
class Source:
    """What is read before the first token is written. ids: int32[L]. mask: the blank's column (GLM), or −1. cut: how
    many tokens were left out."""

    ids: Int32
    mask: int
    cut: int


class Noise(NamedTuple):
    """What a UniLM v2 reads otherwise while it learns, as shares. pseudo: of pseudo masks, half of it a random token
    and half the token itself. target: of the target's tokens, read as what stands at their pseudo mask."""

    pseudo: float = 0.0
    target: float = 0.0


QUIET = Noise()


class Writing:
    """Makes sources and targets into what a model reads. longest: tokens of a target at most."""

    def __init__(self, input_format: InputFormat, longest: int = 0, blank: Blank = "mask") -> None:
        """longest: 0 is the usual one, or as much as there is room for. Raises ConfigError when the model has no room
        for it, or knows no such blank."""
        self.input_format, self.roles, self.blank = input_format, input_format.vocabulary.roles, blank
        self.is_glm = isinstance(input_format.objective, Glm)
        self.end = self.roles[self.end_role]
        if blank != "mask" and (not self.is_glm or blank not in self.roles):
            raise ConfigError([f"--blank {blank}: the model knows no such blank; leave it out"])
        most, usual = self.room()
        self.longest = longest or min(USUAL_TARGET, usual)
        if not 0 < self.longest <= most:
            raise ConfigError([f"--longest-target {longest}: there is room for {max(0, most)} tokens; give fewer"])

    @property
    def end_role(self) -> str:
        """What ends a target."""
        return "eop" if self.is_glm else "eos"

    @property
    def before_second(self) -> str:
        """What is put before a second text."""
        return ""

    def room(self) -> tuple[int, int]:
        """Tokens of a target at most, and as a rule, where that is fewer than `USUAL_TARGET`."""
        input_format = self.input_format
        most = input_format.inside - 2 if self.is_glm else input_format.length - self._fixed(pair=True) - 1
        return most, most if self.is_glm else input_format.length // 2

    def source(self, first: Sequence[int], second: Sequence[int] | None = None) -> Source:
        """A source, and what is given beside it, as tokens without special ones."""
        pair = second is not None
        a, b = np.asarray(first, np.int32), np.asarray(second if pair else (), np.int32)
        room = self.input_format.length - self._fixed(pair) - (0 if self.is_glm else self.longest)
        keep_a, keep_b = truncate_pair(len(a), len(b), room)
        parted = self._tokens("sep" if self.is_glm or "sep" in self.roles else "eos")
        text = [a[:keep_a], *([parted, b[:keep_b]] if pair else [])]
        cut = len(a) - keep_a + len(b) - keep_b
        if not self.is_glm:
            return Source(_joined([self._tokens("eos"), *text, parted]), -1, cut)
        before = _joined([self._tokens("cls"), *text])
        after = NOTHING if self.blank == "gmask" else self._tokens("eos")
        return Source(_joined([before, self._tokens(self.blank), after]), len(before), cut)

    def learnt(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """A source and its target as they are learnt from."""
        return self.encoded(source, target)

    def whole(self, target: Sequence[int]) -> list[int]:
        """A target and its end, or as much of it as is learnt."""
        return [*target, self.end] if len(target) <= self.longest else list(target[: self.longest])

    def batches(
        self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int, noise: Noise = QUIET
    ) -> Batches:
        """The batches of a run; items as `learnt` makes them. noise: for UniLM v2 alone."""
        return Batches(items, epochs, pad, micro)

    def encoded(self, source: Source, target: Sequence[int]) -> EncodedItem:
        """A source and its target, given whole (teacher forcing); asked are the target and its end."""
        whole = self.whole(target)
        answers, length = np.array(whole, np.int32), len(source.ids)
        first = [self.roles["sop"]] if self.is_glm else []
        ids = _joined([source.ids, np.array([*first, *whole[:-1]], np.int32)])
        size = len(ids)
        columns = np.arange(size - len(answers), size, dtype=np.int32)
        positions = np.arange(size, dtype=np.int32)[None]
        rule = AttentionRule.causal(size)
        if self.is_glm:
            positions = np.zeros((2, size), np.int32)
            positions[0, :length] = np.arange(length)
            positions[0, length:] = source.mask
            positions[1, length:] = np.arange(1, len(answers) + 1)
            rule = AttentionRule.prefix(length, size)
        example = Example(ids, positions, rule, NOTHING, NOTHING)
        return EncodedItem((example,), (columns,), answers.astype(np.int64))

    def context(self, source: Source) -> DecoderInput:
        """What the decoder reads before it writes."""
        ids, longest = source.ids.tolist(), self.longest
        if not self.is_glm:
            return gpt_input(ids, len(ids) + longest)
        return glm_input(ids, [], source.mask, self.roles["sop"], (len(ids), longest + 2))

    def _fixed(self, pair: bool) -> int:
        """Special tokens of a source."""
        if isinstance(self.input_format.objective, Gpt):
            return 3 if pair else 2
        return sum(map(len, map(self._tokens, ("cls", *(["sep"] if pair else []), "mask", "eos"))))

    def _tokens(self, role: str) -> Int32:
        return np.array([self.roles[role]] if role in self.roles else [], np.int32)


def _joined(parts: Sequence[Int32]) -> Int32:
    return np.concatenate(parts).astype(np.int32)
