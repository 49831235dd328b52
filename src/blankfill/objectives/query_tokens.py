"""Writing with query tokens (UniLM): a query token after the text predicts the next token, which then takes its place.

Not here: pretraining (`unilm`, `unilm2`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from blankfill.objectives.base import Masking, Use, replacements
from blankfill.objectives.format import Format, Ids, MaskFormat, SourceRow, TargetNoise, join
from blankfill.types import AttentionRule, DecoderInput, Example, Int32, Vocabulary

TARGET_SHARE = 0.7
"""Share of a target's tokens that UniLM v1 masks while it learns to write."""
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class MaskWriter(Masking):
    """An objective whose models write by asking with a token behind the text, which the answer then replaces."""

    own_rows: ClassVar[bool] = True

    query_role: ClassVar[str] = "mask"
    """Role of the query token."""
    target_types: ClassVar[tuple[int, int]] = (0, 1)
    """Token types of a source and of its target."""
    continuation_type: ClassVar[int] = 0
    """Token type of a prompt."""
    bidirectional_prompt: ClassVar[bool] = True
    """Whether a prompt has bidirectional attention."""

    @property
    def writes(self) -> bool:
        """Every text is continued at a query token."""
        return True

    def required_roles(self, use: Use) -> tuple[str, ...]:
        """Return the query token besides."""
        if use == "generate":
            return ("cls", "sep", self.query_role)
        return (*self.roles, self.query_role) if use == "target" else super().required_roles(use)

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return the format: masks in the text, query tokens after it."""
        return QueryFormat(self, vocabulary, position_sizes)


def with_queries(
    text: Int32, tokens: Int32, places: Int32, step: Int32, query: int, types: tuple[int, int] = (0, 0)
) -> Example:
    """Return a text, tokens that are written one step after the other, and for each of them a query token at its
    position, whose target it is.

    text: int32[N]. tokens, places, step: int32[K]; places are the positions of the tokens, step is as in `step_rule`.
    query: the id of the query token. types: of the text and of what is written.
    """
    N, K = len(text), len(tokens)
    positions = np.empty((2, N + 2 * K), np.int32)
    positions[0] = join(np.arange(N, dtype=np.int32), places, places)
    positions[1, :N], positions[1, N:] = types
    ids = join(text, tokens, np.full(K, query, np.int32))
    return Example(ids, positions, step_rule(N, step), np.arange(N + K, N + 2 * K, dtype=np.int32), tokens)


def step_rule(context: int, step: Int32) -> AttentionRule:
    """Return the rule of `context` columns that see one another, then K tokens, then their K pseudo masks.

    step: int32[K], from 1 on, at which each of the tokens is written. A token sees the context and the tokens of all
    steps up to its own; a pseudo mask the context, the tokens of the steps before, and the pseudo masks of its own.
    """
    before = np.zeros(context, np.int32)
    nothing = np.zeros(len(step), np.int32)
    segment = np.zeros(context + 2 * len(step), np.int32)
    rank, horizon = join(before, step, nothing), join(before, step, step - 1)
    return AttentionRule(segment, rank, horizon, join(before, nothing, step))


def query_input(ids: Ids, table: int, query: int, types: tuple[int, int], bidirectional: bool = True) -> DecoderInput:
    """Build a row whose next token is predicted at a query token after it.

    ids: the tokens of the row, at least one and fewer than `table`, the rows of the position table. query: id of the
    query token. types: token types of the row and of generated tokens. bidirectional: whether the row has bidirectional
    attention.
    """
    if not 0 < len(ids) < table:
        raise ValueError(f"a context of {len(ids)} tokens; it must have 1 to {table - 1}")
    index = np.arange(len(ids), dtype=np.int32)
    rule = AttentionRule.full(len(ids)) if bidirectional else AttentionRule.causal(len(ids))
    return DecoderInput(
        np.asarray(ids, np.int32), np.stack([index, np.full_like(index, types[0])]), rule,
        np.array([len(ids), types[1]], np.int32), np.array([1, 0], np.int32), table - len(ids) - 1, query,
    )  # fmt: skip


class QueryFormat(MaskFormat):
    """Masks in the text; generated tokens are predicted at query tokens after it."""

    def __init__(self, objective: MaskWriter, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> None:
        super().__init__(objective, vocabulary, position_sizes)
        self._writer = objective

    @property
    def query(self) -> int:
        """Id of the query token."""
        return self.vocabulary[self._writer.query_role]

    @property
    def end_ids(self) -> list[int]:
        """[SEP]."""
        return [self.vocabulary["sep"]]

    def continuation(self, before: Ids, after: Ids = (), role: str = "", keep: int = 0) -> DecoderInput:
        """Return the text behind [CLS]."""
        ids = [self.vocabulary["cls"], *before]
        self.check_room(len(ids) + 1)
        writer = self._writer
        types = writer.continuation_type, writer.continuation_type
        return query_input(ids, self.max_columns, self.query, types, writer.bidirectional_prompt)

    @property
    def target_end(self) -> int:
        """[SEP]."""
        return self.vocabulary["sep"]

    def source(self, first: Ids, second: Ids | None = None, role: str = "mask") -> SourceRow:
        """Lay out `[CLS] first [SEP] second [SEP]`."""
        sep = [self.vocabulary["sep"]]
        more = [] if second is None else [second, sep]
        return SourceRow(join([self.vocabulary["cls"]], first, sep, *more))

    def target(self, source: SourceRow, target: Ids) -> Example:
        """Put the target after the source; each token is predicted at a query token that sees the tokens before it."""
        tokens, step = np.asarray(target, np.int32), np.arange(1, len(target) + 1, dtype=np.int32)
        places = step + np.int32(len(source.ids) - 1)
        return with_queries(source.ids, tokens, places, step, self.query, self._writer.target_types)

    def training_target(self, source: SourceRow, target: Ids) -> Example:
        """UniLM v1: put the target after the source, left to right, each token predicted at its own column; the row is
        masked later. UniLM v2: as `target`."""
        if self.objective.has_pseudo_masks:
            return self.target(source, target)
        first, size = len(source.ids), len(source.ids) + len(target)
        types = np.full(size, self._writer.target_types[1], np.int32)
        types[:first] = self._writer.target_types[0]
        index = np.arange(size, dtype=np.int32)
        ids = join(source.ids, target)
        return Example(
            ids, np.stack([index, types]), AttentionRule.prefix(first, size), index[first:], ids[first:].copy()
        )

    def redraws(self, noise: TargetNoise) -> bool:
        """Change a target for a step: UniLM v1 masks it again; UniLM v2 reads it unchanged, unless there is noise."""
        return not self.objective.has_pseudo_masks or noise != TargetNoise()

    def redraw(self, example: Example, noise: TargetNoise, rng: Generator) -> Example:
        """Return a target with masks (UniLM v1) or with noise (UniLM v2)."""
        if self.objective.has_pseudo_masks:
            return noisy_target(example, self.vocabulary, noise, rng)
        return masked_target(example, self.vocabulary, rng)

    def target_input(self, source: SourceRow, max_new: int) -> DecoderInput:
        """Return the source."""
        return query_input(source.ids, len(source.ids) + max_new + 1, self.query, self._writer.target_types)

    def target_room(self, length: int) -> tuple[int, int]:
        """Return a target and its end share the row with the source."""
        return length - self.source_specials(pair=True) - 2, length // 2

    def target_columns(self, count: int) -> int:
        """Return the number of target tokens and one for the end."""
        return count + 1


def masked_target(example: Example, vocabulary: Vocabulary, rng: Generator) -> Example:
    """Mask some of the targets as BERT does, and predict these: 70% of the number of the target's tokens, its end not
    counted, at least one; the end is as likely among them as any token (the released code, seq2seq_loader.py)."""
    tokens = len(example.target_ids) - int(example.target_ids[-1] == vocabulary["sep"])
    index = rng.choice(example.target_index, max(1, round(TARGET_SHARE * tokens)), replace=False).astype(np.int64)
    choice = replacements(example.input_ids, index, vocabulary, rng, MASK_SHARE, RANDOM_SHARE, ordinary=False)
    ids = example.input_ids.copy()
    ids[choice.index] = choice.inputs
    return replace(example, input_ids=ids, target_index=choice.index, target_ids=example.input_ids[choice.index])


def noisy_target(example: Example, vocabulary: Vocabulary, noise: TargetNoise, rng: Generator) -> Example:
    """Replace some pseudo masks by a random token or by their target, and some tokens of the target, its end included,
    by the content of their pseudo mask; the targets stay the same (the released code, s2s-ft)."""
    columns, ids, count = example.target_index, example.input_ids.copy(), len(example.target_ids)
    draw = rng.random(count)
    read = np.where(draw < noise.pseudo / 2, example.target_ids, ids[columns]).astype(np.int32)
    is_random = (draw >= noise.pseudo / 2) & (draw < noise.pseudo)
    read[is_random] = rng.integers(0, vocabulary.size, np.count_nonzero(is_random))
    ids[columns] = read
    copied = rng.random(count) < noise.target
    ids[columns[copied] - count] = read[copied]
    return replace(example, input_ids=ids)
