"""What an objective is: two pure steps from a Document to an Example, and how it wants its Documents cut.

*Choosing* draws from the generator that is passed in (which tokens, which spans, in which order); *building* is pure
(tokens + choice → Example), so that a worked case can be checked with the choice given. An objective is a frozen
dataclass of its own options, imports numpy only, and knows nothing of corpora, rows or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blankfill.system.bounds import Bound, at_least, out_of_bounds
from blankfill.types import AttentionRule, Bool, Document, Example, Int32, Vocabulary

LONGEST = 2**20
"""The most tokens of a row."""


@dataclass(frozen=True)
class Layout:
    """How an objective wants the corpus cut into Documents; `data.plans` reads it.

    Lengths count *stream tokens*: the tokens of a document plus `before` and `after` special tokens that the objective
    writes at its beginning and end (told by `Document.first` and `.last`).

    unit: "pieces" (each document cut alone, pieces then packed into rows), "stream" (documents end to end, cut wherever
    a row is full), "pairs" (BERT's two runs of sentences). room: the most stream tokens that one Example holds.
    extra: how many tokens longer than that its row is, for each piece. frame: the same, once for each row. overlap:
    stream tokens that a piece shares with the piece before it. whole_sentences: pieces end where sentences end.
    joined: the pieces that share a row make one Document (with `parts`), instead of one Example each. short: the share
    of documents that are cut to a shorter room, drawn uniformly from [short_min, room]. minimum: shorter pieces are
    left out. random_next: for pairs, the share whose second part is taken from elsewhere. sole: what is put behind a
    sentence that has no other to be paired with: a "random" part, or "none". part_sentences: for pairs, the most
    sentences of a part; 0 is as many as fit.
    """

    unit: Literal["pieces", "stream", "pairs"]
    room: int
    extra: int = 0
    frame: int = 0
    before: int = 0
    after: int = 0
    overlap: int = 0
    whole_sentences: bool = False
    joined: bool = False
    short: float = 0.0
    short_min: int = 2
    minimum: int = 1
    random_next: float = 0.5
    sole: Literal["random", "none"] = "random"
    part_sentences: int = 0

    @property
    def row(self) -> int:
        """The longest clean row, in tokens."""
        return self.room + self.extra + self.frame


@dataclass(frozen=True)
class Objective:
    """Base of all objectives. `length` counts tokens of the clean row, specials included."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    """The special tokens without which the objective cannot run."""
    channels: ClassVar[tuple[str, ...]] = ("pos",)
    """Names of the position channels, for pictures."""
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {}
    """For each whole-example label that it gives, what each value means, for pictures."""
    masked: ClassVar[bool] = False
    """Whether each blank is one [MASK] that is answered where it stands, and everything sees everything."""

    decoder_start: ClassVar[str] = ""
    """The role of the token that the decoder reads first, where Examples have an encoder's side (`Example.context`),
    which only a model with an encoder reads; "" where they have none."""

    reads_blanks: ClassVar[bool] = True
    """Whether a model reads the token of a blank that it fills; False where it reads only the text before the blank."""

    blank_is_sentinel: ClassVar[bool] = False
    """Whether the token of a blank is the first sentinel, also where the tokenizer has a mask."""

    refuses_prompt_blanks: ClassVar[bool] = False
    """Whether generation refuses a prompt with a blank: the model would read the blank and write behind it."""

    has_pseudo_masks: ClassVar[bool] = False
    """Whether a target is asked at pseudo masks beside it (UniLM v2), to which its noise options apply."""

    types_like: ClassVar[tuple[int, ...]] = ()
    """For each token type, the one of a model with fewer types that it begins as when a run begins from one."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"length": at_least(8, LONGEST)}

    length: int = 128
    """Tokens of a clean row, special ones included."""

    @property
    def two_sided(self) -> bool:
        """Whether its Examples have an encoder's side."""
        return bool(self.decoder_start)

    def problems(self) -> list[str]:
        """What is wrong with these options, a sentence each; empty when all is well."""
        return out_of_bounds(self, "objective")

    def layout(self) -> Layout:
        """How this objective wants its Documents."""
        raise NotImplementedError

    def position_sizes(self) -> tuple[int, ...]:
        """For each position channel, how many positions its Examples can name."""
        raise NotImplementedError

    def labels(self) -> tuple[str, ...]:
        """The whole-example answers that its Examples carry."""
        return ()

    def needs_words(self) -> bool:
        """Whether Documents must tell where words begin."""
        return False

    def reads_words(self) -> bool:
        """Whether Documents tell where words begin, at least as far as the tokenizer knows."""
        return self.needs_words()

    def needs_units(self) -> tuple[str, ...]:
        """Which larger units Documents must tell of: "phrase", "entity", both or neither."""
        return ()

    def sentinels(self) -> int:
        """How many sentinels (T5's numbered blanks) the tokenizer must have."""
        return 0

    def span_places(self) -> int:
        """How many places of a span `Example.borders` can name; 0 when it asks nothing from borders."""
        return 0

    def frame_roles(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The roles of the special tokens before and behind a single text, as the rows of training have them."""
        return ("cls",), ("sep",)

    def row_positions(self, length: int) -> Int32:
        """The positions of a row that holds a single text of which nothing is blanked, int32[P, length]."""
        positions = np.zeros((len(self.position_sizes()), length), np.int32)
        positions[0] = np.arange(length)
        return positions

    def choose(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> Any:
        """Draw what to blank; everything random happens here."""
        raise NotImplementedError

    def build(self, document: Document, vocabulary: Vocabulary, choice: Any) -> Example:
        """Make the Example of a choice; pure."""
        raise NotImplementedError

    def example(self, document: Document, vocabulary: Vocabulary, rng: Generator) -> Example:
        """Choose and build."""
        return self.build(document, vocabulary, self.choose(document, vocabulary, rng))


def share_problems(**shares: float) -> list[str]:
    """A sentence for every share that is not between 0 and 1."""
    return [f"objective.{k} is {v}; it must be between 0 and 1" for k, v in shares.items() if not 0.0 <= v <= 1.0]


@dataclass(frozen=True)
class Masking(Objective):
    """Base of the objectives that hide tokens where they stand: behind [MASK], a random token or the token itself."""

    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "sep", "mask")
    masked: ClassVar[bool] = True

    mask_ratio: float = 0.15
    """Share of the row's tokens, [CLS] and [SEP] counted, that must be answered."""
    mask_share: float = 0.8
    """Of these, the share replaced by [MASK]."""
    random_share: float = 0.1
    """Of these, the share replaced by a random ordinary token; the rest stays as it is."""

    def problems(self) -> list[str]:
        """What is wrong with these options."""
        found = super().problems()
        found += share_problems(mask_ratio=self.mask_ratio, mask_share=self.mask_share, random_share=self.random_share)
        if self.mask_share + self.random_share > 1.0 + 1e-9:
            found.append("objective.mask_share and objective.random_share add up to more than 1")
        return found


@dataclass(frozen=True)
class Masked:
    """A choice of masked tokens: `index` int32[M], ascending, and what stands there instead, `inputs` int32[M]."""

    index: Int32
    inputs: Int32


def join(*parts: Int32 | list[int]) -> Int32:
    """Concatenate runs of ids to one int32 row."""
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def two_sided(source: Int32, target: Int32, start: int, first_position: int = 0) -> Example:
    """The Example of a model with an encoder: it reads `source` both ways and writes `target` from left to right.

    source: int32[N]; target: int32[M], of which every token is asked for. start: the id that the decoder reads first.
    first_position numbers the first column of either side.
    """
    nothing = np.zeros(0, np.int32)
    read = np.arange(first_position, first_position + len(source), dtype=np.int32)[None]
    context = Example(source, read, AttentionRule.full(len(source)), nothing, nothing)
    index = np.arange(len(target), dtype=np.int32)
    rule = AttentionRule.causal(len(target))
    return Example(join([start], target[:-1]), index[None] + first_position, rule, index, target, context=context)


def inside_frame(row: Int32, vocabulary: Vocabulary) -> Bool:
    """bool[L]: which tokens of a row are neither [CLS] nor [SEP]."""
    inside: Bool = (row != vocabulary["cls"]) & (row != vocabulary["sep"])
    return inside


@lru_cache(maxsize=8)
def special_table(special: frozenset[int], size: int) -> Bool:
    """bool[size]: which ids are special; kept, because every row asks."""
    table = np.zeros(size, np.bool_)
    table[[number for number in special if number < size]] = True
    table.flags.writeable = False
    return table


def replacements(
    ids: Int32,
    index: NDArray[np.int64],
    vocabulary: Vocabulary,
    rng: Generator,
    mask_share: float,
    random_share: float,
    ordinary: bool,
) -> Masked:
    """BERT's 80/10/10: what each chosen token becomes ([MASK], a random token, or itself).

    index need not be sorted. Random tokens are uniform over the whole vocabulary (as the original BERT draws them), or
    over the ids that are not special when `ordinary`. Returns the choice sorted by place.
    """
    index = np.sort(index)
    action = rng.random(len(index))
    inputs = ids[index].copy()
    inputs[action < mask_share] = vocabulary["mask"]
    is_random = (action >= mask_share) & (action < mask_share + random_share)
    drawn = rng.integers(0, vocabulary.size, np.count_nonzero(is_random))
    if ordinary and vocabulary.special:
        special = special_table(vocabulary.special, vocabulary.size)
        while (bad := special[drawn]).any():
            drawn[bad] = rng.integers(0, vocabulary.size, np.count_nonzero(bad))
    inputs[is_random] = drawn
    return Masked(index.astype(np.int32), inputs.astype(np.int32))
