"""The balance of a vocabulary between the scripts of its text, such as Latin and Han: how much of the text is in each,
how much of the vocabulary is for it, and how many letters a token has there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blankfill.corpus.scripts import script_of

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

LEAST = 0.005
"""Share of the letters from which a script is listed."""
MEASURED = 1_000_000
"""Characters of text that are encoded to measure it."""


def balance(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, Any]:
    """Return the balance between scripts, measured on sentences from all parts of a text.

    Returns:
        scripts: by name, the most frequent first: `letters`, its share of the letters of the text; `pieces`, its share
        of the pieces that are letters; `letters_per_token`. `bytes`: share of the tokens that are single bytes, which
        spell the characters without a piece.
    """
    texts = tokenizer.texts()
    where = [next(filter(None, map(script_of, text)), "") for text in texts]
    lengths = [sum(character.isalpha() for character in text) for text in texts]
    pieces = Counter(script for script in where if script)
    letters: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    bytes_ = total = 0
    for batch in _batches(sentences):
        ids, _ = tokenizer.encode_plain(batch)
        for id, count in Counter(ids.tolist()).items():
            total += count
            bytes_ += count * tokenizer.token(id).startswith("<0x")
            if script := where[id]:
                letters[script] += count * lengths[id]
                tokens[script] += count
    all_letters, all_pieces = max(1, letters.total()), max(1, pieces.total())
    return {
        "scripts": {
            name: {
                "letters": round(count / all_letters, 4),
                "pieces": round(pieces[name] / all_pieces, 4),
                "letters_per_token": round(count / tokens[name], 3),
            }
            for name, count in letters.most_common() if count >= LEAST * all_letters
        },
        "bytes": round(bytes_ / max(1, total), 6),
    }  # fmt: skip


def in_words(measured: dict[str, Any]) -> list[str]:
    """Return what `balance` found, a clause for each script and one for the bytes."""
    clauses = [
        f"{name} {of['letters']:.1%} of the letters, {of['pieces']:.1%} of the pieces, "
        f"{of['letters_per_token']:.2f} letters a token"
        for name, of in measured["scripts"].items()
    ]
    return [*clauses, f"{measured['bytes']:.2%} of the tokens are single bytes"]


def _batches(sentences: Sequence[str]) -> Iterator[list[str]]:
    chosen = sentences[:: max(1, sum(map(len, sentences)) // MEASURED)]
    for start in range(0, len(chosen), 1000):
        yield list(chosen[start : start + 1000])
