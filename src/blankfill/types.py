"""The data types of blankfill, from the corpus to the model.

`Document` (token ids of a piece of text) → an objective → `Example` (ids, positions, targets, and who sees whom) →
packing → `Batch` (rows of tensors). Everything here is plain numpy except `Batch`; importing this file never imports
torch, so objectives run in loader workers and are tested in milliseconds.

Not here: how a Document is cut from a corpus (`data.plans`), or how a rule becomes a kernel's mask (`attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

PADDING = -1
"""The segment of padding: padded columns see only one another, so that no softmax is empty."""

TEXT, QUERY, MEMORY = 0, 1, 2
"""The streams of a model with relative positions, in its third position channel: columns with a token, query columns
that predict the token at their position, and memory, which gets no gradient."""

Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

RotaryRounding = Literal["none", "frequencies", "angles"]
"""What the rotations of rotary positions round to fp16 (`TransformerConfig.rotary_rounding`)."""
LayerKind = Literal["global", "local"]
"""The kinds of layers by the keys that a query sees: all that the rule shows, or those of them in the window."""

ROLES = ("pad", "unk", "cls", "sep", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock", "pseudo")
"""The roles of special tokens. `sop`/`eop` are GLM's [S]/[E]; `dblock` replaces a hidden context token in GLM; `pseudo`
is UniLM v2's [P], which predicts a token that is also in the row."""


@dataclass(frozen=True)
class Vocabulary:
    """The properties of a tokenizer that objectives need: its size, its special ids, and where words begin.

    `roles` maps a name of `ROLES` to a token id; a role that the tokenizer lacks is absent. `word_start[id]` is whether
    a token begins a word (`##` pieces do not), None when the tokenizer does not show it. `special` are the ids that
    text never contains. `units(ids, words, sentence starts)` → bool[K, N] returns where units begin that the tokenizer
    alone does not show: words (K = 1), or words, phrases and entities (K = 3); None where it is not needed. `sentinels`
    are the ids of T5's numbered blanks in order; empty when the tokenizer has none. `doubled_separator` is whether two
    texts have two separators between them, as with RoBERTa's `</s>`, which closes the first text and opens the second.
    """

    size: int
    roles: Mapping[str, int]
    special: frozenset[int] = frozenset()
    word_start: Bool | None = None
    units: Callable[[Int32, Bool, Int32], Bool] | None = None
    sentinels: tuple[int, ...] = ()
    doubled_separator: bool = False

    def __getitem__(self, role: str) -> int:
        return self.roles[role]

    def missing(self, roles: Sequence[str], sentinels: int = 0) -> list[str]:
        """Return the missing tokens in words: roles of `roles`, and how many of `sentinels` sentinels."""
        lacking = [role for role in roles if role not in self.roles]
        few = sentinels - len(self.sentinels)
        return [*lacking, f"{few} sentinels"] if few > 0 else lacking


