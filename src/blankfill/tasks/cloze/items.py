"""Encoding filled-in patterns, and the tokens whose scores make the score of a label.

Three ways, by family and verbalizers:

* at one column, where every label's words are one token each: BERT and RoBERTa at the mask, GLM at the [S] behind the
  text, GPT at the last token before the blank. The raw scores of the words are compared (PET).
* in masks: BERT and RoBERTa learn with as many masks as the longest word has tokens, a word being scored at the first
  of them in one pass. At inference each word has a row and masks of its own, which are filled one after the other, the
  most certain first (PET with several masks, Schick and Schütze, arXiv 2009.07118, section 3.1; `cloze.model`).
* generated: GLM has each word and its end token in the blank, GPT has it after the text; each is an Example of its own
  (teacher forcing), scored by the log-probability of all its tokens (Du et al., arXiv 2103.10360, section 2.3).

GPT cannot see text to the right of the blank, which is left out for it. GLM and GPT have no segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.cloze.pattern import Piece
from blankfill.tasks.cloze.targets import ClozeTargets
from blankfill.tasks.input_format import InputFormat
from blankfill.types import Example, Int32, Vocabulary

NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class ClozeItem:
    """An item put into its pattern. pieces: the pattern with the item's texts. words: the words of each label. right:
    the number of the right label."""

    pieces: Sequence[Piece]
    words: Sequence[Sequence[str]]
    right: int | float | tuple[int, ...] | None


class Tokens:
    """The ids of pieces of text, without special tokens; each text is encoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Int32] = {}

    def learn(self, texts: Iterable[str]) -> None:
        """Encode the new texts in one call."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        ids, lengths = self._tokenizer.encode_plain(new)
        self._known.update(zip(new, np.split(ids, np.cumsum(lengths)[:-1]) if new else [], strict=True))

    def __getitem__(self, text: str) -> Int32:
        """Return the ids of a text, int32[N]."""
        if text not in self._known:
            self.learn([text])
        return self._known[text]


class ClozeReader:
    """Encodes cloze items for a model. single: whether words are one token each, scored at one column."""

    def __init__(self, tokenizer: Tokenizer, input_format: InputFormat, vocabulary: Vocabulary, single: bool) -> None:
        self.tokens, self.input_format, self.roles, self.single = (
            Tokens(tokenizer),
            input_format,
            vocabulary.roles,
            single,
        )
        self.writes = input_format.objective.cloze == "writing"
        self.cut = 0
        """Number of items that were truncated."""

    def read(self, items: Sequence[ClozeItem], in_turn: bool = False) -> list[EncodedItem]:
        """Encode items. in_turn: whether each word gets a row of its own, where words are in masks.

        Raises UserError for a word without tokens, or a pattern without room.
        """
        if self.writes:
            items = [replace(item, pieces=unbroken(item.pieces)) for item in items]
        self.tokens.learn(piece.text for item in items for piece in item.pieces if piece.text.strip())
        self.tokens.learn(_space(item.pieces) + word for item in items for words in item.words for word in words)
        encoded = []
        for item in items:
            before = self.cut
            encoded.append(self._read(item, in_turn))
            self.cut = min(self.cut, before + 1)  # a text is cut once for every generated word
        return encoded

    def word(self, text: str, known: bool = True) -> Int32:
        """Return a word's tokens; UserError when the tokenizer has none for it, or only the unknown one in a `known`
        word."""
        ids = self.tokens[text]
        if not len(ids) or (known and self.roles.get("unk", -1) in ids):
            raise UserError(f"the model's tokenizer has no token for {text.strip()!r}; give another word for the blank")
        return ids

    def _read(self, item: ClozeItem, in_turn: bool) -> EncodedItem:
        space = _space(item.pieces)
        words = [[self.word(space + word, known=False) for word in ones] for ones in item.words]
        longest = max(len(word) for ones in words for word in ones)
        if not self.writes:
            return self._in_turn(item, words) if in_turn else self._masked(item, words, longest)
        each = [(label, ones, word) for label, ones in enumerate(words) for word in ones]
        if self.single:
            targets = [_targets(label, ones, word[:1], item) for label, ones, word in each]
            example, column = self._written(item, each[0][2][:1], 0)
            return _encoded([example], [np.full(len(targets), column, np.int32)], targets)
        examples, columns, targets = [], [], []
        for label, ones, word in each:
            scored = np.concatenate([word, self.input_format.format.word_end])
            example, column = self._written(item, scored, longest)
            examples.append(example)
            columns.append(np.arange(column, column + len(scored), dtype=np.int32))
            targets.append(_targets(label, ones, scored, item))
        return _encoded(examples, columns, targets)

    def _masked(self, item: ClozeItem, words: Sequence[Sequence[Int32]], masks: int) -> EncodedItem:
        """Encode for BERT and RoBERTa: `masks` masks in the blank, every word scored at the first of them."""
        example, column = self._with_masks(item, masks)
        each = [(label, ones, word) for label, ones in enumerate(words) for word in ones]
        columns = [np.arange(column, column + len(word), dtype=np.int32) for _, _, word in each]
        targets = [_targets(label, ones, word, item) for label, ones, word in each]
        return _encoded([example], [np.concatenate(columns)], targets)

    def _in_turn(self, item: ClozeItem, words: Sequence[Sequence[Int32]]) -> EncodedItem:
        """Encode for BERT and RoBERTa: a row for each word, with as many masks as it has tokens."""
        examples, columns, targets = [], [], []
        for label, ones in enumerate(words):
            for word in ones:
                example, column = self._with_masks(item, len(word))
                examples.append(example)
                columns.append(np.arange(column, column + len(word), dtype=np.int32))
                targets.append(_targets(label, ones, word, item, in_turn=True))
        return _encoded(examples, columns, targets)

    def _with_masks(self, item: ClozeItem, masks: int) -> tuple[Example, int]:
        """Return the text with this number of masks in the blank, and the column of the first of them."""
        pair = any(piece.kind == "break" for piece in item.pieces)
        blank = np.full(masks, self.roles["mask"], np.int32)
        first, second, place = self._texts(item.pieces, blank, self.input_format.room(pair))
        framed = self.input_format.frame(first, second if pair else None)
        inside = place - len(first)
        return framed.example, framed.first[0] + place if inside < 0 or not pair else framed.second[0] + inside

    def _written(self, item: ClozeItem, tokens: Int32, longest: int) -> tuple[Example, int]:
        """Return the pattern with a word written into its blank, and the column at which the first token of it is
        scored."""
        format = self.input_format.format
        pieces, left = list(item.pieces), format.sees == "left"
        if left:
            pieces = pieces[: [piece.kind for piece in pieces].index("mask")]
        blank = np.zeros(1, np.int32)  # the mask, which the format puts in
        ids, _, place = self._texts(pieces, blank, self.input_format.length - format.cloze_columns(longest))
        if left and not len(ids):
            raise UserError("a model that reads from left to right needs text before the blank; give another pattern")
        before, after = (ids, NOTHING) if left else (ids[:place], ids[place + 1 :])
        row = format.cloze_row(before, tokens, after)
        return replace(row, target_index=NOTHING, target_ids=NOTHING), int(row.target_index[0])

    def _texts(self, pieces: Sequence[Piece], blank: Int32, room: int) -> tuple[Int32, Int32, int]:
        """Return the tokens before and after the break, cut to the room, and where the blank begins in both
        together."""
        ids = [blank if piece.kind == "mask" else self.tokens[piece.text] for piece in pieces if piece.kind != "break"]
        kinds = [piece.kind for piece in pieces if piece.kind != "break"]
        fixed = sum(len(part) for part, kind in zip(ids, kinds, strict=True) if kind != "field")
        lengths = [len(part) for part, kind in zip(ids, kinds, strict=True) if kind == "field"]
        if fixed > room:
            raise UserError(
                f"a pattern and its words take {fixed} tokens where {room} fit; give a shorter pattern or a larger "
                f"{setting('max_length')}"
            )
        most = longest_kept(lengths, room - fixed)
        self.cut += most < max(lengths, default=0)
        parts = [part[:most] if kind == "field" else part for part, kind in zip(ids, kinds, strict=True)]
        parted = [piece.kind for piece in pieces].index("break") if len(kinds) < len(pieces) else len(kinds)
        place = sum(map(len, parts[: kinds.index("mask")])) if "mask" in kinds else 0
        return _joined(parts[:parted]), _joined(parts[parted:]), place


def unbroken(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces as one segment, a space in place of the break."""
    place = next((k for k, piece in enumerate(pieces) if piece.kind == "break"), None)
    if place is None or place + 1 == len(pieces):
        return [piece for piece in pieces if piece.kind != "break"]
    behind = pieces[place + 1]
    return [*pieces[:place], replace(behind, text=f" {behind.text}"), *pieces[place + 2 :]]


