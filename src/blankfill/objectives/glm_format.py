"""The rows of GLM: Part B, laid out once, and how GLM's models read given text.

Not here: what is blanked in training (`glm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blankfill.objectives.format import Format, Ids, SourceRow, join, last_tokens
from blankfill.types import AttentionRule, DecoderInput, Example, Int32, Vocabulary

if TYPE_CHECKING:
    from blankfill.objectives.glm import Glm

Span = tuple[int, int]


@dataclass(frozen=True)
class Numbering:
    """The positions of Part B. Those of Part A count from 0 in the first channel and are 0 in the second.

    channels: 2 numbers the mask of a span and the place in the span, from 1 on; 1 leaves out the second (GLM-130B).
    counting: the first channel counts the columns in place of repeating the position of the mask (a text that is
    written to its end, in GLM-130B).
    """

    channels: int = 2
    counting: bool = False


TWO_AXES = Numbering()
"""The positions of GLM."""


def with_part_b(
    part_a: Int32, spans: Sequence[Span], targets: Int32, sop: int, numbering: Numbering = TWO_AXES
) -> Example:
    """Return a row of GLM: Part A, and behind it the spans that Part B writes, in the order in which they are written.

    part_a: int32[N], with a mask for each span. spans: of each span the column of its mask and the number of its
    targets; what is read of it is [S] and all targets but the last. targets: those of all spans, one after the other.
    sop: the id of [S].
    """
    context = len(part_a)
    input_ids = np.empty(context + len(targets), np.int32)
    positions = np.zeros((numbering.channels, context + len(targets)), np.int32)
    input_ids[:context] = part_a
    positions[0, :context] = np.arange(context)
    column = context
    for place, size in spans:
        input_ids[column] = sop
        input_ids[column + 1 : column + size] = targets[column - context : column - context + size - 1]
        positions[0, column : column + size] = np.arange(column, column + size) if numbering.counting else place
        positions[1:, column : column + size] = np.arange(1, size + 1)
        column += size
    index = np.arange(context, len(input_ids), dtype=np.int32)
    return Example(input_ids, positions, AttentionRule.prefix(context, len(input_ids)), index, targets)


def glm_input(
    part_a: Ids, written: Sequence[tuple[int, Ids]], place: int, sop: int, tables: Sequence[int]
) -> DecoderInput:
    """Return a row of GLM that is about to write a blank: the row of `with_part_b` up to there.

    part_a: the text with a mask for each blank, [CLS] and end token included. written: the blanks filled so far, each
    its mask's column and its ids, in the order in which they were written. place: the column of the mask that is filled
    now. tables: the rows of the two position tables.
    """
    if not 0 < len(part_a) <= tables[0]:
        raise ValueError(f"Part A has {len(part_a)} tokens; it must have 1 to {tables[0]}")
    spans = [*((column, len(ids) + 1) for column, ids in written), (place, 1)]
    # the last target of a span is predicted and not read, so any id serves
    targets = join(*(part for _, ids in written for part in (ids, [0])), [0])
    row = with_part_b(np.asarray(part_a, np.int32), spans, targets, sop)
    return DecoderInput(
        row.input_ids, row.positions, row.rule,
        np.array([place, 2], np.int32), np.array([0, 1], np.int32), max(0, tables[1] - 2),
    )  # fmt: skip


class GlmFormat(Format):
    """Blanks are masks in Part A, and their fills spans of Part B, written from left to right."""

    fill_method = "writing"
    blank_ends = 1
    reads_windows = True
    windows_both_ways = True

    def __init__(self, objective: Glm, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> None:
        super().__init__(objective, vocabulary, position_sizes)
        self._glm = objective

    @property
    def blank_room(self) -> int:
        """Beside [CLS] and the end token; the tables have a row more than the longest row."""
        return min(self.position_sizes) - 3

    def part_a(self, runs: Sequence[Ids], roles: Sequence[str]) -> tuple[list[int], list[int]]:
        """Part A of a text with blanks, and the columns of its masks.

        A kind of mask that training never used becomes [MASK]. The row ends in the end-of-text token, as a whole
        document does in training, unless it ends in a document blank, which writes that token.
        """
        glm, vocabulary = self._glm, self.vocabulary
        used = {"mask"}
        if glm.task_mask:
            used |= {role for role, weight in (("smask", glm.sentence), ("gmask", glm.document)) if weight > 0}
        row = [vocabulary["cls"], *runs[0]]
        places = []
        for role, run in zip(roles, runs[1:], strict=True):
            places.append(len(row))
            row += [vocabulary[role if role in used and role in vocabulary.roles else "mask"], *run]
        to_end = bool(roles) and not len(runs[-1]) and roles[-1] == "gmask" and glm.document > 0
        return (row if to_end else [*row, vocabulary["eos"]]), places

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return the answer in Part B, closed by [E]. A blank at the end of the text is not followed by the end token:
        the original code predicts last words in this way."""
        end = [self.vocabulary["eos"]] if len(after) else []
        part_a = join([self.vocabulary["cls"]], before, [self.vocabulary["mask"]], after, end)
        return [self.target(SourceRow(part_a, 1 + len(before)), join(answer, [self.vocabulary["eop"]]))]

    def window(self, text: Ids, begin: int, first: int, stop: int, both_ways: bool = True) -> Example:
        """Return a document-level blank that ends the row (the paper's section 3.3): Part A is `[CLS] context [gMASK]`,
        Part B the rest; [E] is not a target, since the text continues.

        both_ways False: the context is written in Part B as well, which makes the model a left-to-right one.
        """
        role = self.longest_blank if self._glm.task_mask else "mask"
        mask = self.vocabulary[role if role in self.vocabulary.roles else "mask"]
        written = first if both_ways else begin
        part_a = join([self.vocabulary["cls"]], text[begin:written], [mask])
        example = self.target(SourceRow(part_a, len(part_a) - 1), text[written:stop])
        return last_tokens(example, stop - first)

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """Part A must fit."""
        self.check_room(len(self.part_a(runs, roles)[0]))

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Part A, the fills so far, and [S]."""
        part_a, places = self.part_a(runs, roles)
        written = list(zip(places, fills, strict=False))
        return glm_input(part_a, written, places[len(fills)], self.vocabulary["sop"], self.position_sizes)

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return [E], and for a blank that ends the row also the end-of-text token."""
        part_a, places = self.part_a(runs, roles)
        eop = self.vocabulary["eop"]
        return [eop, self.vocabulary["eos"]] if places[k] == len(part_a) - 1 else [eop]

    @property
    def end_ids(self) -> list[int]:
        """The end of the text, or of the blank."""
        return [self.vocabulary["eos"], self.vocabulary["eop"]]

    @property
    def longest_blank(self) -> str:
        """The longest that the model was trained on."""
        if self._glm.document > 0:
            return "gmask"
        return "smask" if self._glm.sentence > 0 else "mask"

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return a text with one blank, which stands at its end where it has none."""
        runs, roles = [before, after], [role or self.longest_blank]
        self.check_blanks(runs, roles)
        return self.blank_input(runs, roles, ())

    @property
    def target_end(self) -> int:
        """[E]."""
        return self.vocabulary["eop"]

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Lay out `[CLS] first [SEP] second [MASK] <eos>`; with [gMASK] the row ends in the mask, as document-level
        rows do in training."""
        more = [] if second is None else [self.ids_of("sep"), second]
        text = join(self.ids_of("cls"), first, *more)
        return SourceRow(join(text, self.ids_of(role), self.ids_of(*(() if role == "gmask" else ("eos",)))), len(text))

    def before_answer(self, prompt: Ids) -> SourceRow:
        """Return the text with the longest blank at its end, as `continuation` has it."""
        (part_a, (place,)) = self.part_a([prompt, ()], [self.longest_blank])
        return SourceRow(np.asarray(part_a, np.int32), place)

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Return the target in Part B."""
        spans = [(source.blank, len(target))]
        return with_part_b(source.ids, spans, np.asarray(target, np.int32), self.vocabulary["sop"])

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the source and [S]."""
        sizes = len(source.ids), max_new + 2
        return glm_input(source.ids, [], source.blank, self.vocabulary["sop"], sizes)

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the number of positions inside a blank."""
        return self.position_sizes[1] - 2, self.position_sizes[1] - 2

    @property
    def word_end(self) -> Int32:
        """[E]."""
        return self.ids_of("eop")

    def cloze_columns(self, count: int) -> int:
        """Return the special tokens of Part A, whose mask is counted by the caller; the word has positions of its
        own."""
        return self.specials()

    def cloze_row(self, before: Ids, tokens: Ids, after: Ids) -> Example:
        """Return the word in Part B; Part A always ends in the end-of-text token."""
        part_a = self.frame(join(before, self.ids_of("mask"), after)).example.input_ids
        return self.target(SourceRow(part_a, len(self.before) + len(before)), tokens)

    @property
    def export_room(self) -> int:
        """The room beside the mask and the tokens of its answer."""
        return self.max_columns - 4

    def export_row(self, ids: Ids) -> Example:
        """Return the text as Part A with a mask at its end, and the beginning of the text as the answer."""
        role = "gmask" if "gmask" in self.vocabulary.roles else "mask"
        part_a = join(ids, self.ids_of(role))
        return self.target(SourceRow(part_a, len(ids)), join(ids[:2], self.word_end))