@dataclass(frozen=True)
class Document:
    """A piece of text as token ids, as an objective receives it.

    ids: int32[N]. sentences: int32[S+1], offsets of sentence starts, first 0 and last N. `words`: bool[N], True where
    a word begins, None if unknown. `label`: for pairs, 1 when the second part is a random one. `first`/`last`: whether
    the piece begins/ends its document (a long document is cut into several pieces). `parts`: int32[P+1], offsets of
    the documents inside when several were joined, None for a piece of one document. `units`: bool[2, N], where
    phrases and where entities begin, None if unknown.
    """

    ids: Int32
    sentences: Int32
    words: Bool | None = None
    label: int | None = None
    first: bool = True
    last: bool = True
    parts: Int32 | None = None
    source: str = ""
    units: Bool | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AttentionRule:
    """The visibility of columns in attention, as three int vectors over the row, or four.

    Query i sees key j when `segment[i] == segment[j]` and `rank[j] <= horizon[i]`. All zeros is BERT; rank = horizon =
    index is GPT; source at rank 0 and blanks ranked 1, 2, 3, … is GLM and every prefix model; a permutation is XLNet.
    With a `group`, a key whose group is not 0 is visible only to queries of its own group: UniLM v2's pseudo masks. The
    rule costs O(L) and depends on positions only in layers with a window (`local`): there a query sees only keys whose
    position differs from its own by at most `window`.
    """

    segment: Int32
    rank: Int32
    horizon: Int32
    group: Int32 | None = None
    position: Int32 | None = field(default=None, kw_only=True)
    """int32[L], the position of each column, for a window."""
    window: int = field(default=0, kw_only=True)
    """Largest difference of positions that a query sees; 0 means no window."""

    def __len__(self) -> int:
        return len(self.segment)

    @classmethod
    def full(cls, length: int) -> AttentionRule:
        """Make the rule by which every column sees every column (BERT)."""
        zeros = np.zeros(length, np.int32)
        return cls(zeros, zeros, zeros)

    @classmethod
    def causal(cls, length: int) -> AttentionRule:
        """Make the rule by which each column sees itself and the columns before it (GPT)."""
        index = np.arange(length, dtype=np.int32)
        return cls(np.zeros(length, np.int32), index, index)

    @classmethod
    def prefix(cls, prefix: int, length: int) -> AttentionRule:
        """Make the rule by which all columns see the first `prefix` columns, and the rest is causal (GLM, prefix
        LM)."""
        rank = np.maximum(np.arange(length, dtype=np.int32) - (prefix - 1), 0).astype(np.int32)
        return cls(np.zeros(length, np.int32), rank, rank)

    def local(self, position: Int32, window: int) -> AttentionRule:
        """Return the rule of a layer with local attention. position: int32[L]; window: as the field."""
        return replace(self, position=position, window=window)

    def visible(self) -> Bool:
        """Return the reference bool[L, L], row = query, column = key; tests compare every kernel with it."""
        same = self.segment[:, None] == self.segment[None, :]
        seen: Bool = same & (self.rank[None, :] <= self.horizon[:, None])
        if self.group is not None:
            seen = seen & ((self.group[None, :] == 0) | (self.group[None, :] == self.group[:, None]))
        if self.window and self.position is not None:
            seen = seen & (abs(self.position[:, None] - self.position[None, :]) <= self.window)
        return seen


@dataclass(frozen=True)
class Example:
    """One training example: the input of the model and its targets.

    input_ids: int32[L]. positions: int32[P, L], P channels (BERT: position, token type; GLM: position 1, position 2;
    GPT: position). target_index: int32[M], columns at which targets are predicted; target_ids: int32[M], the targets.
    labels: targets of the whole example by name (e.g. `next_sentence`), predicted at column 0. context: the encoder's
    side, without targets of its own; a column reads all columns of its segment there. span_boundary_targets: int32[4,
    K], targets predicted from outside their span (SpanBERT): the columns before and after the span, the position in it,
    the target; None for other objectives.
    """

    input_ids: Int32
    positions: Int32
    rule: AttentionRule
    target_index: Int32
    target_ids: Int32
    labels: Mapping[str, int] = field(default_factory=dict)
    context: Example | None = None
    span_boundary_targets: Int32 | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


UNLIMITED = 1 << 30
"""The number of positions of a model with relative positions, which have no end."""


@dataclass(frozen=True)
class DecoderInput:
    """The input of one row of decoding, and the positions of its new tokens.

    input_ids: int32[L]. positions: int32[P, L]. rule: over the L columns, one segment. next_position: int32[P],
    position of the first new token; step: int32[P], its increment for each further token. room: number of new tokens
    for which the position tables have room (one more can be predicted, since the last token is never read).
    query_token: id of the token at whose column the next token is predicted; None for families that predict it at the
    column before. source: input of the encoder, for a model that has one.
    """

    input_ids: Int32
    positions: Int32
    rule: AttentionRule
    next_position: Int32
    step: Int32
    room: int
    query_token: int | None = None
    source: Example | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def columns(self) -> int:
        """Number of columns that are read, with those of the source."""
        return len(self) + (0 if self.source is None else len(self.source))