def longest_kept(lengths: Sequence[int], room: int) -> int:
    """Return the number of tokens to which each text is cut so that all fit: the longest lose tokens first."""
    if sum(lengths) <= room:
        return max(lengths, default=0)
    left, texts = room, sorted(lengths)
    for k, length in enumerate(texts):
        share = left // (len(texts) - k)
        if length > share:
            return share
        left -= length
    raise AssertionError("texts that do not fit have one that is longer than its share")


def _joined(parts: Sequence[Int32]) -> Int32:
    return np.concatenate([NOTHING, *parts]).astype(np.int32)


def _space(pieces: Sequence[Piece]) -> str:
    """Return the space before the blank."""
    return next(piece.text for piece in pieces if piece.kind == "mask")


def _targets(
    label: int, words: Sequence[Int32], tokens: Int32, item: ClozeItem, in_turn: bool = False
) -> ClozeTargets[NDArray[np.int64]]:
    """Return the targets of one word of a label."""
    return ClozeTargets.of_tokens(tokens, label, len(words), label == item.right, in_turn)


def _encoded(
    examples: Sequence[Example], columns: Sequence[Int32], targets: Sequence[ClozeTargets[NDArray[np.int64]]]
) -> EncodedItem:
    answers = np.concatenate([target.table() for target in targets])
    return EncodedItem(tuple(examples), tuple(columns), answers, candidates=True)
