"""Tagged words as rows of tokens: a tag is predicted at the first piece of each word (arXiv 1810.04805, section 5.3).

A sentence may be read with the sentences of its document around it, as far as the row has room; a sentence that is
longer than a row is cut between words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.tasks.items import TaggedItem

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class TagWindow:
    """A row of words.

    item: the sentence's place in its split. ids: of the row, context included. word[M]: the places in the sentence of
    the words that are predicted here. first[M]: the column of ids where each has its first piece.
    """

    item: int
    ids: Int32
    word: Int32
    first: Int32


def word_pieces(words: Sequence[str], tokenizer: Tokenizer, by_characters: bool = False) -> list[Int32]:
    """Return the ids of each word. Words follow a space, except for the first word and words that are characters; a
    word of characters that the tokenizer drops has no ids."""
    texts = [word if by_characters or not place else f" {word}" for place, word in enumerate(words)]
    ids, lengths = tokenizer.encode_plain(texts)
    return np.split(ids, np.cumsum(lengths)[:-1]) if texts else []


def tag_windows(
    items: Sequence[TaggedItem], tokenizer: Tokenizer, room: int, by_characters: bool = False, context: bool = False
) -> Iterator[TagWindow]:
    """Yield the rows of all sentences, in order. Words without ids are not predicted.

    room: columns of a row, without those that the caller adds (such as [CLS]). context: whether the neighbouring
    sentences of the document fill the room, equally on both sides. Raises UserError for a word that has no room.
    """
    if room < 1:
        raise UserError(f"Rows of {room} tokens have no room for words: make them longer.")
    pieces = [word_pieces(item.words, tokenizer, by_characters) for item in items] if context else None
    for number, item in enumerate(items):
        own = pieces[number] if pieces else word_pieces(item.words, tokenizer, by_characters)
        for start, end in _cuts(item, own, room):
            ids = _joined(own[start:end])
            before = np.zeros(0, np.int32)
            behind = before
            if pieces and item.document is not None:
                before, behind = _around(items, pieces, number, start, end, room - len(ids))
            lengths = np.array([len(word) for word in own[start:end]], np.int64)
            first = len(before) + np.cumsum(lengths) - lengths
            nonempty = np.flatnonzero(lengths)
            yield TagWindow(
                number,
                np.concatenate([before, ids, behind]).astype(np.int32),
                (start + nonempty).astype(np.int32),
                first[nonempty].astype(np.int32),
            )


def _cuts(item: TaggedItem, pieces: Sequence[Int32], room: int) -> Iterator[tuple[int, int]]:
    """Return ranges of words that fit into a row each."""
    start, held = 0, 0
    for place, word in enumerate(pieces):
        if len(word) > room:
            raise UserError(
                f"The word {item.words[place][:40]!r} of sentence {item.id} has {len(word)} tokens, and a row has "
                f"room for {room}: make the rows longer, or shorten the word."
            )
        if held + len(word) > room:
            yield start, place
            start, held = place, 0
        held += len(word)
    if start < len(pieces):
        yield start, len(pieces)


def _around(
    items: Sequence[TaggedItem], pieces: Sequence[list[Int32]], number: int, start: int, end: int, free: int
) -> tuple[Int32, Int32]:
    """Return the tokens of the same document before and after the words start…end of a sentence, at most `free`: half
    on each side, more on one side if the other has less."""
    document, before, behind = items[number].document, pieces[number][:start], pieces[number][end:]
    first, last = number, number
    while first > 0 and items[first - 1].document == document and _count(before) < free:
        first -= 1
        before = [*pieces[first], *before]
    while last + 1 < len(items) and items[last + 1].document == document and _count(behind) < free:
        last += 1
        behind = [*behind, *pieces[last]]
    left, right = _joined(before), _joined(behind)
    here = max(free // 2, free - len(right))
    left = left[max(len(left) - here, 0) :]
    return left, right[: free - len(left)]


def _count(pieces: Sequence[Int32]) -> int:
    return sum(map(len, pieces))


def _joined(pieces: Sequence[Int32]) -> Int32:
    return np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, np.int32)


def word_tags(
    items: Sequence[TaggedItem], windows: Sequence[TagWindow], tags: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """Return the tag of every word from the tags predicted in windows (one for each of a window's words); words without
    a prediction are O."""
    rows = [["O"] * len(item.words) for item in items]
    for window, predicted in zip(windows, tags, strict=True):
        for place, tag in zip(window.word.tolist(), predicted, strict=True):
            rows[window.item][place] = tag
    return [tuple(row) for row in rows]
