"""What an objective is: two pure steps from a Document to an Example, and how it wants its Documents cut.

*Choosing* draws from the generator that is passed in (which tokens, which spans, in which order); *building* is pure
(tokens + choice → Example), so that a worked case can be checked with the choice given. An objective is a frozen
dataclass of its own options, imports numpy only, and knows nothing of corpora, rows or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from blankfill.objectives.format import Format, MaskFormat, join
from blankfill.system.bounds import Bound, at_least, out_of_bounds
from blankfill.types import Bool, Document, Example, Int32, Vocabulary

LONGEST = 2**20
"""The most tokens of a row."""


@dataclass(frozen=True)
class PackingSpec:
    """How an objective wants the corpus cut into Documents and packed into rows; `data.plans` reads it.

    Lengths count *stream tokens*: the tokens of a document plus `before` and `after` special tokens that the objective
    writes at its beginning and end (`Document.first` and `.last` say where).

    unit: "chunks" (each document cut alone, chunks then packed into rows), "stream" (documents end to end, cut wherever
    a row is full), "pairs" (BERT's two runs of sentences). max_tokens: the most stream tokens of one Example.
    chunk_overhead: tokens of a row besides the stream tokens, for each chunk; row_overhead: the same, once for each
    row. overlap: stream tokens that a chunk shares with the chunk before it. whole_sentences: chunks end where
    sentences end. merge_chunks: the chunks of a row make one Document (with `parts`), instead of one Example each.
    short: the share of documents that are cut to shorter chunks, of a length drawn uniformly from [short_min,
    max_tokens]. min_tokens: shorter chunks are left out. random_next: for pairs, the share whose second part is taken
    from elsewhere. single_sentence: what follows a sentence that has no other to be paired with: a "random" part, or
    "none". max_part_sentences: for pairs, the most sentences of a part; 0 is as many as fit.
    """

    unit: Literal["chunks", "stream", "pairs"]
    max_tokens: int
    chunk_overhead: int = 0
    row_overhead: int = 0
    before: int = 0
    after: int = 0
    overlap: int = 0
    whole_sentences: bool = False
    merge_chunks: bool = False
    short: float = 0.0
    short_min: int = 2
    min_tokens: int = 1
    random_next: float = 0.5
    single_sentence: Literal["random", "none"] = "random"
    max_part_sentences: int = 0

    @property
    def row_tokens(self) -> int:
        """Maximum length of a row before blanking, in tokens."""
        return self.max_tokens + self.chunk_overhead + self.row_overhead


Use = Literal["fill", "generate", "target", "cloze"]
"""What a trained model is used for: filling blanks, continuing texts, writing the targets of sources, scoring words in
the blanks of patterns."""


class ShownColumn(NamedTuple):
    """A further column of a picture: a number or a token for each column of an Example."""

    name: str
    values: Int32
    """int32[L]; -1 where there is none."""
    tokens: bool
    """Whether values are token ids."""
    note: str = ""
    """What the column is, in a sentence."""


ANY = -1
"""In `Objective.label_meanings`: all values that are not named."""


class FrameRoles(NamedTuple):
    """The roles of the special tokens before a text, between the two texts of a pair, and behind the last text."""

    before: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objective:
    """Base of all objectives. `length` counts tokens of the row before blanking, special tokens included."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    """The special tokens without which the objective cannot run."""
    explanation: ClassVar[str] = ""
    """What is hidden and how it is predicted, in one sentence for a reader."""
    channels: ClassVar[tuple[str, ...]] = ("pos",)
    """Names of the position channels, for pictures."""
    label_meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {}
    """For each whole-example label that it gives, what each value means, for pictures."""
    masked: ClassVar[bool] = False
    """Whether each blank is one [MASK] that is predicted at its own column, with attention in both directions."""

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
    """Whether targets are predicted at pseudo masks beside them (UniLM v2), to which the noise options apply."""

    types_like: ClassVar[tuple[int, ...]] = ()
    """For each token type, the type whose embedding it starts with in a run that begins from a model with fewer
    types."""

    fill_option: ClassVar[str] = ""
    """Name of the option that decides whether models can fill blanks (`fills`); "" where the objective decides."""

    causal: ClassVar[bool] = False
    """Whether no column of a model's input sees a column to its right."""

    relative_positions: ClassVar[bool] = False
    """Whether positions enter a model only as distances, so that its rows may be longer than those of training."""

    slides: ClassVar[bool] = False
    """Whether generation can continue past the last position by dropping the oldest tokens."""

    segments_words: ClassVar[bool] = True
    """Whether words that the tokenizer alone does not delimit (Chinese) are found by the counts of their tokens, where
    the objective needs words."""

    own_rows: ClassVar[bool] = False
    """Whether rows differ from those of other masked objectives, so that models trained by these cannot read them."""

    cls_state: ClassVar[bool] = True
    """Whether the state of a [CLS] or <s> that sees the whole text represents the text."""

    cloze: ClassVar[Literal["masks", "writing", "none"]] = "none"
    """How the words of a cloze are scored: at masks in the text, as written into a blank, or not at all."""

    doubles_separator: ClassVar[bool] = False
    """Whether a pair has two separators between its texts where the separator also ends texts (RoBERTa)."""

    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "none"
    """What an exported tokenizer puts around a text: nothing, [CLS] and [SEP]s, both at the end, the end token,
    or ChatGLM's [gMASK] and <sop>."""

    hf_auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    """The class of transformers that loads an export whose architecture it has no class for by name."""

    chat_template: ClassVar[str] = "plain"
    """The built-in template of conversations (`chatting.templates`) for models that have none of their own."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"length": at_least(8, LONGEST)}

    length: int = 128
    """Length of a row before blanking, in tokens, special tokens included; usually 128 to 512."""

    @property
    def two_sided(self) -> bool:
        """Whether its Examples have an encoder's side."""
        return bool(self.decoder_start)

    @property
    def position_offset(self) -> int:
        """Number of the first position."""
        return 0

    @property
    def fills(self) -> bool:
        """Whether models of this objective can fill blanks: training has shown them blanks and what stood there."""
        return False

    @property
    def writes(self) -> bool:
        """Whether models of this objective can continue a text."""
        return False

    @property
    def writes_targets(self) -> bool:
        """Whether fine-tuning can teach models of this objective to write a target from a source."""
        return self.writes or self.two_sided

    @property
    def writes_into_blanks(self) -> bool:
        """Whether generation writes into the blank of a prompt; False where it writes behind the prompt."""
        return False

    def required_roles(self, use: Use) -> tuple[str, ...]:
        """Return the special tokens without which a model cannot be used so."""
        return ("mask",) if use == "cloze" else self.roles

    def required_sentinels(self, use: Use) -> int:
        """Number of sentinels without which a model cannot be used so."""
        return 0

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return the format in which models of this objective read text.

        position_sizes: rows of the model's position tables; empty: those of the objective.
        """
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option; empty when all are possible."""
        return out_of_bounds(self, "objective")

    def packing(self) -> PackingSpec:
        """Return how Documents of this objective are cut and packed."""
        raise NotImplementedError

    def position_sizes(self) -> tuple[int, ...]:
        """Return the number of positions of each position channel."""
        raise NotImplementedError

    def labels(self) -> tuple[str, ...]:
        """Return the whole-example answers that its Examples carry."""
        return ()

    def needs_words(self) -> bool:
        """Return whether Documents must tell where words begin."""
        return False

    def reads_words(self) -> bool:
        """Return whether Documents tell where words begin, at least as far as the tokenizer knows."""
        return self.needs_words()

    def needs_units(self) -> tuple[str, ...]:
        """Return the larger units that Documents must mark: "phrase", "entity", both or neither."""
        return ()

    def unit_files(self) -> tuple[str, str]:
        """Return the user's files of phrases and of entities; "" for none."""
        return "", ""

    def numbered_as(self, earlier: Objective) -> Objective:
        """Return the same objective with positions numbered as a model of another objective has learnt them."""
        return self

    def sentinels(self) -> int:
        """Return the number of sentinels (T5's numbered blanks) that the tokenizer must have."""
        return 0

    def max_span_positions(self) -> int:
        """Number of places of a span that `Example.span_boundary_targets` can name; 0 where it has none."""
        return 0

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """What the mean of a loss counts in the sum that is trained, by its name; 1 where it is not named."""
        return {}

    def model_fields(self, hidden_size: int) -> Mapping[str, Any]:
        """Fields of `TransformerConfig` that models of this objective have whatever their family, such as the names of
        further heads. hidden_size: width of the model."""
        return {}

    def shown_columns(self, example: Example, unigram: NDArray[np.int64]) -> tuple[ShownColumn, ...]:
        """Further columns for a picture of an Example. unigram: int64[V], how often each token occurs."""
        return ()

    def frame_roles(self) -> FrameRoles:
        """Return the roles of the special tokens around texts, as the rows of training have them."""
        return FrameRoles(("cls",), ("sep",), ("sep",))

    def row_positions(self, length: int, second: int | None = None) -> Int32:
        """Return the positions of a row of which nothing is blanked, int32[P, length].

        second: the column with which the second text of a pair begins; None for a single text.
        """
        positions = np.zeros((len(self.position_sizes()), length), np.int32)
        positions[0] = np.arange(self.position_offset, self.position_offset + length)
        return positions

    def framed(self, first: Int32, vocabulary: Vocabulary, second: Int32 | None = None) -> Int32:
        """Return a text or a pair with its special tokens, int32[L]."""
        before, between, after = ([vocabulary[role] for role in roles] for roles in self.frame_roles())
        return join(before, first, after) if second is None else join(before, first, between, second, after)

    def for_validation(self) -> Objective:
        """Return the objective of validation rows; the same unless options say otherwise."""
        return self

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
    """Return a sentence for every share that is not between 0 and 1."""
    return [f"objective.{k} is {v}; it must be between 0 and 1" for k, v in shares.items() if not 0.0 <= v <= 1.0]


@dataclass(frozen=True)
class Masking(Objective):
    """Base of the objectives that hide tokens where they stand: behind [MASK], a random token or the token itself."""

    roles: ClassVar[tuple[str, ...]] = ("pad", "cls", "sep", "mask")
    masked: ClassVar[bool] = True

    mask_ratio: float = 0.15
    """Share of the row's tokens, [CLS] and [SEP] counted, that are targets; usually 0.15."""
    mask_share: float = 0.8
    """Share of the targets replaced by [MASK]; usually 0.8."""
    random_share: float = 0.1
    """Share of the targets replaced by a random ordinary token; the rest stays unchanged. Usually 0.1."""
    validation_mask_ratio: float = field(default=0.0, kw_only=True)
    """Share of targets in validation rows (ModernBERT: 0.15); 0: mask_ratio, as in training."""

    def for_validation(self) -> Objective:
        """Return the same objective with the ratio of validation rows."""
        ratio = self.validation_mask_ratio or self.mask_ratio
        return replace(self, mask_ratio=ratio, validation_mask_ratio=0.0)

    cloze: ClassVar[Literal["masks", "writing", "none"]] = "masks"
    hf_frame: ClassVar[Literal["none", "pair", "last", "end", "blank"]] = "pair"

    @property
    def fills(self) -> bool:
        """Blanks are masks."""
        return True

    def format(self, vocabulary: Vocabulary, position_sizes: Sequence[int] = ()) -> Format:
        """Return each hidden token is a [MASK]."""
        return MaskFormat(self, vocabulary, position_sizes)

    def row_positions(self, length: int, second: int | None = None) -> Int32:
        """Places, and the token types of a row, where the objective has any: 1 from the second text on."""
        positions = super().row_positions(length)
        if second is not None:
            positions[1:2, second:] = 1
        return positions

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        problems = super().problems()
        problems += share_problems(
            mask_ratio=self.mask_ratio, validation_mask_ratio=self.validation_mask_ratio, mask_share=self.mask_share,
            random_share=self.random_share,
        )  # fmt: skip
        if self.mask_share + self.random_share > 1.0 + 1e-9:
            problems.append("objective.mask_share and objective.random_share add up to more than 1")
        return problems


@dataclass(frozen=True)
class Masked:
    """A choice of masked tokens: `index` int32[M], ascending, and their replacements, `inputs` int32[M]."""

    index: Int32
    inputs: Int32


def inside_frame(row: Int32, vocabulary: Vocabulary) -> Bool:
    """Return which tokens of a row are neither [CLS] nor [SEP], bool[L]."""
    inside: Bool = (row != vocabulary["cls"]) & (row != vocabulary["sep"])
    return inside


@lru_cache(maxsize=8)
def special_table(special: frozenset[int], size: int) -> Bool:
    """Return which ids are special, bool[size]; cached, since every row needs it."""
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
    """Draw BERT's 80/10/10 replacement of each chosen token ([MASK], a random token, or itself).

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
