"""How the models of an objective read given text: the rows of training, without the draws.

An objective's `choose` and `build` make Examples of drawn blanks. Its *format* makes the same rows of a given text: a
whole text (`frame`), a text with blanks whose answers are known (`blank`), a text with blanks that are to be filled
(`open_places`, `blank_input`), a text to be continued (`continuation`), a source and a target (`source`, `target`).
Layouts (where special tokens, sentinels, query slots stand) are functions of the objective's own file, which `build`
uses as well.

A format is made by `Objective.format(vocabulary, position_sizes)` and is numpy only. A special token that the
vocabulary lacks is left out of a frame. What a model cannot do (`Objective.fills`, `.writes`) raises
NotImplementedError here: ask first.

Not here: tokenizers, cutting texts to the room (the caller cuts; `specials` and `max_columns` say to what), scores.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.random import Generator

from blankfill.errors import UserError, setting
from blankfill.types import AttentionRule, DecoderInput, Example, Int32, Vocabulary

if TYPE_CHECKING:
    from blankfill.objectives.base import Objective

Ids = Sequence[int] | Int32
"""Ids of a text, int32[N], none of them special."""

NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class FramedRow:
    """A text or a pair as a model reads it, without targets.

    example: the row. pooled: the column whose hidden state represents the whole. first and second: half-open ranges of
    columns of the two texts; an empty range where there is none.
    """

    example: Example
    pooled: int
    first: tuple[int, int]
    second: tuple[int, int]


@dataclass(frozen=True)
class SourceRow:
    """What is read before the first token of a target. ids: int32[L], special tokens included. blank: the column of
    the mask that the target fills (GLM), −1 where there is none."""

    ids: Int32
    blank: int = -1


class TargetNoise(NamedTuple):
    """Noise in the target of UniLM v2 during training, as shares. pseudo: share of pseudo masks that are replaced, half
    of them by a random token and half by the target itself. target: share of target tokens that are replaced by the
    content of their pseudo mask."""

    pseudo: float = 0.0
    target: float = 0.0


class Format:
    """How models of an objective read text; the base frames as BERT and RoBERTa do.

    Arguments of all methods are ids without special tokens, unless they say otherwise.
    """

    fill_method: ClassVar[Literal["places", "writing", "ranking"]]
    """Method of filling. places: each blank is as many open places as its fill has tokens, filled in any order
    (`open_places`). writing: blanks are written from left to right until an end token (`blank_input`). ranking: as
    writing, but the proposals are ranked with the text behind the blank, which the model has not read as such."""
    sees: ClassVar[Literal["both", "left"]] = "both"
    """Sides of a blank that the model sees."""
    blank_length: ClassVar[Literal["given", "unknown"]] = "unknown"
    """Whether the row contains the number of tokens of a blank."""
    blank_ends: ClassVar[int] = 0
    """Number of targets of `blank` after those of the blank itself, which mark its end."""
    reads_windows: ClassVar[bool] = False
    """Whether the model gives running text a probability from left to right (`window`)."""
    windows_both_ways: ClassVar[bool] = False
    """Whether the text before a window may have bidirectional attention."""
    default_role: ClassVar[str] = "mask"
    """The role of the blank that the target of a source fills, where the caller does not choose one."""
    second_prefix: ClassVar[str] = ""
    """Text before a second source text, where no token separates the two."""

    def __init__(self, objective: Objective, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> None:
        """position_sizes: rows of the model's position tables; empty: those of the objective."""
        self._objective, self.vocabulary = objective, vocabulary
        self.position_sizes = tuple(position_sizes) or objective.position_sizes()
        self.before, self.between, self.after = (self.ids_of(*roles) for roles in objective.frame_roles())
        if objective.doubles_separator and vocabulary.doubled_separator:
            self.between = self.ids_of("sep", "sep")

    @property
    def objective(self) -> Objective:
        """The objective whose format this is."""
        return self._objective

    @property
    def max_columns(self) -> int:
        """The longest row of text that the position tables hold, special tokens included. Models whose positions are
        relative can read longer ones."""
        return self.position_sizes[0] - self.objective.position_offset

    def ids_of(self, *roles: str) -> Int32:
        """Return the ids of those of some roles that the vocabulary has, int32[K]."""
        known = self.vocabulary.roles
        return np.array([known[role] for role in roles if role in known], np.int32)

    # reading

    def specials(self, pair: bool = False) -> int:
        """Number of special tokens that `frame` puts around a text or a pair."""
        return len(self.before) + len(self.after) + (len(self.between) if pair else 0)

    def frame(self, first: Ids, second: Ids | None = None, encoder_only: bool = False) -> FramedRow:
        """Return a text or a pair of texts: the Example of training of which nothing is blanked, without its targets.

        encoder_only: of a model with an encoder, only the encoder reads the row.
        """
        between, other = (NOTHING, NOTHING) if second is None else (self.between, second)
        ids = join(self.before, first, between, other, self.after)
        begin = len(self.before)
        end = begin + len(first)
        second_begin = end + len(between)
        positions = self.objective.row_positions(len(ids), None if second is None else second_begin)
        example = Example(ids, positions, self._rule(len(ids)), NOTHING, NOTHING)
        return FramedRow(
            example, self._pooled(len(ids)), (begin, end), (second_begin, second_begin + len(other))
        )  # fmt: skip

    def for_heads(self) -> Format:
        """Return the format of what a head of fine-tuning reads: this one, unless the literature frames otherwise."""
        return self

    @property
    def export_room(self) -> int:
        """The most ids that `export_row` takes."""
        return self.max_columns

    def export_row(self, ids: Ids) -> Example:
        """Return a row to compare with other programs. ids: a text as their tokenizers give it, with special tokens or
        without."""
        return Example(
            np.asarray(ids, np.int32), self.objective.row_positions(len(ids)), self._rule(len(ids)), NOTHING, NOTHING
        )

    def reframed(self, before: Ids, after: Ids) -> Format:
        """Return the same format with other special tokens before and behind a text."""
        changed = copy.copy(self)
        changed.before, changed.after = np.asarray(before, np.int32), np.asarray(after, np.int32)
        return changed

    def _rule(self, length: int) -> AttentionRule:
        causal = self.objective.causal
        return AttentionRule.causal(length) if causal else AttentionRule.full(length)

    def _pooled(self, length: int) -> int:
        return 0

    # blanks whose answers are known

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return a blank between two texts with its answer: Examples whose targets, in order, are the tokens of the
        answer and `blank_ends` tokens more. The three texts together have at most `blank_room` tokens."""
        raise NotImplementedError

    @property
    def blank_room(self) -> int:
        """The most tokens of text that `blank` and `window` take, answers included."""
        return self.max_columns - self.specials()

    def hide(self, text: Ids, places: Sequence[int], count: int) -> Example:
        """Return a text whose tokens at some places are hidden; the first `count` of these are the targets.

        For models that fill by places. Nothing that a target sees has seen a hidden token, but a target of XLNet may
        see those hidden tokens that come before it in `places`.
        """
        raise NotImplementedError

    def window(self, text: Ids, begin: int, first: int, stop: int, both_ways: bool = True) -> Example:
        """Build a row with tokens `first` … `stop` − 1 of running text as targets, given those from `begin` on; for
        `reads_windows`.

        both_ways: the context sees itself both ways, where the model can (GLM).
        """
        raise NotImplementedError

    # blanks to be filled

    def open_places(self, texts: Int32, places: Sequence[int]) -> list[Example]:
        """Build rows of texts with the same open places: the targets are these places, in order; no place sees another.

        texts: int32[N, L], any ids at open places; these ids are the target_ids. For models that fill by places.
        """
        raise NotImplementedError

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """Raise UserError when a text with blanks is too long for the model, or has too many blanks.

        runs: the texts between the blanks, one more than blanks. roles: the kind of each blank, a role of the
        vocabulary (mask, smask or gmask). fill_tokens: the fewest tokens that all fills have together.
        """
        self.check_room(self.specials() + sum(map(len, runs)) + fill_tokens)

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Return the decoder input before the first token of blank number len(fills), given the fills of the blanks
        before it.

        runs and roles: as for `check_blanks`. For models that write their fills.
        """
        raise NotImplementedError

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return the ids that end a fill of blank k; empty where any token that begins a word ends it."""
        raise NotImplementedError

    def following(self, runs: Sequence[Ids], k: int) -> list[int]:
        """Return the known tokens behind blank k, up to the next blank, by which proposals are ranked; special ones
        included.

        For models that fill by ranking.
        """
        raise NotImplementedError

    # texts to be continued

    @property
    def end_ids(self) -> list[int]:
        """The ids that end a text that is continued."""
        raise NotImplementedError

    @property
    def longest_blank(self) -> str:
        """The role of the blank for writing at length: the kind with the longest answers in training."""
        return "mask"

    def with_bos(self, add_bos: bool) -> Format:
        """Return the same format with or without the begin token before a text that is continued. Raises UserError for
        a model whose texts have no such token, or cannot do without."""
        raise UserError(
            f"{setting('add_bos', add_bos)} is for a gpt model; a {self.objective.name} model reads a prompt as in "
            "training; leave it out"
        )

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return the decoder input for continuing a text, or for filling the blank of a prompt.

        after: the text behind the blank, of models that write into blanks (`Objective.writes_into_blanks`). role: the
        kind of the blank; "" is `longest_blank`. keep: number of the last columns that are kept of a longer row, where
        a model can forget what is oldest (`Objective.slides`). Raises UserError when the text is too long.
        """
        raise NotImplementedError

    # a source and the target written from it, as fine-tuning trains them

    @property
    def target_end(self) -> int:
        """The id that ends a target."""
        raise NotImplementedError

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Return a source text, or two. role: the kind of blank that the target fills (GLM)."""
        raise NotImplementedError

    def source_specials(self, pair: bool, role: str = "mask") -> int:
        """Number of special tokens of `source`."""
        return len(self.source(NOTHING, NOTHING if pair else None, role).ids)

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Return a source and its target, given whole (teacher forcing): the targets are all tokens of `target`, its
        end token among them where the caller has put one there."""
        raise NotImplementedError

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the decoder input for a target of at most `max_new` tokens."""
        raise NotImplementedError

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the largest and the usual number of tokens of a target, in rows of at most `length` columns with a
        source."""
        raise NotImplementedError

    def target_columns(self, count: int) -> int:
        """Number of columns that a target of `count` tokens and its end take from the row of its source; 0 where a
        source may fill the row, because the target has positions of its own."""
        return 0

    def training_target(self, source: SourceRow, target: Ids) -> Example:
        """Return the row from which a target is learnt, before `redraw`: `target`, unless training reads another
        one."""
        return self.target(source, target)

    def redraws(self, noise: TargetNoise) -> bool:
        """Return whether a row of `training_target` is changed by draws for each step."""
        return False

    def redraw(self, example: Example, noise: TargetNoise, rng: Generator) -> Example:
        """Return a row of `training_target` with its draws for one step."""
        raise NotImplementedError

    # dialogues: what is said before an answer, and the answer

    joins_rounds: ClassVar[bool] = False
    """Whether the answers of a dialogue can be learnt in one row, each where it stands (`dialogue`), because what comes
    later changes nothing before it."""

    def before_answer(self, prompt: Ids) -> SourceRow:
        """Return the text of a dialogue up to an answer, which is written as a target: as `continuation` lays a prompt
        out, where the model can write behind one as it was pretrained, else as `source` does."""
        return self.source(prompt)

    def dialogue(self, text: Ids, answers: Sequence[tuple[int, Ids]]) -> Example:
        """Return a dialogue as one row, for `joins_rounds`: the targets are those of its answers.

        text: begins with the first prompt. answers: of each the place of its first token in the text, and its targets:
        its tokens, and the one that ends it, which the text need not have there.
        """
        raise NotImplementedError

    # patterns with a word in their blank, as a cloze scores them; for `Objective.cloze` "writing"

    @property
    def word_end(self) -> Int32:
        """The ids that are written behind a word, int32[K]."""
        return NOTHING

    def cloze_columns(self, count: int) -> int:
        """Number of columns that special tokens and `count` tokens of a word take from the row of a pattern."""
        raise NotImplementedError

    def cloze_row(self, before: Ids, tokens: Ids, after: Ids) -> Example:
        """Return a pattern with a word written into its blank: the targets are `tokens`, the word and perhaps
        `word_end`.

        before and after: the text around the blank; `after` is not read where `sees` is "left".
        """
        raise NotImplementedError

    # helpers of the formats

    def check_room(self, tokens: int) -> None:
        """Raise UserError when a row has more columns than the model has positions."""
        check_room(tokens, self.max_columns)


