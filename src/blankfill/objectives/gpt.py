"""GPT: every token predicts the next one (Radford et al. 2018, 2019).

Two ways to cut the text. Documents apart (the default): each document is its own Example, begins after the end token
and answers it at its end; several share a row without seeing each other, and no token is lost. The classic stream
(nanoGPT, GPT-2): documents end to end with the end token between them, cut every `length` tokens, no reset.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import FrameRoles, Objective, PackingSpec, Use
from blankfill.objectives.format import NOTHING, Format, Ids, SourceRow, join, last_tokens
from blankfill.types import AttentionRule, DecoderInput, Document, Example, Int32, Vocabulary


@dataclass(frozen=True)
class Gpt(Objective):
    """Options of the left-to-right objective."""

    name: ClassVar[str] = "gpt"
    explanation: ClassVar[str] = (
        "Nothing is hidden: each token predicts the next one, and sees only itself and the tokens before it."
    )
    roles: ClassVar[tuple[str, ...]] = ("pad", "eos")
    reads_blanks: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    slides: ClassVar[bool] = True
    cls_state: ClassVar[bool] = False
    cloze: ClassVar[Literal["masks", "writing", "none"]] = "writing"
    hf_auto_class: ClassVar[str] = "AutoModelForCausalLM"

    documents: Literal["apart", "stream"] = "apart"
    """apart: documents of a row do not see each other; stream: documents follow each other as one text, as in GPT-2."""

    def packing(self) -> PackingSpec:
        """Return the packing: chunks of documents, or the stream; each has one token more than its row, the last
        target."""
        if self.documents == "stream":
            return PackingSpec(
                "stream", self.length + 1, row_overhead=-1, after=1, overlap=1, merge_chunks=True, min_tokens=2
            )
        return PackingSpec("chunks", self.length + 1, chunk_overhead=-1, before=1, after=1, overlap=1, min_tokens=2)

    def position_sizes(self) -> tuple[int, ...]:
        """One channel of positions."""
        return (self.length,)

    @property
    def fills(self) -> bool:
        """Build the row, in which every token predicts the next one."""
        return True

    @property
    def writes(self) -> bool:
        """Every text is continued as documents are in training."""
        return True

    def required_roles(self, use: Use) -> tuple[str, ...]:
        """Return a row begins and ends with the end-of-text token; padding is never read."""
        return self.roles if use == "fill" else () if use == "cloze" else ("eos",)

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return every row is read from left to right."""
        return GptFormat(self, vocabulary, position_sizes)

    def frame_roles(self) -> FrameRoles:
        """Return a document begins after the end-of-text token; the one that closes it is predicted and not read."""
        return FrameRoles(("eos",) if self.documents == "apart" else (), ("eos",), ())

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> None:
        """Nothing is drawn."""
        return

    def build(self, document: Document, vocabulary: Vocabulary, choice: None) -> Example:
        """Inputs, and the same tokens one step later."""
        eos = [vocabulary["eos"]]
        parts: list[Int32 | list[int]] = [eos] if self.documents == "apart" and document.first else []
        bounds = document.parts if document.parts is not None else np.array([0, len(document)], np.int32)
        for k, (begin, end) in enumerate(itertools.pairwise(bounds)):
            closed = document.last or k < len(bounds) - 2
            parts += [document.ids[begin:end], eos if closed else []]
        return next_tokens(join(*parts))


def next_tokens(ids: Int32) -> Example:
    """Build the Example of a text in which every token but the first is predicted at the column before it."""
    length = len(ids) - 1
    index = np.arange(length, dtype=np.int32)
    return Example(ids[:-1].copy(), index[None], AttentionRule.causal(length), index, ids[1:].copy())


def gpt_input(ids: Ids, table: int) -> DecoderInput:
    """Return a left-to-right row that is to be continued. ids: at least one, at most `table`, the rows of the position
    table."""
    if not 0 < len(ids) <= table:
        raise ValueError(f"a context of {len(ids)} tokens; it must have 1 to {table}")
    row = next_tokens(join(ids, [0]))  # the last target is not read, so any id serves
    return DecoderInput(
        row.input_ids, row.positions, row.rule, np.array([len(ids)], np.int32), np.ones(1, np.int32), table - len(ids)
    )