@dataclass(frozen=True)
class TextSpans:
    """Texts that lie one after another in a single row, without padding; each sees only itself.

    lengths: columns of each. causal: whether a column sees only itself and those before it in its text.
    """

    lengths: tuple[int, ...]
    causal: bool = False


@dataclass(frozen=True)
class Batch:
    """Packed rows as tensors. B rows, T columns, P position channels, M targets in the whole batch.

    input_ids: int64[B, T]. positions: int64[P, B, T]. segment, rank, horizon: int32[B, T] (padding has segment -1).
    target_index: int64[M], flat over B·T. target_ids: int64[M]. labels: name → (flat index int64[K], value int64[K]).
    mask: "none" when every query sees every key, "causal" when each row is one left-to-right example (with padding only
    at the end), "rule" when the vectors decide.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    segment: torch.Tensor
    rank: torch.Tensor
    horizon: torch.Tensor
    target_index: torch.Tensor
    target_ids: torch.Tensor
    labels: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    mask: str
    tokens: int
    """Number of columns, of the B·T and of the context's, that are not padding."""
    no_split_before: frozenset[int] = frozenset()
    """Rows that must stay in the same micro-batch as the previous row: they hold windows of one question."""
    span_boundary_targets: torch.Tensor | None = None
    """int64[4, K]: as in `Example`, with flat columns over B·T."""
    group: torch.Tensor | None = None
    """int32[B, T], when any rule of the batch has groups."""
    context: Batch | None = None
    """The encoder's side: the same number of rows, with a width of its own. A column of segment s in row b reads all
    columns of segment s in row b there. `tokens` counts both sides."""
    texts: TextSpans | None = None
    """The same rule as that of the vectors, where the only row is texts one after another: attention that knows this
    computes each text alone. Kernels that do not know it follow the vectors."""

    @classmethod
    def of_rows(
        cls,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        segment: torch.Tensor,
        rank: torch.Tensor | None = None,
        horizon: torch.Tensor | None = None,
        *,
        mask: str = "rule",
    ) -> Batch:
        """Make rows without targets. rank, horizon: 0 where they are None: a column sees all columns of its segment."""
        zeros = segment.new_zeros(segment.shape) if rank is None or horizon is None else segment
        nothing = input_ids.new_zeros(0)
        return cls(
            input_ids, positions, segment, zeros if rank is None else rank, zeros if horizon is None else horizon,
            nothing, nothing, {}, mask, input_ids.numel(),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device, or itself where it is there already."""
        if str(self.input_ids.device) == str(device):
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            move(self.input_ids), move(self.positions), move(self.segment), move(self.rank), move(self.horizon),
            move(self.target_index), move(self.target_ids),
            {name: (move(index), move(value)) for name, (index, value) in self.labels.items()},
            self.mask, self.tokens, self.no_split_before,
            None if self.span_boundary_targets is None else move(self.span_boundary_targets),
            None if self.group is None else move(self.group), None if self.context is None else self.context.to(device),
            self.texts,
        )  # fmt: skip

    def part(self, first: int, stop: int) -> Batch:
        """Return rows first … stop − 1 as a batch with unchanged width."""
        width = self.input_ids.shape[1]
        low, high = first * width, stop * width

        def pick(index: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            inside = (index >= low) & (index < high)
            return index[inside] - low, value[inside]

        boundary = self.span_boundary_targets
        if boundary is not None:
            boundary = boundary[:, (boundary[0] >= low) & (boundary[0] < high)] - boundary.new_tensor(
                [[low], [low], [0], [0]]
            )
        at = slice(first, stop)
        labels = {name: pick(*label) for name, label in self.labels.items()}
        context = None if self.context is None else self.context.part(first, stop)
        tokens = int((self.segment[at] != PADDING).sum()) + (0 if context is None else context.tokens)
        return Batch(
            self.input_ids[at], self.positions[:, at], self.segment[at], self.rank[at], self.horizon[at],
            *pick(self.target_index, self.target_ids), labels, self.mask, tokens,
            frozenset(row - first for row in self.no_split_before if first <= row < stop), boundary,
            None if self.group is None else self.group[at], context,
        )  # fmt: skip