class MaskFormat(Format):
    """BERT, RoBERTa, ALBERT and their like: each hidden token is a [MASK], answered where it stands."""

    fill_method = "places"
    blank_length = "given"

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return a row for each token of the answer, in which it and the later ones are masked."""
        text = join(before, answer, after)
        stop = len(before) + len(answer)
        return [self.hide(text, range(place, stop), 1) for place in range(len(before), stop)]

    def hide(self, text: Ids, places: Sequence[int], count: int) -> Example:
        """Return a [MASK] at each place."""
        masked, index = np.array(text, np.int32), np.asarray(places, np.int32)
        answers = masked[index[:count]]
        masked[index] = self.vocabulary["mask"]
        framed = self.frame(masked)
        return replace(framed.example, target_index=index[:count] + np.int32(framed.first[0]), target_ids=answers)

    def open_places(self, texts: Int32, places: Sequence[int]) -> list[Example]:
        """Return a [MASK] at each place."""
        framed, at = self.frame(texts[0]), np.asarray(places, np.int32)
        (begin, end), first = framed.first, framed.example
        index = at + np.int32(begin)
        ids = first.input_ids[None].repeat(len(texts), 0)
        ids[:, begin:end] = texts
        ids[:, index] = self.vocabulary["mask"]
        return [
            Example(row, first.positions, first.rule, index, answers)
            for row, answers in zip(ids, texts[:, at], strict=True)
        ]


def join(*parts: Ids) -> Int32:
    """Concatenate runs of ids to one int32 row."""
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def last_tokens(example: Example, count: int) -> Example:
    """Return the same Example with only its last `count` targets."""
    first = len(example.target_ids) - count
    return replace(example, target_index=example.target_index[first:], target_ids=example.target_ids[first:])


def check_room(tokens: int, limit: int) -> None:
    """Raise UserError when a text has more tokens than a model has positions."""
    if tokens > limit:
        raise UserError(
            f"the text has {tokens} tokens with its special tokens and blanks, and the model reads at most {limit}; "
            "shorten it"
        )