class GptFormat(Format):
    """Rows from left to right, which begin after the end-of-text token."""

    fill_method = "ranking"
    sees = "left"
    reads_windows = True
    joins_rounds = True

    def __init__(self, objective: Gpt, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> None:
        super().__init__(objective, vocabulary, position_sizes)
        self.add_bos = objective.documents == "apart"
        """Whether the begin token, which is also the end-of-text token, precedes a text that is continued: as in
        training on separate documents. In a stream most rows begin inside a document, and transformers puts nothing
        before a prompt."""

    def for_heads(self) -> Format:
        """Lay out `a <eos> b <eos>`, represented by the last column (Radford et al. 2018)."""
        return self.reframed(NOTHING, self.ids_of("eos"))

    def _pooled(self, length: int) -> int:
        return length - 1

    @property
    def blank_room(self) -> int:
        """All columns; the last token is predicted and not read."""
        return self.max_columns

    def blank(self, before: Ids, answer: Ids, after: Ids) -> list[Example]:
        """Return the text before the blank, then the answer."""
        text = join(before, answer)
        return [self.window(text, 0, len(before), len(text))]

    def window(self, text: Ids, begin: int, first: int, stop: int, both_ways: bool = True) -> Example:
        """Return a plain left-to-right row; a window inside the text begins with the token before it."""
        row = join(text[begin - 1 : stop]) if begin else join([self.vocabulary["eos"]], text[:stop])
        return last_tokens(next_tokens(row), stop - first)

    def check_blanks(self, runs: Sequence[Ids], roles: Sequence[str], fill_tokens: int = 0) -> None:
        """Raise UserError when the text with its fills, after the end-of-text token, is too long."""
        self.check_room(1 + sum(map(len, runs)) + fill_tokens)

    def blank_input(self, runs: Sequence[Ids], roles: Sequence[str], fills: Sequence[Ids]) -> DecoderInput:
        """Return the text up to the blank, with the fills in it."""
        known = [part for pair in zip(runs, fills, strict=False) for part in pair]
        return gpt_input(join([self.vocabulary["eos"]], *known, runs[len(fills)]), self.max_columns)

    def blank_end_ids(self, runs: Sequence[Ids], roles: Sequence[str], k: int) -> list[int]:
        """Return a fill ends where a word does."""
        return []

    def following(self, runs: Sequence[Ids], k: int) -> list[int]:
        """Return the text up to the next blank."""
        return [*runs[k + 1]]

    @property
    def end_ids(self) -> list[int]:
        """The end-of-text token."""
        return [self.vocabulary["eos"]]

    def with_bos(self, add_bos: bool) -> Format:
        """Return the same format with or without the begin token before a text that is continued."""
        changed = copy.copy(self)
        changed.add_bos = add_bos
        return changed

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return the text, after the begin token unless `add_bos` says otherwise; an empty text needs it."""
        row = [*([self.vocabulary["eos"]] if self.add_bos or not len(before) else []), *before]
        row = row[-keep:] if keep else row
        self.check_room(len(row))
        return gpt_input(row, self.max_columns)

    @property
    def target_end(self) -> int:
        """The end-of-text token."""
        return self.vocabulary["eos"]

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Lay out `<eos> first <eos> second <eos>`, with [SEP] after the texts if the vocabulary has it."""
        closed = self.ids_of("sep" if "sep" in self.vocabulary.roles else "eos")
        more = [] if second is None else [closed, second]
        return SourceRow(join(self.ids_of("eos"), first, *more, closed))

    def before_answer(self, prompt: Ids) -> SourceRow:
        """Return the text, after the begin token as `continuation` has it: nothing closes it."""
        return SourceRow(join(self._begin(prompt), prompt))

    def _begin(self, prompt: Ids) -> Int32:
        return self.ids_of("eos") if self.add_bos or not len(prompt) else NOTHING

    def dialogue(self, text: Ids, answers: Sequence[tuple[int, Ids]]) -> Example:
        """Return the text from left to right; each target is predicted at the column before it."""
        begin = self._begin(text)
        row = next_tokens(join(begin, text, [0]))  # its targets are replaced
        index = [np.arange(len(ids), dtype=np.int32) + np.int32(len(begin) + first - 1) for first, ids in answers]
        return replace(row, target_index=join(*index), target_ids=join(*(ids for _, ids in answers)))

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Return the target behind the source, from left to right."""
        return last_tokens(next_tokens(join(source.ids, target)), len(target))

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the source."""
        return gpt_input(source.ids, len(source.ids) + max_new)

    def target_room(self, length: int) -> tuple[int, int]:
        """Return the room of the row, which a target shares with its source."""
        return length - self.source_specials(pair=True) - 1, length // 2

    def target_columns(self, count: int) -> int:
        """Return the same number; the end is predicted and not read."""
        return count

    def cloze_columns(self, count: int) -> int:
        """Return the word alone."""
        return max(count, 1)

    def cloze_row(self, before: Ids, tokens: Ids, after: Ids) -> Example:
        """Return the text before the blank, without a token before it, and the word."""
        return last_tokens(next_tokens(join(before, tokens)), len(tokens))
