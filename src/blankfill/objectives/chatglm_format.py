"""The rows of ChatGLM-6B and GLM-130B, laid out once, and how their models read given text.

A row is a context, in which every column sees every other one, and what is written into its blanks, as in GLM: `context
[gMASK] <sop> the rest of the text <eop>` and `x [MASK] y <sop> what stood there <eop>`. There is no [CLS]. GLM-130B
closes a context that does not end in a mask with the end-of-text token.

Several [MASK]s of a prompt are filled one after the other; each fill takes the place of its mask, so that the next
blank is read with it in the context (THUDM/GLM-130B generate.py).

Not here: what is blanked in training (`chatglm`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from blankfill.errors import UserError
from blankfill.objectives.format import NOTHING, Format, Ids, SourceRow, join
from blankfill.objectives.glm_format import GlmFormat, Numbering, with_part_b
from blankfill.types import AttentionRule, DecoderInput, Example, Int32, Vocabulary

if TYPE_CHECKING:
    from blankfill.objectives.chatglm import ChatGlm


def side_by_side(examples: Sequence[Example]) -> Example:
    """Return one Example of several that do not see each other; each has a segment of its own."""
    if len(examples) == 1:
        return examples[0]
    lengths = [len(example) for example in examples]
    begins = np.cumsum([0, *lengths[:-1]])
    rule = AttentionRule(
        np.repeat(np.arange(len(examples), dtype=np.int32), lengths),
        np.concatenate([example.rule.rank for example in examples]),
        np.concatenate([example.rule.horizon for example in examples]),
    )
    index = [example.target_index + np.int32(begin) for example, begin in zip(examples, begins, strict=True)]
    return Example(
        join(*[example.input_ids for example in examples]),
        np.concatenate([example.positions for example in examples], axis=1),
        rule,
        np.concatenate(index),
        join(*[example.target_ids for example in examples]),
    )


class ChatGlmFormat(GlmFormat):
    """Blanks are masks in the context, and what fills them is written behind it.

    Columns of the context and of what is written share the positions of the model, whether or not their own positions
    continue those of the context: released models were trained on rows of that many columns.
    """

    second_prefix = "\n"
    default_role = "gmask"

    def __init__(self, objective: ChatGlm, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> None:
        Format.__init__(self, objective, vocabulary, position_sizes)
        self._chatglm = objective

    @property
    def _end(self) -> Int32:
        """The token that closes a context without a mask at its end, int32[0 or 1]."""
        return self.ids_of("eos") if self._chatglm.closes_context else NOTHING

    def numbering(self, role: str) -> Numbering:
        """Return the positions of what is written into a blank."""
        return self._chatglm.numbering(role)

    def for_heads(self) -> Format:
        """Return the format whose rows end in [gMASK], which sees the whole text and represents it."""
        changed = copy.copy(self)
        changed.after = self.ids_of("gmask")
        return changed

    def _pooled(self, length: int) -> int:
        return length - 1

    @property
    def blank_room(self) -> int:
        """Beside the mask, <sop> and the token that closes the context."""
        return self.max_columns - 2 - len(self._end)

    def role(self, role: str) -> str:
        """Return the kind of mask for a blank: the given one if training used it, otherwise [MASK]."""
        known = role == "gmask" and self._chatglm.gmask_share > 0 and role in self.vocabulary.roles
        return "gmask" if known or "mask" not in self.vocabulary.roles else "mask"

    def context(self, runs: Sequence[Ids], roles: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the context of a text with blanks, and the columns of its masks.

        Raises UserError for a [gMASK] that is not at the end.
        """
        row = [*runs[0]]
        places = []
        kinds = [self.role(role) for role in roles]
        for kind, run in zip(kinds, runs[1:], strict=True):
            places.append(len(row))
            row += [self.vocabulary[kind], *run]
        if any(kind == "gmask" and place != len(row) - 1 for kind, place in zip(kinds, places, strict=True)):
            raise UserError(
                "[gMASK] stands for the rest of the text, so it can stand only once, at the very end; write other "
                "blanks as [MASK]"
            )
        closed = bool(roles) and not len(runs[-1])
        return (row if closed else [*row, *self._end]), places

    part_a = context

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return the answer behind the context, closed by <eop>. A blank at the end of the text is a [gMASK], as the
        original code predicts last words."""
        kind = self.role("mask" if len(after) else "gmask")
        context = join(before, [self.vocabulary[kind]], after, self._end if len(after) else NOTHING)
        return [self._row(context, len(before), join(answer, [self.vocabulary["eop"]]), kind)]

    def _row(self, context: Int32, place: int, targets: Int32, kind: str) -> Example:
        return with_part_b(context, [(place, len(targets))], targets, self.vocabulary["sop"], self.numbering(kind))

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """The context, its <sop> and the fills must fit."""
        self.check_room(len(self.context(runs, roles)[0]) + 1 + max(0, fill_tokens - 1))

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Return the context with the fills so far in their places, and <sop>.

        A [gMASK] at the end of a text with other blanks is left out until it is its turn: the row has one kind of
        mask.
        """
        k = len(fills)
        known = join(*[part for pair in zip(runs, fills, strict=False) for part in pair], runs[k])
        rest, kinds = [known, *runs[k + 1 :]], list(roles[k:])
        if len(kinds) > 1 and self.role(kinds[-1]) == "gmask":
            rest, kinds = rest[:-1], kinds[:-1]
        context, places = self.context(rest, kinds)
        return self._open(context, places[0], self.role(kinds[0]))

    def _open(self, context: Ids, place: int, kind: str, room: int | None = None) -> DecoderInput:
        """Return the row that is about to write the blank whose mask is at column `place`."""
        # the last target is predicted and not read, so any id serves
        row = self._row(np.asarray(context, np.int32), place, np.zeros(1, np.int32), kind)
        counting = self.numbering(kind).counting
        last = row.positions[:, -1]
        step = np.array([int(counting), 1], np.int32)[: len(last)]
        left = max(0, self.max_columns - len(row)) if room is None else room
        return DecoderInput(row.input_ids, row.positions, row.rule, last + step, step, left)

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return <eop>, and for GLM-130B also the end-of-text token."""
        return self.end_ids

    @property
    def end_ids(self) -> list[int]:
        """<eop>, and for GLM-130B also the end-of-text token."""
        return [self.vocabulary["eop"], *self._end.tolist()]

    @property
    def longest_blank(self) -> str:
        """The longest that the model was trained on."""
        return self.role("gmask")

    def window(self, text: Ids, begin: int, first: int, stop: int, both_ways: bool = True) -> Example:
        """Return `context [gMASK] <sop> the rest`; <eop> is not a target, since the text continues.

        both_ways False: the context is written as well, `[gMASK] <sop> context, the rest`, which makes the model a
        left-to-right one.
        """
        kind = self.longest_blank
        written = first if both_ways else begin
        context = join(text[begin:written], [self.vocabulary[kind]])
        example = self._row(context, len(context) - 1, join(text[written:stop]), kind)
        count = stop - first
        return dataclasses.replace(
            example, target_index=example.target_index[-count:], target_ids=example.target_ids[-count:]
        )

    def source(self, first: Ids, second: Ids | None = None, role: str = "gmask") -> SourceRow:
        """Lay out `first second [gMASK]`; the caller puts `second_prefix` before the second text."""
        text = join(first, NOTHING if second is None else second)
        return SourceRow(join(text, self.ids_of(self.role(role))), len(text))

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Return the target behind its source; the first target is predicted at <sop>."""
        return self._row(source.ids, source.blank, np.asarray(target, np.int32), self._kind(source))

    def _kind(self, source: SourceRow) -> str:
        gmask = self.vocabulary.roles.get("gmask")
        return "gmask" if int(source.ids[source.blank]) == gmask else "mask"

    def training_target(self, source: SourceRow, target: Ids) -> Example:
        """Return `target` with one more target, <sop> at the mask, where the objective learns it: ChatGLM-6B's own
        fine-tuning does (ptuning/main.py), pretraining does not."""
        example = self.target(source, target)
        if not self._chatglm.learns_sop:
            return example
        place = np.array([source.blank], np.int32)
        return dataclasses.replace(
            example,
            target_index=join(place, example.target_index),
            target_ids=join(self.ids_of("sop"), example.target_ids),
        )

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the source and <sop>."""
        return self._open(source.ids, source.blank, self._kind(source), max_new)

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the columns of a source and of a target, which share the row."""
        return length - self.source_specials(pair=True) - 1, length // 2

    def target_columns(self, count: int) -> int:
        """Return the tokens and <sop>; the end is predicted and not read."""
        return count + 1

    def cloze_columns(self, count: int) -> int:
        """Return <sop>, the word, and the token that closes the context."""
        return 1 + count + len(self._end)

    def cloze_row(self, before: Ids, tokens: Ids, after: Ids) -> Example:
        """Return the word in the blank of its pattern."""
        context, (place,) = self.context([before, after], ["mask"])
        return self._row(np.asarray(context, np.int32), place, np.asarray(tokens, np.int32), self.role("mask"))

    @property
    def export_room(self) -> int:
        """The room beside the mask, <sop> and the tokens of the answer."""
        return self.max_columns - 5

    def export_row(self, ids: Ids) -> Example:
        """Return the text with a mask at its end, and its beginning as the answer."""
        return self.target(self.source(ids), join(ids[:2], self.word_end))
